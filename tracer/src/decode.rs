//! Bytes of a record → [`Event`]. Total: any bytes give an event or a named error, never a panic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice};
use tracer_common::Hook;
use tracer_common::wire::{self, OLDEST, RECORD_SIZE, Record, VERSION, caller, present};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::conntrack::{Direction, EndedBy, Entry, Gone, Message, Nfct, Seen, Seq, Status, TcpState, Tuple};
use crate::event::{
    Event, Interface, NfHook, Notes, OwnSocket, Process, SkbId, Socket, SocketState, Text, Wording, Words,
};
use crate::packet::{Flags, Options, Packet};
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
        packet: has(present::L3 | present::L4).then(|| packet(record)).flatten(),
        nfct: (has(present::NFCT) && !taken_away).then(|| Nfct::from_raw(record.nfct)),
        entry: has(present::CONNTRACK).then(|| entry(&record.ct)).flatten(),
        gone: (has(present::GONE) && !taken_away).then(|| gone(&record.gone)).flatten().map(Box::new),
        words: has(present::TEXT).then(|| words(record)),
        socket,
        reset_reason: has(present::RESET_REASON).then_some(record.reset_reason),
        notes: Notes {
            incomplete: has(present::INCOMPLETE),
            from_fragment: has(present::FROM_FRAGMENT),
            va_format: has(present::VA_FORMAT),
            format_after_state: has(present::FORMAT_AFTER_STATE),
        },
        class: record.class,
    })
}

