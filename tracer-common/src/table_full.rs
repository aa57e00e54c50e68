//! Classes of the events that count, per network namespace, how often a new connection found the conntrack table full
//! (`early_drop`, `net/netfilter/nf_conntrack_core.c`, 5.10 to 7.2).
//!
//! Their keys have no endpoints, so that each namespace takes two overflow slots of [`crate::ratelimit`].

/// The kernel dropped the packet that would have opened a connection.
pub const DROPPED: u32 = 0;
/// The kernel evicted another entry to make room for the new connection.
pub const MADE_ROOM: u32 = 1;
