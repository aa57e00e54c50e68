//! The maps of destroyed entries: they complete the answer to a look-up that found no entry.

use std::net::{IpAddr, SocketAddr};

use aya::Ebpf;
use aya::maps::{HashMap, MapData, MapError};
use zerocopy::{FromBytes, IntoBytes};

use tracer_common::wire::{self, DestroyedKey};
use tracer_model::capture::{DestroyedTuples, Item, LookUp, Outcome};
use tracer_model::decode;

use super::{StartError, take_map};

/// As bytes: aya takes only types that it knows to be plain.
type Key = [u8; size_of::<DestroyedKey>()];
type Value = [u8; size_of::<wire::Destroyed>()];

/// The two maps: entries of open connections, and of closed ones.
pub(super) struct DestroyedMaps([HashMap<MapData, Key, Value>; 2]);

impl DestroyedMaps {
    /// Takes the maps.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, StartError> {
        Ok(Self([
            take_map(ebpf, wire::DESTROYED_MAPS[0], HashMap::try_from)?,
            take_map(ebpf, wire::DESTROYED_MAPS[1], HashMap::try_from)?,
        ]))
    }

    /// Whether this thread may read them.
    pub(super) fn are_readable(&self) -> bool {
        self.0.iter().all(|map| !matches!(map.get(&[0; _], 0), Err(MapError::SyscallError(_))))
    }

    /// Adds the destroyed entry to the answer that there is no entry.
    pub(super) fn complete(&self, mut item: Item) -> Item {
        if let Item::LookedUp(answer) = &mut item
            && let Outcome::NotFound { was } = &mut answer.outcome
        {
            *was = self.find(answer.look_up);
        }
        item
    }

    fn find(&self, look_up: LookUp) -> Option<DestroyedTuples> {
        let key = key(look_up)?;
        let destroyed = |map: &HashMap<MapData, Key, Value>| {
            let value = map.get(&key, 0).ok()?;
            decode::destroyed(&wire::Destroyed::read_from_bytes(&value).ok()?)
        };
        // Of several connections with the same endpoints, the last.
        let last = self.0.iter().filter_map(destroyed).max_by_key(|destroyed| destroyed.at)?;
        Some(DestroyedTuples { ended: last.at, original: last.entry.original, reply: last.entry.reply })
    }
}

fn key(look_up: LookUp) -> Option<Key> {
    let address = |endpoint: SocketAddr| {
        let mut bytes = [0; 16];
        match endpoint.ip() {
            IpAddr::V4(address) => bytes[..4].copy_from_slice(&address.octets()),
            IpAddr::V6(address) => bytes = address.octets(),
        }
        bytes
    };
    let LookUp { netns, tuple, .. } = look_up;
    let key = DestroyedKey {
        src: address(tuple.src),
        dst: address(tuple.dst),
        sport: tuple.src.port().to_be_bytes(),
        dport: tuple.dst.port().to_be_bytes(),
        netns,
    };
    key.as_bytes().try_into().ok()
}
