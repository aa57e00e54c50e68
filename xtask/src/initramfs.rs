//! The guest's file system: one cpio archive with the kernel's modules and the tools, one with the project's binaries.
//!
//! The kernel unpacks them one after the other, so the first is made once per kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use cpio::newc::{Builder, trailer};
use whyrst_tests::{artifact, protocol};

use crate::arch::Arch;
use crate::arm64;
use crate::kernels::Kernel;
use crate::process::output;

/// Programs that the guest needs besides busybox, with everything they link to.
///
/// Among them a shell: busybox' prefers its own `ip` to the one in `PATH`.
const PROGRAMS: [&str; 23] = [
    "/bin/sh",
    "/usr/bin/ip",
    "/sbin/tc",
    "/usr/sbin/nft",
    "/usr/sbin/iptables",
    "/usr/sbin/ip6tables",
    "/usr/sbin/iptables-save",
    "/usr/sbin/ip6tables-save",
    "/usr/bin/nsenter",
    "/usr/sbin/iptables-nft",
    "/usr/sbin/iptables-legacy",
    "/usr/sbin/ip6tables-legacy",
    "/usr/sbin/iptables-legacy-save",
    "/usr/sbin/ip6tables-legacy-save",
    "/usr/sbin/iptables-nft-restore",
    "/usr/sbin/ip6tables-nft-restore",
    "/usr/sbin/iptables-legacy-restore",
    "/usr/sbin/ip6tables-legacy-restore",
    "/usr/sbin/conntrack",
    "/usr/sbin/ethtool",
    "/usr/bin/setpriv",
    "/usr/sbin/sysctl",
    "/sbin/modprobe",
];

/// Modules that the guest needs, by directory below `kernel/`; what they depend on comes along.
const MODULES: [&str; 12] = [
    "net/netfilter/",
    "net/ipv4/netfilter/",
    "net/ipv6/netfilter/",
    "net/bridge/",
    "net/8021q/",
    "net/sched/",
    "drivers/net/veth.",
    "drivers/net/dummy.",
    "drivers/net/tun.",
    "drivers/virtio/virtio_pci.",
    "drivers/block/virtio_blk.",
    "fs/9p/",
];

/// Directories that hold no file when the guest boots, and that its programs expect.
const DIRECTORIES: [&str; 5] = [artifact::DIRECTORY, "/bin", "/run", "/tmp", "/var/tmp"];

/// Permission bits of files that are run.
const EXECUTABLE: u32 = 0o755;
/// Permission bits of files that are read.
const READABLE: u32 = 0o644;

/// A cpio archive being written.
struct Archive {
    file: BufWriter<File>,
    directories: BTreeSet<PathBuf>,
    inode: u32,
}

impl Archive {
    fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self { file: BufWriter::new(file), directories: BTreeSet::new(), inode: 1 })
    }

    fn builder(&mut self, path: &Path, mode: u32) -> Builder {
        self.inode += 1;
        let name = path.strip_prefix("/").unwrap_or(path).to_string_lossy();
        Builder::new(&name).ino(self.inode).mode(mode).nlink(1)
    }

    /// Adds a directory, and those that it is in.
    fn directory(&mut self, path: &Path) -> Result<()> {
        let all: Vec<PathBuf> = path.ancestors().map(Path::to_path_buf).collect();
        for directory in all.into_iter().rev() {
            if directory.parent().is_none() || !self.directories.insert(directory.clone()) {
                continue;
            }
            self.builder(&directory, 0o040_000 | EXECUTABLE).write(&mut self.file, 0).finish()?;
        }
        Ok(())
    }

    fn bytes(&mut self, path: &Path, mode: u32, bytes: &[u8]) -> Result<()> {
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        let length = u32::try_from(bytes.len()).with_context(|| format!("{} is too large", path.display()))?;
        let mut writer = self.builder(path, 0o100_000 | mode).write(&mut self.file, length);
        writer.write_all(bytes)?;
        writer.finish()?;
        Ok(())
    }

    fn file(&mut self, path: &Path, mode: u32, from: &Path) -> Result<()> {
        let bytes = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
        self.bytes(path, mode, &bytes)
    }

    fn finish(mut self) -> Result<()> {
        trailer(&mut self.file)?;
        // Archives that follow start at a multiple of four, as the kernel expects.
        self.file.write_all(&[0; 512])?;
        self.file.flush().context("writing the initramfs")
    }
}

