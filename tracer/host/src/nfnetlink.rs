//! nfnetlink sockets (`net/netfilter/nfnetlink.c`): a request with one answer, dumps, and attributes. What a subsystem's
//! attributes mean is decided by its reader.

use std::io;
use std::ops::ControlFlow;
use std::time::Instant;

use netlink_packet_core::{
    DecodeError, NLA_HEADER_SIZE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
    NlasIterator,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

/// Bytes of a netlink header.
const HEADER: usize = 16;
/// Bytes of a `struct nfgenmsg`: family, version, and 16 bits that subsystems use as they like.
const NFGENMSG: usize = 4;
/// Bytes of a datagram that the kernel fills at most in a dump (`netlink_dump`).
const DATAGRAM: usize = 1 << 16;

/// A socket; it belongs to the network namespace that the thread was in when it was opened.
pub(super) struct Nfnetlink {
    socket: Socket,
}

/// A message of a subsystem.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Message<'a> {
    /// Subsystem and message.
    pub kind: u16,
    /// `NFPROTO_*`.
    pub family: u8,
    /// `res_id` of its header, which subsystems use as they like: a CPU, or the generation of a ruleset.
    pub resource: u16,
    /// Its attributes, which [`attributes`] reads one by one.
    pub attributes: &'a [u8],
}

/// How a dump ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// All of it came.
    Whole,
    /// All of it came, but it changed while it was read.
    Changed,
    /// It was not read to its end.
    Cut,
}

impl Nfnetlink {
    /// Opens a socket in the calling thread's network namespace.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // The kernel answers inside send(), and goes on with a dump inside recv(); nothing is ever waited for.
        socket.set_non_blocking(true)?;
        Ok(Self { socket })
    }

    /// Sends a request that has one answer.
    pub(super) fn exchange(&self, request: &[u8]) -> io::Result<Vec<u8>> {
        self.socket.send(request, 0)?;
        let (answer, _) = self.socket.recv_from_full()?;
        Ok(answer)
    }

    /// Asks for everything of a kind, until `each` has enough or the deadline has passed. A dump that was cut leaves the
    /// socket in the middle of it: it is of no more use.
    pub(super) fn dump(
        &self,
        request: &[u8],
        deadline: Option<Instant>,
        mut each: impl FnMut(Message<'_>) -> io::Result<ControlFlow<()>>,
    ) -> io::Result<End> {
        self.socket.send(request, 0)?;
        let mut changed = false;
        let mut datagram = Vec::with_capacity(DATAGRAM);
        loop {
            datagram.clear();
            self.socket.recv(&mut datagram, 0)?;
            match part(&datagram, &mut changed, &mut each)? {
                Part::Last => return Ok(if changed { End::Changed } else { End::Whole }),
                Part::Enough => return Ok(End::Cut),
                Part::More if deadline.is_some_and(|deadline| Instant::now() > deadline) => return Ok(End::Cut),
                Part::More => {}
            }
        }
    }
}

/// A request for everything of a kind.
pub(super) fn dump_of(kind: u16) -> Vec<u8> {
    request(kind, NLM_F_DUMP, 0, &[])
}

/// A request with these attributes.
pub(super) fn request(kind: u16, flags: u16, family: u8, attributes: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    // A struct nfgenmsg.
    bytes.extend([family, 0, 0, 0]);
    bytes.extend(attributes);
    let length = bytes.len() as u32;
    let mut packet = NetlinkBuffer::new(&mut bytes);
    packet.set_length(length);
    packet.set_message_type(kind);
    packet.set_flags(NLM_F_REQUEST | flags);
    bytes
}

/// An attribute, padded to four bytes.
pub(super) fn put(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = (NLA_HEADER_SIZE + value.len()) as u16;
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// An attribute that is a string, with the zero byte at its end.
pub(super) fn put_string(kind: u16, value: &str) -> Vec<u8> {
    put(kind, &[value.as_bytes(), &[0]].concat())
}

/// Whether a dump goes on after a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It does.
    More,
    /// That was the last.
    Last,
    /// Whoever asked has enough.
    Enough,
}

