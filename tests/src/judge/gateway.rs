//! The gateway under test, and the wires on both of its sides.

use std::cell::Cell;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, bind, socket};
use socket2::Socket;
use tracer_walk::Interface;

use super::frame::{self, Mac, Received};
use crate::netns::{LOOPBACK, Namespace};

/// What the names of all namespaces begin with.
const PREFIX: &str = "whyrst-judge";
/// The client's IPv4 and IPv6 address.
pub const CLIENT: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2))];
/// The gateway's addresses on the client's side.
pub const INSIDE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1))];
/// The gateway's addresses on the server's side, which it translates the client's to.
pub const NAT: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];
/// The server's addresses.
pub const SERVER: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2))];

/// How long an answer to ARP takes at most.
const PATIENCE: Duration = Duration::from_secs(10);

/// Hardware addresses: of the client, of the gateway on its two sides, and of the server.
const CLIENT_MAC: Mac = [2, 0, 0, 0, 0, 0x0c];
const INSIDE_MAC: Mac = [2, 0, 0, 0, 0, 0x01];
const NAT_MAC: Mac = [2, 0, 0, 0, 0, 0x02];
const SERVER_MAC: Mac = [2, 0, 0, 0, 0, 0x05];

/// A side of the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The client's.
    Lan,
    /// The server's.
    Wan,
}

/// The interfaces of a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interfaces {
    /// The one to the client.
    pub lan: String,
    /// The one to the server.
    pub wan: String,
    /// Whether the one to the client is a bridge, which the cable is a port of.
    pub bridge: bool,
    /// Others that rules name; they are bridges without a port.
    pub others: Vec<String>,
}

impl Default for Interfaces {
    fn default() -> Self {
        Self { lan: "lan".to_owned(), wan: "wan".to_owned(), bridge: false, others: Vec::new() }
    }
}

impl Interfaces {
    /// The name of the one on this side.
    pub fn name(&self, side: Side) -> &str {
        match side {
            Side::Lan => &self.lan,
            Side::Wan => &self.wan,
        }
    }
}

/// A gateway.
#[derive(Debug)]
pub struct Gateway {
    /// Its interfaces.
    pub interfaces: Interfaces,
    /// Its namespace.
    pub namespace: Namespace,
    /// The namespace of the client's and the server's interface.
    _ends: Namespace,
    /// The interfaces on the two sides, with their indices.
    sides: [Interface; 2],
    client: Wire,
    server: Wire,
    /// The gateway's own loopback interface: what it answers to itself.
    own: Wire,
    raw: [Socket; 2],
    /// Requests of ARP that have been sent.
    asked: Cell<u16>,
}

/// Packets that were seen after one had been sent.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Those that left by the interface to the client.
    pub client: Vec<Received>,
    /// Those that left by the interface to the server.
    pub server: Vec<Received>,
    /// Those on the loopback interface.
    pub own: Vec<Received>,
    /// RSTs that the TCP stack says that it has made (`TcpOutRsts`).
    pub stack_resets: u64,
    /// Whether the kernel refused to send it (`EPERM`).
    pub refused: bool,
}

