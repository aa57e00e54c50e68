//! The matches of a rule as iptables-save prints them.

use tracer_model::ruleset::tables::Condition;
use tracer_model::ruleset::{Family, Key};

use super::values::{byte, list, masked, network, number, octets, range};
use super::words::{Extension, Opt};
use crate::iptables::conditions::{self, Conntrack, Limit, Ttl};

/// Names of protocols, those of `xtables_chain_protos` and of the common lines of `/etc/protocols`.
const PROTOCOLS: [(&str, u8); 22] = [
    ("icmp", 1),
    ("igmp", 2),
    ("ipencap", 4),
    ("ipip", 4),
    ("tcp", 6),
    ("egp", 8),
    ("igp", 9),
    ("udp", 17),
    ("dccp", 33),
    ("ipv6", 41),
    ("rsvp", 46),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", 58),
    ("ipv6-icmp", 58),
    ("ospf", 89),
    ("pim", 103),
    ("ipcomp", 108),
    ("vrrp", 112),
    ("l2tp", 115),
    ("sctp", 132),
];

/// What an option of no match asks.
pub(super) fn generic(option: &Opt<'_>, family: Family) -> Condition {
    let inside = option.inside;
    let (name, values) = option.parts();
    let address = |text: &str, source: bool| {
        let (address, mask) = network(text, family)?;
        Some(conditions::address(family, source, &address, &mask, inside))
    };
    let asked = match (name, &values[..]) {
        ("-s", [text]) => address(text, true),
        ("-d", [text]) => address(text, false),
        ("-i", [name]) => conditions::interface(Key::InputName, name, inside),
        ("-o", [name]) => conditions::interface(Key::OutputName, name, inside),
        ("-p", [name]) => Some(protocol(name, inside)),
        ("-f", []) => Some(conditions::fragment(inside)),
        _ => None,
    };
    asked.unwrap_or_else(|| Condition::NotUnderstood(option.to_string()))
}

fn protocol(name: &str, inside: bool) -> Condition {
    let of_name = || PROTOCOLS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    match byte(name).or_else(of_name) {
        Some(0) => Condition::Constant(inside),
        Some(number) => conditions::protocol(number, inside),
        None if name == "all" => Condition::Constant(inside),
        // The name that the host has for a protocol; for that of TCP it is "tcp".
        None => Condition::Constant(!inside),
    }
}

/// What a match asks.
pub(super) fn condition(asked: &Extension<'_>, family: Family) -> Condition {
    let text = asked.to_string();
    understood(asked, family, &text).unwrap_or(Condition::NotUnderstood(text))
}

/// None where an option is not known, or its value cannot be read.
fn understood(asked: &Extension<'_>, family: Family, text: &str) -> Option<Condition> {
    let options = &asked.options[..];
    match asked.name {
        "conntrack" => conntrack(options, text),
        "state" => state(options, text),
        "addrtype" => address_types(options, family, text),
        "socket" => socket(options, text),
        "owner" => owner(options, text),
        "rpfilter" => reverse_path(options, text),
        "policy" => policy(options, text),
        "recent" => recent(options, text),
        "ipv6header" => extension_headers(options, text),
        "statistic" => statistic(options, text),
        "limit" | "nfacct" => {
            let known = ["--limit", "--limit-burst", "--nfacct-name"];
            let known = options.iter().all(|option| option.inside && known.contains(&option.parts().0));
            known.then(|| conditions::named(asked.name, family, text))
        }
        "hashlimit" => Some(conditions::varies(below(options, "--hashlimit-above", "--hashlimit-upto")?, text)),
        "connlimit" => Some(conditions::varies(below(options, "--connlimit-above", "--connlimit-upto")?, text)),
        "quota" => match options {
            [option] if option.parts().0 == "--quota" => Some(conditions::varies(option.inside, text)),
            _ => None,
        },
        "string" => {
            let known = ["--string", "--hex-string", "--algo", "--from", "--to", "--icase"];
            let pattern = options.iter().find(|option| option.parts().0.ends_with("string"))?;
            let known = options.iter().all(|option| known.contains(&option.parts().0));
            known.then(|| conditions::varies(!pattern.inside, text))
        }
        // It may ask nothing more than `-p` does.
        "tcp" if options.is_empty() => Some(Condition::Constant(true)),
        "comment" | "tcp" | "multiport" | "iprange" | "mark" | "connmark" | "mac" | "pkttype" | "length" | "ttl"
        | "hl" | "tos" | "dscp" | "ecn" | "tcpmss" | "helper" | "connlabel" => {
            let asked = options.iter().map(|option| single(asked.name, option, family, text));
            let all: Vec<Condition> = asked.collect::<Option<_>>()?;
            (!all.is_empty()).then(|| conditions::all(all))
        }
        name => Some(conditions::named(name, family, text)),
    }
}

