//! A TCP segment as a hook saw it: addresses, header fields, options.

use std::fmt;
use std::net::SocketAddr;

use crate::conntrack::{Seq, Tuple, window};

/// The flags byte of a TCP header (RFC 9293 §3.1, RFC 3168).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// FIN.
    pub const FIN: Self = Self(0x01);
    /// SYN.
    pub const SYN: Self = Self(0x02);
    /// RST.
    pub const RST: Self = Self(0x04);
    /// PSH.
    pub const PSH: Self = Self(0x08);
    /// ACK.
    pub const ACK: Self = Self(0x10);
    /// URG.
    pub const URG: Self = Self(0x20);

    /// Whether all of `flags` are set.
    pub const fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }
}

impl fmt::Display for Flags {
    /// As tcpdump writes them: `S`, `F`, `R`, `P`, `U`, `E`, `W`, a dot for ACK, `none` for nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LETTERS: [(u8, char); 8] =
            [(0x01, 'F'), (0x02, 'S'), (0x04, 'R'), (0x08, 'P'), (0x20, 'U'), (0x40, 'E'), (0x80, 'W'), (0x10, '.')];
        if self.0 == 0 {
            return f.write_str("none");
        }
        LETTERS.iter().filter(|(bit, _)| self.0 & bit != 0).try_for_each(|(_, letter)| write!(f, "{letter}"))
    }
}

/// The options of a TCP header, as captured.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Options {
    bytes: [u8; Self::MAX],
    len: u8,
}

impl Options {
    /// Most bytes of options a TCP header has room for.
    pub const MAX: usize = 40;

    /// Takes what there is of `bytes`, at most [`Options::MAX`].
    pub fn new(bytes: &[u8]) -> Self {
        let len = bytes.len().min(Self::MAX);
        let mut copy = [0; Self::MAX];
        copy[..len].copy_from_slice(&bytes[..len]);
        Self { bytes: copy, len: len as u8 }
    }

    /// The bytes, padding included.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Kind and value of each option, up to the end-of-list option or the first that does not fit (RFC 9293 §3.2).
    pub fn iter(&self) -> impl Iterator<Item = (u8, &[u8])> {
        const END: u8 = 0;
        const NOP: u8 = 1;
        let mut rest = self.as_bytes();
        std::iter::from_fn(move || {
            loop {
                let (&kind, after) = rest.split_first()?;
                match kind {
                    END => return None,
                    NOP => rest = after,
                    _ => {
                        let len = usize::from(*after.first()?).checked_sub(2)?;
                        let value = after.get(1..=len)?;
                        rest = &after[1 + len..];
                        return Some((kind, value));
                    }
                }
            }
        })
    }

    /// The SACK blocks, left and right edge (RFC 2018 §3).
    pub fn sack_blocks(&self) -> impl Iterator<Item = (Seq, Seq)> {
        const SACK: u8 = 5;
        self.iter().filter(|(kind, _)| *kind == SACK).flat_map(|(_, value)| {
            value.chunks_exact(8).map(|block| {
                let edge =
                    |at: usize| Seq(u32::from_be_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]));
                (edge(0), edge(4))
            })
        })
    }

    /// Whether the segment is signed: TCP-MD5 (RFC 2385) or TCP-AO (RFC 5925).
    pub fn signed(&self) -> bool {
        self.iter().any(|(kind, _)| matches!(kind, 19 | 29))
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// A TCP segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Packet {
    /// Source address and port.
    pub src: SocketAddr,
    /// Destination address and port.
    pub dst: SocketAddr,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Type of service, or traffic class.
    pub tos: u8,
    /// IPv4 identification.
    pub ip_id: Option<u16>,
    /// Sequence number.
    pub seq: Seq,
    /// Acknowledgement number; meaningful with the ACK flag.
    pub ack: Seq,
    /// Flags.
    pub flags: Flags,
    /// Window, unscaled.
    pub window: u16,
    /// Payload bytes; of all merged segments where the stack has merged some (GRO).
    pub payload_len: u32,
    /// Options.
    pub options: Options,
}

impl Packet {
    /// Sequence number after the last byte; SYN and FIN count as one each.
    pub const fn end(&self) -> Seq {
        let syn = self.flags.has(Flags::SYN) as u32;
        let fin = self.flags.has(Flags::FIN) as u32;
        self.seq.plus(self.payload_len.wrapping_add(syn).wrapping_add(fin))
    }

    /// Its endpoints.
    pub const fn tuple(&self) -> Tuple {
        Tuple { src: self.src, dst: self.dst }
    }

    /// Whether another hook saw the same segment. The hop limit is left out: forwarding lowers it on the way.
    pub fn same_segment(&self, other: &Self) -> bool {
        let fields = |p: &Self| (p.src, p.dst, p.seq, p.ack, p.flags, p.window, p.payload_len, p.ip_id);
        fields(self) == fields(other)
    }

    /// What the window check looks at.
    pub fn segment(&self) -> window::Segment {
        let mut sack_edges = [None; 4];
        for (place, (_, right)) in sack_edges.iter_mut().zip(self.options.sack_blocks()) {
            *place = Some(right);
        }
        window::Segment {
            seq: self.seq,
            end: self.end(),
            ack: self.flags.has(Flags::ACK).then_some(self.ack),
            sack_edges,
            rst: self.flags.has(Flags::RST),
        }
    }

    /// Whether a RST answers a SYN: it acknowledges, and has no sequence number of its own (RFC 9293 §3.5.2).
    pub const fn refuses(&self) -> bool {
        self.flags.has(Flags::RST) && self.flags.has(Flags::ACK) && self.seq.0 == 0
    }

    /// The RST that answers this segment (RFC 9293 §3.5.2, as `tcp_v4_send_reset` builds it): it takes its sequence
    /// number from the acknowledgement where there is one, else it acknowledges the segment.
    pub const fn answer(&self) -> ResetSegment {
        if self.flags.has(Flags::ACK) {
            ResetSegment { seq: self.ack, ack: None }
        } else {
            ResetSegment { seq: Seq(0), ack: Some(self.end()) }
        }
    }
}

/// The numbers of a RST.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ResetSegment {
    /// Sequence number.
    pub seq: Seq,
    /// Acknowledgement, where the RST carries one.
    pub ack: Option<Seq>,
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::{Flags, Options, Seq};

    #[rstest]
    #[case(0x18, "P.")]
    #[case(0x02, "S")]
    #[case(0x14, "R.")]
    #[case(0x00, "none")]
    #[case(0xff, "FSRPUEW.")]
    fn flags_read_like_tcpdump(#[case] raw: u8, #[case] text: &str) {
        assert_eq!(Flags(raw).to_string(), text);
    }

    #[test]
    fn sack_blocks_behind_padding() {
        // NOP NOP SACK(10) 1000..2000
        let options = Options::new(&[1, 1, 5, 10, 0, 0, 0x03, 0xe8, 0, 0, 0x07, 0xd0]);
        assert_eq!(options.sack_blocks().collect::<Vec<_>>(), [(Seq(1000), Seq(2000))]);
        assert!(!options.signed());
    }

    #[rstest]
    #[case::length_zero(&[5, 0, 1, 2])]
    #[case::length_one(&[5, 1, 1, 2])]
    #[case::length_past_the_end(&[5, 40, 1, 2])]
    #[case::kind_alone(&[5])]
    #[case::end_of_list(&[0, 5, 10])]
    fn broken_options_end_the_list(#[case] bytes: &[u8]) {
        assert_eq!(Options::new(bytes).iter().count(), 0);
    }
}
