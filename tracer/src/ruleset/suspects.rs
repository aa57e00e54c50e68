//! Which rules can have rejected a packet.

use std::time::Duration;

use tracer_common::Hook;

use super::{Key, Rule, Rules, Test};
use crate::event::{Event, NfHook};
use crate::time::Instant;

/// Most rules that are listed.
pub const LISTED: usize = 8;
/// A rule that has counted nothing this soon after a packet has not rejected it. Later its counter may have been reset.
const FRESH: Duration = Duration::from_secs(1);
/// A ruleset that is read so long after a packet may be another than the packet met.
const LATE: Duration = Duration::from_secs(5);

/// What was seen of a namespace's ruleset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looks {
    /// Soon after the first packet was rejected.
    first: Rules,
    /// When the capture ended.
    last: Option<Rules>,
}

/// The rules that can have rejected a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspects {
    /// They, at most [`LISTED`].
    pub rules: Vec<Rule>,
    /// How many they are.
    pub count: usize,
    /// How many rules of the namespace answer with a RST at all.
    pub of: usize,
    /// Why there may be others.
    pub problems: Vec<String>,
}

impl Suspects {
    /// The rule, where it is the only one and nothing suggests that there may be others.
    pub fn only(&self) -> Option<&Rule> {
        match self.rules.as_slice() {
            [rule] if self.count == 1 && self.problems.is_empty() => Some(rule),
            _ => None,
        }
    }
}

impl Looks {
    /// A first look.
    pub const fn new(first: Rules) -> Self {
        Self { first, last: None }
    }

    /// A later look; it takes the place of the one before, never of the first.
    pub fn again(&mut self, rules: Rules) {
        self.last = Some(rules);
    }

    /// The last look.
    pub fn latest(&self) -> &Rules {
        self.last.as_ref().unwrap_or(&self.first)
    }

    /// The rules that can have rejected the packet of this event.
    pub fn suspects(&self, event: &Event) -> Suspects {
        let between = self.first.at < event.at;
        let last = self.last.as_ref().filter(|_| between);
        let mut pool: Vec<&Rule> = self.first.rules.iter().collect();
        let gone_or_new = last.is_some_and(|last| {
            let known = pool.len();
            pool.extend(last.rules.iter().filter(|rule| !self.first.rules.iter().any(|first| first.same(rule))));
            pool.len() > known || last.rules.len() != self.first.rules.len()
        });
        let of = pool.len();
        let mut left: Vec<&Rule> = pool
            .into_iter()
            .filter(|rule| !self.contradicts(rule, event) && !self.did_not_count(rule, event.at))
            .collect();
        if !gone_or_new {
            let sure: Vec<&Rule> = left.iter().copied().filter(|rule| self.is_certain(rule, event)).collect();
            left.retain(|rule| !sure.iter().any(|first| comes_first(first, rule)));
        }
        let mut problems = self.first.problems.clone();
        for problem in last.into_iter().flat_map(|last| &last.problems) {
            if !problems.contains(problem) {
                problems.push(problem.clone());
            }
        }
        if gone_or_new {
            problems.push("rules that reject came or went during the capture".to_owned());
        }
        let after = self.first.began - event.at;
        if after > LATE {
            problems.push(format!("the ruleset was read only {} s after the packet was rejected", after.as_secs()));
        }
        Suspects { count: left.len(), of, rules: left.into_iter().take(LISTED).cloned().collect(), problems }
    }

    /// Whether the rule's counter shows that it did not match a packet at this time.
    fn did_not_count(&self, rule: &Rule, at: Instant) -> bool {
        let counted = |look: &Rules| look.rules.iter().find(|seen| seen.same(rule))?.packets;
        let looks = [Some(&self.first), self.last.as_ref()];
        let after = looks.into_iter().flatten().find(|look| look.began > at);
        let before = (self.first.at < at).then_some(&self.first);
        let Some((after, then)) = after.and_then(|look| Some((look, counted(look)?))) else { return false };
        if before.is_some_and(|before| began_anew(before, after)) {
            return false;
        }
        let nothing_yet = then == 0 && after.began - at < FRESH;
        nothing_yet || before.is_some_and(|before| counted(before) == Some(then))
    }

