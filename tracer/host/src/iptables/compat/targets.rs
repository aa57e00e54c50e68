//! The structures of targets.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use tracer_model::ruleset::audit::Translation;
use tracer_model::ruleset::tables::Step;
use tracer_model::ruleset::{Family, Hooks};

use super::info::Info;
use crate::iptables::actions;

/// What a target does. The hooks are those that lead to the rule.
pub(super) fn steps(name: &str, revision: u32, info: Info<'_>, family: Family, hooks: Hooks) -> Vec<Step> {
    let text = format!("-j {name}");
    understood(name, revision, info, family, hooks, &text).unwrap_or_else(|| actions::not_understood(&text))
}

fn understood(
    name: &str,
    revision: u32,
    info: Info<'_>,
    family: Family,
    hooks: Hooks,
    text: &str,
) -> Option<Vec<Step>> {
    Some(match (name, revision) {
        ("QUEUE", _) | ("NFQUEUE", 0 | 1) => actions::queue(false),
        ("NFQUEUE", 2 | 3) => {
            const NFQ_FLAG_BYPASS: u16 = 1;
            actions::queue(info.short(4)? & NFQ_FLAG_BYPASS != 0)
        }
        ("REJECT", 0) => actions::reject(rejects_with_reset(info.word(0)?, family)),
        ("MARK", 2) => actions::mark(info.word(0)?, info.word(4)?),
        ("CONNMARK", 1 | 2) => {
            const XT_CONNMARK_RESTORE: u8 = 2;
            let mode = info.byte(if revision == 1 { 12 } else { 14 })?;
            actions::connmark(mode == XT_CONNMARK_RESTORE, text)
        }
        ("SET", 0..=2) => actions::set(false, text),
        ("SET", 3) => {
            const IPSET_FLAG_MAP_SKBMARK: u32 = 1 << 8;
            actions::set(info.word(12)? & IPSET_FLAG_MAP_SKBMARK != 0, text)
        }
        ("CT", 0..=2) => {
            const XT_CT_NOTRACK: u16 = 1;
            const XT_CT_ZONE_MARK: u16 = 1 << 4;
            let (flags, zone) = (info.short(0)?, info.short(2)?);
            actions::ct(flags & XT_CT_NOTRACK != 0, zone != 0 || flags & XT_CT_ZONE_MARK != 0, text)
        }
        ("SNAT" | "DNAT" | "MASQUERADE" | "REDIRECT" | "NETMAP", 0..=2) => {
            actions::translation(name, translation(revision, info, family)?, hooks, text)
        }
        // A revision that is not known may do anything.
        (
            "NFQUEUE" | "REJECT" | "MARK" | "CONNMARK" | "SET" | "CT" | "SNAT" | "DNAT" | "MASQUERADE" | "REDIRECT"
            | "NETMAP",
            _,
        ) => return None,
        (name, _) => actions::named(name, text),
    })
}

/// `enum ipt_reject_with` and `enum ip6t_reject_with` have different numbers.
const fn rejects_with_reset(with: u32, family: Family) -> bool {
    const IPT_TCP_RESET: u32 = 7;
    const IP6T_TCP_RESET: u32 = 6;
    with == if matches!(family, Family::Ip6) { IP6T_TCP_RESET } else { IPT_TCP_RESET }
}

/// Revision 0 has the structure of old where there are only IPv4 addresses (`xt_nat.c`, `xt_MASQUERADE.c`, `xt_REDIRECT.c`,
/// 5.10 to 7.2).
pub(super) fn translation(revision: u32, info: Info<'_>, family: Family) -> Option<Translation> {
    let old = revision == 0 && family != Family::Ip6;
    if old { old_range(info) } else { range(info, family) }
}

const NF_NAT_RANGE_MAP_IPS: u32 = 1;
const NF_NAT_RANGE_PROTO_SPECIFIED: u32 = 1 << 1;

/// `struct nf_nat_ipv4_multi_range_compat` (`linux/netfilter/nf_nat.h`), whose one range has flags, addresses and ports.
fn old_range(info: Info<'_>) -> Option<Translation> {
    let address = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(info.bytes(at, 4)?).ok()?));
    specified(info.word(4)?, (address(8)?, address(12)?), info.bytes(16, 4)?)
}

/// `struct nf_nat_range` and `nf_nat_range2`, which begin alike.
fn range(info: Info<'_>, family: Family) -> Option<Translation> {
    let address = |at: usize| Some(address_of(info.bytes(at, 16)?.try_into().ok()?, family));
    specified(info.word(0)?, (address(4)?, address(20)?), info.bytes(36, 4)?)
}

/// An address of a `union nf_inet_addr`: one of IPv4 has the rest zero. No IPv6 address looks like that that a table of both
/// families translates to.
fn address_of(bytes: [u8; 16], family: Family) -> IpAddr {
    let [a, b, c, d, rest @ ..] = bytes;
    if family == Family::Ip || (family == Family::Inet && rest == [0; 12]) {
        IpAddr::from([a, b, c, d])
    } else {
        IpAddr::from(bytes)
    }
}

fn specified(flags: u32, (first, last): (IpAddr, IpAddr), ports: &[u8]) -> Option<Translation> {
    let to = if flags & NF_NAT_RANGE_MAP_IPS == 0 { Vec::new() } else { vec![first..=last] };
    let port = |at: usize| Some(u16::from_be_bytes([*ports.get(at)?, *ports.get(at + 1)?]));
    let both: RangeInclusive<u16> = port(0)?..=port(2)?;
    Some(Translation { to, ports: (flags & NF_NAT_RANGE_PROTO_SPECIFIED != 0).then_some(both), output: None })
}
