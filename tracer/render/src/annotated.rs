//! An event with the conclusion about its flow, and its comment in a packet: `key=value` pairs for a display filter, and sentences.

use std::fmt::{self, Write as _};

use tracer_engine::engine::{Kind, Observed};
use tracer_engine::flow::Flow;
use tracer_engine::timeline::StepKind;
use tracer_model::capture::Host;
use tracer_model::cause::Diagnosis;
use tracer_model::event::Event;

use super::plain::{self, Value};
use super::sentences;

/// Most bytes of a comment.
const LIMIT: usize = 2_048;

/// An event, with the conclusion of the whole capture about its flow.
#[derive(Clone, Copy)]
pub struct AnnotatedEvent<'a> {
    /// The event as it was classified when it came.
    pub observed: &'a Observed,
    /// The event.
    pub event: &'a Event,
    /// The record that it was decoded from.
    pub record: &'a [u8],
    /// Its flow: as it was at the end, unless it was evicted.
    pub flow: Option<&'a Flow>,
    /// Whether the flow is that of the report.
    pub settled: bool,
    /// The host.
    pub host: &'a Host,
}

impl AnnotatedEvent<'_> {
    /// The step's name.
    pub(super) fn step(&self) -> &'static str {
        self.observed.step().map_or("unwanted", |step| step.kind.name())
    }

    /// The pairs, on one line.
    pub(super) fn pairs(&self) -> String {
        let mut line = String::new();
        // Writing to a String does not fail.
        let _infallible = self.write(&mut line);
        plain::line(&line, LIMIT)
    }

    fn write(&self, line: &mut String) -> fmt::Result {
        let event = self.event;
        write!(line, "step={}", self.step())?;
        if let Some(Diagnosis { cause, reason }) = self.observed.diagnosis() {
            write!(line, " cause={cause}")?;
            if let Some(reason) = reason {
                write!(line, " reason={reason}")?;
            }
        }
        self.evidence(line)?;
        if let Some(reason) = event.reset_reason.and_then(|value| self.host.reset_reason(value)) {
            write!(line, " kernel_reason={}", Value(reason))?;
        }
        if let Some(process) = event.process() {
            write!(line, " pid={} comm={}", process.pid, Value(process.comm.as_str()))?;
        }
        if let Some(hook) = event.nf_hook {
            write!(line, " nf_hook={}", Value(&hook.to_string()))?;
        }
        for (key, interface) in [("in", event.input), ("out", event.output)] {
            if let Some(interface) = interface {
                write!(line, " {key}={}", Value(&interface.to_string()))?;
            }
        }
        if let Some(entry) = event.connection() {
            write!(line, " state={}", entry.state)?;
        }
        self.flow(line)?;
        if let Some(netns) = event.netns {
            write!(line, " netns={netns}")?;
        }
        if let Some(text) = &event.words {
            write!(line, " kernel_text={}", Value(&text.to_string()))?;
        }
        if event.flags.incomplete {
            line.push_str(" incomplete");
        }
        if event.flags.from_fragment {
            line.push_str(" headers_from=fragment");
        }
        Ok(())
    }

    /// The pairs of the step's own evidence.
    fn evidence(&self, line: &mut String) -> fmt::Result {
        match self.observed.step().map(|step| step.kind) {
            Some(StepKind::Logged { logged, .. } | StepKind::AcceptedBefore(logged)) => {
                write!(line, " verdict={}", logged.verdict.name())?;
                if let Some(window) = &logged.window {
                    write!(line, " failed={} distance_bytes={}", window.failure.inequality(), window.distance)?;
                }
            }
            Some(StepKind::ResetSent { reset, .. }) => {
                write!(line, " by={} effect={}", reset.by, reset.effect.name())?;
                if let Kind::Reset(_, _, confidence) = &self.observed.kind {
                    write!(line, " confidence={confidence}")?;
                }
                if reset.doubtful {
                    line.push_str(" doubtful");
                }
            }
            None
            // The event itself is the evidence.
            | Some(
                StepKind::Remark(_)
                | StepKind::ResetOutput { .. }
                | StepKind::PeerResetSent { .. }
                | StepKind::PeerResetReceived { .. }
                // Conclusions and answers to look-ups, no events.
                | StepKind::EntryDestroyed(_)
                | StepKind::NatSkipped { .. }
                | StepKind::EntryState(_)
                | StepKind::PeerResetForwarded(_)
                | StepKind::EntryNotFound { .. }
                | StepKind::EntryUnknown { .. },
            ) => {}
        }
        Ok(())
    }

    fn flow(&self, line: &mut String) -> fmt::Result {
        let Some(flow) = self.flow else { return Ok(()) };
        write!(line, " flow={}", flow.id.0)?;
        let key = &flow.key;
        let ends = [
            ("client", Some(key.client())),
            ("nat", key.nat()),
            ("server", Some(key.server())),
            ("service", key.service()),
        ];
        for (name, end) in ends {
            if let Some(end) = end {
                write!(line, " {name}={end}")?;
            }
        }
        if !self.settled {
            return Ok(());
        }
        let Diagnosis { cause, reason } = flow.incident.diagnosis;
        write!(line, " flow_cause={cause}")?;
        if let Some(reason) = reason {
            write!(line, " flow_reason={reason}")?;
        }
        write!(line, " flow_confidence={}", flow.incident.confidence)?;
        flow.reset_by().map_or(Ok(()), |by| write!(line, " reset_by={by}"))
    }

    /// The event in a sentence.
    pub(super) fn sentence(&self) -> Option<String> {
        let text = match &self.observed.kind {
            Kind::ConntrackVerdict(logged, _) => sentences::window(&logged.window?),
            Kind::Reset(reset, ..) => sentences::effect(reset, sentences::peer(self.flow, reset)),
            Kind::Unwanted | Kind::Remark(_) | Kind::ResetOutput(_) | Kind::PeerReset(_) | Kind::ResetReceived(_) => {
                return None;
            }
        };
        Some(plain::line(&text, LIMIT))
    }
}
