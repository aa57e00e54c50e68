//! What the matches of xtables ask of a packet. The two readers take options out of text or out of structures; what an option
//! means is decided here, once for both.
//!
//! Where a match cannot be expressed, its text is kept. A part of it that decides first is expressed all the same: without a
//! conntrack entry `--ctorigdst` never matches, whatever address it asks for. Where packets that look alike differ, the condition
//! varies as the typical one meets it, or not: it is below a rate, and its address is in no list of recent ones.

use tracer_model::ruleset::tables::Condition;
use tracer_model::ruleset::{Family, Key, Test};

/// Where the ports are in the header of TCP.
pub(super) const SOURCE_PORT: u32 = 0;
pub(super) const DESTINATION_PORT: u32 = 2;
/// Bits of TCP's flags.
pub(super) const SYN: u8 = 0x02;
pub(super) const ECE: u8 = 0x40;
pub(super) const CWR: u8 = 0x80;

/// `NF_CT_STATE_INVALID_BIT` and `NF_CT_STATE_UNTRACKED_BIT`: a packet in one of these has no conntrack entry.
const WITHOUT_ENTRY: u32 = 1 | 1 << 6;
/// Bytes of an interface's name (`IFNAMSIZ`).
const NAME: usize = 16;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// `IPS_EXPECTED` (`nf_conntrack_common.h`): another connection announced it.
const IPS_EXPECTED: u32 = 1;

/// The states of `--ctstate`: their bit in `state_mask` (`linux/netfilter/xt_conntrack.h`), and their `NF_CT_STATE_*` bit.
pub(super) const STATES: [(&str, u16, u32); 5] = [
    ("INVALID", 1, 1),
    ("ESTABLISHED", 1 << 1, 1 << 1),
    ("RELATED", 1 << 2, 1 << 2),
    ("NEW", 1 << 3, 1 << 3),
    ("UNTRACKED", 1 << 8, 1 << 6),
];
/// The virtual states of `--ctstate`, which stand for `IPS_SRC_NAT` and `IPS_DST_NAT` of the entry.
pub(super) const VIRTUAL_STATES: [(&str, u16, u32); 2] = [("SNAT", 1 << 6, 1 << 4), ("DNAT", 1 << 7, 1 << 5)];
/// `--ctstatus` (`enum ip_conntrack_status`).
pub(super) const STATUSES: [(&str, u16); 5] =
    [("NONE", 0), ("EXPECTED", 1), ("SEEN_REPLY", 1 << 1), ("ASSURED", 1 << 2), ("CONFIRMED", 1 << 3)];
/// The types of addresses, each at its number (`RTN_*`).
pub(super) const ADDRESS_TYPES: [&str; 12] = [
    "UNSPEC",
    "UNICAST",
    "LOCAL",
    "BROADCAST",
    "ANYCAST",
    "MULTICAST",
    "BLACKHOLE",
    "UNREACHABLE",
    "PROHIBIT",
    "THROW",
    "NAT",
    "XRESOLVE",
];

/// All of these; a single one is that one.
pub(super) fn all(mut conditions: Vec<Condition>) -> Condition {
    match conditions.len() {
        0 => Condition::Constant(true),
        1 => conditions.remove(0),
        _ => Condition::All(conditions),
    }
}

/// Any of these; a single one is that one.
fn any(mut conditions: Vec<Condition>) -> Condition {
    match conditions.len() {
        0 => Condition::Constant(false),
        1 => conditions.remove(0),
        _ => Condition::Any(conditions),
    }
}

fn not(condition: Condition) -> Condition {
    Condition::Not(Box::new(condition))
}

fn not_understood(text: &str) -> Condition {
    Condition::NotUnderstood(text.to_owned())
}

/// It holds for some packets and not for others, and for a typical one, or not.
pub(super) fn varies(typically: bool, text: &str) -> Condition {
    let usually = Condition::Usually(text.to_owned());
    if typically { usually } else { not(usually) }
}

