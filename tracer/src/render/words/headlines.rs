//! What happened, a headline per kind of thing: the sentences that a report begins with.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::{counted, story, unanswered};
use crate::causality::flow::{Flow, Strength, Tally};
use crate::cause::Cause;
use crate::report::Report;

/// One kind of thing that happened, and the flows that it happened to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::render) struct Headline<'a> {
    /// It in one sentence.
    pub(in crate::render) title: String,
    /// What it came from, where there is more to say.
    pub(in crate::render) paragraph: Option<String>,
    /// Nothing was lost by it.
    pub(in crate::render) harmless: bool,
    /// Its flows, where they are to be named because nothing else tells of them.
    pub(in crate::render) accepted: Vec<&'a Flow>,
}

impl Headline<'_> {
    fn harm(title: String, paragraph: Option<String>) -> Self {
        Self { title, paragraph, harmless: false, accepted: Vec::new() }
    }
}

/// The headlines of a report, the worst first; at least one.
pub(in crate::render) fn headlines(report: &Report) -> Vec<Headline<'_>> {
    let mut groups: BTreeMap<(Reverse<Strength>, Cause, String), Vec<&Flow>> = BTreeMap::new();
    for flow in report.flows.iter().map(|flow| &flow.flow) {
        let strength = flow.story.strength();
        let what = if strength >= Strength::Forwarded { story(flow) } else { String::new() };
        groups.entry((Reverse(strength), flow.story.diagnosis.cause, what)).or_default().push(flow);
    }
    let mut found = Vec::new();
    let dropped = report.summary.table_full_drops;
    if dropped > 0 {
        let packets = counted(dropped, "packet of a new connection was", "packets of new connections were");
        found.push(Headline::harm(format!("{packets} dropped: the conntrack table was full."), None));
    }
    found.extend(groups.into_iter().map(|((strength, cause, what), flows)| headline(strength.0, cause, what, flows)));
    if found.is_empty() {
        let title = "Nothing was reset and no packet was refused.".to_owned();
        found.push(Headline { title, paragraph: None, harmless: true, accepted: Vec::new() });
    }
    found
}

fn headline(strength: Strength, cause: Cause, what: String, flows: Vec<&Flow>) -> Headline<'_> {
    let count = flows.len() as u64;
    let was = if count == 1 { "was" } else { "were" };
    let packets = |select: fn(&Tally) -> u64| flows.iter().map(|flow| select(&flow.tally())).sum::<u64>();
    let connections = || counted(count, "connection", "connections");
    match strength {
        Strength::Killed => {
            let who = match cause {
                Cause::NoListener => "refused by this gateway itself",
                Cause::RejectRule => "reset by a REJECT rule of this gateway",
                Cause::LocalSocket => "reset by a socket of this gateway itself",
                _ => "reset by this gateway, not by either end",
            };
            Headline::harm(format!("{} {was} {who}.", connections()), Some(what))
        }
        Strength::Forwarded => {
            Headline::harm(format!("{} {was} reset by an end, not by this gateway.", connections()), Some(what))
        }
        Strength::Answered => {
            let resets = counted(packets(|tally| tally.resets), "RST", "RSTs");
            let (s, sent) = if count == 1 { ("", "it was sent to") } else { ("s", "they were sent to") };
            Headline::harm(
                format!("{resets} of this gateway cannot have ended the connection{s} that {sent}."),
                Some(what),
            )
        }
        Strength::Refused => {
            let refused = counted(packets(|tally| tally.invalid), "packet", "packets");
            let title = format!("conntrack refused {refused} of {} ({cause}); no RST answered.", connections());
            // Where it is known what became of the packet, the flow says so.
            let told = |flow: &&Flow| flow.story.refusal.as_ref().is_some_and(|it| unanswered(flow, it).is_some());
            let rest = (!flows.iter().all(told))
                .then(|| "A rule dropped what was refused, or it went on untranslated.".to_owned());
            Headline::harm(title, rest)
        }
        Strength::Undecided => {
            let remarks = counted(packets(|tally| tally.undecided), "packet", "packets");
            let title = format!("conntrack remarked on {remarks}; this kernel's words do not say what it did with it.");
            Headline::harm(title, None)
        }
        Strength::Ignored => {
            let number = packets(|tally| tally.ignored);
            let them = if number == 1 { "it" } else { "them" };
            let title = format!(
                "conntrack remarked on {} ({cause}) and accepted {them}: forwarded as usual, nothing was reset.",
                counted(number, "packet", "packets")
            );
            Headline { title, paragraph: None, harmless: true, accepted: flows }
        }
    }
}
