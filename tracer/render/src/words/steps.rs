//! The story of a flow, step by step: the sentences, and what each is about.

use std::fmt::Write as _;
use std::time::Duration;

use tracer_advice::report::FlowReport;
use tracer_common::Hook;
use tracer_engine::flow::{ConntrackVerdict, EntryStatus, Flow, PeerReset, PeerSeen, Reset};
use tracer_model::capture::{Host, Outcome};
use tracer_model::cause::ResetBy;
use tracer_model::conntrack::{Direction, Nfct, TcpState, Verdict};
use tracer_model::event::Event;
use tracer_model::packet::{Flags, Packet};
use tracer_model::time::Instant;

use super::{TIED, candidates, counted, effect, ended, peer, unaccounted, unanswered, window};
use crate::json::{nat_skipped, reset_passed_through};
use crate::style::TextStyle;

/// What a step is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// More about the step before.
    More,
    /// A segment was seen.
    Segment,
    /// A segment was refused, or a RST was made of it.
    Bad,
    /// A segment was accepted.
    Good,
    /// What was done is not known.
    Unsure,
    /// A RST of an end.
    Back,
    /// The entry, as it was found.
    Entry,
    /// The entry could not be looked up.
    Unknown,
}

/// A step of a flow's story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// When.
    pub(crate) at: Instant,
    /// When, in words: the time of the day, or how long after the beginning; empty where it is more about the step before.
    pub(crate) time: String,
    /// Who takes it, where that is not the segment itself.
    pub(crate) who: &'static str,
    /// What it is about.
    pub(crate) mark: Mark,
    /// What happens.
    pub(crate) text: String,
}

/// The steps of a flow's story, in order.
pub(crate) fn steps(report: &FlowReport, host: &Host, style: TextStyle) -> Vec<Step> {
    let flow = &report.flow;
    let mut teller =
        Teller { host, style, flow, began: flow.incident.began().unwrap_or(flow.first), steps: Vec::new() };
    teller.tell(report);
    teller.steps
}

/// The time of the day, to the microsecond. The offset from UTC is told where it is not that of the capture's beginning.
pub(crate) fn wall(host: &Host, at: Instant, style: TextStyle) -> String {
    let local = |at| style.local(host.clock.wall(at));
    let (start, at) = (local(host.started), local(at));
    let offset = if start.offset() == at.offset() { String::new() } else { at.strftime("%:z").to_string() };
    format!("{}{offset}", at.strftime("%H:%M:%S%.6f"))
}

