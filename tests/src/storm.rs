//! Storms: segments at the highest possible rate that a gateway answers with RSTs.
//!
//! The frames are prepared before, and sent in batches. Both ends have addresses of no host, at the stations of the lab's
//! client and server, which drop the packets: only the gateway answers.

use std::collections::HashSet;
use std::io;
use std::iter;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use etherparse::PacketBuilder;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockType, bind, sendmmsg, socket};
use serde_json::Value;

use crate::netns::Namespace;
use crate::topology::Lab;
use crate::wire::{PATIENCE, flag};

/// The client of every connection.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 77);
/// The server of every connection.
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
/// The gateway's own address: what it translates [`CLIENT`] to.
const NAT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The server's port, and one that a rule rejects.
const SERVICE: u16 = 443;
const REJECTED: u16 = 444;
/// The first port of the client's; there are 64,000 behind it.
const FIRST_PORT: u16 = 1_024;
/// Frames that are handed to the kernel at a time.
const BATCH: usize = 64;
/// First sequence numbers of both ends.
const CLIENT_ISN: u32 = 1_000_000;
const SERVER_ISN: u32 = 2_000_000;
/// Beyond any window.
const FAR: u32 = 20_000_000;

/// The segments of a storm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Segments out of the window of established connections.
    Invalid,
    /// Segments of untracked flows.
    NoEntry,
    /// Segments that a rule rejects.
    Reject,
}

/// A storm that is ready to begin.
#[derive(Debug)]
pub struct Storm {
    frames: Vec<Vec<u8>>,
    injector: Injector,
}

/// The kernel's counts of a storm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Witness {
    /// Segments of it that arrived, by nftables: those that conntrack found INVALID, or that met the rule.
    pub met: u64,
    /// RSTs that left the gateway, by nftables.
    pub resets: u64,
    /// RSTs that its TCP stack says that it has sent (`TcpOutRsts`): a rule's are not among them.
    pub stack_resets: u64,
}

impl Storm {
    /// Makes the connections that it will meet, the counters that will witness it, and a frame for each of `flows`.
    pub fn prepare(lab: &Lab, kind: Kind, flows: u16) -> Result<Self> {
        ensure!(u16::MAX - flows >= FIRST_PORT, "there are not so many ports");
        let gateway = &lab.gateway;
        let (client, server) = (hardware_address(&lab.client, "c0")?, hardware_address(&lab.server, "s0")?);
        for (interface, address, station) in [("lan0", CLIENT, client), ("wan0", SERVER, server)] {
            gateway.ip(&format!("neigh replace {address} lladdr {} dev {interface} nud permanent", text(station)))?;
        }
        let lan = Direction { from: client, to: hardware_address(gateway, "lan0")? };
        let wan = Direction { from: server, to: hardware_address(gateway, "wan0")? };
        witnesses(gateway, kind)?;
        let ports = || (0..flows).map(|number| FIRST_PORT + number);
        let inside = |port| SocketAddrV4::new(CLIENT, port);
        let outside = |port| SocketAddrV4::new(NAT, port);
        let service = SocketAddrV4::new(SERVER, SERVICE);
        let (of_client, of_server) = (Injector::open(&lab.client, "c0")?, Injector::open(&lab.server, "s0")?);
        let (client_next, server_next) = (CLIENT_ISN + 1, SERVER_ISN + 1);
        let frames = |frame: &dyn Fn(u16) -> Result<Vec<u8>>| ports().map(frame).collect::<Result<Vec<_>>>();
        Ok(match kind {
            Kind::Invalid => {
                let syn = frames(&|port| lan.frame(inside(port), service, (CLIENT_ISN, 0), flag::SYN, &[]))?;
                let both = flag::SYN | flag::ACK;
                let syn_ack = frames(&|port| wan.frame(service, outside(port), (SERVER_ISN, client_next), both, &[]))?;
                let ack = frames(&|port| lan.frame(inside(port), service, (client_next, server_next), flag::ACK, &[]))?;
                for (injector, frames) in [(&of_client, syn), (&of_server, syn_ack), (&of_client, ack)] {
                    injector.send(&frames)?;
                }
                let seq = server_next + FAR;
                let late = |port| wan.frame(service, outside(port), (seq, client_next), flag::ACK | flag::PSH, b"late");
                Self { frames: frames(&late)?, injector: of_server }
            }
            Kind::NoEntry => {
                let seq = (server_next, client_next);
                let late = |port| wan.frame(service, outside(port), seq, flag::ACK | flag::PSH, b"late");
                // Otherwise the first of each makes an entry.
                gateway.sysctl("net.netfilter.nf_conntrack_tcp_loose", "0")?;
                Self { frames: frames(&late)?, injector: of_server }
            }
            Kind::Reject => {
                let service = SocketAddrV4::new(SERVER, REJECTED);
                let syn = |port| lan.frame(inside(port), service, (CLIENT_ISN, 0), flag::SYN, &[]);
                Self { frames: frames(&syn)?, injector: of_client }
            }
        })
    }

