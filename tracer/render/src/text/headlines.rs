//! What happened, in one paragraph per kind of thing.

use std::fmt::{self, Write};

use tracer_engine::flow::Flow;

use super::Text;
use crate::sentences::{Weight, counted, headlines};
use crate::style::{FAINT, GOOD, STRONG};

/// Flows that nothing happened to that are named.
const NAMED: usize = 5;
/// Stories of the same cause that are told.
const STORIES: usize = 4;

impl Text<'_> {
    /// What happened, one paragraph per kind of thing.
    pub(super) fn headlines(&mut self) -> fmt::Result {
        let most = if self.all { usize::MAX } else { STORIES };
        for headline in headlines(self.report, most) {
            match headline.weight {
                Weight::Harm => self.line(STRONG, &headline.title)?,
                Weight::Harmless => self.line(GOOD, &headline.title)?,
                Weight::Folded => self.line(FAINT, &format!("{}; --verbose tells all", headline.title))?,
            }
            if let Some(paragraph) = &headline.paragraph {
                self.paragraph(paragraph)?;
            }
            self.accepted(&headline.accepted)?;
        }
        Ok(())
    }

    /// Flows that nothing happened to, a line each; where all are told they follow in full.
    fn accepted(&mut self, flows: &[&Flow]) -> fmt::Result {
        for flow in flows.iter().take(NAMED) {
            let reason = flow.incident.diagnosis.reason.map_or_else(String::new, |reason| format!(" {reason}"));
            let count = counted(flow.tally().ignored, "packet", "packets");
            writeln!(self.to, "  {}  {FAINT}{count}{reason}{FAINT:#}", self.path(flow))?;
        }
        match flows.len().saturating_sub(NAMED) {
            more @ 1.. if !self.all => writeln!(self.to, "  {FAINT}and {more} more; --verbose tells all{FAINT:#}"),
            _ => Ok(()),
        }
    }
}
