//! Dumps as the kernel sends them, put together by hand: what nft and iptables-nft write for a rule can be seen with
//! `nft --debug=netlink list ruleset`.

use rstest::rstest;

use tracer_model::ruleset::audit::Translation;
use tracer_model::ruleset::tables::{Action, Base, ChainKind, Condition, Element, Field, Nat, Ruleset, Step};
use tracer_model::ruleset::{Backend, Key, Test};

use super::whole::Reader;
use crate::nfnetlink::{Message, put as attribute};

const INET: u8 = 1;
const IPV4: u8 = 2;
const BRIDGE: u8 = 7;
const IPV6: u8 = 10;
const NETDEV: u8 = 5;
const INTERVAL: u32 = 4;
const MAP: u32 = 8;
const CONCAT: u32 = 0x80;
const ANONYMOUS: u32 = 1;

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

fn message(family: u8, attributes: &[u8]) -> Message<'_> {
    Message { family, attributes, ..Message::default() }
}

/// A table with one chain, its sets and rules; all sets that rules name have the same elements.
struct Dumps {
    family: u8,
    table: &'static str,
    reader: Reader,
}

impl Dumps {
    fn new(family: u8, table: &'static str, flags: u32) -> Self {
        let mut reader = Reader::default();
        reader.table(message(family, &[text(1, table), number(2, flags)].concat()));
        Self { family, table, reader }
    }

    fn chain(mut self, name: &str, hook: Option<(u32, i32)>, kind: &str, policy: u32) -> Self {
        let hook = hook.map(|(hook, priority)| [number(1, hook), number(2, priority.cast_unsigned())].concat());
        let hook = hook.map(|hook| attribute(4, &hook)).unwrap_or_default();
        let all = [text(1, self.table), text(3, name), hook, number(5, policy), text(7, kind)].concat();
        self.reader.chain(message(self.family, &all));
        self
    }

    fn set(mut self, name: &str, flags: u32, key: u32, data: u32) -> Self {
        let all = [text(1, self.table), text(2, name), number(3, flags), number(5, key), number(7, data)].concat();
        self.reader.set(message(self.family, &all));
        self
    }

    fn rule(mut self, chain: &str, expressions: &[Vec<u8>]) -> Self {
        let list = attribute(4, &expressions.concat());
        let all = [text(1, self.table), text(2, chain), attribute(3, &7u64.to_be_bytes()), list].concat();
        self.reader.rule(message(self.family, &all));
        self
    }

    fn elements(mut self, elements: &[Vec<u8>]) -> Self {
        self.reader.take(message(self.family, &attribute(3, &elements.concat())));
        self
    }

    fn read(self) -> Ruleset {
        self.reader.finish()
    }
}

/// A chain at INPUT.
fn input(family: u8) -> Dumps {
    Dumps::new(family, "t", 0).chain("input", Some((1, 0)), "filter", 1)
}

/// The steps of a rule, and its words.
fn steps(family: u8, expressions: &[Vec<u8>]) -> (Vec<Step>, String) {
    let mut ruleset = input(family).rule("input", expressions).read();
    let rule = ruleset.tables[0].chains[0].rules.remove(0);
    (rule.steps, rule.text)
}

fn is(key: Key, mask: &[u8], from: &[u8], to: &[u8], inside: bool) -> Step {
    let bounds = vec![(from.to_vec(), to.to_vec())];
    Step::If(Condition::Is(Test { key, mask: mask.to_vec(), bounds, inside }))
}

fn varies(text: &str) -> Step {
    Step::If(Condition::Varies(text.to_owned()))
}

fn usually(text: &str) -> Step {
    Step::If(Condition::Usually(text.to_owned()))
}

fn unknown(text: &str) -> Step {
    Step::If(Condition::NotUnderstood(text.to_owned()))
}

fn nothing(text: &str) -> Step {
    Step::Do(Action::Nothing(text.to_owned()))
}

fn tracked() -> Step {
    Step::If(Condition::Is(Test::state(0x41, true)))
}

fn ct(key: u32) -> Vec<u8> {
    expression("ct", &[number(2, key), number(1, 1)])
}

fn hton(length: u32) -> Vec<u8> {
    expression("byteorder", &[number(1, 1), number(2, 1), number(3, 1), number(4, length), number(5, length)])
}

fn host(value: u32) -> Vec<u8> {
    value.to_ne_bytes().to_vec()
}

