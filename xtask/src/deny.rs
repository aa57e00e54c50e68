//! `cargo xtask deny`: what dependencies are (licences, sources, versions; `deny.toml`), and what is known against them.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::process::{cargo, execute};

/// The version whose configuration `deny.toml` is.
const VERSION: &str = "0.20.2";

/// What cargo-deny says where the list of advisories, which is on a host of its own, is out of reach.
const OUT_OF_REACH: &str = "failed to fetch advisory database";

pub(crate) fn run() -> Result<()> {
    install()?;
    execute(deny().args(["--offline", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"]))
        .context("deny.toml does not allow what is depended on")?;
    let advisories = deny().args(["check", "advisories"]).output().context("running cargo-deny")?;
    let said = String::from_utf8_lossy(&advisories.stderr);
    if advisories.status.success() {
        println!("deny: nothing is known against any dependency");
    } else if said.contains(OUT_OF_REACH) {
        println!("deny: the list of advisories is out of reach from here: dependencies were NOT compared with it");
    } else {
        bail!("there are advisories:\n{said}");
    }
    Ok(())
}

fn deny() -> Command {
    let mut command = cargo();
    command.args(["deny", "--locked", "--log-level", "error"]);
    command
}

fn install() -> Result<()> {
    let present = cargo().args(["deny", "--version"]).output().is_ok_and(|output| output.status.success());
    if present {
        return Ok(());
    }
    println!("deny: building cargo-deny {VERSION}");
    let mut install = cargo();
    // It runs for a second or two: to optimise it would take longer than all else that it is here for.
    install.args(["install", "--quiet", "--locked", "--debug", "cargo-deny", "--version", VERSION]);
    install.env("CARGO_PROFILE_DEV_DEBUG", "false");
    // Outside of this workspace's configuration, as this program's own build must not leak into another one.
    execute(install.current_dir("/").env_remove("CARGO_TARGET_DIR")).context("installing cargo-deny")
}
