//! The packets that are taken through a ruleset.

use std::net::IpAddr;

use tracer_model::conntrack::Nfct;
use tracer_model::conntrack::entry::CtInfo;
use tracer_model::event::{self, Event, NfHook};
use tracer_model::ruleset::Key;

/// `ct state` of a packet: a bit of `NF_CT_STATE_*` (`include/net/netfilter/nf_conntrack.h`, `nf_conntrack_common.h`).
pub mod state {
    /// conntrack refused it, or has not seen it.
    pub const INVALID: u32 = 1;
    /// It belongs to a connection that has seen packets in both directions.
    pub const ESTABLISHED: u32 = 1 << 1;
    /// It belongs to a connection that another one announced.
    pub const RELATED: u32 = 1 << 2;
    /// It begins a connection.
    pub const NEW: u32 = 1 << 3;
    /// A rule exempted it from tracking.
    pub const UNTRACKED: u32 = 1 << 6;
}

/// Bytes of an interface's name in a register (`IFNAMSIZ`).
const NAME: usize = 16;
/// `RTN_UNICAST` and `RTN_LOCAL` (`include/uapi/linux/rtnetlink.h`).
const UNICAST: u32 = 1;
const LOCAL: u32 = 2;

/// The way of a packet through the hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    /// From the network to this host: PREROUTING, INPUT.
    Input,
    /// From the network to the network: PREROUTING, FORWARD, POSTROUTING.
    Forward,
    /// From this host: OUTPUT, POSTROUTING.
    Output,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index, where it is known.
    pub index: Option<u32>,
}

/// What is known of bytes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Every packet of the class has these.
    Exactly(Vec<u8>),
    /// A typical packet has these; others have anything from `least` to `most`.
    Usually {
        /// The typical bytes.
        typical: Vec<u8>,
        /// The lower bound, included.
        least: Vec<u8>,
        /// The upper bound, included.
        most: Vec<u8>,
    },
    /// A packet of this class has no such thing: whatever asks for it does not match.
    Absent,
    /// Nothing is known.
    Unknown,
}

impl Value {
    fn number(value: u32, length: usize) -> Self {
        Self::Exactly(shortened(value.to_be_bytes(), length))
    }
}

/// The last bytes of a number in network byte order.
fn shortened(bytes: [u8; 4], length: usize) -> Vec<u8> {
    bytes[4 - length.min(4)..].to_vec()
}

/// A byte of a header: the typical one, and the bounds.
type Byte = Option<(u8, u8, u8)>;

/// TCP packets that are alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// The way they take.
    pub path: Path,
    /// Whether they are IPv4 packets; else IPv6.
    pub ipv4: bool,
    /// The interface that they come in by.
    pub input: Option<Interface>,
    /// The interface that they leave by.
    pub output: Option<Interface>,
    /// What conntrack makes of them: one of [`state`].
    pub state: u32,
    /// `skb->mark` at the beginning.
    pub mark: u32,
    /// `enum ip_conntrack_status` of their entry; none where it is not known, or there is no entry.
    pub status: Option<u32>,
    /// Whether they travel in reply direction of their entry, where that is known.
    pub reply: Option<bool>,
    /// Whether anything of a local socket is known of them; a late segment to an address that is translated has none.
    pub socket: bool,
    /// `ct state` before the first hook of what a rule answers to a packet that conntrack has seen (`nf_ct_attach`).
    pub(crate) attached: Option<u32>,
    /// Whether source and destination are addresses of this host, where the way does not show it.
    pub(crate) local: Option<(bool, bool)>,
    network: Vec<Byte>,
    transport: Vec<Byte>,
}

