//! The headers of a packet, in the bytes that a hook read of them: checked once, then read by named fields.
//!
//! Total: any record gives a view or nothing. A header can be cut: what a hook read of it is evidence all the same.

use std::net::IpAddr;
use std::ops::Range;

use tracer_common::wire::{Record, present};

use crate::conntrack::Seq;
use crate::packet::{Flags, Options};

/// Bytes of a TCP header without options (RFC 9293 §3.1).
pub const TCP_HEADER: usize = 20;

/// A version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpVersion {
    /// IPv4 (RFC 791 §3.1).
    V4,
    /// IPv6 (RFC 8200 §3).
    V6,
}

impl IpVersion {
    /// The version that a tuple of conntrack states as its `l3num`: `NFPROTO_IPV4` or `NFPROTO_IPV6`
    /// (`include/uapi/linux/netfilter.h`).
    pub const fn of_l3num(number: u16) -> Option<Self> {
        match number {
            2 => Some(Self::V4),
            10 => Some(Self::V6),
            _ => None,
        }
    }

    /// Bytes of its header without options and extension headers.
    pub const fn header(self) -> usize {
        match self {
            Self::V4 => 20,
            Self::V6 => 40,
        }
    }

    /// Where its header has the source address.
    pub const fn source(self) -> Range<usize> {
        match self {
            Self::V4 => 12..16,
            Self::V6 => 8..24,
        }
    }

    /// Where its header has the destination address, which follows the source address.
    pub const fn destination(self) -> Range<usize> {
        match self {
            Self::V4 => 16..20,
            Self::V6 => 24..40,
        }
    }

    /// The address in these bytes of its header.
    pub fn address(self, bytes: &[u8]) -> Option<IpAddr> {
        match self {
            Self::V4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
            Self::V6 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        }
    }
}

/// An IP header and the TCP header behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers<'a> {
    version: IpVersion,
    /// Never less than [`IpVersion::header`], and never more than the header states, if that is possible.
    network: &'a [u8],
    transport: &'a [u8],
    payload_len: u32,
}

impl<'a> Headers<'a> {
    /// The headers in a record; `None` where it does not even have the fixed part of an IP header.
    pub fn of(record: &'a Record) -> Option<Self> {
        let part = |bit: u32, bytes: &'a [u8], len: u8| {
            bytes.get(..usize::from(len)).filter(|_| record.present & bit != 0).unwrap_or_default()
        };
        let network = part(present::L3, &record.l3, record.l3_len);
        let version = match network.first()? >> 4 {
            4 => IpVersion::V4,
            6 => IpVersion::V6,
            _ => return None,
        };
        let stated = match version {
            IpVersion::V4 => stated_ipv4(network).max(version.header()),
            IpVersion::V6 => version.header(),
        };
        let network = &network[..stated.min(network.len())];
        let transport = part(present::L4, &record.l4, record.l4_len);
        (network.len() >= version.header()).then_some(Self {
            version,
            network,
            transport,
            payload_len: record.payload_len,
        })
    }

    /// The version of IP.
    pub const fn version(&self) -> IpVersion {
        self.version
    }

    /// The IP header: its fixed part, and options of IPv4 as far as they were read.
    pub const fn network(&self) -> &'a [u8] {
        self.network
    }

    /// The TCP header as far as it was read.
    pub const fn transport(&self) -> &'a [u8] {
        self.transport
    }

    /// Bytes of payload, in all segments that the stack has merged (GRO).
    pub const fn payload_len(&self) -> u32 {
        self.payload_len
    }

    /// Whether the IP header is there with all its options, so that [`Headers::transport`] follows it.
    pub fn is_whole(&self) -> bool {
        match self.version {
            IpVersion::V4 => stated_ipv4(self.network) == self.network.len(),
            IpVersion::V6 => true,
        }
    }

    /// The source address.
    pub fn source(&self) -> Option<IpAddr> {
        self.version.address(&self.network[self.version.source()])
    }

    /// The destination address.
    pub fn destination(&self) -> Option<IpAddr> {
        self.version.address(&self.network[self.version.destination()])
    }

    /// Time to live, or hop limit.
    pub const fn ttl(&self) -> u8 {
        match self.version {
            IpVersion::V4 => self.network[8],
            IpVersion::V6 => self.network[7],
        }
    }

    /// Type of service, or traffic class.
    pub const fn tos(&self) -> u8 {
        match self.version {
            IpVersion::V4 => self.network[1],
            IpVersion::V6 => self.network[0] << 4 | self.network[1] >> 4,
        }
    }

    /// The identification of IPv4.
    pub const fn ip_id(&self) -> Option<u16> {
        match self.version {
            IpVersion::V4 => Some(u16::from_be_bytes([self.network[4], self.network[5]])),
            IpVersion::V6 => None,
        }
    }

    /// The length that the IP header states: of the packet for IPv4, of what follows the header for IPv6. 0 where segments
    /// were merged into one that is longer than the field can express.
    pub const fn stated_len(&self) -> u16 {
        match self.version {
            IpVersion::V4 => u16::from_be_bytes([self.network[2], self.network[3]]),
            IpVersion::V6 => u16::from_be_bytes([self.network[4], self.network[5]]),
        }
    }

    /// The TCP header, where its fixed part was read.
    pub fn tcp(&self) -> Option<Tcp<'a>> {
        let (fixed, options) = self.transport.split_first_chunk()?;
        Some(Tcp { fixed, options })
    }

    /// The length that the TCP header states for itself, where that was read.
    pub fn stated_tcp(&self) -> Option<usize> {
        // The data offset counts in words of four bytes, from the high half of its byte.
        self.transport.get(12).map(|byte| usize::from(byte >> 4) * 4)
    }
}

