//! What a time–sequence diagram shows of a flow, from top to bottom: only what was seen is called so.

use std::cmp::Ordering;
use std::time::Duration;

use tracer_advice::report::FlowReport;
use tracer_engine::effect::Effect;
use tracer_engine::flow::{ConntrackVerdict, EvidenceRank, Flow, PeerSeen, Reset};
use tracer_model::capture::{Host, Outcome};
use tracer_model::cause::ResetBy;
use tracer_model::conntrack::{Direction, Verdict};
use tracer_model::event::Event;
use tracer_model::time::Instant;

use super::lanes::Lane;
use crate::style::TextStyle;
use crate::words;

/// Where an arrow begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
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
    /// As far as the gateway's edge a hook saw it; what is beyond is concluded.
    SeenInside,
    /// The end that it comes from was seen making it; that it came here is concluded.
    SeenOutside,
    /// It follows from what was seen.
    Concluded,
}

/// What something is, to those whom the connection belongs to.
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

/// What a row shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// Something goes from here to there.
    Arrow(Place, Place),
    /// Something happens here.
    Sign(Place, Sign),
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

const CONNTRACK: Place = Place::Inside(Lane::Conntrack);
const MAKER: Place = Place::Inside(Lane::Maker);

/// The rows of a flow, in order of time.
pub(super) fn rows(report: &FlowReport) -> Vec<Row> {
    let flow = &report.flow;
    let incident = &flow.incident;
    let mut rows = Rows { flow, rows: Vec::new() };
    for before in &incident.follows {
        rows.logged(before);
    }
    if let Some(logged) = &incident.logged {
        rows.logged(logged);
    }
    if let Some(reset) = &incident.reset {
        rows.reset(reset, report);
    }
    rows.aftermath();
    rows.rows.sort_by_key(|row| row.at);
    rows.rows
}

struct Rows<'a> {
    flow: &'a Flow,
    rows: Vec<Row>,
}