fn fib(result: u32, flags: u32) -> Vec<u8> {
    expression("fib", &[number(1, 1), number(2, result), number(3, flags)])
}

fn verdict(code: i32) -> Vec<u8> {
    expression("immediate", &[number(1, 0), attribute(2, &attribute(2, &number(1, code.cast_unsigned())))])
}

fn constant(register: u32, bytes: &[u8]) -> Vec<u8> {
    expression("immediate", &[number(1, register), value(2, bytes)])
}

fn lookup(set: &str, parts: &[Vec<u8>]) -> Vec<u8> {
    expression("lookup", &[&[text(1, set), number(2, 1)], parts].concat())
}

fn source(inside: bool) -> Key {
    Key::AddressType { source: inside, interface: false }
}

const PORT: Key = Key::TransportHeader { offset: 2 };

#[rstest]
#[case::mark(&[meta(3), cmp(0, &host(5))], is(Key::Mark, &[], &[0, 0, 0, 5], &[0, 0, 0, 5], true), "meta mark 0x00000005")]
#[case::mark_masked(&[meta(3), bitwise(&host(0xff)), cmp(1, &host(5))],
    is(Key::Mark, &[0, 0, 0, 0xff], &[0, 0, 0, 5], &[0, 0, 0, 5], false), "meta mark & 0x000000ff != 0x00000005")]
#[case::length(&[meta(0), hton(4), cmp(5, &[0, 0, 0, 40]), cmp(3, &[0, 0, 0, 100])],
    is(Key::Length, &[], &[0, 0, 0, 40], &[0, 0, 0, 100], true), "meta length 40-100")]
#[case::index(&[meta(4), cmp(1, &host(3))], is(Key::InputIndex, &[], &[0, 0, 0, 3], &[0, 0, 0, 3], false), "iif != 3")]
#[case::name(&[meta(6), cmp(0, b"eth")], is(Key::InputName, &[], b"eth", b"eth", true), "iifname \"eth*\"")]
#[case::packet_type(&[meta(19), cmp(0, &[1])], is(Key::PacketType, &[], &[1], &[1], true), "meta pkttype broadcast")]
#[case::user(&[meta(10), cmp(0, &host(1000))], is(Key::Socket, &[], &[0, 0, 3, 232], &[0, 0, 3, 232], true), "meta skuid 1000")]
#[case::ipsec(&[meta(25), cmp(0, &[1])], is(Key::Ipsec, &[], &[1], &[1], true), "meta ipsec exists")]
#[case::invalid(&[ct(0), bitwise(&host(1)), cmp(1, &host(0))], Step::If(Condition::Is(Test::state(1, false))), "ct state invalid")]
#[case::connection_mark(&[ct(3), cmp(0, &host(1))], is(Key::ConnectionMark, &[], &[0, 0, 0, 1], &[0, 0, 0, 1], true),
    "ct mark 0x00000001")]
#[case::dnat(&[ct(2), bitwise(&host(0x20)), cmp(1, &host(0))],
    is(Key::ConnectionStatus, &[0, 0, 0, 0x20], &[0; 4], &[0; 4], false), "ct status dnat")]
#[case::direction(&[ct(1), cmp(0, &[1])], is(Key::ConnectionDirection, &[], &[1], &[1], true), "ct direction reply")]
#[case::original_address(&[expression("ct", &[number(2, 19), number(1, 1), attribute(3, &[0])]), cmp(0, &[10, 0, 0, 1])],
    is(Key::Connection, &[], &[10, 0, 0, 1], &[10, 0, 0, 1], true), "ct original ip saddr 10.0.0.1")]
#[case::ethernet(&[payload(0, 6, 6), cmp(0, &[1; 6])], is(Key::LinkHeader { offset: 6 }, &[], &[1; 6], &[1; 6], true),
    "ether saddr 0x010101010101")]
#[case::above(&[payload(2, 2, 2), cmp(4, &[4, 0])], is(PORT, &[], &[0, 0], &[4, 0], false), "th dport != 0-1024")]
#[case::range(&[payload(2, 2, 2), expression("range", &[number(1, 1), number(2, 1), value(3, &[0, 1]), value(4, &[4, 0])])],
    is(PORT, &[], &[0, 1], &[4, 0], false), "th dport != 1-1024")]
