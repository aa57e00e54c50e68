//! Rules of other hosts: their tests ask of redacted packets what they asked of the packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpSubnets, Ipv4Subnets, Ipv6Subnets};

use tracer_model::headers::IpVersion;
use tracer_model::ruleset::{Family, Key, Rule, Rules, Shown, Test};

use super::{Redactor, packet, text};

impl Redactor {
    pub(super) fn rules(&mut self, rules: Rules) -> Rules {
        let Rules { netns, began, at, generation, bridged, rules, problems, .. } = rules;
        let rules = rules.into_iter().map(|rule| self.rule(rule)).collect();
        // Of other rules names, addresses and texts are of no use to anybody.
        Rules { netns, began, at, generation, bridged, rules, problems: text::problems(&problems), whole: None }
    }

    fn rule(&mut self, rule: Rule) -> Rule {
        let Rule { backend, family, table, chain, handle, number, place, hooks, tests, complete, packets, .. } = rule;
        let version = ip_version(family, &tests);
        let asked = tests.len();
        let tests: Vec<Test> = tests.into_iter().filter_map(|test| self.test(test, version)).collect();
        let complete = complete && tests.len() == asked;
        // The text has names of sets, comments and prefixes for logs: it is written anew, of the tests.
        let mut words: Vec<String> = tests.iter().map(|test| Shown(test, family).to_string()).collect();
        words.extend((!complete).then(|| "…".to_owned()));
        words.push("reject with tcp reset".to_owned());
        let (table, chain, text) = (self.chain(&table), self.chain(&chain), words.join(" "));
        Rule { backend, family, table, chain, handle, number, place, hooks, tests, complete, packets, text }
    }

    /// A test that holds for the redacted packets if it held for the packets; none where there is no such test.
    fn test(&mut self, test: Test, version: Option<IpVersion>) -> Option<Test> {
        let exact = test.mask.is_empty() && test.bounds.iter().all(|(from, to)| from == to);
        match test.key {
            Key::InputName | Key::OutputName if exact => Some(values(test, |name| *name = self.names.interface(name))),
            // Hardware addresses and users name somebody; nobody knows what is in the last of them.
            Key::InputName
            | Key::OutputName
            | Key::LinkHeader { .. }
            | Key::Connection
            | Key::Socket
            | Key::Unknown => None,
            Key::NetworkHeader { offset } => self.network_header(test, usize::try_from(offset).ok()?, exact, version),
            Key::Transport
            | Key::Family
            | Key::EtherType
            | Key::State
            | Key::TransportHeader { .. }
            | Key::InputIndex
            | Key::OutputIndex
            | Key::Mark
            | Key::Length
            | Key::PacketType
            | Key::ConnectionMark
            | Key::ConnectionStatus
            | Key::ConnectionDirection
            | Key::AddressType { .. }
            | Key::ReversePath
            | Key::Ipsec => Some(test),
        }
    }

    fn network_header(&mut self, test: Test, first: usize, exact: bool, version: Option<IpVersion>) -> Option<Test> {
        let length = test.bounds.first().map_or(0, |(from, _)| from.len());
        if test.bounds.iter().any(|(from, to)| [from.len(), to.len()] != [length; 2]) {
            return None;
        }
        // Whatever the version, its addresses do not begin before those of IPv6.
        if first.checked_add(length)? <= version.unwrap_or(IpVersion::V6).source().start {
            return Some(test);
        }
        let version = version?;
        let (source, destination) = (version.source().start, version.destination().start);
        let width = destination - source;
        if exact && first == source && length == 2 * width {
            // nft asks for both addresses at once.
            return Some(values(test, |both| {
                for field in both.chunks_mut(width) {
                    if let Some(address) = version.address(field) {
                        packet::write(self.addresses.pseudonym(address), field);
                    }
                }
            }));
        }
        let begins = first == source || first == destination;
        if begins && (1..=width).contains(&length) { self.networks(test, length, version) } else { None }
    }

