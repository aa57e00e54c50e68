//! First packets of connections, from where conntrack begins to judge one to where it has.

use aya_ebpf::macros::map;
use aya_ebpf::maps::LruHashMap;

use crate::kernel::Address;

/// The entry in the making and the packet, by the stack pointer at the function's entry, as in `table.rs`.
#[map]
static STARTED: LruHashMap<u64, [u64; 2]> = LruHashMap::with_max_entries(1_024, 0);

/// Judging begins.
#[inline(always)]
pub(crate) fn started(stack: u64, ct: Address, skb: Address) {
    // Without room the packet is counted as lost if it is refused.
    let _lost = STARTED.insert(stack, [ct.number(), skb.number()], 0);
}

/// Judging has ended: the entry in the making and the packet; `None` where the beginning was not seen.
#[inline(always)]
pub(crate) fn ended(stack: u64) -> Option<(Address, Address)> {
    // SAFETY: the value is copied at once; no other program writes to this key.
    let [ct, skb] = unsafe { STARTED.get(stack) }.copied()?;
    STARTED.remove(stack).ok()?;
    Some((Address::kept(ct), Address::kept(skb)))
}
