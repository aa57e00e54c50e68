//! What expressions load into a register.

use tracer_model::ruleset::Key;

use super::machine::{Held, Loaded, Lost, Numbers};
use crate::nfnetlink::{attribute, long, number};

/// The words of nft for `enum nft_meta_keys`.
const META: [&str; 36] = [
    "length",
    "protocol",
    "priority",
    "mark",
    "iif",
    "oif",
    "iifname",
    "oifname",
    "iiftype",
    "oiftype",
    "skuid",
    "skgid",
    "nftrace",
    "rtclassid",
    "secmark",
    "nfproto",
    "l4proto",
    "ibrname",
    "obrname",
    "pkttype",
    "cpu",
    "iifgroup",
    "oifgroup",
    "cgroup",
    "random",
    "ipsec",
    "iifkind",
    "oifkind",
    "ibrpvid",
    "ibrvproto",
    "time",
    "day",
    "hour",
    "sdif",
    "sdifname",
    "broute",
];

/// The words of nft for `enum nft_ct_keys`, how many bytes each has, and whether it is a number in the byte order of the host.
pub(super) const CT: [(&str, usize, bool); 24] = [
    ("state", 4, true),
    ("direction", 1, false),
    ("status", 4, true),
    ("mark", 4, true),
    ("secmark", 4, true),
    ("expiration", 4, true),
    ("helper", 16, false),
    ("l3proto", 1, false),
    ("saddr", 16, false),
    ("daddr", 16, false),
    ("protocol", 1, false),
    ("proto-src", 2, false),
    ("proto-dst", 2, false),
    ("label", 16, false),
    ("packets", 8, true),
    ("bytes", 8, true),
    ("avgpkt", 8, true),
    ("zone", 2, true),
    ("event", 4, true),
    ("ip saddr", 4, false),
    ("ip daddr", 4, false),
    ("ip6 saddr", 16, false),
    ("ip6 daddr", 16, false),
    ("id", 4, false),
];

fn field(data: &[u8], kind: u16) -> Option<u32> {
    attribute(data, kind).and_then(number)
}

/// The words of nft for a key of `meta`.
pub(super) fn meta_name(key: Option<u32>) -> String {
    format!("meta {}", key.and_then(|key| META.get(key as usize)).unwrap_or(&"?"))
}

/// `meta`.
pub(super) fn meta(key: Option<u32>) -> Held {
    let name = meta_name(key);
    Held::Bytes(match key {
        Some(0) => Loaded::native(Key::Length, 4),
        Some(1) => Loaded::new(Key::EtherType, 2),
        Some(3) => Loaded::native(Key::Mark, 4),
        Some(4) => Loaded::native(Key::InputIndex, 4),
        Some(5) => Loaded::native(Key::OutputIndex, 4),
        Some(6) => Loaded::new(Key::InputName, 16),
        Some(7) => Loaded::new(Key::OutputName, 16),
        Some(10 | 11 | 23) => Loaded::native(Key::Socket, 4).named(name),
        Some(15) => Loaded::new(Key::Family, 1),
        Some(16) => Loaded::new(Key::Transport, 1),
        Some(19) => Loaded::new(Key::PacketType, 1),
        Some(25) => Loaded::new(Key::Ipsec, 1),
        Some(31) => return Held::Lost(Lost::varying(name, 1)),
        Some(20 | 24 | 32) => return Held::Lost(Lost { native: true, ..Lost::varying(name, 4) }),
        Some(30) => return Held::Lost(Lost { native: true, ..Lost::varying(name, 8) }),
        Some(17 | 18 | 26 | 27 | 34) => return Held::Lost(Lost::new(name, 16)),
        Some(8 | 9 | 28) => return Held::Lost(Lost::number(name, 2)),
        Some(29) => return Held::Lost(Lost::new(name, 2)),
        _ => return Held::Lost(Lost::number(name, 4)),
    })
}

/// `ct`.
pub(super) fn ct(key: Option<u32>, direction: Option<u8>) -> Held {
    let direction = match direction {
        Some(0) => "original ",
        Some(1) => "reply ",
        _ => "",
    };
    let (name, length, native) = key.and_then(|key| CT.get(key as usize)).copied().unwrap_or(("?", 4, false));
    Held::Bytes(match key {
        Some(0) => Loaded::new(Key::State, 4),
        Some(1) => Loaded::new(Key::ConnectionDirection, 1),
        Some(2) => Loaded::native(Key::ConnectionStatus, 4),
        Some(3) => Loaded::native(Key::ConnectionMark, 4),
        _ => Loaded { native, ..Loaded::new(Key::Connection, length).named(format!("ct {direction}{name}")) },
    })
}

