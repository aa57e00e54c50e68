//! Suppressed events: from the keys of the kernel side to the types of the engine, and back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tracer_common::Hook;
use tracer_common::ratelimit::Key;

use crate::capture::SuppressedEvents;
use crate::conntrack::Tuple;
use crate::time::Instant;

/// The events of a key, with counts of zero.
pub fn events(key: &Key, hook: Hook) -> SuppressedEvents {
    let endpoint = |address: &[u8; 16], port: [u8; 2]| {
        let ip: IpAddr = match key.version {
            4 => Ipv4Addr::new(address[0], address[1], address[2], address[3]).into(),
            // A socket of IPv6 may carry a connection of IPv4.
            _ => Ipv6Addr::from(*address).to_canonical(),
        };
        SocketAddr::new(ip, u16::from_be_bytes(port))
    };
    let tuple = || Tuple { src: endpoint(&key.src, key.sport), dst: endpoint(&key.dst, key.dport) };
    SuppressedEvents {
        hook,
        class: key.class,
        netns: (key.netns != 0).then_some(key.netns),
        tuple: matches!(key.version, 4 | 6).then(tuple),
        count: 0,
        answered: 0,
        last: Instant(0),
    }
}

/// The key of such events.
pub fn key(events: &SuppressedEvents) -> Key {
    let address = |ip: IpAddr| match ip {
        IpAddr::V4(address) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&address.octets());
            bytes
        }
        IpAddr::V6(address) => address.octets(),
    };
    let side = |endpoint: Option<SocketAddr>| {
        endpoint.map_or(([0; 16], [0; 2]), |endpoint| (address(endpoint.ip()), endpoint.port().to_be_bytes()))
    };
    let (src, sport) = side(events.tuple.map(|tuple| tuple.src));
    let (dst, dport) = side(events.tuple.map(|tuple| tuple.dst));
    let version = match events.tuple {
        Some(tuple) if tuple.src.is_ipv4() => 4,
        Some(_) => 6,
        None => 0,
    };
    let (class, hook) = (events.class, events.hook as u16);
    Key { src, dst, sport, dport, netns: events.netns.unwrap_or_default(), class, hook, version }
}
