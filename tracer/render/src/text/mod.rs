//! The report for a terminal: the headlines on one screen, then each flow step by step.
//!
//! Colours are always written; `anstream` removes them where they are not wanted.

mod advice;
mod flow;
mod headlines;
mod layout;
mod overview;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::time::Duration;

use tracer_advice::report::{FlowReport, Report};
use tracer_engine::flow::EvidenceRank;
use tracer_model::capture::HookState;

use self::layout::tied;
use self::overview::Kind;
use super::sentences::{self, TIED, counted};
use super::style::{FAINT, TextStyle};

/// Up to so many flows are all shown step by step; of more, the first of each kind.
const FEW: usize = 5;
/// Most kinds whose first flow is shown step by step, without `--verbose`.
const KINDS: usize = 8;

/// Renders the report.
pub fn render(report: &Report, style: TextStyle, all: bool) -> String {
    let mut text = String::new();
    let several = report.flows.iter().any(|flow| flow.flow.key.netns != report.flows[0].flow.key.netns);
    // Writing to a String does not fail.
    let _infallible = Text { to: &mut text, report, style, all, several }.report();
    text
}

struct Text<'a> {
    to: &'a mut String,
    report: &'a Report,
    style: TextStyle,
    /// Nothing is folded.
    all: bool,
    /// The flows are of more than one namespace.
    several: bool,
}

impl<'a> Text<'a> {
    fn report(&mut self) -> fmt::Result {
        self.header()?;
        self.headlines()?;
        // The flows are sorted by rank.
        let shown: Vec<&'a FlowReport> = self
            .report
            .flows
            .iter()
            .filter(|flow| self.all || flow.flow.incident.rank() > EvidenceRank::Ignored)
            .collect();
        if shown.len() > FEW {
            self.overview(&shown)?;
        }
        if self.all || shown.len() <= FEW {
            for (index, flow) in shown.iter().enumerate() {
                self.flow(index + 1, flow)?;
            }
        } else {
            self.first_of_each_kind(&shown)?;
        }
        self.findings()?;
        self.mitigations()
    }

    fn header(&mut self) -> fmt::Result {
        let report = self.report;
        let host = &report.host;
        let attached = report.hooks.iter().filter(|line| line.state == HookState::Attached).count();
        let parts = [
            format!("whyrst {}", host.tool),
            host.hostname.clone(),
            format!("Linux {}", host.kernel),
            self.started(),
            seconds(report.duration()),
            counted(attached as u64, "hook", "hooks"),
            sentences::events(report),
        ];
        let parts: Vec<String> = parts.iter().map(|part| tied(part)).collect();
        self.line(FAINT, &parts.join(&format!("{}{} ", TIED, self.style.dot())))?;
        if let Some(hidden) = report.filtered {
            self.line(FAINT, &format!("filtered: {} of other flows left out", counted(hidden, "event", "events")))?;
        }
        writeln!(self.to)
    }

    /// When the capture began, with the time zone.
    fn started(&self) -> String {
        let start = self.local(self.report.started);
        let offset = self.style.offset(start.timestamp());
        let zone = if offset.is_empty() { "UTC" } else { offset.as_str() };
        format!("{} {zone}", start.strftime("%Y-%m-%d %H:%M:%S"))
    }

    /// The first flow of each kind in full, and how many more there are of it.
    fn first_of_each_kind(&mut self, shown: &[&FlowReport]) -> fmt::Result {
        let mut kinds: BTreeMap<Kind, (usize, u64)> = BTreeMap::new();
        for (index, report) in shown.iter().enumerate() {
            kinds.entry(Kind::of(&report.flow, &self.report.host)).or_insert((index, 0)).1 += 1;
        }
        let count = kinds.len();
        let mut firsts: Vec<(usize, u64)> = kinds.into_values().collect();
        firsts.sort_unstable();
        let more = self.style.pick("…", "...");
        for (index, flows) in firsts.into_iter().take(KINDS) {
            self.flow(index + 1, shown[index])?;
            if flows > 1 {
                let others = counted(flows - 1, "more flow", "more flows");
                self.line(FAINT, &format!("  {more} and {others} like #{}; --verbose shows all", index + 1))?;
            }
        }
        let folded = count.saturating_sub(KINDS);
        if folded > 0 {
            let kinds = counted(folded as u64, "kind", "kinds");
            writeln!(self.to)?;
            self.line(FAINT, &format!("{more} and flows of {kinds} more; --verbose shows all"))?;
        }
        Ok(())
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
