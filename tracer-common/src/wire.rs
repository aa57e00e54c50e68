//! The record a hook emits: one fixed layout for all hooks, native-endian, in the ring buffer and in recordings.
//!
//! What a hook cannot know or a kernel does not have is absent from [`Record::present`] and zero. Fields are ordered so
//! that the rarely used ones come last: a recording drops a record's trailing zero bytes and a reader puts them back.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The layout's version; it changes with every change of a field's place or meaning.
pub const VERSION: u16 = 4;

/// The oldest version that this one extends: what it has is where it was, the rest reads as zero.
pub const OLDEST: u16 = 2;

/// Name of the ring buffer.
pub const MAP: &str = "EVENTS";

/// Bits of [`Record::present`].
pub mod present {
    /// `l3` and `l3_len`.
    pub const L3: u32 = 1 << 0;
    /// `l4` and `l4_len`.
    pub const L4: u32 = 1 << 1;
    /// `ct`: the packet's conntrack entry.
    pub const CONNTRACK: u32 = 1 << 2;
    /// `netns`.
    pub const NETNS: u32 = 1 << 3;
    /// `nf_hook`.
    pub const NF_HOOK: u32 = 1 << 4;
    /// `reset_reason`.
    pub const RESET_REASON: u32 = 1 << 5;
    /// `sk_state`: a socket is involved.
    pub const SOCKET: u32 = 1 << 6;
    /// `format`, `text` and `args`.
    pub const TEXT: u32 = 1 << 7;
    /// The headers are not in the linear part of the skb; they were read from its first fragment.
    pub const FROM_FRAGMENT: u32 = 1 << 8;
    /// The text's arguments came through a `va_format` (`"%pV"`), as 6.1 passes them.
    pub const VA_FORMAT: u32 = 1 << 9;
    /// A field that the hook needs could not be read.
    pub const INCOMPLETE: u32 = 1 << 10;
    /// `nfct` was read.
    pub const NFCT: u32 = 1 << 11;
    /// The format string is the fourth argument and `nf_hook_state` the third (5.15 and later).
    pub const FORMAT_AFTER_STATE: u32 = 1 << 12;
    /// `gone`: an entry that the packet would have belonged to has ended before.
    pub const GONE: u32 = 1 << 13;
    /// `own`: the socket's own endpoints and numbers.
    pub const OWN: u32 = 1 << 14;
}

/// Bytes of [`Record::l3`] and [`Record::l4`]: room for an IPv4 or TCP header with all its options, which take 60.
pub const HEADER_SIZE: usize = 64;
/// Bytes of [`Record::format`], the terminating NUL included. The longest of the TCP tracker has 69 (6.1).
pub const FORMAT_SIZE: usize = 96;
/// Bytes of [`Record::text`], the terminating NUL included. The longest has 64 (5.10).
pub const TEXT_SIZE: usize = 80;
/// Numbers in [`Record::args`].
pub const ARGS: usize = 3;
/// Bytes of an interface name, the terminating NUL included (`IFNAMSIZ`).
pub const NAME_SIZE: usize = 16;

/// A `nf_conntrack_tuple`. IPv4 addresses are in the first four bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Tuple {
    /// Source address, network order.
    pub src: [u8; 16],
    /// Destination address, network order.
    pub dst: [u8; 16],
    /// Source port, network order.
    pub sport: [u8; 2],
    /// Destination port, network order.
    pub dport: [u8; 2],
    /// `NFPROTO_IPV4` (2) or `NFPROTO_IPV6` (10).
    pub l3num: u16,
    /// IP protocol number.
    pub protonum: u8,
    /// Always zero.
    pub reserved: u8,
}

/// An `ip_ct_tcp_state`: what conntrack knows of one direction of a connection. Sequence numbers are host-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Seen {
    /// Highest sequence number sent, plus one.
    pub td_end: u32,
    /// Highest sequence number the peer has room for: its ack plus its window.
    pub td_maxend: u32,
    /// Largest window this side has offered, scaled, in bytes.
    pub td_maxwin: u32,
    /// Highest acknowledgement this side has sent.
    pub td_maxack: u32,
    /// Its window scale, 0 to 14.
    pub td_scale: u8,
    /// `IP_CT_TCP_FLAG_*`.
    pub flags: u8,
    /// Always zero.
    pub reserved: u16,
}

