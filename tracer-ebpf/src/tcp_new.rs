//! Calls of `tcp_new`, from entry to return: keeps the arguments that the return cannot read any more.

use aya_ebpf::macros::map;
use aya_ebpf::maps::LruHashMap;

use crate::kernel::Address;

/// The unconfirmed entry and the packet of each call under way, by the stack pointer at the function's entry, as in
/// `early_drop.rs`.
#[map]
static STARTED: LruHashMap<u64, [u64; 2]> = LruHashMap::with_max_entries(1_024, 0);

/// Keeps the arguments at the entry.
#[inline(always)]
pub(crate) fn entered(stack: u64, ct: Address, skb: Address) {
    // If the map is full, a refused packet is counted as lost.
    let _lost = STARTED.insert(stack, [ct.number(), skb.number()], 0);
}

/// The unconfirmed entry and the packet at the return; `None` where the entry of the function was not seen.
#[inline(always)]
pub(crate) fn returned(stack: u64) -> Option<(Address, Address)> {
    // SAFETY: the value is copied at once; no other program writes to this key.
    let [ct, skb] = unsafe { STARTED.get(stack) }.copied()?;
    STARTED.remove(stack).ok()?;
    Some((Address::kept(ct), Address::kept(skb)))
}
