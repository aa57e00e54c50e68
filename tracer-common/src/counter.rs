//! The exact per-CPU, per-hook counters: what happened to every call of a hooked function.

/// Name of the array: an array of [`PLACES`] `u64` for each hook of each CPU, see [`index`]. It is mapped into user space.
pub const MAP: &str = "COUNTERS";

/// Calls of the hooked function that the program saw.
pub const HITS: usize = 0;
/// Calls that are not an event: another protocol, the nested log call, or one of the kernel's own early returns.
pub const PASSED: usize = 1;
/// Records handed to user space.
pub const EMITTED: usize = 2;
/// Events lost: neither told nor counted by flow.
pub const LOST: usize = 3;
/// Records handed over although a field the hook needs could not be read.
pub const INCOMPLETE: usize = 4;
/// Events that were counted, with their flow, instead of being told; see [`crate::flood`].
pub const SUPPRESSED: usize = 5;
/// How many counters a hook has.
pub const COUNT: usize = 6;
/// Numbers that there is room for: a cache line, so that no CPU writes to that of another.
pub const PLACES: usize = 8;

/// Where the counters of a hook on a CPU are.
#[inline]
#[must_use]
pub const fn index(cpu: u32, hook: usize) -> u32 {
    cpu * crate::hook::COUNT as u32 + hook as u32
}
