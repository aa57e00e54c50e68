//! What happened, in one paragraph per kind of thing.

use std::fmt::{self, Write};

use super::Text;
use crate::causality::flow::Flow;
use crate::render::style::{FAINT, GOOD, STRONG};
use crate::render::words::{counted, headlines};

/// Flows that nothing happened to that are named.
const NAMED: usize = 5;

impl Text<'_> {
    /// What happened, one paragraph per kind of thing.
    pub(super) fn headlines(&mut self) -> fmt::Result {
        for headline in headlines(self.report) {
            let style = if headline.harmless { GOOD } else { STRONG };
            writeln!(self.to, "{style}{}{style:#}", headline.title)?;
            if let Some(paragraph) = &headline.paragraph {
                self.paragraph(paragraph)?;
            }
            self.accepted(&headline.accepted)?;
        }
        Ok(())
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