fn within(key: Key, mask: Vec<u8>, bounds: Vec<(Vec<u8>, Vec<u8>)>, inside: bool) -> Condition {
    let mask = if mask.iter().all(|byte| *byte == 0xff) { Vec::new() } else { mask };
    Condition::Is(Test { key, mask, bounds, inside })
}

fn masked(key: Key, mask: Vec<u8>, value: Vec<u8>, inside: bool) -> Condition {
    within(key, mask, vec![(value.clone(), value)], inside)
}

/// A number from one to another, both included. The kernel has it in four bytes.
fn number(key: Key, from: u32, to: u32, inside: bool) -> Condition {
    within(key, Vec::new(), vec![(from.to_be_bytes().to_vec(), to.to_be_bytes().to_vec())], inside)
}

/// Whether the packet has a conntrack entry.
pub(super) fn with_entry() -> Condition {
    Condition::Is(Test::state(WITHOUT_ENTRY, true))
}

fn without_entry() -> Condition {
    Condition::Is(Test::state(WITHOUT_ENTRY, false))
}

/// Any of these bits of the entry's status; false without an entry.
fn status(bits: u32) -> Condition {
    masked(Key::ConnectionStatus, bits.to_be_bytes().to_vec(), vec![0; 4], false)
}

fn with_socket() -> Condition {
    Condition::Is(Test::is(Key::Socket, vec![1]))
}

/// `-p`.
pub(super) fn protocol(number: u8, inside: bool) -> Condition {
    masked(Key::Transport, Vec::new(), vec![number], inside)
}

/// `-s` and `-d`, with a mask.
pub(super) fn address(family: Family, source: bool, address: &[u8], mask: &[u8], inside: bool) -> Condition {
    masked(address_key(family, source), mask.to_vec(), address.to_vec(), inside)
}

/// `--src-range` and `--dst-range`.
pub(super) fn addresses(family: Family, source: bool, from: &[u8], to: &[u8], inside: bool) -> Condition {
    within(address_key(family, source), Vec::new(), vec![(from.to_vec(), to.to_vec())], inside)
}

fn address_key(family: Family, source: bool) -> Key {
    let offset = match (family, source) {
        (Family::Ip6, true) => 8,
        (Family::Ip6, false) => 24,
        (_, true) => 12,
        (_, false) => 16,
    };
    Key::NetworkHeader { offset }
}

/// `-i` and `-o`; a `+` at the end stands for any rest. None where no interface can have that name.
pub(super) fn interface(key: Key, name: &str, inside: bool) -> Option<Condition> {
    let (mut bytes, prefix) = match name.strip_suffix('+') {
        Some(beginning) => (beginning.as_bytes().to_vec(), true),
        None => (name.as_bytes().to_vec(), false),
    };
    if bytes.is_empty() {
        // The mask of the comparison is empty (`xtables_parse_interface`).
        return Some(Condition::Constant(inside));
    }
    if bytes.len() >= NAME {
        return None;
    }
    if !prefix {
        bytes.resize(NAME, 0);
    }
    Some(masked(key, Vec::new(), bytes, inside))
}

/// `-f`: the packet is a fragment, but not the first one.
pub(super) fn fragment(inside: bool) -> Condition {
    masked(Key::NetworkHeader { offset: 6 }, vec![0x1f, 0xff], vec![0; 2], !inside)
}

/// `--sport`, `--dport`, and lists of them; the bounds are included.
pub(super) fn ports(offset: u32, ports: &[(u16, u16)], inside: bool) -> Condition {
    let bounds = ports.iter().map(|(from, to)| (from.to_be_bytes().to_vec(), to.to_be_bytes().to_vec()));
    within(Key::TransportHeader { offset }, Vec::new(), bounds.collect(), inside)
}

