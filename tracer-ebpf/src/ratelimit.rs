//! The rate limit: decides for each event whether to emit a record or to count the event as suppressed, so that a flood of
//! packets costs user space little and no event is lost.
//!
//! The first events of every [`Key`] become records, and so do a few each second after that; the others are counted exactly.
//! One CPU handles a packet that conntrack logged, the RST that answers it and that RST at `LOCAL_OUT` one after the other:
//! the decision on the first holds for all three, so that user space gets all of their records or none.

use core::ptr;

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_NOEXIST};
use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, Queue};
use tracer_common::Hook;
use tracer_common::ratelimit::{
    CHUNK, CHUNKS, Key, OVERFLOW_SLOTS, PER_CPU, PER_KEY, SLOTS as ALL, Slot, Suppressed, UNTRACKED_KEYS, Untracked,
    WINDOW_NS, flags,
};

use crate::counters::Skipped;
use crate::destroyed;
use crate::ring::{self, Reservation};

/// The slot of each key.
#[map]
static SLOT_INDEX: HashMap<Key, u32> = HashMap::with_max_entries(ALL, 0);

/// Suppressed events.
#[map]
static SLOTS: Array<Slot> = Array::with_max_entries(ALL, BPF_F_MMAPABLE);

/// Chunks of slots that no CPU has taken.
#[map]
static FREE_CHUNKS: Queue<u32> = Queue::with_max_entries(CHUNKS, 0);

/// Free slots for keys without endpoints, which distinguish hook, class and namespace only.
#[map]
static FREE_OVERFLOW: Queue<u32> = Queue::with_max_entries(OVERFLOW_SLOTS, 0);

/// The chunk that this CPU takes slots from.
#[map]
static CHUNK_IN_USE: PerCpuArray<Chunk> = PerCpuArray::with_max_entries(1, 0);

/// The number of keys of untracked flows.
#[map]
static UNTRACKED: Array<Untracked> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Start of the current second, and the records of this CPU in it beyond the first of each key.
#[map]
static BUDGET: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(1, 0);

/// The last decision of this CPU.
#[map]
static LAST_DECISION: PerCpuArray<LastDecision> = PerCpuArray::with_max_entries(1, 0);

/// The slots that a CPU may take.
#[repr(C)]
struct Chunk {
    /// Number of the next one; a multiple of [`CHUNK`] where the CPU has no chunk.
    next: u32,
    /// 1 while a program takes a slot.
    busy: u32,
}

/// The number of no slot.
const NO_SLOT: u32 = u32::MAX;

/// The decision about an event.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Decision {
    /// None yet: the rate limit of its key decides.
    Open = 0,
    /// Emit a record.
    Emit = 1,
    /// Count the event.
    Count = 2,
}

/// The decision about a packet that conntrack logged, or about a segment that a RST answers.
#[repr(C)]
struct LastDecision {
    /// Address of the logged packet's buffer; 0 once a RST has answered it. Later packets may get the same buffer.
    skb: u64,
    /// Slot of the logged packet's key. User space may remove the key at any time, but frees the slot much later.
    slot: u32,
    /// The decision about the logged packet.
    logged: Decision,
    /// The decision about the RST that the stack sends now, or [`Decision::Open`].
    reset: Decision,
    key: Key,
}

impl LastDecision {
    /// Whether this is the packet that conntrack logged last.
    #[inline(always)]
    fn is_about(&self, skb: u64, key: &Key) -> bool {
        let (a, b) = (&self.key, key);
        self.skb == skb && a.sport == b.sport && a.dport == b.dport && a.src == b.src && a.dst == b.dst
    }
}

/// Permission to emit a record of an event.
pub(crate) struct Admission {
    /// Counts the event if the ring buffer is full; `None` where another event's slot does.
    suppressed: Option<*mut Suppressed>,
    /// The class of the event's key.
    class: u32,
}

impl Admission {
    /// Decides whether to emit a record of an event, and counts the event if not.
    ///
    /// `decision` is the decision about the event that caused this one. `tracked` means that the packet belongs to an entry;
    /// untracked flows may take half of the slots only.
    #[inline(always)]
    pub(crate) fn decide(key: &mut Key, tracked: bool, decision: Decision) -> Result<Self, Skipped> {
        let mut slot = NO_SLOT;
        Self::decide_at(key, tracked, decision, &mut slot)
    }

