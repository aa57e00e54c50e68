//! A memory limit on whyrst itself: it runs, or says why not, and leaves nothing either way.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Signal;

use super::super::Context;
use super::super::connection::Connection;
use super::leftovers::Leftovers;
use crate::expect::Expect;
use crate::topology::{Lab, Nat, server};
use crate::whyrst::{BINARY, Capture};

/// Limits that are tried, in MiB.
const LIMITS: [u64; 3] = [16, 71, 72];
/// With so much it has to run, and with less to say that it cannot, in MiB.
const ENOUGH: u64 = 72;
/// Where control groups are.
const ROOT: &str = "/sys/fs/cgroup";

/// The control groups of memory, with one of them for whyrst.
struct Group;

impl Group {
    fn make() -> Result<Self> {
        mount("cgroup2", ROOT, "cgroup2", MountFlags::empty(), None).context("mounting cgroup2")?;
        let group = Self;
        fs::write(Path::new(ROOT).join("cgroup.subtree_control"), "+memory").context("cgroup.subtree_control")?;
        fs::create_dir(group.path("")).context("making a control group")?;
        Ok(group)
    }

    fn path(&self, file: &str) -> std::path::PathBuf {
        let Self = self;
        Path::new(ROOT).join("small").join(file)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(self.path("")).map_err(anyhow::Error::from).and_then(|()| {
            fs::write(Path::new(ROOT).join("cgroup.subtree_control"), "-memory")?;
            Ok(unmount(ROOT, UnmountFlags::empty())?)
        }) {
            eprintln!("the control group stays: {error}");
        }
    }
}

pub(in super::super) fn limited(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let group = Group::make()?;
    let before = Leftovers::now(&lab.gateway)?;
    let mut expect = Expect::new();
    for limit in LIMITS {
        fs::write(group.path("memory.max"), (limit << 20).to_string()).context("memory.max")?;
        let report = context.artifacts.join(format!("{limit}.json"));
        let line = format!(
            "echo $$ > {}; exec {BINARY} report --format json -o {}",
            group.path("cgroup.procs").display(),
            report.display()
        );
        let mut capture = Capture::of(Command::new("/bin/sh").args(["-c", &line]), report.clone(), report)?;
        let listens = capture.wait_for("listening to").is_ok();
        let (status, said) = if listens {
            Connection::open(&lab, server(443))?.is_reset()?;
            capture.signal(Signal::INT)?;
            capture.fails()?
        } else {
            capture.fails()?
        };
        let peak = fs::read_to_string(group.path("memory.peak")).unwrap_or_default();
        let last = said.lines().last().unwrap_or_default();
        context.step(format!("{limit} MiB: listens: {listens}, status {status:?}, peak {}, {last}", peak.trim()));
        let limited = format!("its control group allows {limit} MiB");
        let refused = status == Some(3) && said.contains(&limited);
        expect.that(if limit < ENOUGH { refused } else { status == Some(0) }, || {
            format!("{limit} MiB: status {status:?}: {said}")
        });
        Leftovers::come_back_to(&before, &lab.gateway).with_context(|| format!("with {limit} MiB"))?;
    }
    expect.verdict()
}
