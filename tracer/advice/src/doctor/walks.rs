//! The packets that matter to a gateway, taken through its rules: a server's late segment to each NAT address, a client's
//! segment, a segment of the gateway's own; all INVALID.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use tracer_model::health::{Link, Namespace};
use tracer_model::ruleset::tables::Nat;
use tracer_walk::{By, Class, Consequences, Interface, Path, Reach, Walker, state};

/// Rows of one class and family, at most: a host of containers has thousands of interfaces.
const MOST: usize = 32;
/// Interfaces that are tried, those with addresses first.
const INTERFACES: usize = 64;
/// Networks of clients that are tried.
const CLIENTS: usize = 3;
/// A server somewhere in the internet, in no range that rules commonly single out.
const SERVER: (IpAddr, IpAddr) = (
    IpAddr::V4(Ipv4Addr::new(93, 184, 215, 14)),
    IpAddr::V6(Ipv6Addr::new(0x2606, 0x2800, 0x21f, 0xcb07, 0x6820, 0x80da, 0xaf6b, 0x8b2c)),
);
/// A client, where no interface has a network that it could be in.
const CLIENT: (IpAddr, IpAddr) =
    (IpAddr::V4(Ipv4Addr::new(10, 89, 7, 57)), IpAddr::V6(Ipv6Addr::new(0xfd5c, 0x89, 7, 0, 0, 0, 0, 0x57)));
/// An address of the gateway, where none is known.
const GATEWAY: (IpAddr, IpAddr) =
    (IpAddr::V4(Ipv4Addr::new(93, 184, 216, 7)), IpAddr::V6(Ipv6Addr::new(0x2606, 0x2800, 0x220, 1, 0, 0, 0, 7)));
/// The port of a typical service.
const SERVICE: u16 = 443;
/// The flags of the first packet of a connection.
const SYN: u8 = 2;
/// The name of an interface that stands for any that no rule names; too long for a real one.
const ANY: &str = "another interface";
/// The index of an interface that does not exist: no rule can ask for it.
const NO_INDEX: u32 = 0x7fff_fffe;
/// Ports that clients use, and NAT keeps where it can: IANA's dynamic ports and those of Linux
/// (`net.ipv4.ip_local_port_range`).
pub const EPHEMERAL: RangeInclusive<u16> = 32_768..=65_535;
/// A typical one of them.
const TYPICAL: u16 = 47_811;

/// What packets of a class come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The class.
    pub kind: Kind,
    /// Whether they are IPv4 packets; else IPv6.
    pub ipv4: bool,
    /// The interface that they come in by; that they leave by, of a segment of the gateway's own.
    pub interface: Option<String>,
    /// The interface that they are forwarded to.
    pub towards: Option<String>,
    /// The address of the gateway: the destination of a server's segment, the source of one of its own.
    pub address: Option<IpAddr>,
    /// Whether packets of this class are what a gateway that translates gets: they come from where it translates to.
    pub expected: bool,
    /// What they come to.
    pub consequences: Consequences,
}

/// A class of packets that conntrack has marked INVALID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A server's late segment to an address of the gateway.
    ServerSegment,
    /// A client's segment to a server.
    ClientSegment,
    /// A segment of a local socket.
    OwnSegment,
}

impl Row {
    /// The packets in words.
    pub fn packets(&self) -> String {
        let by = |name: &Option<String>| name.as_deref().map_or_else(String::new, |name| format!(" by {name}"));
        let to = |word: &str| self.address.map_or_else(String::new, |address| format!(" {word} {address}"));
        let family = if self.ipv4 { "" } else { " over IPv6" };
        match self.kind {
            Kind::ServerSegment => format!("a server's segment{}{}{family}", by(&self.interface), to("to")),
            Kind::ClientSegment => {
                let towards = self.towards.as_deref().map_or_else(String::new, |name| format!(" to {name}"));
                format!("a client's segment{}{towards}{family}", by(&self.interface))
            }
            Kind::OwnSegment => format!("a segment of this host{}{}{family}", to("from"), by(&self.interface)),
        }
    }
}

impl Kind {
    /// The word used for it in every output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ServerSegment => "server-segment",
            Self::ClientSegment => "client-segment",
            Self::OwnSegment => "own-segment",
        }
    }

    /// The netfilter hook that decides.
    pub const fn hook(self) -> &'static str {
        match self {
            Self::ServerSegment => "input",
            Self::ClientSegment => "forward",
            Self::OwnSegment => "output",
        }
    }
}