/// `--ports`: either of the ports.
pub(super) fn either_port(list: &[(u16, u16)], inside: bool) -> Condition {
    let both = [SOURCE_PORT, DESTINATION_PORT].map(|offset| ports(offset, list, inside)).to_vec();
    if inside { any(both) } else { all(both) }
}

/// `--tcp-flags`.
pub(super) fn tcp_flags(mask: u8, set: u8, inside: bool) -> Condition {
    masked(Key::TransportHeader { offset: 13 }, vec![mask], vec![set], inside)
}

/// `--tcp-option`: a SYN has the option that announces the MSS, and no other segment has. Which others a segment has depends on
/// its connection.
pub(super) fn tcp_option(number: u8, inside: bool, text: &str) -> Condition {
    const MSS: u8 = 2;
    if number == MSS { of_syn(varies(inside, text), inside) } else { not_understood(text) }
}

/// `--mss`: only a SYN announces it; a segment without the option does not match, and matches if inverted.
pub(super) fn mss(family: Family, from: u16, to: u16, inside: bool, text: &str) -> Condition {
    let on_ethernet = if family == Family::Ip6 { 1440 } else { 1460 };
    of_syn(varies((from..=to).contains(&on_ethernet) == inside, text), inside)
}

/// What is asked of the SYN alone; another segment does not match, and matches if inverted.
fn of_syn(asked: Condition, inside: bool) -> Condition {
    if inside { all(vec![tcp_flags(SYN, SYN, true), asked]) } else { any(vec![tcp_flags(SYN, SYN, false), asked]) }
}

/// What `-m conntrack` and `-m state` ask.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Conntrack {
    /// Bits of `state_mask`, and whether the packet has to be in one of the states.
    pub(super) state: Option<(u16, bool)>,
    /// Whether it has to travel in original direction.
    pub(super) original: Option<bool>,
    /// Bits of the entry's status, and whether one has to be set.
    pub(super) status: Option<(u16, bool)>,
    /// The protocol of the entry, and whether it has to have that one.
    pub(super) protocol: Option<(u16, bool)>,
    /// Addresses, ports or the timeout of the entry, which are not expressed.
    pub(super) more: bool,
}

/// `conntrack_mt` (5.10 to 7.2): the state is asked first. Without an entry nothing else is asked: the match then holds if the
/// state was asked.
pub(super) fn conntrack(asked: &Conntrack, text: &str) -> Condition {
    let mut of_entry = Vec::new();
    if let Some(original) = asked.original {
        of_entry.push(masked(Key::ConnectionDirection, Vec::new(), vec![u8::from(!original)], true));
    }
    match asked.protocol {
        // The entry of a TCP packet is one of TCP.
        Some((number, inside)) if (number == u16::from(TCP)) == inside => {}
        Some(_) => of_entry.push(Condition::Constant(false)),
        None => {}
    }
    match asked.status {
        // No bit is asked for: none is set, and the inverse always holds.
        Some((0, true)) => of_entry.push(Condition::Constant(false)),
        Some((0, false)) | None => {}
        Some((bits, true)) => of_entry.push(status(bits.into())),
        Some((bits, false)) => {
            of_entry.push(masked(Key::ConnectionStatus, u32::from(bits).to_be_bytes().to_vec(), vec![0; 4], true));
        }
    }
    if asked.more {
        of_entry.push(not_understood(text));
    }
    let asks_entry = asked.original.is_some() || asked.status.is_some() || asked.protocol.is_some() || asked.more;
    match asked.state {
        None => {
            of_entry.insert(0, with_entry());
            all(of_entry)
        }
        Some((mask, inside)) => match (states(mask, inside), asks_entry && !of_entry.is_empty()) {
            (state, false) => state,
            (state, true) => all(vec![state, any(vec![without_entry(), all(of_entry)])]),
        },
    }
}

