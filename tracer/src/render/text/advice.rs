//! What should be known besides the flows, and what would cure them.

use std::fmt::{self, Write};

use anstyle::Style;

use super::Text;
use crate::capture::HookState;
use crate::diagnosis::Severity;
use crate::render::plain::Plain;
use crate::render::style::{BAD, FAINT, STRONG, WARN};
use crate::report::HookLine;

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

    pub(super) fn cures(&mut self) -> fmt::Result {
        for mitigation in &self.report.mitigations {
            writeln!(self.to, "\n{STRONG}{}{STRONG:#}  {}", mitigation.id.name(), mitigation.title)?;
            for command in &mitigation.commands {
                writeln!(self.to, "  {}", Plain(command))?;
            }
            for effect in &mitigation.side_effects {
                self.labelled("price: ", effect)?;
            }
            for command in &mitigation.undo {
                writeln!(self.to, "  undo: {}", Plain(command))?;
            }
        }
        Ok(())
    }
}
