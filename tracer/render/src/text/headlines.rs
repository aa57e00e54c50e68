//! The summary: one paragraph per kind of incident.

use std::fmt::{self, Write};

use tracer_engine::flow::Flow;

use super::Text;
use crate::sentences::{Weight, counted, headlines};
use crate::style::{FAINT, GOOD, STRONG};

/// Accepted flows that are listed.
const NAMED: usize = 5;
/// Headlines of the same cause.
const HEADLINES: usize = 4;

impl Text<'_> {
    /// One paragraph per kind of incident.
    pub(super) fn headlines(&mut self) -> fmt::Result {
        let most = if self.all { usize::MAX } else { HEADLINES };
        for headline in headlines(self.report, most) {
            match headline.weight {
                Weight::Harm => self.line(STRONG, &headline.title)?,
                Weight::Harmless => self.line(GOOD, &headline.title)?,
                Weight::Folded => self.line(FAINT, &format!("{}; --verbose lists all", headline.title))?,
            }
            if let Some(paragraph) = &headline.paragraph {
                self.paragraph(paragraph)?;
            }
            self.accepted(&headline.accepted)?;
        }
        Ok(())
    }

    /// Flows whose packets were all accepted, one line each; with `--verbose` they follow in full.
    fn accepted(&mut self, flows: &[&Flow]) -> fmt::Result {
        for flow in flows.iter().take(NAMED) {
            let reason = flow.incident.diagnosis.reason.map_or_else(String::new, |reason| format!(" {reason}"));
            let count = counted(flow.tally().ignored, "packet", "packets");
            writeln!(self.to, "  {}  {FAINT}{count}{reason}{FAINT:#}", self.path(flow))?;
        }
        match flows.len().saturating_sub(NAMED) {
            more @ 1.. if !self.all => writeln!(self.to, "  {FAINT}and {more} more; --verbose lists all{FAINT:#}"),
            _ => Ok(()),
        }
    }
}
