//! The report for a terminal: what happened in one screen, then each flow step by step.
//!
//! Colours are always written; `anstream` takes them out where they are not wanted.

use std::fmt::{self, Write};
use std::time::Duration;

use textwrap::Options;

use super::style::{BAD, FAINT, GOOD, Look, STRONG, WARN};
use super::words::{Mark, counted, headlines, kernel_reason, steps};
use crate::capture::HookState;
use crate::causality::flow::{Flow, Strength};
use crate::cause::Confidence;
use crate::diagnosis::Severity;
use crate::report::{FlowReport, HookLine, Report};

/// Columns of the time of a step.
const TIME: usize = 15;
/// Columns of who takes a step.
const WHO: usize = 9;
/// Columns before the text of a step: margin, time, gap, who, gap, symbol, gap.
const INDENT: usize = 2 + TIME + 2 + WHO + 1 + 1 + 1;
/// Flows that nothing happened to that are named.
const NAMED: usize = 5;
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

    /// What happened, one paragraph per kind of thing.
    fn headlines(&mut self) -> fmt::Result {
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

    /// The endpoints of a flow, as a packet of the client's meets them.
    fn path(&self, flow: &Flow) -> String {
        let key = &flow.key;
        let stations = [Some(key.client()), key.nat(), key.service(), Some(key.server())];
        let stations: Vec<String> = stations.into_iter().flatten().map(|endpoint| endpoint.to_string()).collect();
        stations.join(&format!(" {} ", self.look.arrow()))
    }

    fn flow(&mut self, number: usize, report: &FlowReport) -> fmt::Result {
        let flow = &report.flow;
        let path = self.path(flow);
        let diagnosis = flow.story.diagnosis;
        let dot = self.look.dot();
        let reason = diagnosis.reason.map(|reason| reason.name().to_owned());
        let what = match reason.or_else(|| kernel_reason(flow, &self.report.host)) {
            Some(reason) => format!("{} {dot} {reason}", diagnosis.cause),
            None => diagnosis.cause.to_string(),
        };
        let sure = match flow.story.confidence {
            Confidence::Proven => format!("{GOOD}proven{GOOD:#}"),
            Confidence::Inferred => format!("{WARN}inferred{WARN:#}"),
        };
        let place = self.place(report);
        writeln!(self.to, "\n{STRONG}#{number}  {path}{STRONG:#}      {what}      {sure}{place}")?;
        for step in steps(report, &self.report.host, self.look) {
            self.row(&step.time, step.who, &self.symbol(step.mark), &step.text)?;
        }
        self.below(report)
    }

    /// The flow's namespace, where the report tells of more than one: addresses do not say which.
    fn place(&self, report: &FlowReport) -> String {
        let here = report.flow.key.netns;
        if self.report.flows.iter().all(|other| other.flow.key.netns == here) {
            return String::new();
        }
        match (&report.netns_name, here) {
            (Some(name), _) => format!("      in {name}"),
            (None, Some(inode)) => format!("      in netns {inode}"),
            (None, None) => String::new(),
        }
    }

    /// The symbol of a step.
    fn symbol(&self, mark: Mark) -> String {
        let look = self.look;
        let (style, symbol) = match mark {
            Mark::More => return " ".to_owned(),
            Mark::Segment => return look.pick("▸", ">").to_owned(),
            Mark::Back => return look.pick("←", "<").to_owned(),
            Mark::Entry => return look.pick("·", "-").to_owned(),
            Mark::Unknown => return "?".to_owned(),
            Mark::Bad => (BAD, look.pick("✗", "x")),
            Mark::Good => (GOOD, look.pick("✓", "ok")),
            Mark::Unsure => (WARN, "?"),
        };
        format!("{style}{symbol}{style:#}")
    }

    /// What it was not, and what would cure it.
    fn below(&mut self, report: &FlowReport) -> fmt::Result {
        let dot = self.look.dot();
        if !report.excluded.is_empty() {
            let parts: Vec<String> = report
                .excluded
                .iter()
                .map(|exclusion| format!("{} ({})", exclusion.cause, exclusion.because))
                .collect();
            self.labelled("not the cause: ", &parts.join(&format!(" {dot} ")))?;
        }
        if !report.mitigations.is_empty() {
            let names: Vec<&str> = report.mitigations.iter().map(|id| id.name()).collect();
            self.labelled("cures: ", &names.join(&format!(" {dot} ")))?;
        }
        Ok(())
    }

    fn findings(&mut self) -> fmt::Result {
        for finding in &self.report.findings {
            let style = match finding.severity {
                Severity::Critical => BAD,
                Severity::Warning => WARN,
                Severity::Info => FAINT,
            };
            write!(self.to, "\n{style}{}{style:#}: {}", finding.severity.name(), finding.title)?;
            for advice in &finding.advice {
                write!(self.to, "\n  {advice}")?;
            }
            writeln!(self.to)?;
        }
        let waiting: Vec<&HookLine> =
            self.report.hooks.iter().filter(|line| line.state != HookState::Attached).collect();
        if waiting.is_empty() || self.report.flows.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = waiting.iter().map(|line| line.hook.spec().symbol).collect();
        writeln!(self.to, "\n{FAINT}not attached: {}{FAINT:#}", names.join(", "))
    }

    fn cures(&mut self) -> fmt::Result {
        for mitigation in &self.report.mitigations {
            writeln!(self.to, "\n{STRONG}{}{STRONG:#}  {}", mitigation.id.name(), mitigation.title)?;
            for command in &mitigation.commands {
                writeln!(self.to, "  {command}")?;
            }
            for effect in &mitigation.side_effects {
                self.labelled("price: ", effect)?;
            }
            for command in &mitigation.undo {
                writeln!(self.to, "  undo: {command}")?;
            }
        }
        Ok(())
    }

    /// One step, wrapped below its own text.
    fn row(&mut self, time: &str, who: &str, symbol: &str, text: &str) -> fmt::Result {
        let first = format!("  {FAINT}{time:>TIME$}{FAINT:#}  {who:<WHO$} {symbol} ");
        let mut lines = self.wrap(text, INDENT).into_iter();
        writeln!(self.to, "{first}{}", lines.next().unwrap_or_default())?;
        lines.try_for_each(|line| writeln!(self.to, "{:INDENT$}{line}", ""))
    }

    fn labelled(&mut self, label: &str, text: &str) -> fmt::Result {
        let indent = 2 + label.len();
        let mut lines = self.wrap(text, indent).into_iter();
        writeln!(self.to, "  {FAINT}{label}{FAINT:#}{}", lines.next().unwrap_or_default())?;
        lines.try_for_each(|line| writeln!(self.to, "{:indent$}{line}", ""))
    }

    fn paragraph(&mut self, text: &str) -> fmt::Result {
        self.wrap(text, 2).into_iter().try_for_each(|line| writeln!(self.to, "  {line}"))
    }

    fn wrap(&self, text: &str, indent: usize) -> Vec<String> {
        match self.look.width.and_then(|width| width.checked_sub(indent)).filter(|width| *width >= 20) {
            Some(width) => {
                let options = Options::new(width).break_words(false);
                textwrap::wrap(text, options).into_iter().map(std::borrow::Cow::into_owned).collect()
            }
            None => vec![text.to_owned()],
        }
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