/// Reads the messages of a datagram of a dump.
pub fn part(
    mut datagram: &[u8],
    changed: &mut bool,
    each: &mut impl FnMut(Message<'_>) -> io::Result<ControlFlow<()>>,
) -> io::Result<Part> {
    while !datagram.is_empty() {
        let packet = NetlinkBuffer::new_checked(datagram).map_err(|error| odd(&error))?;
        *changed |= packet.flags() & NLM_F_DUMP_INTR != 0;
        let payload = packet.payload();
        match packet.message_type() {
            // Both begin with an error number, negative, or zero for none.
            done @ (NLMSG_DONE | NLMSG_ERROR) => {
                let code = payload.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                if code < 0 {
                    return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                }
                if done == NLMSG_DONE {
                    return Ok(Part::Last);
                }
            }
            kind => {
                if let Some((header, attributes)) = payload.split_at_checked(NFGENMSG)
                    && each(Message { kind, family: header[0], resource: resource(header), attributes })?.is_break()
                {
                    return Ok(Part::Enough);
                }
            }
        }
        let length = (packet.length() as usize).next_multiple_of(4);
        datagram = datagram.get(length..).unwrap_or_default();
    }
    Ok(Part::More)
}

/// The message of an answer that is not a dump.
pub(super) fn message(answer: &[u8]) -> io::Result<Message<'_>> {
    let packet = NetlinkBuffer::new_checked(answer).map_err(|error| odd(&error))?;
    let payload = packet.payload();
    if packet.message_type() == NLMSG_ERROR {
        let code = payload.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
        return Err(io::Error::from_raw_os_error(code.saturating_neg()));
    }
    let (header, attributes) =
        payload.split_at_checked(NFGENMSG).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(Message { kind: packet.message_type(), family: header[0], resource: resource(header), attributes })
}

/// `nfgenmsg.res_id`, big-endian.
fn resource(header: &[u8]) -> u16 {
    header.last_chunk().map_or(0, |bytes| u16::from_be_bytes(*bytes))
}

/// Attributes, up to the first that is broken.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(Result::ok).map(|attribute| {
        let (kind, end) = (attribute.kind(), usize::from(attribute.length()));
        (kind, attribute.into_inner().get(NLA_HEADER_SIZE..end).unwrap_or_default())
    })
}

/// The value of the first attribute of a kind.
pub(super) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// A big-endian number.
pub(super) fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// A big-endian number of eight bytes.
pub(super) fn long(value: &[u8]) -> Option<u64> {
    value.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

/// A string with or without a zero byte at its end.
pub(super) fn string(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

fn odd(error: &DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use netlink_packet_core::{NLMSG_DONE, NLMSG_ERROR};

    use super::{Message, Part, dump_of, part, put_string, request};

    /// A message as the kernel sends it.
    fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(16 + body.len()).unwrap();
        let mut bytes = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8], body].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn takes_a_dump_apart() {
        let first = message(0x0a06, 2, &[1, 0, 0, 0, 1, 2, 3, 4]);
        let second = message(0x0a06, 2, &[2, 0, 0, 0]);
        let mut seen = Vec::new();
        let mut changed = false;
        let mut each = |message: Message<'_>| {
            seen.push((message.kind, message.family, message.attributes.to_vec()));
            Ok(ControlFlow::Continue(()))
        };
        assert_eq!(part(&[first, second].concat(), &mut changed, &mut each).unwrap(), Part::More);
        assert!(!changed);
        assert_eq!(part(&message(NLMSG_DONE, 0x12, &[0; 4]), &mut changed, &mut each).unwrap(), Part::Last);
        assert!(changed, "NLM_F_DUMP_INTR");
        assert_eq!(seen, [(0x0a06, 1, vec![1, 2, 3, 4]), (0x0a06, 2, vec![])]);
    }

    #[test]
    fn failures_are_the_kernels() {
        let mut nothing = |_: Message<'_>| Ok(ControlFlow::Continue(()));
        for kind in [NLMSG_DONE, NLMSG_ERROR] {
            let refused = message(kind, 0, &[&(-1i32).to_ne_bytes()[..], &[0; 16]].concat());
            let error = part(&refused, &mut false, &mut nothing).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(1));
        }
        for length in 1..40 {
            assert!(part(&vec![0xff; length], &mut false, &mut nothing).is_err());
        }
    }

    #[test]
    fn stops_when_the_caller_has_enough() {
        let two = [message(1, 2, &[0; 4]), message(2, 2, &[0; 4])].concat();
        let mut seen = 0;
        let mut each = |_: Message<'_>| {
            seen += 1;
            Ok(ControlFlow::Break(()))
        };
        assert_eq!(part(&two, &mut false, &mut each).unwrap(), Part::Enough);
        assert_eq!(seen, 1);
    }

    #[test]
    fn a_request_has_a_header_and_a_family() {
        assert_eq!(dump_of(0x0104)[..8], [20, 0, 0, 0, 4, 1, 1, 3]);
        let with_strings = request(1, 0, 2, &[put_string(1, "abc"), put_string(2, "")].concat());
        assert_eq!(with_strings[16..], [2, 0, 0, 0, 8, 0, 1, 0, b'a', b'b', b'c', 0, 5, 0, 2, 0, 0, 0, 0, 0]);
        assert_eq!(with_strings[0], 36);
    }
}
