//! What the full table did, per network namespace: counted as events without endpoints, see [`crate::flood`].
//!
//! How often a new connection found the table full (`early_drop`, `net/netfilter/nf_conntrack_core.c`, 5.10 to 7.2).

/// Class of a packet that would have opened a connection and was dropped.
pub const DROPPED: u32 = 0;
/// Class of a new connection that took the place of another.
pub const MADE_ROOM: u32 = 1;
