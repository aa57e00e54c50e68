//! The counters of the programs, per hook and CPU.

use std::sync::atomic::{AtomicU64, Ordering};
use std::{fs, io};

use tracer_common::counter::{self, LOST};
use tracer_common::hook::{self, Hook};
use tracer_model::capture::HookCounters;

use super::mapped::Mapped;

/// The number of possible CPUs, as an array index needs it: one more than the highest, since the numbers may have gaps.
pub(super) fn cpus() -> io::Result<u32> {
    const POSSIBLE: &str = "/sys/devices/system/cpu/possible";
    let ranges = fs::read_to_string(POSSIBLE)?;
    highest(&ranges).map(|highest| highest + 1).ok_or_else(|| io::Error::other(format!("{POSSIBLE}: {ranges:?}")))
}

/// The highest number of a list such as `0-3,8`.
fn highest(ranges: &str) -> Option<u32> {
    ranges.trim().rsplit([',', '-']).next()?.parse().ok()
}

/// Entries of the array for so many CPUs.
pub(super) const fn entries(cpus: u32) -> u32 {
    counter::index(cpus, 0)
}

/// The array.
#[derive(Debug)]
pub(super) struct CounterMap {
    pub(super) array: Mapped,
    pub(super) cpus: u32,
}

impl CounterMap {
    /// Words of the array.
    pub(super) const fn words(cpus: u32) -> usize {
        entries(cpus) as usize * counter::STRIDE
    }

    /// One of a hook's counters, over all CPUs.
    pub(super) fn sum(&self, hook: Hook, which: usize) -> u64 {
        let counts = (0..self.cpus).filter_map(|cpu| self.of(cpu, hook).get(which));
        counts.map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Sums over all CPUs, and the lost events by CPU and hook.
    pub(super) fn read(&self) -> (Vec<HookCounters>, Vec<(u32, Hook, u64)>) {
        let mut hooks = vec![HookCounters::default(); hook::COUNT];
        let mut lost_on = Vec::new();
        for hook in Hook::ALL {
            for cpu in 0..self.cpus {
                let counts = self.of(cpu, hook).iter().map(|count| count.load(Ordering::Relaxed));
                for (which, (sum, count)) in hooks[hook.index()].0.iter_mut().zip(counts).enumerate() {
                    *sum += count;
                    if which == LOST && count != 0 {
                        lost_on.push((cpu, hook, count));
                    }
                }
            }
        }
        (hooks, lost_on)
    }

    /// The counters of a hook on a CPU.
    fn of(&self, cpu: u32, hook: Hook) -> &[AtomicU64] {
        let at = counter::index(cpu, hook.index()) as usize * counter::STRIDE;
        self.array.words().get(at..at + counter::COUNT).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::highest;

    #[test]
    fn the_last_number_is_the_highest() {
        assert_eq!(highest("0\n"), Some(0));
        assert_eq!(highest("0-127\n"), Some(127));
        assert_eq!(highest("0,2-3\n"), Some(3));
        assert_eq!(highest("\n"), None);
    }
}
