//! What a single event shows by itself: its flow, its direction, its cause.

use tracer_common::Hook;
use tracer_model::cause::{Cause, Confidence, Diagnosis};
use tracer_model::conntrack::entry::CtInfo;
use tracer_model::conntrack::log_format::LogFormat;
use tracer_model::conntrack::{DestroyReason, Direction, Entry, Message, Nfct, TcpState, window};
use tracer_model::event::{Event, NfHook};
use tracer_model::flow_key::FlowKey;
use tracer_model::packet::{Flags, Packet};

use super::super::flow::ConntrackVerdict;

pub(super) fn diagnosis_of(logged: &ConntrackVerdict) -> Diagnosis {
    of_message(message_of(&logged.event), &logged.event)
}

/// conntrack's message about a packet, or the one that the function that refused it stands for.
pub(super) fn message_of(event: &Event) -> Message {
    let without_message = if event.hook == Hook::NewRefused { Message::InvalidNew } else { Message::Other };
    event.words.as_ref().map_or(without_message, |words| words.message)
}

/// The diagnosis of a message. A first packet that cannot open a connection has the reason of the destroyed entry, if that is known.
pub(super) fn of_message(message: Message, event: &Event) -> Diagnosis {
    match (message, &event.destroyed) {
        (Message::InvalidNew | Message::InvalidState, Some(destroyed)) => Diagnosis::of_destroyed(destroyed.reason()),
        // With `tcp_loose=0` it is refused for being from the middle of a connection, whatever its flags.
        (Message::InvalidNew, None) if event.hook == Hook::NewRefused && is_from_the_middle(event) => {
            Diagnosis::NEVER_SEEN
        }
        _ => Diagnosis::of_message(message),
    }
}

pub(super) const fn key_of_entry(event: &Event, entry: &Entry) -> FlowKey {
    FlowKey { netns: event.netns, zone: entry.zone, original: entry.original, reply: entry.reply }
}

/// The key of a flow that is known by a packet without an entry alone: whoever answers a SYN has not
/// opened the connection.
pub(super) fn opener_first(event: &Event, key: FlowKey) -> FlowKey {
    let accepts = |packet: Packet| packet.flags.has(Flags::SYN) && packet.flags.has(Flags::ACK);
    let answers = event.packet.is_some_and(|packet| accepts(packet) || packet.refuses());
    let unknown = event.destroyed.is_none() && event.entry.is_none_or(|entry| entry.state == TcpState::None);
    if answers && unknown { FlowKey { original: key.reply, reply: key.original, ..key } } else { key }
}

/// The packet's direction: from `ctinfo`, or by comparing it with the entry's tuples.
pub(super) fn direction(event: &Event) -> Option<Direction> {
    if event.destroyed.is_none()
        && let Some(direction) = event.nfct.and_then(Nfct::direction)
    {
        return Some(direction);
    }
    let (entry, packet) = (event.connection()?, event.packet?);
    [Direction::Original, Direction::Reply].into_iter().find(|side| entry.tuple(*side) == packet.tuple())
}

pub(super) fn explain(
    event: &Event,
    message: Message,
    direction: Option<Direction>,
    log_format: LogFormat,
) -> Option<window::Explanation> {
    let Message::Window { failure, logged } = message else { return None };
    window::explain(failure, logged, &event.packet?.segment(), &event.entry?, direction?, log_format)
}

/// A RST that leaves this host and that conntrack has no flow for ("invalid new", 6.9 and later).
pub(super) fn is_own_reset(event: &Event) -> bool {
    let leaving = match event.nf_hook {
        Some(hook) => matches!(hook, NfHook::LocalOut | NfHook::PostRouting),
        None => event.hook == Hook::NewRefused && event.input.is_none(),
    };
    leaving && event.packet.is_some_and(|packet| packet.flags.has(Flags::RST))
}

/// The cause that a RST shows if no refused packet belongs to it.
pub(super) fn of_reset(event: &Event) -> (Diagnosis, Confidence) {
    if event.hook.is_reject() {
        return (Diagnosis::plain(Cause::RejectRule), Confidence::Proven);
    }
    if event.socket.is_some() {
        return (Diagnosis::plain(Cause::LocalSocket), Confidence::Proven);
    }
    // Without kprobes it is not known what conntrack did with the packet before.
    let (diagnosis, confidence) = of_answered(event);
    (diagnosis, if event.hook == Hook::ResetTracepoint { Confidence::Inferred } else { confidence })
}

/// The cause that the answered segment shows.
fn of_answered(event: &Event) -> (Diagnosis, Confidence) {
    match event.nfct {
        // conntrack lets a SYN through or drops it; one that comes to the stack and finds no socket found a closed port.
        _ if event.packet.is_some_and(|packet| opens(&packet)) => {
            (Diagnosis::plain(Cause::NoListener), Confidence::Proven)
        }
        Some(Nfct::Untracked) => (Diagnosis::plain(Cause::NotTracked), Confidence::Proven),
        // The entry was destroyed, and at the RST the segment had none: conntrack refused it without a message, or classified it as
        // the first of a new connection.
        Some(Nfct::None | Nfct::Entry(CtInfo::New)) if event.destroyed.is_some() => {
            let end = event.destroyed.as_ref().map_or(DestroyReason::Unknown, |destroyed| destroyed.reason());
            (Diagnosis::of_destroyed(end), Confidence::Proven)
        }
        // conntrack classified a segment from the middle of a connection as the first of a new one.
        Some(Nfct::Entry(CtInfo::New)) => (Diagnosis::NEVER_SEEN, Confidence::Inferred),
        // conntrack refused it without a message, or the message was lost, or conntrack does not see packets here.
        Some(Nfct::None | Nfct::Entry(_)) | None => (Diagnosis::plain(Cause::Unknown), Confidence::Inferred),
    }
}

/// Whether a segment has none of the flags of the beginning or the end of a connection.
fn is_from_the_middle(event: &Event) -> bool {
    let never = [Flags::SYN, Flags::FIN, Flags::RST];
    event.packet.is_some_and(|packet| !never.iter().any(|flag| packet.flags.has(*flag)))
}

/// Whether a segment opens a connection.
pub(super) const fn opens(packet: &Packet) -> bool {
    packet.flags.has(Flags::SYN) && !packet.flags.has(Flags::ACK)
}
