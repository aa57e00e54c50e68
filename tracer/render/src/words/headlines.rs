//! What happened, a headline per kind of thing: the sentences that a report begins with.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use tracer_advice::report::Report;
use tracer_engine::flow::{EvidenceRank, Flow, Tally};
use tracer_model::cause::Cause;

use super::{counted, incident, unanswered};

/// How much a headline weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    /// Something was lost.
    Harm,
    /// Nothing was lost.
    Harmless,
    /// How much there is that is not told here.
    Folded,
}

/// One kind of thing that happened, and the flows that it happened to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Headline<'a> {
    /// It in one sentence.
    pub(crate) title: String,
    /// What it came from, where there is more to say.
    pub(crate) paragraph: Option<String>,
    /// How much it weighs.
    pub(crate) weight: Weight,
    /// Its flows, where they are to be named because nothing else tells of them.
    pub(crate) accepted: Vec<&'a Flow>,
}

impl Headline<'_> {
    fn harm(title: String, paragraph: Option<String>) -> Self {
        Self { title, paragraph, weight: Weight::Harm, accepted: Vec::new() }
    }
}

/// What is told of flows, and of which.
type Stories<'a> = BTreeMap<String, Vec<&'a Flow>>;

/// The headlines of a report, the worst first; at least one, and of each cause not more than `most`: a story can name a
/// process or an address, so that there may be as many as flows.
pub(crate) fn headlines(report: &Report, most: usize) -> Vec<Headline<'_>> {
    let mut groups: BTreeMap<(Reverse<EvidenceRank>, Cause), Stories<'_>> = BTreeMap::new();
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
            let incidents = counted(folded.len() as u64, "other story", "other stories");
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
            // Where it is known what became of the packet, the flow says so.
            let told = |flow: &&Flow| flow.incident.logged.as_ref().is_some_and(|it| unanswered(flow, it).is_some());
            let rest = (!flows.iter().all(told))
                .then(|| "A rule dropped what was refused, or it went on untranslated.".to_owned());
            Headline::harm(title, rest)
        }
        EvidenceRank::Counted => {
            let refused = counted(packets(|tally| tally.invalid + tally.undecided), "packet", "packets");
            let resets = counted(packets(|tally| tally.resets), "RST", "RSTs");
            let title = format!("{refused} and {resets} of {} were counted in the kernel only.", connections());
            let rest = "There were too many to be told one by one: what they did to the connections is not known.";
            Headline::harm(title, Some(rest.to_owned()))
        }
        EvidenceRank::Undecided => {
            let remarks = counted(packets(|tally| tally.undecided), "packet", "packets");
            let title = format!("conntrack remarked on {remarks}; this kernel's words do not say what it did with it.");
            Headline::harm(title, None)
        }
        EvidenceRank::Ignored => {
            let number = packets(|tally| tally.ignored);
            let them = if number == 1 { "it" } else { "them" };
            let title = format!(
                "conntrack remarked on {} ({cause}) and accepted {them}: forwarded as usual, nothing was reset.",
                counted(number, "packet", "packets")
            );
            Headline { title, paragraph: None, weight: Weight::Harmless, accepted: flows }
        }
    }
}
