//! The one decoder of a conntrack entry, from its ctnetlink attributes. Names of constants are those of
//! `include/uapi/linux/netfilter/nfnetlink_conntrack.h`.
//!
//! What is missing or cut short is left out. What is done with an entry is decided by those who read it.

use std::net::{IpAddr, SocketAddr};

use tracer_model::conntrack::{Status, TcpState, Tuple};
use tracer_model::health::table;
use tracer_model::table_usage::Service;

use crate::nfnetlink::{attribute, attributes, number};

pub(super) const CTA_TUPLE_ORIG: u16 = 1;
pub(super) const CTA_TUPLE_IP: u16 = 1;
pub(super) const CTA_TUPLE_PROTO: u16 = 2;
pub(super) const CTA_PROTO_NUM: u16 = 1;
pub(super) const CTA_PROTO_SRC_PORT: u16 = 2;
pub(super) const CTA_PROTO_DST_PORT: u16 = 3;
pub(super) const CTA_ZONE: u16 = 18;

/// An entry, of any protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Entry {
    /// The direction that the entry was made by.
    pub original: Direction,
    /// The direction of the answers.
    pub reply: Direction,
    /// `IPS_*` bits.
    pub status: Status,
    /// Its TCP state.
    pub state: Option<TcpState>,
    /// Seconds until it expires.
    pub timeout_s: Option<u32>,
    /// Its zone.
    pub zone: u16,
}

/// A direction of an entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Direction {
    /// Where its packets come from.
    pub source: Option<IpAddr>,
    /// Where they go.
    pub destination: Option<IpAddr>,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// The port of the source, where the protocol has ports.
    pub source_port: Option<u16>,
    /// The port of the destination, likewise.
    pub destination_port: Option<u16>,
}

impl Entry {
    /// Reads the attributes of an entry, in an answer or a dump.
    pub fn read(bytes: &[u8]) -> Self {
        const CTA_TUPLE_REPLY: u16 = 2;
        const CTA_STATUS: u16 = 3;
        const CTA_PROTOINFO: u16 = 4;
        const CTA_TIMEOUT: u16 = 7;
        const CTA_PROTOINFO_TCP: u16 = 1;
        const CTA_PROTOINFO_TCP_STATE: u16 = 1;
        let mut entry = Self::default();
        for (kind, value) in attributes(bytes) {
            match kind {
                CTA_TUPLE_ORIG => entry.original = Direction::read(value),
                CTA_TUPLE_REPLY => entry.reply = Direction::read(value),
                CTA_STATUS => entry.status = Status(number(value).unwrap_or(0)),
                CTA_PROTOINFO => {
                    let tcp = attribute(value, CTA_PROTOINFO_TCP);
                    let state = tcp.and_then(|tcp| attribute(tcp, CTA_PROTOINFO_TCP_STATE));
                    entry.state = state.and_then(|state| state.first().copied()).map(TcpState::from_raw);
                }
                CTA_TIMEOUT => entry.timeout_s = number(value),
                CTA_ZONE => entry.zone = short(value).unwrap_or(0),
                _ => {}
            }
        }
        entry
    }

    /// As far as `whyrst doctor` counts it.
    pub fn counted(&self) -> table::Entry {
        table::Entry {
            source: self.original.source,
            service: self.original.service(),
            protocol: self.original.protocol,
            reply_source: self.reply.source.zip(self.reply.source_port),
            reply_destination: self.reply.destination.zip(self.reply.destination_port),
            status: self.status,
            state: self.state,
            zone: self.zone,
        }
    }
}

impl Direction {
    fn read(tuple: &[u8]) -> Self {
        let mut read = Self::default();
        for (kind, value) in attributes(attribute(tuple, CTA_TUPLE_IP).unwrap_or_default()) {
            // CTA_IP_V4_SRC, CTA_IP_V4_DST, CTA_IP_V6_SRC, CTA_IP_V6_DST.
            match kind {
                1 | 3 => read.source = address(value),
                2 | 4 => read.destination = address(value),
                _ => {}
            }
        }
        for (kind, value) in attributes(attribute(tuple, CTA_TUPLE_PROTO).unwrap_or_default()) {
            match kind {
                CTA_PROTO_NUM => read.protocol = value.first().copied(),
                CTA_PROTO_SRC_PORT => read.source_port = short(value),
                CTA_PROTO_DST_PORT => read.destination_port = short(value),
                _ => {}
            }
        }
        read
    }

