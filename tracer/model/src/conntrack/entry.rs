//! A conntrack entry: its two tuples, its TCP state, and the window data of both sides.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::seq::Seq;

/// A connection's endpoints in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tuple {
    /// The source of packets of this direction.
    pub src: SocketAddr,
    /// Their destination.
    pub dst: SocketAddr,
}

impl Hash for Tuple {
    /// An endpoint at a time: every event is looked up by several tuples.
    fn hash<H: Hasher>(&self, state: &mut H) {
        for end in [self.src, self.dst] {
            match end {
                SocketAddr::V4(end) => state.write_u64(u64::from(end.ip().to_bits()) << 16 | u64::from(end.port())),
                SocketAddr::V6(end) => {
                    state.write_u128(end.ip().to_bits());
                    state.write_u16(end.port());
                }
            }
        }
    }
}

impl Tuple {
    /// The same endpoints seen from the other side.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self { src: self.dst, dst: self.src }
    }
}

/// A direction of a connection, `enum ip_conntrack_dir`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From the side that opened it.
    Original,
    /// From the other side.
    Reply,
}

impl Direction {
    /// As an index into a pair.
    pub const fn index(self) -> usize {
        match self {
            Self::Original => 0,
            Self::Reply => 1,
        }
    }

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }
}

/// `skb->_nfct` without the address: conntrack's view of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Nfct {
    /// 0: conntrack classified the packet as INVALID, or does not track this namespace.
    None,
    /// Exactly 7, `IP_CT_UNTRACKED` without an entry: a NOTRACK rule.
    Untracked,
    /// An entry, with `enum ip_conntrack_info`.
    Entry(CtInfo),
}

/// `enum ip_conntrack_info`: how a packet relates to its entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CtInfo {
    /// Original direction of an established connection.
    Established,
    /// Original direction, related to another connection.
    Related,
    /// The first packet: the entry was made for it.
    New,
    /// Reply direction of an established connection.
    EstablishedReply,
    /// Reply direction, related to another connection.
    RelatedReply,
    /// A number that this table does not have.
    Unknown(u8),
}

impl Nfct {
    /// The low three bits of `_nfct` are the `ctinfo`, the rest the address (`include/linux/skbuff.h`, `NFCT_INFOMASK`).
    pub const fn from_raw(raw: u64) -> Self {
        match (raw & !7, (raw & 7) as u8) {
            (0, 0) => Self::None,
            (0, 7) => Self::Untracked,
            (_, 0) => Self::Entry(CtInfo::Established),
            (_, 1) => Self::Entry(CtInfo::Related),
            (_, 2) => Self::Entry(CtInfo::New),
            (_, 3) => Self::Entry(CtInfo::EstablishedReply),
            (_, 4) => Self::Entry(CtInfo::RelatedReply),
            (_, other) => Self::Entry(CtInfo::Unknown(other)),
        }
    }

    /// The packet's direction, where it has an entry (`CTINFO2DIR`: from `IP_CT_IS_REPLY` = 3 on it is the reply's).
    pub const fn direction(self) -> Option<Direction> {
        match self {
            Self::Entry(CtInfo::Established | CtInfo::Related | CtInfo::New) => Some(Direction::Original),
            Self::Entry(CtInfo::EstablishedReply | CtInfo::RelatedReply) => Some(Direction::Reply),
            _ => None,
        }
    }
}

/// `enum tcp_conntrack` (`include/uapi/linux/netfilter/nf_conntrack_tcp.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "u8", into = "u8")]
pub enum TcpState {
    /// No packet seen.
    None,
    /// SYN seen.
    SynSent,
    /// SYN-ACK seen.
    SynRecv,
    /// The handshake is over.
    Established,
    /// One side has sent FIN.
    FinWait,
    /// The FIN was acknowledged.
    CloseWait,
    /// Both sides have sent FIN.
    LastAck,
    /// The last ACK was seen.
    TimeWait,
    /// A RST was seen.
    Close,
    /// Both sides have sent SYN.
    SynSent2,
    /// A number that this table does not have.
    Unknown(u8),
}

impl TcpState {
    /// The state with this number.
    pub const fn from_raw(raw: u8) -> Self {
        match raw {
            0 => Self::None,
            1 => Self::SynSent,
            2 => Self::SynRecv,
            3 => Self::Established,
            4 => Self::FinWait,
            5 => Self::CloseWait,
            6 => Self::LastAck,
            7 => Self::TimeWait,
            8 => Self::Close,
            9 => Self::SynSent2,
            other => Self::Unknown(other),
        }
    }