/// One of the states, or none of them. Bits that are no state are never set.
fn states(mask: u16, inside: bool) -> Condition {
    let bits_of = |states: &[(&str, u16, u32)]| {
        states.iter().filter(|(_, bit, _)| mask & bit != 0).fold(0, |bits, (.., bit)| bits | bit)
    };
    let (real, of_status) = (bits_of(&STATES), bits_of(&VIRTUAL_STATES));
    let mut parts = Vec::new();
    if real != 0 {
        parts.push(Condition::Is(Test::state(real, !inside)));
    }
    if of_status != 0 {
        // A packet without an entry is never in a virtual state: it matches the inverse.
        parts.push(if inside { status(of_status) } else { not(status(of_status)) });
    }
    if inside { any(parts) } else { all(parts) }
}

/// `-m mark`.
pub(super) fn mark(mark: u32, mask: u32, inside: bool) -> Condition {
    masked(Key::Mark, mask.to_be_bytes().to_vec(), mark.to_be_bytes().to_vec(), inside)
}

/// `-m connmark`; false without an entry, inverted or not.
pub(super) fn connmark(mark: u32, mask: u32, inside: bool) -> Condition {
    masked(Key::ConnectionMark, mask.to_be_bytes().to_vec(), mark.to_be_bytes().to_vec(), inside)
}

/// The interfaces whose routes alone `-m addrtype` looks at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Limit {
    /// All.
    #[default]
    None,
    /// The one that the packet came in by.
    Input,
    /// The one that it leaves by.
    Output,
}

/// `--src-type` and `--dst-type`: any of these types, bit `n` being `RTN_*` number `n`.
pub(super) fn address_type(
    family: Family,
    source: bool,
    types: u16,
    inside: bool,
    limit: Limit,
    text: &str,
) -> Condition {
    let key = Key::AddressType { source, interface: limit == Limit::Input };
    let routed = |types: u16, inside: bool| {
        let bounds = (0u32..16).filter(|number| types & 1 << number != 0).map(|number| number.to_be_bytes().to_vec());
        within(key, Vec::new(), bounds.map(|number| (number.clone(), number)).collect(), inside)
    };
    if limit == Limit::Output {
        return not_understood(text);
    }
    if family != Family::Ip6 {
        return routed(types, inside);
    }
    // `match_type6` asks the address itself for these three, each of them; the routing table for the next three, any of them; and
    // nothing for the others.
    let [unspecified, unicast, multicast, in_table] = [1, 1 << 1, 1 << 5, 1 << 2 | 1 << 4 | 1 << 7];
    let key = address_key(family, source);
    let (is_multicast, zero) = (|inside| masked(key, Vec::new(), vec![0xff], inside), vec![0; 16]);
    let mut parts = Vec::new();
    if types & multicast != 0 {
        parts.push(is_multicast(true));
    }
    if types & unicast != 0 {
        parts.extend([is_multicast(false), masked(key, Vec::new(), zero.clone(), false)]);
    }
    if types & unspecified != 0 {
        parts.push(masked(key, Vec::new(), zero, true));
    }
    if types & in_table != 0 {
        parts.push(routed(types & in_table, true));
    }
    if inside { all(parts) } else { not(all(parts)) }
}

/// `-m mac`; false for a packet that came in by no interface, inverted or not.
pub(super) fn source_mac(address: [u8; 6], inside: bool) -> Condition {
    let came_in = masked(Key::InputName, Vec::new(), vec![0; NAME], false);
    all(vec![came_in, masked(Key::LinkHeader { offset: 6 }, Vec::new(), address.to_vec(), inside)])
}

/// `-m pkttype`, by its number (`PACKET_HOST` is 0).
pub(super) fn packet_type(number: u8, inside: bool) -> Condition {
    masked(Key::PacketType, Vec::new(), vec![number], inside)
}

/// `-m length`, of the whole IP packet.
pub(super) fn length(from: u16, to: u16, inside: bool) -> Condition {
    number(Key::Length, from.into(), to.into(), inside)
}

