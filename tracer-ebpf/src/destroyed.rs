//! Destroyed conntrack entries, kept for later packets that would have belonged to them.
//!
//! Two maps, so that the many entries of closed connections do not evict the few of open ones.

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_boot_ns, bpf_probe_read_kernel};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{LruHashMap, PerCpuArray};
use tracer_common::ratelimit::Key;
use tracer_common::wire::{Destroyed, DestroyedKey, Record, Tuple, present};

use crate::caller;
use crate::conntrack;
use crate::kernel::{Address, Failed, offset};

/// Capacity of each map: two keys for a connection, one per direction.
const CAPACITY: u32 = 16_384;
/// `TCP_CONNTRACK_TIME_WAIT`: both ends have closed.
const TIME_WAIT: u8 = 7;
/// `TCP_CONNTRACK_CLOSE`: one end has sent a RST.
const CLOSE: u8 = 8;
/// `IP_CT_NEW`, in the low bits of `_nfct`.
const NEW: u64 = 2;

/// Entries of closed connections.
#[map]
static DESTROYED_CLOSED: LruHashMap<DestroyedKey, Destroyed> = LruHashMap::with_max_entries(CAPACITY, 0);

/// Entries of open connections.
#[map]
static DESTROYED_OPEN: LruHashMap<DestroyedKey, Destroyed> = LruHashMap::with_max_entries(CAPACITY, 0);

/// A value under construction: it is too large for the stack.
#[map]
static SCRATCH: PerCpuArray<Destroyed> = PerCpuArray::with_max_entries(1, 0);

/// Keeps an entry; `None` where it cannot be read.
#[inline(always)]
pub(crate) fn keep(ct: Address, portid: u32, returns_to: Address) -> Option<()> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: the value belongs to this CPU alone, and the kernel lets no second program run on top of this one.
    let destroyed = unsafe { &mut *scratch };
    // SAFETY: the helper takes no arguments.
    destroyed.time_ns = unsafe { bpf_ktime_get_boot_ns() };
    destroyed.portid = portid;
    let timeout: u32 = ct.read(offset!(ct_timeout));
    // SAFETY: the helper takes no arguments.
    destroyed.left = timeout.wrapping_sub(unsafe { bpf_jiffies64() } as u32).cast_signed();
    destroyed.caller = caller::function_at(returns_to);
    destroyed.comm = [0; 16];
    destroyed.pid = 0;
    if portid != 0 {
        caller::process(&mut destroyed.pid, &mut destroyed.comm);
    }
    if conntrack::read(ct, &mut destroyed.ct).any() {
        return None;
    }
    let netns = conntrack::net(ct).read(offset!(net_inum));
    let [original, reply] = [key(&destroyed.ct.tuples[0], netns), key(&destroyed.ct.tuples[1], netns)];
    let is_closed = destroyed.ct.state == TIME_WAIT || destroyed.ct.state == CLOSE;
    let map = if is_closed { &DESTROYED_CLOSED } else { &DESTROYED_OPEN };
    let destroyed: &Destroyed = destroyed;
    map.insert(original, destroyed, 0).ok()?;
    map.insert(reply, destroyed, 0).ok()
}

/// Adds to the record of a packet without an entry, or with an unconfirmed one, the destroyed entry that it would have
/// belonged to.
#[inline(always)]
pub(crate) fn find_for(record: &mut Record) -> Failed {
    let is_tracked = record.nfct & !7 != 0 && record.nfct & 7 != NEW;
    if is_tracked || record.present & present::NETNS == 0 || record.l3_len == 0 || record.l4_len == 0 {
        return Failed::NO;
    }
    let mut key = DestroyedKey { src: [0; 16], dst: [0; 16], sport: [0; 2], dport: [0; 2], netns: record.netns };
    let l3 = &record.l3;
    if l3[0] >> 4 == 6 {
        copy(&l3[8..24], &mut key.src);
        copy(&l3[24..40], &mut key.dst);
    } else {
        copy(&l3[12..16], &mut key.src);
        copy(&l3[16..20], &mut key.dst);
    }
    key.sport = [record.l4[0], record.l4[1]];
    key.dport = [record.l4[2], record.l4[3]];
    let found = DESTROYED_OPEN.get_ptr(key).or_else(|| DESTROYED_CLOSED.get_ptr(key));
    let Some(found) = found else { return Failed::NO };
    let (to, size) = ((&raw mut record.destroyed).cast(), size_of::<Destroyed>() as u32);
    // SAFETY: both sides are valid for the size of a `Destroyed`, and every bit pattern is one. The helper does the copying
    // because a call of memcpy would cost a subprogram.
    let status = unsafe { bpf_probe_read_kernel(to, size, found.cast()) };
    if status != 0 {
        return Failed::YES;
    }
    record.present |= present::DESTROYED;
    Failed::NO
}

/// Whether a packet with these endpoints would have belonged to a destroyed entry of an open connection.
#[inline(always)]
pub(crate) fn contains(key: &Key) -> bool {
    let Key { src, dst, sport, dport, netns, .. } = *key;
    DESTROYED_OPEN.get_ptr(DestroyedKey { src, dst, sport, dport, netns }).is_some()
}

#[inline(always)]
fn key(tuple: &Tuple, netns: u32) -> DestroyedKey {
    DestroyedKey { src: tuple.src, dst: tuple.dst, sport: tuple.sport, dport: tuple.dport, netns }
}

/// Copies bytes one by one; the compiler knows how many.
#[inline(always)]
fn copy(from: &[u8], to: &mut [u8; 16]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}
