//! `cargo xtask demo`: a late retransmission on a real 5.10 kernel, and whyrst's report of it.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::process::{execute, target};
use crate::{dist, kernels, matrix, setup};

/// The scenario that the demo shows.
const SCENARIO: &str = "late-retransmission";

pub(crate) fn run() -> Result<()> {
    setup::run()?;
    let payload = dist::payload("demo")?;
    let [spec] = kernels::select(&["5.10".to_owned()])?[..] else { bail!("5.10 is not one kernel") };
    let kernel = spec.fetch(false)?;
    let home = target().join("demo");
    let mut failure = None;
    println!();
    let artifacts = matrix::boot(&kernel, &[SCENARIO.to_owned()], &payload, &home.join("vm"), |_, outcome| {
        failure.clone_from(&outcome.failure);
    })?;
    for (from, to) in [("incident.whyrst", "incident.whyrst"), ("report.json", "report.json")] {
        let from = artifacts.join(SCENARIO).join(from);
        fs::copy(&from, home.join(to)).with_context(|| format!("copying {}", from.display()))?;
    }
    fs::remove_dir_all(home.join("vm")).context("removing the demo's machine")?;
    if let Some(failure) = failure {
        bail!("the incident did not happen as it should:\n{failure}");
    }

    let recording = home.join("incident.whyrst");
    println!("\n$ whyrst report --from {}\n", recording.display());
    execute(Command::new(&payload.whyrst).args(["report", "--from"]).arg(&recording))?;
    let page = home.join("report.html");
    execute(
        Command::new(&payload.whyrst)
            .args(["report", "--format", "html", "-o"])
            .arg(&page)
            .arg("--from")
            .arg(&recording),
    )?;
    println!("\nthe recording: {}", recording.display());
    println!("the report with pictures: {}", page.display());
    println!("the report as JSON: {}", home.join("report.json").display());

    let report: Value = serde_json::from_slice(&fs::read(home.join("report.json")).context("reading report.json")?)?;
    if report.pointer("/flows/0/reset_by") != Some(&Value::from("gateway-stack")) {
        bail!("the report does not name the gateway");
    }
    Ok(())
}
