//! The exact per-CPU, per-hook counters: what happened to every call of a hooked function.

/// Name of the per-CPU array; the index is the hook's number, the value an array of [`COUNT`] `u64`.
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
