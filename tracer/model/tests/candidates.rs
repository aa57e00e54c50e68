//! Which rules can have rejected a packet.

use rstest::rstest;

use tracer_common::Hook;
use tracer_model::event::Event;
use tracer_model::ruleset::{Backend, Family, Hooks, Key, LISTED, Looks, Rule, Rules, Test};
use tracer_model::time::Instant;
use tracer_testing::{Build, GATEWAY, REPLY};

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
    let looks = Looks::new(look(MILLISECOND, vec![rule("input", 1, vec![sport(443)]), rule("input", 4, Vec::new())]));
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
    let counted =
        |place: u32, packets: u64| Rule { packets: Some(packets), complete: false, ..rule("input", place, Vec::new()) };
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
    let reloaded = Rules { generation: Some(4), ..looks.latest().clone() };
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