/// Other expressions that load something, with the register that they load it into.
pub(super) fn other(name: &str, data: &[u8]) -> Option<(u32, Held)> {
    match name {
        "fib" => fib(data),
        "socket" => {
            const NFTA_SOCKET_KEY: u16 = 1;
            const NFTA_SOCKET_DREG: u16 = 2;
            let keys = [("transparent", 1), ("mark", 4), ("wildcard", 1), ("cgroupv2", 8)];
            let (key, length) = keys.get(field(data, NFTA_SOCKET_KEY)? as usize)?;
            let native = *key == "mark";
            let loaded = Loaded { native, ..Loaded::new(Key::Socket, *length).named(format!("socket {key}")) };
            Some((field(data, NFTA_SOCKET_DREG)?, Held::Bytes(loaded)))
        }
        "rt" => {
            const NFTA_RT_DREG: u16 = 1;
            const NFTA_RT_KEY: u16 = 2;
            let keys = [("classid", 4), ("ip nexthop", 4), ("ip6 nexthop", 16), ("mtu", 2), ("ipsec", 1)];
            let (key, length) = keys.get(field(data, NFTA_RT_KEY)? as usize)?;
            let held = match *key {
                "ipsec" => Held::Bytes(Loaded::new(Key::Ipsec, 1).named("rt ipsec")),
                key => Held::Lost(Lost { native: *length < 4, ..Lost::new(format!("rt {key}"), *length) }),
            };
            Some((field(data, NFTA_RT_DREG)?, held))
        }
        // NFTA_OSF_DREG, NFTA_TUNNEL_DREG, NFTA_XFRM_DREG.
        "osf" => Some((field(data, 1)?, Held::Lost(Lost::new("osf name", 16)))),
        "tunnel" => Some((field(data, 2)?, Held::Lost(Lost::new("tunnel", 4)))),
        "xfrm" => Some((field(data, 1)?, Held::Lost(Lost::new("ipsec", 4)))),
        "numgen" => {
            const NFTA_NG_DREG: u16 = 1;
            const NFTA_NG_MODULUS: u16 = 2;
            const NFTA_NG_OFFSET: u16 = 4;
            let (first, count) = (field(data, NFTA_NG_OFFSET).unwrap_or(0), field(data, NFTA_NG_MODULUS).unwrap_or(0));
            Some((field(data, NFTA_NG_DREG)?, numbers(format!("numgen mod {count}"), first, count)))
        }
        "hash" => {
            const NFTA_HASH_DREG: u16 = 2;
            const NFTA_HASH_MODULUS: u16 = 4;
            const NFTA_HASH_OFFSET: u16 = 6;
            let first = field(data, NFTA_HASH_OFFSET).unwrap_or(0);
            let count = field(data, NFTA_HASH_MODULUS).unwrap_or(0);
            Some((field(data, NFTA_HASH_DREG)?, numbers(format!("hash mod {count}"), first, count)))
        }
        _ => None,
    }
}

fn numbers(name: String, first: u32, count: u32) -> Held {
    let numbers = Some(Numbers { first, count, native: true });
    Held::Lost(Lost { numbers, native: true, ..Lost::varying(name, 4) })
}

/// `fib`: the type of an address, or the route back to the source.
fn fib(data: &[u8]) -> Option<(u32, Held)> {
    const NFTA_FIB_DREG: u16 = 1;
    const NFTA_FIB_RESULT: u16 = 2;
    const NFTA_FIB_FLAGS: u16 = 3;
    const NFTA_FIB_F_SADDR: u32 = 1;
    const NFTA_FIB_F_DADDR: u32 = 1 << 1;
    const NFTA_FIB_F_MARK: u32 = 1 << 2;
    const NFTA_FIB_F_IIF: u32 = 1 << 3;
    const NFTA_FIB_F_OIF: u32 = 1 << 4;
    const NFTA_FIB_F_PRESENT: u32 = 1 << 5;
    const NFT_FIB_RESULT_OIF: u32 = 1;
    const NFT_FIB_RESULT_OIFNAME: u32 = 2;
    const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
    let (flags, result) = (field(data, NFTA_FIB_FLAGS)?, field(data, NFTA_FIB_RESULT)?);
    let words = [
        (NFTA_FIB_F_SADDR, "saddr"),
        (NFTA_FIB_F_DADDR, "daddr"),
        (NFTA_FIB_F_MARK, "mark"),
        (NFTA_FIB_F_IIF, "iif"),
        (NFTA_FIB_F_OIF, "oif"),
    ];
    let words: Vec<&str> = words.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, word)| *word).collect();
    let (kind, length) = match result {
        NFT_FIB_RESULT_OIF => ("oif", 4),
        NFT_FIB_RESULT_OIFNAME => ("oifname", 16),
        NFT_FIB_RESULT_ADDRTYPE => ("type", 4),
        _ => ("?", 16),
    };
    let name = format!("fib {} {kind}", words.join(" . "));
    let source = flags & NFTA_FIB_F_SADDR != 0;
    let held = match result {
        // The mark is not looked at for it (`nft_fib4_eval_type`).
        NFT_FIB_RESULT_ADDRTYPE if flags & NFTA_FIB_F_OIF == 0 => {
            let interface = flags & NFTA_FIB_F_IIF != 0;
            Held::Bytes(Loaded::native(Key::AddressType { source, interface }, 4).named(name))
        }
        NFT_FIB_RESULT_OIF | NFT_FIB_RESULT_OIFNAME if source && flags & NFTA_FIB_F_OIF == 0 => {
            Held::Route { name, present: flags & NFTA_FIB_F_PRESENT != 0 }
        }
        NFT_FIB_RESULT_OIF => Held::Lost(Lost::number(name, length)),
        _ => Held::Lost(Lost::new(name, length)),
    };
    Some((field(data, NFTA_FIB_DREG)?, held))
}

