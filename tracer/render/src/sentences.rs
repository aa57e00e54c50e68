//! Sentences that several formats share.

mod headlines;
mod steps;

use std::time::Duration;

use tracer_advice::report::Report;
use tracer_common::Hook;
use tracer_engine::effect::Effect;
use tracer_engine::flow::{ConntrackVerdict, Flow, PeerSeen, Reset};
use tracer_model::capture::Host;
use tracer_model::cause::{Cause, Reason};
use tracer_model::conntrack::window::{BoundSource, Explanation, Failure, MAX_ACK_WINDOW};
use tracer_model::conntrack::{DestroyReason, DestroyedBy, DestroyedEntry, Direction, Message, Nfct, Verdict};
use tracer_model::event::OwnSocket;
use tracer_model::packet::Flags;
use tracer_model::ruleset::Candidates;
use tracer_model::time::Instant;

pub(super) use headlines::{Headline, Weight, headlines};
pub(super) use steps::{
    Line, Mark, after, entry_closed, entry_state, header, lines, numbers, peer_reset_received, peer_reset_sent,
    reset_output, segment, skipped, verdict, wall,
};

/// A space that is not broken at the end of a line: between a word and its number.
pub(super) const TIED: char = '\u{a0}';

/// Which end of a connection sends packets of a direction.
pub(super) const fn end_of(direction: Direction) -> &'static str {
    match direction {
        Direction::Original => "client",
        Direction::Reply => "server",
    }
}

/// The numbers of events: reported, suppressed, lost.
pub(super) fn events(report: &Report) -> String {
    let reported = counted(report.events, "event", "events");
    let only_counted = match report.suppressed {
        0 => String::new(),
        suppressed => format!(", {} more counted", grouped(suppressed)),
    };
    format!("{reported}{only_counted}, {} lost", grouped(report.lost))
}

/// The inequality that failed, with the entry's members.
pub(super) fn inequality(window: &Explanation) -> String {
    let (sender, receiver) = (end_of(window.direction), end_of(window.direction.other()));
    match window.failure {
        Failure::SeqOver | Failure::Overshot => format!("seq <= {sender}.td_maxend"),
        Failure::SeqUnder => format!("end >= {sender}.td_end - {receiver}.td_maxwin"),
        Failure::AckOver => format!("ack <= {receiver}.td_end"),
        Failure::AckUnder => format!("ack >= {receiver}.td_end - max({sender}.td_maxwin, {MAX_ACK_WINDOW})"),
    }
}

/// By how much a segment missed the window check, in words.
pub(super) fn missed(window: &Explanation) -> String {
    let receiver = end_of(window.direction.other());
    let distance = bytes(u64::from(window.distance));
    match window.failure {
        Failure::SeqOver => format!("the segment starts {distance} after the window"),
        Failure::Overshot => {
            format!("the segment starts {distance} after the window, by less than the window's size")
        }
        Failure::SeqUnder => format!("the segment ends {distance} before the window"),
        Failure::AckOver => format!("it acknowledges {distance} that conntrack has not seen the {receiver} send"),
        Failure::AckUnder => format!("its acknowledgement is {distance} too old"),
    }
}

/// The bound of a window check as a sum of the entry's members.
pub(super) fn bound(window: &Explanation) -> String {
    let (sender, receiver) = (end_of(window.direction), end_of(window.direction.other()));
    let (s, r) = (&window.sender, &window.receiver);
    let bound = window.bound;
    // The entry had changed before it was read: only the kernel's number is known.
    if window.source == BoundSource::Kernel {
        return format!("{bound} (the kernel's number)");
    }
    match window.failure {
        Failure::SeqOver | Failure::Overshot => format!("{bound} = {sender}.td_maxend"),
        Failure::SeqUnder => format!("{bound} = {sender}.td_end {} - {receiver}.td_maxwin {}", s.td_end, r.td_maxwin),
        Failure::AckOver => format!("{bound} = {receiver}.td_end"),
        Failure::AckUnder => {
            format!("{bound} = {receiver}.td_end {} - {}", r.td_end, s.td_maxwin.max(MAX_ACK_WINDOW))
        }
    }
}