    /// Whether the packet cannot have met this rule, or not have passed one of its tests.
    fn contradicts(&self, rule: &Rule, event: &Event) -> bool {
        let elsewhere = event.nf_hook.is_some_and(|hook| rule.hooks.0 != 0 && !rule.hooks.has(hook));
        let ipv4 = event.hook != Hook::RejectV6;
        elsewhere || !rule.family.sees(ipv4) || rule.tests.iter().any(|test| self.holds(test, event) == Some(false))
    }

    /// Whether the rule rejects this packet if it comes by.
    fn is_certain(&self, rule: &Rule, event: &Event) -> bool {
        rule.complete && rule.tests.iter().all(|test| self.holds(test, event) == Some(true))
    }

    fn holds(&self, test: &Test, event: &Event) -> Option<bool> {
        let misled = test.key == Key::InputName && event.nf_hook == Some(NfHook::Forward) && self.first.bridged;
        if misled { None } else { test.holds(event) }
    }
}

/// Whether counters may have begun anew between two looks: with another ruleset, or because somebody reset them.
fn began_anew(before: &Rules, after: &Rules) -> bool {
    let less = |rule: &Rule| {
        let later = after.rules.iter().find(|later| later.same(rule));
        later.is_some_and(|later| later.packets < rule.packets)
    };
    before.generation != after.generation || before.rules.iter().any(less)
}

