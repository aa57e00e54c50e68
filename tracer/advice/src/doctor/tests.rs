//! The findings on a healthy gateway, and on one with a single fault.

use std::collections::BTreeMap;

use rstest::rstest;

use tracer_common::Hook;
use tracer_model::capture::HookState;
use tracer_model::finding::{Finding, Severity};
use tracer_model::health::counters::Counter;
use tracer_model::health::ports::Ranges;
use tracer_model::health::table::Tally;
use tracer_model::health::{Facts, Namespace, Obstacle, Sample};
use tracer_model::ruleset::Test;
use tracer_model::ruleset::audit::Translation;
use tracer_model::ruleset::tables::{Action, ChainRule, Condition, Nat, Ruleset, Step};
use tracer_model::time::Instant;
use tracer_testing::doctor::{entry, healthy, load, on_invalid, rule, ruleset};

use super::diagnose;

/// Findings on a healthy gateway, all harmless.
const ALWAYS: [&str; 2] = ["invalid-answered", "kernel-era"];

/// Findings that a healthy gateway does not have.
fn found(facts: &Facts) -> Vec<Finding> {
    diagnose(facts).into_iter().filter(|finding| !ALWAYS.contains(&finding.id)).collect()
}

#[test]
fn a_healthy_gateway_has_neither_warning_nor_worse() {
    let findings = diagnose(&healthy());
    let ids: Vec<&str> = findings.iter().map(|finding| finding.id).collect();
    assert_eq!(ids, ALWAYS);
    assert!(findings.iter().all(|finding| finding.severity == Severity::Info));
}

/// Numbers of netfilter hooks.
const PREROUTING: u8 = 0;
const INPUT: u8 = 1;
const FORWARD: u8 = 2;
const OUTPUT: u8 = 3;

/// A rule that is not understood.
fn obscure(action: Action) -> ChainRule {
    rule(vec![Step::If(Condition::NotUnderstood("-m geoip".to_owned())), Step::Do(action)])
}

/// Changes one thing.
type Harm = fn(&mut Facts);

fn of(facts: &mut Facts) -> &mut Namespace {
    &mut facts.namespaces[0]
}

fn count(facts: &mut Facts, counter: Counter, before: u32, after: u32) {
    of(facts).before.counters[0].set(counter, before);
    of(facts).after.counters[0].set(counter, after);
}

fn set(facts: &mut Facts, name: &str, value: i64) {
    of(facts).sysctls.insert(name.to_owned(), value);
}

fn obstacle(id: &'static str) -> Obstacle {
    Obstacle { id, what: "an obstacle".to_owned(), fix: "remove it".to_owned() }
}

