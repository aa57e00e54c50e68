//! `cargo xtask judge`: rulesets are loaded into network namespaces of this machine, and what its kernel does with packets is
//! compared with what walks through the rulesets conclude.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use anyhow::{Result, bail};
use clap::Args;

use crate::process::{cargo, execute, target, workspace};

/// Random rulesets of a run of all tests.
const RANDOM: usize = 1_000;
/// What they begin with there: a run of all tests is the same each time, one by hand has others.
const SEED: u64 = 41;
/// Namespaces of its own, which end with the program: the named ones of this machine are another directory.
const ALONE: &str = "mount -t tmpfs tmpfs /run && exec \"$0\" \"$@\"";

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Only rulesets whose names contain this; `random-N` is one random ruleset
    #[arg(long)]
    only: Option<String>,
    /// Number of random rulesets
    #[arg(long, default_value_t = RANDOM)]
    random: usize,
    /// Seed of the random rulesets
    #[arg(long)]
    seed: Option<u64>,
    /// Print what the kernel did with every packet
    #[arg(long)]
    observe: bool,
}

/// The whole tier.
pub(crate) fn all() -> Result<()> {
    run(&Arguments { only: None, random: RANDOM, seed: Some(SEED), observe: false })
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    const PROGRAM: &str = "whyrst-judge";
    for program in ["ip", "nft", "iptables-legacy-restore", "iptables-nft-restore", "unshare"] {
        if Command::new(program).arg("--version").output().is_err() {
            bail!("{program} is missing: install iproute2, nftables, iptables and util-linux");
        }
    }
    execute(cargo().args(["build", "--quiet", "--locked", "--package", "whyrst-tests", "--bin", PROGRAM]))?;
    let mut judge = Command::new("unshare");
    if fs::metadata("/proc/self")?.uid() != 0 {
        // Who is not root is root there.
        judge.args(["--user", "--map-root-user"]);
    }
    judge.args(["--mount", "--net", "sh", "-c", ALONE]);
    judge.arg(target().join("debug").join(PROGRAM));
    judge.arg("--rulesets").arg(workspace().join("tests/rulesets"));
    judge.args(["--random", &arguments.random.to_string()]);
    if let Some(seed) = arguments.seed {
        judge.args(["--seed", &seed.to_string()]);
    }
    if let Some(only) = &arguments.only {
        judge.args(["--only", only]);
    }
    if arguments.observe {
        judge.arg("--observe");
    }
    execute(&mut judge)
}
