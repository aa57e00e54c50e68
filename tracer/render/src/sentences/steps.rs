//! The steps of a flow's incident as lines of text.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use jiff::civil::Date;

use tracer_advice::report::FlowReport;
use tracer_common::Hook;
use tracer_engine::flow::{ConntrackVerdict, Flow, Reset};
use tracer_engine::timeline::{EntryFound, Step, StepKind, Timeline};
use tracer_model::capture::Host;
use tracer_model::cause::ResetBy;
use tracer_model::conntrack::{Direction, Nfct, Verdict};
use tracer_model::event::{Event, Interface};
use tracer_model::packet::{Flags, Packet};
use tracer_model::time::Instant;

use super::{TIED, candidates, counted, destroyed, effect, peer, unaccounted, unanswered, window};
use crate::style::TextStyle;

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// More about the line before.
    More,
    /// A segment was seen.
    Segment,
    /// A segment was refused, or a RST was made of it.
    Bad,
    /// A segment was accepted.
    Good,
    /// It is not known what was done with a segment.
    Unsure,
    /// A RST of an end.
    Back,
    /// The entry, as it was found.
    Entry,
    /// The entry could not be looked up.
    Unknown,
}

/// A line about a step. A step has one or more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// The time of the day, or the time since the beginning; empty where it is more about the line before.
    pub(crate) time: String,
    /// Who acts, where that is not the segment itself.
    pub(crate) who: &'static str,
    /// What it is about.
    pub(crate) mark: Mark,
    /// What happens.
    pub(crate) text: String,
}

/// The lines of a flow's steps, in order.
pub(crate) fn lines(report: &FlowReport, host: &Host, style: TextStyle) -> Vec<Line> {
    let flow = &report.flow;
    let Timeline { origin, steps } = Timeline::of(flow);
    let day = date(host, host.started, style);
    let mut lines =
        LineBuilder { report, host, style, flow, origin, began: false, segment_shown: false, day, lines: Vec::new() };
    if let Some(text) = tally(flow) {
        lines.more(text);
    }
    for step in &steps {
        lines.step(step);
    }
    lines.lines
}

/// The time of the day, to the microsecond. The offset from UTC is there where it is not that of the capture's beginning.
pub(crate) fn wall(host: &Host, at: Instant, style: TextStyle) -> String {
    let local = |at| style.local(host.clock.wall(at));
    let (start, at) = (local(host.started), local(at));
    let offset = if start.offset() == at.offset() { String::new() } else { at.strftime("%:z").to_string() };
    format!("{}{offset}", at.strftime("%H:%M:%S%.6f"))
}

fn date(host: &Host, at: Instant, style: TextStyle) -> Date {
    style.local(host.clock.wall(at)).date()
}

/// How long after: `+19 µs`, `+2.07 s`.
pub(crate) fn after(elapsed: Duration, style: TextStyle) -> String {
    let micros = elapsed.as_micros();
    match micros {
        0..10_000 => format!("+{micros} {}", style.pick("µs", "us")),
        10_000..1_000_000 => format!("+{} ms", micros / 1_000),
        _ => format!("+{:.2} s", elapsed.as_secs_f64()),
    }
}

/// A segment: endpoints, flags, numbers, and the interface it arrived on.
pub(crate) fn segment(event: &Event, style: TextStyle) -> String {
    let Some(packet) = event.packet else { return "a segment whose headers are out of reach".to_owned() };
    format!("{} {} {}  {}", packet.src, style.arrow(), packet.dst, header(&packet, event, style))
}

/// A segment without its endpoints.
pub(crate) fn header(packet: &Packet, event: &Event, style: TextStyle) -> String {
    let mut text = format!("[{}] seq{TIED}{}..{}", packet.flags, packet.seq, packet.end());
    let mut add = |part: String| text.push_str(&part);
    if packet.flags.has(Flags::ACK) {
        add(format!(" ack{TIED}{}", packet.ack));
    }
    add(format!(" win{TIED}{} len{TIED}{}", packet.window, packet.payload_len));
    for (left, right) in packet.options.sack_blocks() {
        add(format!(" sack{TIED}{left}..{right}"));
    }
    add(format!("{TIED}{} ttl{TIED}{}", style.dot(), packet.ttl));
    if let Some(interface) = event.input {
        add(format!("{TIED}{} in{TIED}by{TIED}{interface}", style.dot()));
    }
    text
}

/// What conntrack did with a packet, with its message.
pub(crate) fn verdict(logged: &ConntrackVerdict) -> String {
    let event = &logged.event;
    let silent = if event.hook == Hook::NewRefused { " without a message, by tcp_new" } else { "" };
    let quoted =
        event.words.as_ref().map_or(silent.to_owned(), |words| format!(" \"{}\"", words.to_string().trim_end()));
    let verdict = match logged.verdict {
        Verdict::Invalid => "INVALID",
        Verdict::Ignored => "accepted in spite of",
        Verdict::Unknown => "logged",
    };
    format!("{verdict}{quoted}")
}

