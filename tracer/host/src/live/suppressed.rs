//! The suppressed events: reads the programs' counts periodically and reports the additions. Frees the slots of inactive
//! flows.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::offset_of;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::Ebpf;
use aya::maps::{HashMap, MapData, Queue};
use zerocopy::transmute;

use tracer_common::ratelimit::{self, CHUNK, CHUNKS, FLOW_SLOTS, SLOTS, Slot, UNTRACKED_KEYS, Untracked, flags};
use tracer_common::{Hook, table_full};
use tracer_model::capture::{Item, Suppressed, SuppressedEvents, TableFull};
use tracer_model::time::Instant;

use super::mapped::Mapped;
use super::{StartError, map_array, take_map};

/// As bytes: aya takes only types that it knows to be plain.
type Key = [u8; size_of::<ratelimit::Key>()];
/// A slot, as words of the mapped array.
type SlotWords = [u64; WORDS];

/// Words of a slot.
const WORDS: usize = size_of::<Slot>() / size_of::<u64>();

/// Most keys in one item.
const AT_ONCE: usize = 4_096;
/// Where slots get scarce, keys without an event for so long lose theirs.
const INACTIVE_NS: u64 = 10_000_000_000;
/// Offset of [`Untracked::removed`], in words.
const REMOVED: usize = offset_of!(Untracked, removed) / size_of::<u64>();

/// The maps of the rate limit, and the counts read last.
pub(super) struct SuppressedMaps {
    index: HashMap<MapData, Key, u32>,
    free_chunks: Queue<MapData, u32>,
    /// Held open for programs that are loaded later.
    _free_overflow: Queue<MapData, u32>,
    slots: Slots,
    untracked: Mapped,
    /// Count and answers of each slot, as read last.
    before: Vec<[u64; 2]>,
    /// Chunks whose keys were removed at the last reading. Until the next one, a program may still add to their slots.
    leaving: BTreeSet<u32>,
}

/// The array of slots.
struct Slots(Mapped);

/// The contents of a chunk.
#[derive(Debug, Default)]
struct Contents {
    slots: u32,
    untracked: u64,
    last: u64,
}

impl SuppressedMaps {
    /// Takes the maps, and fills the queues of free slots for the programs.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, StartError> {
        Ok(Self {
            index: take_map(ebpf, ratelimit::SLOT_INDEX, HashMap::try_from)?,
            free_chunks: queue(ebpf, ratelimit::FREE_CHUNKS, 0..CHUNKS)?,
            _free_overflow: queue(ebpf, ratelimit::FREE_OVERFLOW, FLOW_SLOTS..SLOTS)?,
            slots: Slots(map_array(ebpf, ratelimit::MAP, SLOTS as usize * WORDS)?),
            untracked: map_array(ebpf, ratelimit::UNTRACKED, size_of::<Untracked>() / size_of::<u64>())?,
            before: vec![[0; 2]; SLOTS as usize],
            leaving: BTreeSet::new(),
        })
    }

    /// The events suppressed since the last reading.
    pub(super) fn read(&mut self, at: Instant) -> Vec<Item> {
        let mut events = Vec::new();
        let mut inactive = Vec::new();
        let (mut chunks, mut untracked) = (0, 0);
        for chunk in 0..CHUNKS {
            let mut contents = Contents::default();
            // The programs take the slots of a chunk in order.
            for (number, slot) in slots_of(chunk).map_while(|number| Some((number, self.slots.get(number)?))) {
                events.extend(added(&mut self.before, number, &slot));
                contents.slots += 1;
                contents.untracked += u64::from(slot.suppressed.flags & flags::UNTRACKED != 0);
                contents.last = contents.last.max(slot.suppressed.last_ns).max(slot.suppressed.window_ns);
            }
            chunks += u32::from(contents.slots != 0);
            untracked += contents.untracked;
            let is_inactive = contents.slots == CHUNK && at.0.saturating_sub(contents.last) > INACTIVE_NS;
            if is_inactive && !self.leaving.contains(&chunk) {
                inactive.push(chunk);
            }
        }
        for number in FLOW_SLOTS..SLOTS {
            events.extend(self.slots.get(number).and_then(|slot| added(&mut self.before, number, &slot)));
        }
        self.free_leaving();
        if chunks > CHUNKS * 3 / 4 || untracked > UNTRACKED_KEYS * 3 / 4 {
            self.remove_keys(inactive);
        }
        events.chunks(AT_ONCE).map(|events| Item::Suppressed(Suppressed { at, events: events.to_vec() })).collect()
    }

    /// How often the table was full, by namespace.
    pub(super) fn table_full(&self) -> Vec<TableFull> {
        let mut namespaces: BTreeMap<u32, TableFull> = BTreeMap::new();
        for Slot { key, suppressed } in (FLOW_SLOTS..SLOTS).filter_map(|number| self.slots.get(number)) {
            if key.hook != Hook::TableFull as u16 || suppressed.count == 0 {
                continue;
            }
            let (first, last) = (Instant(suppressed.window_ns), Instant(suppressed.last_ns));
            let none = TableFull { netns: key.netns, dropped: 0, made_room: 0, first, last };
            let full = namespaces.entry(key.netns).or_insert(none);
            let count = if key.class == table_full::MADE_ROOM { &mut full.made_room } else { &mut full.dropped };
            *count += suppressed.count;
            full.first = full.first.min(first);
            full.last = full.last.max(last);
        }
        namespaces.into_values().collect()
    }

    /// Removes the keys of inactive chunks. The next reading frees the slots.
    fn remove_keys(&mut self, inactive: Vec<u32>) {
        tracing::debug!("slots for flows get scarce: removing the keys of {} inactive chunks", inactive.len());
        for chunk in inactive {
            for slot in slots_of(chunk).filter_map(|number| self.slots.get(number)) {
                let key: Key = transmute!(slot.key);
                if slot.suppressed.flags & flags::USED != 0
                    && let Err(error) = self.index.remove(&key)
                {
                    tracing::warn!("removing the key of an inactive flow: {error}");
                }
            }
            self.leaving.insert(chunk);
        }
    }

    /// Frees the chunks whose keys the last reading removed.
    fn free_leaving(&mut self) {
        let leaving = std::mem::take(&mut self.leaving);
        for chunk in &leaving {
            for number in slots_of(*chunk) {
                let is_untracked = |slot: Slot| slot.suppressed.flags & flags::UNTRACKED != 0;
                if self.slots.get(number).is_some_and(is_untracked)
                    && let Some(removed) = self.untracked.words().get(REMOVED)
                {
                    removed.fetch_add(1, Ordering::Relaxed);
                }
                self.slots.clear(number);
                if let Some(before) = self.before.get_mut(number as usize) {
                    *before = [0; 2];
                }
            }
            if let Err(error) = self.free_chunks.push(*chunk, 0) {
                tracing::warn!("freeing the slots of inactive flows: {error}");
            }
        }
        if !leaving.is_empty() {
            tracing::debug!("freed the slots of inactive flows: {} chunks", leaving.len());
        }
    }
}

