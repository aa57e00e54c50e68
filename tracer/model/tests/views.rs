//! What is taken out of a whole ruleset: the rules that reject with a RST, and those that matter to tracked connections.

use tracer_model::ruleset::audit::{Does, Translation};
use tracer_model::ruleset::tables::{
    Action, Base, Chain, ChainKind, ChainRule, Condition, Element, Field, Nat, Ruleset, Set, Step, Table,
};
use tracer_model::ruleset::{Backend, Family, Hooks, Key, Rules, Test};
use tracer_model::time::Instant;

const DPORT: Key = Key::TransportHeader { offset: 2 };

fn chain(name: &str, hook: Option<u8>, drops: bool, rules: Vec<Vec<Step>>) -> Chain {
    let base = hook.map(|hook| Base { hook, priority: 0, kind: ChainKind::Filter, drops });
    let rule = |(number, steps): (u64, Vec<Step>)| ChainRule {
        handle: Some(number),
        packets: Some(number),
        by_iptables: false,
        text: String::new(),
        steps,
    };
    Chain { name: name.to_owned(), base, rules: (1..).zip(rules).map(rule).collect() }
}

fn ruleset(chains: Vec<Chain>, sets: Vec<Set>) -> Ruleset {
    let table = Table { backend: Backend::Nftables, family: Family::Inet, name: "t".to_owned(), chains, sets };
    Ruleset { tables: vec![table], problems: vec!["half of it".to_owned()] }
}

fn rejecting(ruleset: &Ruleset) -> Rules {
    let mut rules = Rules {
        netns: 1,
        began: Instant(0),
        at: Instant(0),
        generation: None,
        bridged: false,
        rules: Vec::new(),
        problems: Vec::new(),
        whole: None,
    };
    ruleset.rejecting(&mut rules);
    rules
}

fn is(test: Test) -> Step {
    Step::If(Condition::Is(test))
}

fn port(port: u16) -> Test {
    Test::is(DPORT, port.to_be_bytes().to_vec())
}

fn element(port: u16, verdict: Option<Action>) -> Element {
    Element { from: port.to_be_bytes().to_vec(), to: port.to_be_bytes().to_vec(), verdict }
}

fn ports_in(set: &str) -> Condition {
    let of = vec![Field { key: DPORT, length: 2, mask: Vec::new(), native: false }];
    Condition::Element { of, set: set.to_owned(), inside: true }
}

#[test]
fn rules_that_reject_with_a_rst() {
    let reset = || Step::Do(Action::RejectWithReset);
    let map = Step::Do(Action::VerdictMap {
        of: vec![Field { key: DPORT, length: 2, mask: Vec::new(), native: false }],
        map: "m".to_owned(),
    });
    let sets = vec![
        Set {
            name: "m".to_owned(),
            elements: vec![element(80, Some(Action::Jump("mapped".to_owned())))],
            complete: true,
        },
        Set { name: "s".to_owned(), elements: vec![element(80, None), element(443, None)], complete: true },
        Set { name: "half".to_owned(), elements: vec![element(80, None)], complete: false },
    ];
    let chains = vec![
        chain(
            "input",
            Some(1),
            false,
            vec![
                vec![is(port(22)), reset()],
                vec![Step::If(ports_in("s")), reset()],
                vec![Step::If(ports_in("half")), reset()],
                vec![Step::If(Condition::NotUnderstood("geoip".to_owned())), reset()],
                vec![is(port(25)), Step::Do(Action::RejectWithIcmp)],
                vec![map],
            ],
        ),
        chain("forward", Some(2), false, vec![vec![Step::Do(Action::Goto("deny".to_owned()))]]),
        chain("deny", None, false, vec![vec![reset()]]),
        chain("mapped", None, false, vec![vec![reset()]]),
        chain("unused", None, false, vec![vec![reset()]]),
    ];
    let rules = rejecting(&ruleset(chains, sets));
    let short: Vec<(&str, u32, u8, usize, bool)> = rules
        .rules
        .iter()
        .map(|rule| (rule.chain.as_str(), rule.place, rule.hooks.0, rule.tests.len(), rule.complete))
        .collect();
    assert_eq!(
        short,
        [
            ("input", 0, 1 << 1, 1, true),
            ("input", 1, 1 << 1, 1, true),
            ("input", 2, 1 << 1, 0, false),
            ("input", 3, 1 << 1, 0, false),
            ("deny", 0, 1 << 2, 0, true),
            ("mapped", 0, 1 << 1, 0, true),
            ("unused", 0, 0, 0, true),
        ]
    );
    assert_eq!(rules.rules[1].tests[0].bounds.len(), 2);
    assert_eq!(rules.problems, ["half of it"]);
}

#[test]
fn more_rules_than_a_frame_holds_are_counted() {
    let many = vec![vec![Step::Do(Action::RejectWithReset)]; 300];
    let rules = rejecting(&ruleset(vec![chain("input", Some(1), false, many)], Vec::new()));
    assert_eq!(rules.rules.len(), 256);
    assert_eq!(rules.problems[1], "44 more rules that reject with a RST are not listed");
}

#[test]
fn rules_that_matter_to_tracked_connections() {
    let invalid = || is(Test::state(1, false));
    let wan = Test::is(Key::OutputName, b"wan\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec());
    let chains = vec![
        chain(
            "input",
            Some(1),
            true,
            vec![
                vec![invalid(), Step::Do(Action::Drop)],
                vec![invalid(), Step::Do(Action::RejectWithIcmp)],
                vec![is(Test::state(2, false)), Step::Do(Action::Drop)],
                vec![invalid(), Step::Do(Action::Jump("other".to_owned()))],
            ],
        ),
        chain("other", None, false, vec![vec![Step::Do(Action::Untrack)]]),
        chain(
            "post",
            Some(4),
            false,
            vec![vec![is(wan), Step::Do(Action::Nat(Nat::Masquerade(Translation::default())))]],
        ),
    ];
    let audit = ruleset(chains, Vec::new()).audit(7, Instant(3));
    let found: Vec<(&str, Hooks)> = audit.noted.iter().map(|noted| (noted.does.name(), noted.rule.hooks)).collect();
    let at = Hooks::only;
    assert_eq!(
        found,
        [
            ("drops-invalid", at(1)),
            ("rejects-invalid", at(1)),
            ("sends-invalid", at(1)),
            ("untracks", at(1)),
            ("masquerades", at(4)),
        ]
    );
    let Does::Masquerades(to) = &audit.noted[4].does else { panic!("{audit:?}") };
    assert_eq!(to.output.as_deref(), Some("wan"));
    assert_eq!(audit.drops.len(), 1);
    assert_eq!((audit.netns, audit.problems.len()), (7, 1));
}