/// The day, where it is not the one on which the capture began.
fn day(host: &Host, at: Instant, style: TextStyle) -> Option<String> {
    let date = |at| style.local(host.clock.wall(at)).date();
    (date(host.started) != date(at)).then(|| date(at).to_string())
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

/// A segment as it is told: endpoints, flags, numbers, and how it came.
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

/// What conntrack did with a packet, with its own words.
pub(crate) fn verdict(logged: &ConntrackVerdict) -> String {
    let event = &logged.event;
    let silent = if event.hook == Hook::NewRefused { " without a word, by tcp_new" } else { "" };
    let quoted =
        event.words.as_ref().map_or(silent.to_owned(), |words| format!(" \"{}\"", words.to_string().trim_end()));
    let verdict = match logged.verdict {
        Verdict::Invalid => "INVALID",
        Verdict::Ignored => "accepted in spite of",
        Verdict::Unknown => "said",
    };
    format!("{verdict}{quoted}")
}

/// That, and why, a packet was not translated back.
pub(crate) fn skipped(flow: &Flow, reset: &Reset) -> Option<String> {
    let (_, destination) = nat_skipped(flow, reset)?;
    let why = match reset.event.nfct {
        Some(Nfct::Untracked) => "the packet is exempt from connection tracking",
        Some(Nfct::None) if flow.incident.gone().is_some() => "the packet has no conntrack entry",
        Some(Nfct::None) => "the packet has no conntrack entry any more",
        _ => "the packet was taken for the first of a new connection",
    };
    Some(format!("skipped: {why}, its destination stays {destination} (this host)"))
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

/// What an end's RST says of that end.
pub(crate) fn of_end(reset: &PeerReset, style: TextStyle) -> String {
    match reset.seen {
        PeerSeen::Made { answered: Some(_), .. } => ": it has no connection any more".to_owned(),
        PeerSeen::Made { answered: None, .. } => ": it ends the connection".to_owned(),
        PeerSeen::Arrived { input, packet } => {
            let dot = style.dot();
            let by = input.map_or_else(String::new, |input| format!(" {dot} in by {input}"));
            let what = if packet.refuses() { ": nothing listens there" } else { "" };
            format!("  [{}] seq {} {dot} ttl {}{by}{what}", packet.flags, packet.seq, packet.ttl)
        }
    }
}

/// How the entry was found, without when.
pub(crate) fn found(flow: &Flow, outcome: &Outcome) -> String {
    let expires = |timeout: Option<u32>| timeout.map_or_else(String::new, |left| format!(", {left} s left"));
    match outcome {
        Outcome::Found { state: Some(TcpState::Close), timeout_s, .. } if reset_passed_through(flow) => {
            format!("CLOSE{}: a RST of one end has passed through to the other", expires(*timeout_s))
        }
        Outcome::Found { state, timeout_s, .. } => {
            let state = state.map_or_else(|| "there".to_owned(), |state| state.to_string());
            format!("still {state}{}", expires(*timeout_s))
        }
        Outcome::NotFound { .. } => "gone".to_owned(),
        Outcome::Failed { because } => format!("not looked up: {because}"),
    }
}

/// Whether an entry that was found so got there by a RST that passed through.
pub(crate) fn passed_through(flow: &Flow, outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Found { state: Some(TcpState::Close), .. }) && reset_passed_through(flow)
}

/// What is counted of a flow that more than one thing happened to.
pub(crate) fn tally(flow: &Flow) -> Option<String> {
    let tally = flow.tally();
    if tally.invalid + tally.resets + tally.ignored + tally.forwarded <= 2 {
        return None;
    }
    let parts = [
        (tally.invalid, "packet refused", "packets refused"),
        (tally.ignored, "packet remarked on and accepted", "packets remarked on and accepted"),
        (tally.resets, "RST sent", "RSTs sent"),
        (tally.forwarded, "RST of an end", "RSTs of the ends"),
    ];
    let parts: Vec<String> =
        parts.into_iter().filter(|(n, ..)| *n > 0).map(|(n, one, many)| counted(n, one, many)).collect();
    Some(format!("{}; the first that did harm:", parts.join(", ")))
}

struct Teller<'a> {
    host: &'a Host,
    style: TextStyle,
    flow: &'a Flow,
    began: Instant,
    steps: Vec<Step>,
}

