//! What this process may do, and how it gives that up.
//!
//! Capabilities belong to threads: what is given up here is given up by the calling thread, and by those that it starts
//! from then on.

use std::path::Path;
use std::{fs, io};

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, configure_capability_in_ambient_set, set_capabilities,
    set_no_new_privs,
};

/// What loading and attaching programs takes.
pub const ATTACHING: CapabilitySet = CapabilitySet::BPF.union(CapabilitySet::PERFMON);
/// What reading a map takes where the kernel wants it (see [`crate::live`]).
pub const READING_MAPS: CapabilitySet = CapabilitySet::BPF;
/// What asking the kernel takes: ctnetlink and nftables, other namespaces and the paths into them, iptables-save.
pub const ASKING: CapabilitySet = CapabilitySet::NET_ADMIN
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::DAC_READ_SEARCH);
/// What hooks that are attached later take besides [`ATTACHING`]: addresses of `/proc/kallsyms`.
pub const LATER: CapabilitySet = ATTACHING.union(CapabilitySet::SYSLOG);
/// What it takes besides where Debian's kernels leave kprobes to the administrator (`kernel.perf_event_paranoid` above 2).
pub const PARANOID: CapabilitySet = CapabilitySet::SYS_ADMIN;
/// What following interfaces takes besides [`ATTACHING`].
pub const FOLLOWING: CapabilitySet =
    CapabilitySet::NET_ADMIN.union(CapabilitySet::SYS_ADMIN).union(CapabilitySet::SYS_PTRACE);

/// A capability, and what is missing from a report without it.
type Use = (CapabilitySet, &'static str, &'static str);