/// The failed inequality with its numbers, and by how much it failed.
pub(super) fn window(window: &Explanation) -> String {
    let (what, sign) = match window.failure {
        Failure::SeqOver | Failure::Overshot => ("seq", '>'),
        Failure::SeqUnder => ("end", '<'),
        Failure::AckOver => ("ack", '>'),
        Failure::AckUnder => ("ack", '<'),
    };
    format!("{}: {what} {} {sign} {}", missed(window), window.value, bound(window))
}

/// The consequence of a packet that was accepted in spite of the window check.
pub(super) fn unaccounted(logged: &ConntrackVerdict) -> Option<String> {
    let window = logged.window?;
    let end = logged.event.packet?.end();
    let (sender, receiver) = match window.direction {
        Direction::Original => ("client", "server"),
        Direction::Reply => ("server", "client"),
    };
    Some(if window.failure == Failure::Overshot {
        format!("{sender}.td_end is {end} from now on, although the {receiver} has no use for the segment")
    } else {
        format!(
            "the {receiver} gets it, but conntrack does not record it: {sender}.td_end stays {}",
            window.sender.td_end
        )
    })
}

/// Why nobody answers a refused packet of the server, where that is known without the rules: its destination is the gateway, so the
/// gateway's own stack gets it.
pub(super) fn unanswered(flow: &Flow, logged: &ConntrackVerdict) -> Option<String> {
    let words = logged.event.words.as_ref()?;
    let to_gateway = logged.direction == Some(Direction::Reply) && flow.key.nat().is_some();
    if logged.verdict != Verdict::Invalid || !to_gateway {
        return None;
    }
    match words.message {
        Message::BadChecksum | Message::Truncated => {
            Some("the gateway's own stack drops such a packet without an answer: the connection loses it".to_owned())
        }
        _ if logged.event.packet?.flags.has(Flags::RST) => Some(format!(
            "a RST is never answered, and this one does not reach {}: the client does not learn of it and waits",
            flow.key.client()
        )),
        _ => None,
    }
}

/// The effect of a RST at the peer, with its numbers.
pub(super) fn effect(reset: &Reset, peer: &str) -> String {
    match reset.effect {
        Effect::Kills if reset.event.packet.is_none() => "the socket is closed, the connection is dead".to_owned(),
        Effect::Kills if reset.answer.is_some_and(|answer| answer.ack.is_some()) => {
            format!("it answers the {peer}'s SYN: the attempt fails at once")
        }
        Effect::Kills => format!("exactly what the {peer} expects next: the connection is dead"),
        Effect::MayKill => {
            format!(
                "between what the {peer} has acknowledged and what may have been sent to it: it ends the connection if all of that arrived"
            )
        }
        Effect::Closed => "the connection was closed before: the RST ends nothing".to_owned(),
        Effect::OtherConnection => {
            format!("it ends an older connection of the {peer}: the socket's own attempt goes on")
        }
        Effect::Challenged => {
            format!("not what the {peer} expects next: answered with a challenge ACK, the connection goes on")
        }
        Effect::Dropped if reset.answer.is_some_and(|answer| answer.ack.is_some()) => {
            format!("no effect on a {peer} in the middle of this connection: it goes on")
        }
        Effect::Dropped => format!("below what the {peer} has acknowledged: dropped, the connection goes on"),
        Effect::Unknown => format!("the {peer}'s state is not known"),
    }
}

/// The end of the flow that a RST was sent to. If only a packet of the flow is known, it is not known who opened it.
pub(super) fn peer(flow: Option<&Flow>, reset: &Reset) -> &'static str {
    match (flow.filter(|flow| flow.known), reset.event.tuple()) {
        (Some(flow), Some(tuple)) if tuple.src == flow.key.server() => "server",
        (Some(flow), Some(tuple)) if tuple.src == flow.key.client() => "client",
        _ => "peer",
    }
}

