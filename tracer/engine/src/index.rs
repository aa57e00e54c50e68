//! A hash table of numbers alone: the caller compares what it finds with the data that the number stands for.

use std::hash::Hash;

use ahash::RandomState;
use hashbrown::HashTable;

/// From hashes to values. Several values can have the same hash, so the caller compares what it finds.
///
/// The hash has a key of its own in every process: addresses and ports come from the network, and must not be chosen so that
/// they all collide.
#[derive(Debug)]
pub(super) struct Index<T> {
    places: HashTable<(u32, T)>,
    keys: RandomState,
}

impl<T: Copy + Eq> Index<T> {
    pub(super) fn new() -> Self {
        Self { places: HashTable::new(), keys: RandomState::new() }
    }

    /// Adds a value to a key; it may be there already.
    pub(super) fn insert(&mut self, key: &impl Hash, value: T) {
        let hash = self.hash(key);
        self.places.insert_unique(spread(hash), (hash, value), |(hash, _)| spread(*hash));
    }

    /// Removes a value from a key.
    pub(super) fn remove(&mut self, key: &impl Hash, value: T) {
        let hash = self.hash(key);
        if let Ok(place) = self.places.find_entry(spread(hash), |known| *known == (hash, value)) {
            place.remove();
        }
    }

    /// The first value of a key for which `is` holds.
    pub(super) fn find(&self, key: &impl Hash, is: impl Fn(T) -> bool) -> Option<T> {
        let hash = self.hash(key);
        self.places.find(spread(hash), |(known, value)| *known == hash && is(*value)).map(|(_, value)| *value)
    }

    /// The values of a key, and seldom another.
    pub(super) fn get<'a, K: Hash>(&'a self, key: &K) -> impl Iterator<Item = T> + use<'a, T, K> {
        let hash = self.hash(key);
        self.places.iter_hash(spread(hash)).filter(move |(known, _)| *known == hash).map(|(_, value)| *value)
    }

    fn hash(&self, key: &impl Hash) -> u32 {
        self.keys.hash_one(key) as u32
    }
}

/// The table uses the low bits for the bucket and the high bits for the tag.
const fn spread(hash: u32) -> u64 {
    (hash as u64) << 32 | hash as u64
}

#[cfg(test)]
mod tests {
    use super::Index;

    #[test]
    fn several_values_may_have_one_key() {
        let mut index = Index::new();
        for value in 0..1_000_u32 {
            index.insert(&(value % 100), value);
        }
        index.remove(&7, 107);
        index.remove(&7, 4_711);
        let mut found: Vec<u32> = index.get(&7).filter(|value| value % 100 == 7).collect();
        found.sort_unstable();
        assert_eq!(found, [7, 207, 307, 407, 507, 607, 707, 807, 907]);
        assert_eq!(index.get(&100).find(|value| value % 100 == 0 && *value > 1_000), None);
    }
}
