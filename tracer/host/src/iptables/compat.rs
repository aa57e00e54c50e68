//! Matches and targets of xtables as they are in the processor's memory, which is how iptables-nft writes them into rules of
//! nftables (`nft_compat`).

use std::net::IpAddr;
use std::ops::RangeInclusive;

use tracer_model::ruleset::audit::Translation;
use tracer_model::ruleset::{Family, Test};

use super::xtables::{self, Options, Target};

/// What a match asks, and whether that is all; none where it cannot be read.
pub(crate) fn matched(name: &str, revision: u32, info: &[u8]) -> Option<(Vec<Test>, bool)> {
    match (name, revision) {
        ("comment", _) => Some((Vec::new(), true)),
        ("tcp", 0) => xt_tcp(info),
        ("conntrack", 3) => xt_conntrack(info),
        _ => None,
    }
}

/// What a target does.
pub(crate) fn target(name: &str, revision: u32, info: &[u8], family: Family) -> Target {
    xtables::target(name, &Stored { revision, info, family })
}

/// `struct xt_tcp` (`linux/netfilter/xt_tcpudp.h`).
fn xt_tcp(info: &[u8]) -> Option<(Vec<Test>, bool)> {
    const XT_TCP_INV_SRCPT: u8 = 1;
    const XT_TCP_INV_DSTPT: u8 = 2;
    const XT_TCP_INV_FLAGS: u8 = 4;
    let info: &[u8; 12] = info.first_chunk()?;
    let port = |at: usize| u16::from_ne_bytes([info[at], info[at + 1]]);
    let [option, mask, flags, invert] = [info[8], info[9], info[10], info[11]];
    let ports = |offset: u32, from: u16, to: u16, bit: u8| {
        let asks = (from, to) != (0, u16::MAX) || invert & bit != 0;
        asks.then(|| Test { inside: invert & bit == 0, ..xtables::ports(offset, from, to) })
    };
    let inside = invert & XT_TCP_INV_FLAGS == 0;
    let tests = [
        ports(xtables::SOURCE_PORT, port(0), port(2), XT_TCP_INV_SRCPT),
        ports(xtables::DESTINATION_PORT, port(4), port(6), XT_TCP_INV_DSTPT),
        (mask != 0).then(|| Test { inside, ..xtables::tcp_flags(mask, flags) }),
    ];
    Some((tests.into_iter().flatten().collect(), option == 0))
}

/// `struct xt_conntrack_mtinfo3` (`linux/netfilter/xt_conntrack.h`).
fn xt_conntrack(info: &[u8]) -> Option<(Vec<Test>, bool)> {
    const MATCH_FLAGS: usize = 146;
    const INVERT_FLAGS: usize = 148;
    const STATE_MASK: usize = 150;
    const XT_CONNTRACK_STATE: u16 = 1;
    let short = |at: usize| Some(u16::from_ne_bytes([*info.get(at)?, *info.get(at + 1)?]));
    let (asked, inverted, states) = (short(MATCH_FLAGS)?, short(INVERT_FLAGS)?, short(STATE_MASK)?);
    let Some(test) = xtables::states_masked(states).filter(|_| asked & XT_CONNTRACK_STATE != 0) else {
        return Some((Vec::new(), asked == 0));
    };
    let inside = (inverted & XT_CONNTRACK_STATE == 0) == test.inside;
    Some((vec![Test { inside, ..test }], asked == XT_CONNTRACK_STATE))
}

/// The structure of a target.
struct Stored<'a> {
    revision: u32,
    info: &'a [u8],
    family: Family,
}

impl Options for Stored<'_> {
    fn tcp_reset(&self) -> bool {
        /// `linux/netfilter_ipv4/ipt_REJECT.h`.
        const IPT_TCP_RESET: u32 = 7;
        /// `linux/netfilter_ipv6/ip6t_REJECT.h`.
        const IP6T_TCP_RESET: u32 = 6;
        let reset = if self.family == Family::Ip6 { IP6T_TCP_RESET } else { IPT_TCP_RESET };
        self.info.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)) == Some(reset)
    }

    /// `struct xt_ct_target_info` begins with its flags.
    fn notrack(&self) -> Option<bool> {
        const XT_CT_NOTRACK: u16 = 1;
        self.info.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes) & XT_CT_NOTRACK != 0)
    }

    /// Revision 0 has the structure of old where there are only IPv4 addresses (`xt_nat.c`, `xt_MASQUERADE.c`,
    /// `xt_REDIRECT.c`, 5.10 to 7.2).
    fn translation(&self) -> Option<Translation> {
        let old = self.revision == 0 && self.family != Family::Ip6;
        if old { old_range(self.info) } else { range(self.info) }
    }
}

const NF_NAT_RANGE_MAP_IPS: u32 = 1;
const NF_NAT_RANGE_PROTO_SPECIFIED: u32 = 2;

/// `struct nf_nat_ipv4_multi_range_compat` (`include/uapi/linux/netfilter/nf_nat.h`), whose one range has flags, addresses
/// and ports.
fn old_range(info: &[u8]) -> Option<Translation> {
    let info: &[u8; 20] = info.first_chunk()?;
    let word = |at: usize| info.get(at..at + 4).and_then(|bytes| bytes.first_chunk()).copied();
    let flags = u32::from_ne_bytes(word(4)?);
    let addresses = (IpAddr::from(word(8)?), IpAddr::from(word(12)?));
    Some(specified(flags, addresses, &info[16..20]))
}

/// `struct nf_nat_range` and `nf_nat_range2`, which begin alike.
fn range(info: &[u8]) -> Option<Translation> {
    let info: &[u8; 40] = info.first_chunk()?;
    let flags = u32::from_ne_bytes(*info.first_chunk()?);
    let address = |at: usize| info.get(at..at + 16).and_then(|bytes| bytes.first_chunk()).copied();
    let (first, last): ([u8; 16], [u8; 16]) = (address(4)?, address(20)?);
    Some(specified(flags, (mapped(first), mapped(last)), &info[36..40]))
}

/// An address of a `union nf_inet_addr`: one of IPv4 has the rest zero, which no IPv6 address has that is translated to.
fn mapped(bytes: [u8; 16]) -> IpAddr {
    let [a, b, c, d, rest @ ..] = bytes;
    if rest == [0; 12] { IpAddr::from([a, b, c, d]) } else { IpAddr::from(bytes) }
}

fn specified(flags: u32, (first, last): (IpAddr, IpAddr), ports: &[u8]) -> Translation {
    let to = if flags & NF_NAT_RANGE_MAP_IPS == 0 { Vec::new() } else { vec![first..=last] };
    let port = |at: usize| Some(u16::from_be_bytes([*ports.get(at)?, *ports.get(at + 1)?]));
    let both = || Some(port(0)?..=port(2)?);
    let ports: Option<RangeInclusive<u16>> = (flags & NF_NAT_RANGE_PROTO_SPECIFIED != 0).then(both).flatten();
    Translation { to, ports, output: None }
}
