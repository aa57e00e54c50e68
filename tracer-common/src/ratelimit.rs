//! The rate limit on records, and the counts of the events that it suppresses.
//!
//! Each event belongs to a [`Key`]: the packet's endpoints on the wire, the hook and a class within the hook. The first
//! event of a key becomes a record, and so do a limited number of later ones each second; every other event is suppressed:
//! it only adds to the key's [`Suppressed`] counts. A packet that conntrack logged and the RST that answers it share one
//! decision, so that the record of one never lacks the other.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Name of the hash map from a [`Key`] to the number of its [`Slot`], a `u32`.
pub const SLOT_INDEX: &str = "SLOT_INDEX";
/// Name of the array of [`SLOTS`] [`Slot`]s. User space maps it into memory, because the kernel runs no kprobe program on a
/// CPU during a map look-up from user space (`bpf_disable_instrumentation`, 5.10 to 7.2).
pub const MAP: &str = "SLOTS";
/// Name of the queue of chunks that no CPU has taken, by number. User space fills it.
pub const FREE_CHUNKS: &str = "FREE_CHUNKS";
/// Name of the queue of free overflow slots, by number. User space fills it.
pub const FREE_OVERFLOW: &str = "FREE_OVERFLOW";
/// Name of the array of one [`Untracked`]. User space maps it into memory.
pub const UNTRACKED: &str = "UNTRACKED";

/// Number of slots. With the index and the kernel's own overhead they take 28 MB; the kernel rounds the number of hash
/// buckets up to a power of two, so that one more slot would double the buckets.
pub const SLOTS: u32 = 131_072;
/// The last slots of the array: for keys without endpoints, and for events whose key found no slot of its own.
pub const OVERFLOW_SLOTS: u32 = 1_024;
/// The slots of keys with endpoints: room for 65,000 connections with refused and answered segments, which take two keys
/// each.
pub const FLOW_SLOTS: u32 = SLOTS - OVERFLOW_SLOTS;
/// Slots that a CPU takes at a time.
pub const CHUNK: u32 = 64;
/// Number of chunks.
pub const CHUNKS: u32 = FLOW_SLOTS / CHUNK;
/// Most keys of untracked flows: of packets that belong to no connection that conntrack knows or knew. Senders can invent
/// endpoints at will; they must not take the slots of connections that die.
pub const UNTRACKED_KEYS: u64 = 65_536;

/// Most records of one key in a second.
pub const PER_KEY: u32 = 64;
/// Most records of one CPU in a second, beyond the first of each key.
pub const PER_CPU: u32 = 1_000;
/// The second, in nanoseconds.
pub const WINDOW_NS: u64 = 1_000_000_000;

/// The key that the rate limit applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Key {
    /// Source address, network order; IPv4 in the first four bytes, the others zero.
    pub src: [u8; 16],
    /// Destination address, likewise.
    pub dst: [u8; 16],
    /// Source port, network order.
    pub sport: [u8; 2],
    /// Destination port, network order.
    pub dport: [u8; 2],
    /// Inode number of the network namespace, 0 where it could not be read.
    pub netns: u32,
    /// Distinguishes the events of one hook, see [`crate::wire::Record::class`].
    pub class: u32,
    /// [`crate::Hook`] number.
    pub hook: u16,
    /// IP version: 4 or 6; 0 for a key without endpoints.
    pub version: u16,
}

/// A key and its suppressed events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Slot {
    /// The key; zero where [`Suppressed::flags`] is 0.
    pub key: Key,
    /// Its suppressed events.
    pub suppressed: Suppressed,
}

/// The number of keys of untracked flows, which [`UNTRACKED_KEYS`] limits: `added - removed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Untracked {
    /// Keys added so far, by the programs.
    pub added: u64,
    /// Keys removed so far, by user space.
    pub removed: u64,
}

/// The suppressed events of a [`Key`], and the state of its rate limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Suppressed {
    /// Number of events.
    pub count: u64,
    /// Suppressed RSTs of the TCP stack that answered packets of this key.
    pub answered: u64,
    /// Time of the last event: nanoseconds of `CLOCK_BOOTTIME`.
    pub last_ns: u64,
    /// Start of the second that `emitted` counts in; in an overflow slot, time of the first event.
    pub window_ns: u64,
    /// Records emitted in that second.
    pub emitted: u32,
    /// Bits of [`flags`].
    pub flags: u32,
}

/// Bits of [`Suppressed::flags`].
pub mod flags {
    /// A program has emitted a record of the key.
    pub const EMITTED: u32 = 1;
    /// The key is of an untracked flow.
    pub const UNTRACKED: u32 = 2;
    /// The slot has a key.
    pub const USED: u32 = 4;
    /// The slot is a duplicate: another CPU gave the same key a slot first.
    pub const DUPLICATE: u32 = 8;
}
