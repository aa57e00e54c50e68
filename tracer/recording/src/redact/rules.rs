//! Rules of other hosts: what they ask of a packet, asked of the packets as they are redacted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tracer_model::ruleset::{Family, Key, Rule, Rules, Test};

use super::Redactor;
use super::text::runs;

/// Rules whose text is so long have lost the end of it, and maybe half of an address.
const LONG: usize = 160;

/// The lower bound and the upper.
type Bounds = (Vec<u8>, Vec<u8>);

/// Chains that the kernel or every manual names.
const CHAINS: [&str; 15] = [
    "FORWARD",
    "INPUT",
    "OUTPUT",
    "POSTROUTING",
    "PREROUTING",
    "filter",
    "forward",
    "input",
    "mangle",
    "nat",
    "output",
    "postrouting",
    "prerouting",
    "raw",
    "security",
];

/// Words of nft and iptables that say nothing of whose rule it is. All others are taken for names.
const WORDS: &str = "
    -d -g -i -j -m -o -p -s ! == != & | , { } accept ack addrtype and burst bytes cgroup comment conntrack continue counter ct
    cwr daddr destination dport dports drop ecn ether established eq fib fin flags gt hbh icmp icmpv6 icmpx if iif iifname iifgroup
    in inet invalid ip ip6 ipv4 ipv6 iprange jump l4proto length limit log lt mark meta multiport new nfproto notrack oif
    oifname or original over packets prefix priority proto protocol psh queue rate recent reject related reply reset return rst
    saddr second seconds set sctp sport sports src dst state status syn tcp tcp-reset time ttl type udp untracked urg vmap
    with hoplimit minute hour day --burst --comment --ctorigdst --ctorigdstport --ctorigsrc --ctproto --ctstate --ctdir
    --destination-port --destination-ports --dport --dports --dst-range --dst-type --fin --icmp-type --limit --limit-burst
    --mark --match-set --name --ports --reject-with --source-port --source-ports --sport --sports --src-range --src-type
    --state --syn --tcp-flags --tcp-option --to-ports ACK ALL FIN NONE PSH RST SYN URG ESTABLISHED INVALID NEW RELATED SNAT DNAT
    UNTRACKED LOCAL UNICAST MULTICAST BROADCAST REJECT ACCEPT DROP
";

impl Redactor {
    pub(super) fn rules(&mut self, rules: Rules) -> Rules {
        let Rules { netns, began, at, generation, bridged, rules, problems } = rules;
        let rules = rules.into_iter().map(|rule| self.rule(rule)).collect();
        let problems = problems.iter().map(|problem| self.text(problem)).collect();
        Rules { netns, began, at, generation, bridged, rules, problems }
    }

    fn rule(&mut self, rule: Rule) -> Rule {
        let Rule { backend, family, table, chain, handle, number, place, hooks, tests, complete, packets, text } = rule;
        let v4 = sees_ipv4(family, &tests);
        let asked = tests.len();
        let tests: Vec<Test> = tests.into_iter().filter_map(|test| self.test(test, v4)).collect();
        Rule {
            backend,
            family,
            table: self.chain(&table),
            chain: self.chain(&chain),
            handle,
            number,
            place,
            hooks,
            complete: complete && tests.len() == asked,
            tests,
            packets,
            text: self.rule_text(&text),
        }
    }

    pub(super) fn chain(&self, name: &str) -> String {
        if CHAINS.contains(&name) { name.to_owned() } else { self.letters(name) }
    }

    fn letters(&self, word: &str) -> String {
        let kept = |byte: u8| if byte.is_ascii() { char::from(byte) } else { '?' };
        self.names.letters(word.as_bytes()).into_iter().map(kept).collect()
    }

