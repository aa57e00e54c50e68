//! What the full table did, per network namespace.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Name of the map: from the inode number of a network namespace to a [`TableFull`] per CPU.
pub const MAP: &str = "TABLE_FULL";

/// Namespaces that are counted; of more, those that were full longest ago are forgotten.
pub const NAMESPACES: u32 = 1_024;

/// How often a new connection found the table full (`early_drop`, `net/netfilter/nf_conntrack_core.c`, 5.10 to 7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TableFull {
    /// Packets that would have opened a connection and were dropped.
    pub dropped: u64,
    /// New connections that took the place of others.
    pub made_room: u64,
    /// The first time: nanoseconds of `CLOCK_BOOTTIME`.
    pub first_ns: u64,
    /// The last time, likewise.
    pub last_ns: u64,
}
