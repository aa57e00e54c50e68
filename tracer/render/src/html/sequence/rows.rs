//! The rows of a time–sequence diagram of a flow, from top to bottom. A row is marked as seen only if a hook saw it.

use std::cmp::Ordering;
use std::time::Duration;

use tracer_advice::report::FlowReport;
use tracer_engine::effect::Effect;
use tracer_engine::flow::{ConntrackVerdict, Flow, Reset};
use tracer_engine::timeline::{Step, StepKind, Timeline};
use tracer_model::capture::Host;
use tracer_model::cause::ResetBy;
use tracer_model::conntrack::{Direction, Verdict};
use tracer_model::event::Event;
use tracer_model::time::Instant;

use super::lanes::Lane;
use crate::sentences;
use crate::style::TextStyle;

/// Where an arrow begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    /// At one of the gateway's lifelines.
    Inside(Lane),
    /// At an end of the flow.
    End(&'static str),
}

/// How something is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// A hook of this host saw it.
    Seen,
    /// A hook saw it up to the gateway's edge; the rest is concluded.
    SeenInside,
    /// The end that it comes from was seen making it; that it came here is concluded.
    SeenOutside,
    /// It follows from other rows.
    Concluded,
}

/// What something means to the ends of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Bad,
    Good,
}

/// A sign on a lifeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    /// Refused, or dead.
    Cross,
    /// Accepted.
    Check,
    /// Not known.
    Question,
    /// Something is there, or was seen.
    Dot,
}

/// The content of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// Something goes from here to there.
    Arrow(Anchor, Anchor),
    /// Something happens here.
    Sign(Anchor, Sign),
}

/// A row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    /// When.
    pub(super) at: Instant,
    pub(super) shown: Shown,
    pub(super) known: Known,
    pub(super) tone: Tone,
    pub(super) text: String,
    /// Ends whose connection is over from here on.
    pub(super) dead: Vec<&'static str>,
    /// Conntrack has no entry from here on.
    pub(super) entry_ends: bool,
}

const CONNTRACK: Anchor = Anchor::Inside(Lane::Conntrack);
const MAKER: Anchor = Anchor::Inside(Lane::Maker);

/// The rows of a flow, in order of time.
pub(super) fn rows(report: &FlowReport) -> Vec<Row> {
    let flow = &report.flow;
    let timeline = Timeline::of(flow);
    let mut rows = RowBuilder {
        report,
        flow,
        passed_through: timeline.passed_through(flow),
        origin: timeline.origin,
        segment_shown: false,
        delivered: false,
        rows: Vec::new(),
    };
    for step in &timeline.steps {
        rows.step(step);
    }
    rows.rows
}

struct RowBuilder<'a> {
    report: &'a FlowReport,
    flow: &'a Flow,
    /// A RST of one end passed through to the other.
    passed_through: bool,
    origin: Instant,
    /// There is a row with the segment that the RST answers.
    segment_shown: bool,
    /// There is a row with its way to what makes the RST.
    delivered: bool,
    rows: Vec<Row>,
}

