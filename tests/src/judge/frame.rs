//! Frames: those that are sent, and what of received ones matters.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Result, bail};
use etherparse::{
    IpFragOffset, IpHeaders, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, NetSlice, PacketBuilder, SlicedPacket,
    TcpHeader, TcpOptionElement, TransportSlice,
};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Where the payload of an Ethernet frame begins.
const ETHERNET: usize = 14;
/// `ETH_P_ARP`.
const ARP: [u8; 2] = [0x08, 0x06];

/// A TCP segment that is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Source.
    pub src: SocketAddr,
    /// Destination.
    pub dst: SocketAddr,
    /// TCP flags.
    pub flags: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Bytes of payload.
    pub len: usize,
}

impl Segment {
    /// The whole IP packet: a TTL of 57 and a window of 501, IPv4 with DF and an identification.
    pub fn packet(&self) -> Result<Vec<u8>> {
        const TTL: u8 = 57;
        const WINDOW: u16 = 501;
        let ip = match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut header = Ipv4Header::new(0, TTL, IpNumber::TCP, src.octets(), dst.octets())?;
                header.identification = 0x5454;
                header.dont_fragment = true;
                header.fragment_offset = IpFragOffset::ZERO;
                IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default())
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let header = Ipv6Header {
                    traffic_class: 0,
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: 0,
                    next_header: IpNumber::TCP,
                    hop_limit: TTL,
                    source: src.octets(),
                    destination: dst.octets(),
                };
                IpHeaders::Ipv6(header, etherparse::Ipv6Extensions::default())
            }
            _ => bail!("mixed address families"),
        };
        let mut tcp = TcpHeader::new(self.src.port(), self.dst.port(), self.seq, WINDOW);
        let has = |bit: u8| self.flags & bit != 0;
        (tcp.fin, tcp.syn, tcp.rst, tcp.psh, tcp.ack) = (has(0x01), has(0x02), has(0x04), has(0x08), has(0x10));
        tcp.acknowledgment_number = self.ack;
        let options = if tcp.syn {
            vec![TcpOptionElement::MaximumSegmentSize(1_460)]
        } else {
            vec![TcpOptionElement::Noop, TcpOptionElement::Noop, TcpOptionElement::Timestamp(1, 1)]
        };
        tcp.set_options(&options)?;
        let builder = PacketBuilder::ip(ip).tcp_header(tcp);
        let payload = vec![b'x'; self.len];
        let mut packet = Vec::with_capacity(builder.size(payload.len()));
        builder.write(&mut packet, &payload)?;
        Ok(packet)
    }
}

/// What of a received frame matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A TCP segment.
    Tcp {
        /// Source.
        src: SocketAddr,
        /// Destination.
        dst: SocketAddr,
        /// TCP flags.
        flags: u8,
    },
    /// An ICMP or `ICMPv6` error to this address.
    IcmpError(IpAddr),
    /// An answer to ARP, with the number of the request.
    ArpReply(u16),
}

impl Received {
    /// Reads a frame.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        // The operation of ARP: 2 is a reply.
        if frame.get(12..14) == Some(&ARP) {
            let number = frame.get(20..22).filter(|operation| *operation == [0, 2]).and(frame.get(36..38))?;
            return Some(Self::ArpReply(u16::from_be_bytes(number.try_into().ok()?)));
        }
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        let (src, dst): (IpAddr, IpAddr) = match packet.net? {
            NetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
            NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
            NetSlice::Arp(_) => return None,
        };
        match packet.transport? {
            TransportSlice::Tcp(tcp) => Some(Self::Tcp {
                src: SocketAddr::new(src, tcp.source_port()),
                dst: SocketAddr::new(dst, tcp.destination_port()),
                flags: tcp.slice()[13],
            }),
            // Destination unreachable.
            TransportSlice::Icmpv4(icmp) if icmp.type_u8() == 3 => Some(Self::IcmpError(dst)),
            TransportSlice::Icmpv6(icmp) if icmp.type_u8() == 1 => Some(Self::IcmpError(dst)),
            _ => None,
        }
    }
}

/// An Ethernet frame with a packet, from the first to the second address.
pub fn ethernet((from, to): (Mac, Mac), packet: &[u8]) -> Vec<u8> {
    let ether_type: [u8; 2] =
        if packet.first().is_some_and(|byte| byte >> 4 == 6) { [0x86, 0xdd] } else { [0x08, 0x00] };
    let mut frame = Vec::with_capacity(ETHERNET + packet.len());
    frame.extend([to, from].concat());
    frame.extend(ether_type);
    frame.extend(packet);
    frame
}

/// An ARP probe (RFC 5227) for an address: the answer makes no neighbour entry. The number is in the sender's hardware
/// address, which the answer repeats.
pub fn who_has(address: Ipv4Addr, from: Mac, number: u16) -> Vec<u8> {
    let [high, low] = number.to_be_bytes();
    let mut frame = vec![0xff; 6];
    frame.extend(from);
    frame.extend(ARP);
    // Ethernet, IPv4, their lengths, a request.
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend([2, 0, 0, 1, high, low]);
    frame.extend([0; 4]);
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame
}

/// An Ethernet address as `ip` has it.
pub fn mac(address: Mac) -> String {
    address.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::{Received, Segment, ethernet};

    #[test]
    fn what_is_forged_is_what_is_parsed() {
        for (src, dst) in [("10.0.0.2:5", "192.0.2.2:443"), ("[fd00:1::2]:5", "[2001:db8::2]:443")] {
            let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
            let segment = Segment { src, dst, flags: 0x18, seq: 1, ack: 2, len: 1_000 };
            let frame = ethernet(([2; 6], [4; 6]), &segment.packet().unwrap());
            assert_eq!(Received::parse(&frame), Some(Received::Tcp { src, dst, flags: 0x18 }));
        }
    }
}
