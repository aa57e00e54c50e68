//! Findings on what becomes of INVALID packets in the rules, and on rules that exempt packets from tracking.

use tracer_model::finding::{Finding, Severity};
use tracer_model::health::counters::Counter;
use tracer_model::mitigation::MitigationId;
use tracer_model::ruleset::audit::{Audit, Does, Noted};
use tracer_model::ruleset::{Hooks, Key, Rule};
use tracer_walk::{By, Reach, Seen};

use super::walks::{Kind, Row, decider};
use super::{Builder, One};

/// Rules that a finding lists.
const NAMED: usize = 8;

pub(super) fn findings(one: &One<'_>) -> Vec<Finding> {
    let Some(audit) = &one.namespace.audit else { return Vec::new() };
    [dropped(one), rejected(one), accepted(one), untracked(one, audit), offloaded(one), answered(one)]
        .into_iter()
        .flatten()
        .collect()
}

/// The rules on the way of INVALID packets that are not understood: each with what of it, and a packet whose fate it may change.
pub(super) fn not_understood(one: &One<'_>) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for row in &one.walks {
        for unclear in &row.consequences.unclear {
            let what = format!("{} is not understood: {}", unclear.rule, unclear.what);
            if !found.iter().any(|known| known.starts_with(&what)) {
                found.push(format!("{what}; it may decide what becomes of {}", row.packets()));
            }
        }
    }
    found
}

/// A rule that decides, and the packets that it decides about.
struct Decides<'a> {
    rule: &'a Rule,
    hook: &'static str,
    packets: Vec<String>,
}

/// The rules that bring the typical packets of some class to this, with certainty.
fn deciding<'a>(one: &'a One<'_>, wanted: impl Fn(&Row, Seen, &Rule) -> bool) -> Vec<Decides<'a>> {
    let mut found: Vec<Decides<'a>> = Vec::new();
    for row in &one.walks {
        let Some(seen) = row.consequences.typical() else { continue };
        for consequence in row.consequences.of_typical() {
            let By::Rule(rule) = &consequence.by else { continue };
            // Another rule decides the same where this one, which is not understood, does not.
            let obscure = row.consequences.walk.unclear.iter().any(|unclear| unclear.rule == **rule);
            if obscure || !wanted(row, seen, rule) {
                continue;
            }
            match found.iter_mut().find(|known| known.rule == &**rule && known.hook == row.kind.hook()) {
                Some(known) => known.packets.push(row.packets()),
                None => found.push(Decides { rule, hook: row.kind.hook(), packets: vec![row.packets()] }),
            }
        }
    }
    found
}

/// Lists rules with their hooks, their text, the packets that they decide about, and the command that shows them.
fn name_deciding(one: &One<'_>, mut builder: Builder, rules: &[Decides<'_>]) -> Builder {
    for (index, Decides { rule, hook, packets }) in rules.iter().take(NAMED).enumerate() {
        let counted = rule.packets.map_or_else(String::new, |packets| format!(", {packets} packets so far"));
        builder = builder.number(&format!("rule_{}", index + 1), format!("{rule} at {hook}: {}{counted}", rule.text));
        let more = if packets.len() > 1 { format!(" and {} more", packets.len() - 1) } else { String::new() };
        let first = packets.first().map_or("", String::as_str);
        builder = builder.number(&format!("packets_{}", index + 1), format!("{first}{more}"));
    }
    let rules: Vec<&Rule> = rules.iter().map(|decides| decides.rule).collect();
    commands(one, builder, &rules)
}

/// Lists rules with their text, their hooks, and the command that shows them.
fn name(one: &One<'_>, mut builder: Builder, rules: &[&Noted]) -> Builder {
    for (index, Noted { rule, .. }) in rules.iter().take(NAMED).enumerate() {
        let counted = rule.packets.map_or_else(String::new, |packets| format!(", {packets} packets so far"));
        let hooks = rule.hooks.names().join(", ");
        builder = builder.number(&format!("rule_{}", index + 1), format!("{rule} at {hooks}: {}{counted}", rule.text));
    }
    let rules: Vec<&Rule> = rules.iter().map(|noted| &noted.rule).collect();
    commands(one, builder, &rules)
}

fn commands(one: &One<'_>, mut builder: Builder, rules: &[&Rule]) -> Builder {
    if rules.len() > NAMED {
        builder = builder.number("more_rules", rules.len() - NAMED);
    }
    let mut commands: Vec<String> = rules.iter().map(|rule| one.command(&one.host.shows(rule))).collect();
    commands.dedup();
    commands.into_iter().take(NAMED).fold(builder, Builder::advice)
}

fn dropped(one: &One<'_>) -> Option<Finding> {
    let rules = deciding(one, |_, seen, _| seen == Seen::Dropped);
    let first = rules.first()?;
    let other = if rules.len() > 1 { format!(" and {} more", rules.len() - 1) } else { String::new() };
    let title = format!("INVALID packets are dropped by {}{other}", first.rule);
    let builder = one.finding("rules-drop-invalid", Severity::Info, title);
    Some(
        name_deciding(one, builder, &rules)
            .advice("at input, this keeps the host from answering with RST; the connection of such a packet may hang instead")
            .done(),
    )
}