/// The walks of a namespace whose ruleset was read.
pub fn walks(namespace: &Namespace) -> Vec<Row> {
    let Some(ruleset) = &namespace.ruleset else { return Vec::new() };
    let walker = Walker::new(ruleset);
    let mut rows = Vec::new();
    for ipv4 in [true, false] {
        let gateway = Gateway::of(&walker, namespace, ipv4);
        let has_addresses = || namespace.links.iter().any(|link| of(link, ipv4).next().is_some());
        let wanted = if namespace.loaded.is_empty() {
            ipv4 || gateway.translates || has_addresses()
        } else {
            // A file has no addresses of its host: the families of its tables decide.
            ruleset.tables.iter().any(|table| table.family.sees(ipv4))
        };
        if wanted {
            gateway.server_segments(&walker, namespace, &mut rows);
            gateway.client_segments(&walker, &mut rows);
            gateway.own_segments(&walker, &mut rows);
        }
    }
    rows
}

/// What translates, and where to.
struct Gateway {
    ipv4: bool,
    translates: bool,
    /// Interfaces towards servers.
    outside: Vec<Outside>,
    /// Interfaces towards clients, with a typical client.
    inside: Vec<(Interface, IpAddr)>,
}

/// A server's segment that comes in.
struct Incoming {
    by: Option<Interface>,
    address: Option<IpAddr>,
    ports: RangeInclusive<u16>,
    expected: bool,
}

/// An interface towards servers.
struct Outside {
    interface: Interface,
    /// What clients are translated to there, and the ports; no address where it is not known.
    nat: Vec<(Option<IpAddr>, RangeInclusive<u16>)>,
}

impl Gateway {
    fn of(walker: &Walker<'_>, namespace: &Namespace, ipv4: bool) -> Self {
        let interfaces = interfaces(namespace);
        let with_address =
            interfaces.iter().filter(|(_, link)| link.is_some_and(|link| of(link, ipv4).next().is_some()));
        let mut clients: Vec<(Interface, IpAddr)> = with_address
            .filter_map(|(interface, link)| Some((interface.clone(), client((*link)?, ipv4))))
            .take(CLIENTS)
            .collect();
        clients.push((unnamed(), pick(ipv4, CLIENT)));
        let mut found: Vec<(Outside, Reach)> = Vec::new();
        for (interface, link) in &interfaces {
            let mut best: Option<(Reach, Vec<Nat>)> = None;
            for (input, client) in &clients {
                // A client is not behind the interface that its packets leave by.
                if input.name == interface.name {
                    continue;
                }
                for (nat, reach) in walker.source_nat(&outgoing(*client, input, interface, ipv4)) {
                    match &mut best {
                        Some((known, all)) if *known == reach => all.push(nat),
                        Some((known, _)) if *known < reach => {}
                        _ => best = Some((reach, vec![nat])),
                    }
                }
            }
            let Some((reach, nats)) = best else { continue };
            let mut nat = Vec::new();
            for one in nats {
                let own = || link.and_then(|link| of(link, ipv4).next());
                let (address, to) = match &one {
                    Nat::Source(to) => (to.to.first().map(|range| *range.start()).or_else(own), to),
                    Nat::Masquerade(to) => (own(), to),
                    Nat::Destination(_) | Nat::Redirect(_) => continue,
                };
                let one = (address, to.ports.clone().unwrap_or(EPHEMERAL));
                if address.is_none_or(|address| address.is_ipv4() == ipv4) && !nat.contains(&one) {
                    nat.push(one);
                }
            }
            if !nat.is_empty() {
                found.push((Outside { interface: interface.clone(), nat }, reach));
            }
        }
        let translates = !found.is_empty();
        // Where a typical client is translated on its way to some interface, those for others alone are not the way out.
        let best = found.iter().map(|(_, reach)| *reach).min();
        let mut outside: Vec<Outside> =
            found.into_iter().filter(|(_, reach)| Some(*reach) == best).map(|(one, _)| one).collect();
        // An interface without an address masquerades nothing (`nf_nat_masquerade_ipv4`).
        if outside.iter().flat_map(|one| &one.nat).any(|(address, _)| address.is_some()) {
            for one in &mut outside {
                one.nat.retain(|(address, _)| address.is_some());
            }
            outside.retain(|one| !one.nat.is_empty());
        }
        if !translates {
            outside = interfaces
                .iter()
                .filter_map(|(interface, link)| Some((interface, (*link)?)))
                .map(|(interface, link)| Outside {
                    interface: interface.clone(),
                    nat: of(link, ipv4).map(|address| (Some(address), EPHEMERAL)).collect(),
                })
                .filter(|one| !one.nat.is_empty())
                .collect();
        }
        let is_outside = |name: &str| outside.iter().any(|one| one.interface.name == name);
        let inside = interfaces
            .iter()
            .filter_map(|(interface, link)| Some((interface, (*link)?)))
            .filter(|(interface, _)| !is_outside(&interface.name))
            .map(|(interface, link)| (interface.clone(), client(link, ipv4)))
            .collect();
        Self { ipv4, translates, outside, inside }
    }

