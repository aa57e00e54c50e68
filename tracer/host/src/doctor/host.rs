//! What `whyrst doctor` reads of the host, and whether it can be traced.

use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::process::{Resource, getrlimit};

use tracer_common::Hook;
use tracer_model::conntrack::log_format::LogFormat;
use tracer_model::health::{Machine, MapMemory, Obstacle, Tracing};

use crate::attach::{Kernel, conntrack_is_loaded, symbols};
use crate::preflight::chain;

/// Programs that advice may name where they are there.
const PROGRAMS: [&str; 4] = ["conntrack", "ip6tables-legacy", "iptables-legacy", "nft"];
/// Where the kernel shows the size of an entry; both are for root alone.
const OBJECT_SIZE: &str = "/sys/kernel/slab/nf_conntrack/object_size";
const SLABS: &str = "/proc/slabinfo";

/// Reads what the host is and whether it can be traced; `obstacles` are known already.
pub fn read(obstacles: Vec<Obstacle>) -> io::Result<(Machine, Tracing)> {
    let symbols = symbols()?;
    let conntrack = conntrack_is_loaded(&symbols);
    let (mut hooks, mut missing_fields, mut problem, mut log_format) = (Vec::new(), Vec::new(), None, None);
    if conntrack {
        match Kernel::inspect(&symbols) {
            Ok(kernel) => {
                let other_tap = if kernel.has_tcx { Hook::PacketTap } else { Hook::TcxTap };
                let possible = Hook::ALL.into_iter().filter(|hook| *hook != other_tap);
                hooks = possible.map(|hook| (hook, kernel.plan(hook, &symbols))).collect();
                missing_fields = kernel.missing_fields();
                log_format = Some(kernel.log_format);
            }
            Err(error) => problem = Some(chain(&error)),
        }
    }
    let memory = map_memory(log_format);
    let tracing = Tracing { obstacles, conntrack, hooks, missing_fields, memory, problem };
    Ok((machine(log_format), tracing))
}

/// What this host is to a ruleset that was sent: the kernel that loads it. Its memory and its tools do not matter.
pub fn of_file() -> Machine {
    let unknown = machine(None);
    Machine { memory: None, entry_bytes: None, programs: PROGRAMS.to_vec(), unread: Vec::new(), ..unknown }
}

fn machine(log_format: Option<LogFormat>) -> Machine {
    let uname = rustix::system::uname();
    let mut unread = Vec::new();
    let memory = fs::read_to_string("/proc/meminfo").ok().and_then(|text| kibibytes(&text, "MemTotal:"));
    if memory.is_none() {
        unread.push("/proc/meminfo has no MemTotal: the table's size cannot be judged".to_owned());
    }
    let entry_bytes = entry_bytes().unwrap_or_else(|error| {
        unread.push(format!("the size of an entry is assumed to be about 300 bytes: {OBJECT_SIZE}, {SLABS}: {error}"));
        None
    });
    Machine {
        hostname: uname.nodename().to_string_lossy().into_owned(),
        kernel: uname.release().to_string_lossy().into_owned(),
        log_format,
        memory,
        entry_bytes,
        programs: PROGRAMS.into_iter().filter(|program| is_installed(program)).collect(),
        unread,
    }
}

fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().trim_end_matches(" kB").parse::<u64>().ok()?.checked_mul(1024)
}

/// The size of an entry without its extensions.
fn entry_bytes() -> io::Result<Option<u64>> {
    if let Ok(text) = fs::read_to_string(OBJECT_SIZE) {
        return Ok(text.trim().parse().ok());
    }
    let slabs = fs::read_to_string(SLABS)?;
    // name, active objects, all objects, size of an object, …
    Ok(slabs.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nf_conntrack")).then(|| words.nth(2)?.parse().ok()).flatten()
    }))
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

fn map_memory(log_format: Option<LogFormat>) -> MapMemory {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0);
    // Maps were charged to the limit up to 5.10, and whoever has the capability raises it.
    let counts = log_format == Some(LogFormat::E1) && effective & (1 << CAP_SYS_RESOURCE) == 0;
    MapMemory { locked: counts.then(|| getrlimit(Resource::Memlock).current).flatten(), group_left: group_left() }
}

/// Bytes that are left in the control group of this process or of one above it, whichever has the least.
fn group_left() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mut group = PathBuf::from("/sys/fs/cgroup").join(path.trim_start_matches('/'));
    let mut least = None;
    while group.starts_with("/sys/fs/cgroup") {
        let read = |name: &str| fs::read_to_string(group.join(name)).ok();
        let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
        // `max` is no number.
        if let (Some(max), Some(current)) = (number("memory.max"), number("memory.current")) {
            // Cached pages of files make room.
            let stat = read("memory.stat").unwrap_or_default();
            let cached = stat.lines().find_map(|line| line.strip_prefix("file ")?.trim().parse::<u64>().ok());
            let left = max.saturating_sub(current.saturating_sub(cached.unwrap_or(0)));
            least = Some(least.map_or(left, |known: u64| known.min(left)));
        }
        group = group.parent().unwrap_or(Path::new("/")).to_path_buf();
    }
    least
}

#[cfg(test)]
mod tests {
    use super::kibibytes;

    #[test]
    fn memory_is_read() {
        assert_eq!(kibibytes("MemTotal:        8048576 kB\nMemFree: 1 kB\n", "MemTotal:"), Some(8_048_576 * 1024));
        assert_eq!(kibibytes("MemFree: 1 kB\n", "MemTotal:"), None);
        assert_eq!(kibibytes("MemTotal: many kB\n", "MemTotal:"), None);
    }
}
