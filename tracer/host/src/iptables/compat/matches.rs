//! The structures of matches.

use tracer_model::ruleset::Family;
use tracer_model::ruleset::tables::Condition;

use super::info::Info;
use crate::iptables::conditions::{self, Conntrack, Limit, Ttl};

/// What a match asks. One whose structure is not known in this revision is not understood.
pub(super) fn condition(name: &str, revision: u32, info: Info<'_>, family: Family) -> Condition {
    let text = format!("-m {name}");
    understood(name, revision, info, family, &text).unwrap_or(Condition::NotUnderstood(text))
}

fn understood(name: &str, revision: u32, info: Info<'_>, family: Family, text: &str) -> Option<Condition> {
    let of_header = ["iprange", "addrtype", "ttl", "hl", "tos", "dscp", "ecn", "ipv6header", "ah"];
    if family == Family::Inet && of_header.contains(&name) {
        // Which header it is depends on the packet.
        return None;
    }
    let inside = |at: usize| Some(info.byte(at)? == 0);
    Some(match (name, revision) {
        ("tcp", 0) => tcp(info, text)?,
        ("conntrack", 1..=3) => conntrack(revision, info, text)?,
        ("state", 0) => state(info.word(0)?, text),
        ("multiport", 1) => multiport(info)?,
        ("iprange", 1) => address_ranges(info, family)?,
        ("addrtype", 0 | 1) => address_types(revision, info, family, text)?,
        ("mark", 1) => conditions::mark(info.word(0)?, info.word(4)?, inside(8)?),
        ("connmark", 1) => conditions::connmark(info.word(0)?, info.word(4)?, inside(8)?),
        ("mac", 0) => conditions::source_mac(info.bytes(0, 6)?.try_into().ok()?, info.word(8)? == 0),
        ("pkttype", 0) => conditions::packet_type(info.word(0)?.try_into().ok()?, info.word(4)? == 0),
        ("length", 0) => conditions::length(info.short(0)?, info.short(2)?, inside(4)?),
        ("ttl" | "hl", 0) => {
            let value = info.byte(1)?;
            let asked = [Ttl::Is, Ttl::Not, Ttl::Below, Ttl::Above];
            conditions::ttl(family, asked.get(usize::from(info.byte(0)?))?(value))
        }
        ("tos", 1) => conditions::traffic_class(family, info.byte(0)?, info.byte(1)?, inside(2)?),
        ("dscp", 0) => {
            let value = info.byte(0).filter(|value| *value < 64)?;
            conditions::traffic_class(family, 0xfc, value << 2, inside(1)?)
        }
        ("ecn", 0) => ecn(info, family)?,
        ("tcpmss", 0) => conditions::mss(family, info.short(0)?, info.short(2)?, inside(4)?, text),
        ("socket", 0) => conditions::socket(false, text),
        ("socket", 1..=3) => {
            const XT_SOCKET_NOWILDCARD: u8 = 1 << 1;
            conditions::socket(info.byte(0)? & !XT_SOCKET_NOWILDCARD != 0, text)
        }
        ("owner", 1) => conditions::owner(info.byte(16)?, info.byte(17)? & info.byte(16)?, text),
        ("rpfilter", 0) => {
            const LOOSE_OR_ACCEPT_LOCAL: u8 = 1 | 1 << 2;
            const XT_RPFILTER_INVERT: u8 = 1 << 3;
            let flags = info.byte(0).filter(|flags| *flags < 1 << 4)?;
            conditions::reverse_path(flags & LOOSE_OR_ACCEPT_LOCAL != 0, flags & XT_RPFILTER_INVERT == 0, text)
        }
        ("policy", 0) => policy(info, text)?,
        ("recent", 0 | 1) => {
            const XT_RECENT_SET: u8 = 1 << 1;
            conditions::recent(info.byte(8)? & XT_RECENT_SET != 0, inside(9)?, text)
        }
        ("helper", 0) => conditions::helper(info.word(0)? == 0, text),
        ("connlabel", 0) => {
            const XT_CONNLABEL_OP_INVERT: u16 = 1;
            conditions::connlabel(info.short(2)? & XT_CONNLABEL_OP_INVERT == 0, text)
        }
        ("ipv6header", 0) => conditions::extension_headers(info.byte(0)?, info.byte(1)?, info.byte(2)? != 0, text),
        ("statistic", 0) => statistic(info, text)?,
        ("hashlimit", 1..=3) => {
            const XT_HASHLIMIT_INVERT: u32 = 1 << 4;
            // Behind a name of `IFNAMSIZ`, or behind one of `NAME_MAX` and two rates.
            let mode = info.word(if revision == 1 { 16 } else { 272 })?;
            conditions::varies(mode & XT_HASHLIMIT_INVERT == 0, text)
        }
        ("connlimit", 1) => {
            const XT_CONNLIMIT_INVERT: u32 = 1;
            conditions::varies(info.word(20)? & XT_CONNLIMIT_INVERT != 0, text)
        }
        ("quota", 0) => conditions::varies(info.word(0)? & 1 == 0, text),
        ("string", 1) => conditions::varies(info.byte(149)? & 1 != 0, text),
        (name, _) if UNDERSTOOD.contains(&name) => return None,
        (name, _) => conditions::named(name, family, text),
    })
}