#[case::turned_over(&[meta(3), expression("bitwise", &[number(1, 1), number(2, 1), number(3, 4), value(4, &host(0xf0)), value(5, &host(0x30))]), cmp(0, &host(0x10))],
    is(Key::Mark, &[0, 0, 0, 0xf0], &[0, 0, 0, 0x20], &[0, 0, 0, 0x20], true), "meta mark & 0x000000f0 == 0x00000020")]
#[case::or_of_a_register(&[meta(3), constant(2, &host(1)), expression("bitwise", &[number(1, 1), number(2, 1), number(3, 4), number(6, 4), number(8, 2)]), cmp(0, &host(3))],
    is(Key::Mark, &[0xff, 0xff, 0xff, 0xfe], &[0, 0, 0, 2], &[0, 0, 0, 2], true), "meta mark & 0xfffffffe == 0x00000002")]
#[case::local(&[fib(3, 2), cmp(0, &host(2))], is(source(false), &[], &[0, 0, 0, 2], &[0, 0, 0, 2], true), "fib daddr type local")]
#[case::source_by_interface(&[fib(3, 9), cmp(1, &host(2))],
    is(Key::AddressType { source: true, interface: true }, &[], &[0, 0, 0, 2], &[0, 0, 0, 2], false),
    "fib saddr . iif type != local")]
#[case::no_route_back(&[fib(1, 9), cmp(0, &host(0))], is(Key::ReversePath, &[], &[0], &[0], true), "fib saddr . iif oif 0")]
#[case::missing(&[fib(1, 0x29), cmp(0, &[0])], is(Key::ReversePath, &[], &[0], &[0], true), "fib saddr . iif oif missing")]
#[case::exists(&[fib(1, 0x2d), cmp(0, &[1, 0, 0, 0])], is(Key::ReversePath, &[], &[1], &[1], true),
    "fib saddr . mark . iif oif exists")]
#[case::another_interface(&[fib(1, 9), cmp(0, &host(3))], unknown("fib saddr . iif oif 3"), "fib saddr . iif oif 3")]
#[case::transparent(&[expression("socket", &[number(1, 0), number(2, 1)]), cmp(0, &[1])],
    is(Key::Socket, &[], &[1], &[1], true), "socket transparent 1")]
#[case::group(&[meta(21), cmp(0, &host(5))], unknown("meta iifgroup 5"), "meta iifgroup 5")]
#[case::hour(&[meta(32), hton(4), cmp(5, &[0, 0, 0, 9])], varies("meta hour >= 9"), "meta hour >= 9")]
#[case::option(&[expression("exthdr", &[number(1, 1), attribute(2, &[2]), number(4, 1), number(5, 1), number(6, 1)]), cmp(0, &[1])],
    varies("tcp option maxseg 1"), "tcp option maxseg 1")]
#[case::shifted(&[meta(3), expression("bitwise", &[number(1, 1), number(2, 1), number(3, 4), number(6, 2), value(7, &host(4))]), cmp(0, &host(3))],
    unknown("meta mark >> 4 3"), "meta mark >> 4 3")]
#[case::rate(&[expression("limit", &[attribute(1, &25u64.to_be_bytes()), attribute(2, &1u64.to_be_bytes())])],
    usually("limit rate 25/second"), "limit rate 25/second")]
#[case::over(&[expression("connlimit", &[number(1, 10), number(2, 1)])], Step::If(Condition::Not(Box::new(Condition::Usually("ct count over 10".to_owned())))), "ct count over 10")]
#[case::quota(&[expression("quota", &[attribute(1, &9u64.to_be_bytes()), number(2, 0)])], varies("quota 9 bytes"), "quota 9 bytes")]
#[case::meter(&[payload(1, 12, 4), expression("dynset", &[text(1, "m"), number(3, 1), number(4, 1), attribute(7, &text(1, "limit"))])],
    usually("update @m { … limit }"), "update @m { … limit }")]
#[case::named_limit(&[expression("objref", &[number(1, 4), text(2, "slow")])], varies("limit name slow"), "limit name slow")]
#[case::of_a_set_that_is_not_known(&[payload(2, 2, 2), lookup("blocked", &[])], unknown("@blocked"), "@blocked")]
#[case::far_away(&[payload(1, u32::MAX, u32::MAX), cmp(0, &[1])], unknown("[register] 1"), "[register] 1")]
#[case::of_an_empty_register(&[cmp(0, &[1])], unknown("[register] 1"), "[register] 1")]
#[case::longer_than_loaded(&[payload(2, 2, 2), cmp(0, &[1, 187, 0])], unknown("tcp dport 113408"), "th dport 113408")]
fn what_is_asked(#[case] expressions: &[Vec<u8>], #[case] expected: Step, #[case] words: &str) {
    let rule = [expressions, &[verdict(0)]].concat();
    assert_eq!(steps(INET, &rule), (vec![expected, Step::Do(Action::Drop)], format!("{words} drop")));
}

