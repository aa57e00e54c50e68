//! The packets that each ruleset is sent, and the class that each is an example of.

use std::net::SocketAddr;

use anyhow::Result;
use tracer_walk::{Class, Path, state};

use super::frame::Segment;
use super::gateway::{CLIENT, Gateway, INSIDE, NAT, SERVER, Side};
use crate::wire::flag;

/// Where connections are made to.
const SERVICE: u16 = 443;
/// The port of INVALID segments, which have no entry.
const LATE: u16 = 40_000;
/// The first port of connections that begin, and of those that are established: each ruleset of a gateway has its own.
const BEGINNING: u16 = 10_000;
const ESTABLISHED: u16 = 20_000;
/// That of connections to a port that may be translated to the port of another one.
const PUBLISHED: u16 = 30_000;
/// Rulesets that a gateway can have one after the other.
pub const TURNS: u16 = 10_000;
/// The numbers of a typical data segment, as [`Class::with_data`] has them.
const SEQ: u32 = 0x5151_5151;
const ACK: u32 = 0x5252_5252;
const PAYLOAD: usize = 1_000;
/// `IPS_SEEN_REPLY`, `IPS_ASSURED`, `IPS_CONFIRMED` (`enum ip_conntrack_status`).
const ASSURED: u32 = 0x2 | 0x4 | 0x8;

/// The addresses of both families are in arrays in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ip {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// How a packet comes to the gateway, and where it is addressed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It arrives, for the gateway itself.
    Input(Side),
    /// It arrives from this side, for the other one.
    Forward(Side),
    /// The gateway sends it to the server.
    Output,
}

/// A packet that is sent.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Its name.
    pub name: String,
    /// Its way.
    pub way: Way,
    /// What conntrack makes of it: one of [`state`].
    pub state: u32,
    /// Whether it travels in reply direction of its entry.
    pub reply: bool,
    /// The segment.
    pub segment: Segment,
}

impl Probe {
    /// All of them, for a ruleset that is the `turn`th of its gateway.
    pub fn all(ip: Ip, turn: u16) -> Vec<Self> {
        let [client, inside, nat, server] = [CLIENT, INSIDE, NAT, SERVER].map(|addresses| addresses[ip as usize]);
        let at = SocketAddr::new;
        let suffix = match ip {
            Ip::V4 => "",
            Ip::V6 => "-v6",
        };
        let probe = |name: &str, way, state, src, dst| {
            let flags = if state == state::NEW { flag::SYN } else { flag::PSH | flag::ACK };
            let (seq, ack, len) = if state == state::NEW { (SEQ, 0, 0) } else { (SEQ, ACK, PAYLOAD) };
            let segment = Segment { src, dst, flags, seq, ack, len };
            Self { name: format!("{name}{suffix}"), way, state, reply: false, segment }
        };
        let (invalid, new, established) = (state::INVALID, state::NEW, state::ESTABLISHED);
        let (lan, wan) = (Side::Lan, Side::Wan);
        let service = at(server, SERVICE);
        let (beginning, lasting) = (BEGINNING + turn, ESTABLISHED + turn);
        let answer = |mut probe: Self| {
            probe.reply = true;
            (probe.segment.seq, probe.segment.ack) = (ACK, SEQ);
            probe
        };
        vec![
            probe("input-wan-invalid", Way::Input(wan), invalid, service, at(nat, LATE)),
            probe("input-lan-invalid", Way::Input(lan), invalid, at(client, SERVICE), at(nat, LATE)),
            probe("input-lan-own-invalid", Way::Input(lan), invalid, at(client, LATE), at(inside, 22)),
            probe("input-wan-syn", Way::Input(wan), new, at(server, beginning), at(nat, 22)),
            probe("input-wan-syn-80", Way::Input(wan), new, at(server, PUBLISHED + turn), at(nat, 80)),
            probe("input-lan-syn", Way::Input(lan), new, at(client, beginning), at(inside, 22)),
            answer(probe("input-established", Way::Input(wan), established, service, at(nat, lasting))),
            probe("forward-invalid", Way::Forward(lan), invalid, at(client, LATE), service),
            probe("forward-back-invalid", Way::Forward(wan), invalid, service, at(client, LATE)),
            probe("forward-syn", Way::Forward(lan), new, at(client, beginning), service),
            probe("forward-back-syn", Way::Forward(wan), new, at(server, beginning), at(client, 80)),
            probe("forward-established", Way::Forward(lan), established, at(client, lasting), service),
            answer(probe("forward-back-established", Way::Forward(wan), established, service, at(client, lasting))),
            probe("output-invalid", Way::Output, invalid, at(nat, LATE + 1), service),
            probe("output-syn", Way::Output, new, at(nat, beginning), at(server, 80)),
        ]
    }

    /// Makes the entries that the established ones belong to; the gateway must not have a rule yet.
    pub fn establish(gateway: &Gateway, ip: Ip, turn: u16) -> Result<()> {
        let [client, nat, server] = [CLIENT, NAT, SERVER].map(|addresses| addresses[ip as usize]);
        let service = SocketAddr::new(server, SERVICE);
        let segment = |src, dst, flags, seq, ack| Segment { src, dst, flags, seq, ack, len: 0 }.packet();
        for (end, own) in [(client, false), (nat, true)] {
            let end = SocketAddr::new(end, ESTABLISHED + turn);
            let syn = segment(end, service, flag::SYN, SEQ - 1, 0)?;
            let syn_ack = segment(service, end, flag::SYN | flag::ACK, ACK - 1, SEQ)?;
            let ack = segment(end, service, flag::ACK, SEQ, ACK)?;
            for (packet, answers) in [(syn, false), (syn_ack, true), (ack, false)] {
                match (answers, own) {
                    (true, _) => gateway.inject(Side::Wan, &packet)?,
                    (false, false) => gateway.inject(Side::Lan, &packet)?,
                    (false, true) => gateway.emit(server, &packet)?,
                }
            }
        }
        gateway.discard()
    }

    /// The class that it is a typical packet of.
    pub fn class(&self, gateway: &Gateway) -> Result<Class> {
        let Segment { src, dst, .. } = self.segment;
        let interface = |side| gateway.interface(side);
        let mut class = Class::new(src.ip(), dst.ip(), (src.port(), dst.port()), self.state);
        class = match self.way {
            Way::Input(side) => class.by(Path::Input, Some(interface(side)), None),
            Way::Forward(Side::Lan) => class.by(Path::Forward, Some(interface(Side::Lan)), Some(interface(Side::Wan))),
            Way::Forward(Side::Wan) => class.by(Path::Forward, Some(interface(Side::Wan)), Some(interface(Side::Lan))),
            Way::Output => class.by(Path::Output, None, Some(interface(Side::Wan))),
        };
        if self.state == state::INVALID {
            class = class.with_data();
        } else {
            let packet = self.segment.packet()?;
            let (network, transport) = packet.split_at(if src.is_ipv4() { 20 } else { 40 });
            class.set_network(0, network);
            class.set_transport(0, &transport[..20]);
        }
        class.status = match self.state {
            state::ESTABLISHED => Some(ASSURED),
            state::NEW => Some(0),
            _ => None,
        };
        class.reply = (self.state != state::INVALID).then_some(self.reply);
        class.socket = self.way == Way::Output;
        Ok(class)
    }
}
