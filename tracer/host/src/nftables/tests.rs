//! Dumps as the kernel sends them, put together by hand: what nft and iptables-nft write for a rule can be seen with
//! `nft --debug=netlink list ruleset`.

mod audit;

use rstest::rstest;

use tracer_model::ruleset::{Backend, Family, Hooks, Key, Rule, Test};

use super::expressions::Expressions;
use super::reader::Reader;
use crate::nfnetlink::{Message, put as attribute};

const INET: u8 = 1;
const IPV4: u8 = 2;
const BRIDGE: u8 = 7;

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, format!("{value}\0").as_bytes())
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

/// A value in a `NFTA_DATA_VALUE`.
fn value(kind: u16, bytes: &[u8]) -> Vec<u8> {
    attribute(kind, &attribute(1, bytes))
}

fn expression(name: &str, data: &[Vec<u8>]) -> Vec<u8> {
    attribute(1, &[text(1, name), attribute(2, &data.concat())].concat())
}

fn meta(key: u32) -> Vec<u8> {
    expression("meta", &[number(2, key), number(1, 1)])
}

fn payload(base: u32, offset: u32, length: u32) -> Vec<u8> {
    expression("payload", &[number(1, 1), number(2, base), number(3, offset), number(4, length)])
}

fn cmp(operator: u32, bytes: &[u8]) -> Vec<u8> {
    expression("cmp", &[number(1, 1), number(2, operator), value(3, bytes)])
}

fn bitwise(mask: &[u8]) -> Vec<u8> {
    let length = u32::try_from(mask.len()).unwrap();
    let nothing = vec![0; mask.len()];
    expression("bitwise", &[number(1, 1), number(2, 1), number(3, length), value(4, mask), value(5, &nothing)])
}

fn counter(packets: u64) -> Vec<u8> {
    expression("counter", &[attribute(1, &[0; 8]), attribute(2, &packets.to_be_bytes())])
}

fn reject(kind: u32) -> Vec<u8> {
    expression("reject", &[number(1, kind), attribute(2, &[0])])
}

fn target(name: &str, info: &[u8]) -> Vec<u8> {
    // The structures of IPv6 and of revisions above 0 are longer.
    let revision = if info.len() == 44 { 2 } else { 0 };
    expression("target", &[text(1, name), number(2, revision), attribute(3, info)])
}

fn xt_match(name: &str, revision: u32, info: &[u8]) -> Vec<u8> {
    expression("match", &[text(1, name), number(2, revision), attribute(3, info)])
}

fn jump(to: &str) -> Vec<u8> {
    let verdict = [number(1, (-3i32).cast_unsigned()), text(2, to)].concat();
    expression("immediate", &[number(1, 0), attribute(2, &attribute(2, &verdict))])
}

fn chain(reader: &mut Reader, family: u8, name: &str, hook: Option<u32>) {
    let hook = hook.map(|hook| attribute(4, &[number(1, hook), number(2, 0)].concat())).unwrap_or_default();
    reader.chain(Message {
        family,
        attributes: &[text(1, "filter"), text(3, name), hook].concat(),
        ..Message::default()
    });
}

fn rule(reader: &mut Reader, family: u8, chain: &str, handle: u64, expressions: &[Vec<u8>]) {
    let attributes =
        [text(1, "filter"), text(2, chain), attribute(3, &handle.to_be_bytes()), attribute(4, &expressions.concat())]
            .concat();
    reader.rule(Message { family, attributes: &attributes, ..Message::default() });
}

/// The one rule of a chain at INPUT.
fn alone(family: u8, expressions: &[Vec<u8>]) -> Option<Rule> {
    let mut reader = Reader::default();
    chain(&mut reader, family, "input", Some(1));
    rule(&mut reader, family, "input", 7, expressions);
    reader.finish().0.pop()
}

fn dport() -> Test {
    Test::is(Key::TransportHeader { offset: 2 }, vec![1, 187])
}

#[test]
fn a_rule_of_nft() {
    let rule =
        alone(INET, &[meta(16), cmp(0, &[6]), payload(2, 2, 2), cmp(0, &[1, 187]), counter(5), reject(1), counter(9)])
            .unwrap();
    let expected = Rule {
        backend: Backend::Nftables,
        family: Family::Inet,
        table: "filter".to_owned(),
        chain: "input".to_owned(),
        handle: Some(7),
        number: None,
        place: 0,
        hooks: Hooks::only(1),
        tests: vec![Test::is(Key::Transport, vec![6]), dport()],
        complete: true,
        packets: Some(5),
        text: "tcp dport 443 counter reject with tcp reset".to_owned(),
    };
    assert_eq!(rule, expected);
    assert_eq!(rule.to_string(), "inet filter input handle 7");
    assert_eq!(rule.shown_by(), "nft -a list chain inet filter input");
}

#[rstest]
#[case::invalid(&[expression("ct", &[number(2, 0), number(1, 1)]), bitwise(&1u32.to_ne_bytes()), cmp(1, &[0; 4])],
    "ct state invalid", true)]