/// The archive with the kernel's modules and the tools; made again when a tool has changed.
pub(crate) fn base(kernel: &Kernel) -> Result<PathBuf> {
    let path = kernel.directory.join("base.cpio");
    let tools = match kernel.spec.arch {
        Arch::Amd64 => tools()?,
        Arch::Arm64 => arm64::tools(&PROGRAMS)?,
    };
    let newest = tools.values().filter_map(|from| fs::metadata(from).and_then(|m| m.modified()).ok()).max();
    let made = fs::metadata(&path).and_then(|metadata| metadata.modified()).ok();
    let names: Vec<String> =
        tools.keys().map(|to| to.display().to_string()).chain(DIRECTORIES.map(str::to_owned)).collect();
    let list = names.join("\n");
    let list_path = kernel.directory.join("base.list");
    if made.is_some() && newest <= made && fs::read_to_string(&list_path).is_ok_and(|known| known == list) {
        return Ok(path);
    }
    let unfinished = kernel.directory.join("base.cpio.part");
    let mut archive = Archive::create(&unfinished)?;
    for (to, from) in &tools {
        archive.file(to, EXECUTABLE, from)?;
    }
    modules(kernel, &mut archive)?;
    archive.bytes(Path::new("/etc/passwd"), READABLE, b"root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")?;
    archive.bytes(Path::new("/etc/group"), READABLE, b"root:x:0:\nnogroup:x:65534:\n")?;
    directories(&mut archive)?;
    archive.finish()?;
    fs::write(&list_path, list)?;
    fs::rename(&unfinished, &path).with_context(|| format!("renaming {}", unfinished.display()))?;
    Ok(path)
}

/// The whole initramfs: the base, the project's binaries, further programs of the host and further files, and the plan.
pub(crate) fn build(
    base: &Path,
    files: &[(&str, &Path)],
    (programs, more): (&[PathBuf], &[(PathBuf, PathBuf)]),
    plan: &[u8],
    to: &Path,
) -> Result<()> {
    let overlay = to.with_extension("overlay");
    let mut archive = Archive::create(&overlay)?;
    for (path, from) in files {
        archive.file(Path::new(path), EXECUTABLE, from)?;
    }
    for (path, from) in with_libraries(programs)? {
        archive.file(&path, EXECUTABLE, &from)?;
    }
    for (path, from) in more {
        archive.file(path, EXECUTABLE, from)?;
    }
    archive.bytes(Path::new(protocol::PLAN), READABLE, plan)?;
    archive.finish()?;
    let mut whole = File::create(to).with_context(|| format!("creating {}", to.display()))?;
    for part in [base, overlay.as_path()] {
        let mut part = File::open(part).with_context(|| format!("opening {}", part.display()))?;
        io::copy(&mut part, &mut whole).with_context(|| format!("writing {}", to.display()))?;
    }
    fs::remove_file(&overlay).with_context(|| format!("removing {}", overlay.display()))
}

/// A whole system as an initramfs, with the kernel's modules added.
pub(crate) fn of_tree(root: &Path, kernel: &Kernel, to: &Path) -> Result<()> {
    let mut archive = Archive::create(to)?;
    let list = output(Command::new("find").args([".", "-mindepth", "1"]).current_dir(root))?;
    let mut paths: Vec<&str> = list.lines().collect();
    paths.sort_unstable();
    for path in paths {
        let from = root.join(path);
        let metadata = fs::symlink_metadata(&from).with_context(|| format!("looking at {}", from.display()))?;
        let to = Path::new("/").join(path.trim_start_matches("./"));
        if metadata.is_dir() {
            archive.builder(&to, metadata.mode()).write(&mut archive.file, 0).finish()?;
            archive.directories.insert(to);
        } else if metadata.is_symlink() {
            let target = fs::read_link(&from)?;
            let target = target.as_os_str().as_encoded_bytes();
            let mut writer =
                archive.builder(&to, metadata.mode()).write(&mut archive.file, u32::try_from(target.len())?);
            writer.write_all(target)?;
            writer.finish()?;
            // Such as /lib: what goes there goes where it leads.
            archive.directories.insert(to);
        } else if metadata.is_file() {
            archive.file(&to, metadata.mode() & 0o7777, &from)?;
        }
    }
    modules(kernel, &mut archive)?;
    archive.finish()
}

