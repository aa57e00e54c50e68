//! What a packet's comment says: `key=value` pairs that a display filter can look for, and sentences for eyes.

use std::fmt::{self, Write as _};

use tracer_engine::engine::{Kind, Observed};
use tracer_engine::flow::Flow;
use tracer_model::capture::Host;
use tracer_model::cause::{Cause, Diagnosis};
use tracer_model::conntrack::Verdict;
use tracer_model::event::Event;

use super::plain::{self, Value};
use super::words;

/// Most bytes of a comment.
const LIMIT: usize = 2_048;

/// An event, with what the whole capture says of its flow.
#[derive(Clone, Copy)]
pub struct AnnotatedEvent<'a> {
    /// What the event was when it came.
    pub observed: &'a Observed,
    /// The event.
    pub event: &'a Event,
    /// The record that it was made of.
    pub record: &'a [u8],
    /// Its flow: as it was at the end, where it was not forgotten.
    pub flow: Option<&'a Flow>,
    /// Whether the flow's story is the whole capture's.
    pub settled: bool,
    /// The host.
    pub host: &'a Host,
}

/// The event of an observation; `None` where a filter does not want it.
pub fn event(observed: &Observed) -> Option<&Event> {
    Some(match &observed.kind {
        Kind::Unwanted => return None,
        Kind::ConntrackVerdict(logged, _) => &logged.event,
        Kind::Reset(reset, ..) => &reset.event,
        Kind::Remark(event) | Kind::ResetOutput(event) | Kind::PeerReset(event) | Kind::ResetReceived(event) => event,
    })
}

impl AnnotatedEvent<'_> {
    /// The step, in the words of the JSON.
    pub(super) fn step(&self) -> &'static str {
        match &self.observed.kind {
            Kind::Unwanted => "unwanted",
            Kind::ConntrackVerdict(logged, _) => match logged.verdict {
                Verdict::Invalid => "conntrack-invalid",
                Verdict::Ignored => "conntrack-ignored",
                Verdict::Unknown => "conntrack-undecided",
            },
            Kind::Remark(_) => "conntrack-remark",
            Kind::Reset(..) => "reset-sent",
            Kind::ResetOutput(_) => "reset-output",
            Kind::PeerReset(_) => "peer-reset-sent",
            Kind::ResetReceived(_) => "peer-reset-received",
        }
    }

    /// The cause that the event itself speaks for.
    const fn diagnosis(&self) -> Option<Diagnosis> {
        match &self.observed.kind {
            Kind::ConntrackVerdict(_, diagnosis) | Kind::Reset(_, diagnosis, _) => Some(*diagnosis),
            Kind::ResetReceived(_) => Some(Diagnosis::plain(Cause::PeerReset)),
            _ => None,
        }
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
        if let Some(Diagnosis { cause, reason }) = self.diagnosis() {
            write!(line, " cause={cause}")?;
            if let Some(reason) = reason {
                write!(line, " reason={reason}")?;
            }
        }
        match &self.observed.kind {
            Kind::ConntrackVerdict(logged, _) => {
                write!(line, " verdict={}", logged.verdict.name())?;
                if let Some(window) = &logged.window {
                    write!(line, " failed={} distance_bytes={}", window.failure.inequality(), window.distance)?;
                }
            }
            Kind::Reset(reset, _, confidence) => {
                write!(line, " by={} effect={} confidence={confidence}", reset.by, reset.effect.name())?;
                if reset.doubtful {
                    line.push_str(" doubtful");
                }
            }
            _ => {}
        }
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

    /// What the event means, for eyes.
    pub(super) fn sentence(&self) -> Option<String> {
        let text = match &self.observed.kind {
            Kind::ConntrackVerdict(logged, _) => words::window(&logged.window?),
            Kind::Reset(reset, ..) => words::effect(reset, words::peer(self.flow, reset)),
            _ => return None,
        };
        Some(plain::line(&text, LIMIT))
    }
}