impl Gateway {
    /// Wires one up that forwards. A `number` that no other living one has.
    pub fn build(interfaces: &Interfaces, number: usize) -> Result<Self> {
        let names = ["gateway", "ends"].map(|role| format!("{PREFIX}-{role}-{number}"));
        let [namespace, ends] = Namespace::create_all(names)?;
        let Interfaces { lan, wan, bridge, others } = interfaces;
        let port = if *bridge { "lan-port" } else { lan.as_str() };
        let cable = |name: &str, mac: Mac, end: &str, end_mac: Mac| {
            let peer = format!("peer name {end} address {} netns {}", frame::mac(end_mac), ends.name());
            format!("link add {name} address {} type veth {peer}", frame::mac(mac))
        };
        let mut commands =
            vec![LOOPBACK.to_owned(), cable(port, INSIDE_MAC, "c0", CLIENT_MAC), cable(wan, NAT_MAC, "s0", SERVER_MAC)];
        if *bridge {
            commands.push(format!("link add {lan} address {} type bridge", frame::mac(INSIDE_MAC)));
            commands.push(format!("link set {port} master {lan} up"));
        }
        for other in others {
            commands.push(format!("link add {other} type bridge"));
            commands.push(format!("link set {other} up"));
        }
        namespace.ip_all(&commands)?;
        ends.ip_all(&["link set c0 up", "link set s0 up"])?;
        let mut commands = Vec::new();
        let sides = [(lan, INSIDE, "/24", "/64", CLIENT, CLIENT_MAC), (wan, NAT, "/24", "/64", SERVER, SERVER_MAC)];
        for (name, [own, own6], length, length6, [end, end6], mac) in sides {
            let mac = frame::mac(mac);
            commands.extend([
                format!("link set {name} up"),
                format!("address add {own}{length} dev {name}"),
                format!("address add {own6}{length6} dev {name} nodad"),
                format!("neighbour replace {end} lladdr {mac} dev {name} nud permanent"),
                format!("neighbour replace {end6} lladdr {mac} dev {name} nud permanent"),
            ]);
        }
        namespace.ip_all(&commands)?;
        let sysctls = [
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv6.conf.all.forwarding", "1"),
            ("net.ipv4.conf.all.rp_filter", "0"),
            ("net.ipv4.conf.default.rp_filter", "0"),
            // An error for each packet: otherwise most of them are not sent.
            ("net.ipv4.icmp_ratelimit", "0"),
            ("net.ipv6.icmp.ratelimit", "0"),
            // A segment in the middle of a stream makes no entry.
            ("net.netfilter.nf_conntrack_tcp_loose", "0"),
        ];
        let (client, server) = ends.enter(|| Ok::<_, anyhow::Error>((Wire::open("c0")?, Wire::open("s0")?)))??;
        let (own, raw, sides) = namespace.enter(|| {
            for (name, value) in sysctls {
                write(&format!("/proc/sys/{}", name.replace('.', "/")), value)?;
            }
            for name in [lan, wan] {
                write(&format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "0")?;
            }
            let raw = [raw(AddressFamily::Inet)?, raw(AddressFamily::Inet6)?];
            Ok::<_, anyhow::Error>((Wire::open("lo")?, raw, [interface(lan)?, interface(wan)?]))
        })??;
        let gateway = Self {
            interfaces: interfaces.clone(),
            namespace,
            _ends: ends,
            sides,
            client,
            server,
            own,
            raw,
            asked: Cell::new(0),
        };
        for side in [Side::Lan, Side::Wan] {
            gateway.comes_up(side)?;
        }
        Ok(gateway)
    }

    /// The interface on a side.
    pub fn interface(&self, side: Side) -> Interface {
        self.sides[side as usize].clone()
    }

    /// Sends a packet to the gateway from one side, and gives what leaves it.
    pub fn arrive(&self, side: Side, packet: &[u8]) -> Result<Seen> {
        self.observe(|| {
            self.wire(side).send(&frame::ethernet(Self::macs(side), packet))?;
            Ok(false)
        })
    }

    /// Sends a packet from the gateway itself.
    pub fn leave(&self, destination: IpAddr, packet: &[u8]) -> Result<Seen> {
        self.observe(|| {
            let socket = &self.raw[usize::from(destination.is_ipv6())];
            match socket.send_to(packet, &SocketAddr::new(destination, 0).into()) {
                Ok(_) => Ok(false),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(true),
                Err(error) => Err(error).context("sending from the gateway"),
            }
        })
    }

    /// Sends a packet from the gateway itself that nobody observes.
    pub fn emit(&self, destination: IpAddr, packet: &[u8]) -> Result<()> {
        let address = SocketAddr::new(destination, 0).into();
        self.raw[usize::from(destination.is_ipv6())].send_to(packet, &address).context("sending from the gateway")?;
        Ok(())
    }

    /// Sends a packet to the gateway that nobody observes.
    pub fn inject(&self, side: Side, packet: &[u8]) -> Result<()> {
        self.wire(side).send(&frame::ethernet(Self::macs(side), packet))
    }

    /// Discards what has left so far: a socket that is full takes no more.
    pub fn discard(&self) -> Result<()> {
        [&self.client, &self.server, &self.own].into_iter().try_for_each(|wire| wire.drain().map(drop))
    }

    fn observe(&self, send: impl FnOnce() -> Result<bool>) -> Result<Seen> {
        let before = self.stack_resets()?;
        self.discard()?;
        let refused = send()?;
        let behind = self.settle(Side::Wan)?;
        let after = self.stack_resets()?;
        Ok(Seen {
            client: self.client.drain()?,
            server: [behind, self.server.drain()?].concat(),
            own: self.own.drain()?,
            stack_resets: after - before,
            refused,
        })
    }

    /// Asks for the gateway's address until it answers: an interface drops what comes before its carrier is noticed.
    fn comes_up(&self, side: Side) -> Result<()> {
        const AGAIN: Duration = Duration::from_millis(2);
        let deadline = Instant::now() + PATIENCE;
        let wire = self.wire(side);
        while Instant::now() < deadline {
            let number = self.ask(side)?;
            let next = Instant::now() + AGAIN;
            while Instant::now() < next {
                if wire.receive()? == Some(Received::ArpReply(number)) {
                    return Ok(());
                }
                std::thread::yield_now();
            }
        }
        bail!("the gateway's interface does not come up for {PATIENCE:?}")
    }

