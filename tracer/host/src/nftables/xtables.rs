//! Matches and targets of xtables, which iptables-nft writes into nftables' rules as they are in the processor's memory
//! (`nft_compat`).

use std::net::IpAddr;
use std::ops::RangeInclusive;

use tracer_model::ruleset::audit::{Does, Translation};
use tracer_model::ruleset::{Family, Key, Test};

use super::endings::port;

/// `struct xt_tcp` (`linux/netfilter/xt_tcpudp.h`): the tests, and whether they are all.
pub(super) fn xt_tcp(info: &[u8]) -> Option<(Vec<Test>, bool)> {
    const XT_TCP_INV_SRCPT: u8 = 1;
    const XT_TCP_INV_DSTPT: u8 = 2;
    const XT_TCP_INV_FLAGS: u8 = 4;
    const FLAGS: Key = Key::TransportHeader { offset: 13 };
    let info: &[u8; 12] = info.first_chunk()?;
    let port = |at: usize| u16::from_ne_bytes([info[at], info[at + 1]]);
    let [option, mask, flags, invert] = [info[8], info[9], info[10], info[11]];
    let ports = |offset: u32, from: u16, to: u16, inverted: bool| {
        ((from, to) != (0, u16::MAX) || inverted).then(|| Test {
            key: Key::TransportHeader { offset },
            mask: Vec::new(),
            bounds: vec![(from.to_be_bytes().to_vec(), to.to_be_bytes().to_vec())],
            inside: !inverted,
        })
    };
    let inverted = invert & XT_TCP_INV_FLAGS != 0;
    let tests = [
        ports(0, port(0), port(2), invert & XT_TCP_INV_SRCPT != 0),
        ports(2, port(4), port(6), invert & XT_TCP_INV_DSTPT != 0),
        (mask != 0).then(|| Test { mask: vec![mask], inside: !inverted, ..Test::is(FLAGS, vec![flags]) }),
    ];
    Some((tests.into_iter().flatten().collect(), option == 0))
}

/// `struct xt_conntrack_mtinfo3` (`linux/netfilter/xt_conntrack.h`), likewise.
pub(super) fn xt_conntrack(info: &[u8]) -> Option<(Vec<Test>, bool)> {
    const MATCH_FLAGS: usize = 146;
    const INVERT_FLAGS: usize = 148;
    const STATE_MASK: usize = 150;
    const XT_CONNTRACK_STATE: u16 = 1;
    /// `XT_CONNTRACK_STATE_BIT` of the four states, and `XT_CONNTRACK_STATE_INVALID`.
    const STATES: u16 = 0xf;
    const XT_CONNTRACK_STATE_UNTRACKED: u16 = 1 << 8;
    const NF_CT_STATE_UNTRACKED_BIT: u32 = 1 << 6;
    let short = |at: usize| Some(u16::from_ne_bytes([*info.get(at)?, *info.get(at + 1)?]));
    let (asked, inverted, states) = (short(MATCH_FLAGS)?, short(INVERT_FLAGS)?, short(STATE_MASK)?);
    // SNAT and DNAT are states of their own here; whether a packet's entry has them is not asked.
    let known = states & !(STATES | XT_CONNTRACK_STATE_UNTRACKED) == 0;
    if asked & XT_CONNTRACK_STATE == 0 || !known {
        return Some((Vec::new(), asked == 0));
    }
    let untracked = if states & XT_CONNTRACK_STATE_UNTRACKED == 0 { 0 } else { NF_CT_STATE_UNTRACKED_BIT };
    let bits = u32::from(states & STATES) | untracked;
    let test = Test::state(bits, inverted & XT_CONNTRACK_STATE != 0);
    Some((vec![test], asked == XT_CONNTRACK_STATE))
}

/// A target's data that are not as they should be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Strange;

/// What a target of xtables does, if it is one that is noted.
pub(super) fn xt_target(name: &str, revision: u32, info: &[u8], family: Family) -> Result<Option<Does>, Strange> {
    const XT_CT_NOTRACK: u16 = 1;
    let does: fn(Translation) -> Does = match name {
        "NOTRACK" => return Ok(Some(Does::Untracks)),
        // struct xt_ct_target_info begins with its flags.
        "CT" => {
            let flags = info.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes)).ok_or(Strange)?;
            return Ok((flags & XT_CT_NOTRACK != 0).then_some(Does::Untracks));
        }
        "SNAT" => Does::SourceNat,
        "MASQUERADE" => Does::Masquerades,
        "DNAT" | "REDIRECT" => Does::DestinationNat,
        _ => return Ok(None),
    };
    // xt_nat.c, xt_MASQUERADE.c, xt_REDIRECT.c (5.10 to 7.2): revision 0 has the structure of old where there are only
    // IPv4 addresses.
    let old = revision == 0 && family != Family::Ip6;
    let range = if old { old_range(info) } else { range(info) };
    range.map(|range| Some(does(range))).ok_or(Strange)
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
    let both = || Some(port(ports)?..=port(ports.get(2..)?)?);
    let ports: Option<RangeInclusive<u16>> = (flags & NF_NAT_RANGE_PROTO_SPECIFIED != 0).then(both).flatten();
    Translation { to, ports, output: None }
}
