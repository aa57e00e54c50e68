//! `cargo xtask dist`: one static binary with nothing beside it; and the static binaries that go into the guest.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::process::{cargo, execute, target};
use crate::setup;
use crate::vm::Payload;

/// The target of the static binaries. Naming it keeps build scripts and macros out of the static linking.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the binary that is given away.
pub(crate) fn run() -> Result<PathBuf> {
    setup::run()?;
    build("dist", &["--package", "tracer", "--bin", "whyrst"])?;
    let built = target().join(TARGET).join("dist/whyrst");
    let to = target().join("dist/whyrst");
    fs::create_dir_all(target().join("dist")).context("creating target/dist")?;
    fs::copy(&built, &to).with_context(|| format!("copying {}", built.display()))?;
    is_static(&to)?;
    println!("dist: {} ({} KiB, static)", to.display(), fs::metadata(&to)?.len() / 1024);
    Ok(to)
}

/// Builds what goes into the guest, by one of the profiles for it: faster to build than the binary that is given away, and
/// otherwise the same.
pub(crate) fn payload(profile: &str) -> Result<Payload> {
    build(profile, &["--package", "tracer", "--bin", "whyrst", "--package", "whyrst-tests", "--bins"])?;
    let binary = |name: &str| target().join(TARGET).join(profile).join(name);
    let payload = Payload {
        whyrst: binary("whyrst"),
        init: binary("init"),
        lab: binary("lab"),
        programs: Vec::new(),
        files: Vec::new(),
    };
    for path in [&payload.whyrst, &payload.init, &payload.lab] {
        is_static(path)?;
    }
    Ok(payload)
}

fn build(profile: &str, packages: &[&str]) -> Result<()> {
    println!("building ({profile}, static)");
    let mut cargo = cargo();
    cargo
        .args(["build", "--quiet", "--locked", "--profile", profile, "--target", TARGET])
        .args(packages)
        .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-C target-feature=+crt-static")
        .env_remove("RUSTFLAGS");
    execute(&mut cargo)
}

/// A program that asks for a loader is not static.
fn is_static(path: &PathBuf) -> Result<()> {
    const INTERPRETER: &[u8] = b"/lib64/ld-linux";
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    // PT_INTERP is near the start of the file, right behind the program headers.
    let start = &bytes[..bytes.len().min(4096)];
    if start.windows(INTERPRETER.len()).any(|window| window == INTERPRETER) {
        bail!("{} is not static", path.display());
    }
    Ok(())
}
