//! Entries that have ended, remembered until a packet comes that would have belonged to one.
//!
//! Two maps, so that the many connections that end as they should cannot push out the few that do not.

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_boot_ns, bpf_probe_read_kernel};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, LruHashMap, PerCpuArray};
use tracer_common::flood::Key;
use tracer_common::wire::{CALLER_RANGES, Gone, GoneKey, Record, Tuple, caller, present};

use crate::conntrack;
use crate::kernel::{Address, Failed, offset};
use crate::socket;

/// Entries that are remembered in each map: two per connection, one per direction.
const REMEMBERED: u32 = 16_384;
/// `TCP_CONNTRACK_TIME_WAIT`: both ends have closed.
const TIME_WAIT: u8 = 7;
/// `TCP_CONNTRACK_CLOSE`: one end has sent a RST.
const CLOSE: u8 = 8;
/// `IP_CT_NEW`, in the low bits of `_nfct`.
const NEW: u64 = 2;

/// Entries of connections that were closed.
#[map]
static GONE_CLOSED: LruHashMap<GoneKey, Gone> = LruHashMap::with_max_entries(REMEMBERED, 0);

/// Entries of connections that were not.
#[map]
static GONE_OPEN: LruHashMap<GoneKey, Gone> = LruHashMap::with_max_entries(REMEMBERED, 0);

/// Where a value is put together: it is too large for the stack.
#[map]
static SCRATCH: PerCpuArray<Gone> = PerCpuArray::with_max_entries(1, 0);

/// Start, end and value of the functions of [`caller`]. A map, because a module that is loaded again is somewhere else.
#[map]
static CALLERS: Array<[[u64; 3]; CALLER_RANGES]> = Array::with_max_entries(1, 0);

/// Remembers an entry; `None` where it cannot be read.
#[inline(always)]
pub(crate) fn remember(ct: Address, portid: u32, returns_to: Address) -> Option<()> {
    let place = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: the value belongs to this CPU alone, and the kernel lets no second program run on top of this one.
    let gone = unsafe { &mut *place };
    // SAFETY: the helper takes no arguments.
    gone.time_ns = unsafe { bpf_ktime_get_boot_ns() };
    gone.portid = portid;
    let timeout: u32 = ct.read(offset!(ct_timeout));
    // SAFETY: the helper takes no arguments.
    gone.left = timeout.wrapping_sub(unsafe { bpf_jiffies64() } as u32).cast_signed();
    gone.caller = caller_of(returns_to);
    gone.comm = [0; 16];
    gone.pid = 0;
    if portid != 0 {
        socket::process(&mut gone.pid, &mut gone.comm);
    }
    if conntrack::read(ct, &mut gone.ct).any() {
        return None;
    }
    let netns = conntrack::net(ct).read(offset!(net_inum));
    let [original, reply] = [key(&gone.ct.tuples[0], netns), key(&gone.ct.tuples[1], netns)];
    let map = if gone.ct.state == TIME_WAIT || gone.ct.state == CLOSE { &GONE_CLOSED } else { &GONE_OPEN };
    let gone: &Gone = gone;
    map.insert(original, gone, 0).ok()?;
    map.insert(reply, gone, 0).ok()
}

/// Adds to the record of a packet that has no entry, or one of its own making, the entry that it would have belonged to.
#[inline(always)]
pub(crate) fn recall(record: &mut Record) -> Failed {
    let of_others = record.nfct & !7 != 0 && record.nfct & 7 != NEW;
    if of_others || record.present & present::NETNS == 0 || record.l3_len == 0 || record.l4_len == 0 {
        return Failed::NO;
    }
    let mut key = GoneKey { src: [0; 16], dst: [0; 16], sport: [0; 2], dport: [0; 2], netns: record.netns };
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
    let Some(gone) = GONE_OPEN.get_ptr(key).or_else(|| GONE_CLOSED.get_ptr(key)) else { return Failed::NO };
    // SAFETY: both sides are valid for the size of a `Gone`, and every bit pattern is one. The helper does the copying
    // because a call of memcpy would cost a subprogram.
    let status = unsafe { bpf_probe_read_kernel((&raw mut record.gone).cast(), size_of::<Gone>() as u32, gone.cast()) };
    if status != 0 {
        return Failed::YES;
    }
    record.present |= present::GONE;
    Failed::NO
}

/// Whether a packet with these endpoints would have belonged to an entry that ended while its connection was open.
#[inline(always)]
pub(crate) fn is_remembered(key: &Key) -> bool {
    let Key { src, dst, sport, dport, netns, .. } = *key;
    GONE_OPEN.get_ptr(GoneKey { src, dst, sport, dport, netns }).is_some()
}

#[inline(always)]
fn key(tuple: &Tuple, netns: u32) -> GoneKey {
    GoneKey { src: tuple.src, dst: tuple.dst, sport: tuple.sport, dport: tuple.dport, netns }
}

/// Copies bytes one by one; the compiler knows how many.
#[inline(always)]
fn copy(from: &[u8], to: &mut [u8; 16]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}

/// Which of the known functions an address is in.
#[inline(always)]
pub(crate) fn caller_of(address: Address) -> u32 {
    let mut found = caller::OTHER;
    let Some(ranges) = CALLERS.get(0) else { return found };
    for [start, end, value] in ranges {
        if address.number() >= *start && address.number() < *end {
            found = *value as u32;
        }
    }
    found
}