impl Teller<'_> {
    fn tell(&mut self, report: &FlowReport) {
        let flow = self.flow;
        let incident = &flow.incident;
        if let Some(text) = tally(flow) {
            self.more(text);
        }
        if let Some(day) = day(self.host, self.began, self.style) {
            self.step(self.began, day, "", Mark::More, String::new());
        }
        for before in &incident.follows {
            self.logged(before);
            if let Some(consequence) = unaccounted(before) {
                self.more(consequence);
            }
        }
        if let Some(logged) = &incident.logged {
            self.logged(logged);
            if let Some(remark) = &incident.remark {
                self.more(format!("and \"{remark}\""));
            }
            if !incident.follows.is_empty() {
                self.more("conntrack let these bytes pass above, without recording them".to_owned());
            }
            if let Some(text) = unanswered(flow, logged).filter(|_| incident.reset.is_none()) {
                self.more(text);
            }
        }
        if let Some(reset) = &incident.reset {
            self.reset(reset);
        }
        if let Some(found) = &report.candidates {
            self.more(candidates(found));
        }
        let mut later = self.aftermath();
        // Where nothing was told before, the first of these is when it began.
        if let Some(first) = later.first_mut().filter(|_| incident.logged.is_none() && incident.reset.is_none()) {
            first.time = wall(self.host, first.at, self.style);
        }
        self.steps.append(&mut later);
    }

    fn more(&mut self, text: String) {
        let at = self.steps.last().map_or(self.began, |step| step.at);
        self.steps.push(Step { at, time: String::new(), who: "", mark: Mark::More, text });
    }

    fn step(&mut self, at: Instant, time: String, who: &'static str, mark: Mark, text: String) {
        self.steps.push(Step { at, time, who, mark, text });
    }

    fn after(&self, at: Instant) -> String {
        after(at - self.began, self.style)
    }

    fn trigger(&mut self, event: &Event) {
        let text = segment(event, self.style);
        self.step(event.at, wall(self.host, event.at, self.style), "", Mark::Segment, text);
    }

    /// The packet, and what conntrack said of it.
    fn logged(&mut self, logged: &ConntrackVerdict) {
        let event = &logged.event;
        self.trigger(event);
        let mark = match logged.verdict {
            Verdict::Invalid => Mark::Bad,
            Verdict::Ignored => Mark::Good,
            Verdict::Unknown => Mark::Unsure,
        };
        let same = after(Duration::ZERO, self.style);
        self.step(event.at, same, "conntrack", mark, verdict(logged));
        if let Some(explained) = &logged.window {
            self.more(window(explained));
        }
        if logged.verdict == Verdict::Invalid && logged.direction == Some(Direction::Original) {
            let source = self.flow.key.client();
            self.more(format!("a refused packet of the client's side keeps its private source {source}"));
        }
    }

    fn reset(&mut self, reset: &Reset) {
        let (flow, event) = (self.flow, &reset.event);
        // A socket that resets its connection of its own accord answers nothing.
        let shown = flow.incident.logged.is_some() || event.own_socket().is_some();
        if !shown {
            self.trigger(event);
        }
        let first = flow.incident.logged.is_none() && shown;
        let time = if first { wall(self.host, event.at, self.style) } else { self.after(event.at) };
        if let Some(gone) = flow.incident.gone()
            && reset.by == ResetBy::GatewayStack
        {
            self.step(event.at, time.clone(), "conntrack", Mark::Bad, ended(gone, event.at));
        }
        if let Some(text) = skipped(flow, reset) {
            self.step(event.at, time.clone(), "nat", Mark::Bad, text);
        }
        let to = event.tuple().map_or_else(|| "its sender".to_owned(), |tuple| tuple.src.to_string());
        let mut text = format!("RST {} {to}{}", self.style.arrow(), numbers(reset));
        // A String takes any write.
        let _infallible = write!(text, ": {}", effect(reset, peer(Some(flow), reset)));
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
        self.step(event.at, time, maker(reset.by), Mark::Bad, text);
    }

    /// What happened after the RST, in order of time.
    fn aftermath(&self) -> Vec<Step> {
        let (flow, style) = (self.flow, self.style);
        let mut steps = Vec::new();
        let mut add = |at: Instant, who, mark, text| {
            steps.push(Step { at, time: self.after(at), who, mark, text });
        };
        if let Some(reset_output) = flow.incident.reset_output {
            let by = reset_output.output.map_or_else(String::new, |output| format!(" by {output}"));
            add(reset_output.at, "", Mark::Segment, format!("the RST left{by}, untranslated"));
        }
        if let Some(reset) = flow.peer_reset.as_deref() {
            let who = flow.end(reset.tuple.src).unwrap_or("an end");
            let text = format!("RST {} {}{}", style.arrow(), reset.tuple.dst, of_end(reset, style));
            add(reset.at, who, Mark::Back, text);
        }
        for fate in &flow.entry_statuses {
            add(fate.at, "entry", fate_mark(flow, fate), found(flow, &fate.outcome) + &self.since(fate));
        }
        steps.sort_by_key(|step| step.at);
        steps
    }

    /// When an entry was last found otherwise.
    fn since(&self, fate: &EntryStatus) -> String {
        let since = |at: Instant| format!(" (not before {})", self.after(at));
        let known = fate.not_before.filter(|_| !matches!(fate.outcome, Outcome::Failed { .. }));
        known.map(since).unwrap_or_default()
    }
}

fn fate_mark(flow: &Flow, fate: &EntryStatus) -> Mark {
    match &fate.outcome {
        Outcome::Failed { .. } => Mark::Unknown,
        outcome if passed_through(flow, outcome) => Mark::Back,
        Outcome::Found { .. } | Outcome::NotFound { .. } => Mark::Entry,
    }
}