impl Class {
    /// Packets with these addresses and ports, of which nothing else is known. They go to this host.
    pub fn new(source: IpAddr, destination: IpAddr, ports: (u16, u16), state: u32) -> Self {
        let ipv4 = destination.is_ipv4();
        let mut class = Self {
            path: Path::Input,
            ipv4,
            input: None,
            output: None,
            state,
            mark: 0,
            status: None,
            reply: None,
            socket: false,
            attached: None,
            local: None,
            network: vec![None; if ipv4 { 20 } else { 40 }],
            transport: vec![None; 20],
        };
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                class.set_network(0, &[0x45]);
                class.set_network(9, &[6]);
                class.set_network(12, &source.octets());
                class.set_network(16, &destination.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                class.set_network(6, &[6]);
                class.set_network(8, &source.octets());
                class.set_network(24, &destination.octets());
            }
            _ => {}
        }
        class.set_transport(0, &ports.0.to_be_bytes());
        class.set_transport(2, &ports.1.to_be_bytes());
        class
    }

    /// The packet of an event, as far as the event shows it.
    pub fn of(event: &Event) -> Option<Self> {
        let packet = event.packet.as_ref()?;
        let path = match event.nf_hook? {
            NfHook::LocalIn => Path::Input,
            NfHook::Forward | NfHook::PostRouting => Path::Forward,
            NfHook::LocalOut => Path::Output,
            NfHook::PreRouting | NfHook::Unknown(_) => return None,
        };
        let (state, reply) = match event.nfct? {
            Nfct::None => (state::INVALID, None),
            Nfct::Untracked => (state::UNTRACKED, None),
            Nfct::Entry(CtInfo::Established) => (state::ESTABLISHED, Some(false)),
            Nfct::Entry(CtInfo::EstablishedReply) => (state::ESTABLISHED, Some(true)),
            Nfct::Entry(CtInfo::Related) => (state::RELATED, Some(false)),
            Nfct::Entry(CtInfo::RelatedReply) => (state::RELATED, Some(true)),
            Nfct::Entry(CtInfo::New) => (state::NEW, Some(false)),
            Nfct::Entry(CtInfo::Unknown(_)) => return None,
        };
        let (src, dst) = (packet.src, packet.dst);
        let mut class = Self::new(src.ip(), dst.ip(), (src.port(), dst.port()), state);
        class.set_transport(4, &packet.seq.0.to_be_bytes());
        class.set_transport(8, &packet.ack.0.to_be_bytes());
        class.set_transport(13, &[packet.flags.0]);
        class.set_transport(14, &packet.window.to_be_bytes());
        class.set_network(if class.ipv4 { 8 } else { 7 }, &[packet.ttl]);
        if class.ipv4 {
            class.set_network(1, &[packet.tos]);
            if let Some(id) = packet.ip_id {
                class.set_network(4, &id.to_be_bytes());
            }
        }
        let named = |device: Option<event::Interface>| {
            let device = device.filter(|device| !device.name.as_str().is_empty())?;
            Some(Interface { name: device.name.as_str().to_owned(), index: Some(device.index) })
        };
        (class.path, class.input, class.output) = (path, named(event.input), named(event.output));
        (class.reply, class.socket) = (reply, true);
        // Without the interfaces that its way has, nothing that asks for them is known.
        let known = match path {
            Path::Input => class.input.is_some(),
            Path::Forward => class.input.is_some() && class.output.is_some(),
            Path::Output => class.output.is_some(),
        };
        known.then_some(class)
    }

    /// Segments of data as a server sends them: PSH, ACK, a length, a TTL and a window that vary.
    #[must_use]
    pub fn with_data(mut self) -> Self {
        self.set_transport(13, &[0x18]);
        self.vary_transport(4, &[0x51; 4], &[0; 4], &[0xff; 4]);
        self.vary_transport(8, &[0x52; 4], &[0; 4], &[0xff; 4]);
        self.vary_transport(12, &[0x80], &[0x50], &[0xf0]);
        self.vary_transport(14, &[0x01, 0xf5], &[0; 2], &[0xff; 2]);
        self.vary_transport(16, &[0x53; 2], &[0; 2], &[0xff; 2]);
        self.set_transport(18, &[0, 0]);
        if self.ipv4 {
            self.vary_network(0, &[0x45], &[0x45], &[0x4f]);
            self.vary_network(1, &[0], &[0], &[0xff]);
            self.vary_network(2, &1052u16.to_be_bytes(), &40u16.to_be_bytes(), &[0xff; 2]);
            self.vary_network(4, &[0x54; 2], &[0; 2], &[0xff; 2]);
            self.set_network(6, &[0x40, 0]);
            self.vary_network(8, &[57], &[1], &[0xff]);
            self.vary_network(10, &[0x55; 2], &[0; 2], &[0xff; 2]);
        } else {
            self.vary_network(0, &[0x60, 0, 0, 0], &[0x60, 0, 0, 0], &[0x6f, 0xff, 0xff, 0xff]);
            self.vary_network(4, &1032u16.to_be_bytes(), &20u16.to_be_bytes(), &[0xff; 2]);
            self.vary_network(7, &[57], &[1], &[0xff]);
        }
        self
    }

    /// Segments without data, options or a window, as a RST is (`tcp_v4_send_reset`, `nf_reject_ip_tcphdr_put`); the TTL is
    /// usually that of Linux.
    #[must_use]
    pub fn with_reset(self, flags: u8) -> Self {
        const BYTES: u16 = 20;
        let mut reset = self.with_data().with_flags(flags);
        reset.set_transport(12, &[0x50]);
        reset.set_transport(14, &[0, 0]);
        if reset.ipv4 {
            reset.set_network(0, &[0x45]);
            reset.set_network(2, &(20 + BYTES).to_be_bytes());
            reset.vary_network(8, &[64], &[1], &[0xff]);
        } else {
            reset.set_network(4, &BYTES.to_be_bytes());
            reset.vary_network(7, &[64], &[1], &[0xff]);
        }
        reset
    }

    /// With these TCP flags (byte 13 of the header).
    #[must_use]
    pub fn with_flags(mut self, flags: u8) -> Self {
        self.set_transport(13, &[flags]);
        self
    }

    /// From any address; the one that it was made with is typical.
    #[must_use]
    pub fn from_anywhere(mut self) -> Self {
        let (at, length) = if self.ipv4 { (12, 4) } else { (8, 16) };
        self.vary(at, length, false, 0, 0xff);
        self
    }

    /// To any address; the one that it was made with is typical.
    #[must_use]
    pub fn to_anywhere(mut self) -> Self {
        let (at, length) = if self.ipv4 { (16, 4) } else { (24, 16) };
        self.vary(at, length, false, 0, 0xff);
        self
    }

    /// From any port; the one that it was made with is typical.
    #[must_use]
    pub fn from_any_port(mut self) -> Self {
        self.vary(0, 2, true, 0, 0xff);
        self
    }

    /// To a port from `least` to `most`; the one that it was made with is typical.
    #[must_use]
    pub fn to_ports(mut self, least: u16, most: u16) -> Self {
        for (at, (least, most)) in (2..).zip(least.to_be_bytes().into_iter().zip(most.to_be_bytes())) {
            if let Some(byte) = self.transport.get_mut(at) {
                *byte = byte.map(|(typical, ..)| (typical, least, most));
            }
        }
        self
    }

    /// On this way, by these interfaces.
    #[must_use]
    pub fn by(mut self, path: Path, input: Option<Interface>, output: Option<Interface>) -> Self {
        (self.path, self.input, self.output) = (path, input, output);
        self
    }

    /// Sets bytes of the IP header that all packets have.
    pub fn set_network(&mut self, at: usize, bytes: &[u8]) {
        set(&mut self.network, at, bytes, bytes, bytes);
    }

    /// Sets bytes of the TCP header that all packets have.
    pub fn set_transport(&mut self, at: usize, bytes: &[u8]) {
        set(&mut self.transport, at, bytes, bytes, bytes);
    }

    fn vary_network(&mut self, at: usize, typical: &[u8], least: &[u8], most: &[u8]) {
        set(&mut self.network, at, typical, least, most);
    }

    fn vary_transport(&mut self, at: usize, typical: &[u8], least: &[u8], most: &[u8]) {
        set(&mut self.transport, at, typical, least, most);
    }

    fn vary(&mut self, at: usize, length: usize, transport: bool, least: u8, most: u8) {
        let header = if transport { &mut self.transport } else { &mut self.network };
        for byte in header.iter_mut().skip(at).take(length) {
            *byte = byte.map(|(typical, ..)| (typical, least, most));
        }
    }

    /// What is known of `length` bytes of a key, but for what rules change on the way: `ct state` and the mark.
    pub fn value(&self, key: Key, length: usize) -> Value {
        let name = |interface: &Option<Interface>| match interface {
            Some(interface) => Value::Exactly(padded(&interface.name, length)),
            // `nft_meta_store_ifname`, `nft_meta_store_ifindex` and `ip_packet_match`: an empty name, and index 0.
            None => Value::Exactly(vec![0; length]),
        };
        let index = |interface: &Option<Interface>| match interface {
            Some(Interface { index: Some(index), .. }) => Value::number(*index, length),
            Some(_) => Value::Unknown,
            None => Value::number(0, length),
        };
        let tracked = self.state & (state::INVALID | state::UNTRACKED) == 0;
        let of_entry = |value: Option<u32>| match value {
            _ if !tracked => Value::Absent,
            Some(value) => Value::number(value, length),
            None => Value::Unknown,
        };
        match key {
            Key::InputName => name(&self.input),
            Key::OutputName => name(&self.output),
            Key::InputIndex => index(&self.input),
            Key::OutputIndex => index(&self.output),
            Key::Transport => Value::Exactly(vec![6]),
            Key::Family => Value::Exactly(vec![if self.ipv4 { 2 } else { 10 }]),
            Key::EtherType => Value::Exactly(if self.ipv4 { vec![0x08, 0x00] } else { vec![0x86, 0xdd] }),
            Key::NetworkHeader { offset } => slice(&self.network, offset, length),
            Key::TransportHeader { offset } => slice(&self.transport, offset, length),
            Key::LinkHeader { .. } => {
                Value::Usually { typical: vec![0x5e; length], least: vec![0; length], most: vec![0xff; length] }
            }
            Key::Length => self.length(length),
            Key::PacketType => Value::Exactly(vec![0]),
            Key::ConnectionStatus => of_entry(self.status),
            Key::ConnectionDirection => of_entry(self.reply.map(u32::from)),
            Key::ConnectionMark | Key::Connection => of_entry(None),
            Key::AddressType { source, .. } if let Some((from, to)) = self.local => {
                let local = if source { from } else { to };
                Value::number(if local { LOCAL } else { UNICAST }, length)
            }
            Key::AddressType { source: false, .. } if self.path == Path::Input => Value::number(LOCAL, length),
            Key::AddressType { source: true, .. } if self.path == Path::Output => Value::number(LOCAL, length),
            Key::AddressType { .. } => Value::number(UNICAST, length),
            Key::ReversePath => Value::Usually { typical: vec![1], least: vec![0], most: vec![1] },
            Key::Socket if !self.socket => Value::Absent,
            Key::Ipsec => Value::Usually { typical: vec![0], least: vec![0], most: vec![1] },
            // The walk knows these two.
            Key::State | Key::Mark | Key::Socket | Key::Unknown => Value::Unknown,
        }
    }
}