#[rstest]
#[case::accept(&[verdict(1)], &[Step::Do(Action::Accept)], "accept")]
#[case::returns(&[verdict(-5)], &[Step::Do(Action::Return)], "return")]
#[case::jumps(&[jump("x"), verdict(0)], &[Step::Do(Action::Jump("x".to_owned()))], "jump x")]
#[case::goes_on(&[verdict(-1), verdict(0)], &[nothing("continue"), Step::Do(Action::Drop)], "continue drop")]
#[case::stops(&[verdict(-2), verdict(0)], &[Step::If(Condition::Constant(false))], "")]
#[case::reset(&[reject(1), verdict(0)], &[Step::Do(Action::RejectWithReset)], "reject with tcp reset")]
#[case::icmp(&[reject(0)], &[Step::Do(Action::RejectWithIcmp)], "reject")]
#[case::icmpx(&[reject(2)], &[Step::Do(Action::RejectWithIcmp)], "reject")]
#[case::queue(&[expression("queue", &[attribute(1, &[0, 1]), attribute(3, &[0, 1])])],
    &[Step::Do(Action::Queue { bypass: true })], "queue flags bypass")]
#[case::untracked(&[expression("notrack", &[]), verdict(1)], &[Step::Do(Action::Untrack), Step::Do(Action::Accept)], "notrack accept")]
#[case::counts(&[counter(5), expression("log", &[])], &[nothing("counter"), nothing("log")], "counter log")]
#[case::synproxy(&[expression("synproxy", &[])], &[Step::Do(Action::Synproxy)], "synproxy")]
#[case::tproxy(&[expression("tproxy", &[])], &[Step::Do(Action::Tproxy)], "tproxy")]
#[case::forwarded(&[expression("fwd", &[])], &[Step::Do(Action::NotUnderstood("fwd".to_owned()))], "fwd")]
#[case::later(&[expression("wormhole", &[]), verdict(0)],
    &[Step::Do(Action::NotUnderstood("[wormhole]".to_owned())), Step::Do(Action::Drop)], "[wormhole] drop")]
#[case::offloaded(&[expression("flow_offload", &[text(1, "f")]), counter(0), verdict(1)],
    &[tracked(), Step::Do(Action::Offload { flowtable: "f".to_owned() }), nothing("counter"), varies("flow add @f"), Step::Do(Action::Accept)],
    "flow add @f counter accept")]
#[case::mark(&[constant(1, &host(7)), expression("meta", &[number(2, 3), number(3, 1)])],
    &[Step::Do(Action::Mark { and: 0, xor: 7 })], "meta mark set 0x7")]
#[case::part_of_the_mark(&[meta(3), bitwise(&host(0xff)), expression("meta", &[number(2, 3), number(3, 1)])],
    &[Step::Do(Action::Mark { and: 0xff, xor: 0 })], "meta mark set meta mark & 0xff")]
#[case::mark_of_the_connection(&[ct(3), expression("meta", &[number(2, 3), number(3, 1)])],
    &[tracked(), Step::Do(Action::MarkUnknown)], "meta mark set ct mark")]
#[case::priority(&[constant(1, &host(7)), expression("meta", &[number(2, 2), number(3, 1)])],
    &[nothing("meta priority set")], "meta priority set")]
#[case::packet_type(&[constant(1, &[0]), expression("meta", &[number(2, 19), number(3, 1)])],
    &[Step::Do(Action::NotUnderstood("meta pkttype set".to_owned()))], "meta pkttype set")]
#[case::connection_mark(&[meta(3), expression("ct", &[number(2, 3), number(4, 1)])], &[nothing("ct mark set")], "ct mark set")]
#[case::zone(&[constant(1, &[1, 0]), expression("ct", &[number(2, 17), number(4, 1)])],
    &[Step::Do(Action::NotUnderstood("ct zone set".to_owned()))], "ct zone set")]
#[case::option(&[constant(1, &[5, 0]), expression("exthdr", &[attribute(2, &[2]), number(4, 2), number(6, 1), number(7, 1)])],
    &[nothing("tcp option maxseg set")], "tcp option maxseg set")]