    /// A test that holds for the redacted packets if it held for the packets; none where there is no such test.
    fn test(&mut self, test: Test, v4: Option<bool>) -> Option<Test> {
        let Test { key, mask, bounds, inside } = test;
        let length = bounds.first().map_or(0, |(from, _)| from.len());
        let exact = mask.is_empty() && bounds.iter().all(|(from, to)| from == to);
        let (mask, bounds) = match key {
            Key::InputName | Key::OutputName if exact => {
                let mut name = |name: &Vec<u8>| self.names.interface(name);
                (mask, bounds.iter().map(|(from, _)| (name(from), name(from))).collect())
            }
            Key::InputName | Key::OutputName => return None,
            // Nobody knows what is in it; it decides nothing either.
            Key::Unknown => (Vec::new(), Vec::new()),
            Key::NetworkHeader { offset } => match Place::of(offset, length, v4) {
                Place::Elsewhere => (mask, bounds),
                Place::Address(width) => self.addresses_of(&mask, &bounds, length, width)?,
                Place::Both(width) if exact => {
                    let mut both = |bytes: &Vec<u8>| {
                        let (src, dst) = bytes.split_at(width);
                        [self.start(src, src.len() * 8, width), self.start(dst, dst.len() * 8, width)].concat()
                    };
                    (mask, bounds.iter().map(|(from, _)| (both(from), both(from))).collect())
                }
                Place::Both(_) | Place::Across => return None,
            },
            Key::Transport | Key::Family | Key::EtherType | Key::State | Key::TransportHeader { .. } => (mask, bounds),
        };
        Some(Test { key, mask, bounds, inside })
    }

    /// Bounds of an address, or of its first bytes. A range becomes the networks that it is made of.
    fn addresses_of(
        &mut self,
        mask: &[u8],
        bounds: &[Bounds],
        length: usize,
        width: usize,
    ) -> Option<(Vec<u8>, Vec<Bounds>)> {
        if !mask.is_empty() {
            let bits = prefix(mask, length)?;
            let same = |(from, to): &Bounds| from == to && from.len() == length;
            if !bounds.iter().all(same) {
                return None;
            }
            let bounds = bounds.iter().map(|(from, _)| {
                let start = self.start(from, bits, width)[..length].to_vec();
                (start.clone(), start)
            });
            return Some((mask.to_vec(), bounds.collect()));
        }
        let mut found = Vec::new();
        for (from, to) in bounds {
            for (start, bits) in networks(from, to, length)? {
                let from = self.start(&start, bits, width)[..length].to_vec();
                let mut to = from.clone();
                for (at, byte) in to.iter_mut().enumerate() {
                    *byte |= 0xff_u8.checked_shr(bits.saturating_sub(at * 8) as u32).unwrap_or(0);
                }
                found.push((from, to));
            }
        }
        Some((Vec::new(), found))
    }

