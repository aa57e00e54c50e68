//! Look-ups of single conntrack entries, and conntrack's counters, over ctnetlink (`net/netfilter/nf_conntrack_netlink.c`).
//!
//! Only `IPCTNL_MSG_CT_GET` of one tuple, and the counters of each CPU: a dump of a table with a million entries is no way to treat a gateway in
//! trouble.

use std::io;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{
    DecodeError, DefaultNla, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NlasIterator, parse_u32_be,
};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple, Protocol, Tuple as NlTuple,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr as NetlinkAddr};

use crate::capture::Outcome;
use crate::conntrack::{Status, TcpState, Tuple};

/// `CTA_ZONE`.
const CTA_ZONE: u16 = 18;
/// Bytes of a netlink header.
const NETLINK_HEADER: usize = 16;
/// Subsystem `NFNL_SUBSYS_CTNETLINK`, message `IPCTNL_MSG_CT_GET_STATS_CPU`.
const STATISTICS: u16 = 1 << 8 | 4;
/// `ENOENT`.
const NOT_FOUND: i32 = 2;

/// A ctnetlink socket; it belongs to the network namespace that the thread was in when it was opened.
pub struct Ctnetlink {
    socket: Socket,
}

impl Ctnetlink {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&NetlinkAddr::new(0, 0))?;
        // The kernel answers inside send(); nothing is ever waited for.
        socket.set_non_blocking(true)?;
        Ok(Self { socket })
    }

    /// Asks for the entry that has this tuple in either direction.
    pub fn look_up(&self, tuple: Tuple, zone: u16) -> Outcome {
        match self.exchange(&request(tuple, zone)) {
            Ok(answer) => interpret(&answer),
            Err(error) => Outcome::Failed { because: format!("ctnetlink: {error}") },
        }
    }

    /// Packets that conntrack refused in this namespace since it was made (`CTA_STATS_INVALID`, summed over the CPUs).
    pub fn invalid(&self) -> io::Result<u64> {
        self.socket.send(&statistics_request(), 0)?;
        let mut sum = 0;
        loop {
            let (answer, _) = self.socket.recv_from_full()?;
            match add_invalid(&answer, &mut sum)? {
                Dump::Continues => {}
                Dump::Done => return Ok(sum),
            }
        }
    }

    fn exchange(&self, request: &[u8]) -> io::Result<Vec<u8>> {
        self.socket.send(request, 0)?;
        let (answer, _) = self.socket.recv_from_full()?;
        Ok(answer)
    }
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

/// `IPCTNL_MSG_CT_GET_STATS_CPU`, for all CPUs.
fn statistics_request() -> Vec<u8> {
    const NFGENMSG: usize = 4;
    let mut bytes = vec![0; NETLINK_HEADER + NFGENMSG];
    let mut packet = NetlinkBuffer::new(&mut bytes);
    packet.set_length((NETLINK_HEADER + NFGENMSG) as u32);
    packet.set_message_type(STATISTICS);
    packet.set_flags(NLM_F_REQUEST | NLM_F_DUMP);
    bytes
}

/// Whether a dump goes on.
#[derive(Debug, PartialEq, Eq)]
enum Dump {
    Continues,
    Done,
}

/// Adds up what a datagram of a dump says of refused packets.
fn add_invalid(mut datagram: &[u8], sum: &mut u64) -> io::Result<Dump> {
    /// `CTA_STATS_INVALID`, big-endian.
    const CTA_STATS_INVALID: u16 = 4;
    let odd = |error: DecodeError| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    while !datagram.is_empty() {
        let packet = NetlinkBuffer::new_checked(datagram).map_err(odd)?;
        match packet.message_type() {
            NLMSG_DONE => return Ok(Dump::Done),
            STATISTICS => {
                // Behind the header comes a nfgenmsg, then the attributes.
                for attribute in NlasIterator::new(packet.payload().get(4..).unwrap_or_default()) {
                    let attribute = attribute.map_err(odd)?;
                    if attribute.kind() == CTA_STATS_INVALID {
                        *sum += u64::from(parse_u32_be(attribute.value()).map_err(odd)?);
                    }
                }
            }
            NLMSG_ERROR => return Err(io::Error::other("ctnetlink keeps no statistics")),
            other => return Err(io::Error::other(format!("ctnetlink answered {other}"))),
        }
        let length = (packet.length() as usize).next_multiple_of(4);
        datagram = datagram.get(length..).unwrap_or_default();
    }
    Ok(Dump::Continues)
}

fn interpret(answer: &[u8]) -> Outcome {
    let failed = |because: String| Outcome::Failed { because };
    match NetlinkMessage::<NetfilterMessage>::deserialize(answer) {
        Err(error) => failed(format!("ctnetlink answered something else than an entry: {error}")),
        Ok(message) => match message.payload {
            NetlinkPayload::InnerMessage(NetfilterMessage {
                inner: NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)),
                ..
            }) => entry(&attributes).unwrap_or_else(|| failed("ctnetlink answered an entry without tuples".to_owned())),
            NetlinkPayload::Error(error) => match error.code {
                Some(code) if code.get() == -NOT_FOUND => Outcome::Gone { was: None },
                Some(code) => failed(format!("ctnetlink: {}", io::Error::from_raw_os_error(-code.get()))),
                None => failed("ctnetlink answered with an acknowledgement only".to_owned()),
            },
            other => failed(format!("ctnetlink answered {}", other.message_type())),
        },
    }
}

