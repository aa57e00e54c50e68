//! The tests of a rule, and their result for the packet of an event.

use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::Family;
use crate::conntrack::Nfct;
use crate::conntrack::entry::CtInfo;
use crate::event::{Event, NfHook};
use crate::packet::Packet;

/// Bytes of an interface's name in a register (`IFNAMSIZ`).
const NAME: usize = 16;
/// Elements of a set that are shown.
const SHOWN: usize = 4;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// `IPPROTO_UDP`.
const UDP: u8 = 17;
/// `NF_CT_STATE_INVALID_BIT` and `NF_CT_STATE_UNTRACKED_BIT` (`include/net/netfilter/nf_conntrack.h` and
/// `include/uapi/linux/netfilter/nf_conntrack_common.h`), with the words for them and the states between.
const STATES: [(u32, &str); 5] =
    [(1, "invalid"), (1 << 1, "established"), (1 << 2, "related"), (1 << 3, "new"), (1 << 6, "untracked")];

/// The key of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "key", rename_all = "kebab-case")]
pub enum Key {
    /// The name of the interface that the packet came in by, padded with zero bytes.
    InputName,
    /// The name of the interface that it would leave by, likewise.
    OutputName,
    /// The transport protocol, one byte.
    Transport,
    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`, one byte.
    Family,
    /// The `EtherType`, two bytes.
    EtherType,
    /// `NF_CT_STATE_*` bits, four bytes in the byte order of the host, which a recording names.
    State,
    /// Bytes of the IP header.
    NetworkHeader {
        /// The first.
        offset: u32,
    },
    /// Bytes of the TCP header.
    TransportHeader {
        /// The first.
        offset: u32,
    },
    /// Bytes of the header of the link layer (Ethernet).
    LinkHeader {
        /// The first.
        offset: u32,
    },
    /// The index of the interface that the packet came in by, four bytes in network byte order.
    InputIndex,
    /// The index of the interface that it would leave by, likewise.
    OutputIndex,
    /// `skb->mark`, four bytes in network byte order.
    Mark,
    /// `skb->len`, four bytes in network byte order.
    Length,
    /// `skb->pkt_type`, one byte (`PACKET_HOST` is 0).
    PacketType,
    /// The mark of its conntrack entry, four bytes in network byte order; a packet without an entry has none.
    ConnectionMark,
    /// `ct->status` (`enum ip_conntrack_status`), four bytes in network byte order; likewise.
    ConnectionStatus,
    /// `CTINFO2DIR(ctinfo)`, one byte, 1 in reply direction; likewise.
    ConnectionDirection,
    /// Anything else of its conntrack entry; likewise.
    Connection,
    /// The type of an address of it in the routing table (`RTN_LOCAL` is 2), four bytes in network byte order.
    AddressType {
        /// Of the source, not the destination.
        source: bool,
        /// As seen from the interface that it came in by.
        interface: bool,
    },
    /// Whether the route back to its source leads through the interface that it came in by, one byte.
    ReversePath,
    /// Anything of the local socket that it belongs to; a packet without a socket has none.
    Socket,
    /// Whether a policy of xfrm has decrypted it or will encrypt it, one byte.
    Ipsec,
    /// A key that only a later version knows.
    #[serde(other)]
    Unknown,
}

/// A comparison: bytes of the packet, masked, are within some bounds, or outside of all.
///
/// All byte strings are compared as `memcmp` does, as many bytes as the bounds have; all bounds have the same number.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Test {
    /// The key.
    #[serde(flatten)]
    pub key: Key,
    /// The mask that is applied before the comparison; empty for none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mask: Vec<u8>,
    /// Lower and upper bounds, both included.
    pub bounds: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whether the packet has to be within the bounds.
    pub inside: bool,
}

impl Test {
    /// Exactly this value.
    pub fn is(key: Key, value: Vec<u8>) -> Self {
        Self { key, mask: Vec::new(), bounds: vec![(value.clone(), value)], inside: true }
    }

    /// Any of these bits of `ct state`, or with `inside` none of them.
    pub fn state(bits: u32, inside: bool) -> Self {
        let none = vec![0; 4];
        Self { key: Key::State, mask: bits.to_ne_bytes().to_vec(), bounds: vec![(none.clone(), none)], inside }
    }

    /// Both tests as one, where both ask the same bytes to be within bounds.
    pub fn and(&self, other: &Self) -> Option<Self> {
        let plain = |test: &Self| test.mask.is_empty() && test.inside;
        match (&self.bounds[..], &other.bounds[..]) {
            ([(from, to)], [(other_from, other_to)])
                if plain(self) && plain(other) && self.key == other.key && from.len() == other_from.len() =>
            {
                let bounds = vec![(from.max(other_from).clone(), to.min(other_to).clone())];
                Some(Self { bounds, ..self.clone() })
            }
            _ => None,
        }
    }

    /// Bytes that are compared.
    pub fn length(&self) -> usize {
        self.bounds.first().map_or(0, |(from, _)| from.len())
    }

    /// Whether it holds for the packet of an event; `None` where the event lacks the data.
    pub fn holds(&self, event: &Event) -> Option<bool> {
        Some(self.admits(self.key.of(event, self.length())?))
    }

    /// Whether it holds for these bytes.
    pub fn admits(&self, mut bytes: Vec<u8>) -> bool {
        if !self.mask.is_empty() {
            for (byte, mask) in bytes.iter_mut().zip(self.mask.iter().chain(std::iter::repeat(&0))) {
                *byte &= mask;
            }
        }
        let within = self.bounds.iter().any(|(from, to)| *from <= bytes && bytes <= *to);
        within == self.inside
    }
}

impl Key {
    /// Its first bytes.
    fn of(self, event: &Event, length: usize) -> Option<Vec<u8>> {
        let packet = event.packet.as_ref()?;
        let ipv4 = packet.src.is_ipv4();
        let mut bytes = match self {
            Self::InputName => {
                // A packet from this host came in by no interface, whatever its buffer says.
                let came_in = matches!(event.nf_hook?, NfHook::PreRouting | NfHook::LocalIn | NfHook::Forward);
                padded(event.input.filter(|_| came_in)?.name.as_str())?
            }
            Self::OutputName => padded(event.output?.name.as_str())?,
            Self::Transport => vec![TCP],
            Self::Family => vec![if ipv4 { 2 } else { 10 }],
            Self::EtherType => if ipv4 { [0x08, 0x00] } else { [0x86, 0xdd] }.to_vec(),
            Self::State => state(event.nfct?)?.to_ne_bytes().to_vec(),
            Self::NetworkHeader { offset } => header(offset, length, |at| network(packet, at))?,
            Self::TransportHeader { offset } => header(offset, length, |at| transport(packet, at))?,
            // An event does not show these.
            Self::LinkHeader { .. }
            | Self::InputIndex
            | Self::OutputIndex
            | Self::Mark
            | Self::Length
            | Self::PacketType
            | Self::ConnectionMark
            | Self::ConnectionStatus
            | Self::ConnectionDirection
            | Self::Connection
            | Self::AddressType { .. }
            | Self::ReversePath
            | Self::Socket
            | Self::Ipsec
            | Self::Unknown => return None,
        };
        if bytes.len() < length {
            return None;
        }
        bytes.truncate(length);
        Some(bytes)
    }
}

/// A name as it is in a register; none where it is not known exactly.
fn padded(name: &str) -> Option<Vec<u8>> {
    if name.is_empty() || name.len() >= NAME || name.contains('?') {
        return None;
    }
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(NAME, 0);
    Some(bytes)
}

/// What `ct state` and `--ctstate` see (`nft_ct_get_eval`, `conntrack_mt`).
const fn state(nfct: Nfct) -> Option<u32> {
    Some(match nfct {
        Nfct::None => 1,
        Nfct::Untracked => 1 << 6,
        Nfct::Entry(CtInfo::Established | CtInfo::EstablishedReply) => 1 << 1,
        Nfct::Entry(CtInfo::Related | CtInfo::RelatedReply) => 1 << 2,
        Nfct::Entry(CtInfo::New) => 1 << 3,
        Nfct::Entry(CtInfo::Unknown(_)) => return None,
    })
}

fn header(offset: u32, length: usize, byte: impl Fn(usize) -> Option<u8>) -> Option<Vec<u8>> {
    let first = usize::try_from(offset).ok()?;
    (first..first.checked_add(length)?).map(byte).collect()
}

/// A byte of the IP header, of those that an event keeps.
fn network(packet: &Packet, at: usize) -> Option<u8> {
    let (src, dst) = (packet.src.ip(), packet.dst.ip());
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => match at {
            1 => Some(packet.tos),
            4 | 5 => Some(packet.ip_id?.to_be_bytes()[at - 4]),
            8 => Some(packet.ttl),
            9 => Some(TCP),
            12..16 => Some(src.octets()[at - 12]),
            16..20 => Some(dst.octets()[at - 16]),
            _ => None,
        },
        (IpAddr::V6(src), IpAddr::V6(dst)) => match at {
            7 => Some(packet.ttl),
            8..24 => Some(src.octets()[at - 8]),
            24..40 => Some(dst.octets()[at - 24]),
            _ => None,
        },
        _ => None,
    }
}

/// A byte of the TCP header, likewise.
fn transport(packet: &Packet, at: usize) -> Option<u8> {
    match at {
        0 | 1 => Some(packet.src.port().to_be_bytes()[at]),
        2 | 3 => Some(packet.dst.port().to_be_bytes()[at - 2]),
        4..=7 => Some(packet.seq.0.to_be_bytes()[at - 4]),
        8..=11 => Some(packet.ack.0.to_be_bytes()[at - 8]),
        13 => Some(packet.flags.0),
        14 | 15 => Some(packet.window.to_be_bytes()[at - 14]),
        _ => None,
    }
}

impl Key {
    /// The words that nft has for it, for so many bytes.
    pub fn words(self, length: usize, family: Family) -> String {
        let ip = if family == Family::Ip6 { "ip6" } else { "ip" };
        match (self, length) {
            (Self::InputName, _) => "iifname".to_owned(),
            (Self::OutputName, _) => "oifname".to_owned(),
            (Self::Transport, _) => "meta l4proto".to_owned(),
            (Self::Family, _) => "meta nfproto".to_owned(),
            (Self::EtherType, _) => "meta protocol".to_owned(),
            (Self::State, _) => "ct state".to_owned(),
            (Self::NetworkHeader { offset: 12 }, ..=4) | (Self::NetworkHeader { offset: 8 }, 16) => {
                format!("{ip} saddr")
            }
            (Self::NetworkHeader { offset: 16 }, ..=4) | (Self::NetworkHeader { offset: 24 }, 16) => {
                format!("{ip} daddr")
            }
            (Self::NetworkHeader { offset: 9 }, 1) => format!("{ip} protocol"),
            (Self::TransportHeader { offset: 0 }, 2) => "tcp sport".to_owned(),
            (Self::TransportHeader { offset: 2 }, 2) => "tcp dport".to_owned(),
            (Self::TransportHeader { offset: 13 }, 1) => "tcp flags".to_owned(),
            (Self::NetworkHeader { offset }, _) => format!("@nh,{},{}", offset * 8, length * 8),
            (Self::TransportHeader { offset }, _) => format!("@th,{},{}", offset * 8, length * 8),
            (Self::LinkHeader { offset: 0 }, 6) => "ether daddr".to_owned(),
            (Self::LinkHeader { offset: 6 }, 6) => "ether saddr".to_owned(),
            (Self::LinkHeader { offset }, _) => format!("@ll,{},{}", offset * 8, length * 8),
            (Self::InputIndex, _) => "iif".to_owned(),
            (Self::OutputIndex, _) => "oif".to_owned(),
            (Self::Mark, _) => "meta mark".to_owned(),
            (Self::Length, _) => "meta length".to_owned(),
            (Self::PacketType, _) => "meta pkttype".to_owned(),
            (Self::ConnectionMark, _) => "ct mark".to_owned(),
            (Self::ConnectionStatus, _) => "ct status".to_owned(),
            (Self::ConnectionDirection, _) => "ct direction".to_owned(),
            (Self::Connection, _) => "ct".to_owned(),
            (Self::AddressType { source, interface }, _) => {
                let (end, input) = (if source { "saddr" } else { "daddr" }, if interface { " . iif" } else { "" });
                format!("fib {end}{input} type")
            }
            (Self::ReversePath, _) => "fib saddr . iif oif".to_owned(),
            (Self::Socket, _) => "socket".to_owned(),
            (Self::Ipsec, _) => "meta ipsec".to_owned(),
            (Self::Unknown, _) => "?".to_owned(),
        }
    }

    /// A value, or a range of values.
    fn range(self, from: &[u8], to: &[u8]) -> String {
        if from == to { self.value(from) } else { format!("{}-{}", self.value(from), self.value(to)) }
    }

    /// A value as nft writes it.
    fn value(self, bytes: &[u8]) -> String {
        match (self, bytes) {
            (Self::InputName | Self::OutputName, _) => {
                let name: &[u8] = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
                // Without a zero byte at the end it is the beginning of a name.
                let more = if bytes.contains(&0) || bytes.len() >= NAME { "" } else { "*" };
                format!("\"{}{more}\"", name.escape_ascii())
            }
            (Self::Transport | Self::NetworkHeader { offset: 9 }, [TCP]) => "tcp".to_owned(),
            (Self::Transport | Self::NetworkHeader { offset: 9 }, [UDP]) => "udp".to_owned(),
            (Self::Transport | Self::NetworkHeader { offset: 9 }, [other]) => other.to_string(),
            (Self::Family, [2]) => "ipv4".to_owned(),
            (Self::Family, [10]) => "ipv6".to_owned(),
            (Self::State, [a, b, c, d]) => states(u32::from_ne_bytes([*a, *b, *c, *d])),
            (Self::TransportHeader { offset: 0 | 2 }, [high, low]) => u16::from_be_bytes([*high, *low]).to_string(),
            // A prefix of whole bytes is loaded without the rest.
            (Self::NetworkHeader { offset: 12 | 16 }, [_] | [_, _] | [_, _, _]) => {
                let byte = |at: usize| bytes.get(at).copied().unwrap_or_default();
                format!("{}/{}", Ipv4Addr::new(byte(0), byte(1), byte(2), 0), bytes.len() * 8)
            }
            (Self::NetworkHeader { .. }, [a, b, c, d]) => Ipv4Addr::new(*a, *b, *c, *d).to_string(),
            (Self::NetworkHeader { .. }, _) if bytes.len() == 16 => {
                <[u8; 16]>::try_from(bytes).map_or_else(|_| String::new(), |bytes| Ipv6Addr::from(bytes).to_string())
            }
            _ => hexadecimal(bytes),
        }
    }
}

fn states(bits: u32) -> String {
    let words: Vec<&str> = STATES.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, word)| *word).collect();
    words.join(",")
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_owned(), |mut text, byte| {
        // A String takes any write.
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// A test as nft would write it, or close to it.
pub struct Shown<'a>(pub &'a Test, pub Family);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(test, family) = *self;
        let Test { key, mask, bounds, inside } = test;
        let words = key.words(test.length(), family);
        let not = if *inside { "" } else { "!= " };
        let [(from, to)] = &bounds[..] else {
            let parts: Vec<String> = bounds.iter().take(SHOWN).map(|(from, to)| key.range(from, to)).collect();
            let more = if bounds.len() > SHOWN { ", …" } else { "" };
            return write!(f, "{words} {not}{{ {}{more} }}", parts.join(", "));
        };
        let zero = from.iter().chain(to).all(|byte| *byte == 0);
        // Any of some bits: "they are not all zero".
        if *key == Key::State && !mask.is_empty() && zero {
            let not = if *inside { "!= " } else { "" };
            return write!(f, "{words} {not}{}", key.value(mask));
        }
        if let (Key::NetworkHeader { .. }, Some(length)) = (key, prefix(mask)) {
            return write!(f, "{words} {not}{}/{length}", key.value(from));
        }
        match (mask.is_empty(), inside) {
            (true, _) => write!(f, "{words} {not}{}", key.range(from, to)),
            (false, true) => write!(f, "{words} & {} == {}", hexadecimal(mask), key.range(from, to)),
            (false, false) => write!(f, "{words} & {} != {}", hexadecimal(mask), key.range(from, to)),
        }
    }
}

/// The length of the prefix that a mask leaves, where it is one.
fn prefix(mask: &[u8]) -> Option<u32> {
    let full = mask.iter().take_while(|byte| **byte == 0xff).count();
    let next = mask.get(full).map_or(0, |byte| byte.leading_ones());
    let all: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
    let length = full as u32 * 8 + next;
    (!mask.is_empty() && length == all).then_some(length)
}