    /// A test of an address, or of its first bytes. A range becomes the networks that it is made of.
    fn networks(&mut self, test: Test, length: usize, version: IpVersion) -> Option<Test> {
        let masked = !test.mask.is_empty();
        // The bits that are compared, from the first one on.
        let mut compared = [0; 16];
        compared[..length].fill(0xff);
        compared.iter_mut().zip(&test.mask).for_each(|(byte, mask)| *byte &= mask);
        if masked {
            compared.iter_mut().skip(test.mask.len()).for_each(|byte| *byte = 0);
        }
        let compared = u128::from_be_bytes(compared);
        if compared.leading_ones() != compared.count_ones() {
            return None;
        }
        let number = |bytes: &[u8]| {
            let mut whole = [0; 16];
            whole[..length].copy_from_slice(bytes);
            u128::from_be_bytes(whole) & compared
        };
        let mut bounds = Vec::new();
        for (from, to) in &test.bounds {
            if masked && from != to {
                return None;
            }
            for network in subnets(number(from), number(to) | !compared, version) {
                let network = self.network(network);
                let first = octets(network.network(), length);
                let last = if masked { first.clone() } else { octets(network.broadcast(), length) };
                bounds.push((first, last));
            }
        }
        Some(Test { bounds, ..test })
    }
}

/// A test with other values, where it asks for exact ones.
fn values(test: Test, mut change: impl FnMut(&mut Vec<u8>)) -> Test {
    let bounds = test.bounds.into_iter().map(|(mut value, _)| {
        change(&mut value);
        (value.clone(), value)
    });
    Test { bounds: bounds.collect(), ..test }
}

/// The networks that a range of addresses is made of; the addresses are the first bits of the numbers.
fn subnets(first: u128, last: u128, version: IpVersion) -> IpSubnets {
    match version {
        IpVersion::V4 => {
            let address = |bits: u128| Ipv4Addr::from_bits((bits >> 96) as u32);
            Ipv4Subnets::new(address(first), address(last), 0).into()
        }
        IpVersion::V6 => Ipv6Subnets::new(Ipv6Addr::from_bits(first), Ipv6Addr::from_bits(last), 0).into(),
    }
}

fn octets(address: IpAddr, length: usize) -> Vec<u8> {
    let mut octets = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    octets.truncate(length);
    octets
}

