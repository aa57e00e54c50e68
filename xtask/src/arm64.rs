//! What a machine of another architecture takes to build for arm64 and to fill a guest of it: the compiler's standard
//! library and the guest's programs, from Debian's arm64 packages, unpacked beside the machine's own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use bpf_toolchain::{Compiler, find_compiler};

use crate::arch::Arch;
use crate::kernels::{Apt, Source, main, security, unpack};
use crate::process::{cache, output, workspace};

/// The program that links for it, of `gcc-aarch64-linux-gnu`.
const LINKER: &str = "aarch64-linux-gnu-gcc";

/// The program that strips its binaries, of the `binutils` that come with it.
pub(crate) const STRIP: &str = "aarch64-linux-gnu-strip";

/// Where a standard library can come from that belongs to the compiler of this machine's Debian.
const COMPILERS: [Source; 4] = [
    security("bookworm-security", ""),
    main("bookworm", "", None),
    security("trixie-security", ""),
    main("trixie", "", None),
];

/// The release that the guest's programs are from: all of its files are below /usr, and no link among them is absolute.
const PROGRAMS: Source = main("trixie", "", None);

/// The packages of the guest's programs.
const PACKAGES: [&str; 11] = [
    "busybox-static",
    "conntrack",
    "dash",
    "ethtool",
    "iproute2",
    "iptables",
    "kmod",
    "netbase",
    "nftables",
    "procps",
    "util-linux",
];

/// Where Debian has libraries of it.
const LIBRARIES: &str = "usr/lib/aarch64-linux-gnu";

/// cargo, and flags to add to the compiler's, for building for it.
pub(crate) fn cargo() -> Result<(Command, OsString)> {
    let Compiler::Distribution { rustc, cargo } = find_compiler()? else {
        bail!("only Debian's own Rust compiler can be given a standard library for arm64 here");
    };
    let mut command = Command::new(cargo);
    command.env("RUSTC", rustc).current_dir(workspace());
    let mut flags = OsString::from(format!("\x1f-Clinker={LINKER}\x1f-L"));
    flags.push(standard_library()?);
    Ok((command, flags))
}

/// The standard library for arm64 of exactly the compiler that is installed: from the cache, or downloaded.
fn standard_library() -> Result<PathBuf> {
    let (package, version) = ["libstd-rust-dev", "libstd-rust-web-dev"]
        .into_iter()
        .find_map(|package| Some((package, installed(package)?)))
        .context("the compiler's own standard library is no Debian package")?;
    let home = Arch::Arm64.below(cache()?).join("rust").join(&version);
    let root = unpacked(&home, |root| {
        let wanted = format!("{package}={version}");
        for source in COMPILERS {
            match download(source, &home, &wanted) {
                Ok(debs) => return unpack(&debs, root),
                Err(error) => println!("arm64: {error:#}"),
            }
        }
        bail!("no release of Debian gives {wanted} for arm64")
    })?;
    Ok(root.join("usr/lib/rustlib").join(Arch::Arm64.target()).join("lib"))
}

/// The version of a package that is installed.
fn installed(package: &str) -> Option<String> {
    let text = output(Command::new("dpkg-query").args(["--show", "--showformat", "${Version}", package])).ok()?;
    (!text.is_empty()).then_some(text)
}

/// Downloads one package; returns its directory.
fn download(source: Source, home: &Path, package: &str) -> Result<PathBuf> {
    let apt = Apt::new(source, Arch::Arm64, home)?;
    apt.update()?;
    let to = home.join("debs");
    fs::create_dir_all(&to).with_context(|| format!("creating {}", to.display()))?;
    apt.download(package, &to)?;
    Ok(to)
}

/// What was unpacked below a directory once, or is now.
fn unpacked(home: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let (root, whole) = (home.join("root"), home.join("whole"));
    if !whole.exists() {
        println!("arm64: downloading into {}", home.display());
        if root.exists() {
            fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))?;
        }
        fill(&root)?;
        fs::write(&whole, "").with_context(|| format!("writing {}", whole.display()))?;
    }
    Ok(root)
}

/// The guest's programs with their libraries: where each file goes and where it is; those of `programs` that there are.
pub(crate) fn tools(programs: &[&str]) -> Result<BTreeMap<PathBuf, PathBuf>> {
    let root = tree()?;
    let mut files = BTreeMap::new();
    for program in programs.iter().chain(&["/bin/busybox"]) {
        let from = root.join("usr").join(program.trim_start_matches("/usr").trim_start_matches('/'));
        if from.exists() {
            files.insert(PathBuf::from(program), from);
        }
    }
    for directory in [LIBRARIES.to_owned(), format!("{LIBRARIES}/xtables")] {
        let entries = fs::read_dir(root.join(&directory)).with_context(|| format!("reading {directory}"))?;
        let paths = entries.flatten().map(|entry| entry.path());
        let libraries = paths.filter(|path| path.is_file() && path.to_string_lossy().contains(".so"));
        files.extend(
            libraries.filter_map(|path| Some((Path::new("/").join(path.strip_prefix(&root).ok()?), path.clone()))),
        );
    }
    let loader = "ld-linux-aarch64.so.1";
    files.insert(Path::new("/lib").join(loader), root.join(LIBRARIES).join(loader));
    for table in ["/etc/protocols", "/etc/services", "/etc/ethertypes"] {
        files.insert(table.into(), root.join(table.trim_start_matches('/')));
    }
    Ok(files)
}

/// Where the packages of the guest's programs are unpacked.
fn tree() -> Result<PathBuf> {
    let home = Arch::Arm64.below(cache()?).join("programs");
    unpacked(&home, |root| {
        let apt = Apt::new(PROGRAMS, Arch::Arm64, &home)?;
        apt.update()?;
        unpack(&apt.download_with_dependencies(&PACKAGES)?, root)?;
        // What installing iptables would choose.
        for name in ["iptables", "iptables-save", "ip6tables", "ip6tables-save"] {
            symlink("xtables-nft-multi", root.join("usr/sbin").join(name))
                .with_context(|| format!("linking {name}"))?;
        }
        Ok(())
    })
}
