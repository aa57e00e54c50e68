//! `cargo xtask test`: every tier, one after the other; the first that fails ends it.

use anyhow::{Context as _, Result};
use clap::Parser;

use crate::process::{cargo, execute};
use crate::{deny, matrix, setup};

/// The tiers that cargo runs, with what they are called in the output.
const CARGO: [(&str, &[&str]); 5] = [
    ("format", &["fmt", "--all", "--check"]),
    ("lints", &["clippy", "--quiet", "--locked", "--workspace", "--all-targets", "--", "--deny", "warnings"]),
    ("tests", &["test", "--quiet", "--locked"]),
    // Tests that need a browser: cargo alone leaves them out.
    ("browser", &["test", "--quiet", "--locked", "--package", "whyrst-tests", "--test", "html", "--", "--ignored"]),
    ("documentation", &["doc", "--quiet", "--locked", "--workspace", "--no-deps", "--document-private-items"]),
];

/// The tiers that need programs that not every machine has; `setup` installs them.
const TOOLS: [(&str, &[&str]); 1] =
    [("tools", &["test", "--quiet", "--locked", "--package", "whyrst-tests", "--test", "pcapng", "--", "--ignored"])];

/// The arguments of `cargo xtask vm` when there are none.
#[derive(Parser)]
struct All {
    #[command(flatten)]
    arguments: matrix::Arguments,
}

pub(crate) fn run() -> Result<()> {
    setup::all()?;
    for (tier, arguments) in CARGO.into_iter().chain(TOOLS) {
        println!("test: {tier}");
        execute(cargo().args(arguments).env("RUSTDOCFLAGS", "--deny warnings"))
            .with_context(|| format!("the tier `{tier}` has failed"))?;
    }
    println!("test: dependencies");
    deny::run().context("the tier `dependencies` has failed")?;
    println!("test: scenarios on every kernel");
    matrix::run(&All::parse_from(["vm"]).arguments).context("the tier `scenarios` has failed")
}
