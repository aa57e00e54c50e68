//! Small rulesets, and what becomes of a server's late segment in them.

use rstest::rstest;

use tracer_model::ruleset::audit::Translation;
use tracer_model::ruleset::tables::{
    Action, Base, Chain, ChainKind, ChainRule, Condition, Element, Field, Nat, Ruleset, Set, Step, Table,
};
use tracer_model::ruleset::{Backend, Family, Key, Test};

use crate::{By, Class, Fate, Interface, Path, Reach, Walk, Walker, state};

const PREROUTING: u8 = 0;
const INPUT: u8 = 1;

fn if_(condition: Condition) -> Step {
    Step::If(condition)
}

fn state_is(bits: u32) -> Step {
    if_(Condition::Is(Test::state(bits, false)))
}

fn from(prefix: [u8; 2]) -> Step {
    if_(Condition::Is(Test::is(Key::NetworkHeader { offset: 12 }, prefix.to_vec())))
}

fn marked(mark: u32) -> Step {
    if_(Condition::Is(Test::is(Key::Mark, mark.to_be_bytes().to_vec())))
}

fn obscure() -> Step {
    if_(Condition::NotUnderstood("-m geoip".to_owned()))
}

fn does(action: Action) -> Step {
    Step::Do(action)
}

fn jump(to: &str) -> Step {
    does(Action::Jump(to.to_owned()))
}

fn chain(name: &str, base: Option<(u8, i32, bool)>, rules: Vec<Vec<Step>>) -> Chain {
    let base = base.map(|(hook, priority, drops)| Base { hook, priority, kind: ChainKind::Filter, drops });
    let rule = |(place, steps): (u64, Vec<Step>)| ChainRule {
        handle: Some(place),
        packets: None,
        by_iptables: false,
        text: format!("rule {place} of {name}"),
        steps,
    };
    Chain { name: name.to_owned(), base, rules: (0..).zip(rules).map(rule).collect() }
}

fn ruleset(chains: Vec<Chain>, sets: Vec<Set>) -> Ruleset {
    let table = Table { backend: Backend::Nftables, family: Family::Inet, name: "t".to_owned(), chains, sets };
    Ruleset { tables: vec![table], problems: Vec::new() }
}

fn input(rules: Vec<Vec<Step>>) -> Chain {
    chain("input", Some((INPUT, 0, false)), rules)
}

fn late() -> Class {
    let (server, gateway) = ("203.0.113.9".parse().unwrap(), "192.0.2.1".parse().unwrap());
    Class::new(server, gateway, (443, 47_811), state::INVALID).with_data().from_anywhere().from_any_port().by(
        Path::Input,
        Some(Interface { name: "wan".to_owned(), index: Some(3) }),
        None,
    )
}

fn walk(chains: Vec<Chain>) -> Walk {
    Walker::new(&ruleset(chains, Vec::new())).walk(&late())
}

/// Fates in short: of typical packets as they are, in doubt with a question mark, of others in brackets.
fn short(walk: &Walk) -> Vec<String> {
    let mut all: Vec<String> = walk
        .outcomes
        .iter()
        .map(|outcome| {
            let fate = outcome.fate.name();
            match outcome.reach {
                Reach::Typical => fate.to_owned(),
                Reach::Doubtful => format!("{fate}?"),
                Reach::Others => format!("({fate})"),
            }
        })
        .collect();
    all.dedup();
    all
}

#[rstest]
#[case::no_rules(vec![input(vec![])], &["accepted"])]
#[case::policy(vec![chain("input", Some((INPUT, 0, true)), vec![])], &["dropped"])]
#[case::last_rule_drops(vec![input(vec![vec![state_is(state::ESTABLISHED), does(Action::Accept)], vec![does(Action::Drop)]])],
    &["dropped"])]
#[case::invalid_dropped(vec![input(vec![vec![state_is(state::INVALID), does(Action::Drop)]])], &["dropped"])]
#[case::only_of_some(vec![input(vec![vec![from([10, 0]), state_is(state::INVALID), does(Action::Drop)]])],
    &["accepted", "(dropped)"])]
