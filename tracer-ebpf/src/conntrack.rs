//! Reads a `nf_conn` and its TCP tracker into the wire layout.

use tracer_common::wire::{Conntrack, Seen, Tuple};

use tracer_common::layout::ABSENT;

use crate::kernel::{Address, Failed, offset};

/// `IPS_CONFIRMED`.
const IPS_CONFIRMED: u32 = 1 << 3;

/// Whether the kernel's BTF has the offsets that the parts of an entry are computed from.
#[inline(always)]
fn is_described() -> bool {
    let offsets = [
        offset!(ct_tuplehash),
        offset!(tuplehash_size),
        offset!(tuplehash_tuple),
        offset!(ct_tcp),
        offset!(tcp_seen),
        offset!(seen_size),
    ];
    !offsets.contains(&ABSENT)
}

/// The entry's protocol, from its original tuple; 0 where it cannot be read.
#[inline(always)]
pub(crate) fn protocol(ct: Address) -> u8 {
    if !is_described() {
        return 0;
    }
    tuple_address(ct, 0).read(offset!(tuple_protonum))
}

/// Whether an entry is in the table.
#[inline(always)]
pub(crate) fn is_confirmed(ct: Address) -> bool {
    let status: u32 = ct.read(offset!(ct_status));
    status & IPS_CONFIRMED != 0
}

/// The inode number of the entry's namespace.
#[inline(always)]
pub(crate) fn netns(ct: Address) -> u32 {
    net(ct).read(offset!(net_inum))
}

/// Whether NAT translates the connection of a confirmed entry.
#[inline(always)]
pub(crate) fn is_translated(ct: Address) -> bool {
    const IPS_SRC_NAT: u32 = 1 << 4;
    const IPS_DST_NAT: u32 = 1 << 5;
    let status: u32 = ct.read(offset!(ct_status));
    status & IPS_CONFIRMED != 0 && status & (IPS_SRC_NAT | IPS_DST_NAT) != 0
}

/// The entry's `struct net`.
#[inline(always)]
pub(crate) fn net(ct: Address) -> Address {
    ct.follow(offset!(ct_net))
}

/// Reads the whole entry. Fields that this kernel does not have stay zero; it fails where a field that identifies the flow,
/// its window or its state cannot be read.
#[inline(always)]
pub(crate) fn read(ct: Address, to: &mut Conntrack) -> Failed {
    if !is_described() {
        return Failed::YES;
    }
    let [original, reply] = &mut to.tuples;
    let failed = tuple(tuple_address(ct, 0), original).or(tuple(tuple_address(ct, 1), reply));
    to.status = ct.read(offset!(ct_status));
    to.timeout = ct.read(offset!(ct_timeout));
    to.zone = ct.read(offset!(ct_zone));
    let tcp = ct.plus(u64::from(offset!(ct_tcp)));
    let directions = tcp.plus(u64::from(offset!(tcp_seen)));
    let [first, second] = &mut to.seen;
    let failed = failed.or(seen(directions, first)).or(seen(directions.plus(u64::from(offset!(seen_size))), second));
    to.last_dir = tcp.read(offset!(tcp_last_dir));
    to.retrans = tcp.read(offset!(tcp_retrans));
    to.last_index = tcp.read(offset!(tcp_last_index));
    to.last_seq = tcp.read(offset!(tcp_last_seq));
    to.last_ack = tcp.read(offset!(tcp_last_ack));
    to.last_end = tcp.read(offset!(tcp_last_end));
    to.last_win = tcp.read(offset!(tcp_last_win));
    to.last_wscale = tcp.read(offset!(tcp_last_wscale));
    to.last_flags = tcp.read(offset!(tcp_last_flags));
    failed.or(tcp.load(offset!(tcp_state), &mut to.state))
}

#[inline(always)]
fn tuple_address(ct: Address, direction: u64) -> Address {
    let (hash, size, inner) = (offset!(ct_tuplehash), offset!(tuplehash_size), offset!(tuplehash_tuple));
    ct.plus(u64::from(hash) + direction * u64::from(size) + u64::from(inner))
}

#[inline(always)]
fn tuple(from: Address, to: &mut Tuple) -> Failed {
    from.load(offset!(tuple_src_addr), &mut to.src)
        .or(from.load(offset!(tuple_dst_addr), &mut to.dst))
        .or(from.load(offset!(tuple_src_port), &mut to.sport))
        .or(from.load(offset!(tuple_dst_port), &mut to.dport))
        .or(from.load(offset!(tuple_l3num), &mut to.l3num))
        .or(from.load(offset!(tuple_protonum), &mut to.protonum))
}

#[inline(always)]
fn seen(from: Address, to: &mut Seen) -> Failed {
    to.td_maxack = from.read(offset!(seen_td_maxack));
    to.td_scale = from.read(offset!(seen_td_scale));
    to.flags = from.read(offset!(seen_flags));
    from.load(offset!(seen_td_end), &mut to.td_end)
        .or(from.load(offset!(seen_td_maxend), &mut to.td_maxend))
        .or(from.load(offset!(seen_td_maxwin), &mut to.td_maxwin))
}