#[rstest]
#[case("conntrack-table-full", Severity::Critical, |facts: &mut Facts| of(facts).after.entries = Some(262_144))]
#[case("conntrack-table-full", Severity::Warning, |facts: &mut Facts| of(facts).after.entries = Some(215_000))]
#[case("conntrack-table-full", Severity::Critical, |facts: &mut Facts| count(facts, Counter::EarlyDrop, 0, 1))]
#[case("conntrack-table-filling", Severity::Warning, |facts: &mut Facts| {
    (of(facts).before.entries, of(facts).after.entries) = (Some(180_000), Some(190_000));
})]
#[case("conntrack-table-small", Severity::Info, |facts: &mut Facts| {
    set(facts, "nf_conntrack_max", 16_000);
})]
#[case("conntrack-table-large", Severity::Warning, |facts: &mut Facts| {
    set(facts, "nf_conntrack_max", 16 << 20);
    set(facts, "nf_conntrack_buckets", 16 << 20);
})]
#[case("conntrack-buckets-few", Severity::Warning, |facts: &mut Facts| set(facts, "nf_conntrack_buckets", 16_384))]
#[case("conntrack-buckets-few", Severity::Warning, |facts: &mut Facts| count(facts, Counter::ChainTooLong, 1, 1))]
#[case("expectation-table-full", Severity::Warning, |facts: &mut Facts| of(facts).after.expectations = Some(262_144))]
#[case("packets-dropped", Severity::Critical, |facts: &mut Facts| count(facts, Counter::Drop, u32::MAX, 3))]
#[case("packets-dropped", Severity::Info, |facts: &mut Facts| count(facts, Counter::Drop, 3, 3))]
#[case("insert-failed", Severity::Warning, |facts: &mut Facts| count(facts, Counter::InsertFailed, 3, 4))]
#[case("packets-invalid", Severity::Info, |facts: &mut Facts| count(facts, Counter::Invalid, 3, 4))]
#[case("packets-invalid", Severity::Warning, |facts: &mut Facts| count(facts, Counter::Invalid, 0, 20))]
#[case("packets-in-error", Severity::Info, |facts: &mut Facts| count(facts, Counter::Error, 0, 1))]
#[case("lookups-restarted", Severity::Info, |facts: &mut Facts| count(facts, Counter::SearchRestart, 0, 2_000))]
#[case("be-liberal-on", Severity::Info, |facts: &mut Facts| set(facts, "nf_conntrack_tcp_be_liberal", 1))]
#[case("loose-off", Severity::Info, |facts: &mut Facts| set(facts, "nf_conntrack_tcp_loose", 0))]
#[case("ignore-invalid-rst-on", Severity::Info, |facts: &mut Facts| set(facts, "nf_conntrack_tcp_ignore_invalid_rst", 1))]
#[case("checksum-off", Severity::Info, |facts: &mut Facts| set(facts, "nf_conntrack_checksum", 0))]
#[case("log-invalid-on", Severity::Info, |facts: &mut Facts| set(facts, "nf_conntrack_log_invalid", 255))]
#[case("timeout-established-short", Severity::Warning, |facts: &mut Facts| {
    set(facts, "nf_conntrack_tcp_timeout_established", 3_600);
})]
#[case("timeout-established-long", Severity::Info, |facts: &mut Facts| {
    (of(facts).before.entries, of(facts).after.entries) = (Some(140_000), Some(140_000));
})]
#[case("timeout-below-default", Severity::Warning, |facts: &mut Facts| set(facts, "nf_conntrack_tcp_timeout_fin_wait", 10))]
#[case("rules-reject-invalid", Severity::Warning, |facts: &mut Facts| {
    load(of(facts), ruleset(vec![(FORWARD, vec![on_invalid(Action::RejectWithReset)], false)]));
})]
#[case("rules-accept-invalid", Severity::Info, |facts: &mut Facts| {
    load(of(facts), ruleset(vec![(FORWARD, vec![on_invalid(Action::Accept)], false)]));
})]
#[case("rules-drop-invalid", Severity::Info, |facts: &mut Facts| {
    load(of(facts), ruleset(vec![(FORWARD, vec![on_invalid(Action::Drop)], false)]));
})]
#[case("rules-untrack", Severity::Info, |facts: &mut Facts| {
    load(of(facts), ruleset(vec![(PREROUTING, vec![rule(vec![Step::Do(Action::Untrack)])], false)]));
})]
#[case("flowtable", Severity::Info, |facts: &mut Facts| {
    let offload = Action::Offload { flowtable: "ft".to_owned() };
    load(of(facts), ruleset(vec![(FORWARD, vec![rule(vec![Step::Do(offload)])], false)]));
})]
#[case("not-read", Severity::Info, |facts: &mut Facts| {
    load(of(facts), ruleset(vec![(FORWARD, vec![obscure(Action::Drop)], false)]));
})]
#[case("not-read", Severity::Warning, |facts: &mut Facts| of(facts).unread.push("the table".to_owned()))]
#[case("not-read", Severity::Info, |facts: &mut Facts| facts.host.unread.push("the size".to_owned()))]
#[case("no-privileges", Severity::Warning, |facts: &mut Facts| facts.tracing.obstacles.push(obstacle("no-privileges")))]
#[case("hooks-unknown", Severity::Warning, |facts: &mut Facts| facts.tracing.problem = Some("no types".to_owned()))]
#[case("hook-unavailable", Severity::Warning, |facts: &mut Facts| {
    facts.tracing.hooks = vec![(Hook::CtInvalid, HookState::Unavailable { because: "no such function".to_owned() })];
})]
#[case("hook-unavailable", Severity::Info, |facts: &mut Facts| {
    facts.tracing.hooks = vec![(Hook::ResetTracepoint, HookState::Unavailable { because: "old".to_owned() })];
})]
#[case("hooks-waiting", Severity::Info, |facts: &mut Facts| {
    facts.tracing.hooks = vec![(Hook::RejectV4, HookState::Waiting { module: "nf_reject_ipv4".to_owned() })];
})]
#[case("fields-missing", Severity::Info, |facts: &mut Facts| facts.tracing.missing_fields.push("skb_mark"))]
#[case("memlock-limit", Severity::Warning, |facts: &mut Facts| facts.tracing.memory.locked = Some(65_536))]
#[case("memory-limit", Severity::Warning, |facts: &mut Facts| facts.tracing.memory.group_left = Some(1 << 20))]
fn one_thing_is_wrong(#[case] id: &str, #[case] severity: Severity, #[case] harm: Harm) {
    let mut facts = healthy();
    harm(&mut facts);
    // A full table has another finding: a shorter timeout for idle connections.
    let findings: Vec<Finding> = found(&facts)
        .into_iter()
        .filter(|finding| finding.id == id || finding.id != "timeout-established-long")
        .collect();
    let [finding] = &findings[..] else { panic!("{findings:#?}") };
    assert_eq!((finding.id, finding.severity), (id, severity), "{finding:#?}");
    assert!(!finding.title.is_empty());
}

