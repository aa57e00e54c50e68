//! Finds a Rust compiler and a linker for `bpfel-unknown-none` and builds the BPF object with them.
//!
//! Shared by `tracer/host/build.rs`, which builds and embeds the object, and by `xtask`, which installs what is missing.
//! Nothing is installed from here, and nothing here knows what the object contains.
#![forbid(unsafe_code)]

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The BPF target of little-endian hosts.
pub const TARGET: &str = "bpfel-unknown-none";

/// Environment variable that overrides the search: `distribution`, or `rustup:NAME`.
pub const OVERRIDE: &str = "WHYRST_BPF_TOOLCHAIN";

/// A Rust compiler that can produce BPF code, and how it gets its `core` library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compiler {
    /// The distribution's own compiler with a prebuilt `core` for the BPF target in its sysroot
    /// (Debian: `rustc-web`, `cargo-web`, `libstd-rust-web-dev-bpf`).
    Distribution {
        /// The compiler, usually `/usr/bin/rustc`.
        rustc: PathBuf,
        /// The matching cargo, usually `/usr/bin/cargo`.
        cargo: PathBuf,
    },
    /// A rustup nightly that has the `rust-src` component; `core` is built from it.
    Rustup {
        /// The toolchain's name as `rustup run` takes it.
        name: String,
    },
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Distribution { rustc, .. } => write!(f, "{} with a prebuilt core for {TARGET}", rustc.display()),
            Self::Rustup { name } => write!(f, "rustup toolchain {name} with rust-src"),
        }
    }
}

/// A complete BPF toolchain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolchain {
    /// The compiler.
    pub compiler: Compiler,
    /// The path of `bpf-linker`.
    pub linker: PathBuf,
}

/// Why no BPF object can be built here.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    /// Neither way of getting a compiler worked.
    #[error(
        "no Rust compiler for {TARGET}: neither a distribution rustc with a prebuilt core ({distribution}) \
         nor a rustup toolchain with rust-src ({rustup})"
    )]
    Compiler {
        /// What was wrong with the distribution's compiler.
        distribution: String,
        /// What was wrong with rustup's toolchains.
        rustup: String,
    },
    /// A compiler is there, the linker is not.
    #[error("bpf-linker is neither in PATH nor in cargo's bin directory")]
    Linker,
    /// The override asks for something that is not there.
    #[error("{OVERRIDE}={value}: {because}")]
    Override {
        /// The variable's value.
        value: String,
        /// What is wrong with it.
        because: String,
    },
}

/// Why building the BPF object failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The compiler's cargo could not be started.
    #[error("cannot run {program}: {source}")]
    Spawn {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The compiler ran and failed; its messages went to standard error.
    #[error("building the BPF object with {compiler} failed: {status}")]
    Failed {
        /// Which compiler.
        compiler: Compiler,
        /// Its exit status.
        status: std::process::ExitStatus,
    },
}

impl Toolchain {
    /// Finds a toolchain: the one named by [`OVERRIDE`], else the distribution's, else rustup's.
    pub fn find() -> Result<Self, Missing> {
        let compiler = find_compiler()?;
        let linker = find_linker().ok_or(Missing::Linker)?;
        Ok(Self { compiler, linker })
    }

    /// Builds the package `name` of the workspace at `workspace` and returns the path of the object.
    ///
    /// `arch` is the architecture of the kernel the object will run on, as in `CARGO_CFG_TARGET_ARCH`; the layout of
    /// `pt_regs` depends on it.
    pub fn build(&self, workspace: &Path, name: &str, arch: &str, target_dir: &Path) -> Result<PathBuf, BuildError> {
        let mut cargo = match &self.compiler {
            Compiler::Distribution { rustc, cargo } => {
                let mut command = clean(Command::new(cargo));
                // aya-ebpf and the programs (for atomic additions) enable `asm_experimental_arch` for their target; nothing
                // else gets unstable features.
                command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "aya_ebpf,tracer_ebpf");
                command.arg("build");
                command
            }
            Compiler::Rustup { name } => {
                let mut command = clean(Command::new("rustup"));
                command.args(["run", name, "cargo", "build", "-Z", "build-std=core"]);
                command
            }
        };
        let mut flags = OsString::from(format!(
            "--cfg=bpf_target_arch=\"{arch}\"\x1f-Cdebuginfo=2\x1f-Clink-arg=--btf\x1f-Clinker="
        ));
        flags.push(&self.linker);
        // The object is the same wherever it is built: BTF names the source files, and its hash is in `--version`.
        for (from, to) in places(workspace) {
            flags.push("\x1f--remap-path-prefix=");
            flags.push(from);
            flags.push("=");
            flags.push(to);
        }
        cargo
            .args(["--release", "--package", name, "--bins", "--target", TARGET, "--target-dir"])
            .arg(target_dir)
            .env("CARGO_ENCODED_RUSTFLAGS", flags)
            .current_dir(workspace)
            .stdin(Stdio::null());
        let status = cargo.status().map_err(|source| BuildError::Spawn {
            program: cargo.get_program().to_string_lossy().into_owned(),
            source,
        })?;
        if !status.success() {
            return Err(BuildError::Failed { compiler: self.compiler.clone(), status });
        }
        Ok(target_dir.join(TARGET).join("release").join(name))
    }
}