    /// The same, and returns the slot of the key.
    #[inline(always)]
    fn decide_at(key: &mut Key, tracked: bool, decision: Decision, slot: &mut u32) -> Result<Self, Skipped> {
        let class = key.class;
        if let Some(found) = find_slot(key, tracked) {
            *slot = found;
        } else {
            return Err(count_in_overflow_at(key, slot));
        }
        let Some(suppressed) = suppressed_at(*slot) else { return Err(Skipped::Full) };
        // SAFETY: the helper takes no arguments.
        let now = unsafe { bpf_ktime_get_boot_ns() };
        // SAFETY: the pointer is to a value of an array, which is never removed. The fields that are written here without
        // atomic additions only limit the number of records: two CPUs at once may emit one more or less.
        let state = unsafe { &mut *suppressed };
        if now.wrapping_sub(state.window_ns) >= WINDOW_NS {
            state.window_ns = now;
            state.emitted = 0;
        }
        let first = state.flags & flags::EMITTED == 0;
        let allowed = match decision {
            Decision::Emit => true,
            Decision::Count => false,
            Decision::Open => state.emitted < PER_KEY && (first || within_budget(now)),
        };
        if !allowed || ring::is_nearly_full() {
            state.last_ns = now;
            add(&raw mut state.count, 1);
            return Err(Skipped::Suppressed);
        }
        state.emitted += 1;
        state.flags |= flags::EMITTED;
        Ok(Self { suppressed: Some(suppressed), class })
    }

    /// Decides whether to emit a record of a packet that conntrack logged, and remembers the decision per CPU so that the RST
    /// answering it gets the same treatment. No RST answers an `outgoing` packet.
    #[inline(always)]
    pub(crate) fn decide_logged(
        skb: u64,
        key: &Key,
        tracked: bool,
        outgoing: bool,
        decision: Decision,
    ) -> Result<Self, Skipped> {
        let Some(last) = LAST_DECISION.get_ptr_mut(0) else { return Err(Skipped::Full) };
        // SAFETY: the value belongs to this CPU alone.
        let last = unsafe { &mut *last };
        last.skb = if outgoing { 0 } else { skb };
        last.key = *key;
        last.slot = NO_SLOT;
        // The key is passed in the map: the verifier tracks the contents of the stack on every path, but not those of a map.
        let admission = Self::decide_at(&mut last.key, tracked, decision, &mut last.slot);
        last.logged = Decision::Emit;
        if admission.is_err() {
            last.logged = Decision::Count;
            // An overflow slot has taken the endpoints out of the key.
            last.key = *key;
        }
        admission
    }

    /// Decides whether to emit a record of the stack's RST that answers a segment. If conntrack logged the segment, the
    /// decision about the segment holds for the RST.
    #[inline(always)]
    pub(crate) fn decide_answer(skb: u64, key: &Key, tracked: bool) -> Result<Self, Skipped> {
        let Some(last) = LAST_DECISION.get_ptr_mut(0) else { return Err(Skipped::Full) };
        // SAFETY: the value belongs to this CPU alone.
        let last = unsafe { &mut *last };
        if !last.is_about(skb, key) {
            last.skb = 0;
            last.key = *key;
            // As in `decide_logged`, the key is passed in the map.
            let admission = Self::decide(&mut last.key, tracked, Decision::Open);
            last.reset = Decision::Emit;
            if admission.is_err() {
                last.reset = Decision::Count;
                // An overflow slot has taken the endpoints out of the key.
                last.key = *key;
            }
            return admission;
        }
        last.skb = 0;
        last.reset = last.logged;
        if last.logged == Decision::Emit {
            return Ok(Self { suppressed: None, class: key.class });
        }
        let Some(suppressed) = suppressed_at(last.slot) else { return Err(Skipped::Full) };
        // SAFETY: the pointer is to a value of the map.
        add(unsafe { &raw mut (*suppressed).answered }, 1);
        Err(Skipped::Suppressed)
    }

    /// Reserves room for the record in the ring buffer; where there is none, counts the event instead.
    #[inline(always)]
    pub(crate) fn reserve(&self, hook: Hook) -> Result<Reservation, Skipped> {
        Reservation::new(hook, self.class).ok_or_else(|| self.count_instead())
    }

    /// Counts an event that was to be emitted.
    #[inline(always)]
    fn count_instead(&self) -> Skipped {
        let Some(suppressed) = self.suppressed else { return Skipped::Full };
        // SAFETY: as in `decide_at`.
        let state = unsafe { &mut *suppressed };
        state.flags &= !flags::EMITTED;
        add(&raw mut state.count, 1);
        Skipped::Suppressed
    }
}

/// The decision about a packet, if conntrack logged it last on this CPU.
#[inline(always)]
pub(crate) fn decision_about(skb: u64, key: &Key) -> Decision {
    let Some(last) = LAST_DECISION.get_ptr(0) else { return Decision::Open };
    // SAFETY: the value belongs to this CPU alone.
    let last = unsafe { &*last };
    if last.is_about(skb, key) { last.logged } else { Decision::Open }
}

/// The decision about the RST that this CPU sends, if `key` is of that RST. It holds once.
#[inline(always)]
pub(crate) fn take_reset_decision(key: &Key) -> Decision {
    let Some(last) = LAST_DECISION.get_ptr_mut(0) else { return Decision::Open };
    // SAFETY: the value belongs to this CPU alone.
    let last = unsafe { &mut *last };
    let answers = last.key.sport == key.dport && last.key.dport == key.sport;
    let decision = if answers { last.reset } else { Decision::Open };
    last.reset = Decision::Open;
    decision
}