/// Those of which a revision that is not known may ask anything.
const UNDERSTOOD: [&str; 30] = [
    "tcp",
    "conntrack",
    "state",
    "multiport",
    "iprange",
    "addrtype",
    "mark",
    "connmark",
    "mac",
    "pkttype",
    "length",
    "ttl",
    "hl",
    "tos",
    "dscp",
    "ecn",
    "tcpmss",
    "socket",
    "owner",
    "rpfilter",
    "policy",
    "recent",
    "helper",
    "connlabel",
    "ipv6header",
    "statistic",
    "hashlimit",
    "connlimit",
    "quota",
    "string",
];

/// `struct xt_tcp` (`linux/netfilter/xt_tcpudp.h`).
fn tcp(info: Info<'_>, text: &str) -> Option<Condition> {
    const XT_TCP_INV_SRCPT: u8 = 1;
    const XT_TCP_INV_DSTPT: u8 = 1 << 1;
    const XT_TCP_INV_FLAGS: u8 = 1 << 2;
    const XT_TCP_INV_OPTION: u8 = 1 << 3;
    let (option, mask, set, invert) = (info.byte(8)?, info.byte(9)?, info.byte(10)?, info.byte(11)?);
    let ports = |at: usize, offset: u32, bit: u8| {
        let (ports, inside) = ((info.short(at)?, info.short(at + 2)?), invert & bit == 0);
        let asks = ports != (0, u16::MAX) || !inside;
        Some(asks.then(|| conditions::ports(offset, &[ports], inside)))
    };
    let inside = invert & XT_TCP_INV_FLAGS == 0;
    let asked = [
        ports(0, conditions::SOURCE_PORT, XT_TCP_INV_SRCPT)?,
        ports(4, conditions::DESTINATION_PORT, XT_TCP_INV_DSTPT)?,
        (option != 0).then(|| conditions::tcp_option(option, invert & XT_TCP_INV_OPTION == 0, text)),
        (mask != 0 || set != 0 || !inside).then(|| conditions::tcp_flags(mask, set, inside)),
    ];
    Some(conditions::all(asked.into_iter().flatten().collect()))
}

/// `struct xt_conntrack_mtinfo1`, `2` and `3` (`linux/netfilter/xt_conntrack.h`), which begin alike.
fn conntrack(revision: u32, info: Info<'_>, text: &str) -> Option<Condition> {
    const STATE: u16 = 1;
    const PROTO: u16 = 1 << 1;
    const STATUS: u16 = 1 << 6;
    const DIRECTION: u16 = 1 << 12;
    /// The rule was written as `-m state`, which asks nothing more.
    const STATE_ALIAS: u16 = 1 << 13;
    let (flags, inverted) = (info.short(146)?, info.short(148)?);
    let (states, status) = if revision == 1 {
        (info.byte(150)?.into(), info.byte(151)?.into())
    } else {
        (info.short(150)?, info.short(152)?)
    };
    let asked = |bit: u16, value: u16| (flags & bit != 0).then_some((value, inverted & bit == 0));
    let asked = Conntrack {
        state: asked(STATE, states),
        original: (flags & DIRECTION != 0).then_some(inverted & DIRECTION == 0),
        status: asked(STATUS, status),
        protocol: asked(PROTO, info.short(136)?),
        more: flags & !(STATE | PROTO | STATUS | DIRECTION | STATE_ALIAS) != 0,
    };
    Some(conditions::conntrack(&asked, text))
}

/// `struct xt_state_info` (`linux/netfilter/xt_state.h`), whose bit for UNTRACKED is another one.
fn state(mask: u32, text: &str) -> Condition {
    const XT_STATE_UNTRACKED: u32 = 1 << 6;
    const XT_CONNTRACK_STATE_UNTRACKED: u16 = 1 << 8;
    let untracked = if mask & XT_STATE_UNTRACKED == 0 { 0 } else { XT_CONNTRACK_STATE_UNTRACKED };
    // Invalid, established, related and new have the same bits in both.
    let states = u16::try_from(mask & 0x0f).unwrap_or_default() | untracked;
    conditions::conntrack(&Conntrack { state: Some((states, true)), ..Conntrack::default() }, text)
}