/// The kernel's own reason for the RST of a socket, in the form of all other reasons: `tcp-abort-on-linger`.
pub(super) fn kernel_reason(flow: &Flow, host: &Host) -> Option<String> {
    if flow.incident.diagnosis.cause != Cause::LocalSocket {
        return None;
    }
    let reason = host.reset_reason(flow.incident.reset.as_ref()?.event.reset_reason?)?;
    Some(reason.to_ascii_lowercase().replace('_', "-"))
}

/// A RST that was received: who sent it, and its interface.
pub(super) fn arrived(flow: &Flow) -> Option<String> {
    let peer = flow.incident.peer.as_ref()?;
    let PeerSeen::Arrived { input, packet } = peer.seen else { return None };
    let who = flow.end(packet.src).map_or_else(|| packet.src.to_string(), |end| format!("the {end}"));
    let by = input.map_or_else(String::new, |input| format!(" by {input}"));
    let what = if packet.refuses() { "refuses the connection: its RST" } else { "sent a RST: it" };
    Some(format!("{who} {what} arrived{by}. This gateway sent none."))
}

/// The rule that rejected: the only candidate, or all candidates, or none.
pub(super) fn candidates(candidates: &Candidates) -> String {
    let rules = |number: usize| counted(number as u64, "rule", "rules");
    let of = candidates.of;
    let mut text = match (candidates.rules.as_slice(), candidates.count) {
        ([], _) if of == 0 => "no rule that answers with a RST was found".to_owned(),
        ([], _) => format!("none of {} that can answer with a RST fits this packet", rules(of)),
        ([rule], 1) => format!("REJECT rule {rule} (inferred: the only one of {} that can): {}", rules(of), rule.text),
        (listed, count) => {
            let names: Vec<String> = listed.iter().map(|rule| format!("{rule} ({})", rule.text)).collect();
            let more = count - listed.len();
            let more = if more > 0 { format!("; and {more} more") } else { String::new() };
            format!("one of {count} REJECT rules (inferred, of {}): {}{more}", rules(of), names.join("; "))
        }
    };
    for problem in &candidates.problems {
        text.push_str("; there may be others: ");
        text.push_str(problem);
    }
    text
}

/// Why the entry was destroyed that a packet came too late for, and how long before the packet.
pub(super) fn destroyed(destroyed: &DestroyedEntry, packet: Instant) -> String {
    let before = interval(packet - destroyed.at);
    let state = destroyed.entry.state;
    let assured = if destroyed.entry.status.assured() { ", ASSURED" } else { "" };
    let why = match (destroyed.by, destroyed.reason()) {
        (DestroyedBy::UserSpace { pid, comm }, _) if comm.is_empty() => format!("process {pid} deleted it"),
        (DestroyedBy::UserSpace { pid, comm }, _) => format!("{comm} (process {pid}) deleted it"),
        (DestroyedBy::EarlyDrop, _) => "a new connection evicted it from the full table".to_owned(),
        (DestroyedBy::Pressure, _) => "the garbage collector evicted it: the table is above 95 % full".to_owned(),
        (DestroyedBy::CleanUp, _) => {
            "the kernel deleted it with the masquerading address, an interface or a module".to_owned()
        }
        (DestroyedBy::Tracker, _) => "a RST or a new SYN ended the connection".to_owned(),
        (DestroyedBy::Timeout, DestroyReason::Closed) => "the connection was closed and its timeout expired".to_owned(),
        (DestroyedBy::Timeout, _) => "its timeout expired".to_owned(),
        (DestroyedBy::Kernel, _) => "the kernel deleted it".to_owned(),
    };
    format!("entry destroyed {before} before the packet: {why} ({state}{assured})")
}

/// A duration in the unit that suits it.
fn interval(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{} ms", duration.as_millis()),
        seconds @ 1..100 => format!("{seconds}.{} s", duration.subsec_millis() / 100),
        seconds @ 100..7_200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}

/// A number of bytes, with separators.
pub(super) fn bytes(number: u64) -> String {
    let unit = if number == 1 { "byte" } else { "bytes" };
    format!("{} {unit}", grouped(number))
}

