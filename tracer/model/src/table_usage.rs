//! Conntrack table usage: entries per source and per service, counted in bounded memory.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::time::Instant;

/// Sources, or services, in the result.
const NAMED: usize = 10;
/// Different sources, or services, that are counted at once.
const COUNTED: usize = 65_536;

/// The use of a namespace's table at a point in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableUsage {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// When counting ended.
    #[serde(rename = "at_ns")]
    pub at: Instant,
    /// Entries that were counted.
    pub entries: u64,
    /// Why entries are missing, or why the counts are lower bounds.
    pub problem: Option<String>,
    /// The original sources with the most entries, each with its number of entries.
    pub sources: Vec<(IpAddr, u64)>,
    /// The services with the most entries, each with its number of entries.
    pub services: Vec<(Service, u64)>,
}

/// A service: the destination of the original direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Service {
    /// IP protocol number.
    pub protocol: u8,
    /// The address.
    pub address: IpAddr,
    /// The port, where the protocol has ports.
    pub port: Option<u16>,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            1 => f.write_str("icmp ")?,
            6 => f.write_str("tcp ")?,
            17 => f.write_str("udp ")?,
            58 => f.write_str("icmpv6 ")?,
            132 => f.write_str("sctp ")?,
            other => write!(f, "protocol {other} ")?,
        }
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
}

/// A count in progress.
#[derive(Debug)]
pub struct Counting {
    entries: u64,
    sources: Counts<IpAddr>,
    services: Counts<Service>,
}

impl Default for Counting {
    fn default() -> Self {
        Self { entries: 0, sources: Counts::new(COUNTED), services: Counts::new(COUNTED) }
    }
}

impl Counting {
    /// Counts an entry; a member that could not be read is absent and not counted.
    pub fn add(&mut self, source: Option<IpAddr>, service: Option<Service>) {
        self.entries += 1;
        if let Some(source) = source {
            self.sources.add(source);
        }
        if let Some(service) = service {
            self.services.add(service);
        }
    }

    /// Entries so far.
    pub const fn entries(&self) -> u64 {
        self.entries
    }

    /// The result.
    pub fn finish(self, netns: u32, at: Instant, problem: Option<String>) -> TableUsage {
        let rough = self.sources.rough || self.services.rough;
        let too_many =
            || "there are more sources or services than are counted: the numbers are lower bounds".to_owned();
        TableUsage {
            netns,
            at,
            entries: self.entries,
            problem: problem.or_else(|| rough.then(too_many)),
            sources: self.sources.top(),
            services: self.services.top(),
        }
    }
}

/// Counts of the most frequent keys. When there are too many keys, the rarer half is dropped.
#[derive(Debug)]
struct Counts<K> {
    of: HashMap<K, u64>,
    most: usize,
    rough: bool,
}

impl<K: Copy + Eq + Hash + Ord> Counts<K> {
    fn new(most: usize) -> Self {
        Self { of: HashMap::new(), most, rough: false }
    }

    fn add(&mut self, key: K) {
        if self.of.len() >= self.most && !self.of.contains_key(&key) {
            self.drop_rare();
        }
        *self.of.entry(key).or_default() += 1;
    }

    /// Drops the rarer half.
    fn drop_rare(&mut self) {
        self.rough = true;
        let mut all = self.sorted();
        all.truncate(self.most / 2);
        self.of = all.into_iter().collect();
    }

    fn top(&self) -> Vec<(K, u64)> {
        let mut all = self.sorted();
        all.truncate(NAMED);
        all
    }

    /// The most frequent first.
    fn sorted(&self) -> Vec<(K, u64)> {
        let mut all: Vec<(K, u64)> = self.of.iter().map(|(key, count)| (*key, *count)).collect();
        all.sort_unstable_by_key(|(key, count)| (std::cmp::Reverse(*count), *key));
        all
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::{Counting, Counts, NAMED, Service};
    use crate::time::Instant;

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from(0x0a00_0000 + number).into()
    }

    #[test]
    fn the_most_frequent_come_first() {
        let mut counting = Counting::default();
        for number in 0..30 {
            for port in 0..=number {
                let service = Service { protocol: 6, address: address(99), port: Some(port) };
                counting.add(Some(address(u32::from(number))), Some(service));
            }
        }
        counting.add(None, None);
        let table_usage = counting.finish(1, Instant(2), None);
        assert_eq!((table_usage.entries, table_usage.problem), (30 * 31 / 2 + 1, None));
        assert_eq!(table_usage.sources.len(), NAMED);
        assert_eq!(table_usage.sources[0], (address(29), 30));
        assert_eq!(table_usage.services[0].0.to_string(), "tcp 10.0.0.99:0");
        assert_eq!(table_usage.services[0].1, 30);
    }

    /// With more keys than are counted, the frequent ones are still found.
    #[test]
    fn memory_is_bounded() {
        let mut counts = Counts::new(100);
        for number in 0..10_000u32 {
            counts.add(number);
            if number % 10 == 0 {
                counts.add(1_000_000);
                counts.add(1_000_001 + number / 5_000);
            }
        }
        assert!(counts.of.len() <= 100 && counts.rough);
        assert_eq!(counts.top()[0], (1_000_000, 1_000));
        let late: Vec<u32> = counts.top()[1..3].iter().map(|(key, _)| *key).collect();
        assert_eq!(late, [1_000_001, 1_000_002]);
    }
}