    /// Sends `count` segments, of all flows in turn.
    pub fn break_out(&self, count: usize) -> Result<()> {
        let mut left = count;
        while left > 0 {
            let part = left.min(self.frames.len());
            self.injector.send(&self.frames[..part])?;
            left -= part;
        }
        Ok(())
    }

    /// Sends one segment of each of these flows.
    pub fn of(&self, flows: Range<usize>) -> Result<()> {
        self.injector.send(&self.frames[flows])
    }

    /// The flows that are not in a report, or not with all their segments of `count`, by their numbers.
    pub fn misreported(&self, report: &Value, count: usize) -> Vec<usize> {
        let mut reported: HashSet<(&str, u64)> = HashSet::new();
        for flow in report["flows"].as_array().into_iter().flatten() {
            let ends = ["client", "nat", "server"].into_iter().filter_map(|end| flow[end].as_str());
            reported.extend(ends.zip(iter::repeat(flow["resets"].as_u64().unwrap_or_default())));
        }
        let is_reported = |number: usize| {
            let of = self.of_flow(number, count) as u64;
            // Where there is no entry nobody knows the client; the address that it has outside has the same port.
            let ends = [CLIENT, NAT].map(|address| format!("{address}:{}", port(number)));
            ends.iter().any(|end| reported.contains(&(end.as_str(), of)))
        };
        (0..self.frames.len()).filter(|number| !is_reported(*number)).collect()
    }

    /// How many of `count` segments are of the flow with this number.
    fn of_flow(&self, number: usize, count: usize) -> usize {
        count / self.frames.len() + usize::from(number < count % self.frames.len())
    }
}

/// Rules that count, and the one that rejects.
fn witnesses(gateway: &Namespace, kind: Kind) -> Result<()> {
    let mut rules = vec![
        "add table inet witness".to_owned(),
        "add counter inet witness met".to_owned(),
        "add counter inet witness resets".to_owned(),
        "add chain inet witness arriving { type filter hook prerouting priority -150; }".to_owned(),
        "add chain inet witness leaving { type filter hook output priority 0; }".to_owned(),
        "add rule inet witness leaving tcp flags & rst == rst counter name resets".to_owned(),
    ];
    if kind == Kind::Reject {
        rules.push("add chain inet witness forward { type filter hook forward priority 0; }".to_owned());
        let reject = "counter name met reject with tcp reset";
        rules.push(format!("add rule inet witness forward tcp dport {REJECTED} {reject}"));
    } else {
        rules.push("add rule inet witness arriving iifname wan0 ct state invalid counter name met".to_owned());
    }
    rules.iter().try_for_each(|rule| gateway.run(&["nft", rule]).map(drop))
}

/// The client's port of the flow with this number; outside it is the same.
pub fn port(number: usize) -> usize {
    usize::from(FIRST_PORT) + number
}

