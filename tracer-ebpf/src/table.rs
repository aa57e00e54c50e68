//! Counting, per network namespace, how often the conntrack table was full.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{LruHashMap, LruPerCpuHashMap};
use tracer_common::table::{NAMESPACES, TableFull};

/// Searches that are under way, by the stack pointer at the function's entry: a CPU may be interrupted in one by another,
/// but never on the same place of the same stack.
#[map]
static SEARCHES: LruHashMap<u64, u32> = LruHashMap::with_max_entries(1_024, 0);

#[map]
static TABLE_FULL: LruPerCpuHashMap<u32, TableFull> = LruPerCpuHashMap::with_max_entries(NAMESPACES, 0);

/// A search for an entry to evict begins.
#[inline(always)]
pub(crate) fn search(stack: u64, netns: u32) {
    // Without room the search is counted as lost when it ends.
    let _lost = SEARCHES.insert(stack, netns, 0);
}

/// A search has ended; `None` where its beginning was not seen, or there is no room to count it.
#[inline(always)]
pub(crate) fn searched(stack: u64, found: bool) -> Option<()> {
    // SAFETY: the value is copied at once; no other program writes to this key.
    let netns = unsafe { SEARCHES.get(stack) }.copied()?;
    SEARCHES.remove(stack).ok()?;
    // SAFETY: the helper takes no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let counts = if let Some(counts) = TABLE_FULL.get_ptr_mut(netns) {
        counts
    } else {
        let none = TableFull { dropped: 0, made_room: 0, first_ns: now, last_ns: now };
        TABLE_FULL.insert(netns, none, 0).ok()?;
        TABLE_FULL.get_ptr_mut(netns)?
    };
    // SAFETY: the value belongs to this CPU alone, and the kernel lets no second program run on top of this one.
    let counts = unsafe { &mut *counts };
    if found {
        counts.made_room += 1;
    } else {
        counts.dropped += 1;
    }
    counts.last_ns = now;
    Some(())
}
