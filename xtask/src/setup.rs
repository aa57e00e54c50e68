//! `cargo xtask setup`: finds or installs the tools for building and testing, and prints each step.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use bpf_toolchain::{Compiler, find_compiler, find_linker, llvm_major};

use crate::process::{execute, output};

/// The version of bpf-linker that goes with the compilers this project is built with.
const LINKER: &str = "0.13.0";

/// Debian packages, each with a program that shows that it is there.
type Tools = &'static [(&'static str, &'static str)];

/// Packages for building and for the guest.
const GUEST: Tools = &[
    ("qemu-system-x86", "/usr/bin/qemu-system-x86_64"),
    ("busybox-static", "/usr/bin/busybox"),
    ("iproute2", "/usr/bin/ip"),
    ("nftables", "/usr/sbin/nft"),
    ("iptables", "/usr/sbin/iptables"),
    ("conntrack", "/usr/sbin/conntrack"),
    ("ethtool", "/usr/sbin/ethtool"),
    ("kmod", "/usr/sbin/depmod"),
    ("xz-utils", "/usr/bin/xz"),
];

/// Packages that read whyrst's outputs in tests: large, and needed for nothing else.
const READERS: Tools = &[
    // With it comes capinfos, of wireshark-common.
    ("tshark", "/usr/bin/tshark"),
    ("chromium", "/usr/bin/chromium"),
    ("chromium-driver", "/usr/bin/chromedriver"),
    ("poppler-utils", "/usr/bin/pdftotext"),
];

/// Packages for checks of the Debian package.
const PACKAGING: Tools = &[
    ("lintian", "/usr/bin/lintian"),
    ("debootstrap", "/usr/sbin/debootstrap"),
    // lintian reads man pages with it.
    ("groff-base", "/usr/bin/groff"),
    ("man-db", "/usr/bin/man"),
];

/// Packages for building and emulating arm64.
const ARM64: Tools = &[
    ("gcc-aarch64-linux-gnu", "/usr/bin/aarch64-linux-gnu-gcc"),
    ("libc6-dev-arm64-cross", "/usr/aarch64-linux-gnu/lib/libc.a"),
    ("qemu-system-arm", "/usr/bin/qemu-system-aarch64"),
];

/// Sets up building and emulating arm64.
pub(crate) fn arm64() -> Result<()> {
    tools(ARM64, "a linker and QEMU for arm64")
}

/// Sets up the checks of the Debian package.
pub(crate) fn packaging() -> Result<()> {
    tools(PACKAGING, "lintian and debootstrap")
}

/// Sets up building and the guest.
pub(crate) fn run() -> Result<()> {
    tools(GUEST, "QEMU and the guest's tools")?;
    let compiler = compiler()?;
    linker(&compiler)?;
    Ok(())
}

/// Sets up everything.
pub(crate) fn all() -> Result<()> {
    run()?;
    tools(READERS, "tshark and Chromium, which the tests read outputs with,")
}

fn tools(tools: Tools, what: &str) -> Result<()> {
    let missing: BTreeSet<&str> =
        tools.iter().filter(|(_, program)| !present(program)).map(|(package, _)| *package).collect();
    if missing.is_empty() {
        println!("setup: {what} are there");
        return Ok(());
    }
    let names: Vec<&str> = missing.into_iter().collect();
    install(&names, what)
}

/// Debian moved programs from /sbin to /usr/sbin and from /bin to /usr/bin; both names lead there.
fn present(program: &str) -> bool {
    Path::new(program).exists() || Path::new(program.trim_start_matches("/usr")).exists()
}

fn compiler() -> Result<Compiler> {
    match find_compiler() {
        Ok(compiler) => {
            println!("setup: compiler for BPF: {compiler}");
            return Ok(compiler);
        }
        Err(missing) => println!("setup: {missing}"),
    }
    // Debian 12 has the compiler that its browsers are built with; later releases have one of their own.
    let web = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];
    let plain = ["rustc", "cargo", "libstd-rust-dev-bpf"];
    refresh()?;
    let known = |packages: &[&str]| packages.iter().all(|package| candidate(package));
    let packages = if known(&plain) {
        plain
    } else if known(&web) {
        web
    } else {
        bail!(
            "no package of this distribution holds a Rust core for BPF; install a nightly with rust-src: \
             rustup toolchain install nightly --component rust-src"
        );
    };
    install(&packages, "a Rust compiler for BPF")?;
    find_compiler().context("after installing it")
}

fn linker(compiler: &Compiler) -> Result<()> {
    if let Some(linker) = find_linker() {
        println!("setup: linker for BPF: {}", linker.display());
        return Ok(());
    }
    let major = llvm_major(compiler).with_context(|| format!("{compiler} does not say which LLVM it has"))?;
    let prefix = format!("/usr/lib/llvm-{major}");
    if !Path::new(&prefix).join("include/llvm-c").exists() {
        install(&[&format!("llvm-{major}-dev")], "the LLVM that the compiler was built with")?;
    }
    println!("setup: building bpf-linker {LINKER} with LLVM {major} (about a minute)");
    let mut cargo = Command::new("cargo");
    cargo
        .args([
            "install",
            "--quiet",
            "--locked",
            "bpf-linker",
            "--version",
            LINKER,
            "--no-default-features",
            "--features",
        ])
        .arg(format!("llvm-{major}"))
        .env("LLVM_PREFIX", &prefix)
        // This program's own build must not leak into another one.
        .env_remove("CARGO_TARGET_DIR");
    run_outside(&mut cargo)?;
    let linker = find_linker().context("bpf-linker is not where cargo installs programs")?;
    println!("setup: linker for BPF: {}", linker.display());
    Ok(())
}

/// Runs cargo for another project: outside of this workspace's configuration.
fn run_outside(cargo: &mut Command) -> Result<()> {
    execute(cargo.current_dir("/"))
}

fn install(packages: &[&str], what: &str) -> Result<()> {
    let list = packages.join(" ");
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("{what} is missing; install by your own means what Debian has in: {list}");
    }
    if !is_root()? {
        bail!("{what} is missing; run as root: apt-get install --no-install-recommends {list}");
    }
    println!("setup: installing {list}");
    refresh()?;
    let mut apt = Command::new("apt-get");
    apt.args(["install", "--yes", "--quiet=2", "--no-install-recommends"]).args(packages);
    execute(apt.env("DEBIAN_FRONTEND", "noninteractive")).with_context(|| format!("installing {what}"))
}

/// Brings the package lists up to date, once.
fn refresh() -> Result<()> {
    static ONCE: std::sync::OnceLock<()> = std::sync::OnceLock::new();
    if ONCE.get().is_none() && Path::new("/usr/bin/apt-get").exists() && is_root()? {
        println!("setup: updating the package lists");
        execute(Command::new("apt-get").args(["update", "--quiet=2"]))?;
        ONCE.get_or_init(|| ());
    }
    Ok(())
}

/// Whether apt could install a package.
fn candidate(package: &str) -> bool {
    output(Command::new("apt-cache").args(["policy", package]))
        .is_ok_and(|text| text.lines().any(|line| line.trim().starts_with("Candidate:") && !line.contains("(none)")))
}

fn is_root() -> Result<bool> {
    Ok(output(Command::new("id").arg("-u"))?.trim() == "0")
}
