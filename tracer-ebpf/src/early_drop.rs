//! Calls of `early_drop`, from entry to return: counts, per network namespace, how often a new connection found the
//! conntrack table full.

use aya_ebpf::macros::map;
use aya_ebpf::maps::LruHashMap;
use tracer_common::Hook;
use tracer_common::ratelimit::Key;
use tracer_common::table_full::{DROPPED, MADE_ROOM};

use crate::counters::Skipped;
use crate::ratelimit;

/// The network namespace of each call under way, by the stack pointer at the function's entry: an interrupt may start
/// another call on the same CPU, but never at the same stack address.
#[map]
static SEARCHES: LruHashMap<u64, u32> = LruHashMap::with_max_entries(1_024, 0);

/// Keeps the namespace at the entry.
#[inline(always)]
pub(crate) fn entered(stack: u64, netns: u32) {
    // If the map is full, the call is counted as lost when it returns.
    let _lost = SEARCHES.insert(stack, netns, 0);
}

/// Counts a call at its return; it is lost where the entry was not seen or no overflow slot is left.
#[inline(always)]
pub(crate) fn returned(stack: u64, evicted: bool) -> Skipped {
    // SAFETY: the value is copied at once; no other program writes to this key.
    let Some(netns) = unsafe { SEARCHES.get(stack) }.copied() else { return Skipped::Full };
    if SEARCHES.remove(stack).is_err() {
        return Skipped::Full;
    }
    let class = if evicted { MADE_ROOM } else { DROPPED };
    let none = [0; 16];
    let hook = Hook::TableFull as u16;
    ratelimit::count_in_overflow(&mut Key {
        src: none,
        dst: none,
        sport: [0; 2],
        dport: [0; 2],
        netns,
        class,
        hook,
        version: 0,
    })
}
