//! `cargo xtask test`: every tier, one after the other; the first that fails ends it.

use std::thread;

use anyhow::{Context as _, Result};
use clap::Parser;

use crate::process::{cargo, execute};
use crate::{bench, deny, dist, judge, matrix, setup};

/// The name of a tier, and the arguments of cargo.
type Tier = (&'static str, &'static [&'static str]);

/// The tiers that cargo runs.
const CARGO: [Tier; 6] = [
    ("format", &["fmt", "--all", "--check"]),
    // No tier builds the fuzz targets, which have a lock file of their own.
    ("versions", &["fetch", "--quiet", "--locked", "--manifest-path", "fuzz/Cargo.toml"]),
    ("lints", &["clippy", "--quiet", "--locked", "--workspace", "--all-targets", "--", "--deny", "warnings"]),
    ("tests", &["test", "--quiet", "--locked"]),
    // Tests that need a browser: cargo alone leaves them out.
    ("browser", &["test", "--quiet", "--locked", "--package", "whyrst-tests", "--test", "html", "--", "--ignored"]),
    ("documentation", &["doc", "--quiet", "--locked", "--workspace", "--no-deps", "--document-private-items"]),
];

/// The tiers that need programs that not every machine has; `setup` installs them.
const TOOLS: [Tier; 1] =
    [("tools", &["test", "--quiet", "--locked", "--package", "whyrst-tests", "--test", "pcapng", "--", "--ignored"])];

/// The number of tiers in [`CARGO`] that come before any test.
const LINTS: usize = 3;

/// The arguments of `cargo xtask vm` when there are none.
#[derive(Parser)]
struct All {
    #[command(flatten)]
    arguments: matrix::Arguments,
}

pub(crate) fn run() -> Result<()> {
    setup::all()?;
    let (lints, tests) = CARGO.split_at(LINTS);
    // While clippy is busy with one large crate, the other processor is idle: it builds the programs for the guest.
    let built = thread::scope(|scope| {
        let building = scope.spawn(|| dist::payload("vm").map(drop));
        let linted = tiers(lints);
        linted.and(building.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    built?;
    tiers(tests)?;
    tiers(&TOOLS)?;
    println!("test: dependencies");
    deny::run().context("the tier `dependencies` has failed")?;
    println!("test: benches");
    bench::smoke().context("the tier `benches` has failed")?;
    println!("test: judge");
    judge::all().context("the tier `judge` has failed")?;
    println!("test: scenarios on every kernel");
    matrix::run(&All::parse_from(["vm", "--matrix"]).arguments).context("the tier `scenarios` has failed")
}

fn tiers(tiers: &[Tier]) -> Result<()> {
    for (tier, arguments) in tiers {
        println!("test: {tier}");
        execute(cargo().args(*arguments).env("RUSTDOCFLAGS", "--deny warnings"))
            .with_context(|| format!("the tier `{tier}` has failed"))?;
    }
    Ok(())
}