#[case::port(&[constant(1, &[0, 80]), expression("payload", &[number(2, 2), number(3, 2), number(4, 2), number(5, 1)])],
    &[Step::Do(Action::NotUnderstood("@th,16,16 set".to_owned()))], "@th,16,16 set")]
#[case::added(&[payload(1, 12, 4), expression("dynset", &[text(1, "m"), number(3, 0), number(4, 1)]), verdict(0)],
    &[nothing("add @m { … }"), Step::Do(Action::Drop)], "add @m { … } drop")]
#[case::named_counter(&[expression("objref", &[number(1, 1), text(2, "c")])], &[nothing("counter name c")], "counter name c")]
#[case::masquerades(&[meta(7), cmp(0, b"wan\0"), constant(1, &[4, 0]), constant(2, &[7, 208]), expression("masq", &[number(2, 1), number(3, 2)])],
    &[is(Key::OutputName, &[], b"wan\0", b"wan\0", true), Step::Do(Action::Nat(Nat::Masquerade(Translation {
        to: Vec::new(), ports: Some(1024..=2000), output: Some("wan".to_owned()) })))],
    "oifname \"wan\" masquerade to :1024-2000")]
#[case::redirects(&[constant(1, &[31, 144]), expression("redir", &[number(1, 1)])],
    &[Step::Do(Action::Nat(Nat::Redirect(Translation { ports: Some(8080..=8080), ..Translation::default() })))],
    "redirect to :8080")]
#[case::of_one_family(&[constant(1, &[192, 0, 2, 1]), expression("nat", &[number(1, 1), number(2, 2), number(3, 1)])],
    &[is(Key::Family, &[], &[2], &[2], true), Step::Do(Action::Nat(Nat::Destination(Translation {
        to: vec!["192.0.2.1".parse().unwrap()..="192.0.2.1".parse().unwrap()], ..Translation::default() })))],
    "dnat to 192.0.2.1")]
fn what_is_done(#[case] expressions: &[Vec<u8>], #[case] expected: &[Step], #[case] words: &str) {
    assert_eq!(steps(INET, expressions), (expected.to_vec(), words.to_owned()));
}

/// `ip ttl set` changes nothing that is looked at; in a table of both families the same bytes are an address of IPv6.
#[test]
fn a_header_is_changed() {
    let set = [constant(1, &[5, 6]), expression("payload", &[number(2, 1), number(3, 8), number(4, 2), number(5, 1)])];
    let harmless = nothing("@nh,64,16 set");
    let asked = [&[meta(15), cmp(0, &[2])], &set[..]].concat();
    assert_eq!(steps(IPV4, &set).0, std::slice::from_ref(&harmless));
    assert_eq!(steps(INET, &asked).0.pop(), Some(harmless));
    for family in [INET, IPV6] {
        assert_eq!(steps(family, &set).0, [Step::Do(Action::NotUnderstood("@nh,64,16 set".to_owned()))]);
    }
}

/// nft loads the source and the destination at once.
#[test]
fn fields_side_by_side_are_two_tests() {
    let (steps, text) = steps(INET, &[payload(2, 0, 4), cmp(0, &[0, 5, 0, 6])]);
    let source = Key::TransportHeader { offset: 0 };
    assert_eq!(steps, [is(source, &[], &[0, 5], &[0, 5], true), is(PORT, &[], &[0, 6], &[0, 6], true)]);
    assert_eq!(text, "th sport 5 th dport 6");
}

#[test]
fn counters_and_handles_are_kept() {
    let ruleset = input(INET).rule("input", &[counter(5), verdict(0)]).read();
    let rule = &ruleset.tables[0].chains[0].rules[0];
    assert_eq!((rule.handle, rule.packets, rule.by_iptables), (Some(7), Some(5), false));
}

fn element(key: &[u8], flags: u32, more: &[Vec<u8>]) -> Vec<u8> {
    let key = if key.is_empty() { Vec::new() } else { attribute(1, &attribute(1, key)) };
    attribute(1, &[key, attribute(3, &flags.to_be_bytes()), more.concat()].concat())
}

fn leads(code: i32, chain: &str) -> Vec<u8> {
    let chain = if chain.is_empty() { Vec::new() } else { text(2, chain) };
    attribute(2, &attribute(2, &[number(1, code.cast_unsigned()), chain].concat()))
}

