//! Look-ups of single conntrack entries, and conntrack's counters, over ctnetlink (`net/netfilter/nf_conntrack_netlink.c`).
//!
//! While packets are captured only `IPCTNL_MSG_CT_GET` of one tuple, and the counters of each CPU: a dump of a table with
//! a million entries is no way to treat a gateway in trouble. When a capture has ended, the entries of a table that was
//! full are counted.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use netlink_packet_core::{DefaultNla, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol, Tuple as NlTuple,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};

use tracer_model::capture::Outcome;
use tracer_model::conntrack::{Status, TcpState, Tuple};
use tracer_model::table_usage::{Counting, Service};

use super::nfnetlink::{End, Message, Nfnetlink, attribute, attributes, dump_of, message, number};

/// `CTA_ZONE`.
const CTA_ZONE: u16 = 18;
/// Subsystem `NFNL_SUBSYS_CTNETLINK`, message `IPCTNL_MSG_CT_GET_STATS_CPU`.
pub(super) const STATISTICS: u16 = 1 << 8 | 4;
/// Subsystem `NFNL_SUBSYS_CTNETLINK`, message `IPCTNL_MSG_CT_GET`.
pub(super) const ENTRIES: u16 = 1 << 8 | 1;
/// Likewise, `IPCTNL_MSG_CT_NEW`: an entry of a dump.
pub(super) const NEW: u16 = 1 << 8;
/// Most entries of a table that are counted.
const MOST_COUNTED: u64 = 4_000_000;
/// `ENOENT`.
const NOT_FOUND: i32 = 2;

/// Asks conntrack of the network namespace that the calling thread was in when it was opened.
pub struct Ctnetlink {
    socket: Nfnetlink,
}