impl Class {
    /// The same packets behind `ip_forward` and `ip6_forward`, which lower the TTL before FORWARD.
    pub(crate) fn forwarded(&self) -> Self {
        let mut class = self.clone();
        let ttl = if class.ipv4 { 8 } else { 7 };
        if let Some(Some((typical, least, most))) = class.network.get_mut(ttl) {
            for value in [typical, least, most] {
                *value = value.saturating_sub(1);
            }
        }
        class
    }

    /// `skb->len`: that of the whole packet.
    fn length(&self, length: usize) -> Value {
        const IPV6: u32 = 40;
        let (at, more) = if self.ipv4 { (2, 0) } else { (4, IPV6) };
        let whole = |bytes: Vec<u8>| {
            let bytes = bytes.try_into().map_or(0, u16::from_be_bytes);
            shortened((u32::from(bytes) + more).to_be_bytes(), length)
        };
        match slice(&self.network, at, 2) {
            Value::Exactly(bytes) => Value::Exactly(whole(bytes)),
            Value::Usually { typical, least, most } => {
                Value::Usually { typical: whole(typical), least: whole(least), most: whole(most) }
            }
            other => other,
        }
    }
}

/// A name as it is in a register.
fn padded(name: &str, length: usize) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(NAME.max(bytes.len()), 0);
    bytes.truncate(length);
    bytes
}

fn set(header: &mut [Byte], at: usize, typical: &[u8], least: &[u8], most: &[u8]) {
    for (byte, ((typical, least), most)) in header.iter_mut().skip(at).zip(typical.iter().zip(least).zip(most)) {
        *byte = Some((*typical, *least, *most));
    }
}

fn slice(header: &[Byte], offset: u32, length: usize) -> Value {
    let first = usize::try_from(offset).unwrap_or(usize::MAX);
    let wanted = first.checked_add(length).and_then(|end| header.get(first..end));
    let Some(bytes) = wanted.and_then(|bytes| bytes.iter().copied().collect::<Option<Vec<_>>>()) else {
        return Value::Unknown;
    };
    let typical = bytes.iter().map(|(typical, ..)| *typical).collect();
    if bytes.iter().all(|(_, least, most)| least == most) {
        return Value::Exactly(typical);
    }
    let least = bytes.iter().map(|(_, least, _)| *least).collect();
    let most = bytes.iter().map(|(.., most)| *most).collect();
    Value::Usually { typical, least, most }
}
