//! Which events become records, and which are only counted, so that a flood costs user space little and hides nothing.
//!
//! The first events of every [`Key`] are told, then a few every second; what is not told is counted exactly. A packet that
//! was refused, the RST that answers it and that RST on its way out are dealt with by one CPU one after the other: what
//! was decided for the first holds for the others, so that what is told is told whole.

use core::ptr;

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_NOEXIST};
use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, Queue};
use tracer_common::flood::{
    CHUNK, CHUNKS, HeldBack, Key, PER_CPU, PER_KEY, PLACES as ALL, Place, REST_KEYS, STRANGER_KEYS, Strangers,
    WINDOW_NS, known,
};

use crate::Skipped;
use crate::gone;
use crate::slot;

/// Where the events of a key are counted.
#[map]
static INDEX: HashMap<Key, u32> = HashMap::with_max_entries(ALL, 0);

/// Events that were counted.
#[map]
static PLACES: Array<Place> = Array::with_max_entries(ALL, BPF_F_MMAPABLE);

/// Chunks of places that no CPU has taken.
#[map]
static FREE_CHUNKS: Queue<u32> = Queue::with_max_entries(CHUNKS, 0);

/// Places for events whose keys have none of their own: they are counted by hook, class and namespace alone.
#[map]
static FREE_REST: Queue<u32> = Queue::with_max_entries(REST_KEYS, 0);

/// The chunk that this CPU takes places from.
#[map]
static CHUNK_IN_USE: PerCpuArray<Chunk> = PerCpuArray::with_max_entries(1, 0);

/// How many keys are of packets that belong to no connection that conntrack knows, and how many such keys user space has
/// taken away again.
#[map]
static STRANGERS: Array<Strangers> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Records that this CPU has made in the current second, beyond the first of each key.
#[map]
static BUDGET: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(1, 0);

/// What was decided last on this CPU.
#[map]
static LAST: PerCpuArray<Last> = PerCpuArray::with_max_entries(1, 0);

/// Places that a CPU may take.
#[repr(C)]
struct Chunk {
    /// The next one; where a chunk begins there is none.
    next: u32,
    /// Whether a program is just taking one.
    busy: u32,
}