/// A `nf_conn` and its `ip_ct_tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Conntrack {
    /// The original tuple, then the reply tuple.
    pub tuples: [Tuple; 2],
    /// The original direction, then the reply direction.
    pub seen: [Seen; 2],
    /// `IPS_*` bits.
    pub status: u32,
    /// `nf_conn.timeout`, in jiffies.
    pub timeout: u32,
    /// Last sequence number accepted.
    pub last_seq: u32,
    /// Last acknowledgement accepted.
    pub last_ack: u32,
    /// Last `seq + len` accepted.
    pub last_end: u32,
    /// Last window accepted, unscaled.
    pub last_win: u16,
    /// Conntrack zone.
    pub zone: u16,
    /// `enum tcp_conntrack`.
    pub state: u8,
    /// Direction of the last packet accepted: 0 original, 1 reply.
    pub last_dir: u8,
    /// Retransmissions counted.
    pub retrans: u8,
    /// `enum tcp_bit_set` of the last packet.
    pub last_index: u8,
    /// Window scale of the last SYN that was let through unverified.
    pub last_wscale: u8,
    /// Flags of the last SYN that was let through unverified.
    pub last_flags: u8,
    /// Always zero.
    pub reserved: u16,
}

/// A connection as a packet on the wire names it: what an ended entry is remembered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GoneKey {
    /// Source address, network order; IPv4 in the first four bytes, the others zero.
    pub src: [u8; 16],
    /// Destination address, likewise.
    pub dst: [u8; 16],
    /// Source port, network order.
    pub sport: [u8; 2],
    /// Destination port, network order.
    pub dport: [u8; 2],
    /// Inode number of the network namespace.
    pub netns: u32,
}

/// Names of the maps that remember ended entries by [`GoneKey`]: of connections that were open, of those that were closed.
pub const GONE_MAPS: [&str; 2] = ["GONE_OPEN", "GONE_CLOSED"];

/// Who called `nf_ct_delete` or `tcp_send_active_reset`, by the return address: values of [`Gone::caller`].
pub mod caller {
    /// None of the functions that are known.
    pub const OTHER: u32 = 0;
    /// `early_drop`: a new connection needed the room.
    pub const EARLY_DROP: u32 = 1;
    /// `gc_worker`: the entry's time was up, or the table is above 95 % full.
    pub const GC_WORKER: u32 = 2;
    /// `nf_ct_iterate_cleanup` and its kin: an address or module went, or the table was flushed.
    pub const CLEANUP: u32 = 3;
    /// The TCP tracker: a RST for a connection without reply, or a SYN that reopens a closed one.
    pub const TRACKER: u32 = 4;
    /// Not an entry's end: a function that resets a socket's connection for the process that runs.
    pub const PROCESS: u32 = 5;
}

/// How many ranges of functions [`CALLERS`] has room for.
pub const CALLER_RANGES: usize = 16;

/// Name of the map whose one element says where the callers of [`caller`] are: start, end and value of each.
pub const CALLERS: &str = "CALLERS";

/// How a conntrack entry ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Gone {
    /// When: nanoseconds of `CLOCK_BOOTTIME`.
    pub time_ns: u64,
    /// Netlink port of the socket that asked for it, 0 where the kernel did it by itself.
    pub portid: u32,
    /// What was left of its timeout, in jiffies; 0 or less where it had expired.
    pub left: i32,
    /// Who called, see [`caller`].
    pub caller: u32,
    /// Process of the task that asked for it; 0 where the kernel did it by itself.
    pub pid: u32,
    /// Name of that task, NUL-terminated.
    pub comm: [u8; NAME_SIZE],
    /// The entry as it was.
    pub ct: Conntrack,
}

/// A socket that resets its connection, as it sees itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OwnSocket {
    /// From its own address and port to the peer's. `l3num` is its address family: `AF_INET` (2) or `AF_INET6` (10), which
    /// an IPv4 connection may be of too (RFC 4291 §2.5.5.2).
    pub tuple: Tuple,
    /// Next sequence number it would send, host-endian.
    pub snd_nxt: u32,
    /// Next sequence number it expects, host-endian.
    pub rcv_nxt: u32,
    /// The process that did it; 0 where the kernel did it by itself.
    pub pid: u32,
    /// Always zero.
    pub reserved: u32,
    /// Name of that task, NUL-terminated.
    pub comm: [u8; NAME_SIZE],
}

