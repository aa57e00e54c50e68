//! Records of hooks become events, and any other bytes a named error.

use proptest::prelude::*;

use tracer_common::Hook;
use tracer_common::wire::{RECORD_SIZE, VERSION, present};
use tracer_model::conntrack::entry::CtInfo;
use tracer_model::conntrack::log_format::LogFormat;
use tracer_model::conntrack::window::Failure;
use tracer_model::conntrack::{Message, Nfct, Seq, TcpState, Verdict};
use tracer_model::decode::{DecodeError, decode, trimmed};
use tracer_model::packet::Flags;
use tracer_testing::{Build, GATEWAY, REPLY};

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
    assert_eq!(words.message.verdict(LogFormat::E1), Verdict::Invalid);
    assert!(!event.flags.format_after_state);
}

/// 5.15: the words of 5.10 behind a hook state. Debian ships no such kernel.
#[test]
fn record_of_e2() {
    let text = "ACK is over the upper bound (ACKed data not seen yet)";
    let mut build = late_retransmission().words("%s", text, 0).at(0);
    build.record.present |= present::FORMAT_AFTER_STATE;
    let event = build.event();
    assert!(event.flags.format_after_state);
    let words = event.words.unwrap();
    assert_eq!(words.message, Message::Window { failure: Failure::AckOver, logged: None });
    assert_eq!(words.message.verdict(LogFormat::E2), Verdict::Invalid);
}

/// Late 5.15 and 6.0: a number where 5.10 has none, and a verdict that 6.1 no longer gives.
#[test]
fn overshot_of_e2() {
    let mut build = late_retransmission().words("%u bytes more than expected", "", 1_449).at(0);
    build.record.present |= present::FORMAT_AFTER_STATE;
    let words = build.event().words.unwrap();
    assert_eq!(words.to_string(), "1449 bytes more than expected");
    assert_eq!(words.message, Message::Window { failure: Failure::Overshot, logged: Some(1_449) });
    assert_eq!(words.message.verdict(LogFormat::E2), Verdict::Invalid);
    assert_eq!(words.message.verdict(LogFormat::E3), Verdict::Ignored);
}

/// The state table's words of 5.15 and later: two numbers and a string.
#[test]
fn state_message_of_e2() {
    let mut build = late_retransmission().words("packet (index %d) in dir %d ignored, state %s", "ESTABLISHED", 1);
    build.record.args[1] = 1;
    let words = build.event().words.unwrap();
    assert_eq!(words.to_string(), "packet (index 1) in dir 1 ignored, state ESTABLISHED");
    assert_eq!(words.message.verdict(LogFormat::E2), Verdict::Ignored);
}

/// 6.1 and later: the bound is in the message.
#[test]
fn record_of_e3() {
    let format = "SEQ is under lower bound %u (already ACKed data retransmitted)";
    let mut build = late_retransmission().words(format, "", 3_271_635_925).at(0);
    build.record.present |= present::FORMAT_AFTER_STATE | present::VA_FORMAT;
    let event = build.event();
    assert!(event.flags.va_format);
    let words = event.words.unwrap();
    assert_eq!(words.to_string(), "SEQ is under lower bound 3271635925 (already ACKed data retransmitted)");
    assert_eq!(words.message.verdict(LogFormat::E3), Verdict::Ignored);
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