impl Ctnetlink {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: Nfnetlink::open()? })
    }

    /// Asks for the entry that has this tuple in either direction.
    pub fn look_up(&self, tuple: Tuple, zone: u16) -> Outcome {
        match self.socket.exchange(&request(tuple, zone)) {
            Ok(answer) => interpret(&answer),
            Err(error) => Outcome::Failed { because: format!("ctnetlink: {error}") },
        }
    }

    /// Packets that conntrack refused in this namespace since it was made (`CTA_STATS_INVALID`, summed over the CPUs).
    pub fn invalid(&self) -> io::Result<u64> {
        let mut sum = 0;
        self.socket.dump(&dump_of(STATISTICS), None, |message| {
            sum += invalid(message)?;
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(sum)
    }
}

/// Who holds the entries of the calling thread's namespace: all of them, or as many as can be read in this time.
///
/// A dump of the table. It is streamed, but makes the kernel walk all of it.
pub fn count(patience: Duration) -> io::Result<(Counting, Option<String>)> {
    let deadline = Instant::now() + patience;
    let mut counting = Counting::default();
    let end = Nfnetlink::open()?.dump(&dump_of(ENTRIES), Some(deadline), |message| {
        if message.kind == NEW {
            let (source, service) = whose(message.attributes);
            counting.add(source, service);
        }
        Ok(if counting.entries() < MOST_COUNTED { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    let cut = || format!("the table was not read to its end, but for {} s at most", patience.as_secs());
    let problem = (end == End::Cut).then(cut);
    Ok((counting, problem))
}

/// The source of an entry's original direction, and what it goes to.
pub fn whose(entry: &[u8]) -> (Option<IpAddr>, Option<Service>) {
    const CTA_TUPLE_ORIG: u16 = 1;
    let tuple = ends(attribute(entry, CTA_TUPLE_ORIG).unwrap_or_default());
    (tuple.source, tuple.service())
}

/// A direction of an entry, of any protocol.
#[derive(Debug, Default)]
pub(super) struct Ends {
    pub(super) source: Option<IpAddr>,
    pub(super) destination: Option<IpAddr>,
    pub(super) protocol: Option<u8>,
    pub(super) source_port: Option<u16>,
    pub(super) destination_port: Option<u16>,
}

impl Ends {
    /// Its endpoints, where it has ports.
    fn tuple(&self) -> Option<Tuple> {
        let end = |address: Option<IpAddr>, port: Option<u16>| Some(SocketAddr::new(address?, port?));
        let (src, dst) = (end(self.source, self.source_port)?, end(self.destination, self.destination_port)?);
        Some(Tuple { src, dst })
    }

    /// What it goes to.
    pub(super) fn service(&self) -> Option<Service> {
        let (protocol, address) = self.protocol.zip(self.destination)?;
        Some(Service { protocol, address, port: self.destination_port })
    }
}

/// Reads a tuple.
pub(super) fn ends(tuple: &[u8]) -> Ends {
    const CTA_TUPLE_IP: u16 = 1;
    const CTA_TUPLE_PROTO: u16 = 2;
    const CTA_PROTO_NUM: u16 = 1;
    const CTA_PROTO_SRC_PORT: u16 = 2;
    const CTA_PROTO_DST_PORT: u16 = 3;
    let mut ends = Ends::default();
    for (kind, value) in attributes(attribute(tuple, CTA_TUPLE_IP).unwrap_or_default()) {
        // CTA_IP_V4_SRC, CTA_IP_V4_DST, CTA_IP_V6_SRC, CTA_IP_V6_DST.
        match kind {
            1 | 3 => ends.source = address(value),
            2 | 4 => ends.destination = address(value),
            _ => {}
        }
    }
    let port = |value: &[u8]| value.first_chunk().map(|bytes| u16::from_be_bytes(*bytes));
    for (kind, value) in attributes(attribute(tuple, CTA_TUPLE_PROTO).unwrap_or_default()) {
        match kind {
            CTA_PROTO_NUM => ends.protocol = value.first().copied(),
            CTA_PROTO_SRC_PORT => ends.source_port = port(value),
            CTA_PROTO_DST_PORT => ends.destination_port = port(value),
            _ => {}
        }
    }
    ends
}

fn address(value: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(value).ok().map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(value).ok().map(IpAddr::from);
    v4().or_else(v6)
}

fn request(tuple: Tuple, zone: u16) -> Vec<u8> {
    let mut attributes = vec![ConntrackAttribute::CtaTupleOrig(vec![
        NlTuple::Ip(vec![IPTuple::SourceAddress(tuple.src.ip()), IPTuple::DestinationAddress(tuple.dst.ip())]),
        NlTuple::Proto(vec![
            ProtoTuple::Protocol(Protocol::Tcp),
            ProtoTuple::SourcePort(tuple.src.port()),
            ProtoTuple::DestinationPort(tuple.dst.port()),
        ]),
    ])];
    if zone != 0 {
        attributes.push(ConntrackAttribute::Other(DefaultNla::new(CTA_ZONE, zone.to_be_bytes().to_vec())));
    }
    let family = if tuple.src.is_ipv4() { NetfilterProtoFamily::IPv4 } else { NetfilterProtoFamily::IPv6 };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let message = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), ConntrackMessage::Get(attributes));
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    bytes
}

/// What one CPU's counters say of refused packets.
fn invalid(message: Message<'_>) -> io::Result<u64> {
    /// `CTA_STATS_INVALID`, big-endian.
    const CTA_STATS_INVALID: u16 = 4;
    if message.kind != STATISTICS {
        return Err(io::Error::other(format!("ctnetlink answered {}", message.kind)));
    }
    let counted = attributes(message.attributes).filter(|(kind, _)| *kind == CTA_STATS_INVALID);
    Ok(counted.filter_map(|(_, value)| number(value)).map(u64::from).sum())
}

/// Reads the answer to a look-up. Its attributes are read one by one, as those of dumps are: the crate that writes the request
/// takes lengths at their word when it reads.
pub fn interpret(answer: &[u8]) -> Outcome {
    let failed = |because: String| Outcome::Failed { because };
    match message(answer) {
        Err(error) if error.raw_os_error() == Some(NOT_FOUND) => Outcome::NotFound { was: None },
        Err(error) if error.raw_os_error() == Some(0) => {
            failed("ctnetlink answered with an acknowledgement only".to_owned())
        }
        Err(error) => failed(format!("ctnetlink: {error}")),
        Ok(message) if message.kind != NEW => failed(format!("ctnetlink answered {}", message.kind)),
        Ok(message) => {
            entry(message.attributes).unwrap_or_else(|| failed("ctnetlink answered an entry without tuples".to_owned()))
        }
    }
}

fn entry(attributes_of_entry: &[u8]) -> Option<Outcome> {
    const CTA_TUPLE_ORIG: u16 = 1;
    const CTA_TUPLE_REPLY: u16 = 2;
    const CTA_STATUS: u16 = 3;
    const CTA_PROTOINFO: u16 = 4;
    const CTA_TIMEOUT: u16 = 7;
    const CTA_PROTOINFO_TCP: u16 = 1;
    const CTA_PROTOINFO_TCP_STATE: u16 = 1;
    let (mut original, mut reply, mut state, mut timeout_s, mut status) = (None, None, None, None, Status::default());
    for (kind, value) in attributes(attributes_of_entry) {
        match kind {
            CTA_TUPLE_ORIG => original = ends(value).tuple(),
            CTA_TUPLE_REPLY => reply = ends(value).tuple(),
            CTA_STATUS => status = Status(number(value).unwrap_or(0)),
            CTA_TIMEOUT => timeout_s = number(value),
            CTA_PROTOINFO => {
                let tcp = attribute(value, CTA_PROTOINFO_TCP).and_then(|tcp| attribute(tcp, CTA_PROTOINFO_TCP_STATE));
                state = tcp.and_then(|state| state.first().copied()).map(TcpState::from_raw);
            }
            _ => {}
        }
    }
    Some(Outcome::Found { original: original?, reply: reply?, state, timeout_s, status })
}

#[cfg(test)]
mod tests {
    use tracer_model::capture::Outcome;
    use tracer_model::conntrack::{Status, TcpState, Tuple};

    use super::super::nfnetlink::tests::attribute;
    use super::{Message, STATISTICS, interpret, invalid, request, whose};

    fn tuple() -> Tuple {
        Tuple { src: "10.0.0.2:34567".parse().unwrap(), dst: "192.0.2.2:443".parse().unwrap() }
    }

    #[test]
    fn asks_for_one_tuple_and_no_dump() {
        let bytes = request(tuple(), 7);
        assert_eq!(usize::try_from(u32::from_ne_bytes(bytes[..4].try_into().unwrap())).unwrap(), bytes.len());
        // nlmsg_type: subsystem 1 (ctnetlink), message 1 (IPCTNL_MSG_CT_GET); nlmsg_flags: NLM_F_REQUEST alone.
        assert_eq!(u16::from_ne_bytes(bytes[4..6].try_into().unwrap()), 1 << 8 | 1);
        assert_eq!(u16::from_ne_bytes(bytes[6..8].try_into().unwrap()), 1);
        assert!(bytes.windows(2).any(|window| window == 34567u16.to_be_bytes()));
        assert!(bytes.ends_with(&[0, 7, 0, 0]), "the zone comes last, padded to four bytes");
    }

    #[test]
    fn reads_the_counters_of_a_cpu() {
        let found = attribute(2, &[0, 0, 0, 99]);
        let refused = attribute(4, &[0, 0, 1, 2]);
        let attributes = [found, refused].concat();
        let message = |kind| Message { kind, attributes: &attributes, ..Message::default() };
        assert_eq!(invalid(message(STATISTICS)).unwrap(), 256 + 2);
        assert!(invalid(message(1 << 8)).is_err());
    }

    /// An answer as 6.1 gives it, cut down to what is read.
    #[test]
    fn reads_an_entry() {
        let nested = |kind: u16, value: &[u8]| attribute(kind | 0x8000, value);
        let endpoints = |src: [u8; 4], dst: [u8; 4], sport: u16, dport: u16| {
            let ip = [attribute(1, &src), attribute(2, &dst)].concat();
            let proto =
                [attribute(1, &[6]), attribute(2, &sport.to_be_bytes()), attribute(3, &dport.to_be_bytes())].concat();
            [nested(1, &ip), nested(2, &proto)].concat()
        };
        let tcp = nested(1, &attribute(1, &[8]));
        let body = [
            vec![2, 0, 0, 0],
            nested(1, &endpoints([10, 0, 0, 2], [192, 0, 2, 2], 34567, 443)),
            nested(2, &endpoints([192, 0, 2, 2], [192, 0, 2, 1], 443, 40000)),
            attribute(3, &0x1eu32.to_be_bytes()),
            nested(4, &tcp),
            attribute(7, &9u32.to_be_bytes()),
        ]
        .concat();
        let len = u32::try_from(body.len() + 16).unwrap();
        let mut answer = [&len.to_ne_bytes()[..], &(1u16 << 8).to_ne_bytes(), &[0; 10]].concat();
        answer.extend(body);
        let expected = Outcome::Found {
            original: tuple(),
            reply: Tuple { src: "192.0.2.2:443".parse().unwrap(), dst: "192.0.2.1:40000".parse().unwrap() },
            state: Some(TcpState::Close),
            timeout_s: Some(9),
            status: Status(0x1e),
        };
        assert_eq!(interpret(&answer), expected);
    }

    #[test]
    fn knows_whose_an_entry_is() {
        let proto = [attribute(1, &[17]), attribute(2, &[1, 0]), attribute(3, &53u16.to_be_bytes())].concat();
        let tuple = |ip: &[u8]| attribute(1 | 0x8000, &[attribute(1, ip), attribute(2, &proto)].concat());
        let v4 = tuple(&[attribute(1, &[10, 0, 0, 2]), attribute(2, &[192, 0, 2, 2])].concat());
        let (source, service) = whose(&v4);
        assert_eq!(source.unwrap().to_string(), "10.0.0.2");
        assert_eq!(service.unwrap().to_string(), "udp 192.0.2.2:53");
        let v6 = tuple(&[attribute(3, &[0xfd; 16]), attribute(4, &[0xfe; 16])].concat());
        let (source, service) = whose(&v6);
        assert!(source.unwrap().is_ipv6() && service.unwrap().address.is_ipv6());
        for cut in 0..v4.len() {
            let (source, service) = whose(&v4[..cut]);
            assert!(source.is_none() && service.is_none(), "cut at {cut}");
        }
    }

    #[test]
    fn no_such_entry() {
        // NLMSG_ERROR with -ENOENT and the request's header.
        let mut answer = [&36u32.to_ne_bytes()[..], &2u16.to_ne_bytes(), &[0; 10], &(-2i32).to_ne_bytes()].concat();
        answer.extend([0; 16]);
        assert_eq!(interpret(&answer), Outcome::NotFound { was: None });
    }

    #[test]
    fn garbage_is_a_failure_not_a_panic() {
        for len in 0..64 {
            assert!(matches!(interpret(&vec![0xff; len]), Outcome::Failed { .. }));
        }
    }

    /// An attribute that says it is shorter than its own header, in a message of another subsystem: found by fuzzing, when
    /// whole messages were parsed by a crate.
    #[test]
    fn an_attribute_that_is_shorter_than_its_header() {
        for kind in [1u16 << 8, 10 << 8 | 9] {
            for length in 0..4u8 {
                let mut answer = [&32u32.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10]].concat();
                answer.extend([2, 0, 0, 0, 8, 0, 17, 0x80, length, 0, 1, 0, 0, 0, 0, 0]);
                assert!(matches!(interpret(&answer), Outcome::Failed { .. }));
            }
        }
    }
}
