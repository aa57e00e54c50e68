//! Network namespaces of the lab.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::panic;
use std::path::PathBuf;
use std::process::Command;
use std::{io, thread};

use anyhow::{Context as _, Result};
use rustix::mount::{UnmountFlags, unmount};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::command;

/// iproute2's `ip`; busybox has one of its own, which knows no namespaces.
pub const IP: &str = "/usr/bin/ip";

/// The command of `ip` that makes a loopback interface work.
pub const LOOPBACK: &str = "link set lo up";

/// A named network namespace; it is deleted with this.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Creates a namespace with a working loopback interface.
    pub fn create(name: &str) -> Result<Self> {
        let [namespace] = Self::create_all([name.to_owned()])?;
        namespace.ip(LOOPBACK)?;
        Ok(namespace)
    }

    /// Creates namespaces whose loopback interfaces are still to be switched on, by [`LOOPBACK`].
    pub fn create_all<const N: usize>(names: [String; N]) -> Result<[Self; N]> {
        let lines = names.each_ref().map(|name| format!("netns add {name}")).join("\n");
        command::feed(Command::new(IP).args(["-batch", "-"]), &lines).context(lines)?;
        Ok(names.map(|name| Self { name }))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its inode number.
    pub fn inode(&self) -> Result<u64> {
        Ok(fs::metadata(self.path()).with_context(|| format!("network namespace {}", self.name))?.ino())
    }

    /// Runs `ip` inside: words separated by spaces.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        let all: Vec<&str> = ["-n", &self.name].into_iter().chain(arguments.split_whitespace()).collect();
        command::run(IP, &all)
    }

    /// Runs several commands of `ip` inside, by one process: starting one takes an emulated machine longer than its work.
    pub fn ip_all<S: AsRef<str>>(&self, commands: &[S]) -> Result<()> {
        let lines: String = commands.iter().flat_map(|command| [command.as_ref(), "\n"]).collect();
        let mut ip = Command::new(IP);
        ip.args(["-n", &self.name, "-batch", "-"]);
        command::feed(&mut ip, &lines).with_context(|| format!("in {}:\n{lines}", self.name))
    }

    /// Runs a program inside. It is started by a thread that is inside; `ip netns exec` would start another process first,
    /// and mount a `/sys` that nobody looks at.
    pub fn run(&self, program: &[&str]) -> Result<String> {
        let (name, arguments) = program.split_first().context("no program")?;
        self.enter(|| command::run(name, arguments))?.with_context(|| format!("in {}", self.name))
    }

    /// Sets a sysctl inside.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = PathBuf::from("/proc/sys").join(name.replace('.', "/"));
        let text = value.to_owned();
        self.enter(move || fs::write(&path, text).with_context(|| format!("writing {}", path.display())))?
            .with_context(|| format!("in {}: {name}={value}", self.name))
    }

    /// Bytes that an interface inside has received.
    pub fn received(&self, interface: &str) -> Result<u64> {
        self.counter(interface, 0)
    }

    /// Packets that an interface inside has received.
    pub fn received_packets(&self, interface: &str) -> Result<u64> {
        self.counter(interface, 1)
    }

    /// A column of an interface's counters.
    fn counter(&self, interface: &str, column: usize) -> Result<u64> {
        let counters = self.enter(|| fs::read_to_string("/proc/thread-self/net/dev"))?.context("reading net/dev")?;
        let of_interface =
            counters.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'));
        of_interface
            .and_then(|counters| counters.split_whitespace().nth(column)?.parse().ok())
            .with_context(|| format!("{interface} of {} has no counters", self.name))
    }

    /// Runs code on a thread inside. Sockets that it opens stay inside when they are taken along.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T> {
        let path = self.path();
        let namespace = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        thread::scope(|scope| {
            let work = scope.spawn(|| -> Result<T> {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(inside())
            });
            match work.join() {
                Ok(result) => result.with_context(|| format!("entering {}", self.name)),
                Err(panicked) => panic::resume_unwind(panicked),
            }
        })
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // As `ip netns delete` does it.
        let path = self.path();
        let removed =
            unmount(&path, UnmountFlags::DETACH).map_err(io::Error::from).and_then(|()| fs::remove_file(&path));
        if let Err(error) = removed {
            eprintln!("{} stays: {error}", path.display());
        }
    }
}
