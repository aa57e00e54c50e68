//! conntrack over ctnetlink (`net/netfilter/nf_conntrack_netlink.c`): look-ups of single entries, counters, and dumps of the
//! table. [`entry`] takes an entry apart, for all of them.
//!
//! While packets are captured only `IPCTNL_MSG_CT_GET` of one tuple and the counters of each CPU are asked for: the kernel
//! walks the whole table for a dump, which a gateway in trouble is spared. A dump is made for `whyrst doctor`, and when a
//! capture has ended in which a table was full.

pub mod entry;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::time::Instant;

use tracer_model::capture::Outcome;
use tracer_model::conntrack::Tuple;
use tracer_model::health::counters::{Counter, PerCpu, total};

use self::entry::Entry;
use crate::nfnetlink::{End, Message, Nfnetlink, attribute, attributes, dump_of, message, number, put, request};

/// Subsystem `NFNL_SUBSYS_CTNETLINK`, message `IPCTNL_MSG_CT_NEW`: an entry, in an answer or a dump.
const NEW: u16 = 1 << 8;
/// Likewise, `IPCTNL_MSG_CT_GET`.
const GET: u16 = 1 << 8 | 1;
/// Likewise, `IPCTNL_MSG_CT_GET_STATS_CPU`.
const STATISTICS: u16 = 1 << 8 | 4;
/// Subsystem `NFNL_SUBSYS_CTNETLINK_EXP`, message `IPCTNL_MSG_EXP_GET_STATS_CPU`.
const EXPECTED: u16 = 2 << 8 | 3;
/// `ENOENT`.
const NOT_FOUND: i32 = 2;

/// A socket for look-ups in the network namespace that the calling thread was in when it was opened.
pub(crate) struct Ctnetlink {
    socket: Nfnetlink,
}

impl Ctnetlink {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { socket: Nfnetlink::open()? })
    }

    /// Asks for the entry that has this tuple in either direction.
    pub(crate) fn look_up(&self, tuple: Tuple, zone: u16) -> Outcome {
        match self.socket.exchange(&get(tuple, zone)) {
            Ok(answer) => interpret(&answer),
            Err(error) => Outcome::Failed { because: format!("ctnetlink: {error}") },
        }
    }
}

/// Packets that conntrack marked as INVALID in the calling thread's namespace since it was made (`CTA_STATS_INVALID`, summed
/// over the CPUs).
pub(crate) fn invalid() -> io::Result<u64> {
    Ok(total(&counters()?, Counter::Invalid).unwrap_or(0))
}

