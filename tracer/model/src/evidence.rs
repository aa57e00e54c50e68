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