fn known(from: &[u8], to: &[u8], verdict: Option<Action>) -> Element {
    Element { from: from.to_vec(), to: to.to_vec(), verdict }
}

fn field(key: Key, length: usize) -> Field {
    Field { key, length, mask: Vec::new(), native: false }
}

#[test]
fn an_anonymous_set_of_intervals() {
    // 0 – 79 nothing, 80, 81 – 442 nothing, 443 – 445, then nothing; 1024 and all behind it.
    let keys = [(0u16, 1), (80, 0), (81, 1), (443, 0), (446, 1), (1024, 0)];
    let elements = keys.map(|(key, flags)| element(&key.to_be_bytes(), flags, &[]));
    let ruleset = input(INET)
        .set("__set0", INTERVAL | ANONYMOUS, 2, 0)
        .rule("input", &[payload(2, 2, 2), lookup("__set0", &[number(5, 1)]), verdict(0)])
        .elements(&elements)
        .read();
    let table = &ruleset.tables[0];
    let rule = &table.chains[0].rules[0];
    let of = vec![field(PORT, 2)];
    let expected = Step::If(Condition::Element { of, set: "__set0".to_owned(), inside: false });
    assert_eq!(rule.steps, [expected, Step::Do(Action::Drop)]);
    assert_eq!(rule.text, "th dport != { 80, 443-445, 1024-65535 } drop");
    let bounds =
        [known(&[0, 80], &[0, 80], None), known(&[1, 187], &[1, 189], None), known(&[4, 0], &[255, 255], None)];
    assert_eq!((&table.sets[0].elements[..], table.sets[0].complete), (&bounds[..], true));
}

/// In a map intervals may follow one another without an end between them.
#[test]
fn a_verdict_map_of_intervals() {
    let elements = [
        element(&[10, 0, 0, 0], 0, &[leads(0, "")]),
        element(&[11, 0, 0, 0], 0, &[leads(-4, "x")]),
        element(&[12, 0, 0, 0], 1, &[]),
        element(&[], 2, &[leads(-5, "")]),
    ];
    let ruleset = input(IPV4)
        .set("__map0", INTERVAL | MAP | ANONYMOUS, 4, 0)
        .rule("input", &[payload(1, 12, 4), lookup("__map0", &[number(3, 0)])])
        .elements(&elements)
        .read();
    let table = &ruleset.tables[0];
    let of = vec![field(Key::NetworkHeader { offset: 12 }, 4)];
    let rule = &table.chains[0].rules[0];
    assert_eq!(rule.steps, [Step::Do(Action::VerdictMap { of, map: "__map0".to_owned() })]);
    assert_eq!(rule.text, "ip saddr vmap { 10.0.0.0/8 : drop, 11.0.0.0/8 : goto x, * : return }");
    let expected = [
        known(&[10, 0, 0, 0], &[10, 255, 255, 255], Some(Action::Drop)),
        known(&[11, 0, 0, 0], &[11, 255, 255, 255], Some(Action::Goto("x".to_owned()))),
        known(&[], &[], Some(Action::Return)),
    ];
    assert_eq!(table.sets[0].elements, expected);
}

#[test]
fn concatenated_fields() {
    let end = |key: &[u8]| attribute(10, &attribute(1, key));
    let elements = [
        element(&[1, 0, 0, 0, 10, 0, 0, 0, 0, 80, 0, 0], 0, &[end(&[1, 0, 0, 0, 10, 255, 255, 255, 0, 90, 0, 0])]),
        element(&[2, 0, 0, 0, 10, 0, 0, 1, 0, 22, 0, 0], 0, &[]),
    ];
    let load = |register: u32, base: u32, offset: u32, length: u32| {
        expression("payload", &[number(1, register), number(2, base), number(3, offset), number(4, length)])
    };
    let mark = expression("meta", &[number(2, 3), number(1, 8)]);
    let masked = [number(1, 8), number(2, 8), number(3, 4), value(4, &host(0x3)), value(5, &host(0))];
    let expressions =
        [mark, expression("bitwise", &masked), load(9, 1, 12, 4), load(10, 2, 2, 2), lookup("s", &[]), verdict(1)];
    let ruleset = input(IPV4).set("s", INTERVAL | CONCAT, 12, 0).rule("input", &expressions).elements(&elements).read();
    let of = vec![
        Field { mask: vec![0, 0, 0, 3], native: true, ..field(Key::Mark, 4) },
        field(Key::NetworkHeader { offset: 12 }, 4),
        field(PORT, 2),
    ];
    let table = &ruleset.tables[0];
    let rule = &table.chains[0].rules[0];
    assert_eq!(rule.steps[0], Step::If(Condition::Element { of, set: "s".to_owned(), inside: true }));
    assert_eq!(rule.text, "meta mark . ip saddr . th dport @s accept");
    assert_eq!(table.sets[0].elements[0].to, [1, 0, 0, 0, 10, 255, 255, 255, 0, 90, 0, 0]);
    assert_eq!(table.sets[0].elements[1].to, table.sets[0].elements[1].from);
}

