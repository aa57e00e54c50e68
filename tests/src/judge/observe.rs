//! What the kernel did with a packet.

use std::fmt;

use anyhow::Result;

use super::frame::Received;
use super::gateway::{Gateway, Seen, Side};
use super::probe::{Probe, Way};
use crate::wire::flag;

/// What becomes of a packet, as the wires show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Observed {
    /// The TCP stack's RST is on a wire.
    StackReset,
    /// The TCP stack made a RST, which is on no wire.
    StackResetDropped,
    /// A RST is on a wire that the stack did not make.
    RuleReset,
    /// An ICMP error is on a wire.
    Icmp,
    /// A SYN-ACK is on a wire: SYNPROXY's.
    SynAck,
    /// The packet itself leaves, with its addresses and ports.
    Untranslated,
    /// The packet itself leaves, with others.
    Translated,
    /// Nothing is on any wire.
    Silence,
}

impl fmt::Display for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::StackReset => "stack-rst",
            Self::StackResetDropped => "stack-rst-dropped",
            Self::RuleReset => "rule-rst",
            Self::Icmp => "icmp",
            Self::SynAck => "syn-ack",
            Self::Untranslated => "untranslated",
            Self::Translated => "translated",
            Self::Silence => "silence",
        })
    }
}

impl Probe {
    /// Sends it, and gives what the kernel did.
    pub fn send(&self, gateway: &Gateway) -> Result<Observed> {
        let packet = self.segment.packet()?;
        let seen = match self.way {
            Way::Input(side) | Way::Forward(side) => gateway.arrive(side, &packet)?,
            Way::Output => gateway.leave(self.segment.dst.ip(), &packet)?,
        };
        Ok(self.observed(&seen))
    }

    fn observed(&self, seen: &Seen) -> Observed {
        let outside = match self.way {
            // What came in by an interface could be forwarded by either.
            Way::Input(_) | Way::Output => [seen.client.as_slice(), seen.server.as_slice()],
            Way::Forward(Side::Lan) => [seen.server.as_slice(), &[]],
            Way::Forward(Side::Wan) => [seen.client.as_slice(), &[]],
        };
        for received in outside.into_iter().flatten() {
            if let Received::Tcp { src, dst, flags } = received
                && *flags == self.segment.flags
            {
                let same = *src == self.segment.src && *dst == self.segment.dst;
                return if same { Observed::Untranslated } else { Observed::Translated };
            }
        }
        let answers = || [&seen.client, &seen.server, &seen.own].into_iter().flatten();
        let answered = |bits: u8| {
            answers().any(|received| match received {
                Received::Tcp { dst, flags, .. } => flags & bits == bits && *dst == self.segment.src,
                _ => false,
            })
        };
        if answered(flag::RST) {
            return if seen.stack_resets > 0 { Observed::StackReset } else { Observed::RuleReset };
        }
        if seen.stack_resets > 0 {
            return Observed::StackResetDropped;
        }
        if answered(flag::SYN | flag::ACK) {
            return Observed::SynAck;
        }
        if answers().any(|received| *received == Received::IcmpError(self.segment.src.ip())) {
            return Observed::Icmp;
        }
        Observed::Silence
    }
}
