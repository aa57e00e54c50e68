//! The headlines of a report: one sentence per kind of incident.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use tracer_advice::report::Report;
use tracer_engine::flow::{EvidenceRank, Flow, Tally};
use tracer_model::cause::Cause;

use super::{counted, incident, unanswered};

/// The weight of a headline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    /// Something was lost.
    Harm,
    /// Nothing was lost.
    Harmless,
    /// The number of incidents that have no headline.
    Folded,
}

/// A kind of incident, and its flows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Headline<'a> {
    /// The incident in one sentence.
    pub(crate) title: String,
    /// Its explanation, if there is one.
    pub(crate) paragraph: Option<String>,
    /// Its weight.
    pub(crate) weight: Weight,
    /// Its flows, where nothing else names them.
    pub(crate) accepted: Vec<&'a Flow>,
}

impl Headline<'_> {
    fn harm(title: String, paragraph: Option<String>) -> Self {
        Self { title, paragraph, weight: Weight::Harm, accepted: Vec::new() }
    }
}

/// Flows by their sentence.
type Incidents<'a> = BTreeMap<String, Vec<&'a Flow>>;

/// The headlines of a report, the worst first; at least one, and of each cause not more than `most`: a sentence can
/// name a process or an address, so that there can be as many as flows.
pub(crate) fn headlines(report: &Report, most: usize) -> Vec<Headline<'_>> {
    let mut groups: BTreeMap<(Reverse<EvidenceRank>, Cause), Incidents<'_>> = BTreeMap::new();
    for flow in report.flows.iter().map(|flow| &flow.flow) {
        let rank = flow.incident.rank();
        let what = if rank >= EvidenceRank::Forwarded { incident(flow) } else { String::new() };
        let cause = groups.entry((Reverse(rank), flow.incident.diagnosis.cause)).or_default();
        cause.entry(what).or_default().push(flow);
    }
    let mut found = Vec::new();
    let dropped = report.summary.table_full_drops;
    if dropped > 0 {
        let packets = counted(dropped, "packet of a new connection was", "packets of new connections were");
        found.push(Headline::harm(format!("{packets} dropped: the conntrack table was full."), None));
    }
    for ((rank, cause), mut incidents) in groups {
        let folded: Vec<usize> = incidents.values().skip(most).map(Vec::len).collect();
        for _ in 0..most {
            let Some((what, flows)) = incidents.pop_first() else { break };
            found.push(headline(rank.0, cause, what, flows));
        }
        if !folded.is_empty() {
            let others = counted(folded.iter().sum::<usize>() as u64, "connection", "connections");
            let incidents = counted(folded.len() as u64, "other incident", "other incidents");
            let title = format!("and {others} of the same cause ({cause}) with {incidents}");
            found.push(Headline { title, paragraph: None, weight: Weight::Folded, accepted: Vec::new() });
        }
    }
    if found.is_empty() {
        let title = "Nothing was reset and no packet was refused.".to_owned();
        found.push(Headline { title, paragraph: None, weight: Weight::Harmless, accepted: Vec::new() });
    }
    found
}

fn headline(rank: EvidenceRank, cause: Cause, what: String, flows: Vec<&Flow>) -> Headline<'_> {
    let count = flows.len() as u64;
    let was = if count == 1 { "was" } else { "were" };
    let packets = |select: fn(&Tally) -> u64| flows.iter().map(|flow| select(&flow.tally())).sum::<u64>();
    let connections = || counted(count, "connection", "connections");
    match rank {
        EvidenceRank::Killed => {
            let who = match cause {
                Cause::NoListener => "refused by this gateway itself",
                Cause::RejectRule => "reset by a REJECT rule of this gateway",
                Cause::LocalSocket => "reset by a socket of this gateway itself",
                _ => "reset by this gateway, not by either end",
            };
            Headline::harm(format!("{} {was} {who}.", connections()), Some(what))
        }
        EvidenceRank::Forwarded => {
            Headline::harm(format!("{} {was} reset by an end, not by this gateway.", connections()), Some(what))
        }
        EvidenceRank::Answered => {
            let resets = counted(packets(|tally| tally.resets), "RST", "RSTs");
            let to = if count == 1 { "connection that it was" } else { "connections that they were" };
            Headline::harm(format!("{resets} of this gateway cannot have ended the {to} sent to."), Some(what))
        }
        EvidenceRank::Refused => {
            let refused = counted(packets(|tally| tally.invalid), "packet", "packets");
            let title = format!("conntrack refused {refused} of {} ({cause}); no RST answered.", connections());
            // Where it is known what happened to the packet, the flow's steps have it.
            let explained =
                |flow: &&Flow| flow.incident.logged.as_ref().is_some_and(|it| unanswered(flow, it).is_some());
            let rest = (!flows.iter().all(explained))
                .then(|| "A rule dropped the refused packets, or they went on untranslated.".to_owned());
            Headline::harm(title, rest)
        }
        EvidenceRank::Counted => {
            let refused = counted(packets(|tally| tally.invalid + tally.undecided), "packet", "packets");
            let resets = counted(packets(|tally| tally.resets), "RST", "RSTs");
            let title = format!("{refused} and {resets} of {} were counted in the kernel only.", connections());
            let rest = "They were rate-limited: counted, but not reported individually. Their effect on the connections is not known.";
            Headline::harm(title, Some(rest.to_owned()))
        }
        EvidenceRank::Undecided => {
            let remarks = counted(packets(|tally| tally.undecided), "packet", "packets");
            let title = format!("conntrack logged {remarks}; this kernel's message does not show the verdict.");
            Headline::harm(title, None)
        }
        EvidenceRank::Ignored => {
            let number = packets(|tally| tally.ignored);
            let them = if number == 1 { "it" } else { "them" };
            let title = format!(
                "conntrack logged {} ({cause}) and accepted {them}: forwarded as usual, nothing was reset.",
                counted(number, "packet", "packets")
            );
            Headline { title, paragraph: None, weight: Weight::Harmless, accepted: flows }
        }
    }
}
