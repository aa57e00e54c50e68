//! Events that the programs counted instead of telling them: read now and then, each time what was added since.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::offset_of;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::Ebpf;
use aya::maps::{HashMap, MapData, Queue};
use zerocopy::transmute;

use tracer_common::flood::{self, CHUNK, CHUNKS, KEYS, PLACES, Place, STRANGER_KEYS, Strangers, known};
use tracer_common::{Hook, table};
use tracer_model::capture::{Item, Suppressed, SuppressedEvents, TableFull};
use tracer_model::time::Instant;

use super::mapped::Mapped;
use super::{StartError, map_array, take_map};

/// aya asks for types that it knows to be plain: bytes.
type Key = [u8; size_of::<flood::Key>()];
/// A place as it is mapped.
type Words = [u64; WORDS];

/// Words of a place.
const WORDS: usize = size_of::<Place>() / size_of::<u64>();

/// Kinds of events that are delivered at once.
const AT_ONCE: usize = 4_096;
/// Keys that have been quiet for so long make room for others, where room gets scarce.
const QUIET_NS: u64 = 10_000_000_000;
/// Where user space says how many keys of strangers it has taken away, in words.
const WENT: usize = offset_of!(Strangers, went) / size_of::<u64>();

/// The maps, and what was read of them before.
pub(super) struct HeldBackMaps {
    index: HashMap<MapData, Key, u32>,
    free: Queue<MapData, u32>,
    /// Programs that are loaded later are given its descriptor.
    _free_rest: Queue<MapData, u32>,
    places: Places,
    strangers: Mapped,
    /// Count and answers of each place.
    before: Vec<[u64; 2]>,
    /// Chunks whose keys were taken away when they were last read. What a program may have been about to add is there now.
    leaving: BTreeSet<u32>,
}

/// All places.
struct Places(Mapped);

/// What there is in a chunk.
#[derive(Debug, Default)]
struct Filled {
    places: u32,
    strangers: u64,
    last: u64,
}

