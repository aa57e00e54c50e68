//! Builds the BPF object and hands its path to the compiler, which embeds it.
//!
//! Without a BPF toolchain an empty file is embedded: everything that does not trace still builds and works, and the
//! binary says why it cannot trace.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use bpf_toolchain::{Missing, OVERRIDE, Toolchain};

/// The package that holds the BPF programs.
const PACKAGE: &str = "tracer-ebpf";

fn main() -> Result<(), Box<dyn Error>> {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let workspace = manifest.parent().ok_or("the manifest has no parent directory")?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for path in ["tracer-ebpf/src", "tracer-ebpf/Cargo.toml", "tracer-ebpf/build.rs", "tracer-common/src", "Cargo.toml"]
    {
        println!("cargo::rerun-if-changed={}", workspace.join(path).display());
    }
    println!("cargo::rerun-if-env-changed={OVERRIDE}");
    println!("cargo::rerun-if-env-changed=PATH");

    let (object, absent_because) = match Toolchain::find() {
        Ok(toolchain) => (build(&toolchain, workspace, &out)?, String::new()),
        Err(missing) => (PathBuf::new(), explain(&missing)),
    };
    let embedded = out.join("tracer-ebpf.o");
    if object.as_os_str().is_empty() {
        println!("cargo::warning=no BPF object: {absent_because}");
        fs::write(&embedded, [])?;
        // Look again next time: what was missing may have been installed meanwhile.
        println!("cargo::rerun-if-changed={}", out.join("never").display());
    } else {
        fs::copy(&object, &embedded)?;
    }
    println!("cargo::rustc-env=WHYRST_BPF_OBJECT={}", embedded.display());
    println!("cargo::rustc-env=WHYRST_BPF_ABSENT_BECAUSE={absent_because}");
    Ok(())
}

fn build(toolchain: &Toolchain, workspace: &Path, out: &Path) -> Result<PathBuf, Box<dyn Error>> {
    // One directory for all of cargo's own profiles, so that check, build and test share the object.
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    let target = if target.is_absolute() { target } else { out.to_path_buf() };
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    Ok(toolchain.build(workspace, PACKAGE, &arch, &target.join("bpf"))?)
}

fn explain(missing: &Missing) -> String {
    format!("{missing}; `cargo xtask setup` installs what is needed")
}
