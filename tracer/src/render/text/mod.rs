//! The report for a terminal: what happened in one screen, then each flow step by step.
//!
//! Colours are always written; `anstream` takes them out where they are not wanted.

mod advice;
mod flow;
mod headlines;
mod layout;

use std::fmt::{self, Write};
use std::time::Duration;

use super::style::{FAINT, Look};
use super::words::counted;
use crate::capture::HookState;
use crate::causality::flow::Strength;
use crate::report::{FlowReport, Report};

/// Flows that are told step by step unless all are asked for.
const TOLD: usize = 20;

/// Renders the report.
pub fn render(report: &Report, look: Look, all: bool) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _infallible = Text { to: &mut text, report, look }.report(all);
    text
}

struct Text<'a> {
    to: &'a mut String,
    report: &'a Report,
    look: Look,
}

impl Text<'_> {
    fn report(&mut self, all: bool) -> fmt::Result {
        self.header()?;
        self.headlines()?;
        let told: Vec<&FlowReport> =
            self.report.flows.iter().filter(|flow| all || flow.flow.story.strength() > Strength::Ignored).collect();
        let most = if all { usize::MAX } else { TOLD };
        for (index, flow) in told.iter().take(most).enumerate() {
            self.flow(index + 1, flow)?;
        }
        let folded = told.len().saturating_sub(most);
        if folded > 0 {
            let more = counted(folded as u64, "flow", "flows");
            writeln!(self.to, "\n{} and {more} like these; --verbose tells all.", self.look.pick("…", "..."))?;
        }
        self.findings()?;
        self.cures()
    }

    fn header(&mut self) -> fmt::Result {
        let report = self.report;
        let host = &report.host;
        let attached = report.hooks.iter().filter(|line| line.state == HookState::Attached).count();
        let dot = self.look.dot();
        let start = host.clock.wall(report.started).strftime("%Y-%m-%d %H:%M:%S UTC");
        writeln!(
            self.to,
            "{FAINT}whyrst {} {dot} {} {dot} Linux {} {dot} {start} {dot} {} {dot} {} {dot} {}, {} lost{FAINT:#}",
            host.tool,
            host.hostname,
            host.kernel,
            seconds(report.duration()),
            counted(attached as u64, "hook", "hooks"),
            counted(report.events, "event", "events"),
            report.lost,
        )?;
        if let Some(hidden) = report.filtered {
            writeln!(
                self.to,
                "{FAINT}filtered: {} of other flows left out{FAINT:#}",
                counted(hidden, "event", "events")
            )?;
        }
        writeln!(self.to)
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
