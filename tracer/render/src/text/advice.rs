//! Findings and mitigations.

use std::fmt::{self, Write};

use anstyle::Style;

use tracer_engine::hook_line::HookLine;
use tracer_model::capture::HookState;
use tracer_model::finding::Severity;

use super::Text;
use crate::mitigations;
use crate::style::{BAD, FAINT, WARN};

impl Text<'_> {
    pub(super) fn findings(&mut self) -> fmt::Result {
        for finding in &self.report.findings {
            let style = match finding.severity {
                Severity::Critical => BAD,
                Severity::Warning => WARN,
                Severity::Info => FAINT,
            };
            writeln!(self.to)?;
            let severity = finding.severity.name();
            let indent = severity.len() + 2;
            self.block(&format!("{style}{severity}{style:#}: "), indent, Style::new(), &finding.title)?;
            for advice in &finding.advice {
                self.paragraph(advice)?;
            }
        }
        let waiting: Vec<&HookLine> =
            self.report.hooks.iter().filter(|line| line.state != HookState::Attached).collect();
        if waiting.is_empty() || self.report.flows.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = waiting.iter().map(|line| line.hook.spec().symbol).collect();
        writeln!(self.to)?;
        self.line(FAINT, &format!("not attached: {}", names.join(", ")))
    }

    pub(super) fn mitigations(&mut self) -> fmt::Result {
        for mitigation in &self.report.mitigations {
            mitigations::write(self.to, mitigation, self.style)?;
        }
        if self.report.mitigations.is_empty() {
            return Ok(());
        }
        writeln!(self.to, "\n{FAINT}more: whyrst mitigate ID (--apply, --undo){FAINT:#}")
    }
}