/// Counts an event in the overflow slot of its key; its endpoints are not counted apart.
#[inline(always)]
pub(crate) fn count_in_overflow(key: &mut Key) -> Skipped {
    let mut slot = NO_SLOT;
    count_in_overflow_at(key, &mut slot)
}

/// The same, and returns the slot.
#[inline(always)]
fn count_in_overflow_at(key: &mut Key, slot: &mut u32) -> Skipped {
    let Some(found) = overflow_slot(key) else { return Skipped::Full };
    *slot = found;
    let Some(suppressed) = suppressed_at(found) else { return Skipped::Full };
    // SAFETY: the pointer is to a value of the map.
    let state = unsafe { &mut *suppressed };
    // SAFETY: the helper takes no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if state.window_ns == 0 {
        state.window_ns = now;
    }
    // The last of several CPUs wins.
    state.last_ns = now;
    add(&raw mut state.count, 1);
    Skipped::Suppressed
}

/// The slot of a key, new or old; `None` where no slot is left for it.
#[inline(always)]
fn find_slot(key: &Key, tracked: bool) -> Option<u32> {
    if let Some(slot) = indexed_slot(key) {
        return Some(slot);
    }
    let is_untracked = !tracked && !destroyed::contains(key);
    let untracked = UNTRACKED.get_ptr_mut(0)?;
    // SAFETY: the pointer is to a value of the map. Others write to it at the same time.
    let Untracked { added, removed } = unsafe { ptr::read_volatile(untracked) };
    if is_untracked && added.wrapping_sub(removed) >= UNTRACKED_KEYS {
        return None;
    }
    let slot = take_slot()?;
    let mut flags = flags::USED;
    if is_untracked {
        // SAFETY: as above.
        add(unsafe { &raw mut (*untracked).added }, 1);
        flags |= flags::UNTRACKED;
    }
    assign_slot(slot, key, flags)
}

/// The overflow slot of a key, new or old; `None` where none is left. Takes the endpoints out of the key.
#[inline(always)]
fn overflow_slot(key: &mut Key) -> Option<u32> {
    *key = Key { src: [0; 16], dst: [0; 16], sport: [0; 2], dport: [0; 2], version: 0, ..*key };
    let key: &Key = key;
    if let Some(slot) = indexed_slot(key) {
        return Some(slot);
    }
    assign_slot(FREE_OVERFLOW.pop().ok()??, key, flags::USED)
}

/// The slot that a key has already.
#[inline(always)]
fn indexed_slot(key: &Key) -> Option<u32> {
    let slot = SLOT_INDEX.get_ptr(key)?;
    // SAFETY: the pointer is to a value of the map, which does not change while the key is in the map.
    Some(unsafe { *slot })
}

/// The suppressed events of a slot.
#[inline(always)]
fn suppressed_at(slot: u32) -> Option<*mut Suppressed> {
    let slot = SLOTS.get_ptr_mut(slot)?;
    // SAFETY: the pointer is to a value of the map.
    Some(unsafe { &raw mut (*slot).suppressed })
}

/// Assigns a free slot to a key.
#[inline(always)]
fn assign_slot(number: u32, key: &Key, flags: u32) -> Option<u32> {
    let slot = SLOTS.get_ptr_mut(number)?;
    // SAFETY: this program alone took the slot, and user space has cleared it.
    let slot = unsafe { &mut *slot };
    slot.key = *key;
    slot.suppressed.flags = flags;
    if SLOT_INDEX.insert(key, number, BPF_NOEXIST.into()).is_ok() {
        return Some(number);
    }
    // Another CPU was faster.
    slot.suppressed.flags = flags & flags::UNTRACKED | flags::DUPLICATE;
    indexed_slot(key)
}

/// Takes a free slot of this CPU's chunk, or of the next free chunk.
#[inline(always)]
fn take_slot() -> Option<u32> {
    let chunk = CHUNK_IN_USE.get_ptr_mut(0)?;
    // SAFETY: the pointer is to a value of the map, here and below. It is not kept as a reference: a program of another type
    // may interrupt this one on its CPU. That program ends before this one goes on.
    let Chunk { next, busy } = unsafe { ptr::read_volatile(chunk) };
    if busy != 0 {
        return None;
    }
    // SAFETY: as above.
    unsafe { ptr::write_volatile(chunk, Chunk { next, busy: 1 }) };
    let slot = if next % CHUNK == 0 { FREE_CHUNKS.pop().ok().flatten().map(|chunk| chunk * CHUNK) } else { Some(next) };
    let next = slot.map_or(next, |slot| slot + 1);
    // SAFETY: as above.
    unsafe { ptr::write_volatile(chunk, Chunk { next, busy: 0 }) };
    slot
}

/// Whether this CPU may emit another record in this second; takes it off the budget.
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

/// Adds to a number atomically.
#[inline(always)]
fn add(to: *mut u64, number: u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the callers pass a pointer to a value of a map, aligned to eight bytes.
    unsafe {
        core::arch::asm!("lock *(u64 *)({to} + 0) += {number}", to = in(reg) to, number = in(reg) number);
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above; nothing runs this.
    unsafe {
        *to += number;
    }
}
