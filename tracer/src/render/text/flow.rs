//! A flow, step by step.

use std::fmt::{self, Write};

use anstyle::Style;
use tracer_common::Hook;

use super::Text;
use super::layout::TIED;
use crate::capture::Outcome;
use crate::causality::flow::{Flow, PeerSeen, Refusal, Reset};
use crate::cause::{Confidence, ResetBy};
use crate::conntrack::{Direction, Nfct, TcpState, Verdict};
use crate::event::Event;
use crate::packet::Flags;
use crate::render::json::{nat_skipped, reset_passed_through};
use crate::render::style::{BAD, GOOD, WARN};
use crate::render::words::{counted, effect, ended, kernel_reason, peer, suspects, unaccounted, unanswered, window};
use crate::report::FlowReport;
use crate::time::Instant;

impl Text<'_> {
    pub(super) fn flow(&mut self, number: usize, report: &FlowReport) -> fmt::Result {
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
            Confidence::Proven => GOOD,
            Confidence::Inferred => WARN,
        };
        let sure = (sure, flow.story.confidence.to_string());
        self.heading(number, &path, &[(Style::new(), what), sure, (Style::new(), self.place(report))])?;
        let counts = flow.tally();
        if counts.invalid + counts.resets + counts.ignored + counts.forwarded > 2 {
            self.more(&tally_words(flow))?;
        }
        let began = flow.story.began().unwrap_or(flow.first);
        if let Some(day) = self.day(began) {
            self.row(&day, "", " ", "")?;
        }
        for before in &flow.story.follows {
            self.refusal(before, flow)?;
            if let Some(consequence) = unaccounted(before) {
                self.more(&consequence)?;
            }
        }
        if let Some(refusal) = &flow.story.refusal {
            self.refusal(refusal, flow)?;
            if let Some(remark) = flow.story.remark {
                self.more(&format!("and \"{remark}\""))?;
            }
            if !flow.story.follows.is_empty() {
                self.more("conntrack let these bytes pass above, without recording them")?;
            }
            if let Some(text) = unanswered(flow, refusal).filter(|_| flow.story.reset.is_none()) {
                self.more(&text)?;
            }
        }
        if let Some(reset) = &flow.story.reset {
            self.reset(reset, flow, began)?;
        }
        if let Some(found) = &report.suspects {
            self.more(&suspects(found))?;
        }
        let mut first = flow.story.refusal.is_none() && flow.story.reset.is_none();
        for Later { at, who, symbol, text } in self.aftermath(flow, began) {
            let time = if first { self.wall(at) } else { self.after(began, at) };
            self.row(&time, who, symbol, &text)?;
            first = false;
        }
        self.below(report)
    }

    /// The flow's namespace, where the report tells of more than one: addresses do not say which.
    fn place(&self, report: &FlowReport) -> String {
        match (&report.netns_name, report.flow.key.netns) {
            _ if !self.several => String::new(),
            (Some(name), _) => format!("in {name}"),
            (None, Some(inode)) => format!("in netns {inode}"),
            (None, None) => String::new(),
        }
    }

    /// The packet, and what conntrack said of it.
    fn refusal(&mut self, refusal: &Refusal, flow: &Flow) -> fmt::Result {
        let event = &refusal.event;
        self.trigger(event)?;
        let silent = if event.hook == Hook::NewRefused { " without a word, by tcp_new" } else { "" };
        let quoted = event.words.map_or(silent.to_owned(), |words| format!(" \"{}\"", words.to_string().trim_end()));
        let (style, symbol, verdict) = match refusal.verdict {
            Verdict::Invalid => (BAD, self.look.pick("✗", "x"), "INVALID"),
            Verdict::Ignored => (GOOD, self.look.pick("✓", "ok"), "accepted in spite of"),
            Verdict::Unknown => (WARN, "?", "said"),
        };
        self.row(
            &self.after(Instant(0), Instant(0)),
            "conntrack",
            &format!("{style}{symbol}{style:#}"),
            &format!("{verdict}{quoted}"),
        )?;
        if let Some(explained) = &refusal.window {
            self.more(&window(explained))?;
        }
        if refusal.verdict == Verdict::Invalid && refusal.direction == Some(Direction::Original) {
            let source = flow.key.client();
            self.more(&format!("a refused packet of the client's side keeps its private source {source}"))?;
        }
        Ok(())
    }

    fn trigger(&mut self, event: &Event) -> fmt::Result {
        let wall = self.wall(event.at);
        let text = match event.packet {
            None => "a segment whose headers are out of reach".to_owned(),
            Some(packet) => {
                let mut text = format!(
                    "{} {} {}  [{}] seq{TIED}{}..{}",
                    packet.src,
                    self.look.arrow(),
                    packet.dst,
                    packet.flags,
                    packet.seq,
                    packet.end()
                );
                if packet.flags.has(Flags::ACK) {
                    write!(text, " ack{TIED}{}", packet.ack)?;
                }
                write!(text, " win{TIED}{} len{TIED}{}", packet.window, packet.payload_len)?;
                for (left, right) in packet.options.sack_blocks() {
                    write!(text, " sack{TIED}{left}..{right}")?;
                }
                write!(text, "{TIED}{} ttl{TIED}{}", self.look.dot(), packet.ttl)?;
                if let Some(interface) = event.input {
                    write!(text, "{TIED}{} in{TIED}by{TIED}{interface}", self.look.dot())?;
                }
                text
            }
        };
        let mark = self.look.pick("▸", ">");
        self.row(&wall, "", mark, &text)
    }

    fn reset(&mut self, reset: &Reset, flow: &Flow, began: Instant) -> fmt::Result {
        let event = &reset.event;
        // A socket that resets its connection of its own accord answers nothing.
        let shown = flow.story.refusal.is_some() || event.socket.is_some_and(|socket| socket.own.is_some());
        if !shown {
            self.trigger(event)?;
        }
        let bad = format!("{BAD}{}{BAD:#}", self.look.pick("✗", "x"));
        let first = flow.story.refusal.is_none() && shown;
        let time = if first { self.wall(event.at) } else { self.after(began, event.at) };
        if let Some(gone) = flow.story.gone()
            && reset.by == ResetBy::GatewayStack
        {
            self.row(&time, "conntrack", &bad, &ended(gone, event.at))?;
        }
        if let Some((_, destination)) = nat_skipped(flow, reset) {
            let why = match event.nfct {
                Some(Nfct::Untracked) => "the packet is exempt from connection tracking",
                Some(Nfct::None) if flow.story.gone().is_some() => "the packet has no conntrack entry",
                Some(Nfct::None) => "the packet has no conntrack entry any more",
                _ => "the packet was taken for the first of a new connection",
            };
            let text = format!("skipped: {why}, its destination stays {destination} (this host)");
            self.row(&time, "nat", &bad, &text)?;
        }
        let who = match reset.by {
            ResetBy::GatewayRejectRule => "rule",
            ResetBy::GatewaySocket => "socket",
            ResetBy::GatewayStack | ResetBy::Peer => "tcp",
        };
        let to = event.tuple().map_or_else(|| "its sender".to_owned(), |tuple| tuple.src.to_string());
        let mut text = format!("RST {} {to}", self.look.arrow());
        if let Some(answer) = reset.answer {
            match answer.ack {
                None => write!(text, " seq{TIED}{} (the{TIED}segment's{TIED}ack)", answer.seq)?,
                Some(ack) => write!(text, " seq{TIED}{} ack{TIED}{ack}", answer.seq)?,
            }
        }
        write!(text, ": {}", effect(reset, peer(Some(flow), reset)))?;
        if reset.doubtful {
            text.push_str("; the segment is signed (TCP-MD5 or TCP-AO), so the kernel may not have sent it");
        }
        if let Some(socket) = event.socket {
            write!(text, "; by a socket in state {}", socket.state)?;
            if let Some(process) = socket.own.and_then(|own| own.process) {
                write!(text, " of {process}")?;
            }
        }
        if let Some(reason) = event.reset_reason.and_then(|value| self.report.host.reset_reason(value)) {
            write!(text, "; the kernel's reason: {reason}")?;
        }
        self.row(&time, who, &bad, &text)
    }

    /// What happened after the RST, in order of time.
    fn aftermath(&self, flow: &Flow, began: Instant) -> Vec<Later> {
        let arrow = self.look.arrow();
        let mut steps = Vec::new();
        if let Some(departure) = flow.story.departure {
            let by = departure.output.map_or_else(String::new, |output| format!(" by {output}"));
            let text = format!("the RST left{by}, untranslated");
            steps.push(Later { at: departure.at, who: "", symbol: self.look.pick("▸", ">"), text });
        }
        let back = self.look.pick("←", "<");
        if let Some(reset) = flow.peer_reset {
            let who = flow.end(reset.tuple.src).unwrap_or("an end");
            let to = reset.tuple.dst;
            let text = match reset.seen {
                PeerSeen::Made { answered: Some(_), .. } => format!("RST {arrow} {to}: it has no connection any more"),
                PeerSeen::Made { answered: None, .. } => format!("RST {arrow} {to}: it ends the connection"),
                PeerSeen::Arrived { input, packet } => {
                    let dot = self.look.dot();
                    let by = input.map_or_else(String::new, |input| format!(" {dot} in by {input}"));
                    let what = if packet.refuses() { ": nothing listens there" } else { "" };
                    format!(
                        "RST {arrow} {to}  [{}] seq {} {dot} ttl {}{by}{what}",
                        packet.flags, packet.seq, packet.ttl
                    )
                }
            };
            steps.push(Later { at: reset.at, who, symbol: back, text });
        }
        for fate in &flow.fates {
            let expires = |timeout: &Option<u32>| timeout.map_or_else(String::new, |left| format!(", {left} s left"));
            let since =
                fate.not_before.map_or_else(String::new, |at| format!(" (not before {})", self.after(began, at)));
            let (who, symbol, text) = match &fate.outcome {
                Outcome::Found { state: Some(TcpState::Close), timeout_s, .. } if reset_passed_through(flow) => {
                    let left = expires(timeout_s);
                    ("entry", back, format!("CLOSE{left}: a RST of one end has passed through to the other{since}"))
                }
                Outcome::Found { state, timeout_s, .. } => {
                    let state = state.map_or_else(|| "there".to_owned(), |state| state.to_string());
                    ("entry", self.look.pick("·", "-"), format!("still {state}{}{since}", expires(timeout_s)))
                }
                Outcome::Gone { .. } => ("entry", self.look.pick("·", "-"), format!("gone{since}")),
                Outcome::Failed { because } => ("entry", "?", format!("not looked up: {because}")),
            };
            steps.push(Later { at: fate.at, who, symbol, text });
        }
        steps.sort_by_key(|step| step.at);
        steps
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
            self.labelled("not the cause: ", &parts.join(&format!("{TIED}{dot} ")))?;
        }
        if !report.mitigations.is_empty() {
            let names: Vec<&str> = report.mitigations.iter().map(|id| id.name()).collect();
            self.labelled("cures: ", &names.join(&format!("{TIED}{dot} ")))?;
        }
        Ok(())
    }
}

/// A step after the RST.
struct Later {
    at: Instant,
    who: &'static str,
    symbol: &'static str,
    text: String,
}

fn tally_words(flow: &Flow) -> String {
    let tally = flow.tally();
    let parts = [
        (tally.invalid, "packet refused", "packets refused"),
        (tally.ignored, "packet remarked on and accepted", "packets remarked on and accepted"),
        (tally.resets, "RST sent", "RSTs sent"),
        (tally.forwarded, "RST of an end", "RSTs of the ends"),
    ];
    let parts: Vec<String> =
        parts.into_iter().filter(|(n, ..)| *n > 0).map(|(n, one, many)| counted(n, one, many)).collect();
    format!("{}; the first that did harm:", parts.join(", "))
}
