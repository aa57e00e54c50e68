//! Which mitigations are offered, in which order and with which commands: per reason, kernel and host.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;
use rstest::rstest;

use tracer_common::Hook;
use tracer_common::wire::present;
use tracer_engine::Limits;
use tracer_engine::engine::Engine;
use tracer_engine::flow::Flow;
use tracer_model::capture::Netns;
use tracer_model::conntrack::log_format::LogFormat;
use tracer_model::filter::Filter;
use tracer_model::host_context::{
    Dropping, FilterChain, HostContext, Limits as TableLimits, Manager, NetnsPath, Persistence, Translation,
};
use tracer_model::mitigation::{Mitigation, MitigationId, lead};
use tracer_model::ruleset::{Backend, Family, Hooks, Rule};
use tracer_model::shell::word;
use tracer_model::time::Instant;
use tracer_testing::{Build, GATEWAY, REPLY};

use super::{Known, Target, describe, mitigations_for};

const SERVER_END: u32 = 3_271_668_047;
const CLIENT_END: u32 = 2_102_471_179;
const UNDER: &str = "SEQ is under the lower bound (already ACKed data retransmitted)";
const OVER: &str = "SEQ is over the upper bound (over the window of the receiver)";

/// The text of the same message in this conntrack log format.
fn words(build: &Build, log_format: LogFormat, text: &str) -> Build {
    match (log_format, text) {
        (LogFormat::E1 | LogFormat::E2, text) => build.words("%s", text, 0),
        (_, OVER) => {
            build.words("SEQ is over upper bound %u (over the window of the receiver)", "", SERVER_END + 32_122)
        }
        (_, _) => {
            build.words("SEQ is under lower bound %u (already ACKed data retransmitted)", "", SERVER_END - 32_122)
        }
    }
}

/// A segment that conntrack refused `times` times for this reason, and the stack answered.
fn reset(log_format: LogFormat, text: &str, times: u64) -> Flow {
    let seq = if text == OVER { SERVER_END + 100_000 } else { SERVER_END - 900_000 };
    let mut engine = Engine::new(log_format, Limits::default(), Filter::default());
    for skb in 1..=times {
        let of = |hook: Hook, time: u64| Build::from_server(hook, skb, time, seq, CLIENT_END);
        let refused = of(Hook::CtInvalid, 1_000 * skb).entry(REPLY, SERVER_END, CLIENT_END);
        engine.event(words(&refused, log_format, text).event());
        engine.event(of(Hook::ResetV4, 1_000 * skb + 100).event());
    }
    let [flow]: [Box<Flow>; 1] = engine.finish().0.try_into().unwrap();
    *flow
}

/// A connection whose entry expired in this state of the tracker.
fn expired(state: u8) -> Flow {
    let mut engine = Engine::new(LogFormat::E1, Limits::default(), Filter::default());
    let late = Build::from_server(Hook::ResetV4, 1, 9_000, SERVER_END, CLIENT_END);
    let mut late = late.destroyed(1_000, state, 0, 0, 0);
    late.record.nfct = 0;
    engine.event(late.event());
    let [flow]: [Box<Flow>; 1] = engine.finish().0.try_into().unwrap();
    *flow
}

fn facts(sysctls: &[(&str, i64)]) -> Netns {
    let sysctls = sysctls.iter().map(|(name, value)| (format!("nf_conntrack_{name}"), *value)).collect();
    Netns { inode: GATEWAY, name: None, at: Instant(1), entries: Some(1), max: Some(300), invalid: Some(1), sysctls }
}

const DEFAULTS: [(&str, i64); 5] = [
    ("tcp_be_liberal", 0),
    ("tcp_ignore_invalid_rst", 0),
    ("tcp_timeout_established", 432_000),
    ("max", 65_536),
    ("buckets", 16_384),
];

/// A host that translates to 192.0.2.1 on s0 with this.
fn host(backend: Backend) -> HostContext {
    let tools = ["nft", "iptables", "ip6tables", "iptables-legacy", "ip6tables-legacy", "sysctl"];
    HostContext {
        tools: tools.map(str::to_owned).to_vec(),
        iptables: Some(Backend::IptablesNft),
        backends: vec![backend],
        translations: vec![Translation {
            backend,
            family: Family::Ip,
            output: Some("s0".to_owned()),
            to: vec![("192.0.2.1".parse().unwrap(), "192.0.2.1".parse().unwrap())],
        }],
        uplinks: vec!["s0".to_owned()],
        memory: Some(8 << 30),
        xtables: vec![(Family::Ip, "filter".to_owned()), (Family::Ip, "raw".to_owned())],
        xchains: ["INPUT", "FORWARD", "OUTPUT"].map(|it| (Family::Ip, "filter".to_owned(), it.to_owned())).to_vec(),
        limits: TableLimits { max: Some(65_536), buckets: Some(16_384), own: None },
        ..HostContext::unknown(GATEWAY, Instant(1), NetnsPath::Here)
    }
}

