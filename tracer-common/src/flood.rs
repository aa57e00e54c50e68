//! What is counted in the kernel instead of being told: the events of a flow beyond the first ones, under pressure.
//!
//! Every event that a hook could tell of belongs to a [`Key`]: the packet's endpoints as they were on the wire, and a class
//! within the hook. The first events of each key become records; of the others there may be a few every second. The
//! rest only add to a [`HeldBack`]. A packet that conntrack refused and the RST that answers it share a key, so that a
//! pair is told together or counted together.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Name of the map: from a [`Key`] to the index of its [`Place`], a `u32`.
pub const INDEX: &str = "INDEX";
/// Name of the array of [`PLACES`] [`Place`]s. It is mapped into user space, so that reading it needs no look-up: the kernel
/// runs no kprobe program on a CPU while a map is looked up there (`bpf_disable_instrumentation`, 5.10 to 7.2).
pub const MAP: &str = "PLACES";
/// Name of the queue of chunks that no CPU has taken, by number. User space fills it.
pub const FREE: &str = "FREE_CHUNKS";
/// Name of the queue of places that no key without endpoints has, by index. User space fills it.
pub const FREE_REST: &str = "FREE_REST";
/// Name of the array of one [`Strangers`]. It is mapped into user space.
pub const STRANGERS: &str = "STRANGERS";

/// All places. With the index and the kernel's own overhead they take 28 MB; the index has a bucket for each, and would have
/// twice as many if there were one more.
pub const PLACES: u32 = 131_072;
/// Of these, places of keys without endpoints, which come last: of what finds no other place, and what has no endpoints.
pub const REST_KEYS: u32 = 1_024;
/// Keys that are counted apart: room for 65,000 connections whose segments are refused and answered, which are two keys each.
pub const KEYS: u32 = PLACES - REST_KEYS;
/// Places that a CPU takes at a time.
pub const CHUNK: u32 = 64;
/// How many chunks there are.
pub const CHUNKS: u32 = KEYS / CHUNK;
/// Of the keys, those of packets that belong to no connection that conntrack knows or knew. Their senders can make up
/// endpoints at will; they must not crowd out those whose connections die.
pub const STRANGER_KEYS: u64 = 65_536;

/// Records that one key may have in a second.
pub const PER_KEY: u32 = 64;
/// Records that one CPU may make in a second, beyond the first of each key.
pub const PER_CPU: u32 = 1_000;
/// The second, in nanoseconds.
pub const WINDOW_NS: u64 = 1_000_000_000;

/// What events are counted by.
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
    /// What distinguishes the events of one hook, see [`crate::wire::Record::class`].
    pub class: u32,
    /// [`crate::Hook`] number.
    pub hook: u16,
    /// IP version: 4 or 6; 0 where there are no endpoints.
    pub version: u16,
}

/// A key, and its events that were counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Place {
    /// The key; nothing where [`HeldBack::known`] is 0.
    pub key: Key,
    /// What was counted.
    pub held: HeldBack,
}

/// Keys of [`STRANGER_KEYS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Strangers {
    /// How many there have been.
    pub came: u64,
    /// How many of these were taken away again: user space writes it.
    pub went: u64,
}

/// Events of a [`Key`] that were counted and not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HeldBack {
    /// How many.
    pub count: u64,
    /// RSTs of the TCP stack that answered packets of this key, and were not told either.
    pub answered: u64,
    /// The last one: nanoseconds of `CLOCK_BOOTTIME`.
    pub last_ns: u64,
    /// When the second began that `told` counts in; of a key without endpoints, its first event.
    pub window_ns: u64,
    /// Records made in that second.
    pub told: u32,
    /// Bits of [`known`].
    pub known: u32,
}

/// Bits of [`HeldBack::known`].
pub mod known {
    /// There has been a record.
    pub const TOLD: u32 = 1;
    /// The first packet belonged to no connection that conntrack knows.
    pub const STRANGER: u32 = 2;
    /// The place has a key.
    pub const USED: u32 = 4;
    /// The place was taken in vain: another CPU had made one for the same key.
    pub const VAIN: u32 = 8;
}