impl HeldBackMaps {
    /// Takes the maps, and tells the programs which places are free.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, StartError> {
        Ok(Self {
            index: take_map(ebpf, flood::INDEX, HashMap::try_from)?,
            free: queue(ebpf, flood::FREE, 0..CHUNKS)?,
            _free_rest: queue(ebpf, flood::FREE_REST, KEYS..PLACES)?,
            places: Places(map_array(ebpf, flood::MAP, PLACES as usize * WORDS)?),
            strangers: map_array(ebpf, flood::STRANGERS, size_of::<Strangers>() / size_of::<u64>())?,
            before: vec![[0; 2]; PLACES as usize],
            leaving: BTreeSet::new(),
        })
    }

    /// What was counted since the last time.
    pub(super) fn read(&mut self, at: Instant) -> Vec<Item> {
        let mut events = Vec::new();
        let mut quiet = Vec::new();
        let (mut chunks, mut strangers) = (0, 0);
        for chunk in 0..CHUNKS {
            let mut filled = Filled::default();
            // They are taken one after the other.
            for (number, place) in places_of(chunk).map_while(|number| Some((number, self.places.get(number)?))) {
                events.extend(added(&mut self.before, number, &place));
                filled.places += 1;
                filled.strangers += u64::from(place.held.known & known::STRANGER != 0);
                filled.last = filled.last.max(place.held.last_ns).max(place.held.window_ns);
            }
            chunks += u32::from(filled.places != 0);
            strangers += filled.strangers;
            let is_quiet = filled.places == CHUNK && at.0.saturating_sub(filled.last) > QUIET_NS;
            if is_quiet && !self.leaving.contains(&chunk) {
                quiet.push(chunk);
            }
        }
        for number in KEYS..PLACES {
            events.extend(self.places.get(number).and_then(|place| added(&mut self.before, number, &place)));
        }
        self.free_what_left();
        if chunks > CHUNKS * 3 / 4 || strangers > STRANGER_KEYS * 3 / 4 {
            self.take_away(quiet);
        }
        events.chunks(AT_ONCE).map(|events| Item::Suppressed(Suppressed { at, events: events.to_vec() })).collect()
    }

    /// How often the table was full, by namespace.
    pub(super) fn table_full(&self) -> Vec<TableFull> {
        let mut namespaces: BTreeMap<u32, TableFull> = BTreeMap::new();
        for Place { key, held } in (KEYS..PLACES).filter_map(|number| self.places.get(number)) {
            if key.hook != Hook::TableFull as u16 || held.count == 0 {
                continue;
            }
            let (first, last) = (Instant(held.window_ns), Instant(held.last_ns));
            let none = TableFull { netns: key.netns, dropped: 0, made_room: 0, first, last };
            let full = namespaces.entry(key.netns).or_insert(none);
            let count = if key.class == table::MADE_ROOM { &mut full.made_room } else { &mut full.dropped };
            *count += held.count;
            full.first = full.first.min(first);
            full.last = full.last.max(last);
        }
        namespaces.into_values().collect()
    }

    /// Takes keys away that were quiet. Their places are free once they have been read again.
    fn take_away(&mut self, quiet: Vec<u32>) {
        tracing::debug!("room for flows gets scarce: the keys of {} quiet chunks are taken away", quiet.len());
        for chunk in quiet {
            for place in places_of(chunk).filter_map(|number| self.places.get(number)) {
                let key: Key = transmute!(place.key);
                if place.held.known & known::USED != 0
                    && let Err(error) = self.index.remove(&key)
                {
                    tracing::warn!("making room for further flows: {error}");
                }
            }
            self.leaving.insert(chunk);
        }
    }

    /// The places of keys that were taken away are free.
    fn free_what_left(&mut self) {
        let leaving = std::mem::take(&mut self.leaving);
        for chunk in &leaving {
            for number in places_of(*chunk) {
                let is_stranger = |place: Place| place.held.known & known::STRANGER != 0;
                if self.places.get(number).is_some_and(is_stranger)
                    && let Some(went) = self.strangers.words().get(WENT)
                {
                    went.fetch_add(1, Ordering::Relaxed);
                }
                self.places.clear(number);
                if let Some(before) = self.before.get_mut(number as usize) {
                    *before = [0; 2];
                }
            }
            if let Err(error) = self.free.push(*chunk, 0) {
                tracing::warn!("making room for further flows: {error}");
            }
        }
        if !leaving.is_empty() {
            tracing::debug!("there is room again: {} chunks are free", leaving.len());
        }
    }
}

impl Places {
    /// A place; `None` where no key has it.
    fn get(&self, number: u32) -> Option<Place> {
        let mut read: Words = [0; _];
        // The flags come last, and are written behind the key.
        for (to, from) in read.iter_mut().zip(self.words(number)).rev() {
            *to = from.load(Ordering::Acquire);
        }
        let place: Place = transmute!(read);
        (place.held.known != 0).then_some(place)
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

/// What was added to a place since it was `before`.
fn added(before: &mut [[u64; 2]], number: u32, place: &Place) -> Option<SuppressedEvents> {
    let Place { key, held } = place;
    let hook = Hook::from_number(key.hook).filter(|hook| *hook != Hook::TableFull)?;
    let before = before.get_mut(number as usize)?;
    let (count, answered) = (held.count.saturating_sub(before[0]), held.answered.saturating_sub(before[1]));
    if held.known & known::USED == 0 || count + answered == 0 {
        return None;
    }
    *before = [held.count, held.answered];
    Some(SuppressedEvents {
        count,
        answered,
        last: Instant(held.last_ns),
        ..tracer_model::suppressed::events(key, hook)
    })
}

const fn places_of(chunk: u32) -> Range<u32> {
    chunk * CHUNK..(chunk + 1) * CHUNK
}

/// Takes a queue, and puts these numbers into it.
fn queue(ebpf: &mut Ebpf, name: &'static str, mut numbers: Range<u32>) -> Result<Queue<MapData, u32>, StartError> {
    let mut queue = take_map(ebpf, name, Queue::try_from)?;
    let filled = numbers.try_for_each(|number| queue.push(number, 0));
    filled.map_err(|error| StartError::Map { name, because: error.to_string() })?;
    Ok(queue)
}
