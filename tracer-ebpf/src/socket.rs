//! Sockets of this host, and the processes that reset their connections.

use aya_ebpf::helpers::generated::{bpf_get_current_comm, bpf_get_current_pid_tgid};
use tracer_common::flood::Key;
use tracer_common::hook::Hook;
use tracer_common::wire::{OwnSocket, caller};

use crate::gone::caller_of;
use crate::kernel::{Address, Failed, offset};

/// `AF_INET6` of `sock_common.skc_family`.
const AF_INET6: u16 = 10;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;

/// Writes the process that runs: its number, and its name.
#[inline(always)]
pub(crate) fn process(pid: &mut u32, comm: &mut [u8; 16]) {
    // SAFETY: the helper takes no arguments.
    *pid = (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32;
    // SAFETY: the size given is that of the array.
    let status = unsafe { bpf_get_current_comm((&raw mut *comm).cast(), 16) };
    if status != 0 {
        *comm = [0; 16];
    }
}

/// What the resets of a socket's own accord are counted by: its endpoints as a packet of its peer would have them.
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

/// Reads a socket's own endpoints and numbers, and the process, where the function that resets works for one.
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
    if caller_of(returns_to) == caller::PROCESS {
        process(&mut to.pid, &mut to.comm);
    }
    let own_port = sk.load(offset!(inet_sport), &mut to.tuple.sport);
    addresses.or(own_port).or(sk.load(offset!(sk_dport), &mut to.tuple.dport))
}