impl RowBuilder<'_> {
    fn step(&mut self, Step { at, kind }: &Step<'_>) {
        let at = *at;
        match *kind {
            StepKind::EntryDestroyed(entry) => {
                let text = sentences::destroyed(entry, self.origin);
                self.sign(at, CONNTRACK, Sign::Cross, Tone::Plain, &text).entry_ends = true;
            }
            StepKind::AcceptedBefore(logged) | StepKind::Logged { logged, .. } => self.logged(logged),
            // It belongs to the row of its packet.
            StepKind::Remark(_) => {}
            StepKind::NatSkipped { reset, nfct, destination } => {
                self.answered(reset);
                self.delivered = true;
                let text = format!("NAT {}", sentences::skipped(nfct, destination));
                self.add(at, Shown::Arrow(CONNTRACK, MAKER), Known::Seen, Tone::Plain, &text);
            }
            StepKind::ResetSent { reset, .. } => {
                self.answered(reset);
                self.reset(reset);
            }
            StepKind::ResetOutput { output } => {
                self.sign(at, CONNTRACK, Sign::Dot, Tone::Plain, &sentences::reset_output(output));
            }
            StepKind::PeerResetSent { tuple, answered, .. } => {
                let from = tuple.and_then(|tuple| self.flow.end(tuple.src));
                let text = format!("RST{}", sentences::peer_reset_sent(answered.is_some()));
                self.peer_reset(at, from, Known::SeenOutside, &text);
            }
            StepKind::PeerResetReceived { input, packet } => {
                let from = packet.and_then(|packet| self.flow.end(packet.src));
                let text = format!("RST{}", sentences::peer_reset_received(input, packet, TextStyle::default()));
                self.peer_reset(at, from, Known::Seen, &text);
            }
            StepKind::EntryState(found) => {
                let text = format!("entry: {}", sentences::entry_state(&found));
                self.sign(at, CONNTRACK, Sign::Dot, Tone::Plain, &text);
            }
            StepKind::EntryNotFound { .. } => {
                self.sign(at, CONNTRACK, Sign::Dot, Tone::Plain, "entry: not found").entry_ends = true;
            }
            StepKind::EntryUnknown { because } => {
                let text = format!("entry: look-up failed: {because}");
                self.sign(at, CONNTRACK, Sign::Question, Tone::Plain, &text);
            }
            StepKind::PeerResetForwarded(found) => {
                let text = format!("entry: {}", sentences::entry_closed(&found));
                self.sign(at, CONNTRACK, Sign::Dot, Tone::Bad, &text).dead.extend(["client", "server"]);
            }
        }
    }

    fn add(&mut self, at: Instant, shown: Shown, known: Known, tone: Tone, text: &str) -> &mut Row {
        let text = text.replace(sentences::TIED, " ");
        self.rows.push(Row { at, shown, known, tone, text, dead: Vec::new(), entry_ends: false });
        let last = self.rows.len() - 1;
        &mut self.rows[last]
    }

    /// A sign of something that was seen.
    fn sign(&mut self, at: Instant, place: Anchor, sign: Sign, tone: Tone, text: &str) -> &mut Row {
        self.add(at, Shown::Sign(place, sign), Known::Seen, tone, text)
    }

    /// Something that comes from an end, where it is known which.
    fn from(end: Option<&'static str>) -> Shown {
        end.map_or(Shown::Sign(CONNTRACK, Sign::Dot), |end| Shown::Arrow(Anchor::End(end), CONNTRACK))
    }

    /// A segment that came to the gateway.
    fn segment(&mut self, event: &Event) {
        self.segment_shown = true;
        let style = TextStyle::default();
        let from = event.packet.and_then(|packet| self.flow.end(packet.src));
        let text = match event.packet {
            Some(packet) => sentences::header(&packet, event, style),
            None => sentences::segment(event, style),
        };
        self.add(event.at, Self::from(from), Known::Seen, Tone::Plain, &text);
    }

    fn logged(&mut self, logged: &ConntrackVerdict) {
        let at = logged.event.at;
        self.segment(&logged.event);
        let (sign, tone) = match logged.verdict {
            Verdict::Invalid => (Sign::Cross, Tone::Bad),
            Verdict::Ignored => (Sign::Check, Tone::Good),
            Verdict::Unknown => (Sign::Question, Tone::Plain),
        };
        let mut text = sentences::verdict(logged);
        if let Some(window) = &logged.window {
            text = format!("{text}: {}", sentences::missed(window));
        }
        self.sign(at, CONNTRACK, sign, tone, &text);
        let to = match (logged.verdict, logged.direction) {
            (Verdict::Ignored, Some(Direction::Original)) => "server",
            (Verdict::Ignored, Some(Direction::Reply)) => "client",
            _ => return,
        };
        let on = Shown::Arrow(CONNTRACK, Anchor::End(to));
        self.add(at, on, Known::Concluded, Tone::Good, "forwarded as usual");
    }

    /// The segment that a RST answers, unless it has a row. A socket that resets its own connection answers none.
    fn answered(&mut self, reset: &Reset) {
        if self.segment_shown || reset.event.own_socket().is_some() {
            return;
        }
        self.segment(&reset.event);
        if reset.by == ResetBy::GatewayStack && self.flow.incident.destroyed().is_some() {
            self.sign(reset.event.at, CONNTRACK, Sign::Cross, Tone::Bad, "no entry");
        }
    }

    fn reset(&mut self, reset: &Reset) {
        let event = &reset.event;
        let (at, own) = (event.at, event.own_socket().is_some());
        if !own && !self.delivered {
            let text = match (reset.by, event.nf_hook) {
                (ResetBy::GatewayRejectRule, Some(hook)) => format!("a rule at {hook} matches it"),
                (ResetBy::GatewayRejectRule, None) => "a rule matches it".to_owned(),
                _ => "delivered to this host".to_owned(),
            };
            self.add(at, Shown::Arrow(CONNTRACK, MAKER), Known::Seen, Tone::Plain, &text);
        }
        if let Some(candidates) = &self.report.candidates {
            self.add(
                at,
                Shown::Sign(MAKER, Sign::Dot),
                Known::Concluded,
                Tone::Plain,
                &sentences::candidates(candidates),
            );
        }
        let to = event.tuple().and_then(|tuple| self.flow.end(tuple.src));
        let sent = to.map_or(Shown::Sign(MAKER, Sign::Dot), |end| Shown::Arrow(MAKER, Anchor::End(end)));
        let text = format!("RST{}, made by {}", sentences::numbers(reset), event.hook.spec().symbol);
        let known = if reset.doubtful { Known::Concluded } else { Known::SeenInside };
        self.add(at, sent, known, Tone::Bad, &text);
        self.effect(reset, to, own);
    }

    /// The effect of the RST at its receiver: concluded from its numbers, not seen.
    fn effect(&mut self, reset: &Reset, to: Option<&'static str>, own: bool) {
        let at = reset.event.at;
        let text = sentences::effect(reset, sentences::peer(Some(self.flow), reset));
        if own && reset.effect == Effect::Kills {
            let process = reset.event.process();
            let whose = process.map_or_else(String::new, |process| format!(", closed by {process}"));
            self.sign(at, MAKER, Sign::Cross, Tone::Bad, &format!("{text}{whose}"));
            return;
        }
        let Some(end) = to else { return };
        let (sign, tone) = match reset.effect {
            Effect::Kills => (Sign::Cross, Tone::Bad),
            Effect::MayKill | Effect::Unknown => (Sign::Question, Tone::Plain),
            Effect::Closed | Effect::OtherConnection | Effect::Dropped | Effect::Challenged => (Sign::Dot, Tone::Good),
        };
        let row = self.add(at, Shown::Sign(Anchor::End(end), sign), Known::Concluded, tone, &text);
        if sign == Sign::Cross {
            row.dead.push(end);
        }
    }

    /// A RST of an end, and whom it is forwarded to.
    fn peer_reset(&mut self, at: Instant, from: Option<&'static str>, known: Known, text: &str) {
        self.add(at, Self::from(from), known, Tone::Bad, text).dead.extend(from);
        if let Some(to) = from.filter(|_| self.passed_through).map(other) {
            let on = Shown::Arrow(CONNTRACK, Anchor::End(to));
            self.add(at, on, Known::Concluded, Tone::Bad, &format!("forwarded to the {to}")).dead.push(to);
        }
    }
}

/// A time on the diagram's axis: the time of the day where the incident begins, else how long before or after that.
pub(super) fn time(flow: &Flow, host: &Host, at: Instant) -> String {
    let began = flow.began();
    match at.cmp(&began) {
        Ordering::Equal => sentences::wall(host, at, TextStyle::default()),
        Ordering::Less => sentences::after(began - at, TextStyle::default()).replacen('+', "−", 1),
        Ordering::Greater => sentences::after(at - began, TextStyle::default()),
    }
}

/// How long a break of the axis stands for.
pub(super) fn pause(elapsed: Duration) -> String {
    sentences::after(elapsed, TextStyle::default()).trim_start_matches('+').to_owned()
}

fn other(end: &str) -> &'static str {
    if end == "client" { "server" } else { "client" }
}