/// The kernel's counts so far.
pub fn witness(gateway: &Namespace) -> Result<Witness> {
    let counter = |name: &str| -> Result<u64> {
        let text = gateway.run(&["nft", "list", "counter", "inet", "witness", name])?;
        let count = text.split_whitespace().skip_while(|word| *word != "packets").nth(1);
        count.and_then(|count| count.parse().ok()).with_context(|| format!("the counter {name}: {text}"))
    };
    let snmp = gateway.enter(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))?.context("net/snmp")?;
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Tcp:"));
    let (names, values) = (lines.next().context("net/snmp: no Tcp")?, lines.next().context("net/snmp: no Tcp")?);
    let resets = names.split_whitespace().zip(values.split_whitespace()).find(|(name, _)| *name == "OutRsts");
    let (_, stack) = resets.context("net/snmp: no OutRsts")?;
    Ok(Witness { met: counter("met")?, resets: counter("resets")?, stack_resets: stack.parse().context("OutRsts")? })
}

/// Waits until so many segments have arrived, and as many RSTs have left, since `before`.
pub fn wait_for(gateway: &Namespace, before: Witness, segments: usize) -> Result<()> {
    let start = Instant::now();
    loop {
        let now = witness(gateway)?;
        let (met, resets) = (now.met - before.met, now.resets - before.resets);
        if met == segments as u64 && resets == met {
            return Ok(());
        }
        ensure!(start.elapsed() < PATIENCE, "{met} of {segments} segments have arrived, {resets} RSTs have left");
    }
}

/// Between two stations.
#[derive(Debug, Clone, Copy)]
struct Direction {
    from: [u8; 6],
    to: [u8; 6],
}

impl Direction {
    fn frame(
        self,
        src: SocketAddrV4,
        dst: SocketAddrV4,
        (seq, ack): (u32, u32),
        flags: u8,
        payload: &[u8],
    ) -> Result<Vec<u8>> {
        const WINDOW: u16 = 64_240;
        let ip = PacketBuilder::ethernet2(self.from, self.to).ipv4(src.ip().octets(), dst.ip().octets(), 64);
        let mut tcp = ip.tcp(src.port(), dst.port(), seq, WINDOW);
        if flags & flag::SYN != 0 {
            tcp = tcp.syn();
        }
        if flags & flag::PSH != 0 {
            tcp = tcp.psh();
        }
        if flags & flag::ACK != 0 {
            tcp = tcp.ack(ack);
        }
        let mut frame = Vec::with_capacity(tcp.size(payload.len()));
        tcp.write(&mut frame, payload)?;
        Ok(frame)
    }
}

/// Puts frames on an interface, many at a time, and receives nothing.
#[derive(Debug)]
struct Injector {
    socket: OwnedFd,
}

impl Injector {
    fn open(namespace: &Namespace, interface: &str) -> Result<Self> {
        namespace.enter(|| {
            let mut all = getifaddrs().context("listing interfaces")?.filter(|found| found.interface_name == interface);
            let address = all.find_map(|found| found.address?.as_link_addr().copied());
            let address: LinkAddr = address.with_context(|| format!("no interface {interface}"))?;
            // Without a protocol it is given no packet.
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
            bind(socket.as_raw_fd(), &address).with_context(|| format!("binding to {interface}"))?;
            Ok(Self { socket })
        })?
    }

    fn send(&self, frames: &[Vec<u8>]) -> Result<()> {
        let mut headers = MultiHeaders::<LinkAddr>::preallocate(BATCH, None);
        let nowhere = [None; BATCH];
        let mut rest = frames;
        while !rest.is_empty() {
            let batch: Vec<[io::IoSlice<'_>; 1]> =
                rest.iter().take(BATCH).map(|frame| [io::IoSlice::new(frame)]).collect();
            let sent = sendmmsg(self.socket.as_raw_fd(), &mut headers, &batch, nowhere, [], MsgFlags::empty());
            let sent = sent.context("sending frames")?.count();
            if sent == 0 {
                bail!("the interface takes no frames");
            }
            rest = &rest[sent..];
        }
        Ok(())
    }
}

fn hardware_address(namespace: &Namespace, interface: &str) -> Result<[u8; 6]> {
    let line = namespace.ip(&format!("-o link show {interface}"))?;
    let address = line.split_whitespace().skip_while(|word| *word != "link/ether").nth(1);
    let address = address.with_context(|| format!("{interface} has no hardware address"))?;
    let bytes = address.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<u8>, _>>()?;
    bytes.try_into().map_err(|bytes| anyhow::anyhow!("{interface}: {bytes:?}"))
}

fn text(address: [u8; 6]) -> String {
    address.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}
