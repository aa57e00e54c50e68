//! Network namespaces: finding one by its inode number, and entering it.
//!
//! A path may lead elsewhere by the time that it is opened: a process ends and its number is used again, a name is bound
//! anew. The inode is therefore checked on the descriptor that is entered. What is asked inside is decided elsewhere.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{io, thread};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use tracer_model::host_context::NetnsPath;

/// Where `ip netns` keeps the names.
pub(crate) const NAMED: &str = "/run/netns";
/// The namespace of the calling thread.
const OF_THREAD: &str = "/proc/thread-self/ns/net";

/// A path to a namespace, which may lead elsewhere by now, and the namespace's name if it has one.
#[derive(Debug)]
pub(crate) struct NetnsHandle {
    inode: u32,
    path: PathBuf,
    name: Option<String>,
}

/// The namespace that a thread returns to, kept open.
#[derive(Debug)]
pub(crate) struct Home {
    file: File,
    inode: u32,
}

/// The namespaces that have a name, as `ip netns` gives it: inode numbers and names.
pub fn names() -> BTreeSet<(u32, String)> {
    named(Path::new(NAMED)).map(|(inode, _, name)| (inode, name)).collect()
}

/// The namespaces that have a name in this directory: inode numbers, paths and names.
pub(crate) fn named(directory: &Path) -> impl Iterator<Item = (u32, PathBuf, String)> + use<> {
    fs::read_dir(directory).into_iter().flatten().flatten().filter_map(|entry| {
        let path = entry.path();
        Some((inode(&path).ok()?, path, entry.file_name().to_string_lossy().into_owned()))
    })
}

/// The namespaces that processes are in: inode numbers, paths and the numbers of the processes.
pub(crate) fn of_processes() -> impl Iterator<Item = (u32, PathBuf, u32)> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let path = entry.path().join("ns/net");
        Some((inode(&path).ok()?, path, pid))
    })
}

/// The inode number of the namespace with this name.
pub fn inode_of_name(name: &str) -> io::Result<u32> {
    inode_of_path(&Path::new(NAMED).join(name))
}

/// The inode number of the namespace that a file leads to, such as `/proc/PID/ns/net`.
pub fn inode_of_path(path: &Path) -> io::Result<u32> {
    /// `NSFS_MAGIC` (include/uapi/linux/magic.h).
    const NSFS: i64 = 0x6e73_6673;
    let file = File::open(path)?;
    // The target of a link below /proc begins with the kind of the namespace.
    let kind = fs::read_link(path).ok().filter(|_| path.starts_with("/proc"));
    let other = kind.is_some_and(|kind| !kind.as_os_str().as_encoded_bytes().starts_with(b"net:"));
    if rustix::fs::fstatfs(&file)?.f_type != NSFS || other {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "this file is not a network namespace"));
    }
    opened(&file)
}

/// The inode number of the namespace that the process is in.
pub fn home() -> io::Result<u32> {
    inode(Path::new("/proc/self/ns/net"))
}

/// The inode number of the namespace that a command reaches this way.
pub fn leads_to(way: &NetnsPath) -> io::Result<u32> {
    match way {
        NetnsPath::Here => home(),
        NetnsPath::Named(name) => inode_of_name(name),
        NetnsPath::Process(pid) => inode(&PathBuf::from(format!("/proc/{pid}/ns/net"))),
    }
}

