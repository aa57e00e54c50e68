//! The report for a terminal: what happened in one screen, then each flow step by step.
//!
//! Colours are always written; `anstream` takes them out where they are not wanted.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::time::Duration;

use textwrap::Options;
use tracer_common::Hook;

use super::cures;
use super::json::{nat_skipped, reset_passed_through};
use super::style::{BAD, FAINT, GOOD, Look, STRONG, WARN};
use super::words::{counted, effect, ended, kernel_reason, peer, story, suspects, unaccounted, unanswered, window};
use crate::capture::{HookState, Outcome};
use crate::causality::flow::{Flow, PeerSeen, Refusal, Reset, Strength};
use crate::cause::{Cause, Confidence, ResetBy};
use crate::conntrack::{Direction, Nfct, TcpState, Verdict};
use crate::diagnosis::Severity;
use crate::event::Event;
use crate::packet::Flags;
use crate::report::{FlowReport, HookLine, Report};
use crate::time::Instant;

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
        let mut groups: BTreeMap<(std::cmp::Reverse<Strength>, Cause, String), Vec<&Flow>> = BTreeMap::new();
        for flow in self.report.flows.iter().map(|flow| &flow.flow) {
            let strength = flow.story.strength();
            let what = if strength >= Strength::Forwarded { story(flow) } else { String::new() };
            groups.entry((std::cmp::Reverse(strength), flow.story.diagnosis.cause, what)).or_default().push(flow);
        }
        let dropped = self.report.summary.table_full_drops;
        if dropped > 0 {
            let packets = counted(dropped, "packet of a new connection was", "packets of new connections were");
            writeln!(self.to, "{STRONG}{packets} dropped: the conntrack table was full.{STRONG:#}")?;
        }
        if groups.is_empty() && dropped > 0 {
            return Ok(());
        }
        if groups.is_empty() {
            return writeln!(self.to, "{GOOD}Nothing was reset and no packet was refused.{GOOD:#}");
        }
        for ((strength, cause, what), flows) in groups {
            self.headline(strength.0, cause, &what, &flows)?;
        }
        Ok(())
    }

    fn headline(&mut self, strength: Strength, cause: Cause, what: &str, flows: &[&Flow]) -> fmt::Result {
        let count = flows.len() as u64;
        let was = if count == 1 { "was" } else { "were" };
        let packets = |select: fn(&Flow) -> u64| flows.iter().map(|flow| select(flow)).sum::<u64>();
        match strength {
            Strength::Killed => {
                let connections = counted(count, "connection", "connections");
                let who = match cause {
                    Cause::NoListener => "refused by this gateway itself",
                    Cause::RejectRule => "reset by a REJECT rule of this gateway",
                    Cause::LocalSocket => "reset by a socket of this gateway itself",
                    _ => "reset by this gateway, not by either end",
                };
                writeln!(self.to, "{STRONG}{connections} {was} {who}.{STRONG:#}")?;
                self.paragraph(what)
            }
            Strength::Forwarded => {
                let connections = counted(count, "connection", "connections");
                writeln!(self.to, "{STRONG}{connections} {was} reset by an end, not by this gateway.{STRONG:#}")?;
                self.paragraph(what)
            }
            Strength::Answered => {
                let resets = counted(packets(|flow| flow.tally().resets), "RST", "RSTs");
                writeln!(
                    self.to,
                    "{STRONG}{resets} of this gateway cannot have ended the connection{} that {}.{STRONG:#}",
                    if count == 1 { "" } else { "s" },
                    if count == 1 { "it was sent to" } else { "they were sent to" }
                )?;
                self.paragraph(what)
            }
            Strength::Refused => {
                let refused = counted(packets(|flow| flow.tally().invalid), "packet", "packets");
                let of = counted(count, "connection", "connections");
                writeln!(self.to, "{STRONG}conntrack refused {refused} of {of} ({cause}); no RST answered.{STRONG:#}")?;
                // Where it is known what became of the packet, the flow says so.
                let told = |flow: &&Flow| flow.story.refusal.as_ref().is_some_and(|it| unanswered(flow, it).is_some());
                if flows.iter().all(told) {
                    return Ok(());
                }
                self.paragraph("A rule dropped what was refused, or it went on untranslated.")
            }
            Strength::Undecided => {
                let remarks = counted(packets(|flow| flow.tally().undecided), "packet", "packets");
                writeln!(
                    self.to,
                    "{STRONG}conntrack remarked on {remarks}; this kernel's words do not say what it did with it.{STRONG:#}"
                )
            }
            Strength::Ignored => {
                let ignored = counted(packets(|flow| flow.tally().ignored), "packet", "packets");
                writeln!(
                    self.to,
                    "{GOOD}conntrack remarked on {ignored} ({cause}) and accepted {}: forwarded as usual, nothing was reset.{GOOD:#}",
                    if packets(|flow| flow.tally().ignored) == 1 { "it" } else { "them" }
                )?;
                self.accepted(flows)
            }
        }
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
        let counts = flow.tally();
        if counts.invalid + counts.resets + counts.ignored + counts.forwarded > 2 {
            self.row("", "", " ", &tally_words(flow))?;
        }
        let began = flow.story.began().unwrap_or(flow.first);
        for before in &flow.story.follows {
            self.refusal(before, flow)?;
            if let Some(consequence) = unaccounted(before) {
                self.row("", "", " ", &consequence)?;
            }
        }
        if let Some(refusal) = &flow.story.refusal {
            self.refusal(refusal, flow)?;
            if let Some(remark) = flow.story.remark {
                self.row("", "", " ", &format!("and \"{remark}\""))?;
            }
            if !flow.story.follows.is_empty() {
                self.row("", "", " ", "conntrack let these bytes pass above, without recording them")?;
            }
            if let Some(text) = unanswered(flow, refusal).filter(|_| flow.story.reset.is_none()) {
                self.row("", "", " ", &text)?;
            }
        }
        if let Some(reset) = &flow.story.reset {
            self.reset(reset, flow, began)?;
        }
        if let Some(found) = &report.suspects {
            self.row("", "", " ", &suspects(found))?;
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
            self.row("", "", " ", &window(explained))?;
        }
        if refusal.verdict == Verdict::Invalid && refusal.direction == Some(Direction::Original) {
            let source = flow.key.client();
            self.row("", "", " ", &format!("a refused packet of the client's side keeps its private source {source}"))?;
        }
        Ok(())
    }

    fn trigger(&mut self, event: &Event) -> fmt::Result {
        let wall = self.wall(event.at);
        let text = match event.packet {
            None => "a segment whose headers are out of reach".to_owned(),
            Some(packet) => {
                let mut text = format!(
                    "{} {} {}  [{}] seq {}..{}",
                    packet.src,
                    self.look.arrow(),
                    packet.dst,
                    packet.flags,
                    packet.seq,
                    packet.end()
                );
                if packet.flags.has(Flags::ACK) {
                    write!(text, " ack {}", packet.ack)?;
                }
                write!(text, " win {} len {}", packet.window, packet.payload_len)?;
                for (left, right) in packet.options.sack_blocks() {
                    write!(text, " sack {left}..{right}")?;
                }
                write!(text, " {} ttl {}", self.look.dot(), packet.ttl)?;
                if let Some(interface) = event.input {
                    write!(text, " {} in by {interface}", self.look.dot())?;
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
                None => write!(text, " seq {} (the segment's ack)", answer.seq)?,
                Some(ack) => write!(text, " seq {} ack {ack}", answer.seq)?,
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
            cures::write(self.to, mitigation, self.look)?;
        }
        if self.report.mitigations.is_empty() {
            return Ok(());
        }
        writeln!(self.to, "\n{FAINT}more: whyrst mitigate ID (--apply, --undo){FAINT:#}")
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

    /// A time of the day.
    fn wall(&self, at: Instant) -> String {
        self.report.host.clock.wall(at).strftime("%H:%M:%S%.6f").to_string()
    }

    /// A time after the beginning of a story: `+19 µs`, `+2.07 s`.
    fn after(&self, began: Instant, at: Instant) -> String {
        let elapsed = at - began;
        let micros = elapsed.as_micros();
        match micros {
            0..10_000 => format!("+{micros} {}", self.look.pick("µs", "us")),
            10_000..1_000_000 => format!("+{} ms", micros / 1_000),
            _ => format!("+{:.2} s", elapsed.as_secs_f64()),
        }
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

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
