//! The entries that a hook has seen end, as the kernel side remembers them: they complete look-ups that come too late.

use std::net::{IpAddr, SocketAddr};

use aya::Ebpf;
use aya::maps::{HashMap, MapData, MapError};
use zerocopy::{FromBytes, IntoBytes};

use tracer_common::wire::{self, GoneKey};
use tracer_model::capture::{DestroyedTuples, Item, LookUp, Outcome};
use tracer_model::decode;

use super::{StartError, take_map};

/// aya asks for types that it knows to be plain: bytes.
type Key = [u8; size_of::<GoneKey>()];
type Value = [u8; size_of::<wire::Gone>()];

/// The two maps: of connections that were open, and of those that were closed.
pub(super) struct GoneMaps([HashMap<MapData, Key, Value>; 2]);

impl GoneMaps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, StartError> {
        Ok(Self([
            take_map(ebpf, wire::GONE_MAPS[0], HashMap::try_from)?,
            take_map(ebpf, wire::GONE_MAPS[1], HashMap::try_from)?,
        ]))
    }

    /// Whether the kernel lets this thread read them.
    pub(super) fn are_readable(&self) -> bool {
        self.0.iter().all(|map| !matches!(map.get(&[0; _], 0), Err(MapError::SyscallError(_))))
    }

    /// Adds to the answer that there is no entry which one there was.
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
        let gone = |map: &HashMap<MapData, Key, Value>| {
            let value = map.get(&key, 0).ok()?;
            decode::gone(&wire::Gone::read_from_bytes(&value).ok()?)
        };
        // The same endpoints may have had a connection before.
        let gone = self.0.iter().filter_map(gone).max_by_key(|gone| gone.at)?;
        Some(DestroyedTuples { ended: gone.at, original: gone.entry.original, reply: gone.entry.reply })
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
    let key = GoneKey {
        src: address(tuple.src),
        dst: address(tuple.dst),
        sport: tuple.src.port().to_be_bytes(),
        dport: tuple.dst.port().to_be_bytes(),
        netns,
    };
    key.as_bytes().try_into().ok()
}
