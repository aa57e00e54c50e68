//! Which events become records, and which are only counted, so that a flood costs user space little and hides nothing.
//!
//! The first events of every [`Key`] are told, then a few every second; what is not told is counted exactly. A packet that
//! was refused, the RST that answers it and that RST on its way out are dealt with by one CPU one after the other: what
//! was decided for the first holds for the others, so that what is told is told whole.

use core::ptr;

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray};
use tracer_common::flood::{HeldBack, KEYS, Key, PER_CPU, PER_KEY, REST_KEYS, STRANGER_KEYS, WINDOW_NS, known};

use crate::Skipped;
use crate::gone;
use crate::slot;

/// Events that were counted, per key.
#[map]
static HELD_BACK: HashMap<Key, HeldBack> = HashMap::with_max_entries(KEYS, 0);

/// Events for whose keys there was no room, by hook, class and namespace alone.
#[map]
static HELD_BACK_REST: HashMap<Key, HeldBack> = HashMap::with_max_entries(REST_KEYS, 0);

/// How many keys are of packets that belong to no connection that conntrack knows. User space sets it when it has made room.
#[map]
static STRANGERS: Array<u64> = Array::with_max_entries(1, 0);

/// Records that this CPU has made in the current second, beyond the first of each key.
#[map]
static BUDGET: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(1, 0);

/// What was decided last on this CPU.
#[map]
static LAST: PerCpuArray<Last> = PerCpuArray::with_max_entries(1, 0);

const NOTHING: HeldBack = HeldBack { count: 0, answered: 0, last_ns: 0, window_ns: 0, told: 0, known: 0 };

/// What becomes of an event.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Fate(u32);

impl Fate {
    /// It is decided by how many there were.
    pub(crate) const OPEN: Self = Self(0);
    /// It is told.
    pub(crate) const TOLD: Self = Self(1);
    /// It is counted.
    pub(crate) const COUNTED: Self = Self(2);
}

/// A packet that was refused, or the segment that a RST answers.
#[repr(C)]
struct Last {
    /// Address of the refused packet's buffer; 0 once it has been answered. Another packet may have the same one later.
    skb: u64,
    /// What was decided for the refused packet.
    refused: Fate,
    /// What was decided for the RST that is on its way out, or [`Fate::OPEN`].
    leaving: Fate,
    key: Key,
}

impl Last {
    /// Whether this is the packet that was refused last.
    #[inline(always)]
    fn is(&self, skb: u64, key: &Key) -> bool {
        let (a, b) = (&self.key, key);
        self.skb == skb && a.sport == b.sport && a.dport == b.dport && a.src == b.src && a.dst == b.dst
    }
}

/// An event that may become a record, with where it is counted if it does not.
pub(crate) struct Case {
    held: Option<*mut HeldBack>,
    /// The class of its key.
    pub(crate) class: u32,
}

impl Case {
    /// Decides whether the event is told; if not it has been counted.
    ///
    /// `fate` is what was decided for the event that it follows from. `tracked` says that the packet has an entry of
    /// its own; others may take up half of the room only.
    #[inline(always)]
    pub(crate) fn open(key: &mut Key, tracked: bool, fate: Fate) -> Result<Self, Skipped> {
        let class = key.class;
        let Some(held) = find(key, tracked) else { return Err(count_in_rest(key)) };
        // SAFETY: the helper takes no arguments.
        let now = unsafe { bpf_ktime_get_boot_ns() };
        // SAFETY: the pointer is to a value of the map, which is never taken away. The fields used here without atomic
        // additions only limit the number of records: two CPUs at once may make one more or less.
        let state = unsafe { &mut *held };
        if now.wrapping_sub(state.window_ns) >= WINDOW_NS {
            state.window_ns = now;
            state.told = 0;
        }
        let first = state.known & known::TOLD == 0;
        let allowed = match fate {
            Fate::TOLD => true,
            Fate::COUNTED => false,
            _ => state.told < PER_KEY && (first || within_budget(now)),
        };
        if !allowed || slot::is_nearly_full() {
            state.last_ns = now;
            add(&raw mut state.count, 1);
            return Err(Skipped::Counted);
        }
        state.told += 1;
        state.known |= known::TOLD;
        Ok(Self { held: Some(held), class })
    }

    /// The RST of the stack that answers a segment. The answer to a packet that was refused and told is told, that to one that
    /// was counted is counted with it.
    #[inline(always)]
    pub(crate) fn answer(skb: u64, key: &Key, tracked: bool) -> Result<Self, Skipped> {
        let Some(last) = LAST.get_ptr_mut(0) else { return Err(Skipped::Full) };
        // SAFETY: the value belongs to this CPU alone.
        let last = unsafe { &mut *last };
        if !last.is(skb, key) {
            last.skb = 0;
            last.key = *key;
            // Of what is in a map the verifier knows the same behind every way to here; of the stack it would remember each.
            let case = Self::open(&mut last.key, tracked, Fate::OPEN);
            last.leaving = Fate::TOLD;
            if case.is_err() {
                last.leaving = Fate::COUNTED;
                // The endpoints are out of it where it had no room.
                last.key = *key;
            }
            return case;
        }
        last.skb = 0;
        last.leaving = last.refused;
        if last.refused == Fate::TOLD {
            return Ok(Self { held: None, class: key.class });
        }
        let refused: &mut Key = &mut last.key;
        let found = {
            let refused: &Key = refused;
            HELD_BACK.get_ptr_mut(refused)
        };
        let Some(held) = found.or_else(|| rest(refused)) else { return Err(Skipped::Full) };
        // SAFETY: the pointer is to a value of the map.
        add(unsafe { &raw mut (*held).answered }, 1);
        Err(Skipped::Counted)
    }