/// A map leaves something unknown behind; a key that it does not have ends the rule.
#[test]
fn maps_of_values() {
    let map = || input(IPV4).set("m", MAP, 4, 4);
    let found = Step::If(Condition::Element {
        of: vec![field(Key::NetworkHeader { offset: 12 }, 4)],
        set: "m".to_owned(),
        inside: true,
    });
    let into = |more: &[Vec<u8>]| {
        let expressions = [&[payload(1, 12, 4), lookup("m", &[number(3, 1)])], more].concat();
        let rule = map().rule("input", &expressions).read().tables[0].chains[0].rules.remove(0);
        (rule.steps, rule.text)
    };
    let (steps, text) = into(&[expression("meta", &[number(2, 3), number(3, 1)])]);
    assert_eq!(steps, [found.clone(), Step::Do(Action::MarkUnknown)]);
    assert_eq!(text, "meta mark set ip saddr map @m");
    let (steps, text) = into(&[expression("nat", &[number(1, 1), number(2, 2), number(3, 1)])]);
    assert_eq!(steps, [found.clone(), Step::Do(Action::Nat(Nat::Destination(Translation::default())))]);
    assert_eq!(text, "dnat to ip saddr map @m");
    let (steps, _) = into(&[cmp(0, &[0, 0, 0, 1]), verdict(0)]);
    assert_eq!(steps, [found, unknown("ip saddr map @m 1"), Step::Do(Action::Drop)]);
}

/// An element may have a rate of its own.
#[test]
fn elements_that_limit() {
    let limit = [attribute(11, &attribute(1, &text(1, "limit")))];
    let ruleset = input(IPV4)
        .set("s", 0, 4, 0)
        .rule("input", &[payload(1, 12, 4), lookup("s", &[]), verdict(0)])
        .elements(&[element(&[10, 0, 0, 1], 0, &limit)])
        .read();
    let steps = &ruleset.tables[0].chains[0].rules[0].steps;
    assert_eq!(steps[0], varies("limit of an element of @s"));
    assert!(matches!(steps[1], Step::If(Condition::Element { .. })), "{steps:?}");
}

/// `numgen random mod 2 vmap { 0 : jump a, 1 : jump b }` always finds one of them.
#[rstest]
#[case(2, true)]
#[case(3, false)]
fn numbers_of_chance(#[case] modulus: u32, #[case] all: bool) {
    let elements = [element(&host(0), 0, &[leads(-3, "a")]), element(&host(1), 0, &[leads(-3, "b")])];
    let numgen = expression("numgen", &[number(1, 1), number(2, modulus), number(3, 1)]);
    let ruleset = input(IPV4)
        .set("__map0", MAP | ANONYMOUS, 4, 0)
        .rule("input", &[numgen, lookup("__map0", &[number(3, 0)])])
        .elements(&elements)
        .read();
    let table = &ruleset.tables[0];
    let text = &table.chains[0].rules[0].text;
    assert_eq!(*text, format!("numgen mod {modulus} vmap {{ 0 : jump a, 1 : jump b }}"));
    assert_eq!(table.sets[0].elements.iter().any(|element| element.from.is_empty()), all);
}

#[test]
fn chains_and_their_hooks() {
    let ruleset = Dumps::new(IPV4, "nat", 0)
        .chain("POSTROUTING", Some((4, 100)), "nat", 1)
        .chain("OUTPUT", Some((3, -150)), "route", 0)
        .chain("user", None, "", 1)
        .rule("POSTROUTING", &[expression("masq", &[])])
        .read();
    let table = &ruleset.tables[0];
    assert_eq!(table.backend, Backend::IptablesNft);
    assert!(table.chains[0].rules[0].by_iptables);
    let bases: Vec<Option<Base>> = table.chains.iter().map(|chain| chain.base).collect();
    let nat = Base { hook: 4, priority: 100, kind: ChainKind::Nat, drops: false };
    let route = Base { hook: 3, priority: -150, kind: ChainKind::Route, drops: true };
    assert_eq!(bases, [Some(nat), Some(route), None]);
}