/// What one call of a hooked function tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Record {
    /// When: nanoseconds of `CLOCK_BOOTTIME`.
    pub time_ns: u64,
    /// Address of the skb. Equal addresses in one capture mean the same buffer, not always the same packet.
    pub skb: u64,
    /// `skb->_nfct` as it was: 0, or the entry's address with `enum ip_conntrack_info` in the low three bits.
    pub nfct: u64,
    /// Address of the socket, or 0.
    pub sk: u64,
    /// [`VERSION`].
    pub version: u16,
    /// [`crate::Hook`] number.
    pub hook: u16,
    /// CPU the function ran on.
    pub cpu: u32,
    /// Bits of [`present`].
    pub present: u32,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// `skb->mark`.
    pub mark: u32,
    /// TCP payload bytes: of the whole skb, fragments and merged segments included.
    pub payload_len: u32,
    /// Index of the interface the packet came in by, 0 where there is none.
    pub in_index: u32,
    /// Index of the interface it would leave by, 0 where there is none.
    pub out_index: u32,
    /// `enum sk_rst_reason`.
    pub reset_reason: u32,
    /// `enum nf_inet_hooks`: 0 pre-routing, 1 local in, 2 forward, 3 local out, 4 post-routing.
    pub nf_hook: u8,
    /// TCP state of the socket (`TCP_ESTABLISHED` = 1, …, `TCP_TIME_WAIT` = 6, `TCP_LISTEN` = 10, …).
    pub sk_state: u8,
    /// Valid bytes in `l3`.
    pub l3_len: u8,
    /// Valid bytes in `l4`.
    pub l4_len: u8,
    /// Name of the interface the packet came in by, NUL-padded.
    pub in_name: [u8; NAME_SIZE],
    /// Name of the interface it would leave by, NUL-padded.
    pub out_name: [u8; NAME_SIZE],
    /// The network header as captured.
    pub l3: [u8; HEADER_SIZE],
    /// The TCP header as captured.
    pub l4: [u8; HEADER_SIZE],
    /// The packet's conntrack entry.
    pub ct: Conntrack,
    /// The low halves of the arguments of `format`; meaningless for a string, which is in `text`.
    pub args: [u32; ARGS],
    /// The kernel's format string, NUL-terminated.
    pub format: [u8; FORMAT_SIZE],
    /// The string argument of `format`, NUL-terminated.
    pub text: [u8; TEXT_SIZE],
    /// What events like this one are counted by when they are not told, besides hook, endpoints and namespace: a message of
    /// conntrack, a reason to reset, an interface. Equal numbers in one capture mean the same. Zero before version 4.
    pub class: u32,
    /// The entry that the packet would have belonged to, and how it ended.
    pub gone: Gone,
    /// The socket that resets its connection of its own accord.
    pub own: OwnSocket,
}

/// Size of a record in bytes.
pub const RECORD_SIZE: usize = size_of::<Record>();

// A changed layout needs a new VERSION; this is where the build stops when it was forgotten.
const _: () = assert!(RECORD_SIZE == 840 && VERSION == 4);

#[cfg(test)]
mod tests {
    use super::{RECORD_SIZE, Record};
    use core::mem::offset_of;

    /// Where each part starts, in version 2 and since. Recordings that people keep depend on it.
    #[test]
    fn where_the_parts_are() {
        assert_eq!(offset_of!(Record, version), 32);
        assert_eq!(offset_of!(Record, present), 40);
        assert_eq!(offset_of!(Record, in_name), 72);
        assert_eq!(offset_of!(Record, l3), 104);
        assert_eq!(offset_of!(Record, l4), 168);
        assert_eq!(offset_of!(Record, ct), 232);
        assert_eq!(offset_of!(Record, args), 384);
        assert_eq!(offset_of!(Record, format), 396);
        assert_eq!(offset_of!(Record, text), 492);
        assert_eq!(offset_of!(Record, class), 572);
        assert_eq!(offset_of!(Record, gone), 576);
        assert_eq!(offset_of!(Record, gone.ct), 616);
        // Version 2 ends here.
        assert_eq!(offset_of!(Record, own), 768);
        assert_eq!(RECORD_SIZE, 840);
    }
}
