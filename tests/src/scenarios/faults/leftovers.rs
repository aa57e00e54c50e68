//! What a program could leave behind in the kernel, listed before and after.

use std::collections::BTreeSet;
use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use aya::maps::loaded_maps;
use aya::programs::{loaded_links, loaded_programs};

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
        let programs = loaded_programs().map(|program| Ok(program?.id())).collect::<Result<_>>();
        let maps = loaded_maps().map(|map| Ok(map?.id())).collect::<Result<_>>();
        let links = loaded_links().map(|link| Ok(link?.id())).collect::<Result<_>>();
        let kprobes = fs::read_to_string("/sys/kernel/debug/kprobes/list").context("kprobes/list")?;
        let sockets = gateway.enter(|| fs::read_to_string("/proc/thread-self/net/packet"))?.context("net/packet")?;
        Ok(Self {
            bpf: [
                programs.context("listing programs")?,
                maps.context("listing maps")?,
                links.context("listing links")?,
            ],
            kprobes: kprobes.lines().map(str::to_owned).collect(),
            events: fs::read_to_string("/sys/kernel/debug/tracing/kprobe_events").context("kprobe_events")?,
            network: vec![
                gateway.run(&["tc", "qdisc", "show"])?,
                gateway.run(&["nft", "list", "ruleset"])?,
                gateway.ip("-o link show")?,
                sockets,
                command::run("/sbin/tc", &["qdisc", "show"])?,
            ],
        })
    }

    /// Whether no BPF program is there but those that were there before.
    pub(super) fn has_programs_of(before: &Self) -> Result<bool> {
        let programs: BTreeSet<u32> =
            loaded_programs().map(|program| Ok(program?.id())).collect::<Result<_>>().context("listing programs")?;
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