fn names(flow: &Flow, log_format: LogFormat, facts: &Netns, context: Option<&HostContext>) -> String {
    let known = Known { facts: Some(facts), context };
    let ids = mitigations_for(flow, log_format, &known, None);
    ids.iter().map(|id| id.name()).collect::<Vec<_>>().join(" ")
}

#[rstest]
#[case::late_copy_on_5_10(LogFormat::E1, UNDER, 1, "upgrade-kernel drop-invalid-input be-liberal")]
#[case::late_copy_on_5_15(LogFormat::E2, UNDER, 1, "upgrade-kernel drop-invalid-input be-liberal")]
#[case::far_ahead_on_5_10(LogFormat::E1, OVER, 1, "drop-invalid-input be-liberal")]
#[case::far_ahead_on_6_1(LogFormat::E4, OVER, 1, "drop-invalid-input be-liberal")]
#[case::half_of_a_connection(LogFormat::E4, OVER, 3, "be-liberal drop-invalid-input")]
#[case::late_copies_are_no_half(LogFormat::E1, UNDER, 3, "upgrade-kernel drop-invalid-input be-liberal")]
fn the_order_of_mitigations(
    #[case] log_format: LogFormat,
    #[case] text: &str,
    #[case] times: u64,
    #[case] expected: &str,
) {
    let flow = reset(log_format, text, times);
    assert_eq!(names(&flow, log_format, &facts(&DEFAULTS), Some(&host(Backend::Nftables))), expected);
    assert_eq!(names(&flow, log_format, &facts(&DEFAULTS), None), expected, "a recording without host context");
}

/// Mitigations that are in force or cannot work here are not offered.
#[test]
fn useless_mitigations_are_not_offered() {
    let flow = reset(LogFormat::E4, OVER, 1);
    let plain = host(Backend::Nftables);
    let with = |change: &dyn Fn(&mut HostContext)| {
        let mut changed = plain.clone();
        change(&mut changed);
        names(&flow, LogFormat::E4, &facts(&DEFAULTS), Some(&changed))
    };
    assert_eq!(names(&flow, LogFormat::E4, &facts(&[("tcp_be_liberal", 1)]), Some(&plain)), "drop-invalid-input");
    let dropping = |input: Option<&str>, destination: Option<&str>, narrow: bool| Dropping {
        rule: "inet filter input handle 4: ct state invalid drop".to_owned(),
        family: Family::Inet,
        input: input.map(str::to_owned),
        destination: destination.map(|it| it.parse().unwrap()),
        narrow,
    };
    for (rule, left) in [
        (dropping(None, None, false), "be-liberal"),
        (dropping(Some("s0"), Some("192.0.2.1"), false), "be-liberal"),
        (dropping(Some("lan0"), None, false), "drop-invalid-input be-liberal"),
        (dropping(None, Some("192.0.2.9"), false), "drop-invalid-input be-liberal"),
        (dropping(None, None, true), "drop-invalid-input be-liberal"),
    ] {
        assert_eq!(with(&|it| it.drops = vec![rule.clone()]), left, "{rule:?}");
    }
    assert_eq!(with(&|it| it.tools.clear()), "be-liberal", "there is no tool to write a rule with");
}

#[test]
fn timeouts() {
    let short = facts(&[("tcp_timeout_established", 300), ("tcp_timeout_close_wait", 60)]);
    assert_eq!(names(&expired(3), LogFormat::E1, &short, None), "raise-timeout keepalive");
    assert_eq!(names(&expired(5), LogFormat::E1, &short, None), "raise-timeout keepalive");
    assert_eq!(names(&expired(3), LogFormat::E1, &facts(&DEFAULTS), None), "keepalive", "five days are long enough");
}

fn target<'a>(facts: &'a Netns, context: &'a HostContext, addresses: &[(&str, &str)]) -> Target<'a> {
    let mut target = Target::new(Some(facts), Some(context), None);
    target.addresses =
        addresses.iter().map(|(on, to)| (Some((*on).to_owned()), to.parse::<IpAddr>().unwrap())).collect();
    target
}

fn lines(mitigation: &Mitigation) -> String {
    let all = [("", &mitigation.commands), ("undo ", &mitigation.undo), ("keep ", &mitigation.persist)];
    all.iter().flat_map(|(label, lines)| lines.iter().map(move |line| format!("{label}{line}\n"))).collect()
}

/// The host, without nft.
fn without_nft(backend: Backend) -> HostContext {
    let mut context = host(backend);
    context.tools.retain(|tool| tool != "nft");
    context
}