fn rejected(one: &One<'_>) -> Option<Finding> {
    let rules = deciding(one, |row, seen, _| seen == Seen::RuleRst && row.kind != Kind::OwnSegment);
    let first = rules.first()?;
    let title = format!(
        "{} answers INVALID packets with RST: a packet that conntrack refuses by mistake resets its connection",
        first.rule
    );
    let builder = one.finding("rules-reject-invalid", Severity::Warning, title);
    Some(
        name_deciding(one, builder, &rules)
            .advice("drop them instead")
            .mitigation(MitigationId::ReviewRejectRule)
            .done(),
    )
}

/// Rules that let INVALID packets be forwarded, and those at input that ask for them.
fn accepted(one: &One<'_>) -> Option<Finding> {
    let asks = |rule: &Rule| rule.tests.iter().any(|test| test.key == Key::State);
    let rules = deciding(one, |_, seen, rule| match seen {
        Seen::ForwardedUntranslated => true,
        Seen::StackRst | Seen::Accepted => asks(rule),
        _ => false,
    });
    let first = rules.first()?;
    let builder =
        one.finding("rules-accept-invalid", Severity::Info, format!("{} accepts INVALID packets", first.rule));
    Some(
        name_deciding(one, builder, &rules)
            .advice("if forwarded, they leave untranslated, with the client's own address")
            .done(),
    )
}

fn untracked(one: &One<'_>, audit: &Audit) -> Option<Finding> {
    // A rule that no hook leads to has no effect.
    let noted = audit.noted.iter().filter(|noted| noted.does == Does::Untracks && noted.rule.hooks != Hooks::default());
    let rules: Vec<&Noted> = noted.collect();
    let first = rules.first()?;
    let builder = one.finding(
        "rules-untrack",
        Severity::Info,
        format!("a rule exempts packets from tracking: {}: {}", first.rule, first.rule.text),
    );
    let mut builder = name(one, builder, &rules);
    if let Some(side) = one_side(one) {
        builder = builder.number("one_sided", side);
    }
    Some(
        builder
            .advice("these packets are not translated; rules must exempt both directions, at prerouting and output, and accept them as untracked")
            .done(),
    )
}

/// Packets of one direction of forwarded connections are exempted from tracking, and those of the other never are.
fn one_side(one: &One<'_>) -> Option<&'static str> {
    let exempts = |kind: Kind| {
        let mut rows = one.walks.iter().filter(|row| row.kind == kind).peekable();
        rows.peek()?;
        Some(rows.any(|row| !row.consequences.walk.untracked_by.is_empty()))
    };
    match (exempts(Kind::ServerSegment)?, exempts(Kind::ClientSegment)?) {
        (true, false) => Some("packets of servers are exempt, packets of clients are not"),
        (false, true) => Some("packets of clients are exempt, packets of servers are not"),
        _ => None,
    }
}

fn offloaded(one: &One<'_>) -> Option<Finding> {
    let rules = one.namespace.ruleset.as_ref()?.offloading();
    let (flowtable, first) = rules.first()?;
    let title = format!("connections are offloaded to flowtable {flowtable} by {first}");
    let builder = one.finding("flowtable", Severity::Info, title).number("rule_1", format!("{first}: {}", first.text));
    let rules: Vec<&Rule> = rules.iter().map(|(_, rule)| rule).collect();
    Some(
        commands(one, builder, &rules)
            .advice("packets of an offloaded connection pass by all rules, and conntrack does not see their window")
            .done(),
    )
}

/// A gateway that does NAT, and answers INVALID packets of servers with RST.
fn answered(one: &One<'_>) -> Option<Finding> {
    let rows: Vec<&Row> = one
        .walks
        .iter()
        .filter(|row| row.kind == Kind::ServerSegment && row.expected)
        .filter(|row| row.consequences.typical() == Some(Seen::StackRst))
        .collect();
    let first = rows.first()?;
    let rule = first.consequences.of_typical().find_map(|one| match &one.by {
        By::Rule(rule) => Some(rule.to_string()),
        _ => None,
    });
    let because =
        rule.map_or_else(|| "no rule drops them at input".to_owned(), |rule| format!("{rule} accepts them at input"));
    let title = format!("this host answers INVALID packets of servers with RST: it does NAT, and {because}");
    let mut builder = one
        .finding("invalid-answered", Severity::Info, title)
        .maybe("invalid", one.namespace.total(Counter::Invalid))
        .maybe("interface", first.interface.as_ref())
        .maybe("address", first.address);
    if rows.len() > 1 {
        builder = builder.number("more_classes", rows.len() - 1);
    }
    let others = first.consequences.all.iter().filter(|one| one.reach == Reach::Others && one.seen != Seen::StackRst);
    for (index, other) in others.take(NAMED).enumerate() {
        let text = format!("{}: {}", other.seen.name(), decider(&other.by));
        builder = builder.number(&format!("except_{}", index + 1), text);
    }
    Some(
        builder
            .advice("a packet that conntrack refuses keeps this host as its destination, and the local stack has no such connection")
            .mitigation(MitigationId::DropInvalidInput)
            .done(),
    )
}
