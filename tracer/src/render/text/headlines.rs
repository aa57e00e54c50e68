//! What happened, in one paragraph per kind of thing.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use super::Text;
use crate::causality::flow::{Flow, Strength};
use crate::cause::Cause;
use crate::render::style::{FAINT, GOOD, STRONG};
use crate::render::words::{counted, story, unanswered};

/// Flows that nothing happened to that are named.
const NAMED: usize = 5;

impl Text<'_> {
    /// What happened, one paragraph per kind of thing.
    pub(super) fn headlines(&mut self) -> fmt::Result {
        let mut groups: BTreeMap<(std::cmp::Reverse<Strength>, Cause, String), Vec<&Flow>> = BTreeMap::new();
        for flow in self.report.flows.iter().map(|flow| &flow.flow) {
            let strength = flow.story.strength();
            let what = if strength >= Strength::Forwarded { story(flow) } else { String::new() };
            groups.entry((std::cmp::Reverse(strength), flow.story.diagnosis.cause, what)).or_default().push(flow);
        }
        let dropped = self.report.summary.table_full_drops;
        if dropped > 0 {
            let packets = counted(dropped, "packet of a new connection was", "packets of new connections were");
            writeln!(self.to, "{STRONG}{packets} dropped: the conntrack table was full.{STRONG:#}")?;
        }
        if groups.is_empty() && dropped > 0 {
            return Ok(());
        }
        if groups.is_empty() {
            return writeln!(self.to, "{GOOD}Nothing was reset and no packet was refused.{GOOD:#}");
        }
        for ((strength, cause, what), flows) in groups {
            self.headline(strength.0, cause, &what, &flows)?;
        }
        Ok(())
    }

    fn headline(&mut self, strength: Strength, cause: Cause, what: &str, flows: &[&Flow]) -> fmt::Result {
        let count = flows.len() as u64;
        let was = if count == 1 { "was" } else { "were" };
        let packets = |select: fn(&Flow) -> u64| flows.iter().map(|flow| select(flow)).sum::<u64>();
        match strength {
            Strength::Killed => {
                let connections = counted(count, "connection", "connections");
                let who = match cause {
                    Cause::NoListener => "refused by this gateway itself",
                    Cause::RejectRule => "reset by a REJECT rule of this gateway",
                    Cause::LocalSocket => "reset by a socket of this gateway itself",
                    _ => "reset by this gateway, not by either end",
                };
                writeln!(self.to, "{STRONG}{connections} {was} {who}.{STRONG:#}")?;
                self.paragraph(what)
            }
            Strength::Forwarded => {
                let connections = counted(count, "connection", "connections");
                writeln!(self.to, "{STRONG}{connections} {was} reset by an end, not by this gateway.{STRONG:#}")?;
                self.paragraph(what)
            }
            Strength::Answered => {
                let resets = counted(packets(|flow| flow.tally().resets), "RST", "RSTs");
                writeln!(
                    self.to,
                    "{STRONG}{resets} of this gateway cannot have ended the connection{} that {}.{STRONG:#}",
                    if count == 1 { "" } else { "s" },
                    if count == 1 { "it was sent to" } else { "they were sent to" }
                )?;
                self.paragraph(what)
            }
            Strength::Refused => {
                let refused = counted(packets(|flow| flow.tally().invalid), "packet", "packets");
                let of = counted(count, "connection", "connections");
                writeln!(self.to, "{STRONG}conntrack refused {refused} of {of} ({cause}); no RST answered.{STRONG:#}")?;
                // Where it is known what became of the packet, the flow says so.
                let told = |flow: &&Flow| flow.story.refusal.as_ref().is_some_and(|it| unanswered(flow, it).is_some());
                if flows.iter().all(told) {
                    return Ok(());
                }
                self.paragraph("A rule dropped what was refused, or it went on untranslated.")
            }
            Strength::Undecided => {
                let remarks = counted(packets(|flow| flow.tally().undecided), "packet", "packets");
                writeln!(
                    self.to,
                    "{STRONG}conntrack remarked on {remarks}; this kernel's words do not say what it did with it.{STRONG:#}"
                )
            }
            Strength::Ignored => {
                let ignored = counted(packets(|flow| flow.tally().ignored), "packet", "packets");
                writeln!(
                    self.to,
                    "{GOOD}conntrack remarked on {ignored} ({cause}) and accepted {}: forwarded as usual, nothing was reset.{GOOD:#}",
                    if packets(|flow| flow.tally().ignored) == 1 { "it" } else { "them" }
                )?;
                self.accepted(flows)
            }
        }
    }

    /// Flows that nothing happened to, a line each.
    fn accepted(&mut self, flows: &[&Flow]) -> fmt::Result {
        for flow in flows.iter().take(NAMED) {
            let reason = flow.story.diagnosis.reason.map_or_else(String::new, |reason| format!(" {reason}"));
            let count = counted(flow.tally().ignored, "packet", "packets");
            writeln!(self.to, "  {}  {FAINT}{count}{reason}{FAINT:#}", self.path(flow))?;
        }
        match flows.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => writeln!(self.to, "  {FAINT}and {more} more; --verbose tells all{FAINT:#}"),
        }
    }
}
