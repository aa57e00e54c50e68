//! Which rules can have rejected a packet.

use rstest::rstest;

use tracer_common::Hook;
use tracer_model::event::Event;
use tracer_model::ruleset::{Backend, Family, Hooks, Key, LISTED, Rule, Rules, Snapshots, Test};
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

fn style(at: u64, rules: Vec<Rule>) -> Rules {
    Rules {
        netns: GATEWAY,
        began: Instant(at),
        at: Instant(at + MILLISECOND),
        generation: Some(3),
        bridged: false,
        rules,
        problems: Vec::new(),
        whole: None,
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

fn places(snapshots: &Snapshots, event: &Event) -> Vec<u32> {
    snapshots.candidates(event).rules.iter().map(|rule| rule.place).collect()
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
    let snapshots = Snapshots::new(style(MILLISECOND, vec![rule("input", 0, vec![test])]));
    let candidates = snapshots.candidates(&rejected(1));
    assert_eq!(candidates.count, usize::from(suspected));
    assert_eq!(candidates.only().is_some(), suspected);
    assert_eq!(candidates.of, 1);
}

#[test]
fn rules_elsewhere_are_excluded() {
    let forward = Rule { hooks: Hooks::only(2), ..rule("forward", 0, Vec::new()) };
    let ip6 = Rule { family: Family::Ip6, ..rule("input", 1, Vec::new()) };
    let ip = Rule { family: Family::Ip, ..rule("input", 2, Vec::new()) };
    // Reached by nobody knows what.
    let somewhere = Rule { hooks: Hooks::default(), ..rule("svc", 3, Vec::new()) };
    let snapshots = Snapshots::new(style(MILLISECOND, vec![forward, ip6, ip, somewhere]));
    assert_eq!(places(&snapshots, &rejected(1)), [2, 3]);
}

#[test]
fn of_two_that_match_the_packet_meets_the_first() {
    let snapshots =
        Snapshots::new(style(MILLISECOND, vec![rule("input", 1, vec![sport(443)]), rule("input", 4, Vec::new())]));
    assert_eq!(places(&snapshots, &rejected(1)), [1]);
    // With a test that is not understood it may have let the packet pass.
    let unsure = Rule { complete: false, ..rule("input", 1, vec![sport(443)]) };
    let snapshots = Snapshots::new(style(MILLISECOND, vec![unsure, rule("input", 4, Vec::new())]));
    assert_eq!(places(&snapshots, &rejected(1)), [1, 4]);
    // Nothing is known of the order of chains.
    let snapshots = Snapshots::new(style(MILLISECOND, vec![rule("a", 0, Vec::new()), rule("b", 4, Vec::new())]));
    assert_eq!(places(&snapshots, &rejected(1)), [0, 4]);
    assert_eq!(snapshots.candidates(&rejected(1)).only(), None);
}

#[test]
fn counters_exclude() {
    let counted =
        |place: u32, packets: u64| Rule { packets: Some(packets), complete: false, ..rule("input", place, Vec::new()) };
    // Rejected before the first look: a rule that has not counted anything yet did not do it.
    let mut snapshots = Snapshots::new(style(5 * MILLISECOND, vec![counted(0, 0), counted(1, 1), counted(2, 7)]));
    assert_eq!(places(&snapshots, &rejected(1)), [1, 2]);
    // Between the looks: a rule that has not counted anything since did not do it.
    snapshots.add(style(20_000 * MILLISECOND, vec![counted(0, 0), counted(1, 1), counted(2, 8)]));
    assert_eq!(places(&snapshots, &rejected(10_000 * MILLISECOND)), [2]);
    assert_eq!(places(&snapshots, &rejected(1)), [1, 2], "the last look says nothing of what was before the first");
    // While the first look was taken.
    assert_eq!(places(&snapshots, &rejected(5 * MILLISECOND + 1)), [0, 1, 2]);
    // After a reload the counters may have begun anew, and when somebody has reset them.
    let reloaded = Rules { generation: Some(4), ..snapshots.latest().clone() };
    snapshots.add(reloaded);
    assert_eq!(places(&snapshots, &rejected(10_000 * MILLISECOND)), [0, 1, 2]);
    assert_eq!(places(&snapshots, &rejected(19_900 * MILLISECOND)), [0, 1, 2]);
    snapshots.add(style(20_000 * MILLISECOND, vec![counted(0, 0), counted(1, 0), counted(2, 8)]));
    assert_eq!(places(&snapshots, &rejected(10_000 * MILLISECOND)), [0, 1, 2]);
}

/// The buffer of a packet that is bridged names the interface that it leaves by.
#[test]
fn interfaces_of_bridged_packets_exclude_nothing() {
    let tests = vec![Test::is(Key::InputName, b"br0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec())];
    let rule = Rule { hooks: Hooks(1 << 1 | 1 << 2), ..rule("both", 0, tests) };
    let seen = |bridged: bool, nf_hook: u8| {
        let snapshots = Snapshots::new(Rules { bridged, ..style(MILLISECOND, vec![rule.clone()]) });
        let event = Build::from_server(Hook::RejectV4, 1, 1, 1_000, 2_000).at(nf_hook).event();
        snapshots.candidates(&event).count
    };
    assert_eq!([seen(false, 1), seen(false, 2), seen(true, 1), seen(true, 2)], [0, 0, 0, 1]);
}

#[test]
fn a_look_that_comes_late_names_nobody() {
    let snapshots = Snapshots::new(style(9_000 * MILLISECOND, vec![rule("input", 0, vec![sport(443)])]));
    let candidates = snapshots.candidates(&rejected(1));
    assert_eq!((candidates.count, candidates.only()), (1, None));
    assert_eq!(candidates.problems, ["the ruleset was read only 8 s after the packet was rejected"]);
}

#[test]
fn a_ruleset_that_changed_names_nobody() {
    let mut snapshots = Snapshots::new(style(MILLISECOND, vec![rule("input", 0, vec![sport(443)])]));
    snapshots.add(style(9_000 * MILLISECOND, vec![rule("input", 0, vec![sport(444)])]));
    let before = snapshots.candidates(&rejected(1));
    assert!(before.only().is_some(), "{before:?}");
    let between = snapshots.candidates(&rejected(4_000 * MILLISECOND));
    assert_eq!((between.count, between.of, between.only()), (1, 2, None));
    assert_eq!(between.problems.len(), 1);
}

#[test]
fn what_could_not_be_read_keeps_it_open() {
    let blind = Rules { problems: vec!["iptables-legacy-save is missing".to_owned()], ..style(9, Vec::new()) };
    let candidates =
        Snapshots::new(Rules { rules: vec![rule("input", 0, Vec::new())], ..blind }).candidates(&rejected(1));
    assert_eq!((candidates.count, candidates.only()), (1, None));
}

#[test]
fn the_list_is_bounded() {
    let many = (0..100).map(|place| Rule { complete: false, ..rule("input", place, Vec::new()) }).collect();
    let candidates = Snapshots::new(style(MILLISECOND, many)).candidates(&rejected(1));
    assert_eq!((candidates.rules.len(), candidates.count, candidates.of), (LISTED, 100, 100));
}
