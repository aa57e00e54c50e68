//! Counting, per network namespace, how often the conntrack table was full.

use aya_ebpf::macros::map;
use aya_ebpf::maps::LruHashMap;
use tracer_common::Hook;
use tracer_common::flood::Key;
use tracer_common::table::{DROPPED, MADE_ROOM};

use crate::Skipped;
use crate::flood;

/// Searches that are under way, by the stack pointer at the function's entry: a CPU may be interrupted in one by another,
/// but never on the same place of the same stack.
#[map]
static SEARCHES: LruHashMap<u64, u32> = LruHashMap::with_max_entries(1_024, 0);

/// A search for an entry to evict begins.
#[inline(always)]
pub(crate) fn search(stack: u64, netns: u32) {
    // Without room the search is counted as lost when it ends.
    let _lost = SEARCHES.insert(stack, netns, 0);
}

/// A search has ended: it is counted, or lost where its beginning was not seen or there is no room.
#[inline(always)]
pub(crate) fn searched(stack: u64, found: bool) -> Skipped {
    // SAFETY: the value is copied at once; no other program writes to this key.
    let Some(netns) = unsafe { SEARCHES.get(stack) }.copied() else { return Skipped::Full };
    if SEARCHES.remove(stack).is_err() {
        return Skipped::Full;
    }
    let class = if found { MADE_ROOM } else { DROPPED };
    let none = [0; 16];
    let hook = Hook::TableFull as u16;
    flood::count_in_rest(&mut Key {
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