#[case::all_but_some(vec![input(vec![
    vec![if_(Condition::Is(Test { inside: false, ..Test::is(Key::NetworkHeader { offset: 12 }, vec![10]) })), does(Action::Drop)]])],
    &["dropped", "(accepted)"])]
#[case::a_jump_that_rejects(vec![input(vec![vec![jump("deny")], vec![does(Action::Drop)]]),
    chain("deny", None, vec![vec![does(Action::RejectWithReset)]])], &["reset"])]
#[case::a_jump_comes_back(vec![input(vec![vec![jump("log")], vec![does(Action::Drop)]]),
    chain("log", None, vec![vec![does(Action::Nothing("log".to_owned()))], vec![does(Action::Return)], vec![does(Action::Accept)]])],
    &["dropped"])]
#[case::goto_does_not_come_back(vec![input(vec![vec![jump("a")], vec![does(Action::Drop)]]),
    chain("a", None, vec![vec![does(Action::Goto("b".to_owned()))], vec![does(Action::RejectWithReset)]]),
    chain("b", None, vec![])], &["dropped"])]
#[case::goto_of_a_base_chain_ends_at_its_policy(vec![
    chain("input", Some((INPUT, 0, true)), vec![vec![does(Action::Goto("b".to_owned()))], vec![does(Action::Accept)]]),
    chain("b", None, vec![vec![does(Action::Return)]])], &["dropped"])]
#[case::what_accepts_does_not_end_other_chains(vec![
    chain("early", Some((INPUT, -10, false)), vec![vec![does(Action::Accept)]]), input(vec![vec![does(Action::Drop)]])],
    &["dropped"])]
#[case::obscure(vec![input(vec![vec![obscure(), does(Action::Drop)]])], &["dropped?", "accepted?"])]
#[case::obscure_but_without_effect(vec![input(vec![vec![obscure(), jump("log")], vec![does(Action::Drop)]]),
    chain("log", None, vec![vec![does(Action::Nothing("log".to_owned()))]])], &["dropped"])]
#[case::obscure_but_the_same(vec![input(vec![vec![obscure(), does(Action::Drop)], vec![does(Action::Drop)]])],
    &["dropped?"])]
#[case::obscure_and_something_that_fails(vec![input(vec![vec![obscure(), state_is(state::NEW), does(Action::Drop)]])],
    &["accepted"])]
#[case::obscure_returns(vec![input(vec![vec![jump("a")], vec![does(Action::RejectWithIcmp)]]),
    chain("a", None, vec![vec![obscure(), does(Action::Return)], vec![from([10, 0]), does(Action::Drop)]])],
    &["icmp", "(dropped)"])]
#[case::marks(vec![chain("pre", Some((PREROUTING, -150, false)), vec![vec![does(Action::Mark { and: 0xff00, xor: 5 })]]),
    input(vec![vec![marked(5), does(Action::Drop)]])], &["dropped"])]
#[case::marks_of_some(vec![
    chain("pre", Some((PREROUTING, -150, false)), vec![vec![from([10, 0]), does(Action::Mark { and: 0, xor: 5 })]]),
    input(vec![vec![marked(5), does(Action::Drop)]])], &["accepted", "(dropped)"])]
#[case::marks_in_doubt(vec![
    chain("pre", Some((PREROUTING, -150, false)), vec![vec![obscure(), does(Action::Mark { and: 0, xor: 5 })]]),
    input(vec![vec![marked(5), does(Action::Drop)]])], &["dropped?", "accepted?"])]
#[case::untracked_is_not_invalid(vec![
    chain("raw", Some((PREROUTING, -300, false)), vec![vec![does(Action::Untrack)]]),
    input(vec![vec![state_is(state::INVALID), does(Action::Drop)]])], &["accepted"])]