/// A record with the zero bytes that were cut off its end; `None` where it is longer than one.
pub(crate) fn padded(raw: &[u8]) -> Option<Record> {
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

fn words(record: &Record) -> Words {
    let (format, text) = (Wording::new(&record.format), Wording::new(&record.text));
    let message = Message::recognise(format.as_str(), text.as_str(), record.args[0]);
    Words { message, format, text, args: record.args }
}

fn packet(record: &Record) -> Option<Packet> {
    let l3 = record.l3.get(..usize::from(record.l3_len))?;
    let l4 = record.l4.get(..usize::from(record.l4_len))?;
    let (src, dst, ttl, tos, ip_id) = if l3.first()? >> 4 == 4 {
        let ip = Ipv4HeaderSlice::from_slice(l3).ok()?;
        let tos = ip.dcp().value() << 2 | ip.ecn().value();
        let (src, dst): (IpAddr, IpAddr) = (ip.source_addr().into(), ip.destination_addr().into());
        (src, dst, ip.ttl(), tos, Some(ip.identification()))
    } else {
        let ip = Ipv6HeaderSlice::from_slice(l3).ok()?;
        let (src, dst): (IpAddr, IpAddr) = (ip.source_addr().into(), ip.destination_addr().into());
        (src, dst, ip.hop_limit(), ip.traffic_class(), None)
    };
    // Read by hand: a header that is cut inside its options is still evidence, and etherparse refuses it whole.
    let fixed = l4.first_chunk::<20>()?;
    let number = |at: usize| u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    let short = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
    Some(Packet {
        src: SocketAddr::new(src, short(0)),
        dst: SocketAddr::new(dst, short(2)),
        ttl,
        tos,
        ip_id,
        seq: Seq(number(4)),
        ack: Seq(number(8)),
        flags: Flags(fixed[13]),
        window: short(14),
        payload_len: record.payload_len,
        options: Options::new(&l4[20..]),
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

pub(crate) fn gone(gone: &wire::Gone) -> Option<Gone> {
    let by = match gone.caller {
        _ if gone.portid != 0 => EndedBy::UserSpace { pid: gone.pid, comm: Text::new(&gone.comm) },
        caller::EARLY_DROP => EndedBy::EarlyDrop,
        _ if gone.left <= 0 => EndedBy::Timeout,
        caller::GC_WORKER => EndedBy::Pressure,
        caller::CLEANUP => EndedBy::CleanUp,
        caller::TRACKER => EndedBy::Tracker,
        _ => EndedBy::Kernel,
    };
    Some(Gone { at: Instant(gone.time_ns), entry: entry(&gone.ct)?, by })
}

fn tuple(tuple: &wire::Tuple) -> Option<Tuple> {
    const NFPROTO_IPV4: u16 = 2;
    const NFPROTO_IPV6: u16 = 10;
    let address = |bytes: &[u8; 16]| match tuple.l3num {
        NFPROTO_IPV4 => Some(IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))),
        NFPROTO_IPV6 => Some(IpAddr::V6(Ipv6Addr::from(*bytes))),
        _ => None,
    };
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tracer_common::Hook;
    use tracer_common::wire::{RECORD_SIZE, VERSION, present};

    use super::{DecodeError, decode, trimmed};
    use crate::conntrack::entry::CtInfo;
    use crate::conntrack::window::Failure;
    use crate::conntrack::{Message, Nfct, Seq, TcpState, Verdict};
    use crate::kernel::era::Era;
    use crate::packet::Flags;
    use crate::testing::{Build, GATEWAY, REPLY};

    fn late_retransmission() -> Build {
        Build::from_server(Hook::CtInvalid, 0xffff_8881, 7_000, 3_270_668_047, 2_102_471_179).entry(
            REPLY,
            3_271_668_047,
            2_102_471_179,
        )
    }

    /// 5.10: `"%s"` with the text behind it, no hook state.
    #[test]
    fn record_of_e1() {
        let text = "SEQ is under the lower bound (already ACKed data retransmitted)";
        let event = late_retransmission().words("%s", text, 0).event();
        assert_eq!(event.hook, Hook::CtInvalid);
        assert_eq!(event.netns, Some(GATEWAY));
        assert_eq!(event.nfct, Some(Nfct::Entry(CtInfo::EstablishedReply)));
        let packet = event.packet.unwrap();
        assert_eq!(packet.src.to_string(), "192.0.2.2:443");
        assert_eq!(packet.dst.to_string(), "192.0.2.1:34567");
        assert_eq!((packet.seq, packet.end()), (Seq(3_270_668_047), Seq(3_270_669_047)));
        assert_eq!((packet.ttl, packet.ip_id, packet.flags), (64, Some(0x1234), Flags(0x18)));
        let entry = event.entry.unwrap();
        assert_eq!(entry.original.src.to_string(), "10.0.0.2:34567");
        assert_eq!(entry.reply.dst.to_string(), "192.0.2.1:34567");
        assert_eq!(entry.state, TcpState::Established);
        assert!(entry.status.assured());
        let words = event.words.unwrap();
        assert_eq!(words.to_string(), text);
        assert_eq!(words.message.verdict(Era::E1), Verdict::Invalid);
        assert!(!event.notes.format_after_state);
    }

    /// 5.15: the words of 5.10 behind a hook state. Debian ships no such kernel.
    #[test]
    fn record_of_e2() {
        let text = "ACK is over the upper bound (ACKed data not seen yet)";
        let mut build = late_retransmission().words("%s", text, 0).at(0);
        build.record.present |= present::FORMAT_AFTER_STATE;
        let event = build.event();
        assert!(event.notes.format_after_state);
        let words = event.words.unwrap();
        assert_eq!(words.message, Message::Window { failure: Failure::AckOver, logged: None });
        assert_eq!(words.message.verdict(Era::E2), Verdict::Invalid);
    }

    /// Late 5.15 and 6.0: a number where 5.10 has none, and a verdict that 6.1 no longer gives.
    #[test]
    fn overshot_of_e2() {
        let mut build = late_retransmission().words("%u bytes more than expected", "", 1_449).at(0);
        build.record.present |= present::FORMAT_AFTER_STATE;
        let words = build.event().words.unwrap();
        assert_eq!(words.to_string(), "1449 bytes more than expected");
        assert_eq!(words.message, Message::Window { failure: Failure::Overshot, logged: Some(1_449) });
        assert_eq!(words.message.verdict(Era::E2), Verdict::Invalid);
        assert_eq!(words.message.verdict(Era::E3), Verdict::Ignored);
    }

    /// The state table's words of 5.15 and later: two numbers and a string.
    #[test]
    fn state_message_of_e2() {
        let mut build = late_retransmission().words("packet (index %d) in dir %d ignored, state %s", "ESTABLISHED", 1);
        build.record.args[1] = 1;
        let words = build.event().words.unwrap();
        assert_eq!(words.to_string(), "packet (index 1) in dir 1 ignored, state ESTABLISHED");
        assert_eq!(words.message.verdict(Era::E2), Verdict::Ignored);
    }

    /// 6.1 and later: the bound is in the message.
    #[test]
    fn record_of_e3() {
        let format = "SEQ is under lower bound %u (already ACKed data retransmitted)";
        let mut build = late_retransmission().words(format, "", 3_271_635_925).at(0);
        build.record.present |= present::FORMAT_AFTER_STATE | present::VA_FORMAT;
        let event = build.event();
        assert!(event.notes.va_format);
        let words = event.words.unwrap();
        assert_eq!(words.to_string(), "SEQ is under lower bound 3271635925 (already ACKed data retransmitted)");
        assert_eq!(words.message.verdict(Era::E3), Verdict::Ignored);
    }

    #[test]
    fn trailing_zeros_may_be_missing() {
        let whole = late_retransmission().bytes();
        let short = trimmed(&whole);
        assert!(short.len() < whole.len());
        assert_eq!(decode(short).unwrap(), decode(&whole).unwrap());
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let mut build = late_retransmission();
        build.record.version = 1;
        assert_eq!(decode(&build.bytes()), Err(DecodeError::Version(1)));
        let mut build = late_retransmission();
        build.record.hook = 99;
        assert_eq!(decode(&build.bytes()), Err(DecodeError::Hook(99)));
        let long = vec![0; RECORD_SIZE + 1];
        assert_eq!(decode(&long), Err(DecodeError::TooLong(RECORD_SIZE + 1)));
    }

    #[test]
    fn headers_cut_short_leave_no_packet() {
        for length in 0..20 {
            let mut build = late_retransmission();
            build.record.l4_len = length;
            assert_eq!(build.event().packet, None, "{length} bytes of a TCP header");
            let mut build = late_retransmission();
            build.record.l3_len = length;
            assert_eq!(build.event().packet, None, "{length} bytes of an IP header");
        }
    }

    proptest! {
        /// Whatever the kernel or a damaged file delivers, it is an event or a named error.
        #[test]
        fn any_bytes(mut bytes in prop::collection::vec(any::<u8>(), 0..RECORD_SIZE + 8), known in any::<bool>()) {
            if known && bytes.len() >= 36 {
                let hook = u16::from(bytes[34]) % Hook::ALL.len() as u16;
                bytes[32..34].copy_from_slice(&VERSION.to_le_bytes());
                bytes[34..36].copy_from_slice(&hook.to_le_bytes());
            }
            if let Ok(event) = decode(&bytes) {
                // Everything that is printed of it can be printed.
                let _text = format!("{event:?} {}", event.words.as_ref().map(ToString::to_string).unwrap_or_default());
            }
        }
    }
}