    fn server_segments(&self, walker: &Walker<'_>, namespace: &Namespace, rows: &mut Vec<Row>) {
        let mut all: Vec<Incoming> = Vec::new();
        for outside in &self.outside {
            for (address, ports) in &outside.nat {
                let by = Some(outside.interface.clone());
                all.push(Incoming { by, address: *address, ports: ports.clone(), expected: self.translates });
            }
        }
        let nat: Vec<_> = self.outside.iter().flat_map(|outside| &outside.nat).cloned().collect();
        for link in &namespace.links {
            for (address, ports) in &nat {
                let by = Some(interface(link));
                if !all.iter().any(|known| known.by == by && known.address == *address) {
                    all.push(Incoming { by, address: *address, ports: ports.clone(), expected: false });
                }
            }
        }
        if nat.is_empty() && !namespace.loaded.is_empty() {
            let by = namespace.links.iter().map(|link| Some(interface(link)));
            all.extend(by.map(|by| Incoming { by, address: None, ports: EPHEMERAL, expected: false }));
        }
        if all.is_empty() {
            all.push(Incoming { by: None, address: None, ports: EPHEMERAL, expected: false });
        }
        for Incoming { by, address, ports, expected } in all.into_iter().take(MOST) {
            let input = by.clone().unwrap_or_else(unnamed);
            let consequences = server_segment(walker, self.ipv4, input, address, &ports);
            rows.push(Row {
                kind: Kind::ServerSegment,
                ipv4: self.ipv4,
                interface: named(by.as_ref()),
                towards: None,
                address,
                expected,
                consequences,
            });
        }
    }

    fn client_segments(&self, walker: &Walker<'_>, rows: &mut Vec<Row>) {
        let mut inside: Vec<(Option<Interface>, IpAddr)> =
            self.inside.iter().map(|(one, client)| (Some(one.clone()), *client)).collect();
        if inside.is_empty() {
            inside.push((None, pick(self.ipv4, CLIENT)));
        }
        // Without translation a packet that conntrack refuses is forwarded as any other.
        let outside = self.outside.iter().filter(|_| self.translates);
        let pairs = outside.flat_map(|outside| inside.iter().map(move |inside| (outside, inside)));
        for (outside, (by, client)) in pairs.take(MOST) {
            let server = pick(self.ipv4, SERVER);
            let input = Some(by.clone().unwrap_or_else(unnamed));
            let class = Class::new(*client, server, (TYPICAL, SERVICE), state::INVALID)
                .with_data()
                .from_anywhere()
                .from_any_port()
                .to_anywhere()
                .to_ports(1, u16::MAX)
                .by(Path::Forward, input, Some(outside.interface.clone()));
            let consequences = walker.consequences(&class, ((*client, TYPICAL), (server, SERVICE)));
            rows.push(Row {
                kind: Kind::ClientSegment,
                ipv4: self.ipv4,
                interface: named(by.as_ref()),
                towards: named(Some(&outside.interface)),
                address: None,
                expected: true,
                consequences,
            });
        }
    }

    fn own_segments(&self, walker: &Walker<'_>, rows: &mut Vec<Row>) {
        for outside in self.outside.iter().take(MOST) {
            let own = outside.nat.first().and_then(|(address, _)| *address);
            let (gateway, server) = (own.unwrap_or(pick(self.ipv4, GATEWAY)), pick(self.ipv4, SERVER));
            let mut class = Class::new(gateway, server, (TYPICAL, SERVICE), state::INVALID)
                .with_data()
                .from_any_port()
                .to_anywhere()
                .to_ports(1, u16::MAX)
                .by(Path::Output, None, Some(outside.interface.clone()));
            class.socket = true;
            let consequences = walker.consequences(&class, ((gateway, TYPICAL), (server, SERVICE)));
            rows.push(Row {
                kind: Kind::OwnSegment,
                ipv4: self.ipv4,
                interface: named(Some(&outside.interface)),
                towards: None,
                address: own,
                expected: false,
                consequences,
            });
        }
    }
}

