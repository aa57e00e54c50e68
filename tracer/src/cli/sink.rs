//! What `capture`, `compare`, `recorder` and the pipeline share: sinks for the items of a capture, and the exit status.

use std::process::ExitCode;

use tracer_advice::report::Report;
use tracer_engine::engine::{Kind, Observed};
use tracer_engine::flow::EvidenceRank;
use tracer_engine::session::Session;
use tracer_model::capture::Item;
use tracer_model::cause::Cause;
use tracer_model::filter::Filter;

use super::FOUND;

/// A consumer of a capture: it gets every item, and what the session derived from it.
pub(super) trait Sink {
    fn item(&mut self, item: &Item, observed: Option<&Observed>, session: &Session) -> anyhow::Result<()>;

    /// Whether it needs the counters now, before their next turn.
    fn wants_counters(&self) -> bool {
        false
    }

    /// Whether it writes a series of files.
    fn rotates(&self) -> bool {
        false
    }

    /// Ends the current file at the next counters.
    fn hang_up(&mut self) {}

    fn end(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}

/// The exit status: [`FOUND`] if the report has one of these causes.
pub(super) fn exit_status(report: &Report, fail_on: &[Cause]) -> ExitCode {
    let found = report.flows.iter().any(|flow| {
        flow.flow.incident.rank() > EvidenceRank::Ignored && fail_on.contains(&flow.flow.incident.diagnosis.cause)
    });
    let full = report.summary.table_full_drops > 0 && fail_on.contains(&Cause::TableFull);
    if found || full { ExitCode::from(FOUND) } else { ExitCode::SUCCESS }
}

/// Whether an event matches the filter: its flow, and its cause.
pub(super) fn wanted(observed: &Observed, filter: &Filter) -> bool {
    match observed.diagnosis() {
        _ if matches!(observed.kind, Kind::Unwanted) => false,
        Some(diagnosis) => filter.matches_cause(diagnosis.cause),
        None => filter.is_empty() || observed.flow.is_some(),
    }
}