    /// There was no room for the record after all: the event is counted instead.
    #[inline(always)]
    pub(crate) fn give_up(&self) -> Skipped {
        let Some(held) = self.held else { return Skipped::Full };
        // SAFETY: as in `open`.
        let state = unsafe { &mut *held };
        state.known &= !known::TOLD;
        add(&raw mut state.count, 1);
        Skipped::Counted
    }
}

/// Keeps which packet conntrack refuses, for the RST that may answer it. It is taken to be counted until it is told.
#[inline(always)]
pub(crate) fn refusing(skb: u64, key: &Key) {
    let Some(last) = LAST.get_ptr_mut(0) else { return };
    // SAFETY: the value belongs to this CPU alone.
    let last = unsafe { &mut *last };
    last.skb = skb;
    last.refused = Fate::COUNTED;
    last.key = *key;
}

/// The packet that was refused last is told.
#[inline(always)]
pub(crate) fn refused_is_told() {
    let Some(last) = LAST.get_ptr_mut(0) else { return };
    // SAFETY: the value belongs to this CPU alone.
    unsafe { (*last).refused = Fate::TOLD };
}

/// What was decided for a packet, where it is the one that was refused last on this CPU.
#[inline(always)]
pub(crate) fn fate_of(skb: u64, key: &Key) -> Fate {
    let Some(last) = LAST.get_ptr(0) else { return Fate::OPEN };
    // SAFETY: the value belongs to this CPU alone.
    let last = unsafe { &*last };
    if last.is(skb, key) { last.refused } else { Fate::OPEN }
}

/// What was decided for the RST that this CPU is sending, where this one is it.
#[inline(always)]
pub(crate) fn leaving(key: &Key) -> Fate {
    let Some(last) = LAST.get_ptr_mut(0) else { return Fate::OPEN };
    // SAFETY: the value belongs to this CPU alone.
    let last = unsafe { &mut *last };
    let answers = last.key.sport == key.dport && last.key.dport == key.sport;
    let fate = if answers { last.leaving } else { Fate::OPEN };
    last.leaving = Fate::OPEN;
    fate
}

/// The place where events of a key are counted; `None` where there is no room for it.
#[inline(always)]
fn find(key: &Key, tracked: bool) -> Option<*mut HeldBack> {
    if let Some(held) = HELD_BACK.get_ptr_mut(key) {
        return Some(held);
    }
    let mut new = NOTHING;
    if !tracked && !gone::is_remembered(key) {
        let strangers = STRANGERS.get_ptr_mut(0)?;
        // SAFETY: the pointer is to a value of the map.
        if unsafe { ptr::read_volatile(strangers) } >= STRANGER_KEYS {
            return None;
        }
        add(strangers, 1);
        new.known = known::STRANGER;
    }
    // Another CPU may have been faster, or there may be no room.
    let _there = HELD_BACK.insert(key, new, BPF_NOEXIST.into());
    HELD_BACK.get_ptr_mut(key)
}

/// The place where events are counted whose key has no room. The endpoints are taken out of the key.
#[inline(always)]
fn rest(key: &mut Key) -> Option<*mut HeldBack> {
    *key = Key { src: [0; 16], dst: [0; 16], sport: [0; 2], dport: [0; 2], version: 0, ..*key };
    let key: &Key = key;
    let _there = HELD_BACK_REST.insert(key, NOTHING, BPF_NOEXIST.into());
    HELD_BACK_REST.get_ptr_mut(key)
}

/// Counts an event whose key has no room.
#[inline(always)]
fn count_in_rest(key: &mut Key) -> Skipped {
    let Some(held) = rest(key) else { return Skipped::Full };
    // SAFETY: the pointer is to a value of the map.
    add(unsafe { &raw mut (*held).count }, 1);
    // SAFETY: the helper takes no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    // SAFETY: as above; the last of several CPUs wins.
    unsafe { (*held).last_ns = now };
    Skipped::Counted
}

/// Whether this CPU may make another record in this second.
#[inline(always)]
fn within_budget(now: u64) -> bool {
    let Some(budget) = BUDGET.get_ptr_mut(0) else { return false };
    // SAFETY: the value belongs to this CPU alone.
    let [since, used] = unsafe { &mut *budget };
    if now.wrapping_sub(*since) >= WINDOW_NS {
        *since = now;
        *used = 0;
    }
    *used += 1;
    *used <= u64::from(PER_CPU)
}

/// Adds to a number that other CPUs add to as well.
#[inline(always)]
fn add(place: *mut u64, number: u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the callers pass a pointer to a value of a map, aligned to eight bytes.
    unsafe {
        core::arch::asm!("lock *(u64 *)({place} + 0) += {number}", place = in(reg) place, number = in(reg) number);
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above; nothing runs this.
    unsafe {
        *place += number;
    }
}