/// `-m ttl` and `-m hl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ttl {
    /// `--ttl-eq`.
    Is(u8),
    /// `! --ttl-eq`.
    Not(u8),
    /// `--ttl-lt`.
    Below(u8),
    /// `--ttl-gt`.
    Above(u8),
}

/// `-m ttl` and `-m hl`.
pub(super) fn ttl(family: Family, asked: Ttl) -> Condition {
    let key = Key::NetworkHeader { offset: if family == Family::Ip6 { 7 } else { 8 } };
    let bounds = |from: u8, to: u8, inside| within(key, Vec::new(), vec![(vec![from], vec![to])], inside);
    match asked {
        Ttl::Is(value) => bounds(value, value, true),
        Ttl::Not(value) => bounds(value, value, false),
        Ttl::Below(value) => value.checked_sub(1).map_or(Condition::Constant(false), |most| bounds(0, most, true)),
        Ttl::Above(value) => value.checked_add(1).map_or(Condition::Constant(false), |least| bounds(least, 255, true)),
    }
}

/// `-m tos`, `-m dscp` and `--ecn-ip-ect`: bits of the byte that IPv4 calls the type of service, and IPv6 the traffic class.
pub(super) fn traffic_class(family: Family, mask: u8, value: u8, inside: bool) -> Condition {
    if family == Family::Ip6 {
        // It lies across two bytes.
        let across = |byte: u8| vec![byte >> 4, byte << 4];
        masked(Key::NetworkHeader { offset: 0 }, across(mask), across(value), inside)
    } else {
        masked(Key::NetworkHeader { offset: 1 }, vec![mask], vec![value], inside)
    }
}

/// `-m socket`; false without a socket. One that restores the socket's mark, or wants a transparent socket, is not understood
/// where there is one.
pub(super) fn socket(flags: bool, text: &str) -> Condition {
    if flags { all(vec![with_socket(), not_understood(text)]) } else { with_socket() }
}

/// `-m owner`; without a socket it holds where everything that is asked is inverted (`owner_mt`, 5.10 to 7.2).
pub(super) fn owner(asked: u8, inverted: u8, text: &str) -> Condition {
    const XT_OWNER_SOCKET: u8 = 1 << 2;
    if asked & XT_OWNER_SOCKET != 0 {
        // The stack's own RST has a socket, which is nobody's; a rule's RST has none.
        not_understood(text)
    } else if asked == inverted {
        any(vec![not(with_socket()), not_understood(text)])
    } else {
        all(vec![with_socket(), not_understood(text)])
    }
}

/// `-m rpfilter`. One that accepts more than the plain one may hold where that does not.
pub(super) fn reverse_path(accepts_more: bool, inside: bool, text: &str) -> Condition {
    let plain = masked(Key::ReversePath, Vec::new(), vec![1], inside);
    match (accepts_more, inside) {
        (false, _) => plain,
        (true, true) => any(vec![plain, varies(true, text)]),
        (true, false) => all(vec![plain, varies(false, text)]),
    }
}

/// `-m policy`; with `elements` it asks more of the transformations than that there is one.
pub(super) fn ipsec(some: bool, elements: bool, text: &str) -> Condition {
    let asked = masked(Key::Ipsec, Vec::new(), vec![u8::from(some)], true);
    if some && elements { all(vec![asked, not_understood(text)]) } else { asked }
}

/// `-m recent`: `--set` always matches; the others ask which addresses came before.
pub(super) fn recent(sets: bool, inside: bool, text: &str) -> Condition {
    if sets { Condition::Constant(inside) } else { varies(!inside, text) }
}

/// `-m statistic --mode random`: so many of 2^31 packets.
pub(super) fn random(share: u32, inside: bool, text: &str) -> Condition {
    const ALL: u32 = 1 << 31;
    match share {
        0 => Condition::Constant(!inside),
        ALL.. => Condition::Constant(inside),
        _ => Condition::Varies(text.to_owned()),
    }
}