/// The version of IP that a rule is about; none where it does not say.
fn ip_version(family: Family, tests: &[Test]) -> Option<IpVersion> {
    let v4 = match family {
        Family::Ip => true,
        Family::Ip6 => false,
        Family::Inet => [true, false].into_iter().find(|v4| {
            let expected: [&[u8]; 2] = if *v4 { [&[2], &[0x08, 0x00]] } else { [&[10], &[0x86, 0xdd]] };
            tests.iter().any(|test| {
                let key = [Key::Family, Key::EtherType].iter().position(|key| *key == test.key);
                let value = test.bounds.first().map(|(from, _)| from.as_slice());
                test.inside && key.is_some_and(|key| value == Some(expected[key]))
            })
        })?,
    };
    Some(if v4 { IpVersion::V4 } else { IpVersion::V6 })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use tracer_model::ruleset::{Backend, Hooks};

    use super::super::{Key as Secret, Redactor};
    use super::{Family, IpVersion, Key, Rule, Test, ip_version, octets, subnets};

    fn redactor() -> Redactor {
        Redactor::new(&Secret::new([9; 32]))
    }

    const V4: Option<IpVersion> = Some(IpVersion::V4);

    fn pseudonym(redactor: &mut Redactor, address: [u8; 4]) -> Vec<u8> {
        octets(redactor.addresses.pseudonym(address.into()), 4)
    }

    fn rule(family: Family, tests: Vec<Test>) -> Rule {
        Rule {
            backend: Backend::Nftables,
            family,
            table: "filter".to_owned(),
            chain: "acme-in".to_owned(),
            handle: Some(7),
            number: None,
            place: 0,
            hooks: Hooks::only(2),
            tests,
            complete: true,
            packets: Some(3),
            text: "ip saddr @acme_blocked comment \"for Acme, 203.0.113.7\" reject with tcp reset".to_owned(),
        }
    }

    /// Its text is made of what it asks, under pseudonyms; a name of a set or a comment is in none of that.
    #[test]
    fn a_rule_is_written_anew() {
        let source = Test::is(Key::NetworkHeader { offset: 12 }, vec![203, 0, 113, 7]);
        let port = Test::is(Key::TransportHeader { offset: 2 }, 443_u16.to_be_bytes().to_vec());
        let mut redactor = redactor();
        let pseudonym = redactor.addresses.pseudonym([203, 0, 113, 7].into());
        let after = redactor.rule(rule(Family::Ip, vec![source, port.clone()]));
        assert_eq!(after.text, format!("ip saddr {pseudonym} tcp dport 443 reject with tcp reset"));
        assert_eq!(
            (after.handle, after.packets, after.complete, after.table.as_str()),
            (Some(7), Some(3), true, "filter")
        );
        assert_eq!((after.chain.len(), &after.chain[4..5]), (7, "-"));
        assert!(!after.chain.contains("acme"), "{}", after.chain);
        let unknown = Test::is(Key::Unknown, vec![203, 0, 113, 7]);
        let after = redactor.rule(rule(Family::Inet, vec![port, unknown]));
        assert_eq!((after.text.as_str(), after.complete), ("tcp dport 443 … reject with tcp reset", false));
    }

    #[rstest]
    #[case(&[10, 0, 0, 0], &[10, 255, 255, 255], &["10.0.0.0/8"])]
    #[case(&[10, 0, 0, 1], &[10, 0, 0, 4], &["10.0.0.1/32", "10.0.0.2/31", "10.0.0.4/32"])]
    #[case(&[0; 4], &[255; 4], &["0.0.0.0/0"])]
    #[case(&[2; 4], &[1; 4], &[])]
    fn ranges_are_networks(#[case] from: &[u8; 4], #[case] to: &[u8; 4], #[case] expected: &[&str]) {
        let number = |bytes: &[u8; 4]| u128::from(u32::from_be_bytes(*bytes)) << 96;
        let found = subnets(number(from), number(to) | u128::MAX >> 32, IpVersion::V4);
        assert_eq!(found.map(|network| network.to_string()).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_whole_of_ipv6_is_one_network() {
        assert_eq!(subnets(0, u128::MAX, IpVersion::V6).count(), 1);
    }

    proptest! {
        /// A range asks of pseudonyms what it asked of addresses.
        #[test]
        fn ranges_hold_for_the_same(one: [u8; 4], other: [u8; 4], address: [u8; 4], near in any::<bool>()) {
            let (from, to) = (one.min(other), one.max(other));
            let address = if near { [from[0], from[1], from[2], address[3]] } else { address };
            let mut redactor = redactor();
            let test = Test { key: Key::NetworkHeader { offset: 12 }, mask: vec![], bounds: vec![(from.to_vec(), to.to_vec())], inside: true };
            let after = redactor.test(test, V4).unwrap();
            let pseudonym = pseudonym(&mut redactor, address);
            let holds = after.bounds.iter().any(|(from, to)| *from <= pseudonym && pseudonym <= *to);
            prop_assert_eq!(holds, from <= address && address <= to);
        }

        /// So does a network given by its mask, or by its first bytes.
        #[test]
        fn networks_hold_for_the_same(network: [u8; 4], address: [u8; 4], bits in 0_u32..=32, bytes in 1_usize..=4) {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            let masked = (u32::from_be_bytes(network) & mask).to_be_bytes().to_vec();
            let mut redactor = redactor();
            let test = Test { mask: mask.to_be_bytes().to_vec(), ..Test::is(Key::NetworkHeader { offset: 16 }, masked.clone()) };
            let after = redactor.test(test, V4).unwrap();
            let pseudonym = pseudonym(&mut redactor, address);
            let of = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap()) & mask;
            prop_assert_eq!(of(&pseudonym) == of(&after.bounds[0].0), of(&address) == of(&masked));
            let short = Test::is(Key::NetworkHeader { offset: 12 }, network[..bytes].to_vec());
            let after = redactor.test(short, V4).unwrap();
            let (from, to) = &after.bounds[0];
            let within = pseudonym[..bytes] >= from[..] && pseudonym[..bytes] <= to[..];
            prop_assert_eq!(within, address[..bytes] == network[..bytes]);
        }
    }

    /// What cannot be asked of pseudonyms is not asked.
    #[test]
    fn tests_that_mean_nothing_any_more_go() {
        let mut redactor = redactor();
        let last_byte =
            Test { mask: vec![0, 0, 0, 255], ..Test::is(Key::NetworkHeader { offset: 12 }, vec![0, 0, 0, 1]) };
        assert_eq!(redactor.test(last_byte, V4), None);
        assert_eq!(redactor.test(Test::is(Key::NetworkHeader { offset: 14 }, vec![0; 4]), V4), None);
        assert!(redactor.test(Test::is(Key::NetworkHeader { offset: 9 }, vec![6]), V4).is_some());
        let both = redactor
            .test(Test::is(Key::NetworkHeader { offset: 12 }, [10, 0, 0, 2, 192, 0, 2, 2].to_vec()), V4)
            .unwrap();
        let expected = [pseudonym(&mut redactor, [10, 0, 0, 2]), pseudonym(&mut redactor, [192, 0, 2, 2])].concat();
        assert_eq!(both.bounds[0].0, expected);
        assert_eq!(ip_version(Family::Inet, &[Test::is(Key::Family, vec![10])]), Some(IpVersion::V6));
    }
}