/// The words for an option of TCP or IPv4, or an extension header of IPv6.
pub(super) fn option(data: &[u8]) -> String {
    const NFTA_EXTHDR_TYPE: u16 = 2;
    const NFTA_EXTHDR_OP: u16 = 6;
    let kind = attribute(data, NFTA_EXTHDR_TYPE).and_then(|bytes| bytes.first()).copied().unwrap_or(0);
    let named = match kind {
        2 => "maxseg".to_owned(),
        3 => "window".to_owned(),
        4 => "sack-perm".to_owned(),
        5 => "sack".to_owned(),
        8 => "timestamp".to_owned(),
        30 => "mptcp".to_owned(),
        other => other.to_string(),
    };
    // NFT_EXTHDR_OP_IPV6, TCPOPT, IPV4, SCTP, DCCP.
    match field(data, NFTA_EXTHDR_OP).unwrap_or(0) {
        0 => format!("exthdr {kind}"),
        1 => format!("tcp option {named}"),
        2 => format!("ip option {kind}"),
        3 => format!("sctp chunk {kind}"),
        _ => format!("option {kind}"),
    }
}

/// The words for a rate, a quota or a number of connections, and whether it has to be exceeded.
pub(super) fn rate(name: &str, data: &[u8]) -> (String, bool) {
    let inverted = over(name, data);
    let over = if inverted { "over " } else { "" };
    let text = match name {
        "limit" => {
            const NFTA_LIMIT_RATE: u16 = 1;
            const NFTA_LIMIT_UNIT: u16 = 2;
            const NFTA_LIMIT_TYPE: u16 = 4;
            let unit = match attribute(data, NFTA_LIMIT_UNIT).and_then(long) {
                Some(1) => "second",
                Some(60) => "minute",
                Some(3600) => "hour",
                Some(86_400) => "day",
                _ => "week",
            };
            let bytes = if field(data, NFTA_LIMIT_TYPE) == Some(1) { " bytes" } else { "" };
            let rate = attribute(data, NFTA_LIMIT_RATE).and_then(long).unwrap_or(0);
            format!("limit rate {over}{rate}{bytes}/{unit}")
        }
        "quota" => {
            const NFTA_QUOTA_BYTES: u16 = 1;
            let bytes = attribute(data, NFTA_QUOTA_BYTES).and_then(long).unwrap_or(0);
            format!("quota {over}{bytes} bytes")
        }
        _ => {
            const NFTA_CONNLIMIT_COUNT: u16 = 1;
            format!("ct count {over}{}", field(data, NFTA_CONNLIMIT_COUNT).unwrap_or(0))
        }
    };
    (text, inverted)
}

/// Whether a rate, a quota or a number of connections has to be exceeded.
pub(super) fn over(name: &str, data: &[u8]) -> bool {
    const NFTA_LIMIT_FLAGS: u16 = 5;
    const NFTA_QUOTA_FLAGS: u16 = 2;
    const NFTA_CONNLIMIT_FLAGS: u16 = 2;
    let flags = match name {
        "limit" => NFTA_LIMIT_FLAGS,
        "quota" => NFTA_QUOTA_FLAGS,
        _ => NFTA_CONNLIMIT_FLAGS,
    };
    field(data, flags).unwrap_or(0) & 1 != 0
}
