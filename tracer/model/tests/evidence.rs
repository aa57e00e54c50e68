//! The packets that an event stands for.

use proptest::prelude::*;

use tracer_common::Hook;
use tracer_common::wire::RECORD_SIZE;
use tracer_model::conntrack::{Seq, Tuple};
use tracer_model::evidence::{Bound, Frame, bound, captured, reset};
use tracer_model::packet::ResetSegment;
use tracer_testing::Build;

fn segment() -> Build {
    Build::from_server(Hook::CtInvalid, 1, 7_000, 3_270_668_047, 2_102_471_179)
}

fn frame(build: &Build) -> Frame {
    captured(&build.bytes()).unwrap()
}

/// The bytes of an IPv6 packet's headers in a record.
fn v6(next: u8, payload: u16) -> Build {
    let mut build = segment();
    build.record.l3 = [0; 64];
    build.record.l3[0] = 0x60;
    build.record.l3[4..6].copy_from_slice(&payload.to_be_bytes());
    build.record.l3[6] = next;
    build.record.l3_len = 40;
    build
}

#[test]
fn headers_are_what_was_read_and_the_length_is_the_packet_s() {
    let build = segment();
    let Frame { bytes, length, .. } = frame(&build);
    assert_eq!(bytes[..20], build.record.l3[..20]);
    assert_eq!(bytes[20..], build.record.l4[..20]);
    assert_eq!((bytes.len(), length), (40, 1_040));
}

#[test]
fn a_header_that_was_cut_stays_cut() {
    let mut build = segment();
    build.record.l4_len = 7;
    assert_eq!(frame(&build).bytes.len(), 27);
    build.record.l4_len = 0;
    assert_eq!((frame(&build).bytes.len(), frame(&build).length), (20, 1_040));
    build.record.l3_len = 19;
    assert_eq!(captured(&build.bytes()), None);
}

/// The stack merges more than an IPv4 packet can hold (BIG TCP): the length in the header is 0 then.
#[test]
fn merged_segments_are_as_long_as_the_buffer() {
    let mut build = segment();
    build.record.l3[2..4].copy_from_slice(&[0, 0]);
    build.record.payload_len = 190_000;
    assert_eq!(frame(&build).length, 190_040);
    let mut build = v6(6, 0);
    build.record.payload_len = 190_000;
    assert_eq!(frame(&build).length, 190_060);
}

#[test]
fn extension_headers_that_were_not_read_are_left_out() {
    assert_eq!((frame(&v6(6, 1_020)).length, frame(&v6(6, 1_020)).extensions_left_out), (1_060, 0));
    let Frame { bytes, length, extensions_left_out } = frame(&v6(60, 1_028));
    assert_eq!((length, extensions_left_out), (1_060, 8));
    assert_eq!((bytes[6], &bytes[4..6], bytes.len()), (6, &1_020u16.to_be_bytes()[..], 60));
}

#[test]
fn resets() {
    let tuple = Tuple { src: "192.0.2.1:34567".parse().unwrap(), dst: "192.0.2.2:443".parse().unwrap() };
    let plain = reset(tuple, ResetSegment { seq: Seq(7), ack: None }).unwrap();
    assert_eq!((plain.bytes.len(), plain.length), (40, 40));
    assert_eq!((plain.bytes[8], plain.bytes[33]), (0, 0x04), "no hop limit is made up, and no ACK");
    let refusing = reset(tuple, ResetSegment { seq: Seq(0), ack: Some(Seq(9)) }).unwrap();
    assert_eq!((refusing.bytes[33], refusing.bytes[31]), (0x14, 9));
    let mixed = Tuple { src: "[2001:db8::1]:1".parse().unwrap(), ..tuple };
    assert_eq!(reset(mixed, ResetSegment { seq: Seq(0), ack: None }), None);
    let v6 = Tuple { dst: "[2001:db8::2]:2".parse().unwrap(), ..mixed };
    assert_eq!(reset(v6, ResetSegment { seq: Seq(0), ack: None }).unwrap().length, 60);
}

#[test]
fn ways() {
    assert_eq!(bound(&segment().event()), Bound::In);
    assert_eq!(bound(&segment().at(3).event()), Bound::Out);
    let mut inside = segment();
    inside.record.in_index = 0;
    assert_eq!(bound(&inside.event()), Bound::Unknown);
    assert_eq!(bound(&inside.at(1).event()), Bound::In);
}

proptest! {
    /// Whatever a damaged recording holds, the bytes are ones that it holds, and not longer than the packet.
    #[test]
    fn any_record(mut bytes in prop::collection::vec(any::<u8>(), RECORD_SIZE), v6 in any::<bool>()) {
        bytes[32..36].copy_from_slice(&[3, 0, 0, 0]);
        bytes[104] = if v6 { 0x60 } else { 0x45 };
        if let Some(frame) = captured(&bytes) {
            prop_assert!(frame.bytes.len() <= 128 && frame.length as usize >= frame.bytes.len());
        }
    }
}