    /// The first address of a network's pseudonym, all of its bytes.
    fn start(&mut self, bytes: &[u8], bits: usize, width: usize) -> Vec<u8> {
        let mut address = [0; 16];
        address[..bytes.len().min(width)].copy_from_slice(&bytes[..bytes.len().min(width)]);
        let cut = |bytes: &mut [u8]| {
            for (at, byte) in bytes.iter_mut().enumerate() {
                *byte &= !0xff_u8.checked_shr(bits.saturating_sub(at * 8) as u32).unwrap_or(0);
            }
        };
        cut(&mut address);
        let address: IpAddr = match address.first_chunk::<4>() {
            Some(start) if width == 4 => Ipv4Addr::from(*start).into(),
            _ => Ipv6Addr::from(address).into(),
        };
        let mut octets = match self.addresses.pseudonym(address) {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        cut(&mut octets);
        octets
    }

    /// A rule's text: addresses and names become pseudonyms, and so does every word that is none of nft's or iptables'.
    pub(super) fn rule_text(&mut self, text: &str) -> String {
        let whole = if text.chars().count() < LONG && !text.ends_with('…') {
            text
        } else {
            text.rsplit_once(' ').map_or("", |(start, _)| start)
        };
        let mut out: String = runs(whole, |character| !" \"{},;()[]".contains(character))
            .map(|(run, is_word)| if is_word { self.rule_word(run) } else { run.to_owned() })
            .collect();
        if whole.len() < text.len() {
            out.push_str(" …");
        }
        out
    }

    fn rule_word(&mut self, word: &str) -> String {
        let short = |text: &str| !text.is_empty() && text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
        let known = WORDS.split_whitespace().any(|known| known == word)
            || word.split(['-', ':']).all(short)
            || word.strip_prefix("0x").is_some_and(|digits| digits.len() <= 4)
            || word.split('/').all(|flag| WORDS.split_whitespace().any(|known| known == flag))
            || matches!(word, "@" | "@nh" | "@th" | "…");
        if known {
            return word.to_owned();
        }
        let part = |part: &str| part.split('/').next().unwrap_or_default().parse::<IpAddr>().is_ok();
        if word.split('-').all(part) {
            return self.without_addresses(word);
        }
        self.letters(word)
    }
}

/// Which part of an IP header some bytes are.
enum Place {
    /// No part of an address.
    Elsewhere,
    /// An address of so many bytes, or its beginning.
    Address(usize),
    /// The source and the destination, of so many bytes each.
    Both(usize),
    /// Parts of addresses, or nobody knows of what.
    Across,
}

impl Place {
    fn of(offset: u32, length: usize, v4: Option<bool>) -> Self {
        let Ok(offset) = usize::try_from(offset) else { return Self::Elsewhere };
        // Without a word on the family the place and the size tell: nft asks for whole addresses.
        let v4 = v4.or(match (offset, length) {
            (12 | 16, 1..=4) => Some(true),
            (8 | 24, 16) => Some(false),
            _ => None,
        });
        let (first, width) = if v4 == Some(true) { (12, 4) } else { (8, 16) };
        let end = offset.saturating_add(length);
        let touches = |first: usize, width: usize| offset < first + 2 * width && end > first;
        match v4 {
            Some(_) if !touches(first, width) => Self::Elsewhere,
            None if !touches(8, 16) => Self::Elsewhere,
            Some(_) if [first, first + width].contains(&offset) && length <= width => Self::Address(width),
            Some(_) if offset == first && length == 2 * width => Self::Both(width),
            _ => Self::Across,
        }
    }
}

/// Whether a rule is about IPv4; none where it does not say.
fn sees_ipv4(family: Family, tests: &[Test]) -> Option<bool> {
    match family {
        Family::Ip => Some(true),
        Family::Ip6 => Some(false),
        Family::Inet => tests.iter().find_map(|test| {
            let value = || test.bounds.first().map(|(from, _)| from.as_slice());
            match (test.key, value()?) {
                (Key::Family, [2]) | (Key::EtherType, [0x08, 0x00]) if test.inside => Some(true),
                (Key::Family, [10]) | (Key::EtherType, [0x86, 0xdd]) if test.inside => Some(false),
                _ => None,
            }
        }),
    }
}

/// How many bits a mask leaves of so many bytes, where it leaves the first ones.
fn prefix(mask: &[u8], length: usize) -> Option<usize> {
    let mask = &mask[..mask.len().min(length)];
    let bits = mask.iter().take_while(|byte| **byte == 0xff).count() * 8
        + mask.iter().find(|byte| **byte != 0xff).map_or(0, |byte| byte.leading_ones() as usize);
    let all: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
    (bits == all as usize).then_some(bits)
}

/// The networks that a range of so many bytes is made of: their first bytes and the length of their prefix.
fn networks(from: &[u8], to: &[u8], length: usize) -> Option<Vec<(Vec<u8>, usize)>> {
    if length == 0 || length > 16 || from.len() != length || to.len() != length {
        return None;
    }
    let number = |bytes: &[u8]| bytes.iter().fold(0_u128, |number, byte| number << 8 | u128::from(*byte));
    let (mut next, last) = (number(from), number(to));
    let all = length * 8;
    let mut found = Vec::new();
    while next <= last {
        // As large as where it starts allows, and as what is left does.
        let aligned = (next.trailing_zeros() as usize).min(all);
        let left = last - next;
        let fits = left.checked_add(1).map_or(128, u128::ilog2) as usize;
        let size = aligned.min(fits);
        found.push((next.to_be_bytes()[16 - length..].to_vec(), all - size));
        match 1_u128.checked_shl(size as u32).and_then(|size| next.checked_add(size)) {
            Some(after) => next = after,
            None => break,
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::super::{Key as Secret, Redactor};
    use super::{Family, Key, Test, networks};

    fn redactor() -> Redactor {
        Redactor::new(&Secret::new([9; 32]))
    }

    #[rstest]
    #[case("tcp dport 443 reject with tcp reset", "tcp dport 443 reject with tcp reset")]
    #[case(
        "-p tcp -m tcp --tcp-flags FIN,SYN/ACK SYN -j REJECT --reject-with tcp-reset",
        "-p tcp -m tcp --tcp-flags FIN,SYN/ACK SYN -j REJECT --reject-with tcp-reset"
    )]
    #[case("ct state invalid tcp dport 80-90 counter", "ct state invalid tcp dport 80-90 counter")]
    fn words_of_the_tools_stay(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(redactor().rule_text(text), expected);
    }

    #[rstest]
    #[case("ip saddr 10.0.0.0/8 drop", &["10.0.0.0/8 drop"], &["10.0.0.0/9"])]
    #[case("iifname \"acme0\" ip saddr 203.0.113.7", &["iifname \""], &["acme", "203.0.113"])]
    #[case("-m comment --comment \"for Acme Corp, ticket 4711\" -s 203.0.113.7/32", &["--comment"], &["Acme", "Corp", "203.0", "ticket"])]
    #[case("ip saddr @acme_blocked ip daddr { 203.0.113.1, 203.0.113.9-203.0.113.12 }", &["ip saddr @", "ip daddr {"], &["acme", "203.0.113"])]
    #[case("@nh,96,64 0x0a000002c0000202", &["@nh,96,64"], &["0a000002"])]
    #[case("ip6 saddr 2001:db8:acee::/48 tcp dport 443", &["tcp dport 443"], &["acee"])]
    #[case("-m u32 --u32 12=0x0a000002 -j REJECT", &["-j REJECT"], &["0a000002"])]
    fn everything_else_does_not(#[case] text: &str, #[case] stays: &[&str], #[case] goes: &[&str]) {
        let after = redactor().rule_text(text);
        for words in stays {
            assert!(after.contains(words), "{words}: {after}");
        }
        for words in goes {
            assert!(!after.contains(words), "{words}: {after}");
        }
    }

    /// A text that was cut may end inside of an address.
    #[test]
    fn the_cut_end_goes() {
        let text = format!("{} ip saddr 203.0.11", "counter ".repeat(20));
        let after = redactor().rule_text(&text);
        assert!(after.ends_with("ip saddr …"), "{after}");
    }

    #[rstest]
    #[case(&[10, 0, 0, 0], &[10, 255, 255, 255], vec![(vec![10, 0, 0, 0], 8)])]
    #[case(&[10, 0, 0, 1], &[10, 0, 0, 4], vec![(vec![10, 0, 0, 1], 32), (vec![10, 0, 0, 2], 31), (vec![10, 0, 0, 4], 32)])]
    #[case(&[0; 4], &[255; 4], vec![(vec![0; 4], 0)])]
    #[case(&[192, 168], &[192, 169], vec![(vec![192, 168], 15)])]
    #[case(&[2; 4], &[1; 4], vec![])]
    fn ranges_are_networks(#[case] from: &[u8], #[case] to: &[u8], #[case] expected: Vec<(Vec<u8>, usize)>) {
        assert_eq!(networks(from, to, from.len()), Some(expected));
    }

    #[test]
    fn the_whole_of_ipv6_is_one_network() {
        assert_eq!(networks(&[0; 16], &[255; 16], 16), Some(vec![(vec![0; 16], 0)]));
    }

    proptest! {
        /// A range asks of pseudonyms what it asked of addresses.
        #[test]
        fn ranges_hold_for_the_same(one: [u8; 4], other: [u8; 4], address: [u8; 4], near in any::<bool>()) {
            let (from, to) = (one.min(other), one.max(other));
            let address = if near { [from[0], from[1], from[2], address[3]] } else { address };
            let mut redactor = redactor();
            let test = Test { key: Key::NetworkHeader { offset: 12 }, mask: vec![], bounds: vec![(from.to_vec(), to.to_vec())], inside: true };
            let after = redactor.test(test, Some(true)).unwrap();
            let pseudonym = redactor.start(&address, 32, 4);
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
            let after = redactor.test(test, Some(true)).unwrap();
            let pseudonym = redactor.start(&address, 32, 4);
            let of = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap()) & mask;
            prop_assert_eq!(of(&pseudonym) == of(&after.bounds[0].0), of(&address) == of(&masked));
            let short = Test::is(Key::NetworkHeader { offset: 12 }, network[..bytes].to_vec());
            let after = redactor.test(short, Some(true)).unwrap();
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
        assert_eq!(redactor.test(last_byte, Some(true)), None);
        assert_eq!(redactor.test(Test::is(Key::NetworkHeader { offset: 14 }, vec![0; 4]), Some(true)), None);
        assert!(redactor.test(Test::is(Key::NetworkHeader { offset: 9 }, vec![6]), Some(true)).is_some());
        let both = redactor
            .test(Test::is(Key::NetworkHeader { offset: 12 }, [10, 0, 0, 2, 192, 0, 2, 2].to_vec()), Some(true))
            .unwrap();
        let expected = [redactor.start(&[10, 0, 0, 2], 32, 4), redactor.start(&[192, 0, 2, 2], 32, 4)].concat();
        assert_eq!(both.bounds[0].0, expected);
        assert_eq!(super::sees_ipv4(Family::Inet, &[Test::is(Key::Family, vec![10])]), Some(false));
    }
}