#[case::before_conntrack_all_are_invalid(vec![
    chain("raw", Some((PREROUTING, -300, false)), vec![vec![state_is(state::INVALID), does(Action::Drop)]])], &["dropped"])]
#[case::an_acknowledgement_without_a_cookie(vec![input(vec![vec![does(Action::Synproxy)]])], &["dropped"])]
#[case::a_rate(vec![input(vec![vec![if_(Condition::Usually("limit".to_owned())), does(Action::Accept)], vec![does(Action::Drop)]])],
    &["accepted", "(dropped)"])]
#[case::without_an_entry(vec![input(vec![
    vec![if_(Condition::Is(Test { inside: false, ..Test::is(Key::ConnectionMark, vec![0, 0, 0, 1]) })), does(Action::Drop)]])],
    &["accepted"])]
#[case::a_loop(vec![input(vec![vec![jump("a")]]), chain("a", None, vec![vec![jump("a")]])], &["unknown"])]
fn fates(#[case] chains: Vec<Chain>, #[case] expected: &[&str]) {
    assert_eq!(short(&walk(chains)), expected);
}

#[test]
fn the_next_packet_of_a_connection_passes_by_chains_of_nat() {
    let mut chain = input(vec![vec![does(Action::Drop)]]);
    chain.base = Some(Base { hook: INPUT, priority: 100, kind: ChainKind::Nat, drops: false });
    let ruleset = ruleset(vec![chain], Vec::new());
    assert_eq!(short(&Walker::new(&ruleset).walk(&late())), ["accepted"]);
    let mut class = late();
    class.state = state::NEW;
    assert_eq!(short(&Walker::new(&ruleset).walk(&class)), ["dropped"]);
}

/// A mark that is set at FORWARD decides about the translation, also where a policy drops other packets there.
#[test]
fn source_nat_sees_what_forward_changes() {
    let masquerades = || does(Action::Nat(Nat::Masquerade(Translation::default())));
    let forward = |mark, drops| chain("forward", Some((2, -150, drops)), vec![vec![mark], vec![does(Action::Accept)]]);
    let mark = || does(Action::Mark { and: 0, xor: 5 });
    let mut post = chain("post", None, vec![vec![marked(5), does(Action::Accept)], vec![masquerades()]]);
    post.base = Some(Base { hook: 4, priority: 100, kind: ChainKind::Nat, drops: false });
    let mut class = late();
    (class.state, class.path, class.output) = (state::NEW, Path::Forward, class.input.clone());
    let translations = |forward| {
        let ruleset = ruleset(vec![forward, post.clone()], Vec::new());
        Walker::new(&ruleset).source_nat(&class).len()
    };
    assert_eq!(translations(forward(mark(), true)), 0);
    assert_eq!(translations(forward(does(Action::Nothing("log".to_owned())), true)), 1);
    // Nothing is forwarded; what would be is translated.
    assert_eq!(translations(forward(does(Action::Drop), true)), 1);
}

#[test]
fn the_rule_that_decides_is_named() {
    let walk = walk(vec![input(vec![vec![from([10, 0]), does(Action::Accept)], vec![does(Action::RejectWithReset)]])]);
    let first = &walk.outcomes[0];
    let By::Rule(rule) = &first.by else { panic!("{first:?}") };
    assert_eq!((first.fate, rule.to_string().as_str()), (Fate::Reset, "inet t input handle 1"));
    assert_eq!(walk.typical(), Some(Fate::Reset));
    assert_eq!(short(&walk), ["reset", "(accepted)"]);
}

#[test]
fn rules_that_are_not_understood_are_named_only_where_they_matter() {
    let named = |chains| walk(chains).unclear.iter().map(|one| one.what.clone()).collect::<Vec<_>>();
    assert_eq!(named(vec![input(vec![vec![obscure(), does(Action::Drop)]])]), ["-m geoip"]);
    let log = chain("log", None, vec![vec![does(Action::Nothing("log".to_owned()))]]);
    assert_eq!(named(vec![input(vec![vec![obscure(), jump("log")]]), log]), Vec::<String>::new());
    let never = vec![state_is(state::NEW), obscure(), does(Action::Drop)];
    assert_eq!(named(vec![input(vec![never])]), Vec::<String>::new());
}