#[case::interface(&[meta(6), cmp(0, b"wan0\0\0\0\0\0\0\0\0\0\0\0\0")], "iifname \"wan0\"", true)]
#[case::interfaces(&[meta(6), cmp(1, b"wan")], "iifname != \"wan*\"", true)]
#[case::network(&[payload(1, 12, 4), bitwise(&[255, 255, 255, 0]), cmp(0, &[10, 0, 0, 0])], "ip saddr 10.0.0.0/24", true)]
#[case::whole_bytes(&[payload(1, 16, 1), cmp(0, &[10])], "ip daddr 10.0.0.0/8", true)]
#[case::ports(&[payload(2, 0, 2), expression("range", &[number(1, 1), number(2, 0), value(3, &[0, 1]), value(4, &[4, 0])])],
    "tcp sport 1-1024", true)]
#[case::between(&[payload(2, 2, 2), cmp(5, &[1, 187]), cmp(3, &[1, 189])], "tcp dport 443-445", true)]
#[case::above(&[payload(2, 2, 2), cmp(4, &[4, 0])], "tcp dport != 0-1024", true)]
#[case::a_set(&[payload(2, 2, 2), expression("lookup", &[text(1, "blocked"), number(2, 1)])], "tcp dport @blocked", false)]
#[case::an_unread_set(&[payload(2, 2, 2), expression("lookup", &[text(1, "__set0"), number(2, 1)])], "tcp dport @__set0", false)]
#[case::limit(&[expression("limit", &[])], "[limit]", false)]
#[case::mark(&[meta(3), cmp(0, &[1, 0, 0, 0])], "[cmp]", false)]
#[case::another_register(&[payload(2, 2, 2), expression("cmp", &[number(1, 2), number(2, 0), value(3, &[1, 187])])],
    "[cmp]", false)]
#[case::longer_than_loaded(&[payload(2, 2, 2), cmp(0, &[1, 187, 0])], "[cmp]", false)]
#[case::swapped(&[payload(2, 2, 2), expression("byteorder", &[number(1, 1), number(2, 1)]), cmp(0, &[1, 187])],
    "[byteorder] [cmp]", false)]
#[case::nothing(&[], "", true)]
#[case::nonsense(&[expression("payload", &[]), expression("bitwise", &[]), expression("cmp", &[])], "[payload set] [cmp]", false)]
fn tests_are_understood_or_said_not_to_be(#[case] expressions: &[Vec<u8>], #[case] text: &str, #[case] complete: bool) {
    let rule = alone(INET, &[expressions, &[reject(1)]].concat()).unwrap();
    let expected = format!("{text} reject with tcp reset");
    assert_eq!(rule.text, expected.trim_start());
    assert_eq!(rule.complete, complete);
    assert_eq!(rule.tests.is_empty(), !complete || expressions.is_empty());
}

#[test]
fn anonymous_sets_are_read() {
    let lookup = |flags: u32| {
        let lookup = expression("lookup", &[text(1, "__set0"), number(2, 1), number(5, flags)]);
        [payload(2, 2, 2), lookup, reject(1)].concat()
    };
    let read = |flags: u32, elements: Option<Vec<(Vec<u8>, Vec<u8>)>>| {
        let mut read = Expressions::read(&lookup(flags), Family::Inet);
        let found = read.lookups.pop().unwrap();
        read.resolve(found, elements, Family::Inet);
        read
    };
    let ports = vec![(vec![0, 80], vec![0, 80]), (vec![1, 187], vec![1, 189])];
    let known = read(0, Some(ports.clone()));
    assert_eq!(known.words(), "tcp dport { 80, 443-445 } reject with tcp reset");
    let test = Test { bounds: ports.clone(), ..dport() };
    assert_eq!((known.tests, known.complete), (vec![test.clone()], true));
    let inverted = read(1, Some(ports));
    assert_eq!(inverted.words(), "tcp dport != { 80, 443-445 } reject with tcp reset");
    assert_eq!(inverted.tests, [Test { inside: false, ..test }]);
    for strange in [None, Some(vec![]), Some(vec![(vec![1], vec![2])])] {
        let unknown = read(0, strange);
        assert_eq!((unknown.tests.len(), unknown.complete), (0, false));
        assert_eq!(unknown.words(), "tcp dport @__set0 reject with tcp reset");
    }
}

/// What was loaded into the second half of a register of 16 bytes takes away what was in the first.
#[test]
fn registers_overlap() {
    let load = |register: u32, offset: u32| {
        expression("payload", &[number(1, register), number(2, 1), number(3, offset), number(4, 8)])
    };
    let compare = expression("cmp", &[number(1, 1), number(2, 0), value(3, &[0; 8])]);
    let rule = alone(INET, &[load(1, 8), load(9, 24), compare.clone(), reject(1)]).unwrap();
    assert_eq!((rule.tests.len(), rule.complete), (0, false));
    let rule = alone(INET, &[load(1, 8), load(10, 24), compare, reject(1)]).unwrap();
    assert_eq!((rule.tests.len(), rule.complete), (1, true));
}