/// `struct xt_multiport_v1`: a port with a flag begins a range.
fn multiport(info: Info<'_>) -> Option<Condition> {
    const MOST: usize = 15;
    let (asked, count, inside) = (info.byte(0)?, info.byte(1)?, info.byte(47)? == 0);
    let mut ports = Vec::new();
    let mut places = 0..usize::from(count).min(MOST);
    while let Some(place) = places.next() {
        let port = |place: usize| info.short(2 + 2 * place);
        let from = port(place)?;
        let to = if info.byte(32 + place)? == 0 { from } else { port(places.next()?)? };
        ports.push((from, to));
    }
    Some(match asked {
        0 => conditions::ports(conditions::SOURCE_PORT, &ports, inside),
        1 => conditions::ports(conditions::DESTINATION_PORT, &ports, inside),
        2 => conditions::either_port(&ports, inside),
        _ => return None,
    })
}

/// `struct xt_iprange_mtinfo`.
fn address_ranges(info: Info<'_>, family: Family) -> Option<Condition> {
    const IPRANGE_SRC: u8 = 1;
    const IPRANGE_DST: u8 = 1 << 1;
    let length = if family == Family::Ip6 { 16 } else { 4 };
    let flags = info.byte(64)?;
    let mut asked = Vec::new();
    for (bit, at) in [(IPRANGE_SRC, 0), (IPRANGE_DST, 32)] {
        if flags & bit != 0 {
            let (from, to) = (info.bytes(at, length)?, info.bytes(at + 16, length)?);
            // The flag of the inverse is four bits further.
            asked.push(conditions::addresses(family, bit == IPRANGE_SRC, from, to, flags & bit << 4 == 0));
        }
    }
    Some(conditions::all(asked))
}

/// `struct xt_addrtype_info` and `xt_addrtype_info_v1`.
fn address_types(revision: u32, info: Info<'_>, family: Family, text: &str) -> Option<Condition> {
    let (source, destination, flags) = (info.short(0)?, info.short(2)?, info.word(4)?);
    let (source_inverted, destination_inverted, limit) = if revision == 0 {
        (flags != 0, info.word(8)? != 0, Limit::None)
    } else {
        let limit = match flags & 0xc {
            0 => Limit::None,
            4 => Limit::Input,
            _ => Limit::Output,
        };
        (flags & 1 != 0, flags & 2 != 0, limit)
    };
    let asked = [(true, source, source_inverted), (false, destination, destination_inverted)];
    let asked = asked.into_iter().filter(|(_, types, _)| *types != 0);
    let of = |(source, types, inverted): (bool, u16, bool)| {
        conditions::address_type(family, source, types, !inverted, limit, text)
    };
    Some(conditions::all(asked.map(of).collect()))
}

/// `struct xt_ecn_info`.
fn ecn(info: Info<'_>, family: Family) -> Option<Condition> {
    const XT_ECN_OP_MATCH_IP: u8 = 1;
    const XT_ECN_OP_MATCH_ECE: u8 = 1 << 4;
    const XT_ECN_OP_MATCH_CWR: u8 = 1 << 5;
    let (asked, inverted, ect) = (info.byte(0)?, info.byte(1)?, info.byte(2)?);
    let mut all = Vec::new();
    for (bit, flag) in [(XT_ECN_OP_MATCH_ECE, conditions::ECE), (XT_ECN_OP_MATCH_CWR, conditions::CWR)] {
        if asked & bit != 0 {
            all.push(conditions::tcp_flags(flag, flag, inverted & bit == 0));
        }
    }
    if asked & XT_ECN_OP_MATCH_IP != 0 {
        all.push(conditions::traffic_class(family, 3, ect, inverted & XT_ECN_OP_MATCH_IP == 0));
    }
    Some(conditions::all(all))
}

/// `struct xt_policy_info`: up to four elements of 76 bytes. A single element that asks nothing stands for any transformation.
fn policy(info: Info<'_>, text: &str) -> Option<Condition> {
    const ELEMENT_MATCH: usize = 74;
    const XT_POLICY_MATCH_NONE: u16 = 1 << 2;
    const XT_POLICY_MATCH_STRICT: u16 = 1 << 3;
    let (flags, elements) = (info.short(304)?, info.short(306)?);
    let plain = elements == 1 && info.byte(ELEMENT_MATCH)? == 0 && flags & XT_POLICY_MATCH_STRICT == 0;
    Some(conditions::ipsec(flags & XT_POLICY_MATCH_NONE == 0, !plain, text))
}

/// `struct xt_statistic_info`.
fn statistic(info: Info<'_>, text: &str) -> Option<Condition> {
    const XT_STATISTIC_INVERT: u16 = 1;
    let (mode, inside) = (info.short(0)?, info.short(2)? & XT_STATISTIC_INVERT == 0);
    match mode {
        0 => Some(conditions::random(info.word(4)?, inside, text)),
        // It counts from 0.
        1 => Some(conditions::nth(info.word(4)?.saturating_add(1), inside, text)),
        _ => None,
    }
}