/// `-m statistic --mode nth`: one of so many packets.
pub(super) fn nth(every: u32, inside: bool, text: &str) -> Condition {
    if every <= 1 { Condition::Constant(inside) } else { Condition::Varies(text.to_owned()) }
}

/// `-m helper`: only an expected connection has one (`helper_mt` asks for `ct->master`).
pub(super) fn helper(inside: bool, text: &str) -> Condition {
    if inside {
        all(vec![status(IPS_EXPECTED), not_understood(text)])
    } else {
        any(vec![not(status(IPS_EXPECTED)), not_understood(text)])
    }
}

/// `-m connlabel`: without an entry only the inverse holds.
pub(super) fn connlabel(inside: bool, text: &str) -> Condition {
    if inside {
        all(vec![with_entry(), not_understood(text)])
    } else {
        any(vec![without_entry(), not_understood(text)])
    }
}

/// A match of IPv6's extension headers, which gives this for a packet that has none.
fn of_extensions(otherwise: bool, text: &str) -> Condition {
    let has_some = |some: bool| masked(Key::NetworkHeader { offset: 6 }, Vec::new(), vec![TCP], !some);
    if otherwise {
        any(vec![has_some(false), not_understood(text)])
    } else {
        all(vec![has_some(true), not_understood(text)])
    }
}

/// The headers that `-m ipv6header` knows: their bits (`linux/netfilter_ipv6/ip6t_ipv6header.h`).
pub(super) const EXTENSIONS: [(&str, u8); 8] = [
    ("hop-by-hop", 1 << 7),
    ("ipv6-opts", 1 << 6),
    ("ipv6-route", 1 << 5),
    ("ipv6-frag", 1 << 4),
    ("ah", 1 << 3),
    ("esp", 1 << 2),
    ("ipv6-nonxt", 1 << 1),
    ("protocol", 1),
];

/// `-m ipv6header` (`ipv6header_mt6`): a packet without extension headers has only the one of the protocol.
pub(super) fn extension_headers(asked: u8, inverted: u8, soft: bool, text: &str) -> Condition {
    const NONE_BUT_PROTOCOL: u8 = 1;
    let plain = if soft {
        (NONE_BUT_PROTOCOL ^ asked ^ inverted) & asked == 0
    } else {
        (NONE_BUT_PROTOCOL == asked) == (inverted == 0)
    };
    of_extensions(plain, text)
}

/// A match of which its name says enough, whatever its options.
pub(super) fn named(name: &str, family: Family, text: &str) -> Condition {
    match name {
        "comment" => Condition::Constant(true),
        // Each is for packets of its own protocol.
        "udp" | "udplite" | "icmp" | "icmp6" | "icmpv6" | "sctp" | "dccp" | "esp" | "ipcomp" | "mh" => {
            Condition::Constant(false)
        }
        "ah" if family != Family::Ip6 => Condition::Constant(false),
        "ah" | "dst" | "hbh" | "frag" | "rt" | "srh" => of_extensions(false, text),
        // A typical packet is below the limit. An object of nfacct with a quota matches above it alone, one without always;
        // which ones have a quota is not in the rule.
        "limit" | "nfacct" => varies(true, text),
        // These never match without an entry, and know what it has transferred, or a hash of its addresses.
        "connbytes" | "cluster" => all(vec![with_entry(), not_understood(text)]),
        // It knows the systems by their SYN.
        "osf" => all(vec![tcp_flags(SYN, SYN, true), not_understood(text)]),
        "cgroup" => all(vec![with_socket(), not_understood(text)]),
        // set, time, cpu, rateest, bpf, u32, devgroup, realm, ipvs, physdev, eui64, and what is not of iptables 1.8.9.
        _ => not_understood(text),
    }
}