/// A number with separators between groups of three digits.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position != 0 && position % 3 == first {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `one thing`, `2 things`.
pub(super) fn counted(number: u64, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{} {many}", grouped(number)) }
}

/// What happened to a flow that was reset, in one sentence.
pub(super) fn incident(flow: &Flow) -> String {
    let what = match flow.incident.diagnosis.reason {
        Some(Reason::SeqUnder) => "a late retransmission",
        Some(Reason::SeqOver) => "a segment beyond the receiver's window",
        Some(Reason::Overshot) => "a segment slightly beyond the receiver's window",
        Some(Reason::AckOver) => "a segment that acknowledges data it has not seen",
        Some(Reason::AckUnder) => "a segment with a very old acknowledgement",
        Some(Reason::InvalidRst) => "a RST that is too old",
        Some(Reason::BadChecksum) => "a segment with a wrong checksum",
        Some(Reason::BadFlags) => "a segment with impossible flags",
        Some(Reason::Truncated) => "a truncated segment",
        _ => "a segment that does not fit the connection's state",
    };
    match flow.incident.diagnosis.cause {
        Cause::OutOfWindow | Cause::InvalidState | Cause::Malformed => {
            let way = if flow.key.nat().is_some() { ", so it was not reverse-NATed" } else { "" };
            format!("conntrack classified {what} as INVALID{way}; the local TCP stack got it and answered RST.")
        }
        Cause::NoEntry => {
            let entry = match flow.incident.diagnosis.reason {
                Some(Reason::Expired) => "the connection's conntrack entry had expired",
                Some(Reason::Closed) => "the connection was closed and its conntrack entry destroyed",
                Some(Reason::Evicted) => "the connection's conntrack entry had been evicted from a full table",
                Some(Reason::Deleted) => "the connection's conntrack entry had been deleted",
                _ => "there was no conntrack entry for the segment",
            };
            format!("{entry}, so it was not reverse-NATed; the local TCP stack got it and answered RST.")
        }
        Cause::RejectRule => "a REJECT rule of this gateway answered with a RST.".to_owned(),
        Cause::NoListener => "nothing listens on that port of the gateway itself.".to_owned(),
        Cause::LocalSocket => local_socket(flow),
        Cause::NotTracked => "the segment is exempt from connection tracking, so it was not reverse-NATed; the local \
                              TCP stack got it and answered RST."
            .to_owned(),
        Cause::PeerReset => arrived(flow).unwrap_or_default(),
        Cause::TableFull => String::new(),
        Cause::Unknown if without_kprobes(flow) => "conntrack refused the segment (INVALID), or does not track this \
                                                    namespace; without kprobes it is not known which. The local TCP \
                                                    stack got it and answered RST."
            .to_owned(),
        Cause::Unknown => "the local TCP stack answered RST; it is not known why the segment came to it.".to_owned(),
    }
}

/// Whether the RST is known by the tracepoint alone, for a segment that had no entry.
fn without_kprobes(flow: &Flow) -> bool {
    let event = flow.incident.reset.as_ref().map(|reset| &reset.event);
    event.is_some_and(|event| event.hook == Hook::ResetTracepoint && event.nfct == Some(Nfct::None))
}

fn local_socket(flow: &Flow) -> String {
    match flow.incident.reset.as_ref().and_then(|reset| reset.event.own_socket()) {
        Some(OwnSocket { process: Some(process), .. }) => {
            format!("{process} on the gateway itself ended its connection.")
        }
        Some(OwnSocket { process: None, .. }) => "the kernel aborted a connection of the gateway itself.".to_owned(),
        None => "a socket of the gateway itself sent the RST.".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{bytes, grouped};

    #[test]
    fn digits_are_grouped() {
        for (number, text) in
            [(0, "0"), (7, "7"), (999, "999"), (1_000, "1,000"), (966_879, "966,879"), (1_234_567, "1,234,567")]
        {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(bytes(1), "1 byte");
    }
}