/// Opens the namespace that a command reaches this way, and gives its inode number.
pub(crate) fn open(way: &NetnsPath) -> io::Result<(u32, File)> {
    let path = match way {
        NetnsPath::Here => PathBuf::from("/proc/self/ns/net"),
        NetnsPath::Named(name) => Path::new(NAMED).join(name),
        NetnsPath::Process(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
    };
    let file = File::open(path)?;
    Ok((opened(&file)?, file))
}

/// Opens the namespace with this inode number, by any name or process.
pub(crate) fn open_inode(inode: u32) -> io::Result<File> {
    let nowhere = || io::Error::new(io::ErrorKind::NotFound, "no name and no process leads there");
    find(inode).ok_or_else(nowhere)?.open()
}

/// Runs code on a thread inside a namespace that is open. Programs that it starts are inside too.
pub(crate) fn enter_opened<T: Send>(netns: &File, question: impl FnOnce() -> T + Send) -> io::Result<T> {
    let (home, inode) = (Home::of_thread()?, opened(netns)?);
    thread::scope(|scope| {
        // Whoever is there already needs no right to enter.
        let visit = || if inode == home.inode { Ok(question()) } else { home.inside(netns, question) };
        let work = thread::Builder::new().spawn_scoped(scope, visit)?;
        work.join().unwrap_or_else(|panicked| std::panic::resume_unwind(panicked))
    })
}

/// Runs code on a thread inside a namespace, so that the calling one stays where it is. Sockets that it opens stay inside.
pub fn enter<T: Send>(netns: u32, question: impl FnOnce() -> T + Send) -> io::Result<T> {
    let home = Home::of_thread()?;
    let handle = find(netns);
    thread::scope(|scope| {
        let visit = || home.visit(netns, handle.as_ref(), question);
        let work = thread::Builder::new().spawn_scoped(scope, visit)?;
        work.join().unwrap_or_else(|panicked| std::panic::resume_unwind(panicked))
    })
}

/// Runs `question` inside the namespace that a path leads to, whichever that is, and returns.
pub(crate) fn visit<T>(path: &Path, question: impl FnOnce() -> T) -> io::Result<T> {
    Home::of_thread()?.inside(&File::open(path)?, question)
}

pub(crate) fn inode(path: &Path) -> io::Result<u32> {
    u32::try_from(fs::metadata(path)?.ino()).map_err(io::Error::other)
}

fn opened(file: &File) -> io::Result<u32> {
    u32::try_from(file.metadata()?.ino()).map_err(io::Error::other)
}

/// Finds a namespace: by its name, or through a process that is in it.
pub(crate) fn find(wanted: u32) -> Option<NetnsHandle> {
    let in_process = || of_processes().find(|(inode, ..)| *inode == wanted);
    let unnamed = |(inode, path, _)| NetnsHandle { inode, path, name: None };
    find_named(Path::new(NAMED), wanted).or_else(|| in_process().map(unnamed))
}

fn find_named(directory: &Path, wanted: u32) -> Option<NetnsHandle> {
    let (inode, path, name) = named(directory).find(|(inode, ..)| *inode == wanted)?;
    Some(NetnsHandle { inode, path, name: Some(name) })
}

impl NetnsHandle {
    /// Opens the path once, and makes sure that what was opened is the namespace that was found.
    fn open(&self) -> io::Result<File> {
        let file = File::open(&self.path)?;
        let found = opened(&file)?;
        if found == self.inode {
            return Ok(file);
        }
        let (path, wanted) = (self.path.display(), self.inode);
        Err(io::Error::other(format!("{path} led to inode {wanted} and now leads to inode {found}")))
    }

    /// The namespace's name.
    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }
}

/// How a command that is started where this program was comes to run in the namespace of a handle.
pub(crate) fn way(handle: Option<&NetnsHandle>, at_home: bool) -> NetnsPath {
    match handle {
        Some(NetnsHandle { name: Some(name), .. }) => NetnsPath::Named(name.clone()),
        Some(handle) if !at_home => {
            let pid = handle.path.iter().nth(2).and_then(|pid| pid.to_str()?.parse().ok());
            pid.map_or(NetnsPath::Here, NetnsPath::Process)
        }
        _ => NetnsPath::Here,
    }
}

impl Home {
    /// The namespace that the calling thread is in.
    pub(crate) fn of_thread() -> io::Result<Self> {
        let file = File::open(OF_THREAD)?;
        Ok(Self { inode: opened(&file)?, file })
    }

    /// Its inode number.
    pub(crate) const fn inode(&self) -> u32 {
        self.inode
    }

    /// Runs `question` inside a namespace and returns; the calling thread is at home.
    pub(crate) fn visit<T>(
        &self,
        netns: u32,
        handle: Option<&NetnsHandle>,
        question: impl FnOnce() -> T,
    ) -> io::Result<T> {
        if netns == self.inode {
            return Ok(question());
        }
        let nowhere = || io::Error::new(io::ErrorKind::NotFound, "no name and no process leads there");
        self.inside(&handle.ok_or_else(nowhere)?.open()?, question)
    }

    fn inside<T>(&self, netns: &File, question: impl FnOnce() -> T) -> io::Result<T> {
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
        let answer = question();
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::{Home, find, find_named, home, inode};

    /// A name that is bound to another namespace between finding and entering: what is opened is not entered.
    #[test]
    fn a_path_that_leads_elsewhere_is_not_entered() {
        let directory = tempfile::tempdir().unwrap();
        let name = directory.path().join("gw");
        symlink("/proc/self/ns/net", &name).unwrap();
        let here = home().unwrap();
        let handle = find_named(directory.path(), here).unwrap();
        assert_eq!((handle.name(), handle.open().is_ok()), (Some("gw"), true));
        // Another kind of namespace stands for another network namespace: it takes no rights to open it.
        fs::remove_file(&name).unwrap();
        symlink("/proc/self/ns/uts", &name).unwrap();
        let other = inode(Path::new("/proc/self/ns/uts")).unwrap();
        let visitor = Home { inode: other, ..Home::of_thread().unwrap() };
        let error = visitor.visit(here, Some(&handle), || ()).unwrap_err().to_string();
        assert!(error.contains(&here.to_string()) && error.contains(&other.to_string()), "{error}");
    }

    #[test]
    fn the_own_namespace_is_found_through_a_process() {
        assert_eq!(find(home().unwrap()).unwrap().open().unwrap().metadata().unwrap().len(), 0);
        assert!(find(1).is_none(), "the numbers of namespaces begin at PROC_DYNAMIC_FIRST");
    }
}
