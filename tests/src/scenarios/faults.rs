//! Faults: what happens to whyrst, to its disk and to the host while it captures. What it does then is in docs/faults.md.

pub(super) mod clock;
pub(super) mod crowded;
pub(super) mod disk;
pub(super) mod ended;
pub(super) mod interfaces;
pub(super) mod killed;
mod leftovers;
pub(super) mod memory;
pub(super) mod modules;
pub(super) mod namespaces;
pub(super) mod rules;
pub(super) mod stopped;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::whyrst::run as whyrst;

/// The report of a recording, or of several, and what was said while it was made.
fn report(from: &str) -> Result<(Value, String)> {
    let (status, stdout, stderr) = whyrst(&["report", "--format", "json", "--from", from])?;
    ensure!(status == Some(0), "report --from {from}: {status:?}: {stderr}");
    Ok((serde_json::from_str(&stdout).context("the report is no JSON")?, stderr))
}

/// How often a hook on this function was passed.
fn hits(report: &Value, target: &str) -> u64 {
    let hooks = report["capture"]["hooks"].as_array().into_iter().flatten();
    hooks.filter(|hook| hook["target"] == target).filter_map(|hook| hook["hits"].as_u64()).sum()
}