    /// Its endpoints, where it has ports.
    pub fn tuple(&self) -> Option<Tuple> {
        let end = |address: Option<IpAddr>, port: Option<u16>| Some(SocketAddr::new(address?, port?));
        let (src, dst) = (end(self.source, self.source_port)?, end(self.destination, self.destination_port)?);
        Some(Tuple { src, dst })
    }

    /// What it goes to.
    pub fn service(&self) -> Option<Service> {
        let (protocol, address) = self.protocol.zip(self.destination)?;
        Some(Service { protocol, address, port: self.destination_port })
    }
}

fn address(value: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(value).ok().map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(value).ok().map(IpAddr::from);
    v4().or_else(v6)
}

fn short(value: &[u8]) -> Option<u16> {
    value.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use tracer_model::conntrack::{Status, TcpState};

    use super::Entry;
    use crate::nfnetlink::put as attribute;

    fn tuple(kind: u16, source: [u8; 4], destination: [u8; 4], ports: [u16; 2]) -> Vec<u8> {
        let ip = [attribute(1, &source), attribute(2, &destination)].concat();
        let [from, to] = ports.map(u16::to_be_bytes);
        let protocol = [attribute(1, &[6]), attribute(2, &from), attribute(3, &to)].concat();
        attribute(kind | 0x8000, &[attribute(1 | 0x8000, &ip), attribute(2 | 0x8000, &protocol)].concat())
    }

    #[test]
    fn reads_an_entry() {
        let whole = [
            tuple(1, [10, 0, 0, 2], [192, 0, 2, 2], [34_567, 443]),
            tuple(2, [192, 0, 2, 2], [192, 0, 2, 1], [443, 40_000]),
            attribute(3, &0x1eu32.to_be_bytes()),
            attribute(4 | 0x8000, &attribute(1 | 0x8000, &attribute(1, &[3]))),
            attribute(18, &7u16.to_be_bytes()),
        ]
        .concat();
        let read = Entry::read(&whole).counted();
        assert_eq!(read.source.unwrap().to_string(), "10.0.0.2");
        assert_eq!(read.service.unwrap().to_string(), "tcp 192.0.2.2:443");
        assert_eq!(read.reply_source, Some(([192, 0, 2, 2].into(), 443)));
        assert_eq!(read.reply_destination, Some(([192, 0, 2, 1].into(), 40_000)));
        assert_eq!((read.status, read.state, read.zone), (Status(0x1e), Some(TcpState::Established), 7));
        // The last two bytes are padding.
        for cut in 0..whole.len() - 2 {
            assert!(Entry::read(&whole[..cut]).zone == 0, "cut at {cut}");
        }
    }

    #[test]
    fn reads_the_client_and_the_service() {
        let proto = [attribute(1, &[17]), attribute(2, &[1, 0]), attribute(3, &53u16.to_be_bytes())].concat();
        let tuple = |ip: &[u8]| attribute(1 | 0x8000, &[attribute(1, ip), attribute(2, &proto)].concat());
        let v4 = tuple(&[attribute(1, &[10, 0, 0, 2]), attribute(2, &[192, 0, 2, 2])].concat());
        let read = |bytes: &[u8]| {
            let original = Entry::read(bytes).original;
            (original.source, original.service())
        };
        let (source, service) = read(&v4);
        assert_eq!(source.unwrap().to_string(), "10.0.0.2");
        assert_eq!(service.unwrap().to_string(), "udp 192.0.2.2:53");
        let v6 = tuple(&[attribute(3, &[0xfd; 16]), attribute(4, &[0xfe; 16])].concat());
        let (source, service) = read(&v6);
        assert!(source.unwrap().is_ipv6() && service.unwrap().address.is_ipv6());
        for cut in 0..v4.len() {
            let (source, service) = read(&v4[..cut]);
            assert!(source.is_none() && service.is_none(), "cut at {cut}");
        }
    }
}