/// An option of a match all of whose options ask something of their own.
fn single(of: &str, option: &Opt<'_>, family: Family, text: &str) -> Option<Condition> {
    let inside = option.inside;
    let (name, values) = option.parts();
    if of == "tcp" {
        return tcp(name, &values, inside, text);
    }
    if matches!(of, "tos" | "dscp" | "ecn") {
        return traffic_class(name, &values, family, inside);
    }
    let [value] = values[..] else { return None };
    Some(match (of, name) {
        ("comment", "--comment") if inside => conditions::named("comment", family, text),
        ("multiport", "--sports" | "--source-ports") => {
            conditions::ports(conditions::SOURCE_PORT, &list(value, range)?, inside)
        }
        ("multiport", "--dports" | "--destination-ports") => {
            conditions::ports(conditions::DESTINATION_PORT, &list(value, range)?, inside)
        }
        ("multiport", "--ports") => conditions::either_port(&list(value, range)?, inside),
        ("iprange", _) => {
            let source = one_of(name, "--src-range", "--dst-range")?;
            let (from, to) = value.split_once('-').unwrap_or((value, value));
            conditions::addresses(family, source, &octets(from, family)?, &octets(to, family)?, inside)
        }
        ("mark" | "connmark", "--mark") => {
            let (mark, mask) = masked(value)?;
            let of = if of == "mark" { conditions::mark } else { conditions::connmark };
            of(mark, mask, inside)
        }
        ("mac", "--mac-source") => {
            let bytes: Option<Vec<u8>> = value.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
            conditions::source_mac(bytes?.try_into().ok()?, inside)
        }
        ("pkttype", "--pkt-type") => {
            let names = ["unicast", "broadcast", "multicast", "otherhost", "outgoing", "loopback"];
            let by_name = (0u8..).zip(names).find(|(_, name)| *name == value).map(|(number, _)| number);
            conditions::packet_type(by_name.or_else(|| byte(value))?, inside)
        }
        ("length", "--length") => {
            let (from, to) = range(value)?;
            conditions::length(from, to, inside)
        }
        ("ttl" | "hl", _) => {
            let value = byte(value)?;
            let asked = match (name.strip_prefix("--")?.strip_prefix(of)?, inside) {
                ("-eq" | "", true) => Ttl::Is(value),
                ("-eq" | "", false) => Ttl::Not(value),
                ("-lt", true) => Ttl::Below(value),
                ("-gt", true) => Ttl::Above(value),
                _ => return None,
            };
            conditions::ttl(family, asked)
        }
        ("tcpmss", "--mss") => {
            let (from, to) = range(value)?;
            conditions::mss(family, from, to, inside, text)
        }
        ("helper", "--helper") => conditions::helper(inside, text),
        // Another option, without a value, sets the label.
        ("connlabel", "--label") => conditions::connlabel(inside, text),
        _ => return None,
    })
}