    /// Asks for the gateway's address on a side; gives the number of the request.
    fn ask(&self, side: Side) -> Result<u16> {
        let (mac, own) = match side {
            Side::Lan => (CLIENT_MAC, INSIDE[0]),
            Side::Wan => (SERVER_MAC, NAT[0]),
        };
        let IpAddr::V4(own) = own else { bail!("{own} is no IPv4 address") };
        let number = self.asked.get().wrapping_add(1);
        self.asked.set(number);
        self.wire(side).send(&frame::who_has(own, mac, number))?;
        Ok(number)
    }

    /// Waits until the gateway has worked off everything that was sent before, and gives the packets that left by this side.
    fn settle(&self, side: Side) -> Result<Vec<Received>> {
        let wire = self.wire(side);
        let number = self.ask(side)?;
        let deadline = Instant::now() + PATIENCE;
        let mut received = Vec::new();
        loop {
            match wire.receive()? {
                Some(Received::ArpReply(of)) if of == number => return Ok(received),
                Some(packet) => received.push(packet),
                None => {
                    ensure!(Instant::now() < deadline, "no answer to ARP for {PATIENCE:?}");
                    std::thread::yield_now();
                }
            }
        }
    }

    fn wire(&self, side: Side) -> &Wire {
        match side {
            Side::Lan => &self.client,
            Side::Wan => &self.server,
        }
    }

    /// Source and destination of frames to the gateway.
    const fn macs(side: Side) -> (Mac, Mac) {
        match side {
            Side::Lan => (CLIENT_MAC, INSIDE_MAC),
            Side::Wan => (SERVER_MAC, NAT_MAC),
        }
    }

    /// Makes sure that conntrack has so many entries, or more: the gateway itself may have sent something.
    pub fn entries(&self, least: usize) -> Result<()> {
        const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
        self.settle(Side::Lan)?;
        let count = self.namespace.enter(|| std::fs::read_to_string(COUNT))?.context(COUNT)?;
        let count: usize = count.trim().parse().context(COUNT)?;
        ensure!(count >= least, "conntrack has {count} entries instead of {least}");
        Ok(())
    }

    /// `TcpOutRsts` of the gateway: a rule's RST is not among them.
    fn stack_resets(&self) -> Result<u64> {
        let snmp = self.namespace.enter(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))?;
        let snmp = snmp.context("net/snmp")?;
        let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Tcp:"));
        let (names, values) = (lines.next().context("net/snmp: no Tcp")?, lines.next().context("net/snmp: no Tcp")?);
        let resets = names.split_whitespace().zip(values.split_whitespace()).find(|(name, _)| *name == "OutRsts");
        resets.and_then(|(_, value)| value.parse().ok()).context("net/snmp: no OutRsts")
    }
}

fn write(path: &str, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("{path} = {text}"))
}

fn interface(name: &str) -> Result<Interface> {
    let index = if_nametoindex(name).with_context(|| format!("no interface {name}"))?;
    Ok(Interface { name: name.to_owned(), index: Some(index) })
}

/// A raw socket that takes whole packets.
fn raw(family: AddressFamily) -> Result<Socket> {
    let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw).context("a raw socket")?;
    Ok(Socket::from(socket))
}

/// An interface: frames can be put on it, and received.
#[derive(Debug)]
struct Wire {
    socket: Socket,
}

impl Wire {
    fn open(interface: &str) -> Result<Self> {
        let mut all = getifaddrs().context("listing interfaces")?.filter(|found| found.interface_name == interface);
        let address = all.find_map(|found| found.address?.as_link_addr().copied());
        let address: LinkAddr = address.with_context(|| format!("no interface {interface}"))?;
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::EthAll,
        )?;
        bind(socket.as_raw_fd(), &address).with_context(|| format!("binding to {interface}"))?;
        Ok(Self { socket: Socket::from(socket) })
    }

    fn send(&self, frame: &[u8]) -> Result<()> {
        (&self.socket).write_all(frame).context("sending a frame")
    }

    /// The next frame that is a packet of interest.
    fn receive(&self) -> Result<Option<Received>> {
        let mut buffer = [0; 4096];
        loop {
            match (&self.socket).read(&mut buffer) {
                Ok(length) => {
                    if let Some(received) = Received::parse(&buffer[..length]) {
                        return Ok(Some(received));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error).context("receiving a frame"),
            }
        }
    }

    fn drain(&self) -> Result<Vec<Received>> {
        std::iter::from_fn(|| self.receive().transpose()).collect()
    }
}