impl Slots {
    /// A slot; `None` where it is free.
    fn get(&self, number: u32) -> Option<Slot> {
        let mut read: SlotWords = [0; _];
        // The programs write the flags, in the last word, after the key: read them first.
        for (to, from) in read.iter_mut().zip(self.words(number)).rev() {
            *to = from.load(Ordering::Acquire);
        }
        let slot: Slot = transmute!(read);
        (slot.suppressed.flags != 0).then_some(slot)
    }

    fn clear(&self, number: u32) {
        for word in self.words(number) {
            word.store(0, Ordering::Relaxed);
        }
    }

    fn words(&self, number: u32) -> &[AtomicU64] {
        let at = number as usize * WORDS;
        self.0.words().get(at..at + WORDS).unwrap_or_default()
    }
}

/// The events added to a slot since `before`.
fn added(before: &mut [[u64; 2]], number: u32, slot: &Slot) -> Option<SuppressedEvents> {
    let Slot { key, suppressed } = slot;
    let hook = Hook::from_number(key.hook).filter(|hook| *hook != Hook::TableFull)?;
    let before = before.get_mut(number as usize)?;
    let count = suppressed.count.saturating_sub(before[0]);
    let answered = suppressed.answered.saturating_sub(before[1]);
    if suppressed.flags & flags::USED == 0 || count + answered == 0 {
        return None;
    }
    *before = [suppressed.count, suppressed.answered];
    Some(SuppressedEvents {
        count,
        answered,
        last: Instant(suppressed.last_ns),
        ..tracer_model::suppressed::events(key, hook)
    })
}

/// The slots of a chunk.
const fn slots_of(chunk: u32) -> Range<u32> {
    chunk * CHUNK..(chunk + 1) * CHUNK
}

/// Takes a queue and fills it with these numbers.
fn queue(ebpf: &mut Ebpf, name: &'static str, mut numbers: Range<u32>) -> Result<Queue<MapData, u32>, StartError> {
    let mut queue = take_map(ebpf, name, Queue::try_from)?;
    let filled = numbers.try_for_each(|number| queue.push(number, 0));
    filled.map_err(|error| StartError::Map { name, because: error.to_string() })?;
    Ok(queue)
}