#[test]
fn a_rule_is_in_a_table_of_its_own_where_there_is_nft() {
    let facts = facts(&DEFAULTS);
    let of = |context: &HostContext| {
        describe(
            MitigationId::DropInvalidInput,
            &[target(&facts, context, &[("s0", "192.0.2.1"), ("s0", "2001:db8::1")])],
        )
    };
    let batch = "nft 'create table inet whyrst; \
                 create chain inet whyrst input { type filter hook input priority -10; policy accept; }; \
                 add rule inet whyrst input iifname \"s0\" ip daddr 192.0.2.1 meta l4proto tcp ct state invalid counter drop \
                 comment \"whyrst:drop-invalid-input\"; \
                 add rule inet whyrst input iifname \"s0\" ip6 daddr 2001:db8::1 meta l4proto tcp ct state invalid counter drop \
                 comment \"whyrst:drop-invalid-input\"'";
    let nft = HostContext {
        persistence: vec![Persistence::Nftables { file: "/etc/nftables.conf".to_owned() }],
        ..host(Backend::Nftables)
    };
    assert_eq!(
        lines(&of(&nft)),
        format!(
            "{batch}\nundo nft delete table inet whyrst\nkeep nft -s list table inet whyrst > /etc/whyrst.nft\n\
             keep printf '%s\\n' 'include \"/etc/whyrst.nft\"' >> /etc/nftables.conf\n"
        )
    );
    for backend in [Backend::IptablesNft, Backend::IptablesLegacy] {
        for manager in [None, Some(Manager::Ufw)] {
            let mitigation = of(&HostContext { manager, ..host(backend) });
            assert_eq!(mitigation.commands, [batch], "{backend:?} {manager:?}");
            assert_eq!(mitigation.undo, ["nft delete table inet whyrst"]);
        }
    }
    let notes = of(&host(Backend::IptablesNft)).notes.join("\n");
    assert!(notes.contains("which iptables does not list"), "{notes}");
}

#[test]
fn a_rule_is_written_with_what_translates_where_there_is_no_nft() {
    let facts = facts(&DEFAULTS);
    let of = |context: &HostContext| {
        lines(&describe(MitigationId::DropInvalidInput, &[target(&facts, context, &[("s0", "192.0.2.1")])]))
    };
    let rule = "INPUT -i s0 -d 192.0.2.1 -p tcp -m conntrack --ctstate INVALID -m comment --comment \
                whyrst:drop-invalid-input -j DROP";
    let xtables = |program: &str| format!("{program} -w 5 -I {rule}\nundo {program} -w 5 -D {rule}\n");
    assert_eq!(of(&without_nft(Backend::IptablesNft)), xtables("iptables"));
    assert_eq!(of(&without_nft(Backend::IptablesLegacy)), xtables("iptables-legacy"));
    let legacy = HostContext { iptables: Some(Backend::IptablesLegacy), ..without_nft(Backend::IptablesLegacy) };
    assert_eq!(of(&legacy), xtables("iptables"));
    let saved =
        HostContext { persistence: vec![Persistence::NetfilterPersistent], ..without_nft(Backend::IptablesNft) };
    assert_eq!(of(&saved), format!("{}keep netfilter-persistent save\n", xtables("iptables")));
    let ufw = HostContext { manager: Some(Manager::Ufw), ..without_nft(Backend::IptablesNft) };
    assert_eq!(of(&ufw), xtables("iptables"));
    let firewalld = HostContext { manager: Some(Manager::Firewalld), ..host(Backend::Nftables) };
    let rule = rule.replacen("INPUT ", "ipv4 filter INPUT 0 ", 1);
    assert_eq!(
        of(&firewalld),
        format!(
            "firewall-cmd --direct --add-rule {rule}\nundo firewall-cmd --direct --remove-rule {rule}\n\
             keep firewall-cmd --permanent --direct --add-rule {rule}\n"
        )
    );
}

/// Undo keeps the table and chain that iptables created, and a note names them: another rule may be in them by then, and
/// iptables-nft up to 1.8.9 fails to list a table that nft has written to.
#[rstest]
#[case::table(Backend::IptablesNft, true, false, "iptables has no table filter here yet")]
#[case::chain(Backend::IptablesNft, false, true, "iptables has no chain INPUT in its table filter here yet")]
#[case::legacy(Backend::IptablesLegacy, true, true, "iptables-legacy has no table filter here yet")]
fn a_table_that_was_not_there(#[case] backend: Backend, #[case] table: bool, #[case] chain: bool, #[case] note: &str) {
    let facts = facts(&DEFAULTS);
    let mut context = without_nft(backend);
    context.xtables.retain(|_| !table);
    context.xchains.retain(|_| !chain);
    let two = target(&facts, &context, &[("s0", "192.0.2.1"), ("s0", "192.0.2.2")]);
    let mitigation = describe(MitigationId::DropInvalidInput, &[two]);
    assert!(mitigation.undo.iter().all(|line| line.contains(" -D INPUT ")), "{:?}", mitigation.undo);
    assert_eq!(mitigation.undo.len(), 2);
    assert!(mitigation.notes.iter().any(|line| line.starts_with(note)), "{:?}", mitigation.notes);
}

