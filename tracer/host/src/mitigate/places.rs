//! The network namespaces that a mitigation changes, each opened once. A descriptor leads to the same namespace for as long as
//! it is open; a name or the number of a process may lead to another one at any time.

use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::{env, io};

use tracer_model::host_context::NetnsPath;
use tracer_model::mitigation::Step;

use crate::boot_id;
use crate::netns::{enter_opened, leads_to, open, open_inode};

/// Where the tools of firewalls are, which `PATH` does not have for everybody.
const SUPERUSER: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// The namespaces, kept open.
#[derive(Debug)]
pub struct Places {
    boot: String,
    all: Vec<Opened>,
    /// Where programs are searched.
    pub(super) tools: OsString,
    /// Where the kernel has its sysctls.
    pub(super) sysctls: PathBuf,
}

#[derive(Debug)]
struct Opened {
    way: NetnsPath,
    inode: u32,
    file: File,
}

/// Why a namespace is not entered.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// It cannot be opened.
    #[error("no command can enter the network namespace {place}: {error}")]
    Closed {
        /// Its inode number or the way there.
        place: String,
        /// Why not.
        error: io::Error,
    },
    /// The way leads elsewhere.
    #[error("{way} led to the network namespace {expected} and now leads to {found}; nothing was changed")]
    Elsewhere {
        /// The way.
        way: String,
        /// The inode number of the namespace that was meant.
        expected: u32,
        /// The inode number of the one that is there, or why there is none.
        found: String,
    },
    /// The host was restarted.
    #[error("this host has been restarted: its network namespaces are others now")]
    OtherBoot,
    /// The number of the boot.
    #[error("the number of this boot: {0}")]
    Boot(io::Error),
}

impl Places {
    /// Opens the namespaces of a mitigation: those with known inode numbers, and those that its steps change besides.
    pub fn of(targets: &[(u32, NetnsPath)], steps: &[Step]) -> Result<Self, PlaceError> {
        let mut places = Self::none()?;
        for (inode, way) in targets {
            places.add(way, Some(*inode))?;
        }
        for step in steps {
            places.add(&step.netns, None)?;
        }
        Ok(places)
    }

    /// Opens the namespaces of an earlier application. Of the same boot these are the same namespaces, found by any way that
    /// leads there; after a restart, a name is all that is left of one.
    pub fn again(targets: &[(u32, NetnsPath)], same_boot: bool) -> Result<Self, PlaceError> {
        let mut places = Self::none()?;
        for (inode, way) in targets {
            if same_boot {
                if places.add(way, Some(*inode)).is_err() {
                    let closed = |error| PlaceError::Closed { place: inode.to_string(), error };
                    let (inode, file) = (*inode, open_inode(*inode).map_err(closed)?);
                    places.all.push(Opened { way: way.clone(), inode, file });
                }
            } else if matches!(way, NetnsPath::Process(_)) {
                return Err(PlaceError::OtherBoot);
            } else {
                places.add(way, None)?;
            }
        }
        Ok(places)
    }

    fn none() -> Result<Self, PlaceError> {
        let mut tools = env::var_os("PATH").unwrap_or_default();
        if !tools.is_empty() {
            tools.push(":");
        }
        tools.push(SUPERUSER);
        let boot = boot_id().map_err(PlaceError::Boot)?;
        Ok(Self { boot, all: Vec::new(), tools, sysctls: PathBuf::from("/proc/sys") })
    }

    fn add(&mut self, way: &NetnsPath, expected: Option<u32>) -> Result<(), PlaceError> {
        if self.all.iter().any(|place| place.way == *way && expected.is_none_or(|inode| inode == place.inode)) {
            return Ok(());
        }
        let (inode, file) = open(way).map_err(|error| PlaceError::Closed { place: shown(way), error })?;
        if let Some(expected) = expected.filter(|expected| *expected != inode) {
            return Err(PlaceError::Elsewhere { way: shown(way), expected, found: inode.to_string() });
        }
        self.all.push(Opened { way: way.clone(), inode, file });
        Ok(())
    }

    /// Whether the ways still lead to these namespaces, in the same boot. What was printed would go elsewhere otherwise, and
    /// so would the undo.
    pub fn check(&self) -> Result<(), PlaceError> {
        if boot_id().map_err(PlaceError::Boot)? != self.boot {
            return Err(PlaceError::OtherBoot);
        }
        for Opened { way, inode, .. } in &self.all {
            let found = match leads_to(way) {
                Ok(found) if found == *inode => continue,
                Ok(found) => found.to_string(),
                Err(error) => format!("none ({error})"),
            };
            return Err(PlaceError::Elsewhere { way: shown(way), expected: *inode, found });
        }
        Ok(())
    }

    /// The boot that they were opened in.
    pub fn boot(&self) -> &str {
        &self.boot
    }

    /// Inode numbers, and the ways there.
    pub fn ways(&self) -> Vec<(u32, NetnsPath)> {
        self.all.iter().map(|Opened { way, inode, .. }| (*inode, way.clone())).collect()
    }

    /// Runs code inside one of them, on a thread of its own.
    pub(super) fn inside<T: Send>(&self, way: &NetnsPath, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        self.inside_of(|place| place.way == *way, work)
    }

    /// Runs code inside the one with this inode number, on a thread of its own.
    pub(super) fn inside_inode<T: Send>(&self, inode: u32, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        self.inside_of(|place| place.inode == inode, work)
    }

    fn inside_of<T: Send>(&self, is: impl Fn(&Opened) -> bool, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        let unknown = || io::Error::new(io::ErrorKind::NotFound, "this network namespace was not opened");
        enter_opened(&self.all.iter().find(|place| is(place)).ok_or_else(unknown)?.file, work)
    }
}

fn shown(way: &NetnsPath) -> String {
    match way {
        NetnsPath::Here => "the network namespace of whyrst".to_owned(),
        NetnsPath::Named(name) => format!("the name {name:?}"),
        NetnsPath::Process(pid) => format!("process {pid}"),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use tracer_model::host_context::NetnsPath;

    use super::{PlaceError, Places};
    use crate::netns::{home, leads_to};

    #[test]
    fn a_namespace_is_the_one_that_was_meant() {
        let here = home().unwrap();
        let places = Places::of(&[(here, NetnsPath::Here)], &[]).unwrap();
        places.check().unwrap();
        assert_eq!(places.inside(&NetnsPath::Here, || leads_to(&NetnsPath::Here).unwrap()).unwrap(), here);
        let other = Places::of(&[(here + 1, NetnsPath::Here)], &[]).unwrap_err();
        assert!(matches!(other, PlaceError::Elsewhere { .. }), "{other}");
        assert!(places.inside(&NetnsPath::Process(1), || ()).is_err(), "it was not opened");
    }

    /// The number of a process leads elsewhere once the process has ended: the descriptor does not.
    #[test]
    fn a_way_that_leads_nowhere_any_more() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let way = NetnsPath::Process(child.id());
        let places = Places::of(&[(home().unwrap(), way.clone())], &[]).unwrap();
        places.check().unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
        let error = places.check().unwrap_err();
        assert!(matches!(error, PlaceError::Elsewhere { .. }), "{error}");
        places.inside(&way, || ()).unwrap();
        // The undo of this boot finds the namespace by another process; of another boot it does not look for it.
        let again = Places::again(&places.ways(), true).unwrap();
        again.inside(&way, || ()).unwrap();
        assert!(matches!(Places::again(&places.ways(), false), Err(PlaceError::OtherBoot)));
    }
}