/// That a packet was not translated back, and why.
pub(crate) fn skipped(nfct: Nfct, destination: SocketAddr) -> String {
    let why = match nfct {
        Nfct::Untracked => "the packet is exempt from connection tracking",
        Nfct::None => "the packet has no conntrack entry",
        Nfct::Entry(_) => "conntrack classified the packet as the first of a new connection",
    };
    format!("skipped: {why}, its destination stays {destination} (this host)")
}

/// Who made a RST, in one word.
pub(crate) const fn maker(by: ResetBy) -> &'static str {
    match by {
        ResetBy::GatewayRejectRule => "rule",
        ResetBy::GatewaySocket => "socket",
        ResetBy::GatewayStack | ResetBy::Peer => "tcp",
    }
}

/// The numbers of a RST, with a leading space.
pub(crate) fn numbers(reset: &Reset) -> String {
    match reset.answer {
        Some(answer) => match answer.ack {
            None => format!(" seq{TIED}{} (the{TIED}segment's{TIED}ack)", answer.seq),
            Some(ack) => format!(" seq{TIED}{} ack{TIED}{ack}", answer.seq),
        },
        None => String::new(),
    }
}

/// What the RST of an end on this host means.
pub(crate) const fn peer_reset_sent(answers: bool) -> &'static str {
    if answers { ": it has no such connection" } else { ": it ends the connection" }
}

/// A RST of an end, as it arrived.
pub(crate) fn peer_reset_received(input: Option<Interface>, packet: Option<&Packet>, style: TextStyle) -> String {
    let dot = style.dot();
    let by = input.map_or_else(String::new, |input| format!(" {dot} in by {input}"));
    let Some(packet) = packet else { return by };
    let what = if packet.refuses() { ": nothing listens there" } else { "" };
    format!("  [{}] seq {} {dot} ttl {}{by}{what}", packet.flags, packet.seq, packet.ttl)
}

/// How this host's RST leaves it.
pub(crate) fn reset_output(output: Option<Interface>) -> String {
    let by = output.map_or_else(String::new, |output| format!(" by {output}"));
    format!("the RST leaves{by}, untranslated")
}

/// An entry that was found.
pub(crate) fn entry_state(found: &EntryFound) -> String {
    let state = found.state.map_or_else(|| "there".to_owned(), |state| state.to_string());
    format!("still {state}{}", expires(found))
}

/// An entry that a RST of one end has closed.
pub(crate) fn entry_closed(found: &EntryFound) -> String {
    format!("CLOSE{}: a RST of one end passed through to the other", expires(found))
}

fn expires(found: &EntryFound) -> String {
    found.timeout_s.map_or_else(String::new, |left| format!(", {left} s left"))
}

/// The counts of a flow with more than two events.
fn tally(flow: &Flow) -> Option<String> {
    let tally = flow.tally();
    if tally.invalid + tally.resets + tally.ignored + tally.forwarded <= 2 {
        return None;
    }
    let parts = [
        (tally.invalid, "packet refused", "packets refused"),
        (tally.ignored, "packet logged and accepted", "packets logged and accepted"),
        (tally.resets, "RST sent", "RSTs sent"),
        (tally.forwarded, "RST of an end", "RSTs of the ends"),
    ];
    let parts: Vec<String> =
        parts.into_iter().filter(|(n, ..)| *n > 0).map(|(n, one, many)| counted(n, one, many)).collect();
    Some(format!("{}; the first with the highest rank:", parts.join(", ")))
}

struct LineBuilder<'a> {
    report: &'a FlowReport,
    host: &'a Host,
    style: TextStyle,
    flow: &'a Flow,
    origin: Instant,
    /// There is a line with the time of the day that the others count from.
    began: bool,
    /// There is a line with the segment that the RST answers.
    segment_shown: bool,
    /// The day of the last time of the day.
    day: Date,
    lines: Vec<Line>,
}