fn entry(attributes: &[ConntrackAttribute]) -> Option<Outcome> {
    let (mut original, mut reply, mut state, mut timeout_s, mut status) = (None, None, None, None, Status::default());
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(parts) => original = endpoints(parts),
            ConntrackAttribute::CtaTupleReply(parts) => reply = endpoints(parts),
            ConntrackAttribute::CtaTimeout(seconds) => timeout_s = Some(*seconds),
            ConntrackAttribute::CtaStatus(bits) => status = Status(bits.bits()),
            ConntrackAttribute::CtaProtoInfo(infos) => {
                for info in infos {
                    let ProtoInfo::TCP(parts) = info else { continue };
                    for part in parts {
                        if let ProtoInfoTCP::State(raw) = part {
                            state = Some(TcpState::from_raw(*raw));
                        }
                    }
                }
            }
            _ => {}
        }
    }
    Some(Outcome::Found { original: original?, reply: reply?, state, timeout_s, status })
}

fn endpoints(parts: &[NlTuple]) -> Option<Tuple> {
    let (mut source, mut destination): (Option<IpAddr>, Option<IpAddr>) = (None, None);
    let (mut source_port, mut destination_port) = (None, None);
    for part in parts {
        match part {
            NlTuple::Ip(addresses) => {
                for address in addresses {
                    match address {
                        IPTuple::SourceAddress(found) => source = Some(*found),
                        IPTuple::DestinationAddress(found) => destination = Some(*found),
                        _ => {}
                    }
                }
            }
            NlTuple::Proto(ports) => {
                for port in ports {
                    match port {
                        ProtoTuple::SourcePort(found) => source_port = Some(*found),
                        ProtoTuple::DestinationPort(found) => destination_port = Some(*found),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(Tuple { src: SocketAddr::new(source?, source_port?), dst: SocketAddr::new(destination?, destination_port?) })
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NLMSG_DONE, NLMSG_ERROR};

    use super::{Dump, STATISTICS, add_invalid, interpret, request, statistics_request};
    use crate::capture::Outcome;
    use crate::conntrack::{Status, TcpState, Tuple};

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
    fn adds_up_the_counters_of_all_cpus() {
        fn message(kind: u16, body: &[u8]) -> Vec<u8> {
            let len = u32::try_from(16 + body.len()).unwrap();
            [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), &[2, 0], &[0; 8], body].concat()
        }
        let cpu = |invalid: u8| {
            let found = [8, 0, 2, 0, 0, 0, 0, 99];
            let refused = [8, 0, 4, 0, 0, 0, 1, invalid];
            message(STATISTICS, &[&[0; 4][..], &found, &refused].concat())
        };
        let mut sum = 0;
        assert_eq!(add_invalid(&[cpu(1), cpu(2)].concat(), &mut sum).unwrap(), Dump::Continues);
        assert_eq!(add_invalid(&message(NLMSG_DONE, &[0; 4]), &mut sum).unwrap(), Dump::Done);
        assert_eq!(sum, 256 + 1 + 256 + 2);
        assert!(add_invalid(&message(NLMSG_ERROR, &[0; 20]), &mut sum).is_err());
        assert!(add_invalid(&cpu(1)[..30], &mut sum).is_err());
        assert_eq!(statistics_request()[..8], [20, 0, 0, 0, 4, 1, 1, 3]);
    }

    /// An answer as 6.1 gives it, cut down to what is read.
    #[test]
    fn reads_an_entry() {
        fn attribute(kind: u16, nested: bool, value: &[u8]) -> Vec<u8> {
            let len = u16::try_from(value.len() + 4).unwrap();
            let kind = if nested { kind | 0x8000 } else { kind };
            let mut bytes = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        }
        fn endpoints(src: [u8; 4], dst: [u8; 4], sport: u16, dport: u16) -> Vec<u8> {
            let ip = [attribute(1, false, &src), attribute(2, false, &dst)].concat();
            let proto = [
                attribute(1, false, &[6]),
                attribute(2, false, &sport.to_be_bytes()),
                attribute(3, false, &dport.to_be_bytes()),
            ]
            .concat();
            [attribute(1, true, &ip), attribute(2, true, &proto)].concat()
        }
        let tcp = attribute(1, true, &attribute(1, false, &[8]));
        let body = [
            vec![2, 0, 0, 0],
            attribute(1, true, &endpoints([10, 0, 0, 2], [192, 0, 2, 2], 34567, 443)),
            attribute(2, true, &endpoints([192, 0, 2, 2], [192, 0, 2, 1], 443, 40000)),
            attribute(3, false, &0x1eu32.to_be_bytes()),
            attribute(4, true, &tcp),
            attribute(7, false, &9u32.to_be_bytes()),
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
    fn no_such_entry() {
        // NLMSG_ERROR with -ENOENT and the request's header.
        let mut answer = [&36u32.to_ne_bytes()[..], &2u16.to_ne_bytes(), &[0; 10], &(-2i32).to_ne_bytes()].concat();
        answer.extend([0; 16]);
        assert_eq!(interpret(&answer), Outcome::Gone { was: None });
    }

    #[test]
    fn garbage_is_a_failure_not_a_panic() {
        for len in 0..64 {
            assert!(matches!(interpret(&vec![0xff; len]), Outcome::Failed { .. }));
        }
    }
}