/// What becomes of a server's late segment that comes in by an interface, to an address of this host or any.
pub fn server_segment(
    walker: &Walker<'_>,
    ipv4: bool,
    input: Interface,
    address: Option<IpAddr>,
    ports: &RangeInclusive<u16>,
) -> Consequences {
    let server = pick(ipv4, SERVER);
    let gateway = address.unwrap_or(pick(ipv4, GATEWAY));
    let port = if ports.contains(&TYPICAL) { TYPICAL } else { *ports.start() };
    let mut class = Class::new(server, gateway, (SERVICE, port), state::INVALID)
        .with_data()
        .from_anywhere()
        .from_any_port()
        .to_ports(*ports.start(), *ports.end())
        .by(Path::Input, Some(input), None);
    if address.is_none() {
        class = class.to_anywhere();
    }
    walker.consequences(&class, ((server, SERVICE), (gateway, port)))
}

fn pick(ipv4: bool, (v4, v6): (IpAddr, IpAddr)) -> IpAddr {
    if ipv4 { v4 } else { v6 }
}

/// The name of an interface, unless it stands for any.
fn named(interface: Option<&Interface>) -> Option<String> {
    interface.map(|interface| interface.name.clone()).filter(|name| *name != ANY)
}

/// The interfaces of a namespace, those that only rules name, and one that none names.
fn interfaces(namespace: &Namespace) -> Vec<(Interface, Option<&Link>)> {
    let mut found: Vec<(Interface, Option<&Link>)> =
        namespace.links.iter().map(|link| (interface(link), Some(link))).collect();
    let noted = namespace.audit.iter().flat_map(|audit| &audit.noted);
    for name in noted.filter_map(|noted| noted.does.translation()?.output.as_deref()) {
        if !found.iter().any(|(known, _)| known.name == name) {
            found.push((Interface { name: name.to_owned(), index: Some(NO_INDEX) }, None));
        }
    }
    if found.is_empty() {
        found.push((unnamed(), None));
    }
    found.sort_by_key(|(_, link)| link.is_none_or(|link| link.addresses.is_empty()));
    found.truncate(INTERFACES);
    found
}

/// The first packet of a client's connection, as it leaves.
fn outgoing(client: IpAddr, from: &Interface, by: &Interface, ipv4: bool) -> Class {
    Class::new(client, pick(ipv4, SERVER), (TYPICAL, SERVICE), state::NEW)
        .with_data()
        .with_flags(SYN)
        .from_anywhere()
        .from_any_port()
        .to_anywhere()
        .to_ports(1, u16::MAX)
        .by(Path::Forward, Some(from.clone()), Some(by.clone()))
}

/// An interface that no rule names.
fn unnamed() -> Interface {
    Interface { name: ANY.to_owned(), index: Some(NO_INDEX) }
}

fn interface(link: &Link) -> Interface {
    Interface { name: link.name.clone(), index: Some(link.index) }
}

/// The addresses of an interface of one family.
fn of(link: &Link, ipv4: bool) -> impl Iterator<Item = IpAddr> {
    link.addresses.iter().map(ipnet::IpNet::addr).filter(move |address| address.is_ipv4() == ipv4)
}

/// An address of a client behind an interface: another one of its network.
fn client(link: &Link, ipv4: bool) -> IpAddr {
    let net = link.addresses.iter().find(|net| net.addr().is_ipv4() == ipv4);
    let typical = if ipv4 { CLIENT.0 } else { CLIENT.1 };
    net.and_then(|net| net.hosts().take(64).filter(|host| *host != net.addr()).last()).unwrap_or(typical)
}

/// The name of what decides, for a person.
pub fn decider(by: &By) -> String {
    match by {
        By::Rule(rule) => format!("{rule}: {}", rule.text),
        By::Policy(chain) => {
            format!("policy drop of {} {} {}", chain.backend.name(), chain.table, chain.name)
        }
        By::Nothing => "no rule".to_owned(),
    }
}