/// No place.
const NOWHERE: u32 = u32::MAX;

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
    /// Where the refused packet was counted; its key may be taken away at any time, this place not before long.
    place: u32,
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
        let mut place = NOWHERE;
        Self::open_at(key, tracked, fate, &mut place)
    }

    /// The same, and tells the place where events of the key are counted.
    #[inline(always)]
    fn open_at(key: &mut Key, tracked: bool, fate: Fate, place: &mut u32) -> Result<Self, Skipped> {
        let class = key.class;
        if let Some(found) = find(key, tracked) {
            *place = found;
        } else {
            return Err(count_in_rest_at(key, place));
        }
        let Some(held) = held_at(*place) else { return Err(Skipped::Full) };
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
        let Some(held) = held_at(last.place) else { return Err(Skipped::Full) };
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

/// Decides whether a packet is told that conntrack has something to say about, and keeps that for the RST that may answer it.
/// Nothing answers one that is leaving.
#[inline(always)]
pub(crate) fn refuse(skb: u64, key: &Key, tracked: bool, leaving: bool, fate: Fate) -> Result<Case, Skipped> {
    let Some(last) = LAST.get_ptr_mut(0) else { return Err(Skipped::Full) };
    // SAFETY: the value belongs to this CPU alone.
    let last = unsafe { &mut *last };
    last.skb = if leaving { 0 } else { skb };
    last.key = *key;
    last.place = NOWHERE;
    // Of what is in a map the verifier knows the same behind every way to here; of the stack it would remember each.
    let case = Case::open_at(&mut last.key, tracked, fate, &mut last.place);
    last.refused = Fate::TOLD;
    if case.is_err() {
        last.refused = Fate::COUNTED;
        // The endpoints are out of it where it had no room.
        last.key = *key;
    }
    case
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
fn find(key: &Key, tracked: bool) -> Option<u32> {
    if let Some(place) = known_place(key) {
        return Some(place);
    }
    let is_stranger = !tracked && !gone::is_remembered(key);
    let strangers = STRANGERS.get_ptr_mut(0)?;
    // SAFETY: the pointer is to a value of the map. Others write to it at the same time.
    let Strangers { came, went } = unsafe { ptr::read_volatile(strangers) };
    if is_stranger && came.wrapping_sub(went) >= STRANGER_KEYS {
        return None;
    }
    let place = take_place()?;
    let mut known = known::USED;
    if is_stranger {
        // SAFETY: as above.
        add(unsafe { &raw mut (*strangers).came }, 1);
        known |= known::STRANGER;
    }
    make_place(place, key, known)
}

/// The place that a key has.
#[inline(always)]
fn known_place(key: &Key) -> Option<u32> {
    let place = INDEX.get_ptr(key)?;
    // SAFETY: the pointer is to a value of the map, which never changes while it is there.
    Some(unsafe { *place })
}

/// What is counted in a place.
#[inline(always)]
fn held_at(place: u32) -> Option<*mut HeldBack> {
    let place = PLACES.get_ptr_mut(place)?;
    // SAFETY: the pointer is to a value of the map.
    Some(unsafe { &raw mut (*place).held })
}

/// Gives a key a place that was taken for it; nothing is counted there yet.
#[inline(always)]
fn make_place(number: u32, key: &Key, known: u32) -> Option<u32> {
    let place = PLACES.get_ptr_mut(number)?;
    // SAFETY: the place was taken by this program alone, and user space has cleared it.
    let place = unsafe { &mut *place };
    place.key = *key;
    place.held.known = known;
    if INDEX.insert(key, number, BPF_NOEXIST.into()).is_ok() {
        return Some(number);
    }
    // Another CPU was faster.
    place.held.known = known & known::STRANGER | known::VAIN;
    known_place(key)
}

/// Takes a place of this CPU's chunk, or of the next one that is free.
#[inline(always)]
fn take_place() -> Option<u32> {
    let chunk = CHUNK_IN_USE.get_ptr_mut(0)?;
    // SAFETY: the pointer is to a value of the map, here and below. It is not kept as a reference: programs of other kinds than
    // this one may interrupt it on its CPU. They end before it goes on.
    let Chunk { next, busy } = unsafe { ptr::read_volatile(chunk) };
    if busy != 0 {
        return None;
    }
    // SAFETY: as above.
    unsafe { ptr::write_volatile(chunk, Chunk { next, busy: 1 }) };
    let place =
        if next % CHUNK == 0 { FREE_CHUNKS.pop().ok().flatten().map(|chunk| chunk * CHUNK) } else { Some(next) };
    let next = place.map_or(next, |place| place + 1);
    // SAFETY: as above.
    unsafe { ptr::write_volatile(chunk, Chunk { next, busy: 0 }) };
    place
}

/// The place where events are counted whose key has no room. The endpoints are taken out of the key.
#[inline(always)]
fn rest(key: &mut Key) -> Option<u32> {
    *key = Key { src: [0; 16], dst: [0; 16], sport: [0; 2], dport: [0; 2], version: 0, ..*key };
    let key: &Key = key;
    if let Some(place) = known_place(key) {
        return Some(place);
    }
    make_place(FREE_REST.pop().ok()??, key, known::USED)
}

/// Counts an event by what its key has besides endpoints.
#[inline(always)]
pub(crate) fn count_in_rest(key: &mut Key) -> Skipped {
    let mut place = NOWHERE;
    count_in_rest_at(key, &mut place)
}

/// The same, and tells the place.
#[inline(always)]
fn count_in_rest_at(key: &mut Key, place: &mut u32) -> Skipped {
    let Some(found) = rest(key) else { return Skipped::Full };
    *place = found;
    let Some(held) = held_at(found) else { return Skipped::Full };
    // SAFETY: the pointer is to a value of the map.
    let held = unsafe { &mut *held };
    // SAFETY: the helper takes no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if held.window_ns == 0 {
        held.window_ns = now;
    }
    // The last of several CPUs wins.
    held.last_ns = now;
    add(&raw mut held.count, 1);
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