    /// The number of the state.
    pub const fn raw(self) -> u8 {
        match self {
            Self::None => 0,
            Self::SynSent => 1,
            Self::SynRecv => 2,
            Self::Established => 3,
            Self::FinWait => 4,
            Self::CloseWait => 5,
            Self::LastAck => 6,
            Self::TimeWait => 7,
            Self::Close => 8,
            Self::SynSent2 => 9,
            Self::Unknown(other) => other,
        }
    }
}

impl From<u8> for TcpState {
    fn from(raw: u8) -> Self {
        Self::from_raw(raw)
    }
}

impl From<TcpState> for u8 {
    fn from(state: TcpState) -> Self {
        state.raw()
    }
}

impl fmt::Display for TcpState {
    /// The kernel's own names (`tcp_conntrack_names`, `net/netfilter/nf_conntrack_proto_tcp.c`).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "NONE",
            Self::SynSent => "SYN_SENT",
            Self::SynRecv => "SYN_RECV",
            Self::Established => "ESTABLISHED",
            Self::FinWait => "FIN_WAIT",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::SynSent2 => "SYN_SENT2",
            Self::Unknown(raw) => return write!(f, "state {raw}"),
        })
    }
}

/// `IPS_*` bits of `nf_conn.status` (`include/uapi/linux/netfilter/nf_conntrack_common.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Status(pub u32);

impl Status {
    /// Packets were seen in both directions.
    pub const fn seen_reply(self) -> bool {
        self.0 & (1 << 1) != 0
    }

    /// The handshake was completed: a full table does not evict the entry.
    pub const fn assured(self) -> bool {
        self.0 & (1 << 2) != 0
    }

    /// The entry is in the table.
    pub const fn confirmed(self) -> bool {
        self.0 & (1 << 3) != 0
    }

    /// The source is translated.
    pub const fn source_nat(self) -> bool {
        self.0 & (1 << 4) != 0
    }
}

/// `IP_CT_TCP_FLAG_SACK_PERM`: this side announced that it understands SACK.
const FLAG_SACK_PERM: u8 = 0x02;
/// `IP_CT_TCP_FLAG_MAXACK_SET`: `td_maxack` means something.
const FLAG_MAXACK_SET: u8 = 0x20;

/// The window data of one side, `struct ip_ct_tcp_state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Seen {
    /// Highest sequence number sent, plus one.
    pub td_end: Seq,
    /// Highest sequence number that the peer has room for.
    pub td_maxend: Seq,
    /// Largest window this side has offered, scaled, in bytes; 0 before its first packet.
    pub td_maxwin: u32,
    /// Highest acknowledgement this side has sent; meaningful where [`Seen::has_acked`].
    pub td_maxack: Seq,
    /// Window scale, 0 to 14.
    pub td_scale: u8,
    /// `IP_CT_TCP_FLAG_*`.
    pub flags: u8,
}

impl Seen {
    /// This side understands SACK.
    pub const fn sack_permitted(&self) -> bool {
        self.flags & FLAG_SACK_PERM != 0
    }

    /// This side has sent an acknowledgement: `td_maxack` means something.
    pub const fn has_acked(&self) -> bool {
        self.flags & FLAG_MAXACK_SET != 0
    }
}

/// A conntrack entry as a hook saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The endpoints of packets from the side that opened the connection.
    pub original: Tuple,
    /// The endpoints of packets from the other side; NAT is where the two do not mirror each other.
    pub reply: Tuple,
    /// Conntrack zone.
    pub zone: u16,
    /// Status bits.
    pub status: Status,
    /// State of the TCP tracker.
    pub state: TcpState,
    /// The window data of both sides: original, then reply.
    pub seen: [Seen; 2],
    /// Direction of the last packet that was accepted.
    pub last_dir: Direction,
    /// `seq + len` of the last packet that was accepted.
    pub last_end: Seq,
}

impl Entry {
    /// The window data of one side.
    pub const fn side(&self, direction: Direction) -> &Seen {
        &self.seen[direction.index()]
    }

    /// The tuple that packets of this direction carry.
    pub const fn tuple(&self, direction: Direction) -> Tuple {
        match direction {
            Direction::Original => self.original,
            Direction::Reply => self.reply,
        }
    }
}