#[test]
fn an_unread_table_has_no_findings() {
    let mut facts = healthy();
    let namespace = of(&mut facts);
    (namespace.before, namespace.after) = (Sample::default(), Sample::default());
    namespace.sysctls.clear();
    (namespace.table, namespace.audit, namespace.ruleset) = (None, None, None);
    assert_eq!(found(&facts), []);
}

#[test]
fn a_full_table_names_its_top_users_and_a_mitigation() {
    let mut facts = healthy();
    let mut tally = Tally::new(Ranges::default());
    for port in 1..=300 {
        tally.add(&entry(if port % 3 == 0 { 3 } else { 2 }, 1_024 + port));
    }
    let namespace = of(&mut facts);
    namespace.table = Some(tally.finish(1, Instant(0), None));
    namespace.after.entries = Some(16_000);
    set(&mut facts, "nf_conntrack_max", 16_000);
    let findings = found(&facts);
    let full = &findings[0];
    assert_eq!(full.id, "conntrack-table-full");
    let evidence: BTreeMap<&str, &str> = full.evidence.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(evidence["top_sources"], "10.0.0.2 (200), 10.0.0.3 (100)");
    assert_eq!(evidence["mitigation"], "raise-table-size");
    // All namespaces share the limit of the initial one, where whyrst runs.
    assert!(full.advice.contains(&"sysctl -w net.netfilter.nf_conntrack_max=262144".to_owned()), "{full:#?}");
    assert!(full.advice.contains(&"ip netns exec gw conntrack -L -s 10.0.0.2".to_owned()), "{full:#?}");
}

#[rstest]
#[case::each_has_its_own(true, false, "ip netns exec gw sysctl -w net.netfilter.nf_conntrack_max=262144")]
#[case::from_inside(false, true, "nsenter --net=/proc/1/ns/net sysctl -w net.netfilter.nf_conntrack_max=262144")]
fn the_limit_is_set_where_it_can_be(#[case] own: bool, #[case] home: bool, #[case] expected: &str) {
    let mut facts = healthy();
    set(&mut facts, "nf_conntrack_max", 100_000);
    let namespace = of(&mut facts);
    namespace.after.entries = Some(100_000);
    (namespace.own_limit, namespace.place.home) = (own, home);
    let advice = &found(&facts)[0].advice;
    assert!(advice.iter().any(|advice| advice == expected), "{advice:#?}");
}

#[rstest]
#[case::few_left(80, Some(Severity::Warning))]
#[case::nearly_all(95, Some(Severity::Critical))]
#[case::enough(79, None)]
fn ports_towards_a_destination(#[case] used: u16, #[case] expected: Option<Severity>) {
    let address: std::net::IpAddr = [192, 0, 2, 1].into();
    let translation = Translation { to: vec![address..=address], ports: Some(2_000..=2_099), output: None };
    let mut rules = ruleset(Vec::new());
    rules.tables[0].chains[0].rules = vec![rule(vec![Step::Do(Action::Nat(Nat::Source(translation)))])];
    let mut tally = Tally::new(Ranges::of_rules(&rules.audit(1, Instant(0))));
    for port in 0..used {
        tally.add(&entry(2, 2_000 + port));
    }
    let mut facts = healthy();
    load(of(&mut facts), rules);
    of(&mut facts).table = Some(tally.finish(1, Instant(0), None));
    let findings = found(&facts);
    assert_eq!(findings.first().map(|finding| finding.severity), expected, "{findings:#?}");
    if let Some(finding) = findings.first() {
        assert_eq!(finding.id, "nat-ports-exhausted");
        assert!(finding.title.contains("192.0.2.1 to tcp 192.0.2.2:443"), "{}", finding.title);
        let command = "ip netns exec gw conntrack -L -p tcp -q 192.0.2.1 --reply-src 192.0.2.2 --reply-port-src 443";
        assert!(finding.advice.iter().any(|advice| advice == command), "{finding:#?}");
    }
}