/// conntrack's counters of the calling thread's namespace, per CPU.
pub(crate) fn counters() -> io::Result<Vec<PerCpu>> {
    let mut all = Vec::new();
    Nfnetlink::open()?.dump(&dump_of(STATISTICS), None, |message| {
        if message.kind != STATISTICS {
            return Err(io::Error::other(format!("ctnetlink answered {}", message.kind)));
        }
        all.push(of_cpu(message));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(all)
}

/// The counters of one CPU, from the answer to `IPCTNL_MSG_CT_GET_STATS_CPU`.
pub fn of_cpu(message: Message<'_>) -> PerCpu {
    let mut counters = PerCpu::of(message.resource);
    for (kind, value) in attributes(message.attributes) {
        let counter = Counter::ALL.into_iter().find(|counter| counter.attribute() == kind);
        if let (Some(counter), Some(value)) = (counter, number(value)) {
            counters.set(counter, value);
        }
    }
    counters
}

/// Connections that helpers wait for in the calling thread's namespace: what was created less what was deleted.
pub(crate) fn expectations() -> io::Result<u64> {
    const CTA_STATS_EXP_CREATE: u16 = 2;
    const CTA_STATS_EXP_DELETE: u16 = 3;
    // Each CPU counts for itself, and may delete what another created.
    let mut count = 0u32;
    Nfnetlink::open()?.dump(&dump_of(EXPECTED), None, |message| {
        let field = |kind| attribute(message.attributes, kind).and_then(number).unwrap_or(0);
        count = count.wrapping_add(field(CTA_STATS_EXP_CREATE)).wrapping_sub(field(CTA_STATS_EXP_DELETE));
        Ok(ControlFlow::Continue(()))
    })?;
    // Counters that are read one after the other may be one off.
    Ok(u64::try_from(count.cast_signed()).unwrap_or(0))
}

/// Reads the entries of the calling thread's namespace, at most so many, until the deadline; and why these are not all.
///
/// The kernel walks the whole table for it.
pub(crate) fn entries(most: u64, deadline: Instant, mut each: impl FnMut(&Entry)) -> io::Result<Option<String>> {
    let (began, mut read) = (Instant::now(), 0);
    let end = Nfnetlink::open()?.dump(&dump_of(GET), Some(deadline), |message| {
        if message.kind == NEW {
            each(&Entry::read(message.attributes));
            read += 1;
        }
        Ok(if read < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    let cut = || {
        let seconds = began.elapsed().as_secs_f64();
        format!("the table was not read to its end: {read} entries in {seconds:.1} s")
    };
    Ok((end == End::Cut).then(cut))
}

/// A request for the entry of one TCP tuple.
fn get(tuple: Tuple, zone: u16) -> Vec<u8> {
    use self::entry::{
        CTA_PROTO_DST_PORT, CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_TUPLE_IP, CTA_TUPLE_ORIG, CTA_TUPLE_PROTO, CTA_ZONE,
    };
    /// `NLA_F_NESTED`.
    const NESTED: u16 = 1 << 15;
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    const TCP: u8 = 6;
    // CTA_IP_V4_SRC and CTA_IP_V4_DST, CTA_IP_V6_SRC and CTA_IP_V6_DST.
    let (family, [source, destination]) = if tuple.src.is_ipv4() { (AF_INET, [1, 2]) } else { (AF_INET6, [3, 4]) };
    let address = |kind, end: SocketAddr| match end.ip() {
        IpAddr::V4(address) => put(kind, &address.octets()),
        IpAddr::V6(address) => put(kind, &address.octets()),
    };
    let port = |kind, end: SocketAddr| put(kind, &end.port().to_be_bytes());
    let addresses = [address(source, tuple.src), address(destination, tuple.dst)].concat();
    let protocol =
        [put(CTA_PROTO_NUM, &[TCP]), port(CTA_PROTO_SRC_PORT, tuple.src), port(CTA_PROTO_DST_PORT, tuple.dst)].concat();
    let original = [put(CTA_TUPLE_IP | NESTED, &addresses), put(CTA_TUPLE_PROTO | NESTED, &protocol)].concat();
    let mut attributes = put(CTA_TUPLE_ORIG | NESTED, &original);
    if zone != 0 {
        attributes.extend(put(CTA_ZONE, &zone.to_be_bytes()));
    }
    request(GET, 0, family, &attributes)
}

/// Reads the answer to a look-up.
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
            let Entry { original, reply, state, timeout_s, status, .. } = Entry::read(message.attributes);
            let Some((original, reply)) = original.tuple().zip(reply.tuple()) else {
                return failed("ctnetlink answered an entry without tuples".to_owned());
            };
            Outcome::Found { original, reply, state, timeout_s, status }
        }
    }
}

#[cfg(test)]
mod tests {
    use tracer_model::capture::Outcome;
    use tracer_model::conntrack::{Status, TcpState, Tuple};
    use tracer_model::health::counters::Counter;

    use super::{Entry, Message, get, interpret, of_cpu};
    use crate::nfnetlink::put as attribute;

    fn tuple() -> Tuple {
        Tuple { src: "10.0.0.2:34567".parse().unwrap(), dst: "192.0.2.2:443".parse().unwrap() }
    }

    #[test]
    fn asks_for_one_tuple_and_no_dump() {
        let bytes = get(tuple(), 7);
        assert_eq!(usize::try_from(u32::from_ne_bytes(bytes[..4].try_into().unwrap())).unwrap(), bytes.len());
        // nlmsg_type: subsystem 1 (ctnetlink), message 1 (IPCTNL_MSG_CT_GET); nlmsg_flags: NLM_F_REQUEST alone.
        assert_eq!(u16::from_ne_bytes(bytes[4..6].try_into().unwrap()), 1 << 8 | 1);
        assert_eq!(u16::from_ne_bytes(bytes[6..8].try_into().unwrap()), 1);
        assert_eq!(bytes[16], 2, "nfgen_family: AF_INET");
        assert!(bytes.ends_with(&[0, 7, 0, 0]), "the zone comes last, padded to four bytes");
        // What is asked for is what an answer would have.
        let v6 = Tuple { src: "[fd00::2]:34567".parse().unwrap(), dst: "[2001:db8::2]:443".parse().unwrap() };
        for tuple in [tuple(), v6] {
            let asked = Entry::read(&get(tuple, 7)[20..]);
            assert_eq!((asked.original.tuple(), asked.original.protocol, asked.zone), (Some(tuple), Some(6), 7));
        }
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
    fn reads_the_counters_of_a_cpu() {
        let attributes = [attribute(4, &7u32.to_be_bytes()), attribute(10, &[1]), attribute(99, &[0; 4])].concat();
        let counters = of_cpu(Message { resource: 3, attributes: &attributes, ..Message::default() });
        assert_eq!((counters.cpu, counters.get(Counter::Invalid), counters.get(Counter::Drop)), (3, Some(7), None));
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

    /// An attribute whose length is less than its own header's, in a message of another subsystem: found by fuzzing, when
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