/// A filter chain of the host that an untracked service passes.
fn filter_chain(name: &str, table: &str) -> FilterChain {
    FilterChain { family: Family::Inet, table: table.to_owned(), name: name.to_owned(), hooks: Hooks::only(2) }
}

/// Commands that delete a whole table or chain delete whyrst's own only.
#[test]
fn only_whyrsts_tables_and_chains_are_deleted() {
    const WHOLE: [&str; 7] = ["delete table", "delete chain", "destroy", "flush", " -X", " -F", "--delete-chain"];
    let facts = facts(&DEFAULTS);
    let mut deletions = 0;
    let hosts =
        Backend::ALL.into_iter().flat_map(|backend| [(backend, host(backend)), (backend, without_nft(backend))]);
    for (backend, plain) in hosts {
        for (tables, chains) in [(true, true), (false, true), (true, false)] {
            let mut context = HostContext {
                persistence: vec![Persistence::Nftables { file: "/etc/nftables.conf".to_owned() }],
                chains: vec![filter_chain("forward", "filter")],
                ..plain.clone()
            };
            context.xtables.retain(|_| tables);
            context.xchains.retain(|_| chains);
            let mut at = target(&facts, &context, &[("s0", "192.0.2.1"), ("s0", "192.0.2.2")]);
            at.services = ["198.51.100.7:443".parse().unwrap()].into();
            for id in MitigationId::ALL {
                let Mitigation { commands, undo, persist, unpersist, .. } = describe(id, &[at.clone()]);
                for line in [commands, undo, persist, unpersist].concat() {
                    for (at, what) in WHOLE.iter().flat_map(|what| line.match_indices(what)) {
                        let rest = line[at + what.len()..].split_whitespace().take(2);
                        assert!(rest.into_iter().any(|name| name.starts_with("whyrst")), "{id} on {backend:?}: {line}");
                        deletions += 1;
                    }
                }
            }
        }
    }
    assert!(deletions > 0);
}

/// Malicious names are quoted for the shell, or left out if the tool cannot take them.
#[test]
fn hostile_names() {
    let facts = facts(&DEFAULTS);
    let of = |context: HostContext, way: NetnsPath, interface: &str| {
        let context = HostContext { netns_path: way, ..context };
        describe(MitigationId::DropInvalidInput, &[target(&facts, &context, &[(interface, "192.0.2.1")])])
    };
    let words = |line: &String| shlex::split(line).unwrap();
    for name in ["a;reboot", "$(x)", "it's", "`x`", "a b"] {
        let way = NetnsPath::Named(name.to_owned());
        for line in &of(host(Backend::Nftables), way.clone(), name).commands {
            let words = words(line);
            assert_eq!(words[..5], ["ip", "netns", "exec", name, "nft"], "{line}");
            assert!(words.len() == 6 && words[5].contains(&format!(" iifname \"{name}\" ip daddr ")), "{line}");
        }
        for line in &of(without_nft(Backend::IptablesNft), way, name).commands {
            let words = words(line);
            let at = words.iter().position(|word| word == "-i").unwrap();
            assert_eq!((words[3].as_str(), words[at + 1].as_str()), (name, name), "{line}");
        }
    }
    let odd = of(host(Backend::Nftables), NetnsPath::Here, "a\"b");
    assert!(odd.commands.iter().all(|line| !line.contains("iifname")), "{:?}", odd.commands);
    assert!(odd.notes.iter().any(|note| note.contains("cannot be written in a rule")));
    let lost = of(host(Backend::Nftables), NetnsPath::Named("\u{1b}[2J\n".to_owned()), "s0");
    assert_eq!((lost.commands.len(), lost.undo.len()), (0, 0));
    assert!(lost.notes.iter().all(|note| !note.contains('\u{1b}')), "{:?}", lost.notes);
}

/// The words of a line, as a shell splits it. Written again, they are the same line, but for a redirection at its end:
/// nothing in it is anything else than a quoted word.
fn split(line: &str) -> Vec<String> {
    assert!(!line.chars().any(char::is_control), "{line:?}");
    let words = shlex::split(line).unwrap_or_else(|| panic!("a shell does not split it: {line}"));
    assert!(quoted(&words) == line || is_redirected(&words, line), "a shell runs something else: {line}");
    words
}

