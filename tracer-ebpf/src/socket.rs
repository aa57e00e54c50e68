//! Sockets of this host that reset their connections.

use tracer_common::hook::Hook;
use tracer_common::ratelimit::Key;
use tracer_common::wire::{self, OwnSocket};

use crate::caller;
use crate::kernel::{Address, Failed, offset};

/// `AF_INET6` of `sock_common.skc_family`.
const AF_INET6: u16 = 10;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;

/// The rate limit's key of a socket's active reset: the socket's endpoints, as in a packet from its peer.
#[inline(always)]
pub(crate) fn key(hook: Hook, sk: Address) -> Key {
    let family: u16 = sk.read(offset!(sk_family));
    let mut key = Key {
        src: [0; 16],
        dst: [0; 16],
        sport: sk.read(offset!(sk_dport)),
        dport: sk.read(offset!(inet_sport)),
        netns: sk.follow(offset!(sk_net)).read(offset!(net_inum)),
        class: 0,
        hook: hook as u16,
        version: if family == AF_INET6 { 6 } else { 4 },
    };
    if family == AF_INET6 {
        key.src = sk.read(offset!(sk_v6_daddr));
        key.dst = sk.read(offset!(sk_v6_rcv_saddr));
    } else {
        sk.plus(u64::from(offset!(sk_daddr))).copy_address(&mut key.src, 4);
        sk.plus(u64::from(offset!(sk_rcv_saddr))).copy_address(&mut key.dst, 4);
    }
    key
}

/// Reads a socket's own endpoints and numbers, and the process if the calling function acts on behalf of one.
#[inline(always)]
pub(crate) fn read(sk: Address, returns_to: Address, to: &mut OwnSocket) -> Failed {
    let family: u16 = sk.read(offset!(sk_family));
    to.tuple.l3num = family;
    to.tuple.protonum = TCP;
    let addresses = if family == AF_INET6 {
        sk.load(offset!(sk_v6_rcv_saddr), &mut to.tuple.src).or(sk.load(offset!(sk_v6_daddr), &mut to.tuple.dst))
    } else {
        let (mut own, mut peer) = ([0_u8; 4], [0_u8; 4]);
        let failed = sk.load(offset!(sk_rcv_saddr), &mut own).or(sk.load(offset!(sk_daddr), &mut peer));
        to.tuple.src[..4].copy_from_slice(&own);
        to.tuple.dst[..4].copy_from_slice(&peer);
        failed
    };
    to.snd_nxt = sk.read(offset!(tp_snd_nxt));
    to.rcv_nxt = sk.read(offset!(tp_rcv_nxt));
    if caller::function_at(returns_to) == wire::caller::PROCESS {
        caller::process(&mut to.pid, &mut to.comm);
    }
    let own_port = sk.load(offset!(inet_sport), &mut to.tuple.sport);
    addresses.or(own_port).or(sk.load(offset!(sk_dport), &mut to.tuple.dport))
}