/// Whether a packet meets one rule before the other, of the same chain.
fn comes_first(one: &Rule, other: &Rule) -> bool {
    let chain = |rule: &Rule| (rule.backend, rule.family);
    chain(one) == chain(other) && one.table == other.table && one.chain == other.chain && one.place < other.place
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use tracer_common::Hook;

    use super::super::{Backend, Family, Hooks, Key, Rule, Rules, Test};
    use super::{LISTED, Looks};
    use crate::event::Event;
    use crate::testing::{Build, GATEWAY, REPLY};
    use crate::time::Instant;

    const MILLISECOND: u64 = 1_000_000;

    /// A segment of the server's from port 443, rejected at INPUT.
    fn rejected(at: u64) -> Event {
        Build::from_server(Hook::RejectV4, 1, at, 1_000, 2_000).at(1).entry(REPLY, 5, 6).event()
    }

    fn rule(chain: &str, place: u32, tests: Vec<Test>) -> Rule {
        Rule {
            backend: Backend::Nftables,
            family: Family::Inet,
            table: "filter".to_owned(),
            chain: chain.to_owned(),
            handle: Some(u64::from(place) + 2),
            number: None,
            place,
            hooks: Hooks::only(1),
            tests,
            complete: true,
            packets: None,
            text: String::new(),
        }
    }

    fn look(at: u64, rules: Vec<Rule>) -> Rules {
        Rules {
            netns: GATEWAY,
            began: Instant(at),
            at: Instant(at + MILLISECOND),
            generation: Some(3),
            bridged: false,
            rules,
            problems: Vec::new(),
        }
    }

    fn dport(port: u16) -> Test {
        Test::is(Key::TransportHeader { offset: 2 }, port.to_be_bytes().to_vec())
    }

    fn sport(port: u16) -> Test {
        Test::is(Key::TransportHeader { offset: 0 }, port.to_be_bytes().to_vec())
    }

    /// Any of these bits of `ct state`.
    fn state(bits: u32) -> Test {
        Test::state(bits, false)
    }

    fn places(looks: &Looks, event: &Event) -> Vec<u32> {
        looks.suspects(event).rules.iter().map(|rule| rule.place).collect()
    }

    #[rstest]
    #[case::port(dport(443), false)]
    #[case::other_port(sport(443), true)]
    #[case::ports(Test { bounds: vec![(vec![0, 1], vec![1, 255])], ..sport(0) }, true)]
    #[case::one_of_ports(Test { bounds: vec![(vec![0, 80], vec![0, 81]), (vec![1, 187], vec![1, 187])], ..sport(0) }, true)]
    #[case::none_of_ports(Test { bounds: vec![(vec![0, 80], vec![0, 81]), (vec![1, 188], vec![2, 0])], ..sport(0) }, false)]
    #[case::of_nothing(Test { bounds: vec![], ..sport(0) }, false)]
    #[case::not_the_port(Test { inside: false, ..sport(443) }, false)]
    #[case::interface(Test::is(Key::InputName, b"s0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec()), true)]
    #[case::another_interface(Test::is(Key::InputName, b"s01\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec()), false)]
    #[case::interfaces_like_it(Test::is(Key::InputName, b"s".to_vec()), true)]
    #[case::source(Test::is(Key::NetworkHeader { offset: 12 }, vec![192, 0, 2, 2]), true)]
    #[case::source_network(Test::is(Key::NetworkHeader { offset: 12 }, vec![192, 0]), true)]
    #[case::other_source(Test::is(Key::NetworkHeader { offset: 12 }, vec![10]), false)]
    #[case::masked(Test { mask: vec![255, 255, 255, 0], ..Test::is(Key::NetworkHeader { offset: 12 }, vec![192, 0, 2, 0]) }, true)]
    #[case::established(state(1 << 1 | 1 << 2), true)]
    #[case::invalid(state(1), false)]
    #[case::unknown(Test::is(Key::Unknown, vec![1]), true)]
    #[case::beyond_the_header(Test::is(Key::TransportHeader { offset: 19 }, vec![1, 2]), true)]
    #[case::offset_of_nowhere(Test::is(Key::TransportHeader { offset: u32::MAX }, vec![1, 2]), true)]
    #[case::other_interface_out(Test::is(Key::OutputName, b"lan".to_vec()), true)]
    #[case::tcp(Test::is(Key::Transport, vec![6]), true)]
    #[case::ipv6(Test::is(Key::Family, vec![10]), false)]
    fn a_test_that_fails_excludes_its_rule(#[case] test: Test, #[case] suspected: bool) {
        let looks = Looks::new(look(MILLISECOND, vec![rule("input", 0, vec![test])]));
        let suspects = looks.suspects(&rejected(1));
        assert_eq!(suspects.count, usize::from(suspected));
        assert_eq!(suspects.only().is_some(), suspected);
        assert_eq!(suspects.of, 1);
    }

    #[test]
    fn rules_elsewhere_are_excluded() {
        let forward = Rule { hooks: Hooks::only(2), ..rule("forward", 0, Vec::new()) };
        let ip6 = Rule { family: Family::Ip6, ..rule("input", 1, Vec::new()) };
        let ip = Rule { family: Family::Ip, ..rule("input", 2, Vec::new()) };
        // Reached by nobody knows what.
        let somewhere = Rule { hooks: Hooks::default(), ..rule("svc", 3, Vec::new()) };
        let looks = Looks::new(look(MILLISECOND, vec![forward, ip6, ip, somewhere]));
        assert_eq!(places(&looks, &rejected(1)), [2, 3]);
    }

    #[test]
    fn of_two_that_match_the_packet_meets_the_first() {
        let looks =
            Looks::new(look(MILLISECOND, vec![rule("input", 1, vec![sport(443)]), rule("input", 4, Vec::new())]));
        assert_eq!(places(&looks, &rejected(1)), [1]);
        // With a test that is not understood it may have let the packet pass.
        let unsure = Rule { complete: false, ..rule("input", 1, vec![sport(443)]) };
        let looks = Looks::new(look(MILLISECOND, vec![unsure, rule("input", 4, Vec::new())]));
        assert_eq!(places(&looks, &rejected(1)), [1, 4]);
        // Nothing is known of the order of chains.
        let looks = Looks::new(look(MILLISECOND, vec![rule("a", 0, Vec::new()), rule("b", 4, Vec::new())]));
        assert_eq!(places(&looks, &rejected(1)), [0, 4]);
        assert_eq!(looks.suspects(&rejected(1)).only(), None);
    }

    #[test]
    fn counters_exclude() {
        let counted = |place: u32, packets: u64| Rule {
            packets: Some(packets),
            complete: false,
            ..rule("input", place, Vec::new())
        };
        // Rejected before the first look: a rule that has not counted anything yet did not do it.
        let mut looks = Looks::new(look(5 * MILLISECOND, vec![counted(0, 0), counted(1, 1), counted(2, 7)]));
        assert_eq!(places(&looks, &rejected(1)), [1, 2]);
        // Between the looks: a rule that has not counted anything since did not do it.
        looks.again(look(20_000 * MILLISECOND, vec![counted(0, 0), counted(1, 1), counted(2, 8)]));
        assert_eq!(places(&looks, &rejected(10_000 * MILLISECOND)), [2]);
        assert_eq!(places(&looks, &rejected(1)), [1, 2], "the last look says nothing of what was before the first");
        // While the first look was taken.
        assert_eq!(places(&looks, &rejected(5 * MILLISECOND + 1)), [0, 1, 2]);
        // After a reload the counters may have begun anew, and when somebody has reset them.
        let reloaded = Rules { generation: Some(4), ..looks.last.clone().unwrap() };
        looks.again(reloaded);
        assert_eq!(places(&looks, &rejected(10_000 * MILLISECOND)), [0, 1, 2]);
        assert_eq!(places(&looks, &rejected(19_900 * MILLISECOND)), [0, 1, 2]);
        looks.again(look(20_000 * MILLISECOND, vec![counted(0, 0), counted(1, 0), counted(2, 8)]));
        assert_eq!(places(&looks, &rejected(10_000 * MILLISECOND)), [0, 1, 2]);
    }

    /// The buffer of a packet that is bridged names the interface that it leaves by.
    #[test]
    fn interfaces_of_bridged_packets_exclude_nothing() {
        let tests = vec![Test::is(Key::InputName, b"br0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec())];
        let rule = Rule { hooks: Hooks(1 << 1 | 1 << 2), ..rule("both", 0, tests) };
        let seen = |bridged: bool, nf_hook: u8| {
            let looks = Looks::new(Rules { bridged, ..look(MILLISECOND, vec![rule.clone()]) });
            let event = Build::from_server(Hook::RejectV4, 1, 1, 1_000, 2_000).at(nf_hook).event();
            looks.suspects(&event).count
        };
        assert_eq!([seen(false, 1), seen(false, 2), seen(true, 1), seen(true, 2)], [0, 0, 0, 1]);
    }

    #[test]
    fn a_look_that_comes_late_names_nobody() {
        let looks = Looks::new(look(9_000 * MILLISECOND, vec![rule("input", 0, vec![sport(443)])]));
        let suspects = looks.suspects(&rejected(1));
        assert_eq!((suspects.count, suspects.only()), (1, None));
        assert_eq!(suspects.problems, ["the ruleset was read only 8 s after the packet was rejected"]);
    }

    #[test]
    fn a_ruleset_that_changed_names_nobody() {
        let mut looks = Looks::new(look(MILLISECOND, vec![rule("input", 0, vec![sport(443)])]));
        looks.again(look(9_000 * MILLISECOND, vec![rule("input", 0, vec![sport(444)])]));
        let before = looks.suspects(&rejected(1));
        assert!(before.only().is_some(), "{before:?}");
        let between = looks.suspects(&rejected(4_000 * MILLISECOND));
        assert_eq!((between.count, between.of, between.only()), (1, 2, None));
        assert_eq!(between.problems.len(), 1);
    }

    #[test]
    fn what_could_not_be_read_keeps_it_open() {
        let blind = Rules { problems: vec!["iptables-legacy-save is missing".to_owned()], ..look(9, Vec::new()) };
        let suspects = Looks::new(Rules { rules: vec![rule("input", 0, Vec::new())], ..blind }).suspects(&rejected(1));
        assert_eq!((suspects.count, suspects.only()), (1, None));
    }

    #[test]
    fn the_list_is_bounded() {
        let many = (0..100).map(|place| Rule { complete: false, ..rule("input", place, Vec::new()) }).collect();
        let suspects = Looks::new(look(MILLISECOND, many)).suspects(&rejected(1));
        assert_eq!((suspects.rules.len(), suspects.count, suspects.of), (LISTED, 100, 100));
    }
}