fn quoted(words: &[String]) -> String {
    words.iter().map(|text| word(text)).collect::<Vec<_>>().join(" ")
}

/// Whether the line ends with a redirection to a file.
fn is_redirected(words: &[String], line: &str) -> bool {
    let [before @ .., operator, file] = words else { return false };
    [">", ">>"].contains(&operator.as_str()) && format!("{} {operator} {}", quoted(before), word(file)) == line
}

/// A command quotes a text of a recording as one word for the shell, or omits it. nft, which parses its arguments as a
/// language, gets it in quotes only; no program gets it as an option.
fn harmless(line: &str, text: &str) {
    let words = split(line);
    let lead = words.iter().position(|word| word == "exec").map_or(0, |at| at + 2);
    for word in words.iter().skip(lead).filter(|word| word.contains("PWN")) {
        assert!(!word.starts_with(['-', '!']), "an option: {line}");
        let left = word.replace(&format!(" iifname \"{text}\" "), "");
        let by_nft = words.get(lead).is_some_and(|program| program == "nft");
        assert!(!by_nft || !left.contains("PWN"), "nft reads it: {line}");
        assert!(by_nft || word == text, "it is part of a word: {line}");
    }
}

/// Malicious texts in a recording do no harm to a user who pastes the printed commands.
#[rstest]
fn hostile_recordings(
    #[values(
        "a;PWN",
        "$(PWN)",
        "`PWN`",
        "it's PWN",
        "a&PWN",
        "a|PWN",
        "x; flush ruleset; PWN",
        "--modprobe=PWN",
        "-e1e PWN",
        "!PWN",
        "a\" PWN \"b",
        "a\nPWN",
        "\u{1b}[2J PWN",
        "/etc/nftables.conf; PWN",
        "/etc/$(PWN)",
        "/etc/a\nPWN",
        "/etc/nftables.conf PWN"
    )]
    text: &str,
    #[values(Backend::Nftables, Backend::IptablesNft, Backend::IptablesLegacy)] backend: Backend,
) {
    for manager in [None, Some(Manager::Firewalld), Some(Manager::Ufw)] {
        for way in [NetnsPath::Here, NetnsPath::Named(text.to_owned())] {
            hostile_recording(text, backend, manager, &way);
        }
    }
}

fn hostile_recording(text: &str, backend: Backend, manager: Option<Manager>, way: &NetnsPath) {
    for plain in [host(backend), without_nft(backend)] {
        let context = hostile_context(text, HostContext { manager, netns_path: way.clone(), ..plain });
        for (mitigation, lines) in plans(text, &context) {
            for line in lines {
                harmless(&line, text);
            }
            steps_are_printed(&mitigation);
        }
    }
}

/// A context that has a text wherever there is one.
fn hostile_context(text: &str, plain: HostContext) -> HostContext {
    let owned = || text.to_owned();
    HostContext {
        initial: plain.netns_path.clone(),
        tools: plain.tools.iter().cloned().chain([owned()]).collect(),
        persistence: vec![Persistence::Nftables { file: owned() }, Persistence::NetfilterPersistent],
        translations: vec![Translation { output: Some(owned()), ..plain.translations[0].clone() }],
        chains: vec![filter_chain(text, text), filter_chain("forward", text), filter_chain(text, "filter")],
        xtables: vec![(Family::Ip, owned()), (Family::Ip, "filter".to_owned())],
        xchains: vec![(Family::Ip, owned(), owned()), (Family::Ip, "filter".to_owned(), "FORWARD".to_owned())],
        uplinks: vec![owned()],
        addresses: vec![(owned(), "192.0.2.1".parse().unwrap())],
        problems: vec![owned()],
        ..plain
    }
}

/// Every mitigation of a context, with all its lines, also those in notes.
fn plans(text: &str, context: &HostContext) -> Vec<(Mitigation, Vec<String>)> {
    let owned = || text.to_owned();
    let facts = facts(&DEFAULTS);
    let rule = Rule {
        backend: context.backends[0],
        family: Family::Ip,
        table: owned(),
        chain: owned(),
        handle: Some(7),
        number: Some(1),
        place: 0,
        hooks: Hooks::only(1),
        tests: Vec::new(),
        complete: true,
        packets: None,
        text: owned(),
    };
    let mut at = target(&facts, context, &[(text, "192.0.2.1")]);
    at.services = ["198.51.100.7:443".parse().unwrap()].into();
    at.timeouts = ["nf_conntrack_tcp_timeout_established"].into();
    at.rules = vec![rule.clone()];
    let of = |id: MitigationId| {
        let mitigation = describe(id, &[at.clone()]);
        let Mitigation { commands, undo, persist, unpersist, notes, .. } = mitigation.clone();
        let in_notes = notes.iter().filter_map(|note| Some(note.split_once(" with: ")?.1.to_owned()));
        let shown = rule.can_be_named().then(|| rule.shown_by());
        let lines = [commands, undo, persist, unpersist].concat().into_iter().chain(in_notes).chain(shown);
        (mitigation, lines.collect())
    };
    MitigationId::ALL.into_iter().map(of).collect()
}