impl Rows<'_> {
    fn add(&mut self, at: Instant, shown: Shown, known: Known, tone: Tone, text: &str) -> &mut Row {
        let text = text.replace(words::TIED, " ");
        self.rows.push(Row { at, shown, known, tone, text, dead: Vec::new(), entry_ends: false });
        let last = self.rows.len() - 1;
        &mut self.rows[last]
    }

    /// A segment that came to the gateway.
    fn segment(&mut self, event: &Event) {
        let style = TextStyle::default();
        let from = event.packet.and_then(|packet| self.flow.end(packet.src));
        let text = match event.packet {
            Some(packet) => words::header(&packet, event, style),
            None => words::segment(event, style),
        };
        let shown = match from {
            Some(end) => Shown::Arrow(Place::End(end), CONNTRACK),
            None => Shown::Sign(CONNTRACK, Sign::Dot),
        };
        self.add(event.at, shown, Known::Seen, Tone::Plain, &text);
    }

    fn logged(&mut self, logged: &ConntrackVerdict) {
        let at = logged.event.at;
        self.segment(&logged.event);
        let (sign, tone) = match logged.verdict {
            Verdict::Invalid => (Sign::Cross, Tone::Bad),
            Verdict::Ignored => (Sign::Check, Tone::Good),
            Verdict::Unknown => (Sign::Question, Tone::Plain),
        };
        let mut text = words::verdict(logged);
        if let Some(window) = &logged.window {
            text = format!("{text}: {}", words::missed(window));
        }
        self.add(at, Shown::Sign(CONNTRACK, sign), Known::Seen, tone, &text);
        let to = match (logged.verdict, logged.direction) {
            (Verdict::Ignored, Some(Direction::Original)) => "server",
            (Verdict::Ignored, Some(Direction::Reply)) => "client",
            _ => return,
        };
        let on = Shown::Arrow(CONNTRACK, Place::End(to));
        self.add(at, on, Known::Concluded, Tone::Good, "forwarded as usual");
    }

    fn reset(&mut self, reset: &Reset, report: &FlowReport) {
        let (flow, event) = (self.flow, &reset.event);
        let at = event.at;
        let own = event.own_socket().is_some();
        let told = flow.incident.logged.is_some();
        let gone = flow.incident.gone();
        if let Some(gone) = gone {
            let text = format!("entry ended: {}", gone_by(&words::ended(gone, at)));
            self.add(gone.at, Shown::Sign(CONNTRACK, Sign::Cross), Known::Seen, Tone::Plain, &text).entry_ends = true;
        }
        if !told && !own {
            self.segment(event);
        }
        if gone.is_some() && reset.by == ResetBy::GatewayStack && !told {
            self.add(at, Shown::Sign(CONNTRACK, Sign::Cross), Known::Seen, Tone::Bad, "no entry any more");
        }
        if !own {
            let text = match (words::skipped(flow, reset), reset.by, event.nf_hook) {
                (Some(skipped), ..) => format!("NAT {skipped}"),
                (None, ResetBy::GatewayRejectRule, Some(hook)) => format!("it comes to the rule at {hook}"),
                (None, ResetBy::GatewayRejectRule, None) => "it comes to the rule".to_owned(),
                (None, ..) => "delivered to this host".to_owned(),
            };
            self.add(at, Shown::Arrow(CONNTRACK, MAKER), Known::Seen, Tone::Plain, &text);
        }
        if let Some(candidates) = &report.candidates {
            self.add(at, Shown::Sign(MAKER, Sign::Dot), Known::Concluded, Tone::Plain, &words::candidates(candidates));
        }
        let to = event.tuple().and_then(|tuple| flow.end(tuple.src));
        let sent = match to {
            Some(end) => Shown::Arrow(MAKER, Place::End(end)),
            None => Shown::Sign(MAKER, Sign::Dot),
        };
        let symbol = event.hook.spec().symbol;
        let text = format!("RST{}, made by {symbol}", words::numbers(reset));
        let known = if reset.doubtful { Known::Concluded } else { Known::SeenInside };
        self.add(at, sent, known, Tone::Bad, &text);
        self.effect(reset, to, own);
    }

    /// What the RST does to whom it was sent to: concluded from its numbers, not seen.
    fn effect(&mut self, reset: &Reset, to: Option<&'static str>, own: bool) {
        let at = reset.event.at;
        let text = words::effect(reset, words::peer(Some(self.flow), reset));
        if own && reset.effect == Effect::Kills {
            let process = reset.event.process();
            let whose = process.map_or_else(String::new, |process| format!(", closed by {process}"));
            self.add(at, Shown::Sign(MAKER, Sign::Cross), Known::Seen, Tone::Bad, &format!("{text}{whose}"));
            return;
        }
        let Some(end) = to else { return };
        let (sign, tone) = match reset.effect {
            Effect::Kills => (Sign::Cross, Tone::Bad),
            Effect::MayKill | Effect::Unknown => (Sign::Question, Tone::Plain),
            Effect::Closed | Effect::OtherConnection | Effect::Dropped | Effect::Challenged => (Sign::Dot, Tone::Good),
        };
        let row = self.add(at, Shown::Sign(Place::End(end), sign), Known::Concluded, tone, &text);
        if sign == Sign::Cross {
            row.dead.push(end);
        }
    }

    /// What happened after the RST.
    fn aftermath(&mut self) {
        let flow = self.flow;
        if let Some(reset_output) = flow.incident.reset_output {
            let by = reset_output.output.map_or_else(String::new, |output| format!(" by {output}"));
            let text = format!("the RST left{by}, untranslated");
            self.add(reset_output.at, Shown::Sign(CONNTRACK, Sign::Dot), Known::Seen, Tone::Plain, &text);
        }
        let mut passes_on = flow.incident.rank() == EvidenceRank::Forwarded;
        if let Some(reset) = flow.peer_reset.as_deref() {
            let from = flow.end(reset.tuple.src);
            let known = match reset.seen {
                PeerSeen::Made { .. } => Known::SeenOutside,
                PeerSeen::Arrived { .. } => Known::Seen,
            };
            let shown = match from {
                Some(end) => Shown::Arrow(Place::End(end), CONNTRACK),
                None => Shown::Sign(CONNTRACK, Sign::Dot),
            };
            let text = format!("RST{}", words::of_end(reset, TextStyle::default()));
            self.add(reset.at, shown, known, Tone::Bad, &text).dead.extend(from);
            passes_on |= flow.entry_statuses.iter().any(|fate| words::passed_through(flow, &fate.outcome));
            if let Some(to) = from.filter(|_| passes_on).map(other) {
                let on = Shown::Arrow(CONNTRACK, Place::End(to));
                let row = self.add(reset.at, on, Known::Concluded, Tone::Bad, &format!("passed on: the {to} is told"));
                row.dead.push(to);
            }
        }
        for fate in &flow.entry_statuses {
            let through = words::passed_through(flow, &fate.outcome);
            let sign = if matches!(fate.outcome, Outcome::Failed { .. }) { Sign::Question } else { Sign::Dot };
            let text = format!("entry: {}", words::found(flow, &fate.outcome));
            let tone = if through { Tone::Bad } else { Tone::Plain };
            let row = self.add(fate.at, Shown::Sign(CONNTRACK, sign), Known::Seen, tone, &text);
            row.entry_ends = matches!(fate.outcome, Outcome::NotFound { .. });
            if through {
                row.dead.extend(["client", "server"]);
            }
        }
    }
}

/// When something is, in the words of the diagram's axis: the time of the day where the story begins, else how long before or
/// after.
pub(super) fn time(flow: &Flow, host: &Host, at: Instant) -> String {
    let began = flow.incident.began().unwrap_or(flow.first);
    match at.cmp(&began) {
        Ordering::Equal => words::wall(host, at, TextStyle::default()),
        Ordering::Less => words::after(began - at, TextStyle::default()).replacen('+', "−", 1),
        Ordering::Greater => words::after(at - began, TextStyle::default()),
    }
}

/// How long a break of the axis stands for.
pub(super) fn pause(elapsed: Duration) -> String {
    words::after(elapsed, TextStyle::default()).trim_start_matches('+').to_owned()
}

fn other(end: &str) -> &'static str {
    if end == "client" { "server" } else { "client" }
}

/// How an entry ended, of the sentence that begins with there being none.
fn gone_by(sentence: &str) -> &str {
    sentence.strip_prefix("no entry: ").unwrap_or(sentence)
}
