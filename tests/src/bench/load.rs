//! Processor time, as the kernel accounts for it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// Units of a second that the kernel gives these times in (`USER_HZ`), on every architecture that whyrst knows.
const TICKS: u64 = 100;

/// Time that the guest's processors were busy since it was booted, whoever with.
pub(super) fn busy() -> Result<Duration> {
    const IDLE: [usize; 2] = [3, 4];
    let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    // The last two are guests of this guest, and counted before.
    let columns = line.split_whitespace().skip(1).take(8).enumerate();
    let busy = columns.filter(|(column, _)| !IDLE.contains(column));
    Ok(ticks(busy.filter_map(|(_, value)| value.parse::<u64>().ok()).sum()))
}

/// Time that a process has used, all its threads together: for itself, and in the kernel.
pub(super) fn of_process(id: u32) -> Result<Duration> {
    let path = PathBuf::from(format!("/proc/{id}/stat"));
    let text = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
    // The name may hold anything, a bracket too.
    let (_, columns) = text.rsplit_once(')').context("a process without a name")?;
    let of_both = columns.split_whitespace().skip(11).take(2);
    Ok(ticks(of_both.filter_map(|value| value.parse::<u64>().ok()).sum()))
}

/// The most memory that a process has had, in bytes.
pub(super) fn peak_memory(id: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{id}/status")).context("/proc/PID/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().context("VmHWM")?;
    Ok(kib << 10)
}

fn ticks(count: u64) -> Duration {
    Duration::from_millis(count * (1_000 / TICKS))
}
