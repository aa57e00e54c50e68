//! How often BPF programs run: by the kernel's own count, of every program that is loaded, whoever has loaded it.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context as _, Result};
use aya::programs::loaded_programs;

/// A program that is loaded.
#[derive(Debug, Clone, Default)]
pub(super) struct Program {
    pub(super) name: String,
    /// How often it ran.
    pub(super) runs: u64,
    /// For how long, in nanoseconds. The way into it and out of it is not in there.
    pub(super) nanoseconds: u64,
}

/// Every program that is loaded, by its number.
pub(super) type Programs = BTreeMap<u32, Program>;

/// Reads the kernel's counts.
pub(super) fn loaded() -> Result<Programs> {
    let mut programs = Programs::new();
    for info in loaded_programs() {
        let info = info.context("asking for a BPF program")?;
        // The program may have been unloaded in between.
        let Ok(descriptor) = info.fd() else { continue };
        let name = String::from_utf8_lossy(info.name()).into_owned();
        let (runs, nanoseconds) = (described(&descriptor, "run_cnt:")?, described(&descriptor, "run_time_ns:")?);
        let program = Program { name, runs, nanoseconds };
        programs.insert(info.id(), program);
    }
    Ok(programs)
}

/// A number that the kernel shows of a descriptor; 0 where it shows none.
pub(super) fn described(descriptor: &impl AsFd, name: &str) -> Result<u64> {
    let path = format!("/proc/self/fdinfo/{}", descriptor.as_fd().as_raw_fd());
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    Ok(value.and_then(|value| value.parse().ok()).unwrap_or_default())
}

/// What has run between two readings.
pub(super) fn since(before: &Programs, after: &Programs) -> Vec<Program> {
    let of = |(id, program): (&u32, &Program)| {
        let known = before.get(id).cloned().unwrap_or_default();
        Program {
            name: program.name.clone(),
            runs: program.runs - known.runs,
            nanoseconds: program.nanoseconds - known.nanoseconds,
        }
    };
    after.iter().map(of).filter(|program| program.runs > 0).collect()
}

/// Switches the kernel's count on, which costs something per run, and off again.
#[derive(Debug)]
pub(super) struct Counting(());

impl Counting {
    const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

    pub(super) fn start() -> Result<Self> {
        fs::write(Self::SWITCH, "1").context(Self::SWITCH)?;
        Ok(Self(()))
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        if let Err(error) = fs::write(Self::SWITCH, "0") {
            eprintln!("{}: {error}", Self::SWITCH);
        }
    }
}

/// Counts how often packets are handed to packet sockets. Each time the socket's filter runs: a classic one, which the
/// kernel does not count as it counts programs.
#[derive(Debug)]
pub(super) struct PacketSockets(());

impl PacketSockets {
    const EVENTS: &str = "/sys/kernel/debug/tracing/kprobe_events";
    const ENABLE: &str = "/sys/kernel/debug/tracing/events/kprobes/enable";
    const PROFILE: &str = "/sys/kernel/debug/tracing/kprobe_profile";
    /// The functions that packet sockets receive by: with a ring, and without.
    const FUNCTIONS: [&str; 2] = ["tpacket_rcv", "packet_rcv"];

    pub(super) fn start() -> Result<Self> {
        let probes: Vec<String> = Self::FUNCTIONS.iter().map(|function| format!("p:{function} {function}")).collect();
        // The functions are in a module on some kernels; where it is not loaded, nobody has such a socket.
        let symbols = fs::read_to_string("/proc/kallsyms").context("/proc/kallsyms")?;
        if symbols.contains(" tpacket_rcv") {
            fs::write(Self::EVENTS, probes.join("\n")).context(Self::EVENTS)?;
            fs::write(Self::ENABLE, "1").context(Self::ENABLE)?;
        }
        Ok(Self(()))
    }

    /// How often since the start.
    pub(super) fn count(&self) -> Result<u64> {
        let Self(()) = self;
        let text = fs::read_to_string(Self::PROFILE).context(Self::PROFILE)?;
        Ok(text.lines().filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum())
    }
}

impl Drop for PacketSockets {
    fn drop(&mut self) {
        if !fs::read_to_string(Self::EVENTS).is_ok_and(|text| !text.is_empty()) {
            return;
        }
        if let Err(error) = fs::write(Self::ENABLE, "0").and_then(|()| fs::write(Self::EVENTS, "\n")) {
            eprintln!("{}: {error}", Self::EVENTS);
        }
    }
}
