//! The record a hook emits: one fixed layout for all hooks, native-endian, in the ring buffer and in recordings.
//!
//! A field that a hook or a kernel does not have is zero, and its bit in [`Record::present`] is not set. The rarely used
//! fields come last: a recording drops a record's trailing zero bytes, and a reader adds them again.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Version of the layout; it changes with every change of a field's offset or meaning.
pub const VERSION: u16 = 4;

/// The oldest version that this one extends: its fields keep their offsets, and later fields read as zero.
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
    /// The headers come from the first fragment of the skb, not from its linear part.
    pub const FROM_FRAGMENT: u32 = 1 << 8;
    /// The message came in a `va_format` (`"%pV"`), as 6.1 passes it.
    pub const VA_FORMAT: u32 = 1 << 9;
    /// A field that the hook needs could not be read.
    pub const INCOMPLETE: u32 = 1 << 10;
    /// `nfct` was read.
    pub const NFCT: u32 = 1 << 11;
    /// The format string is the fourth argument and `nf_hook_state` the third (5.15 and later).
    pub const FORMAT_AFTER_STATE: u32 = 1 << 12;
    /// `destroyed`: the destroyed entry that the packet would have belonged to.
    pub const DESTROYED: u32 = 1 << 13;
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

/// An `ip_ct_tcp_state`: conntrack's state of one direction of a connection. Sequence numbers are host-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Seen {
    /// Highest sequence number sent, plus one.
    pub td_end: u32,
    /// Highest sequence number that the peer has room for: its ack plus its window.
    pub td_maxend: u32,
    /// Largest window that this side has offered, scaled, in bytes.
    pub td_maxwin: u32,
    /// Highest acknowledgement that this side has sent.
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

/// The key of a destroyed entry: the endpoints of one direction, as in a packet on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DestroyedKey {
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

/// Names of the maps of destroyed entries by [`DestroyedKey`]: of connections that were open, and of closed ones.
pub const DESTROYED_MAPS: [&str; 2] = ["DESTROYED_OPEN", "DESTROYED_CLOSED"];

/// The caller of `nf_ct_delete` or `tcp_send_active_reset`, by the return address: values of [`Destroyed::caller`].
pub mod caller {
    /// None of the known functions.
    pub const OTHER: u32 = 0;
    /// `early_drop`: a new connection found the table full.
    pub const EARLY_DROP: u32 = 1;
    /// `gc_worker`: the entry expired, or the table is more than 95 % full.
    pub const GC_WORKER: u32 = 2;
    /// `nf_ct_iterate_cleanup` and related functions: an address or a module was removed, or the table was flushed.
    pub const CLEANUP: u32 = 3;
    /// The TCP tracker: a RST for a connection without reply, or a SYN that reopens a closed one.
    pub const TRACKER: u32 = 4;
    /// Of `tcp_send_active_reset` only: a function that resets a connection on behalf of the running process.
    pub const PROCESS: u32 = 5;
}

/// Number of function ranges in [`CALLERS`].
pub const CALLER_RANGES: usize = 16;

/// Name of the array whose one element has the address ranges of the functions of [`caller`]: start, end and value of each.
pub const CALLERS: &str = "CALLERS";

/// A destroyed conntrack entry, with when, why and by whom it was destroyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Destroyed {
    /// When: nanoseconds of `CLOCK_BOOTTIME`.
    pub time_ns: u64,
    /// Netlink port of the socket that requested it, 0 where the kernel acted by itself.
    pub portid: u32,
    /// Time left until its timeout, in jiffies; 0 or less for an expired entry.
    pub left: i32,
    /// The caller, see [`caller`].
    pub caller: u32,
    /// Process that requested it; 0 where the kernel acted by itself.
    pub pid: u32,
    /// Name of that process, NUL-terminated.
    pub comm: [u8; NAME_SIZE],
    /// The entry.
    pub ct: Conntrack,
}

/// A socket that resets its connection.
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
    /// The process that reset it; 0 where the kernel acted by itself.
    pub pid: u32,
    /// Always zero.
    pub reserved: u32,
    /// Name of that process, NUL-terminated.
    pub comm: [u8; NAME_SIZE],
}

/// One call of a hooked function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Record {
    /// When: nanoseconds of `CLOCK_BOOTTIME`.
    pub time_ns: u64,
    /// Address of the skb. Equal addresses in one capture mean the same buffer, not always the same packet.
    pub skb: u64,
    /// `skb->_nfct`: 0, or the entry's address with `enum ip_conntrack_info` in the low three bits.
    pub nfct: u64,
    /// Address of the socket, or 0.
    pub sk: u64,
    /// [`VERSION`].
    pub version: u16,
    /// [`crate::Hook`] number.
    pub hook: u16,
    /// CPU that the function ran on.
    pub cpu: u32,
    /// Bits of [`present`].
    pub present: u32,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// `skb->mark`.
    pub mark: u32,
    /// TCP payload bytes of the whole skb, fragments and merged segments included.
    pub payload_len: u32,
    /// Index of the input interface, 0 where there is none.
    pub in_index: u32,
    /// Index of the output interface, 0 where there is none.
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
    /// Name of the input interface, NUL-padded.
    pub in_name: [u8; NAME_SIZE],
    /// Name of the output interface, NUL-padded.
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
    /// What the rate limit distinguishes events by besides hook, endpoints and namespace: a message of conntrack, a reset
    /// reason, an interface. Equal numbers in one capture mean the same. Zero before version 4.
    pub class: u32,
    /// The destroyed entry that the packet would have belonged to.
    pub destroyed: Destroyed,
    /// The socket that resets its connection without a segment to answer.
    pub own: OwnSocket,
}

/// Size of a record in bytes.
pub const RECORD_SIZE: usize = size_of::<Record>();

// A changed layout needs a new VERSION: without one the build fails here.
const _: () = assert!(RECORD_SIZE == 840 && VERSION == 4);

#[cfg(test)]
mod tests {
    use super::{RECORD_SIZE, Record};
    use core::mem::offset_of;

    /// Offsets of the parts, in version 2 and later. Existing recordings depend on them.
    #[test]
    fn offsets_do_not_change() {
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
        assert_eq!(offset_of!(Record, destroyed), 576);
        assert_eq!(offset_of!(Record, destroyed.ct), 616);
        // Version 2 ends here.
        assert_eq!(offset_of!(Record, own), 768);
        assert_eq!(RECORD_SIZE, 840);
    }
}