/// The printed lines are the steps: a shell splits each into the words of its program, and nft its argument into the statements
/// of its transaction.
fn steps_are_printed(mitigation: &Mitigation) {
    let Mitigation { steps, commands, undo, .. } = mitigation;
    for (step, line) in steps.iter().zip(commands) {
        let apply = step.apply();
        assert_eq!(split(line), [lead(&step.netns), apply.words()].concat());
        if !apply.statements.is_empty() {
            assert_eq!(statements(&apply.words()[1]), apply.statements);
        }
    }
    for (step, line) in steps.iter().rev().zip(undo) {
        assert_eq!(split(line), [lead(&step.netns), step.undo().words()].concat());
    }
    assert!(commands.len() >= steps.len() && undo.len() == steps.len());
}

/// The statements of a text as nft reads it: a semicolon ends one, outside of quotes and braces.
fn statements(text: &str) -> Vec<String> {
    let (mut quoted, mut depth, mut all) = (false, 0, vec![String::new()]);
    for character in text.chars() {
        quoted ^= character == '"';
        depth += i32::from(!quoted && character == '{') - i32::from(!quoted && character == '}');
        if character == ';' && !quoted && depth == 0 {
            all.push(String::new());
        } else if let Some(last) = all.last_mut() {
            last.push(character);
        }
    }
    all.iter().map(|statement| statement.trim().to_owned()).collect()
}

