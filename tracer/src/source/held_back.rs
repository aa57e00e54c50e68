//! Events that the programs counted instead of telling them: read now and then, each time what was added since.

use std::collections;

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, MapError};
use tracer_common::Hook;
use tracer_common::flood::{self, KEYS, STRANGER_KEYS, known};
use zerocopy::FromBytes;

use super::live::{StartError, take_map};
use crate::capture::{Item, Suppressed, SuppressedEvents};
use crate::time::Instant;

/// aya asks for types that it knows to be plain: bytes.
type Key = [u8; size_of::<flood::Key>()];
type Value = [u8; size_of::<flood::HeldBack>()];

/// Kinds of events that are delivered at once.
const AT_ONCE: usize = 4_096;
/// Keys that have been quiet for so long make room for others, where room gets scarce.
const QUIET_NS: u64 = 10_000_000_000;

/// The maps, and what was read of them before.
pub(super) struct HeldBackMaps {
    keys: HashMap<MapData, Key, Value>,
    rest: HashMap<MapData, Key, Value>,
    strangers: Array<MapData, u64>,
    /// Count and answers per key, where there are any.
    before: collections::HashMap<Key, (u64, u64)>,
}

impl HeldBackMaps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, StartError> {
        Ok(Self {
            keys: take_map(ebpf, flood::MAP, HashMap::try_from)?,
            rest: take_map(ebpf, flood::REST, HashMap::try_from)?,
            strangers: take_map(ebpf, flood::STRANGERS, Array::try_from)?,
            before: collections::HashMap::new(),
        })
    }

    /// What was counted since the last time.
    pub(super) fn read(&mut self, at: Instant) -> Vec<Item> {
        let mut events = Vec::new();
        let mut quiet = Vec::new();
        let (mut keys, mut strangers) = (0_u64, 0_u64);
        for found in self.keys.iter().chain(self.rest.iter()) {
            let Some((key, held)) = understood(found) else { continue };
            let is_stranger = held.known & known::STRANGER != 0;
            let Ok(read_key) = flood::Key::read_from_bytes(&key) else { continue };
            let before = self.before.get(&key).copied().unwrap_or_default();
            let (count, answered) = (held.count.saturating_sub(before.0), held.answered.saturating_sub(before.1));
            if let Some(hook) = Hook::from_number(read_key.hook).filter(|_| count + answered > 0) {
                let last = Instant(held.last_ns);
                events.push(SuppressedEvents { count, answered, last, ..crate::flood::events(&read_key, hook) });
                self.before.insert(key, (held.count, held.answered));
            }
            if read_key.version != 0 {
                keys += 1;
                strangers += u64::from(is_stranger);
                if at.0.saturating_sub(held.last_ns.max(held.window_ns)) > QUIET_NS {
                    quiet.push((key, is_stranger));
                }
            }
        }
        if keys > u64::from(KEYS) * 3 / 4 || strangers > STRANGER_KEYS * 3 / 4 {
            self.make_room(&quiet, strangers);
        }
        events.chunks(AT_ONCE).map(|events| Item::Suppressed(Suppressed { at, events: events.to_vec() })).collect()
    }

    /// Takes keys away that were quiet. An event that one of them had since it was read is counted by its hook alone.
    fn make_room(&mut self, quiet: &[(Key, bool)], mut strangers: u64) {
        for (key, is_stranger) in quiet {
            if self.keys.remove(key).is_ok() {
                self.before.remove(key);
                strangers -= u64::from(*is_stranger);
            }
        }
        if let Err(error) = self.strangers.set(0, strangers, 0) {
            tracing::warn!("making room for further flows: {error}");
        }
    }
}

fn understood(found: Result<(Key, Value), MapError>) -> Option<(Key, flood::HeldBack)> {
    match found {
        Ok((key, value)) => Some((key, flood::HeldBack::read_from_bytes(&value).ok()?)),
        Err(error) => {
            tracing::warn!("reading what was counted: {error}");
            None
        }
    }
}
