//! Bytes of a record → [`Event`]. Total: any bytes give an event or a named error, never a panic.

use std::net::SocketAddr;

use zerocopy::{FromBytes, FromZeros, IntoBytes};

use tracer_common::Hook;
use tracer_common::wire::{self, OLDEST, RECORD_SIZE, Record, VERSION, caller, present};

use crate::conntrack::{
    DestroyedBy, DestroyedEntry, Direction, Entry, Message, Nfct, Seen, Seq, Status, TcpState, Tuple,
};
use crate::event::{
    Event, Interface, LogMessage, LogText, NfHook, OwnSocket, Process, RecordFlags, SkbId, Socket, SocketState, Text,
};
use crate::headers::{Headers, IpVersion};
use crate::packet::Packet;
use crate::time::Instant;

/// Why bytes are not an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// More bytes than this version's record has.
    #[error("a record of {0} bytes is longer than version {VERSION} allows ({RECORD_SIZE})")]
    TooLong(usize),
    /// A version that this program does not know.
    #[error("record version {0}; this program reads {OLDEST} to {VERSION}")]
    Version(u16),
    /// A hook that this program does not know.
    #[error("record of an unknown hook, number {0}")]
    Hook(u16),
}

/// Decodes a record. Trailing zero bytes may be missing.
pub fn decode(raw: &[u8]) -> Result<Event, DecodeError> {
    let mut whole = Record::new_zeroed();
    let record = if let Ok(record) = Record::ref_from_bytes(raw) {
        record
    } else {
        whole.as_mut_bytes().get_mut(..raw.len()).ok_or(DecodeError::TooLong(raw.len()))?.copy_from_slice(raw);
        &whole
    };
    if !(OLDEST..=VERSION).contains(&record.version) {
        return Err(DecodeError::Version(record.version));
    }
    let hook = Hook::from_number(record.hook).ok_or(DecodeError::Hook(record.hook))?;
    let has = |bit: u32| record.present & bit != 0;
    let socket = has(present::SOCKET).then(|| Socket {
        state: SocketState(record.sk_state),
        own: has(present::OWN).then(|| own_socket(&record.own)).flatten().map(Box::new),
    });
    // tcp_v4_rcv and tcp_v6_rcv take the entry from a segment before a full socket gets it (nf_reset_ct; 5.10 to 7.2), but
    // not where they find no socket, or one in TIME_WAIT: only there does 0 show that conntrack refused the segment. Where it
    // shows nothing, an entry that was destroyed before need not be the one that the segment has missed.
    let taken_away = record.nfct == 0 && socket.as_ref().is_some_and(|socket| socket.state.is_full());
    Ok(Event {
        at: Instant(record.time_ns),
        cpu: record.cpu,
        hook,
        skb: SkbId(record.skb),
        netns: has(present::NETNS).then_some(record.netns),
        input: interface(record.in_index, &record.in_name),
        output: interface(record.out_index, &record.out_name),
        nf_hook: has(present::NF_HOOK).then(|| NfHook::from_raw(record.nf_hook)),
        mark: record.mark,
        packet: packet(record),
        nfct: (has(present::NFCT) && !taken_away).then(|| Nfct::from_raw(record.nfct)),
        entry: has(present::CONNTRACK).then(|| entry(&record.ct)).flatten(),
        destroyed: (has(present::DESTROYED) && !taken_away)
            .then(|| destroyed(&record.destroyed))
            .flatten()
            .map(Box::new),
        words: has(present::TEXT).then(|| words(record)),
        socket,
        reset_reason: has(present::RESET_REASON).then_some(record.reset_reason),
        flags: RecordFlags {
            incomplete: has(present::INCOMPLETE),
            from_fragment: has(present::FROM_FRAGMENT),
            va_format: has(present::VA_FORMAT),
            format_after_state: has(present::FORMAT_AFTER_STATE),
        },
        class: record.class,
    })
}

/// A record with the zero bytes that were cut off its end; `None` where it is longer than one.
pub fn padded(raw: &[u8]) -> Option<Record> {
    let mut record = Record::new_zeroed();
    record.as_mut_bytes().get_mut(..raw.len())?.copy_from_slice(raw);
    Some(record)
}

