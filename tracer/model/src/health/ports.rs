//! How many ports a NAT address has left towards a destination.
//!
//! The kernel may give one (address, port) of its own to many connections as long as their destinations differ
//! (`nf_nat_used_tuple`): what runs out is the ports of one NAT address towards one destination address and port.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use crate::ruleset::audit::{Audit, Does, Translation};

/// Ports that source NAT chooses from for a client's port of 1024 or more (`nf_nat_l4proto_unique_tuple`, 5.10 to 7.2; one
/// below 512 goes to 1-511, one below 1024 to 600-1023).
pub const DEFAULT: RangeInclusive<u16> = 1024..=65_535;
/// ICMP echo identifiers are translated like ports, and are not counted here.
const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];

/// Percent of the ports towards a destination from which on it is worth a warning.
pub const MANY: u64 = 80;
/// From which on connections are about to fail. The kernel tries 128, then 64, 32, 16 and 8 ports from random places, and
/// then drops the packet: with 98 % of all ports in use one in 150 new connections finds none, with 99 % one in twelve.
pub const NEARLY_ALL: u64 = 95;

/// A NAT address and what it is used towards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    /// The address that clients are translated to.
    pub nat: IpAddr,
    /// The destination's address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// The conntrack zone.
    pub zone: u16,
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = protocol(self.protocol);
        write!(f, "{} to {protocol} {}", self.nat, SocketAddr::new(self.address, self.port))
    }
}

/// The name of a protocol.
pub fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        33 => "dccp".to_owned(),
        47 => "gre".to_owned(),
        58 => "icmpv6".to_owned(),
        132 => "sctp".to_owned(),
        136 => "udplite".to_owned(),
        other => format!("protocol {other}"),
    }
}

/// The ports in use towards a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortUse {
    /// The destination.
    pub destination: Destination,
    /// Ports in use.
    pub used: u64,
    /// Ports that may be used.
    pub range: RangeInclusive<u16>,
}

impl PortUse {
    /// How many ports may be used.
    pub fn usable(&self) -> u64 {
        u64::from(*self.range.end()).saturating_sub(u64::from(*self.range.start())) + 1
    }

    /// Per mille of the ports that are in use.
    pub fn permille(&self) -> u64 {
        self.used * 1_000 / self.usable()
    }
}

/// The ports that the rules translate to, by address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges {
    rules: Vec<Translation>,
}

impl Ranges {
    /// Those of a ruleset.
    pub fn of_rules(audit: &Audit) -> Self {
        let translating = audit.noted.iter().filter_map(|noted| match &noted.does {
            Does::SourceNat(to) | Does::Masquerades(to) => Some(to.clone()),
            _ => None,
        });
        Self { rules: translating.collect() }
    }

    /// The ports that an address may be used with: what all rules together allow that can have translated to it.
    pub fn of(&self, nat: IpAddr, protocol: u8) -> RangeInclusive<u16> {
        if !WITH_PORTS.contains(&protocol) {
            // Matches nothing.
            #[expect(clippy::reversed_empty_ranges, reason = "an empty range is what is meant")]
            return 1..=0;
        }
        let fits = |to: &[RangeInclusive<IpAddr>]| to.is_empty() || to.iter().any(|range| range.contains(&nat));
        let rules = self.rules.iter().filter(|rule| fits(&rule.to));
        let known = rules.map(|rule| rule.ports.clone().unwrap_or(DEFAULT));
        known.reduce(|a, b| *a.start().min(b.start())..=*a.end().max(b.end())).unwrap_or(DEFAULT)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::{DEFAULT, Destination, PortUse, Ranges};
    use crate::ruleset::audit::Translation;

    fn ranges() -> Ranges {
        let rule =
            |address: [u8; 4], ports| Translation { to: vec![address.into()..=address.into()], ports, output: None };
        Ranges {
            rules: vec![
                rule([192, 0, 2, 1], Some(2000..=2099)),
                rule([192, 0, 2, 1], Some(3000..=3099)),
                rule([192, 0, 2, 2], None),
                rule([192, 0, 2, 2], Some(2000..=2099)),
            ],
        }
    }

    #[rstest]
    #[case::of_two_rules([192, 0, 2, 1], 2000..=3099)]
    #[case::of_one_without_ports([192, 0, 2, 2], DEFAULT)]
    #[case::of_no_rule([192, 0, 2, 3], DEFAULT)]
    fn ports_of_an_address(#[case] nat: [u8; 4], #[case] expected: std::ops::RangeInclusive<u16>) {
        assert_eq!(ranges().of(nat.into(), 6), expected);
        assert!(ranges().of(nat.into(), 1).is_empty(), "ICMP has none");
    }

    #[test]
    fn shares_are_of_the_range() {
        let destination =
            Destination { nat: [192, 0, 2, 1].into(), address: [192, 0, 2, 2].into(), port: 443, protocol: 6, zone: 0 };
        let usage = |used, range| PortUse { destination, used, range };
        assert_eq!(usage(96, 2000..=2099).permille(), 960);
        assert_eq!((usage(64_512, DEFAULT).permille(), usage(64_512, DEFAULT).usable()), (1_000, 64_512));
        assert_eq!(destination.to_string(), "192.0.2.1 to tcp 192.0.2.2:443");
    }
}
