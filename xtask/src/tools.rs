//! Third-party tools for the guest, all from one Debian release, with their own libraries.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use whyrst_tests::protocol::TOOLS;

use crate::arch::Arch;
use crate::kernels::{self, Apt};
use crate::process::{cache, execute, output};

/// The release that they are from: the first that has pwru.
const SUITE: &str = "trixie";

/// Their packages, each with the program that it is wanted for.
const PACKAGES: [(&str, &str); 4] = [
    ("pwru", "usr/bin/pwru"),
    ("bpftrace", "usr/bin/bpftrace"),
    ("tcpdump", "usr/bin/tcpdump"),
    ("conntrack", "usr/sbin/conntrack"),
];

/// The tools, with the versions of their packages.
pub(crate) struct Tools {
    /// Where each file goes, and where it is.
    pub(crate) files: Vec<(PathBuf, PathBuf)>,
    /// Package and version.
    pub(crate) versions: BTreeMap<String, String>,
}

/// Gives the tools: from the cache, or downloaded.
pub(crate) fn fetch() -> Result<Tools> {
    let home = cache()?.join("tools").join(SUITE);
    let (root, list) = (home.join("root"), home.join("whole"));
    if !list.exists() {
        download(&home, &root, &list)?;
    }
    let text = fs::read_to_string(&list).with_context(|| format!("reading {}", list.display()))?;
    let versions =
        text.lines().filter_map(|line| line.split_once(' ')).map(|(name, version)| (name.into(), version.into()));
    Ok(Tools { files: files(&root)?, versions: versions.collect() })
}

fn download(home: &Path, root: &Path, list: &Path) -> Result<()> {
    eprintln!("tools: downloading pwru, bpftrace, tcpdump and conntrack of {SUITE}");
    let names = PACKAGES.map(|(package, _)| package);
    let apt = Apt::new(kernels::main(SUITE, "", None), Arch::Amd64, home)?;
    apt.update()?;
    let debs = apt.download_with_dependencies(&names)?;
    if root.exists() {
        fs::remove_dir_all(root).with_context(|| format!("removing {}", root.display()))?;
    }
    fs::create_dir_all(root).with_context(|| format!("creating {}", root.display()))?;
    let mut versions = String::new();
    for deb in fs::read_dir(&debs).with_context(|| format!("reading {}", debs.display()))?.flatten() {
        if deb.path().extension().is_none_or(|extension| extension != "deb") {
            continue;
        }
        execute(Command::new("dpkg-deb").arg("--extract").arg(deb.path()).arg(root))?;
        let fields = output(
            Command::new("dpkg-deb").args(["--show", "--showformat", "${Package} ${Version}\n"]).arg(deb.path()),
        )?;
        if names.iter().any(|name| fields.split(' ').next() == Some(name)) {
            versions += &fields;
        }
    }
    // What links to /lib has to find it: the package that makes these links is essential, and so nobody depends on it.
    for directory in ["lib", "lib64"] {
        if !root.join(directory).exists() {
            symlink(Path::new("usr").join(directory), root.join(directory)).context("linking /lib")?;
        }
    }
    fs::write(list, versions).with_context(|| format!("writing {}", list.display()))
}

/// The programs and the libraries that they are linked to.
fn files(root: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let tools = Path::new(TOOLS);
    let loader = root.join("usr/lib64/ld-linux-x86-64.so.2");
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let mut files = BTreeMap::from([(tools.join("lib/ld.so"), real(&loader)?)]);
    for (_, program) in PACKAGES {
        let from = root.join(program);
        let needs = output(Command::new(&loader).arg("--library-path").arg(&libraries).arg("--list").arg(&from))?;
        for library in needs.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/'))) {
            let library = Path::new(library);
            let name = library.file_name().with_context(|| format!("{} has no name", library.display()))?;
            files.insert(tools.join("lib").join(name), real(library)?);
        }
        let name = from.file_name().with_context(|| format!("{program} has no name"))?;
        files.insert(tools.join("bin").join(name), from.clone());
    }
    Ok(files.into_iter().collect())
}

fn real(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).with_context(|| format!("finding {}", path.display()))
}