/// Where each tool of this machine goes and where it comes from, shared libraries and iptables' extensions included.
fn tools() -> Result<BTreeMap<PathBuf, PathBuf>> {
    let programs: Vec<PathBuf> = PROGRAMS.iter().map(PathBuf::from).filter(|program| program.exists()).collect();
    let mut files = with_libraries(&programs)?;
    files.insert(PathBuf::from("/bin/busybox"), PathBuf::from("/usr/bin/busybox"));
    let extensions = Path::new("/usr/lib/x86_64-linux-gnu/xtables");
    for entry in fs::read_dir(extensions).with_context(|| format!("reading {}", extensions.display()))?.flatten() {
        files.insert(entry.path(), entry.path());
    }
    for table in ["/etc/protocols", "/etc/services", "/etc/ethertypes", "/etc/xtables/connlabel.conf"] {
        if Path::new(table).exists() {
            files.insert(table.into(), table.into());
        }
    }
    Ok(files)
}

/// Programs of the host with everything they are linked to: where each file goes and where it comes from.
fn with_libraries(programs: &[PathBuf]) -> Result<BTreeMap<PathBuf, PathBuf>> {
    let mut files = BTreeMap::new();
    for program in programs {
        // A link's name decides what iptables and kmod do; the file behind it is what there is to copy.
        let file = fs::canonicalize(program).with_context(|| format!("finding {}", program.display()))?;
        for library in libraries(&file)? {
            let behind = fs::canonicalize(&library).with_context(|| format!("finding {}", library.display()))?;
            files.insert(library, behind);
        }
        files.insert(program.clone(), file);
    }
    Ok(files)
}

/// The shared libraries that a program is linked to, the loader included.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let text = output(Command::new("ldd").arg(program))?;
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    Ok(text.lines().filter_map(path).collect())
}

/// Adds the directories that no file brings along.
fn directories(archive: &mut Archive) -> Result<()> {
    DIRECTORIES.iter().try_for_each(|directory| archive.directory(Path::new(directory)))
}

fn modules(kernel: &Kernel, archive: &mut Archive) -> Result<()> {
    let index = fs::read_to_string(kernel.modules.join("modules.dep")).context("modules.dep")?;
    let dependencies: BTreeMap<&str, Vec<&str>> = index
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(module, needs)| (module, needs.split_whitespace().collect()))
        .collect();
    let mut wanted: Vec<&str> = dependencies
        .keys()
        .copied()
        .filter(|module| {
            let path = module.strip_prefix("kernel/").unwrap_or(module);
            MODULES.iter().any(|directory| path.starts_with(directory))
        })
        .collect();
    let mut taken = BTreeSet::new();
    while let Some(module) = wanted.pop() {
        if taken.insert(module) {
            wanted.extend(dependencies.get(module).into_iter().flatten());
        }
    }
    let home = Path::new("/lib/modules").join(&kernel.release);
    for module in taken {
        archive.file(&home.join(module), READABLE, &kernel.modules.join(module))?;
    }
    for table in [
        "modules.dep",
        "modules.dep.bin",
        "modules.alias",
        "modules.alias.bin",
        "modules.builtin",
        "modules.builtin.bin",
        "modules.builtin.modinfo",
        "modules.order",
        "modules.symbols.bin",
        "modules.softdep",
    ] {
        let from = kernel.modules.join(table);
        if from.exists() {
            archive.file(&home.join(table), READABLE, &from)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::BufReader;

    use cpio::NewcReader;
    use whyrst_tests::artifact;

    use super::{Archive, directories};

    /// A bench writes its schema and its captures there without a scenario that makes the directory.
    #[test]
    fn directories_that_hold_no_file_are_in_the_guest() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut archive = Archive::create(file.path()).unwrap();
        directories(&mut archive).unwrap();
        archive.finish().unwrap();
        let mut entries = Vec::new();
        let mut reader = NewcReader::new(BufReader::new(File::open(file.path()).unwrap())).unwrap();
        while !reader.entry().is_trailer() {
            entries.push((reader.entry().name().to_owned(), reader.entry().mode() & 0o170_000));
            reader = NewcReader::new(reader.finish().unwrap()).unwrap();
        }
        for name in [artifact::DIRECTORY.trim_start_matches('/'), "run", "tmp", "var", "var/tmp", "bin"] {
            assert!(entries.contains(&(name.to_owned(), 0o040_000)), "/{name} is no directory of {entries:?}");
        }
    }
}