/// The length that the IPv4 header states for itself.
fn stated_ipv4(network: &[u8]) -> usize {
    network.first().map_or(0, |byte| usize::from(byte & 0xf) * 4)
}

/// A TCP header, whose options can be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tcp<'a> {
    fixed: &'a [u8; TCP_HEADER],
    options: &'a [u8],
}

impl Tcp<'_> {
    /// Source port.
    pub const fn source(&self) -> u16 {
        self.short(0)
    }

    /// Destination port.
    pub const fn destination(&self) -> u16 {
        self.short(2)
    }

    /// Sequence number.
    pub const fn seq(&self) -> Seq {
        Seq(self.number(4))
    }

    /// Acknowledgement number.
    pub const fn ack(&self) -> Seq {
        Seq(self.number(8))
    }

    /// Flags.
    pub const fn flags(&self) -> Flags {
        Flags(self.fixed[13])
    }

    /// Window, unscaled.
    pub const fn window(&self) -> u16 {
        self.short(14)
    }

    /// Options, as far as they were read.
    pub fn options(&self) -> Options {
        Options::new(self.options)
    }

    const fn short(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.fixed[at], self.fixed[at + 1]])
    }

    const fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes([self.fixed[at], self.fixed[at + 1], self.fixed[at + 2], self.fixed[at + 3]])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;
    use zerocopy::FromZeros;

    use tracer_common::wire::{HEADER_SIZE, Record, present};

    use super::{Headers, IpVersion};
    use crate::conntrack::Seq;
    use crate::packet::Flags;

    fn record(network: &[u8], transport: &[u8]) -> Record {
        let mut record = Record::new_zeroed();
        record.present = present::L3 | present::L4;
        record.l3[..network.len()].copy_from_slice(network);
        record.l3_len = network.len() as u8;
        record.l4[..transport.len()].copy_from_slice(transport);
        record.l4_len = transport.len() as u8;
        record
    }

    /// TOS 0x12, 40 bytes, id 0x3456, TTL 63, from 192.0.2.2 to 192.0.2.1.
    const IPV4: [u8; 20] = [0x45, 0x12, 0, 40, 0x34, 0x56, 0x40, 0, 63, 6, 0, 0, 192, 0, 2, 2, 192, 0, 2, 1];
    /// From port 443 to 34567, seq 1, ack 2, RST and ACK, window 500, two NOPs of an option field of four bytes.
    const CUT: [u8; 22] = [1, 0xbb, 0x87, 7, 0, 0, 0, 1, 0, 0, 0, 2, 6 << 4, 0x14, 1, 0xf4, 0, 0, 0, 0, 1, 1];

    #[test]
    fn fields_have_their_names() {
        let record = record(&IPV4, &CUT);
        let headers = Headers::of(&record).unwrap();
        assert_eq!(headers.source(), "192.0.2.2".parse().ok());
        assert_eq!(headers.destination(), "192.0.2.1".parse().ok());
        assert_eq!((headers.ttl(), headers.tos(), headers.ip_id()), (63, 0x12, Some(0x3456)));
        assert_eq!((headers.stated_len(), headers.is_whole()), (40, true));
        let tcp = headers.tcp().unwrap();
        assert_eq!((tcp.source(), tcp.destination(), tcp.seq(), tcp.ack()), (443, 34567, Seq(1), Seq(2)));
        assert_eq!((tcp.flags(), tcp.window()), (Flags(0x14), 500));
        assert_eq!((tcp.options().as_bytes(), headers.stated_tcp()), (&[1, 1][..], Some(24)), "cut inside its options");
    }

    #[test]
    fn ipv6_has_no_identification() {
        let mut network = [0; 40];
        network[..8].copy_from_slice(&[0x61, 0x20, 0, 0, 0, 20, 6, 64]);
        network[8] = 0xfd;
        network[39] = 1;
        let record = record(&network, &CUT);
        let headers = Headers::of(&record).unwrap();
        assert_eq!((headers.version, headers.is_whole(), headers.stated_len()), (IpVersion::V6, true, 20));
        assert_eq!((headers.ttl(), headers.tos(), headers.ip_id()), (64, 0x12, None));
        assert_eq!((headers.source(), headers.destination()), ("fd00::".parse().ok(), "::1".parse().ok()));
    }

    #[rstest]
    #[case::nothing(&[], None)]
    #[case::fixed_part_is_cut(&IPV4[..19], None)]
    #[case::ipv6_is_cut(&[0x60; 39], None)]
    #[case::another_version(&[0x55; 40], None)]
    #[case::options_are_cut(&[0x4f; 30], Some((30, false)))]
    #[case::shorter_than_possible(&[0x41; 24], Some((20, false)))]
    #[case::more_than_the_header(&[0x46; 28], Some((24, true)))]
    fn network_headers(#[case] network: &[u8], #[case] expected: Option<(usize, bool)>) {
        let record = record(network, &[]);
        assert_eq!(Headers::of(&record).map(|headers| (headers.network.len(), headers.is_whole())), expected);
    }

    #[test]
    fn what_the_record_does_not_claim_is_not_read() {
        let mut record = record(&IPV4, &CUT);
        record.present = present::L3;
        assert_eq!(Headers::of(&record).unwrap().tcp(), None);
        record.present = present::L4;
        assert_eq!(Headers::of(&record), None);
    }

    proptest! {
        /// Any bytes give a view or nothing, and every field of a view can be read.
        #[test]
        fn total(l3: [u8; 32], l4: [u8; 32], l3_len: u8, l4_len: u8, present: u32) {
            let mut record = record(&l3, &l4);
            (record.l3_len, record.l4_len, record.present) = (l3_len, l4_len, present);
            if let Some(headers) = Headers::of(&record) {
                prop_assert!(headers.network.len() <= HEADER_SIZE && headers.transport.len() <= HEADER_SIZE);
                prop_assert!(headers.source().is_some() && headers.destination().is_some());
                let _fields = (headers.ttl(), headers.tos(), headers.ip_id(), headers.stated_len(), headers.stated_tcp());
                prop_assert_eq!(headers.tcp().is_some(), headers.transport.len() >= 20);
            }
        }
    }
}
