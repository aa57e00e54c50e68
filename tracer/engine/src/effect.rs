//! Whether a RST can end the connection it is aimed at.
//!
//! RFC 9293 §3.10.7.4 and RFC 5961 §3.2, as Linux does it (`tcp_validate_incoming`): a RST is obeyed only if its sequence
//! number is exactly the next one expected; inside the window it is answered with a challenge ACK, outside it is dropped.

use tracer_model::conntrack::{Direction, Entry, TcpState};
use tracer_model::packet::{Flags, Packet};

/// What a RST does to the peer that it is sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Its sequence number is below the window: dropped without an answer.
    Dropped,
    /// The connection had been closed before: there is nothing left to end.
    Closed,
    /// A socket that is opening a connection answers a segment that is not of this attempt, such as an old ACK, and goes on
    /// (`tcp_rcv_synsent_state_process`, RFC 9293 §3.10.7.3): the RST ends what its peer has left of another connection.
    OtherConnection,
    /// Inside the window but not exact: answered with a challenge ACK, the connection goes on.
    Challenged,
    /// Nothing is known of the peer's state.
    Unknown,
    /// Between what the peer has acknowledged and what may have been sent to it: it ends the connection if all of that was
    /// sent, and arrived.
    MayKill,
    /// Exactly what the peer expects next: the connection is dead.
    Kills,
}

impl Effect {
    /// The word used for it in every output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dropped => "dropped",
            Self::Closed => "closed",
            Self::OtherConnection => "other-connection",
            Self::Challenged => "challenge-ack",
            Self::Unknown => "unknown",
            Self::MayKill => "may-kill",
            Self::Kills => "kills",
        }
    }

    /// Whether the connection may have died of it.
    pub const fn may_have_killed(self) -> bool {
        matches!(self, Self::Kills | Self::MayKill | Self::Unknown)
    }
}

/// What the RST that answers `offender` does to the offender's sender, whose side of `entry` is `direction`.
pub fn of_answer(offender: &Packet, entry: Option<(&Entry, Direction)>) -> Effect {
    let answer = offender.answer();
    if answer.ack.is_some() {
        // The RST acknowledges the segment. A peer that is opening a connection obeys it; to one in the middle of a
        // connection its sequence number, 0, is nowhere near the window. Where the entry's connection is established, it
        // is not this RST that ends it, whatever the SYN was for.
        let established = entry.is_some_and(|(entry, _)| entry.state == TcpState::Established);
        let opening = offender.flags.has(Flags::SYN) && !established;
        return if opening { Effect::Kills } else { Effect::Dropped };
    }
    let Some((entry, direction)) = entry else { return Effect::Unknown };
    let (peer, other) = (entry.side(direction), entry.side(direction.other()));
    if !peer.has_acked() {
        return Effect::Unknown;
    }
    // What the peer expects next lies between what it has acknowledged and what was sent to it. The entry need not know all
    // of that: conntrack lets segments pass without recording them (6.1 and later), and some take another way. But nobody
    // sends more than the peer's window has room for.
    let (acknowledged, sent) = (peer.td_maxack, other.td_end);
    let room = if other.td_maxend.after(sent) { other.td_maxend } else { sent };
    if answer.seq.before(acknowledged) {
        Effect::Dropped
    } else if answer.seq.after(room) {
        Effect::Challenged
    } else if answer.seq == acknowledged && acknowledged == sent {
        Effect::Kills
    } else {
        Effect::MayKill
    }
}