/// The ids of the findings on what becomes of INVALID packets.
fn of_invalid(rules: Ruleset) -> Vec<&'static str> {
    let mut facts = healthy();
    load(of(&mut facts), rules);
    let mut ids: Vec<&str> = diagnose(&facts).into_iter().map(|finding| finding.id).collect();
    ids.retain(|id| *id != "kernel-era");
    ids.sort_unstable();
    ids
}

#[rstest]
#[case::no_rule(vec![], &["invalid-answered"])]
#[case::dropped_at_input(vec![(INPUT, vec![on_invalid(Action::Drop)], false)], &["rules-drop-invalid"])]
#[case::at_forward_only(vec![(FORWARD, vec![on_invalid(Action::Drop)], false)], &["invalid-answered", "rules-drop-invalid"])]
#[case::policy(vec![(INPUT, vec![], true)], &[])]
#[case::the_last_rule(vec![(INPUT, vec![rule(vec![Step::Do(Action::Drop)])], false)], &["rules-drop-invalid"])]
#[case::icmp_resets_nothing(vec![(INPUT, vec![rule(vec![Step::Do(Action::RejectWithIcmp)])], false)], &[])]
#[case::rejected(vec![(INPUT, vec![rule(vec![Step::Do(Action::RejectWithReset)])], true)], &["rules-reject-invalid"])]
#[case::another_port(vec![(INPUT, vec![rule(vec![
    Step::If(Condition::Is(Test::is(tracer_model::ruleset::Key::TransportHeader { offset: 2 }, vec![0, 22]))),
    Step::Do(Action::Drop)])], false)], &["invalid-answered"])]
#[case::the_rst_is_dropped(vec![(OUTPUT, vec![on_invalid(Action::Drop)], false)], &["rules-drop-invalid"])]
#[case::in_doubt(vec![(INPUT, vec![obscure(Action::Drop)], false)], &["not-read"])]
#[case::in_doubt_without_effect(vec![(INPUT, vec![obscure(Action::Drop), on_invalid(Action::Drop)], false)], &["rules-drop-invalid"])]
fn what_becomes_of_invalid_packets(#[case] chains: Vec<(u8, Vec<ChainRule>, bool)>, #[case] expected: &[&str]) {
    assert_eq!(of_invalid(ruleset(chains)), expected);
}

#[test]
fn findings_name_one_of_several_namespaces() {
    let mut facts = healthy();
    let mut other = facts.namespaces[0].clone();
    (other.inode, other.place.name) = (2, None);
    other.sysctls.insert("nf_conntrack_checksum".to_owned(), 0);
    facts.namespaces.push(other);
    let findings = found(&facts);
    assert!(findings[0].title.starts_with("network namespace 2: "), "{findings:#?}");
}

#[test]
fn without_conntrack_there_is_one_finding() {
    let mut facts = healthy();
    facts.namespaces.clear();
    facts.tracing.conntrack = false;
    facts.host.log_format = None;
    let ids: Vec<&str> = diagnose(&facts).iter().map(|finding| finding.id).collect();
    assert_eq!(ids, ["conntrack-not-loaded"]);
}

/// Whether this host can be traced does not matter to a ruleset of another.
#[test]
fn a_ruleset_of_a_file_has_findings_on_rules_alone() {
    let mut facts = healthy();
    facts.tracing = tracer_model::health::Tracing::default();
    facts.host.log_format = None;
    let namespace = &mut facts.namespaces[0];
    namespace.loaded.push("IPv4: loaded with iptables-nft-restore".to_owned());
    (namespace.before, namespace.after) = (Sample::default(), Sample::default());
    namespace.sysctls.clear();
    namespace.table = None;
    let ids: Vec<&str> = diagnose(&facts).iter().map(|finding| finding.id).collect();
    assert_eq!(ids, ["invalid-answered"]);
}
