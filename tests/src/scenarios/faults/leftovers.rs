//! What a program could leave behind in the kernel, listed before and after.

use std::collections::BTreeSet;
use std::error::Error;
use std::time::Instant;
use std::{fs, io};

use anyhow::{Context as _, Result, bail};
use aya::maps::{MapInfo, loaded_maps};
use aya::programs::links::LinkInfo;
use aya::programs::{ProgramInfo, loaded_links, loaded_programs};

use crate::command;
use crate::netns::Namespace;
use crate::wire::PATIENCE;

/// Everything that whyrst makes, or could make, in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leftovers {
    /// BPF programs, maps and links, by number.
    bpf: [BTreeSet<u32>; 3],
    /// Kprobes, by address and function.
    kprobes: BTreeSet<String>,
    /// Events that were made with tracefs.
    events: String,
    /// Queueing disciplines, rules, interfaces and packet sockets.
    network: Vec<String>,
}

impl Leftovers {
    /// What there is now, in the kernel and in the gateway's namespace.
    pub(super) fn now(gateway: &Namespace) -> Result<Self> {
        let kprobes = fs::read_to_string("/sys/kernel/debug/kprobes/list").context("kprobes/list")?;
        // Their states are settled in the background.
        let links = gateway.ip("-o link show")?;
        let links = links.lines().filter_map(|line| line.split(": ").nth(1)).collect::<Vec<_>>().join(" ");
        let sockets = gateway.enter(|| fs::read_to_string("/proc/thread-self/net/packet"))?.context("net/packet")?;
        Ok(Self {
            bpf: [
                listed(loaded_programs(), ProgramInfo::id).context("listing programs")?,
                listed(loaded_maps(), MapInfo::id).context("listing maps")?,
                listed(loaded_links(), LinkInfo::id).context("listing links")?,
            ],
            kprobes: kprobes.lines().map(str::to_owned).collect(),
            events: fs::read_to_string("/sys/kernel/debug/tracing/kprobe_events").context("kprobe_events")?,
            network: vec![
                gateway.run(&["tc", "qdisc", "show"])?,
                gateway.run(&["nft", "list", "ruleset"])?,
                links,
                sockets,
                command::run("/sbin/tc", &["qdisc", "show"])?,
            ],
        })
    }

    /// Whether no BPF program is there but those that were there before.
    pub(super) fn has_programs_of(before: &Self) -> Result<bool> {
        let programs = listed(loaded_programs(), ProgramInfo::id).context("listing programs")?;
        Ok(programs == before.bpf[0])
    }

    /// Waits until there is nothing but what there was before. The kernel frees some of it in the background.
    pub(super) fn come_back_to(before: &Self, gateway: &Namespace) -> Result<()> {
        let start = Instant::now();
        loop {
            let now = Self::now(gateway)?;
            if now == *before {
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                bail!("something is left behind.\nbefore: {before:#?}\nafter: {now:#?}");
            }
        }
    }
}

/// The IDs of the listed objects. An object that is deleted during the listing is left out.
fn listed<T, E: Error + Send + Sync + 'static>(
    found: impl Iterator<Item = Result<T, E>>,
    number: impl Fn(&T) -> u32,
) -> Result<BTreeSet<u32>> {
    let was_deleted = |error: &E| {
        let mut cause: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(error) = cause {
            if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::NotFound) {
                return true;
            }
            cause = error.source();
        }
        false
    };
    let there = found.filter(|found| !found.as_ref().is_err_and(was_deleted));
    there.map(|found| Ok(number(&found?))).collect()
}