#[test]
fn rules_of_iptables_nft() {
    let tcp = [&[0u16, u16::MAX, 443, 443].map(u16::to_ne_bytes).concat()[..], &[0; 4]].concat();
    let ruleset = input(IPV4)
        .rule("input", &[xt_match("tcp", 0, &tcp), xt_match("comment", 0, b"why"), target("REJECT", &host(7))])
        .rule("input", &[xt_match("wormhole", 0, &[]), target("WORMHOLE", &[])])
        .rule("input", &[verdict(1)])
        .read();
    let table = &ruleset.tables[0];
    assert_eq!(table.backend, Backend::IptablesNft);
    let rules = &table.chains[0].rules;
    assert_eq!(rules.iter().map(|rule| rule.by_iptables).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(rules[0].steps, [is(PORT, &[], &[1, 187], &[1, 187], true), Step::Do(Action::RejectWithReset)]);
    assert_eq!(rules[0].text, "tcp dport 443 REJECT --reject-with tcp-reset");
    let strange = [unknown("-m wormhole"), Step::Do(Action::NotUnderstood("-j WORMHOLE".to_owned()))];
    assert_eq!(rules[1].steps, strange);
}

#[test]
fn dormant_tables_are_left_out() {
    let dumps = Dumps::new(IPV4, "t", 1).chain("input", Some((1, 0)), "filter", 0).rule("input", &[verdict(0)]);
    assert_eq!(dumps.read(), Ruleset::default());
}

#[rstest]
#[case::jumps_to_a_drop(NETDEV, 0, 1, &[jump("x")], Some("table netdev t chain i filters before conntrack and is not walked"))]
#[case::at_egress(NETDEV, 1, 1, &[jump("x")], Some("table netdev t chain i filters behind POSTROUTING and is not walked"))]
#[case::policy(BRIDGE, 2, 0, &[], Some("table bridge t chain i filters before conntrack and is not walked"))]
#[case::ingress_of_inet(INET, 5, 1, &[verdict(0)], Some("table inet t chain i filters before conntrack and is not walked"))]
#[case::verdict_map(BRIDGE, 2, 1, &[lookup("m", &[number(3, 0)])], Some("table bridge t chain i filters before conntrack and is not walked"))]
#[case::accepts(BRIDGE, 2, 1, &[verdict(1)], None)]
#[case::arp(3, 0, 0, &[verdict(0)], None)]
#[case::an_ordinary_hook(INET, 1, 0, &[verdict(0)], None)]
fn chains_that_are_not_walked(
    #[case] family: u8,
    #[case] hook: u32,
    #[case] policy: u32,
    #[case] rule: &[Vec<u8>],
    #[case] expected: Option<&str>,
) {
    let ruleset = Dumps::new(family, "t", 0)
        .chain("i", Some((hook, 0)), "filter", policy)
        .chain("x", None, "", 1)
        .rule("i", rule)
        .rule("x", &[verdict(0)])
        .read();
    assert_eq!(ruleset.problems.first().map(String::as_str), expected);
    let entered = ruleset.tables.iter().flat_map(|table| &table.chains).filter(|chain| chain.base.is_some()).count();
    assert_eq!(entered, usize::from((family, hook) == (INET, 1)));
}

/// Attributes that end early, and lengths that lie.
#[test]
fn broken_messages_are_read_as_far_as_they_go() {
    let names = [text(1, "t"), text(2, "input"), text(3, "input")].concat();
    let expressions =
        [payload(2, 2, 2), bitwise(&[1, 2]), lookup("s", &[]), target("MARK", &[7; 4]), reject(1)].concat();
    let whole = [names, attribute(4, &expressions)].concat();
    for cut in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[cut] ^= 0xff;
        for attributes in [&whole[..cut], &damaged] {
            let mut reader = Reader::default();
            let message = message(INET, attributes);
            reader.table(message);
            reader.chain(message);
            reader.set(message);
            reader.rule(message);
            reader.take(message);
            let rules: usize =
                reader.finish().tables.iter().flat_map(|table| &table.chains).map(|chain| chain.rules.len()).sum();
            assert!(rules <= 1);
        }
    }
}
