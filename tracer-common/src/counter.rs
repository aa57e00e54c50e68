//! The exact counters of each hook on each CPU: every call of a hooked function is in one of them.

/// Name of the array: [`STRIDE`] `u64` for each hook of each CPU, see [`index`]. User space maps it into memory.
pub const MAP: &str = "COUNTERS";

/// Calls of the hooked function that the program saw.
pub const HITS: usize = 0;
/// Calls that are not an event: another protocol, the nested log call, or one of the kernel's own early returns.
pub const PASSED: usize = 1;
/// Records emitted.
pub const EMITTED: usize = 2;
/// Events lost: neither emitted nor counted by flow.
pub const LOST: usize = 3;
/// Records emitted although a field that the hook needs could not be read.
pub const INCOMPLETE: usize = 4;
/// Events suppressed by the rate limit and counted by flow; see [`crate::ratelimit`].
pub const SUPPRESSED: usize = 5;
/// Number of counters of a hook.
pub const COUNT: usize = 6;
/// Numbers from one hook's counters to the next one's: a cache line, so that no two CPUs write to the same one.
pub const STRIDE: usize = 8;

/// Index of the counters of a hook on a CPU.
#[inline]
#[must_use]
pub const fn index(cpu: u32, hook: usize) -> u32 {
    cpu * crate::hook::COUNT as u32 + hook as u32
}