fn element(from: &[u8], to: &[u8], verdict: Option<Action>) -> Element {
    Element { from: from.to_vec(), to: to.to_vec(), verdict }
}

/// `ip saddr . tcp dport vmap { 10.0.0.0/8 . 0-65535 : drop, 203.0.113.9 . 47811 : reject }`
#[test]
fn verdict_maps_of_concatenations() {
    let of = vec![
        Field { key: Key::NetworkHeader { offset: 12 }, length: 4, mask: Vec::new(), native: false },
        Field { key: Key::TransportHeader { offset: 2 }, length: 2, mask: Vec::new(), native: false },
    ];
    let elements = vec![
        element(&[10, 0, 0, 0, 0, 0, 0, 0], &[10, 255, 255, 255, 255, 255, 0, 0], Some(Action::Drop)),
        element(
            &[203, 0, 113, 9, 0xba, 0xc3, 0, 0],
            &[203, 0, 113, 9, 0xba, 0xc3, 0, 0],
            Some(Action::RejectWithReset),
        ),
    ];
    let sets = vec![Set { name: "m".to_owned(), elements, complete: true }];
    let rule = vec![does(Action::VerdictMap { of, map: "m".to_owned() })];
    let ruleset = ruleset(vec![input(vec![rule])], sets);
    assert_eq!(short(&Walker::new(&ruleset).walk(&late())), ["reset", "(dropped)", "(accepted)"]);
}

#[test]
fn sets() {
    let of = vec![Field { key: Key::TransportHeader { offset: 2 }, length: 2, mask: Vec::new(), native: false }];
    let rule =
        |inside| vec![if_(Condition::Element { of: of.clone(), set: "s".to_owned(), inside }), does(Action::Drop)];
    let set = |from: u16, to: u16, complete| Set {
        name: "s".to_owned(),
        elements: vec![element(&from.to_be_bytes(), &to.to_be_bytes(), None)],
        complete,
    };
    let fates = |inside, set| {
        let ruleset = ruleset(vec![input(vec![rule(inside)])], vec![set]);
        short(&Walker::new(&ruleset).walk(&late()))
    };
    assert_eq!(fates(true, set(1024, 65535, true)), ["dropped"]);
    assert_eq!(fates(true, set(22, 443, true)), ["accepted"]);
    assert_eq!(fates(false, set(22, 443, true)), ["dropped"]);
    assert_eq!(fates(true, set(22, 443, false)), ["dropped?", "accepted?"]);
}

/// The packet of an event is walked as far as the event shows it.
#[test]
fn packets_of_events() {
    use tracer_common::Hook;
    use tracer_testing::{Build, REPLY};
    let event = Build::from_server(Hook::RejectV4, 1, 1, 1_000, 2_000).at(1).entry(REPLY, 5, 6).event();
    let Some(class) = Class::of(&event) else { panic!("{event:?}") };
    let port =
        |port: u16| if_(Condition::Is(Test::is(Key::TransportHeader { offset: 0 }, port.to_be_bytes().to_vec())));
    let rejects = || does(Action::RejectWithReset);
    let ruleset = ruleset(
        vec![
            input(vec![vec![port(80), rejects()], vec![port(443), jump("web")], vec![rejects()]]),
            chain(
                "web",
                None,
                vec![vec![state_is(state::INVALID), rejects()], vec![state_is(state::ESTABLISHED), rejects()]],
            ),
        ],
        Vec::new(),
    );
    let walk = Walker::new(&ruleset).walk(&class);
    assert_eq!(short(&walk), ["reset"]);
    let By::Rule(rule) = &walk.outcomes[0].by else { panic!("{walk:?}") };
    assert_eq!(rule.to_string(), "inet t web handle 1");
}
