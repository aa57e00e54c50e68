//! One line per event, for eyes and grep.
//!
//! A line is: time, hook, verdict, cause and reason, the segment as tcpdump prints it, then `key=value` pairs. Unknown values are
//! left out. Nothing spans two lines.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

use tracer_engine::engine::{Kind, Observed};
use tracer_engine::flow::Reset;
use tracer_engine::session::Session;
use tracer_engine::timeline::StepKind;
use tracer_model::cause::{Confidence, ResetBy};
use tracer_model::conntrack::Verdict;
use tracer_model::event::Event;
use tracer_model::packet::Flags;

use super::plain::{Plain, Value};
use super::sentences;
use super::style::{BAD, FAINT, GOOD, TextStyle, WARN};

/// How lines are drawn.
#[derive(Debug, Clone, Default)]
pub struct Lines {
    /// Symbols and times.
    pub style: TextStyle,
    /// Names of network namespaces that are known beforehand, by inode number.
    pub names: BTreeSet<(u32, String)>,
}

impl Lines {
    /// The line for an observation, without a line end; `None` for events that the filter does not want.
    pub fn line(&self, observed: &Observed, session: &Session) -> Option<String> {
        let (event, step) = (observed.event()?, observed.step()?);
        let mut line = String::new();
        // Writing to a String does not fail.
        let _infallible = self.write(&mut line, observed, (event, &step.kind), session);
        Some(line)
    }

    fn write(
        &self,
        line: &mut String,
        observed: &Observed,
        (event, step): (&Event, &StepKind<'_>),
        session: &Session,
    ) -> fmt::Result {
        let host = session.host();
        let at = host.clock.wall(event.at);
        let (time, offset) = (self.style.local(at), self.style.offset(at));
        write!(line, "{FAINT}{}{offset}{FAINT:#} {:<12} ", time.strftime("%H:%M:%S%.6f"), event.hook.name())?;
        let diagnosis = observed.diagnosis().map_or_else(|| "-".to_owned(), |diagnosis| diagnosis.to_string());
        match *step {
            StepKind::Logged { logged, .. } | StepKind::AcceptedBefore(logged) => {
                let (style, verdict) = match logged.verdict {
                    Verdict::Invalid => (BAD, "INVALID"),
                    Verdict::Ignored => (GOOD, "ignored"),
                    Verdict::Unknown => (WARN, "unclear"),
                };
                write!(line, "{style}{verdict}{style:#} {diagnosis} ")?;
                segment(line, event)?;
                if let Some(window) = &logged.window {
                    write!(line, " off_by={}", window.distance)?;
                }
            }
            StepKind::Remark(_) => {
                write!(line, "remark  {diagnosis} ")?;
                segment(line, event)?;
            }
            StepKind::ResetSent { reset, .. } => {
                let style = if reset.effect.may_have_killed() { BAD } else { WARN };
                write!(line, "{style}RST{style:#}     {diagnosis} ")?;
                answer(line, reset)?;
                write!(line, " by={} effect={}", reset.by, reset.effect.name())?;
                if matches!(observed.kind, Kind::Reset(_, _, Confidence::Inferred)) {
                    line.push_str(" inferred");
                }
                if let Some(reason) = event.reset_reason.and_then(|value| host.reset_reason(value)) {
                    write!(line, " kernel_reason={}", Value(reason))?;
                }
                if let Some(process) = event.process() {
                    write!(line, " pid={} comm={}", process.pid, Value(process.comm.as_str()))?;
                }
            }
            StepKind::ResetOutput { .. } => {
                write!(line, "output  {diagnosis} ")?;
                segment(line, event)?;
            }
            StepKind::PeerResetSent { tuple, answered: None, .. } => {
                let ends = tuple.map_or_else(String::new, |own| format!(" {} > {} [R.]", own.src, own.dst));
                write!(line, "by-peer {diagnosis}{ends}")?;
            }
            StepKind::PeerResetSent { answered: Some(_), .. } => {
                write!(line, "by-peer {diagnosis} answers ")?;
                segment(line, event)?;
            }
            StepKind::PeerResetReceived { .. } => {
                write!(line, "{WARN}RST{WARN:#}     {diagnosis} ")?;
                segment(line, event)?;
                write!(line, " by={}", ResetBy::Peer)?;
            }
            // Conclusions and answers to look-ups, no events.
            StepKind::EntryDestroyed(_)
            | StepKind::NatSkipped { .. }
            | StepKind::EntryState(_)
            | StepKind::PeerResetForwarded(_)
            | StepKind::EntryNotFound { .. }
            | StepKind::EntryUnknown { .. } => write!(line, "{}", step.name())?,
        }
        if observed.provisional {
            line.push_str(" provisional");
        }
        if let Some(interface) = event.input {
            write!(line, " in={}", Value(&interface.to_string()))?;
        }
        if let Some(interface) = event.output {
            write!(line, " out={}", Value(&interface.to_string()))?;
        }
        if let Some(entry) = &event.entry {
            write!(line, " state={}", entry.state)?;
        }
        if let Some(flow) = observed.flow.and_then(|id| session.flow(id)) {
            write!(line, " client={}", flow.key.client())?;
            if let Some(nat) = flow.key.nat() {
                write!(line, " nat={nat}")?;
            }
            write!(line, " server={}", flow.key.server())?;
            if let Some(service) = flow.key.service() {
                write!(line, " service={service}")?;
            }
        }
        if let Some(netns) = event.netns {
            write!(line, " netns={netns}")?;
            if let Some(name) = session.netns_name(netns).or_else(|| self.name(netns)) {
                write!(line, " netns_name={}", Value(name))?;
            }
        }
        if let Some(text) = &event.words {
            write!(line, " \"{}\"", Plain(&text.to_string()))?;
        }
        if event.flags.incomplete {
            line.push_str(" incomplete");
        }
        Ok(())
    }

    /// The name of a namespace, where it is known beforehand.
    fn name(&self, inode: u32) -> Option<&str> {
        self.names.iter().find(|(known, _)| *known == inode).map(|(_, name)| name.as_str())
    }
}

fn segment(line: &mut String, event: &Event) -> fmt::Result {
    let Some(packet) = event.packet else { return write!(line, "(headers out of reach)") };
    write!(line, "{} > {} [{}] seq {}:{}", packet.src, packet.dst, packet.flags, packet.seq, packet.end())?;
    if packet.flags.has(Flags::ACK) {
        write!(line, " ack {}", packet.ack)?;
    }
    write!(line, " win {} len {} ttl {}", packet.window, packet.payload_len, packet.ttl)?;
    for (index, (left, right)) in packet.options.sack_blocks().enumerate() {
        write!(line, "{}{left}:{right}", if index == 0 { " sack " } else { "," })?;
    }
    Ok(())
}

fn answer(line: &mut String, reset: &Reset) -> fmt::Result {
    let (Some(tuple), Some(answer)) = (reset.event.tuple(), reset.answer) else {
        return write!(line, "(headers out of reach)");
    };
    let flags = if answer.ack.is_some() { "R." } else { "R" };
    write!(line, "{} > {} [{flags}] seq {}", tuple.dst, tuple.src, answer.seq)?;
    if let Some(ack) = answer.ack {
        write!(line, " ack {ack}")?;
    }
    Ok(())
}

/// The text of a progress line.
pub fn progress(events: u64, resets: u64) -> String {
    format!("{}, {}", sentences::counted(events, "event", "events"), sentences::counted(resets, "reset", "resets"))
}
