//! An event as packets: the header bytes that a hook read, and the RST that follows from them.
//!
//! Pure. What was not read is not filled in: a header that was cut stays cut, and the fields of a RST that do not follow
//! from what it answers are zero.

use std::net::IpAddr;

use etherparse::{IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, TcpHeader};

use crate::conntrack::Tuple;
use crate::decode::padded;
use crate::event::{Event, NfHook};
use crate::headers::{Headers, IpVersion, TCP_HEADER};
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

/// Where a packet is bound, seen from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// It came in.
    In,
    /// It leaves.
    Out,
    /// The event does not say.
    Unknown,
}

/// The protocol number of TCP.
const TCP: u8 = 6;

/// The headers of a record's packet, as they were read; `None` where there is not even a whole IP header.
pub fn captured(record: &[u8]) -> Option<Frame> {
    let record = padded(record)?;
    let headers = Headers::of(&record)?;
    Some(match headers.version() {
        IpVersion::V4 => v4(&headers),
        IpVersion::V6 => v6(&headers),
    })
}

/// Where an event's packet was bound.
pub fn bound(event: &Event) -> Bound {
    match event.nf_hook {
        Some(NfHook::LocalOut | NfHook::PostRouting) => Bound::Out,
        _ if event.input.is_some() => Bound::In,
        Some(NfHook::PreRouting | NfHook::LocalIn) => Bound::In,
        _ => Bound::Unknown,
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
    let mut bytes = Vec::with_capacity(IpVersion::V6.header() + TCP_HEADER);
    PacketBuilder::ip(network).tcp_header(transport).write(&mut bytes, &[]).ok()?;
    let length = u32::try_from(bytes.len()).ok()?;
    Some(Frame { bytes, length, extensions_left_out: 0 })
}

/// The length of TCP header and payload.
fn segment(headers: &Headers<'_>) -> u32 {
    let header = headers.stated_tcp().unwrap_or(0).max(TCP_HEADER);
    headers.payload_len().saturating_add(header as u32)
}

/// The packet's length without IPv6 extension headers, from what the hook read besides the headers.
fn counted(headers: &Headers<'_>) -> u32 {
    segment(headers).saturating_add(headers.network().len() as u32)
}

fn v4(headers: &Headers<'_>) -> Frame {
    let mut bytes = headers.network().to_vec();
    let whole = headers.is_whole() && !headers.transport().is_empty();
    let length = match headers.stated_len() {
        0 if whole => counted(headers),
        stated => stated.into(),
    };
    if whole {
        bytes.extend(headers.transport());
    }
    Frame { length: length.max(bytes.len() as u32), bytes, extensions_left_out: 0 }
}

fn v6(headers: &Headers<'_>) -> Frame {
    let mut bytes = headers.network().to_vec();
    let stated = u32::from(headers.stated_len());
    let header = IpVersion::V6.header() as u32;
    if headers.transport().is_empty() {
        return Frame { length: header + stated, bytes, extensions_left_out: 0 };
    }
    let mut extensions_left_out = 0;
    if bytes[6] != TCP {
        let segment = segment(headers);
        extensions_left_out = stated.saturating_sub(segment);
        bytes[6] = TCP;
        bytes[4..6].copy_from_slice(&u16::try_from(segment).unwrap_or(0).to_be_bytes());
    }
    let length = match stated {
        0 => counted(headers),
        _ => header + stated - extensions_left_out.min(stated),
    };
    bytes.extend(headers.transport());
    Frame { length: length.max(bytes.len() as u32), bytes, extensions_left_out }
}