/// A record without its trailing zero bytes, as recordings keep it.
pub fn trimmed(record: &[u8]) -> &[u8] {
    let len = record.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    &record[..len]
}

fn interface(index: u32, name: &[u8; wire::NAME_SIZE]) -> Option<Interface> {
    (index != 0).then(|| Interface { index, name: Text::new(name) })
}

fn words(record: &Record) -> LogMessage {
    let (format, text) = (LogText::new(&record.format), LogText::new(&record.text));
    let message = Message::recognise(format.as_str(), text.as_str(), record.args[0]);
    LogMessage { message, format, text, args: record.args }
}

fn packet(record: &Record) -> Option<Packet> {
    let headers = Headers::of(record).filter(Headers::is_whole)?;
    // A header that is cut inside its options is still evidence.
    let tcp = headers.tcp()?;
    Some(Packet {
        src: SocketAddr::new(headers.source()?, tcp.source()),
        dst: SocketAddr::new(headers.destination()?, tcp.destination()),
        ttl: headers.ttl(),
        tos: headers.tos(),
        ip_id: headers.ip_id(),
        seq: tcp.seq(),
        ack: tcp.ack(),
        flags: tcp.flags(),
        window: tcp.window(),
        payload_len: headers.payload_len(),
        options: tcp.options(),
    })
}

fn entry(ct: &wire::Conntrack) -> Option<Entry> {
    let [original, reply] = &ct.tuples;
    let [first, second] = &ct.seen;
    Some(Entry {
        original: tuple(original)?,
        reply: tuple(reply)?,
        zone: ct.zone,
        status: Status(ct.status),
        state: TcpState::from_raw(ct.state),
        seen: [seen(first), seen(second)],
        last_dir: if ct.last_dir == 0 { Direction::Original } else { Direction::Reply },
        last_end: Seq(ct.last_end),
    })
}

/// A destroyed entry; `None` where its addresses are of no known family.
pub fn destroyed(destroyed: &wire::Destroyed) -> Option<DestroyedEntry> {
    let by = match destroyed.caller {
        _ if destroyed.portid != 0 => DestroyedBy::UserSpace { pid: destroyed.pid, comm: Text::new(&destroyed.comm) },
        caller::EARLY_DROP => DestroyedBy::EarlyDrop,
        _ if destroyed.left <= 0 => DestroyedBy::Timeout,
        caller::GC_WORKER => DestroyedBy::Pressure,
        caller::CLEANUP => DestroyedBy::CleanUp,
        caller::TRACKER => DestroyedBy::Tracker,
        _ => DestroyedBy::Kernel,
    };
    Some(DestroyedEntry { at: Instant(destroyed.time_ns), entry: entry(&destroyed.ct)?, by })
}

fn tuple(tuple: &wire::Tuple) -> Option<Tuple> {
    let version = IpVersion::of_l3num(tuple.l3num)?;
    // An address of IPv4 is the first four of sixteen bytes.
    let address = |bytes: &[u8; 16]| version.address(&bytes[..version.source().len()]);
    Some(Tuple {
        src: SocketAddr::new(address(&tuple.src)?, u16::from_be_bytes(tuple.sport)),
        dst: SocketAddr::new(address(&tuple.dst)?, u16::from_be_bytes(tuple.dport)),
    })
}

fn own_socket(own: &wire::OwnSocket) -> Option<OwnSocket> {
    // A socket of IPv6 may carry a connection of IPv4.
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let Tuple { src, dst } = tuple(&own.tuple)?;
    Some(OwnSocket {
        tuple: Tuple { src: canonical(src), dst: canonical(dst) },
        snd_nxt: Seq(own.snd_nxt),
        rcv_nxt: Seq(own.rcv_nxt),
        process: (own.pid != 0).then(|| Process { pid: own.pid, comm: Text::new(&own.comm) }),
    })
}

fn seen(seen: &wire::Seen) -> Seen {
    Seen {
        td_end: Seq(seen.td_end),
        td_maxend: Seq(seen.td_maxend),
        td_maxwin: seen.td_maxwin,
        td_maxack: Seq(seen.td_maxack),
        td_scale: seen.td_scale,
        flags: seen.flags,
    }
}