/// What a shell, nft or a terminal might obey.
fn hostile_text() -> impl Strategy<Value = String> {
    const PARTS: [&str; 36] = [
        "PWN",
        "a",
        "-",
        "--",
        "!",
        ";",
        "&",
        "|",
        "<",
        ">",
        "(",
        ")",
        "{",
        "}",
        "$",
        "$(PWN)",
        "`PWN`",
        "'",
        "\"",
        "\\",
        "#",
        "~",
        "*",
        "?",
        "[",
        "]",
        "%s",
        "=",
        " ",
        "\t",
        "\n",
        "\0",
        "\u{1b}[2J",
        "\u{202e}",
        "/etc/",
        "ü",
    ];
    let parts = proptest::collection::vec(proptest::sample::select(&PARTS[..]), 0..8).prop_map(|parts| parts.concat());
    prop_oneof![4 => parts.clone(), 1 => parts.prop_map(|text| format!("/{text}")), 1 => any::<String>()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a recording or a host has for names, each printed line is the words that were meant.
    #[test]
    fn printed_lines_are_the_words_that_were_meant(
        text in hostile_text(),
        name in proptest::option::of(hostile_text()),
        backend in proptest::sample::select(&Backend::ALL[..]),
        manager in proptest::sample::select(&[None, Some(Manager::Firewalld), Some(Manager::Ufw)][..]),
        has_nft in any::<bool>(),
    ) {
        let plain = if has_nft { host(backend) } else { without_nft(backend) };
        let netns_path = name.map_or(NetnsPath::Here, NetnsPath::Named);
        let context = hostile_context(&text, HostContext { manager, netns_path, ..plain });
        let mut printed = Vec::new();
        for (mitigation, lines) in plans(&text, &context) {
            steps_are_printed(&mitigation);
            printed.extend(lines.iter().map(|line| (split(line), line.clone())));
        }
        // A real shell has the last word, on lines without a redirection.
        let all: Vec<_> = printed.into_iter().filter(|(words, line)| !is_redirected(words, line)).collect();
        let script: Vec<String> = all.iter().map(|(_, line)| format!("printf '%s\\0' {line}")).collect();
        let output = std::process::Command::new("sh").args(["-c", &script.join("\n")]).output().unwrap();
        let read = String::from_utf8(output.stdout).unwrap();
        let read: Vec<&str> = read.split_terminator('\0').collect();
        prop_assert_eq!(read, all.iter().flat_map(|(words, _)| words).collect::<Vec<_>>());
    }
}

/// Commands quote a path as one word. An unsafe path is not written; a note says so.
#[test]
fn the_file_that_is_loaded_at_boot() {
    let facts = facts(&DEFAULTS);
    let kept = |file: &str| {
        let persistence = vec![Persistence::Nftables { file: file.to_owned() }];
        let context = HostContext { persistence, ..host(Backend::Nftables) };
        describe(MitigationId::DropInvalidInput, &[target(&facts, &context, &[("s0", "192.0.2.1")])])
    };
    let odd = kept("/etc/it's mine; reboot");
    let file = "'/etc/it'\\''s mine; reboot'";
    assert_eq!(odd.persist[1], format!("printf '%s\\n' 'include \"/etc/whyrst.nft\"' >> {file}"));
    assert_eq!(odd.unpersist[0], format!("sed -i '\\#^include \"/etc/whyrst.nft\"$#d' {file}"));
    for file in ["", "nftables.conf", "-e1e reboot", "/etc/\u{1b}[2J", "/etc/a\nreboot"] {
        let none = kept(file);
        assert_eq!((none.persist, none.unpersist), (Vec::new(), Vec::new()), "{file:?}");
        assert!(
            none.notes.iter().any(|note| note.contains("loads cannot be written in a command")),
            "{:?}",
            none.notes
        );
    }
}

#[test]
fn values_are_changed_from_what_they_are() {
    let facts = facts(&[("tcp_be_liberal", 0), ("tcp_timeout_established", 300)]);
    let context = host(Backend::Nftables);
    let mut target = target(&facts, &context, &[]);
    assert_eq!(
        lines(&describe(MitigationId::BeLiberal, &[target.clone()])),
        "sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=1\n\
         undo sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=0\n\
         keep printf '%s\\n' 'net.netfilter.nf_conntrack_tcp_be_liberal = 1' > /etc/sysctl.d/90-whyrst-be-liberal.conf\n\
         keep printf '%s\\n' nf_conntrack > /etc/modules-load.d/whyrst-be-liberal.conf\n"
    );
    target.timeouts = ["nf_conntrack_tcp_timeout_established"].into();
    let raised = describe(MitigationId::RaiseTimeout, &[target.clone()]);
    assert_eq!(raised.commands, ["sysctl -w net.netfilter.nf_conntrack_tcp_timeout_established=7440"]);
    assert_eq!(raised.undo, ["sysctl -w net.netfilter.nf_conntrack_tcp_timeout_established=300"]);
    let unknown = describe(MitigationId::IgnoreInvalidRst, &[target]);
    assert_eq!(unknown.commands, [""; 0], "the value before is unknown");
    assert!(!unknown.can_be_applied());
}

#[test]
fn a_table_and_its_buckets_grow_together() {
    let facts = facts(&DEFAULTS);
    let context = host(Backend::Nftables);
    let mitigation = describe(MitigationId::RaiseTableSize, &[target(&facts, &context, &[])]);
    assert_eq!(
        (mitigation.commands, mitigation.undo),
        (
            ["buckets=66048", "max=262144"].map(|it| format!("sysctl -w net.netfilter.nf_conntrack_{it}")).to_vec(),
            ["max=65536", "buckets=16384"].map(|it| format!("sysctl -w net.netfilter.nf_conntrack_{it}")).to_vec(),
        )
    );
    let child = HostContext {
        netns_path: NetnsPath::Named("gw".to_owned()),
        initial: NetnsPath::Process(1),
        limits: TableLimits { own: Some(1_000), ..context.limits },
        ..context.clone()
    };
    let mitigation = describe(MitigationId::RaiseTableSize, &[target(&facts, &child, &[])]);
    assert!(mitigation.commands[1].starts_with("nsenter -t 1 -n sysctl"), "{:?}", mitigation.commands);
    assert_eq!(mitigation.commands[2], "ip netns exec gw sysctl -w net.netfilter.nf_conntrack_max=262144");
    let full = HostContext { memory: Some(64 << 20), ..context };
    assert_eq!(describe(MitigationId::RaiseTableSize, &[target(&facts, &full, &[])]).commands, [""; 0]);
}

fn untracked(context: &HostContext) -> Mitigation {
    let facts = facts(&DEFAULTS);
    let mut at = target(&facts, context, &[]);
    at.services = ["198.51.100.7:443".parse().unwrap()].into();
    describe(MitigationId::UntrackService, &[at])
}

/// Everything is one transaction: no packet is untracked that is not accepted.
#[test]
fn a_service_is_exempt_both_ways_and_accepted() {
    let chains = vec![filter_chain("forward", "filter"), filter_chain("x", "my {table}")];
    let context = HostContext { chains, ..host(Backend::Nftables) };
    let context = HostContext { xchains: Vec::new(), ..context };
    let mitigation = untracked(&context);
    assert_eq!(mitigation.commands.len(), 1);
    let text = lines(&mitigation);
    for wanted in [
        "insert rule inet filter forward ct state untracked ip daddr 198.51.100.7 tcp dport 443 accept",
        "insert rule inet filter forward ct state untracked ip saddr 198.51.100.7 tcp sport 443 accept",
        "add rule inet whyrst_untrack prerouting ip saddr 198.51.100.7 tcp sport 443 counter notrack",
        "add rule inet whyrst_untrack output ip daddr 198.51.100.7 tcp dport 443 counter notrack",
        "undo nft delete table inet whyrst_untrack",
    ] {
        assert!(text.contains(wanted), "`{wanted}` is not in:\n{text}");
    }
    assert!(!text.contains("my {table}"), "{text}");
    let notes = mitigation.notes.join("\n");
    assert!(notes.contains("`nft -a list chain inet filter forward` prints the handles"), "{notes}");
    for owned in [Manager::Firewalld, Manager::Ufw] {
        let context = HostContext { manager: Some(owned), ..context.clone() };
        assert_eq!(untracked(&context).commands, [""; 0]);
    }
}

/// nft writes no rule into a chain of iptables, which could not list the chain then.
#[test]
fn a_service_is_accepted_in_the_chains_of_iptables() {
    let both = untracked(&host(Backend::IptablesNft));
    let accepts = both.commands.iter().filter(|line| line.starts_with("iptables -w 5 -I ")).count();
    assert_eq!((accepts, both.commands.len()), (6, 7), "{:?}", both.commands);
    assert!(both.commands[6].starts_with("nft 'create table inet whyrst_untrack; "), "{:?}", both.commands);
    assert!(!both.commands[6].contains("insert rule"), "{:?}", both.commands);
    // Nothing is left untracked that is not accepted.
    assert_eq!(both.undo[0], "nft delete table inet whyrst_untrack");
    let alone = untracked(&without_nft(Backend::IptablesNft));
    assert_eq!(alone.commands.len(), 10);
    assert_eq!(
        alone.commands[0],
        "iptables -w 5 -I INPUT -d 198.51.100.7 -p tcp --dport 443 -m conntrack --ctstate UNTRACKED -m comment --comment \
         whyrst:untrack-service -j ACCEPT"
    );
    assert_eq!(
        alone.undo[0],
        "iptables -w 5 -t raw -D OUTPUT -s 198.51.100.7 -p tcp --sport 443 -m comment --comment whyrst:untrack-service -j \
         CT --notrack"
    );
    let legacy = untracked(&without_nft(Backend::IptablesLegacy));
    assert!(legacy.commands.iter().all(|line| line.starts_with("iptables-legacy -w 5 ")), "{:?}", legacy.commands);
}

/// A translated connection must be tracked: NAT needs conntrack.
#[test]
fn translated_services_are_never_untracked() {
    let flow = reset(LogFormat::E1, UNDER, 1);
    assert!(flow.key.nat().is_some());
    assert!(!names(&flow, LogFormat::E1, &facts(&DEFAULTS), None).contains("untrack"));
}

/// An accepted packet is no reason for a mitigation, whoever resets its connection.
#[rstest]
#[case::old_ack(Build::ignored_old_ack(1_000))]
#[case::window({
    let old = Build::from_server(Hook::CtInvalid, 1, 1_000, SERVER_END - 900_000, CLIENT_END);
    words(&old.entry(REPLY, SERVER_END, CLIENT_END).untranslated(), LogFormat::E3, UNDER)
})]
fn accepted_packets_need_no_mitigation(#[case] accepted: Build) {
    let mut answered = accepted.socket(2);
    answered.record.hook = Hook::ResetV4 as u16;
    answered.record.present &= !(present::CONNTRACK | present::TEXT);
    (answered.record.nfct, answered.record.time_ns) = (0, 2_000);
    let mut engine = Engine::new(LogFormat::E3, Limits::default(), Filter::default());
    engine.event(accepted.event());
    engine.event(answered.event());
    let [flow]: [Box<Flow>; 1] = engine.finish().0.try_into().unwrap();
    assert_eq!((flow.tally().ignored, flow.tally().resets, flow.key.nat()), (1, 1, None));
    assert_eq!(names(&flow, LogFormat::E3, &facts(&DEFAULTS), None), "");
}

/// Every mitigation has a title, and is found by its name.
#[test]
fn names_are_found() {
    let mut seen = BTreeMap::new();
    for id in MitigationId::ALL {
        assert_eq!(id.name().parse(), Ok(id));
        assert!(!id.title().is_empty());
        assert_eq!(seen.insert(id.name(), id), None);
        let nowhere = describe(id, &[]);
        assert!(!nowhere.can_be_applied(), "{id} without a target");
    }
    let error = "drop".parse::<MitigationId>().unwrap_err().to_string();
    assert!(error.contains("`drop`") && error.contains("drop-invalid-input"), "{error}");
}