impl LineBuilder<'_> {
    fn step(&mut self, Step { at, kind }: &Step<'_>) {
        let (at, flow) = (*at, self.flow);
        match *kind {
            StepKind::EntryDestroyed(entry) => {
                self.line(at, "conntrack", Mark::Entry, destroyed(entry, self.origin));
            }
            StepKind::AcceptedBefore(logged) => {
                self.logged(logged);
                if let Some(consequence) = unaccounted(logged) {
                    self.more(consequence);
                }
            }
            StepKind::Logged { logged, remark } => {
                self.logged(logged);
                if let Some(remark) = remark {
                    self.more(format!("and \"{remark}\""));
                }
                if !flow.incident.follows.is_empty() {
                    self.more("conntrack accepted these bytes above, without recording them".to_owned());
                }
                if let Some(text) = unanswered(flow, logged).filter(|_| flow.incident.reset.is_none()) {
                    self.more(text);
                }
            }
            StepKind::Remark(event) => {
                let text = event.words.as_ref().map_or_else(String::new, |text| format!("and \"{text}\""));
                self.more(text);
            }
            StepKind::NatSkipped { reset, nfct, destination } => {
                self.answered(reset);
                self.line(at, "nat", Mark::Bad, skipped(nfct, destination));
            }
            StepKind::ResetSent { reset, .. } => {
                self.answered(reset);
                let text = self.reset(reset);
                self.line(at, maker(reset.by), Mark::Bad, text);
                if let Some(found) = &self.report.candidates {
                    self.more(candidates(found));
                }
            }
            StepKind::ResetOutput { output } => self.line(at, "", Mark::Segment, reset_output(output)),
            StepKind::PeerResetSent { tuple, answered, .. } => {
                let who = tuple.and_then(|tuple| flow.end(tuple.src)).unwrap_or("an end");
                let to = tuple.map_or_else(String::new, |tuple| format!(" {} {}", self.style.arrow(), tuple.dst));
                self.line(at, who, Mark::Back, format!("RST{to}{}", peer_reset_sent(answered.is_some())));
            }
            StepKind::PeerResetReceived { input, packet } => {
                let who = packet.and_then(|packet| flow.end(packet.src)).unwrap_or("an end");
                let to = packet.map_or_else(String::new, |packet| format!(" {} {}", self.style.arrow(), packet.dst));
                let text = format!("RST{to}{}", peer_reset_received(input, packet, self.style));
                self.line(at, who, Mark::Back, text);
            }
            StepKind::EntryState(found) => {
                self.line(at, "entry", Mark::Entry, entry_state(&found) + &self.since(found.not_before));
            }
            StepKind::PeerResetForwarded(found) => {
                self.line(at, "entry", Mark::Back, entry_closed(&found) + &self.since(found.not_before));
            }
            StepKind::EntryNotFound { not_before } => {
                self.line(at, "entry", Mark::Entry, "not found".to_owned() + &self.since(not_before));
            }
            StepKind::EntryUnknown { because } => {
                self.line(at, "entry", Mark::Unknown, format!("look-up failed: {because}"));
            }
        }
    }

    fn more(&mut self, text: String) {
        self.lines.push(Line { time: String::new(), who: "", mark: Mark::More, text });
    }

    /// Adds a line: the first one at or after the beginning, and all before it, have the time of the day.
    fn line(&mut self, at: Instant, who: &'static str, mark: Mark, text: String) {
        let time = if self.began { after(at - self.origin, self.style) } else { self.wall(at) };
        self.lines.push(Line { time, who, mark, text });
    }

    /// The time of the day, below the day where that changes.
    fn wall(&mut self, at: Instant) -> String {
        self.began |= at >= self.origin;
        let date = date(self.host, at, self.style);
        if std::mem::replace(&mut self.day, date) != date {
            self.lines.push(Line { time: date.to_string(), who: "", mark: Mark::More, text: String::new() });
        }
        wall(self.host, at, self.style)
    }

    fn segment(&mut self, event: &Event) {
        self.segment_shown = true;
        let (time, text) = (self.wall(event.at), segment(event, self.style));
        self.lines.push(Line { time, who: "", mark: Mark::Segment, text });
    }

    /// The packet, and what conntrack did with it.
    fn logged(&mut self, logged: &ConntrackVerdict) {
        self.segment(&logged.event);
        let mark = match logged.verdict {
            Verdict::Invalid => Mark::Bad,
            Verdict::Ignored => Mark::Good,
            Verdict::Unknown => Mark::Unsure,
        };
        let time = after(Duration::ZERO, self.style);
        self.lines.push(Line { time, who: "conntrack", mark, text: verdict(logged) });
        if let Some(explained) = &logged.window {
            self.more(window(explained));
        }
        if logged.verdict == Verdict::Invalid && logged.direction == Some(Direction::Original) {
            let source = self.flow.key.client();
            self.more(format!("a refused packet of the client keeps its private source {source}"));
        }
    }

    /// The segment that a RST answers. A socket that resets its own connection answers none.
    fn answered(&mut self, reset: &Reset) {
        if !self.segment_shown && reset.event.own_socket().is_none() {
            self.segment(&reset.event);
        }
    }

    fn reset(&self, reset: &Reset) -> String {
        let event = &reset.event;
        let to = event.tuple().map_or_else(|| "its sender".to_owned(), |tuple| tuple.src.to_string());
        let mut text = format!("RST {} {to}{}", self.style.arrow(), numbers(reset));
        // A String takes any write.
        let _infallible = write!(text, ": {}", effect(reset, peer(Some(self.flow), reset)));
        if reset.doubtful {
            text.push_str("; the segment is signed (TCP-MD5 or TCP-AO), so the kernel may not have sent it");
        }
        if let Some(socket) = &event.socket {
            let _infallible = write!(text, "; by a socket in state {}", socket.state);
            if let Some(process) = event.process() {
                let _infallible = write!(text, " of {process}");
            }
        }
        if let Some(reason) = event.reset_reason.and_then(|value| self.host.reset_reason(value)) {
            let _infallible = write!(text, "; the kernel's reason: {reason}");
        }
        text
    }

    /// The last time when an entry was found in another state.
    fn since(&self, not_before: Option<Instant>) -> String {
        let since = |at: Instant| format!(" (not before {})", after(at - self.origin, self.style));
        not_before.map(since).unwrap_or_default()
    }
}
