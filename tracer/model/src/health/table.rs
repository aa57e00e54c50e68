//! The content of a conntrack table, counted from the kernel's dump in bounded memory.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use super::ports::{Destination, PortUse, Ranges};
use crate::conntrack::{Status, TcpState};
use crate::table_usage::{Counting, Service, TableUsage};
use crate::time::Instant;

/// NAT addresses with a destination that are counted at the same time.
const DESTINATIONS: usize = 65_536;
/// Of these, those that are kept at the end.
const KEPT: usize = 32;

/// An entry as far as it is counted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Entry {
    /// The source of its original direction.
    pub source: Option<IpAddr>,
    /// Where its original direction goes.
    pub service: Option<Service>,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// Where its replies come from, and with which port.
    pub reply_source: Option<(IpAddr, u16)>,
    /// Where its replies go: the translated client.
    pub reply_destination: Option<(IpAddr, u16)>,
    /// `IPS_*` bits.
    pub status: Status,
    /// Its TCP state.
    pub state: Option<TcpState>,
    /// Its zone.
    pub zone: u16,
}

/// The counts of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its use by sources and services.
    pub table_usage: TableUsage,
    /// Entries per IP protocol number.
    pub protocols: BTreeMap<u8, u64>,
    /// Entries per TCP state.
    pub states: BTreeMap<TcpState, u64>,
    /// Entries without a reply.
    pub unreplied: u64,
    /// Entries with `IPS_ASSURED`, which a full table does not evict.
    pub assured: u64,
    /// Entries whose source is translated.
    pub translated: u64,
    /// The use of ports per NAT address and destination, the fullest first.
    pub ports: Vec<PortUse>,
    /// Whether there were more destinations than are counted: numbers of ports are then lower bounds.
    pub ports_rough: bool,
}

/// A count in progress.
#[derive(Debug)]
pub struct Tally {
    usage: Counting,
    protocols: BTreeMap<u8, u64>,
    states: BTreeMap<TcpState, u64>,
    unreplied: u64,
    assured: u64,
    translated: u64,
    destinations: HashMap<Destination, u64>,
    rough: bool,
    ranges: Ranges,
}

impl Tally {
    /// One that knows which ports rules translate to.
    pub fn new(ranges: Ranges) -> Self {
        Self {
            usage: Counting::default(),
            protocols: BTreeMap::new(),
            states: BTreeMap::new(),
            unreplied: 0,
            assured: 0,
            translated: 0,
            destinations: HashMap::new(),
            rough: false,
            ranges,
        }
    }

    /// Counts an entry.
    pub fn add(&mut self, entry: &Entry) {
        self.usage.add(entry.source, entry.service);
        if let Some(protocol) = entry.protocol {
            *self.protocols.entry(protocol).or_default() += 1;
        }
        if let Some(state) = entry.state {
            *self.states.entry(state).or_default() += 1;
        }
        self.unreplied += u64::from(!entry.status.seen_reply());
        self.assured += u64::from(entry.status.assured());
        if !entry.status.source_nat() {
            return;
        }
        self.translated += 1;
        let (Some(protocol), Some((address, port)), Some(nat)) =
            (entry.protocol, entry.reply_source, entry.reply_destination)
        else {
            return;
        };
        if !self.ranges.of(nat.0, protocol).contains(&nat.1) {
            return;
        }
        // No two entries of a zone have the same reply tuple: each entry is a port of its own.
        let destination = Destination { nat: nat.0, address, port, protocol, zone: entry.zone };
        if self.destinations.len() >= DESTINATIONS && !self.destinations.contains_key(&destination) {
            self.drop_rare();
        }
        *self.destinations.entry(destination).or_default() += 1;
    }

    /// Entries so far.
    pub const fn entries(&self) -> u64 {
        self.usage.entries()
    }

    /// The result.
    pub fn finish(self, netns: u32, at: Instant, problem: Option<String>) -> Table {
        let mut ports: Vec<PortUse> = self
            .destinations
            .iter()
            .map(|(destination, used)| PortUse {
                destination: *destination,
                used: *used,
                range: self.ranges.of(destination.nat, destination.protocol),
            })
            .collect();
        ports.sort_unstable_by_key(|usage| (std::cmp::Reverse((usage.permille(), usage.used)), usage.destination));
        ports.truncate(KEPT);
        Table {
            table_usage: self.usage.finish(netns, at, problem),
            protocols: self.protocols,
            states: self.states,
            unreplied: self.unreplied,
            assured: self.assured,
            translated: self.translated,
            ports,
            ports_rough: self.rough,
        }
    }

    /// Drops the rarer half.
    fn drop_rare(&mut self) {
        self.rough = true;
        let mut all: Vec<(Destination, u64)> = self.destinations.drain().collect();
        all.sort_unstable_by_key(|(destination, used)| (std::cmp::Reverse(*used), *destination));
        all.truncate(DESTINATIONS / 2);
        self.destinations.extend(all);
    }
}

#[cfg(test)]
mod tests {
    use super::super::ports::Ranges;
    use super::{DESTINATIONS, Entry, KEPT, Tally};
    use crate::conntrack::{Status, TcpState};
    use crate::time::Instant;

    /// `IPS_SEEN_REPLY`, `IPS_ASSURED` and `IPS_SRC_NAT`.
    const TRANSLATED: Status = Status(1 << 1 | 1 << 2 | 1 << 4);

    fn entry(nat_port: u16, server: [u8; 4], status: Status) -> Entry {
        Entry {
            source: Some([10, 0, 0, 2].into()),
            protocol: Some(6),
            reply_source: Some((server.into(), 443)),
            reply_destination: Some(([192, 0, 2, 1].into(), nat_port)),
            status,
            state: Some(TcpState::Established),
            ..Entry::default()
        }
    }

    #[test]
    fn ports_are_counted_per_destination() {
        let mut tally = Tally::new(Ranges::default());
        for port in [1024, 2000, 3000, 80] {
            tally.add(&entry(port, [192, 0, 2, 2], TRANSLATED));
        }
        tally.add(&entry(5000, [192, 0, 2, 3], TRANSLATED));
        tally.add(&entry(5000, [192, 0, 2, 4], Status(0)));
        let table = tally.finish(1, Instant(2), None);
        let used: Vec<u64> = table.ports.iter().map(|usage| usage.used).collect();
        assert_eq!(used, [3, 1], "a port below 1024 stays below 1024, and is not one of these");
        assert_eq!((table.unreplied, table.assured, table.translated), (1, 5, 5));
        assert_eq!(table.states[&TcpState::Established], 6);
        assert_eq!(table.protocols[&6], 6);
    }

    #[test]
    fn memory_is_bounded() {
        let mut tally = Tally::new(Ranges::default());
        for number in 0..u32::try_from(DESTINATIONS).unwrap() + 1_000 {
            tally.add(&entry(2_000, number.to_be_bytes(), TRANSLATED));
            if number % 1_000 == 0 {
                tally.add(&entry(3_000, [9, 9, 9, 9], TRANSLATED));
            }
        }
        assert!(tally.destinations.len() <= DESTINATIONS);
        let table = tally.finish(1, Instant(2), None);
        assert_eq!(table.ports.len(), KEPT);
        assert_eq!(table.ports[0].destination.address, std::net::IpAddr::from([9, 9, 9, 9]));
        assert!(table.ports_rough);
    }
}
