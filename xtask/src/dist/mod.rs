//! `cargo xtask dist`: the static binary, the Debian package and the archive, with checksums and a bill of materials. Also the
//! static binaries for the guest.
//!
//! The artefacts depend on the commit alone: a build elsewhere gives the same bytes. `--check` tests this, and the package.

mod archive;
mod boot;
mod check;
mod deb;
mod files;
mod sbom;
mod source;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::arch::Arch;
use crate::arm64;
use crate::process::{cargo, execute, output, target, workspace};
use crate::setup;
use crate::vm::Payload;
use source::Source;

/// The architecture that a package and an archive are made for.
const ARCH: Arch = Arch::Amd64;
/// The target of its binaries.
const TARGET: &str = ARCH.target();
/// The same in Debian's words.
const DEBIAN: &str = ARCH.debian();

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Architecture; for arm64 there is the static binary alone, in target/dist/arm64
    #[arg(long, value_enum, default_value_t)]
    arch: Arch,
    /// Then run checks on them: all, or the named ones
    #[arg(long, value_enum, value_name = "WAY", num_args = 0.., conflicts_with = "arch", value_delimiter = ',', default_missing_value = "lintian,package,service,paths,again")]
    check: Option<Vec<Check>>,
}

/// Checks of the release artefacts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Check {
    /// Run lintian on the package
    Lintian,
    /// Install and purge the package in a new Debian 12
    Package,
    /// Boot that with systemd and let the service record resets
    Service,
    /// Search all files for paths of this machine
    Paths,
    /// Build the commit again in another directory and compare every byte
    Again,
}

/// The release artefacts.
struct Products {
    /// All files with sums, `SHA256SUMS` last.
    files: Vec<PathBuf>,
    deb: PathBuf,
}

/// Builds the release artefacts, and checks them on request.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::run()?;
    if arguments.arch == Arch::Arm64 {
        setup::arm64()?;
        let binary = binary(arguments.arch)?;
        println!("dist: {} ({} KiB)", binary.display(), fs::metadata(&binary)?.len().div_ceil(1024));
        return Ok(());
    }
    let source = Source::read()?;
    if let Some(ways) = &arguments.check {
        if ways.contains(&Check::Again) {
            source.must_be_committed()?;
        }
        setup::packaging()?;
    }
    let products = products(&source)?;
    arguments.check.as_ref().map_or(Ok(()), |ways| check::run(ways, &source, &products))
}

fn products(source: &Source) -> Result<Products> {
    let directory = directory();
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    // What was built before. Cargo has directories of its own there.
    for entry in fs::read_dir(&directory)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_file() && (name.starts_with("whyrst") || name == "SHA256SUMS") {
            fs::remove_file(entry.path()).with_context(|| format!("removing {name}"))?;
        }
    }
    let binary = binary(ARCH)?;
    let bill = sbom::Bill::read(TARGET)?;
    let sbom = directory.join(format!("whyrst-{}.cdx.json", source.version));
    fs::write(&sbom, bill.cyclonedx(source, &binary)?).with_context(|| format!("writing {}", sbom.display()))?;
    let common = files::Common::make(source, &binary, &sbom, &bill)?;
    let tarball = archive::write(source, &common, &directory)?;
    let deb = deb::write(source, &common, &directory)?;
    let sums = directory.join("SHA256SUMS");
    let mut files = vec![binary, deb.clone(), sbom, tarball];
    let names: Vec<&str> = files.iter().filter_map(|file| file.file_name()?.to_str()).collect();
    let text = output(Command::new("sha256sum").arg("--").args(&names).current_dir(&directory))?;
    fs::write(&sums, &text).with_context(|| format!("writing {}", sums.display()))?;
    files.push(sums);
    for file in &files {
        println!("dist: {} ({} KiB)", file.display(), fs::metadata(file)?.len().div_ceil(1024));
    }
    print!("{text}");
    Ok(Products { files, deb })
}

/// The directory of the release artefacts.
fn directory() -> PathBuf {
    target().join("dist")
}

/// Builds the release binary.
pub(crate) fn binary(arch: Arch) -> Result<PathBuf> {
    build("dist", arch, &["--package", "tracer", "--bin", "whyrst"])?;
    let built = target().join(arch.target()).join("dist/whyrst");
    let directory = arch.below(directory());
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    let to = directory.join("whyrst");
    let strip = match arch {
        Arch::Amd64 => "strip",
        Arch::Arm64 => arm64::STRIP,
    };
    // `--version` names the compilers.
    execute(Command::new(strip).args(["--strip-all", "--remove-section=.comment", "-o"]).arg(&to).arg(&built))?;
    is_static(&to)?;
    Ok(to)
}

/// Builds the programs for the guest by one of its profiles, which builds faster than the release.
pub(crate) fn payload(profile: &str) -> Result<Payload> {
    payload_for(Arch::Amd64, profile)
}

/// The same for guests of an architecture.
pub(crate) fn payload_for(arch: Arch, profile: &str) -> Result<Payload> {
    build(profile, arch, &["--package", "tracer", "--bin", "whyrst", "--package", "whyrst-tests", "--bins"])?;
    let binary = |name: &str| target().join(arch.target()).join(profile).join(name);
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

fn build(profile: &str, arch: Arch, packages: &[&str]) -> Result<()> {
    let (mut cargo, more) = match arch {
        Arch::Amd64 => (cargo(), OsString::new()),
        Arch::Arm64 => arm64::cargo()?,
    };
    println!("building ({profile}, {}, static)", arch.debian());
    let mut flags = OsString::from("-C\x1ftarget-feature=+crt-static");
    flags.push(more);
    if profile == "dist" {
        for (from, to) in places()? {
            flags.push("\x1f--remap-path-prefix=");
            flags.push(from);
            flags.push("=");
            flags.push(to);
        }
    }
    cargo
        .args(["build", "--quiet", "--locked", "--profile", profile, "--target", arch.target()])
        .args(packages)
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .env_remove("RUSTFLAGS");
    execute(&mut cargo)
}

/// Directories that must not be in the binary, and what stands there for them. The last that fits is taken.
fn places() -> Result<Vec<(PathBuf, &'static str)>> {
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]).current_dir(workspace()))?;
    let mut places = vec![(PathBuf::from(sysroot.trim_end()), "/rust")];
    places.extend(bpf_toolchain::places(&workspace()));
    Ok(places)
}

/// A program that asks for a loader is not static.
fn is_static(path: &Path) -> Result<()> {
    const INTERPRETER: &[u8] = b"/ld-linux";
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    // PT_INTERP is near the start of the file, right behind the program headers.
    let start = &bytes[..bytes.len().min(4096)];
    if start.windows(INTERPRETER.len()).any(|window| window == INTERPRETER) {
        bail!("{} is not static", path.display());
    }
    Ok(())
}
