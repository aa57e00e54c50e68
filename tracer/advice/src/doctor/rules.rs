//! Findings on rules for INVALID packets, and on rules that exempt packets from tracking.

use tracer_model::event::NfHook;
use tracer_model::finding::{Finding, Severity};
use tracer_model::health::counters::Counter;
use tracer_model::mitigation::MitigationId;
use tracer_model::ruleset::audit::{Audit, Does, Noted};
use tracer_model::ruleset::{Family, Hooks};

use super::{Builder, One};

/// Rules that a finding lists.
const NAMED: usize = 8;

pub(super) fn findings(one: &One<'_>) -> Vec<Finding> {
    let Some(audit) = &one.namespace.audit else { return Vec::new() };
    [dropped(one, audit), rejected(one, audit), accepted(one, audit), untracked(one, audit), answered(one, audit)]
        .into_iter()
        .flatten()
        .collect()
}

/// The netfilter hooks that a rule is reached from.
fn places(hooks: Hooks) -> String {
    hooks.names().join(", ")
}

/// Lists rules with their text, their hooks, and the command that shows them.
fn name(one: &One<'_>, mut builder: Builder, rules: &[&Noted]) -> Builder {
    for (index, Noted { rule, .. }) in rules.iter().take(NAMED).enumerate() {
        let counted = rule.packets.map_or_else(String::new, |packets| format!(", {packets} packets so far"));
        let text = format!("{rule} at {}: {}{counted}", places(rule.hooks), rule.text);
        builder = builder.number(&format!("rule_{}", index + 1), text);
    }
    if rules.len() > NAMED {
        builder = builder.number("more_rules", rules.len() - NAMED);
    }
    let mut commands: Vec<String> = rules.iter().map(|noted| shown_by(one, noted)).collect();
    commands.dedup();
    commands.into_iter().take(NAMED).fold(builder, Builder::advice)
}

fn shown_by(one: &One<'_>, noted: &Noted) -> String {
    one.command(&one.host.shows(&noted.rule))
}

fn of(audit: &Audit, wanted: impl Fn(&Does) -> bool) -> Vec<&Noted> {
    // A rule that no hook leads to has no effect.
    audit.noted.iter().filter(|noted| wanted(&noted.does) && noted.rule.hooks != Hooks::default()).collect()
}

fn dropped(one: &One<'_>, audit: &Audit) -> Option<Finding> {
    let rules = of(audit, |does| matches!(does, Does::DropsInvalid | Does::SendsInvalid { .. }));
    let first = rules.first()?;
    let other = if rules.len() > 1 { format!(" and {} more", rules.len() - 1) } else { String::new() };
    let title = match &first.does {
        Does::SendsInvalid { to } => format!("INVALID packets go to chain {to}: {}{other}", first.rule),
        _ => format!("INVALID packets are dropped by {}{other}", first.rule),
    };
    let builder = one.finding("rules-drop-invalid", Severity::Info, title);
    Some(
        name(one, builder, &rules)
            .advice("at input, this keeps the host from answering with RST; the connection of such a packet may hang instead")
            .done(),
    )
}

fn rejected(one: &One<'_>, audit: &Audit) -> Option<Finding> {
    let rules = of(audit, |does| *does == Does::RejectsInvalid);
    let first = rules.first()?;
    let title = format!(
        "{} rejects INVALID packets: a packet that conntrack refuses by mistake resets its connection",
        first.rule
    );
    let builder = one.finding("rules-reject-invalid", Severity::Warning, title);
    Some(name(one, builder, &rules).advice("drop them instead").mitigation(MitigationId::ReviewRejectRule).done())
}

fn accepted(one: &One<'_>, audit: &Audit) -> Option<Finding> {
    let rules = of(audit, |does| *does == Does::AcceptsInvalid);
    let first = rules.first()?;
    let builder =
        one.finding("rules-accept-invalid", Severity::Info, format!("{} accepts INVALID packets", first.rule));
    Some(
        name(one, builder, &rules)
            .advice("if forwarded, they leave untranslated, with the client's own address")
            .done(),
    )
}

fn untracked(one: &One<'_>, audit: &Audit) -> Option<Finding> {
    let rules = of(audit, |does| *does == Does::Untracks);
    let first = rules.first()?;
    let builder = one.finding(
        "rules-untrack",
        Severity::Info,
        format!("a rule exempts packets from tracking: {}: {}", first.rule, first.rule.text),
    );
    Some(
        name(one, builder, &rules)
            .advice("these packets are not translated; rules must exempt both directions, at prerouting and output, and accept them as untracked")
            .done(),
    )
}

/// A gateway that does NAT, and answers INVALID packets of servers with RST.
fn answered(one: &One<'_>, audit: &Audit) -> Option<Finding> {
    let translates = audit.noted.iter().any(|noted| matches!(noted.does, Does::SourceNat(_) | Does::Masquerades(_)));
    let input = |hooks: Hooks| hooks.has(NfHook::LocalIn) || hooks.has(NfHook::PreRouting);
    let sees_ipv4 = |family: Family| family != Family::Ip6;
    let drops = |noted: &Noted| {
        matches!(noted.does, Does::DropsInvalid | Does::SendsInvalid { .. })
            && input(noted.rule.hooks)
            && sees_ipv4(noted.rule.family)
    };
    let policy = audit.drops.iter().any(|chain| chain.hooks.has(NfHook::LocalIn) && sees_ipv4(chain.family));
    let unknown = !audit.problems.is_empty();
    if !translates || policy || unknown || audit.noted.iter().any(drops) {
        return None;
    }
    let title = "this host answers INVALID packets of servers with RST: it does NAT, and no rule drops them at input";
    Some(
        one.finding("invalid-answered", Severity::Info, title)
            .maybe("invalid", one.namespace.total(Counter::Invalid))
            .advice("a packet that conntrack refuses keeps this host as its destination, and the local stack has no such connection")
            .mitigation(MitigationId::DropInvalidInput)
            .done(),
    )
}