#[test]
fn others_do_not_reset() {
    assert_eq!(alone(INET, &[reject(0)]), None);
    assert_eq!(alone(BRIDGE, &[reject(1)]), None);
    assert_eq!(alone(IPV4, &[target("REJECT", &3u32.to_ne_bytes())]), None);
    assert_eq!(alone(IPV4, &[target("LOG", &7u32.to_ne_bytes())]), None);
    assert_eq!(alone(10, &[target("REJECT", &7u32.to_ne_bytes())]), None);
    assert!(alone(10, &[target("REJECT", &6u32.to_ne_bytes())]).is_some());
}

#[test]
fn a_rule_of_iptables_nft() {
    let tcp = [&[0u16, u16::MAX, 443, 443].map(u16::to_ne_bytes).concat()[..], &[0; 4]].concat();
    let mut conntrack = [0; 160];
    conntrack[146] = 1;
    conntrack[150] = 8;
    let mut reader = Reader::default();
    chain(&mut reader, IPV4, "FORWARD", Some(2));
    rule(&mut reader, IPV4, "FORWARD", 4, &[counter(0)]);
    let expressions = [
        payload(1, 9, 1),
        cmp(0, &[6]),
        xt_match("tcp", 0, &tcp),
        xt_match("conntrack", 3, &conntrack),
        xt_match("comment", 0, b"why"),
        counter(3),
        target("REJECT", &7u32.to_ne_bytes()),
    ];
    rule(&mut reader, IPV4, "FORWARD", 5, &expressions);
    let (rules, _) = reader.finish();
    let [rule] = &rules[..] else { panic!("{rules:?}") };
    assert_eq!(rule.to_string(), "iptables filter FORWARD rule 2");
    assert_eq!(rule.shown_by(), "iptables -L FORWARD -n -v --line-numbers");
    assert_eq!((rule.number, rule.handle, rule.packets), (Some(2), Some(5), Some(3)));
    assert_eq!(rule.text, "tcp dport 443 ct state new counter REJECT --reject-with tcp-reset");
    assert!(rule.complete && rule.tests.contains(&dport()));
}

#[test]
fn matches_that_are_not_understood() {
    let states = |flags: u8, states: [u8; 2]| {
        let mut info = [0; 160];
        info[146] = flags;
        info[150..152].copy_from_slice(&states);
        let rule = alone(IPV4, &[xt_match("conntrack", 3, &info), target("REJECT", &7u32.to_ne_bytes())]).unwrap();
        (rule.tests.len(), rule.complete)
    };
    assert_eq!(states(1, [1, 1]), (1, true), "INVALID,UNTRACKED");
    assert_eq!(states(3, [1, 0]), (1, false), "and something else");
    assert_eq!(states(1, [0x40, 0]), (0, false), "SNAT");
    for (name, info) in [("tcp", &[0; 3][..]), ("conntrack", &[0; 20]), ("recent", &[])] {
        let revision = if name == "conntrack" { 3 } else { 0 };
        let rule = alone(IPV4, &[xt_match(name, revision, info), target("REJECT", &7u32.to_ne_bytes())]).unwrap();
        assert!(!rule.complete, "{name}");
    }
}

#[test]
fn hooks_come_from_the_chains_that_jump() {
    let mut reader = Reader::default();
    chain(&mut reader, INET, "forward", Some(2));
    chain(&mut reader, INET, "policy", None);
    chain(&mut reader, INET, "nobody", None);
    rule(&mut reader, INET, "forward", 1, &[jump("policy")]);
    rule(&mut reader, INET, "policy", 2, &[reject(1)]);
    rule(&mut reader, INET, "nobody", 3, &[reject(1)]);
    let hooks: Vec<Hooks> = reader.finish().0.into_iter().map(|rule| rule.hooks).collect();
    assert_eq!(hooks, [Hooks::only(2), Hooks::default()]);
}

#[test]
fn dormant_tables_reject_nothing() {
    let mut reader = Reader::default();
    reader.table(Message {
        family: INET,
        attributes: &[text(1, "filter"), number(2, 1)].concat(),
        ..Message::default()
    });
    rule(&mut reader, INET, "input", 1, &[reject(1)]);
    assert_eq!(reader.finish().0, []);
}

/// Attributes that end early, and lengths that lie.
#[test]
fn broken_messages_are_no_rules() {
    let whole = [text(1, "filter"), text(2, "input"), attribute(4, &[reject(1), target("REJECT", &[7])].concat())];
    let whole = whole.concat();
    for cut in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[cut] ^= 0xff;
        for attributes in [&whole[..cut], &damaged] {
            let mut reader = Reader::default();
            let message = Message { family: INET, attributes, ..Message::default() };
            reader.table(message);
            reader.chain(message);
            reader.rule(message);
            assert!(reader.finish().0.len() <= 1);
        }
    }
}