fn state(options: &[Opt<'_>], text: &str) -> Option<Condition> {
    let [option] = options else { return None };
    let ("--state", [names]) = (option.parts().0, &option.parts().1[..]) else { return None };
    let states = conditions::STATES.map(|(name, bit, _)| (name, bit));
    let state = Some((bits(names, &states)?, option.inside));
    Some(conditions::conntrack(&Conntrack { state, ..Conntrack::default() }, text))
}

fn socket(options: &[Opt<'_>], text: &str) -> Option<Condition> {
    let known = |option: &Opt<'_>| match option.parts().0 {
        "--nowildcard" => Some(false),
        "--transparent" | "--restore-skmark" => Some(true),
        _ => None,
    };
    let flags: Option<Vec<bool>> = options.iter().map(known).collect();
    Some(conditions::socket(flags?.contains(&true), text))
}

fn owner(options: &[Opt<'_>], text: &str) -> Option<Condition> {
    let (mut asked, mut inverted) = (0, 0);
    for option in options {
        let bit = match option.parts().0 {
            "--uid-owner" => 1,
            "--gid-owner" => 1 << 1,
            "--socket-exists" => 1 << 2,
            "--suppl-groups" => 1 << 3,
            _ => return None,
        };
        asked |= bit;
        inverted |= if option.inside { 0 } else { bit };
    }
    Some(conditions::owner(asked, inverted, text))
}

fn reverse_path(options: &[Opt<'_>], text: &str) -> Option<Condition> {
    let (mut more, mut inside) = (false, true);
    for option in options {
        match (option.parts().0, option.inside) {
            ("--loose" | "--accept-local", true) => more = true,
            ("--validmark", true) => {}
            ("--invert", true) => inside = false,
            _ => return None,
        }
    }
    Some(conditions::reverse_path(more, inside, text))
}

/// Whether a match of a limit asks for packets below it; a typical packet is.
fn below(options: &[Opt<'_>], above: &str, upto: &str) -> Option<bool> {
    let limit = |option: &&Opt<'_>| one_of(option.parts().0, above, upto).is_some();
    let mut limits = options.iter().filter(limit);
    let (limit, None) = (limits.next()?, limits.next()) else { return None };
    Some((limit.parts().0 == upto) == limit.inside)
}

fn statistic(options: &[Opt<'_>], text: &str) -> Option<Condition> {
    let mut asked = None;
    for option in options {
        let (name, values) = option.parts();
        match (name, &values[..]) {
            ("--mode", ["random" | "nth"]) | ("--packet", [_]) => {}
            ("--probability", [share]) => asked = Some(conditions::random(share_of(share)?, option.inside, text)),
            ("--every", [every]) => asked = Some(conditions::nth(number(every)?, option.inside, text)),
            _ => return None,
        }
    }
    asked
}

/// A share in decimal, of 2^31.
fn share_of(text: &str) -> Option<u32> {
    const DIGITS: usize = 9;
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    let billionths: String = rest.chars().chain(std::iter::repeat('0')).take(DIGITS).collect();
    let billionths =
        whole.parse::<u64>().ok().filter(|whole| *whole <= 1)? * 1_000_000_000 + billionths.parse::<u64>().ok()?;
    u32::try_from((billionths << 31) / 1_000_000_000).ok()
}

fn extension_headers(options: &[Opt<'_>], text: &str) -> Option<Condition> {
    let (soft, header): (Vec<&Opt<'_>>, Vec<&Opt<'_>>) =
        options.iter().partition(|option| option.parts() == ("--soft", Vec::new()) && option.inside);
    let [header] = header[..] else { return None };
    let ("--header", [names]) = (header.parts().0, &header.parts().1[..]) else { return None };
    let asked = list(names, extension_header)?.into_iter().fold(0, |bits, bit| bits | bit);
    let inverted = if header.inside { 0 } else { asked };
    Some(conditions::extension_headers(asked, inverted, !soft.is_empty(), text))
}

/// Whether an option is the one or the other.
fn one_of(name: &str, first: &str, second: &str) -> Option<bool> {
    (name == first || name == second).then_some(name == first)
}

/// The bits of some names.
fn bits(names: &str, known: &[(&str, u16)]) -> Option<u16> {
    let bit = |name: &str| known.iter().find(|(known, _)| *known == name).map(|(_, bit)| *bit);
    Some(list(names, bit)?.into_iter().fold(0, |bits, bit| bits | bit))
}

fn tcp(name: &str, values: &[&str], inside: bool, text: &str) -> Option<Condition> {
    let ports = |offset, text: &str| Some(conditions::ports(offset, &[range(text)?], inside));
    match (name, values) {
        ("--sport", [text]) => ports(conditions::SOURCE_PORT, text),
        ("--dport", [text]) => ports(conditions::DESTINATION_PORT, text),
        ("--tcp-flags", [mask, set]) => Some(conditions::tcp_flags(tcp_flags(mask)?, tcp_flags(set)?, inside)),
        ("--tcp-option", [number]) => Some(conditions::tcp_option(byte(number)?, inside, text)),
        _ => None,
    }
}

/// Names of flags as bits of the header.
fn tcp_flags(names: &str) -> Option<u8> {
    const FLAGS: [(&str, u8); 8] = [
        ("FIN", 1),
        ("SYN", conditions::SYN),
        ("RST", 1 << 2),
        ("PSH", 1 << 3),
        ("ACK", 1 << 4),
        ("URG", 1 << 5),
        ("ALL", 0x3f),
        ("NONE", 0),
    ];
    let bit = |name: &str| FLAGS.iter().find(|(known, _)| *known == name).map(|(_, bit)| *bit).or_else(|| byte(name));
    Some(list(names, bit)?.into_iter().fold(0, |bits, bit| bits | bit))
}

fn conntrack(options: &[Opt<'_>], text: &str) -> Option<Condition> {
    let mut asked = Conntrack::default();
    for option in options {
        let inside = option.inside;
        let (name, values) = option.parts();
        let [value] = values[..] else { return None };
        match name {
            "--ctstate" => {
                let states: Vec<(&str, u16)> = conditions::STATES
                    .iter()
                    .chain(&conditions::VIRTUAL_STATES)
                    .map(|(name, bit, _)| (*name, *bit))
                    .collect();
                asked.state = Some((bits(value, &states)?, inside));
            }
            "--ctstatus" => asked.status = Some((bits(value, &conditions::STATUSES)?, inside)),
            "--ctdir" => asked.original = Some(one_of(value, "ORIGINAL", "REPLY")? == inside),
            "--ctproto" => {
                let named = || PROTOCOLS.iter().find(|(name, _)| *name == value).map(|(_, number)| u32::from(*number));
                let protocol = number(value).or_else(named)?;
                asked.protocol = Some((protocol.try_into().ok()?, inside));
            }
            "--ctorigsrc" | "--ctorigdst" | "--ctreplsrc" | "--ctrepldst" | "--ctorigsrcport" | "--ctorigdstport"
            | "--ctreplsrcport" | "--ctrepldstport" | "--ctexpire" => asked.more = true,
            _ => return None,
        }
    }
    (!options.is_empty()).then(|| conditions::conntrack(&asked, text))
}

fn address_types(options: &[Opt<'_>], family: Family, text: &str) -> Option<Condition> {
    let mut limit = Limit::None;
    let mut asked = Vec::new();
    for option in options {
        let (name, values) = option.parts();
        match (name, &values[..], option.inside) {
            ("--limit-iface-in", [], true) => limit = Limit::Input,
            ("--limit-iface-out", [], true) => limit = Limit::Output,
            (name, [names], inside) => {
                let known = (0..).zip(conditions::ADDRESS_TYPES).map(|(place, name)| (name, 1 << place));
                let types = bits(names, &known.collect::<Vec<(&str, u16)>>())?;
                asked.push((one_of(name, "--src-type", "--dst-type")?, types, inside));
            }
            _ => return None,
        }
    }
    let of = |(source, types, inside)| conditions::address_type(family, source, types, inside, limit, text);
    (!asked.is_empty()).then(|| conditions::all(asked.into_iter().map(of).collect()))
}

fn traffic_class(name: &str, values: &[&str], family: Family, inside: bool) -> Option<Condition> {
    const TOS: [(&str, u8); 5] = [
        ("Minimize-Delay", 0x10),
        ("Maximize-Throughput", 0x08),
        ("Maximize-Reliability", 0x04),
        ("Minimize-Cost", 0x02),
        ("Normal-Service", 0x00),
    ];
    Some(match (name, values) {
        ("--tos", [text]) => {
            // A name leaves the two bits of ECN and the precedence alone.
            let named = TOS.iter().find(|(name, _)| name == text).map(|(_, value)| (u32::from(*value), 0x3f));
            let whole = || masked(text).map(|(value, mask)| (value, if text.contains('/') { mask } else { 0xff }));
            let (value, mask) = named.or_else(whole)?;
            conditions::traffic_class(family, mask.try_into().ok()?, value.try_into().ok()?, inside)
        }
        ("--dscp", [text]) => {
            let value = byte(text).filter(|value| *value < 64)?;
            conditions::traffic_class(family, 0xfc, value << 2, inside)
        }
        ("--ecn-ip-ect", [text]) => conditions::traffic_class(family, 3, byte(text)?, inside),
        ("--ecn-tcp-ece", []) => conditions::tcp_flags(conditions::ECE, conditions::ECE, inside),
        ("--ecn-tcp-cwr", []) => conditions::tcp_flags(conditions::CWR, conditions::CWR, inside),
        _ => return None,
    })
}

fn policy(options: &[Opt<'_>], text: &str) -> Option<Condition> {
    let (mut some, mut elements) = (None, false);
    for option in options {
        let (name, values) = option.parts();
        match (name, &values[..], option.inside) {
            ("--dir", ["in" | "out"], true) => {}
            ("--pol", ["none"], true) => some = Some(false),
            ("--pol", ["ipsec"], true) => some = Some(true),
            ("--strict" | "--next", [], true)
            | ("--reqid" | "--spi" | "--tunnel-src" | "--tunnel-dst" | "--proto" | "--mode", [_], _) => elements = true,
            _ => return None,
        }
    }
    Some(conditions::ipsec(some?, elements, text))
}

fn recent(options: &[Opt<'_>], text: &str) -> Option<Condition> {
    let mut asked = None;
    for option in options {
        match option.parts().0 {
            "--set" => asked = Some((true, option.inside)),
            "--rcheck" | "--update" | "--remove" => asked = Some((false, option.inside)),
            "--seconds" | "--hitcount" | "--name" | "--mask" | "--rttl" | "--rsource" | "--rdest" | "--reap" => {}
            _ => return None,
        }
    }
    let (sets, inside) = asked?;
    Some(conditions::recent(sets, inside, text))
}

/// A header of `-m ipv6header`, by the name that the tool prints or takes.
fn extension_header(name: &str) -> Option<u8> {
    const SHORT: [(&str, u8); 6] =
        [("hop", 1 << 7), ("dst", 1 << 6), ("route", 1 << 5), ("frag", 1 << 4), ("auth", 1 << 3), ("none", 1 << 1)];
    let known = conditions::EXTENSIONS.iter().chain(&SHORT).chain(&[("prot", 1), ("proto", 1)]);
    known.clone().find(|(known, _)| *known == name).map(|(_, bit)| *bit)
}
