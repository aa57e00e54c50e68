//! What happened, in one paragraph per kind of thing.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::{self, Write};

use super::Text;
use crate::causality::flow::{Flow, Strength};
use crate::cause::Cause;
use crate::render::style::{FAINT, GOOD, STRONG};
use crate::render::words::{counted, story, unanswered};

/// Flows that nothing happened to that are named.
const NAMED: usize = 5;
/// Stories of the same cause that are told.
const STORIES: usize = 4;

/// What is told of flows, and of which.
type Stories<'a> = BTreeMap<String, Vec<&'a Flow>>;

impl Text<'_> {
    /// What happened, one paragraph per kind of thing.
    pub(super) fn headlines(&mut self) -> fmt::Result {
        let mut groups: BTreeMap<(Reverse<Strength>, Cause), Stories<'_>> = BTreeMap::new();
        for flow in self.report.flows.iter().map(|flow| &flow.flow) {
            let strength = flow.story.strength();
            let what = if strength >= Strength::Forwarded { story(flow) } else { String::new() };
            let cause = groups.entry((Reverse(strength), flow.story.diagnosis.cause)).or_default();
            cause.entry(what).or_default().push(flow);
        }
        let dropped = self.report.summary.table_full_drops;
        if dropped > 0 {
            let packets = counted(dropped, "packet of a new connection was", "packets of new connections were");
            self.line(STRONG, &format!("{packets} dropped: the conntrack table was full."))?;
        }
        if groups.is_empty() && dropped > 0 {
            return Ok(());
        }
        if groups.is_empty() {
            return self.line(GOOD, "Nothing was reset and no packet was refused.");
        }
        for ((strength, cause), stories) in groups {
            // A story can name a process or an address: there may be as many as flows.
            let most = if self.all { usize::MAX } else { STORIES };
            let folded = stories.len().saturating_sub(most);
            let others: usize = stories.values().skip(most).map(Vec::len).sum();
            for (what, flows) in stories.iter().take(most) {
                self.headline(strength.0, cause, what, flows)?;
            }
            if folded > 0 {
                let others = counted(others as u64, "connection", "connections");
                let stories = counted(folded as u64, "other story", "other stories");
                self.line(
                    FAINT,
                    &format!("and {others} of the same cause ({cause}) with {stories}; --verbose tells all"),
                )?;
            }
        }
        Ok(())
    }

    fn headline(&mut self, strength: Strength, cause: Cause, what: &str, flows: &[&Flow]) -> fmt::Result {
        let count = flows.len() as u64;
        let was = if count == 1 { "was" } else { "were" };
        let packets = |select: fn(&Flow) -> u64| flows.iter().map(|flow| select(flow)).sum::<u64>();
        let connections = counted(count, "connection", "connections");
        match strength {
            Strength::Killed => {
                let who = match cause {
                    Cause::NoListener => "refused by this gateway itself",
                    Cause::RejectRule => "reset by a REJECT rule of this gateway",
                    Cause::LocalSocket => "reset by a socket of this gateway itself",
                    _ => "reset by this gateway, not by either end",
                };
                self.line(STRONG, &format!("{connections} {was} {who}."))?;
                self.paragraph(what)
            }
            Strength::Forwarded => {
                self.line(STRONG, &format!("{connections} {was} reset by an end, not by this gateway."))?;
                self.paragraph(what)
            }
            Strength::Answered => {
                let resets = counted(packets(|flow| flow.tally().resets), "RST", "RSTs");
                let to = if count == 1 { "connection that it was" } else { "connections that they were" };
                self.line(STRONG, &format!("{resets} of this gateway cannot have ended the {to} sent to."))?;
                self.paragraph(what)
            }
            Strength::Refused => {
                let refused = counted(packets(|flow| flow.tally().invalid), "packet", "packets");
                self.line(
                    STRONG,
                    &format!("conntrack refused {refused} of {connections} ({cause}); no RST answered."),
                )?;
                // Where it is known what became of the packet, the flow says so.
                let told = |flow: &&Flow| flow.story.refusal.as_ref().is_some_and(|it| unanswered(flow, it).is_some());
                if flows.iter().all(told) {
                    return Ok(());
                }
                self.paragraph("A rule dropped what was refused, or it went on untranslated.")
            }
            Strength::Undecided => {
                let remarks = counted(packets(|flow| flow.tally().undecided), "packet", "packets");
                let what = "this kernel's words do not say what it did with it";
                self.line(STRONG, &format!("conntrack remarked on {remarks}; {what}."))
            }
            Strength::Ignored => {
                let number = packets(|flow| flow.tally().ignored);
                let ignored = counted(number, "packet", "packets");
                let them = if number == 1 { "it" } else { "them" };
                let text = format!(
                    "conntrack remarked on {ignored} ({cause}) and accepted {them}: forwarded as usual, nothing was reset."
                );
                self.line(GOOD, &text)?;
                self.accepted(flows)
            }
        }
    }

    /// Flows that nothing happened to, a line each; where all are told they follow in full.
    fn accepted(&mut self, flows: &[&Flow]) -> fmt::Result {
        for flow in flows.iter().take(NAMED) {
            let reason = flow.story.diagnosis.reason.map_or_else(String::new, |reason| format!(" {reason}"));
            let count = counted(flow.tally().ignored, "packet", "packets");
            writeln!(self.to, "  {}  {FAINT}{count}{reason}{FAINT:#}", self.path(flow))?;
        }
        match flows.len().saturating_sub(NAMED) {
            more @ 1.. if !self.all => writeln!(self.to, "  {FAINT}and {more} more; --verbose tells all{FAINT:#}"),
            _ => Ok(()),
        }
    }
}