/// Directories of this machine that a build must not contain, each with the name to use instead.
pub fn places(workspace: &Path) -> Vec<(PathBuf, &'static str)> {
    // The compiler takes the last that fits.
    [cargo_home().map(|home| (home, "/cargo")), Some((workspace.to_path_buf(), "/whyrst"))]
        .into_iter()
        .flatten()
        .collect()
}

fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")))
}

/// Takes away what an outer cargo or rustup put into the environment for *its* compiler.
fn clean(mut command: Command) -> Command {
    for (key, _) in env::vars_os() {
        let name = key.to_string_lossy();
        let of_outer_cargo = name.starts_with("CARGO") && name != "CARGO_HOME" && !name.starts_with("CARGO_NET_");
        if of_outer_cargo || name.starts_with("RUST") && name != "RUSTUP_HOME" {
            command.env_remove(&key);
        }
    }
    command
}

/// Finds a compiler: the one named by [`OVERRIDE`], else the distribution's, else rustup's.
pub fn find_compiler() -> Result<Compiler, Missing> {
    if let Some(value) = env::var(OVERRIDE).ok().filter(|value| !value.is_empty()) {
        let found = match value.split_once(':') {
            None if value == "distribution" => distribution(),
            Some(("rustup", name)) => rustup_has_source(name).map(|()| Compiler::Rustup { name: name.to_owned() }),
            _ => Err("takes `distribution` or `rustup:NAME`".to_owned()),
        };
        return found.map_err(|because| Missing::Override { value, because });
    }
    distribution().or_else(|distribution| rustup().map_err(|rustup| Missing::Compiler { distribution, rustup }))
}

fn distribution() -> Result<Compiler, String> {
    let rustc = PathBuf::from("/usr/bin/rustc");
    let cargo = PathBuf::from("/usr/bin/cargo");
    for program in [&rustc, &cargo] {
        if !program.exists() {
            return Err(format!("{} is not installed", program.display()));
        }
    }
    let libraries = sysroot(&mut clean(Command::new(&rustc)))?.join("lib/rustlib").join(TARGET).join("lib");
    let has_core = libraries.read_dir().is_ok_and(|mut entries| {
        entries.any(|e| e.is_ok_and(|e| e.file_name().to_string_lossy().starts_with("libcore")))
    });
    if has_core {
        Ok(Compiler::Distribution { rustc, cargo })
    } else {
        Err(format!("no core in {}", libraries.display()))
    }
}

fn rustup() -> Result<Compiler, String> {
    let list = output(clean(Command::new("rustup")).args(["toolchain", "list"]))?;
    let names: Vec<&str> = list
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| name.starts_with("nightly"))
        .collect();
    names
        .iter()
        .find(|name| rustup_has_source(name).is_ok())
        .map(|name| Compiler::Rustup { name: (*name).to_owned() })
        .ok_or_else(|| match names.as_slice() {
            [] => "no nightly is installed".to_owned(),
            names => format!("{} has no rust-src", names.join(", ")),
        })
}

fn rustup_has_source(name: &str) -> Result<(), String> {
    let root = sysroot(clean(Command::new("rustup")).args(["run", name, "rustc"]))?;
    let source = root.join("lib/rustlib/src/rust/library/core");
    if source.is_dir() { Ok(()) } else { Err(format!("{name} has no rust-src")) }
}

/// `bpf-linker` in `PATH` or in cargo's bin directory.
pub fn find_linker() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(cargo_home().map(|home| home.join("bin")))
        .map(|directory| directory.join("bpf-linker"))
        .find(|linker| linker.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0))
}

/// The major version of the LLVM that a compiler was built with, as `rustc -vV` prints it.
pub fn llvm_major(compiler: &Compiler) -> Option<u32> {
    let text = versions(compiler)?;
    let version = text.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

/// The version that a compiler prints, in one line.
pub fn version(compiler: &Compiler) -> Option<String> {
    versions(compiler)?.lines().next().map(str::to_owned)
}

fn versions(compiler: &Compiler) -> Option<String> {
    let mut command = match compiler {
        Compiler::Distribution { rustc, .. } => clean(Command::new(rustc)),
        Compiler::Rustup { name } => {
            let mut command = clean(Command::new("rustup"));
            command.args(["run", name, "rustc"]);
            command
        }
    };
    output(command.arg("-vV")).ok()
}

fn sysroot(rustc: &mut Command) -> Result<PathBuf, String> {
    output(rustc.args(["--print", "sysroot"])).map(|text| PathBuf::from(text.trim_end()))
}

fn output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("cannot run {name}: {error}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{name}: {}", text.lines().next().unwrap_or("failed")));
    }
    String::from_utf8(output.stdout).map_err(|error| format!("{name}: {error}"))
}