/// What is used besides [`ATTACHING`], without which there is nothing.
const USES: [Use; 5] = [
    (
        CapabilitySet::NET_ADMIN,
        "CAP_NET_ADMIN",
        "conntrack's entries and counters and the rules cannot be asked for, nor --tap used",
    ),
    (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN", "nothing can be asked in other network namespaces"),
    (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE", "network namespaces without a name are not found"),
    (CapabilitySet::SYSLOG, "CAP_SYSLOG", "the kernel's addresses are hidden: what destroyed an entry is not known"),
    (
        CapabilitySet::NET_RAW,
        "CAP_NET_RAW",
        "the rules of iptables-legacy cannot be read, nor --tap used before Linux 6.6",
    ),
];

/// What a report of a live capture will lack for want of capabilities, one sentence each.
pub fn lacking() -> Vec<String> {
    let Ok(held) = capabilities(None) else { return Vec::new() };
    lacking_of(held.effective)
}

fn lacking_of(effective: CapabilitySet) -> Vec<String> {
    let missing = USES.iter().filter(|(needed, ..)| !effective.contains(*needed));
    missing.map(|(_, name, without)| format!("without {name} {without}")).collect()
}

/// Whether kprobes are for [`PARANOID`] alone.
pub fn is_paranoid() -> bool {
    let level = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid");
    level.ok().and_then(|level| level.trim().parse::<i32>().ok()).is_some_and(|level| level > 2)
}

/// Gives up everything but `kept` in the calling thread, for good; of that only `used` has an effect until
/// [`Raised::now`] gives it one. Programs that are started from here on get nothing.
pub fn keep(kept: CapabilitySet, used: CapabilitySet) -> io::Result<()> {
    let held = capabilities(None)?;
    let permitted = held.permitted & kept;
    let effective = permitted & used;
    set_capabilities(None, CapabilitySets { effective, permitted, inheritable: CapabilitySet::empty() })?;
    Ok(())
}

/// Gives up everything but `kept` in the calling thread, and lets the programs that it starts have that too.
pub fn keep_with_children(kept: CapabilitySet) -> io::Result<()> {
    let permitted = capabilities(None)?.permitted & kept;
    set_capabilities(None, CapabilitySets { effective: permitted, permitted, inheritable: permitted })?;
    for capability in permitted.iter() {
        configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

/// No program that is started from here on gets rights that this one has not got.
pub fn no_new_privileges() -> io::Result<()> {
    Ok(set_no_new_privs(true)?)
}

/// Capabilities that have an effect while this is there.
#[derive(Debug)]
pub struct Raised {
    before: CapabilitySets,
}

impl Raised {
    /// Gives everything that was kept an effect.
    pub fn now() -> io::Result<Self> {
        let before = capabilities(None)?;
        set_capabilities(None, CapabilitySets { effective: before.permitted, ..before })?;
        Ok(Self { before })
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        if let Err(error) = set_capabilities(None, self.before) {
            tracing::error!("lowering the capabilities again: {error}");
        }
    }
}

/// A file that is still to be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needed<'a> {
    /// To be read: a file, or all files of a directory.
    Read(&'a Path),
    /// To be written, or created with others beside it.
    Write(&'a Path),
}

/// The capabilities that files need which belong to others: root reads and writes those by capability alone.
///
/// What is out of reach with them too, or for another reason, is left to be found out when it is opened.
pub fn for_files(files: &[Needed<'_>]) -> io::Result<CapabilitySet> {
    let held = capabilities(None)?;
    let reaching = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
    if !held.effective.intersects(reaching) {
        return Ok(CapabilitySet::empty());
    }
    set_capabilities(None, CapabilitySets { effective: held.effective - reaching, ..held })?;
    let mut wanted = CapabilitySet::empty();
    for file in files {
        match file {
            // Standard input and output are open.
            Needed::Read(path) | Needed::Write(path) if *path == Path::new("-") => {}
            Needed::Read(path) if !can_be_read(path) => wanted |= reaching,
            Needed::Write(path) if !can_be_written(path) => wanted |= reaching,
            _ => {}
        }
    }
    set_capabilities(None, held)?;
    Ok(wanted & held.permitted)
}

fn allowed(path: &Path, how: Access) -> bool {
    // With the effective capabilities: the others are what access(2) asks for.
    !matches!(accessat(CWD, path, how, AtFlags::EACCESS), Err(Errno::ACCESS | Errno::PERM))
}

fn can_be_read(path: &Path) -> bool {
    if !path.is_dir() {
        return allowed(path, Access::READ_OK);
    }
    let within = || fs::read_dir(path).into_iter().flatten().flatten();
    allowed(path, Access::READ_OK | Access::EXEC_OK) && within().all(|file| allowed(&file.path(), Access::READ_OK))
}

fn can_be_written(path: &Path) -> bool {
    let directory = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    let exists = || path.symlink_metadata().is_ok();
    allowed(directory, Access::WRITE_OK | Access::EXEC_OK) && (!exists() || allowed(path, Access::WRITE_OK))
}

#[cfg(test)]
mod tests {
    use rustix::thread::{CapabilitySet, capabilities};

    use super::{Needed, Raised, for_files, keep, lacking_of};

    #[test]
    fn what_is_lacking_is_named() {
        assert_eq!(lacking_of(CapabilitySet::all()), Vec::<String>::new());
        let without = lacking_of(CapabilitySet::all() - CapabilitySet::NET_ADMIN);
        assert!(without[0].starts_with("without CAP_NET_ADMIN conntrack's entries"), "{without:?}");
        assert_eq!(lacking_of(CapabilitySet::empty()).len(), 5);
    }

    /// On a thread of its own: the others keep what they have. Where the tests run without capabilities there is nothing to
    /// give up, and what holds holds.
    #[test]
    fn what_is_given_up_does_not_return() {
        std::thread::spawn(|| {
            let before = capabilities(None).unwrap();
            keep(CapabilitySet::BPF, CapabilitySet::empty()).unwrap();
            let after = capabilities(None).unwrap();
            assert_eq!((after.effective, after.inheritable), (CapabilitySet::empty(), CapabilitySet::empty()));
            assert_eq!(after.permitted, before.permitted & CapabilitySet::BPF);
            {
                let _raised = Raised::now().unwrap();
                assert_eq!(capabilities(None).unwrap().effective, before.permitted & CapabilitySet::BPF);
            }
            assert_eq!(capabilities(None).unwrap(), after);
            keep(CapabilitySet::all(), CapabilitySet::all()).unwrap();
            assert_eq!(capabilities(None).unwrap().permitted, after.permitted, "there is no way back");
        })
        .join()
        .unwrap();
    }

    #[test]
    fn own_files_need_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        let absent = directory.path().join("absent");
        let needed =
            [Needed::Read(directory.path()), Needed::Read(&file), Needed::Write(&file), Needed::Write(&absent)];
        assert_eq!(for_files(&needed).unwrap(), CapabilitySet::empty());
        assert_eq!(for_files(&[Needed::Read(&absent)]).unwrap(), CapabilitySet::empty(), "it is not there");
        let before = capabilities(None).unwrap();
        // root owns these directories: what belongs to another is reached by capability alone.
        if before.effective.contains(CapabilitySet::CHOWN | CapabilitySet::DAC_OVERRIDE) {
            std::os::unix::fs::chown(&file, Some(65_534), Some(65_534)).unwrap();
            std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            for needed in [Needed::Read(&file), Needed::Write(&file), Needed::Read(directory.path())] {
                assert!(for_files(&[needed]).unwrap().contains(CapabilitySet::DAC_OVERRIDE), "{needed:?}");
            }
        }
        assert_eq!(capabilities(None).unwrap(), before);
    }
}
