//! An event as packets: the header bytes that a hook read, and the RST that follows from them.
//!
//! Pure. What was not read is not filled in: a header that was cut stays cut, and the fields of a RST that do not follow
//! from what it answers are zero.

use std::net::IpAddr;

use etherparse::{IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, TcpHeader};
use tracer_common::wire::{Record, present};

use crate::conntrack::Tuple;
use crate::decode::padded;
use crate::event::{Event, NfHook};
use crate::packet::ResetSegment;

/// A packet as far as there are bytes of it, from its IP header on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// How long the packet was, in bytes; never less than there are.
    pub length: u32,
    /// Bytes of IPv6 extension headers that were not read and are missing between the headers. The IPv6 header then names
    /// TCP as the next one, and the length without them.
    pub extensions_left_out: u32,
}

/// Which way a packet goes, seen from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It came in.
    In,
    /// It leaves.
    Out,
    /// The event does not say.
    Unknown,
}

/// Bytes of an IPv4 or TCP header without options.
const MIN: usize = 20;
/// Bytes of an IPv6 header without extensions.
const IPV6: usize = 40;
/// The protocol number of TCP.
const TCP: u8 = 6;

/// The headers of a record's packet, as they were read; `None` where there is not even a whole IP header.
pub fn captured(record: &[u8]) -> Option<Frame> {
    let record = padded(record)?;
    let part = |bit: u32, bytes: &[u8], len: u8| {
        let known = record.present & bit != 0;
        bytes.get(..usize::from(len)).filter(|_| known).map(<[u8]>::to_vec).unwrap_or_default()
    };
    let network = part(present::L3, &record.l3, record.l3_len);
    let transport = part(present::L4, &record.l4, record.l4_len);
    match network.first()? >> 4 {
        4 if network.len() >= MIN => Some(v4(network, transport, &record)),
        6 if network.len() == IPV6 => Some(v6(network, transport, &record)),
        _ => None,
    }
}

/// Which way an event's packet was going.
pub fn way(event: &Event) -> Way {
    match event.nf_hook {
        Some(NfHook::LocalOut | NfHook::PostRouting) => Way::Out,
        _ if event.input.is_some() => Way::In,
        Some(NfHook::PreRouting | NfHook::LocalIn) => Way::In,
        _ => Way::Unknown,
    }
}

/// The RST with these endpoints and numbers (RFC 9293 §3.10.7.1): two headers without options. What does not follow from
/// the segment that it answers is zero: hop limit, identification, traffic class, window. `None` where the endpoints are of
/// two address families.
pub fn reset(tuple: Tuple, numbers: ResetSegment) -> Option<Frame> {
    let network = match (tuple.src.ip(), tuple.dst.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let header = Ipv4Header {
                source: source.octets(),
                destination: destination.octets(),
                dont_fragment: false,
                ..Ipv4Header::default()
            };
            IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = Ipv6Header {
                source: source.octets(),
                destination: destination.octets(),
                next_header: IpNumber::TCP,
                ..Ipv6Header::default()
            };
            IpHeaders::Ipv6(header, etherparse::Ipv6Extensions::default())
        }
        _ => return None,
    };
    let transport = TcpHeader {
        rst: true,
        ack: numbers.ack.is_some(),
        acknowledgment_number: numbers.ack.map_or(0, |ack| ack.0),
        ..TcpHeader::new(tuple.src.port(), tuple.dst.port(), numbers.seq.0, 0)
    };
    let mut bytes = Vec::with_capacity(IPV6 + MIN);
    PacketBuilder::ip(network).tcp_header(transport).write(&mut bytes, &[]).ok()?;
    let length = u32::try_from(bytes.len()).ok()?;
    Some(Frame { bytes, length, extensions_left_out: 0 })
}

/// The packet's length without IPv6 extension headers, from what the hook read besides the headers.
fn counted(network: usize, transport: &[u8], record: &Record) -> u32 {
    (network as u32).saturating_add(segment(transport, record))
}

/// The length of TCP header and payload.
fn segment(transport: &[u8], record: &Record) -> u32 {
    // The data offset counts in words of four bytes, from the high half of its byte.
    let header = transport.get(12).map_or(0, |byte| usize::from(byte >> 4) * 4).max(MIN);
    record.payload_len.saturating_add(header as u32)
}

fn v4(mut bytes: Vec<u8>, transport: Vec<u8>, record: &Record) -> Frame {
    // 0 where the segments that were merged into one are longer than an IPv4 packet may be.
    let stated = u32::from(u16::from_be_bytes([bytes[2], bytes[3]]));
    let header = usize::from(bytes[0] & 0xf) * 4;
    let whole = header >= MIN && bytes.len() == header && !transport.is_empty();
    let length = match stated {
        0 if whole => counted(header, &transport, record),
        _ => stated,
    };
    if whole {
        bytes.extend(transport);
    }
    Frame { length: length.max(bytes.len() as u32), bytes, extensions_left_out: 0 }
}

fn v6(mut bytes: Vec<u8>, transport: Vec<u8>, record: &Record) -> Frame {
    // 0 where the packet is longer than the field can say.
    let stated = u32::from(u16::from_be_bytes([bytes[4], bytes[5]]));
    if transport.is_empty() {
        return Frame { length: IPV6 as u32 + stated, bytes, extensions_left_out: 0 };
    }
    let segment = segment(&transport, record);
    let mut extensions_left_out = 0;
    if bytes[6] != TCP {
        extensions_left_out = stated.saturating_sub(segment);
        bytes[6] = TCP;
        bytes[4..6].copy_from_slice(&u16::try_from(segment).unwrap_or(0).to_be_bytes());
    }
    let length = match stated {
        0 => counted(IPV6, &transport, record),
        _ => IPV6 as u32 + stated - extensions_left_out.min(stated),
    };
    bytes.extend(transport);
    Frame { length: length.max(bytes.len() as u32), bytes, extensions_left_out }
}

#[cfg(test)]
mod tests {
    use super::{Frame, Way, captured, reset, way};
    use crate::conntrack::{Seq, Tuple};
    use crate::packet::ResetSegment;
    use crate::testing::Build;
    use proptest::prelude::*;
    use tracer_common::Hook;
    use tracer_common::wire::RECORD_SIZE;

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
        assert_eq!(way(&segment().event()), Way::In);
        assert_eq!(way(&segment().at(3).event()), Way::Out);
        let mut inside = segment();
        inside.record.in_index = 0;
        assert_eq!(way(&inside.event()), Way::Unknown);
        assert_eq!(way(&inside.at(1).event()), Way::In);
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
}
