//! Builds the BPF object and hands its path to the compiler, which embeds it; finds out what `--version` is to say.
//!
//! Without a BPF toolchain an empty file is embedded: everything that does not trace still builds and works, and the
//! binary prints why it cannot trace.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use bpf_toolchain::{Missing, OVERRIDE, Toolchain, version};
use object::build::elf::{Builder, SectionData};
use sha2::{Digest as _, Sha256};

/// The package that holds the BPF programs.
const PACKAGE: &str = "tracer-ebpf";
/// The architectures whose registers and argument lists the programs can read.
const ARCHITECTURES: [&str; 2] = ["aarch64", "x86_64"];
/// Names the commit where the sources are no clone, or the builder knows better.
const COMMIT: &str = "WHYRST_COMMIT";
/// The file that `git archive` writes the commit into (see `.gitattributes`).
const ARCHIVED: &str = ".commit";

fn main() -> Result<(), Box<dyn Error>> {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let workspace = manifest.ancestors().nth(2).ok_or("the manifest is not two directories below the workspace")?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for path in ["tracer-ebpf/src", "tracer-ebpf/Cargo.toml", "tracer-ebpf/build.rs", "tracer-common/src", "Cargo.toml"]
    {
        println!("cargo::rerun-if-changed={}", workspace.join(path).display());
    }
    println!("cargo::rerun-if-env-changed={OVERRIDE}");
    println!("cargo::rerun-if-env-changed=PATH");

    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    let (object, compiler, absent_because) = match toolchain(&arch) {
        Ok(toolchain) => {
            let compiler = version(&toolchain.compiler).unwrap_or_else(|| "unknown".to_owned());
            (build(&toolchain, workspace, &arch, &out)?, compiler, String::new())
        }
        Err(because) => (PathBuf::new(), "none".to_owned(), because),
    };
    let embedded = out.join("tracer-ebpf.o");
    if object.as_os_str().is_empty() {
        println!("cargo::warning=no BPF object: {absent_because}");
        fs::write(&embedded, [])?;
        // Look again next time: what was missing may have been installed meanwhile.
        println!("cargo::rerun-if-changed={}", out.join("never").display());
    } else {
        fs::write(&embedded, without_dwarf(&fs::read(&object)?)?)?;
    }
    println!("cargo::rustc-env=WHYRST_BPF_OBJECT={}", embedded.display());
    println!("cargo::rustc-env=WHYRST_BPF_ABSENT_BECAUSE={absent_because}");

    let mut digest = String::new();
    for byte in Sha256::digest(fs::read(&embedded)?) {
        write!(digest, "{byte:02x}")?;
    }
    let commit = commit(workspace)?;
    for (name, value) in [
        ("WHYRST_BPF_SHA256", digest.as_str()),
        ("WHYRST_BPF_SHORT", &digest[..12]),
        ("WHYRST_BPF_COMPILER", &compiler),
        ("WHYRST_COMMIT", &commit),
        ("WHYRST_COMMIT_SHORT", &short(&commit)),
        ("WHYRST_BUILD_RUSTC", &rustc()?),
        ("WHYRST_BUILD_TARGET", &env::var("TARGET")?),
    ] {
        println!("cargo::rustc-env={name}={value}");
    }
    Ok(())
}

/// The commit that is built, in full, with `-modified` behind it where tracked files are not as they are there.
///
/// Development builds do not look at git: each commit would have everything built again, for a word that nobody reads.
fn commit(workspace: &Path) -> Result<String, Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed={COMMIT}");
    let archived = workspace.join(ARCHIVED);
    println!("cargo::rerun-if-changed={}", archived.display());
    if let Some(given) = env::var(COMMIT).ok().filter(|given| !given.is_empty()) {
        return Ok(given);
    }
    let written = fs::read_to_string(&archived)?;
    if !written.starts_with('$') {
        // Behind it is the commit's time, for `cargo xtask dist`.
        return Ok(written.split_whitespace().next().unwrap_or("unknown").to_owned());
    }
    if env::var("PROFILE")? != "release" {
        return Ok("unknown".to_owned());
    }
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(workspace).stdin(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    for place in ["HEAD", "logs/HEAD", "index"] {
        if let Some(path) = git(&["rev-parse", "--path-format=absolute", "--git-path", place]) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    println!("cargo::rerun-if-changed={}", workspace.join("tracer").display());
    let described = git(&["describe", "--always", "--dirty=-modified", "--abbrev=40", "--exclude=*"]);
    Ok(described.unwrap_or_else(|| "unknown".to_owned()))
}

/// As many digits of a commit as identify it.
fn short(commit: &str) -> String {
    match commit.split_once('-') {
        Some((digits, rest)) => format!("{digits:.12}-{rest}"),
        None => format!("{commit:.12}"),
    }
}

/// The compiler of the user side, in its own words.
fn rustc() -> Result<String, Box<dyn Error>> {
    let output = Command::new(env::var("RUSTC")?).arg("--version").output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The toolchain for the programs, or why none will do.
fn toolchain(arch: &str) -> Result<Toolchain, String> {
    if !ARCHITECTURES.contains(&arch) {
        return Err(format!(
            "the programs cannot read the registers of {arch}, only of {}",
            ARCHITECTURES.join(" and ")
        ));
    }
    Toolchain::find().map_err(|missing| explain(&missing))
}

fn build(toolchain: &Toolchain, workspace: &Path, arch: &str, out: &Path) -> Result<PathBuf, Box<dyn Error>> {
    // One directory for all of cargo's own profiles, so that check, build and test share the object; each architecture
    // has its own object.
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    let target = if target.is_absolute() { target } else { out.to_path_buf() };
    Ok(toolchain.build(workspace, PACKAGE, arch, &target.join("bpf").join(arch))?)
}

/// The object without what only a debugger reads: four fifths of it, with paths that depend on where it was built. BTF, which
/// the linker makes of the same, stays.
fn without_dwarf(object: &[u8]) -> Result<Vec<u8>, object::build::Error> {
    let mut elf = Builder::read(object)?;
    for section in &mut elf.sections {
        section.delete = [&b".debug_"[..], b".rel.debug_"].iter().any(|prefix| section.name.starts_with(prefix));
    }
    elf.delete_orphans();
    // LLVM keeps the names of sections and of symbols in one table.
    let names = elf.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    let mut stripped = Vec::new();
    elf.write(&mut stripped)?;
    Ok(stripped)
}

fn explain(missing: &Missing) -> String {
    format!("{missing}; `cargo xtask setup` installs what is needed")
}
