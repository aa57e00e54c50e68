//! The records of one synthetic connection.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;
use zerocopy::{FromZeros, IntoBytes};

use tracer_common::Hook;
use tracer_common::wire::{self, Record, VERSION, caller, present};
use tracer_model::capture::{Item, SuppressedEvents};
use tracer_model::conntrack::Tuple;
use tracer_model::time::Instant;

use super::mix;

/// Inode number of the gateway's namespace.
pub(super) const GATEWAY: u32 = 4_026_531_840;

/// Ports that one client uses before the next one begins.
const PORTS: u64 = 28_000;
const FIRST_PORT: u16 = 32_768;
const HTTPS: u16 = 443;
/// Buffers that the kernel has in use; their addresses come again and again.
const BUFFERS: u64 = 4_096;
/// Suppressed segments of a sender that floods.
const FLOOD: u64 = 1_000;
/// `IP_CT_ESTABLISHED_REPLY`.
const ESTABLISHED_REPLY: u64 = 3;
/// `TCP_ESTABLISHED` of conntrack.
const ESTABLISHED: u8 = 3;
/// `IPS_*`: seen both ways, assured, confirmed, source translated.
const STATUS: u32 = 0x1e;
/// Largest window of either side.
const WINDOW: u32 = 64_240;

const SEQ_OVER: &str = "SEQ is over upper bound %u (over the window of the receiver)";
const ACK_OVER: &str = "ACK is over upper bound %u (ACKed data not seen yet)";
const ACK_UNDER: &str = "ignored ACK under lower bound %u (possible overly delayed)";

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH_ACK: u8 = 0x18;

const PRE_ROUTING: u8 = 0;
const FORWARD: u8 = 2;
const LOCAL_OUT: u8 = 3;

/// What happens to a connection, again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A segment beyond the window is refused and answered, and the RST is seen leaving.
    SeqOver,
    /// An acknowledgement of what conntrack has not seen, likewise.
    AckOver,
    /// A late acknowledgement is remarked on and let pass.
    AckUnder,
    /// A rule rejects it.
    Rejected,
    /// Its entry has expired.
    Expired,
    /// A SYN to a closed port of the gateway.
    NoListener,
}

/// A connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Connection {
    number: u64,
    kind: Kind,
    ipv6: bool,
}

/// A record, ready to be written.
pub(super) struct Made(Record, Hook);

impl Made {
    pub(super) const fn hook(&self) -> Hook {
        self.1
    }

    pub(super) const fn at(&self) -> u64 {
        self.0.time_ns
    }

    pub(super) fn item(&self) -> Item {
        Item::Record(Bytes::copy_from_slice(self.0.as_bytes()))
    }
}

impl Connection {
    /// The connection with this number.
    pub(super) fn new(number: u64) -> Self {
        let chance = mix(number.rotate_left(32));
        let kind = match chance % 100 {
            0..50 => Kind::SeqOver,
            50..58 => Kind::AckOver,
            58..75 => Kind::AckUnder,
            75..85 => Kind::Rejected,
            85..94 => Kind::Expired,
            _ => Kind::NoListener,
        };
        Self { number, kind, ipv6: (chance >> 32).is_multiple_of(16) }
    }

    /// Whether somebody is sent a RST.
    pub(super) const fn is_answered(&self) -> bool {
        !matches!(self.kind, Kind::AckUnder)
    }

    /// Client, what the server takes for the client, server.
    fn ends(&self) -> [SocketAddr; 3] {
        let host = u32::try_from(self.number / PORTS).unwrap_or(u32::MAX);
        let port = FIRST_PORT + (self.number % PORTS) as u16;
        let server = (self.number % 200) as u8 + 1;
        if self.ipv6 {
            let at = |prefix: u16, low: u32| {
                let [high, low] = [(low >> 16) as u16, low as u16];
                Ipv6Addr::new(0x2001, 0xdb8, prefix, 0, 0, 0, high, low)
            };
            [(at(1, host + 2), port), (at(2, host + 1), port), (at(3, server.into()), HTTPS)].map(SocketAddr::from)
        } else {
            let client = Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(10, 0, 0, 2)) + host);
            let translated = Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(203, 0, 113, 1)) + host);
            let server = Ipv4Addr::new(198, 51, 100, server);
            [(client, port), (translated, port), (server, HTTPS)].map(SocketAddr::from)
        }
    }

    /// Its entry's tuples.
    pub(super) fn tuples(&self) -> (Tuple, Tuple) {
        let [client, translated, server] = self.ends();
        (Tuple { src: client, dst: server }, Tuple { src: server, dst: translated })
    }

    /// The records of what happens to it for the `times`th time.
    pub(super) fn incident(&self, at: u64, times: u32) -> Vec<Made> {
        match self.kind {
            Kind::SeqOver => self.refused(at, times, SEQ_OVER, 1_000_000, 0),
            Kind::AckOver => self.refused(at, times, ACK_OVER, 0, 1_000_000),
            Kind::AckUnder => {
                let mut logged = self.of_server(Hook::CtInvalid, at, times, 0, 0_u32.wrapping_sub(400_000));
                self.entry(&mut logged);
                words(&mut logged, ACK_UNDER, "", self.base(1).wrapping_sub(66_000));
                vec![logged]
            }
            Kind::Rejected => {
                let hook = if self.ipv6 { Hook::RejectV6 } else { Hook::RejectV4 };
                let mut reset = self.of_server(hook, at, times, 0, 0);
                self.entry(&mut reset);
                (reset.0.nf_hook, reset.0.out_index) = (FORWARD, 3);
                reset.0.out_name[..4].copy_from_slice(b"lan0");
                vec![reset]
            }
            Kind::Expired => {
                let mut reset = self.of_server(self.stack(), at, times, 0, 0);
                let destroyed = &mut reset.0.destroyed;
                (destroyed.time_ns, destroyed.left, destroyed.caller) =
                    (at.saturating_sub(40_000_000_000), -1, caller::GC_WORKER);
                destroyed.ct = self.conntrack();
                reset.0.present |= present::DESTROYED | present::RESET_REASON;
                (reset.0.reset_reason, reset.0.class) = (2, 2);
                vec![reset]
            }
            Kind::NoListener => {
                let mut reset = self.of_server(self.stack(), at, times, 0, 0);
                reset.0.l4[13] = SYN;
                (reset.0.payload_len, reset.0.nfct) = (0, 0xffff_8881_0000_0000 | 2);
                vec![reset]
            }
        }
    }

    /// The suppressed events after an incident whose sender floods, and the hook of the RSTs that answer them.
    pub(super) fn suppressed(&self, at: u64) -> Option<(SuppressedEvents, Hook)> {
        let format = match self.kind {
            Kind::SeqOver => SEQ_OVER,
            Kind::AckOver => ACK_OVER,
            _ => return None,
        };
        let [_, translated, server] = self.ends();
        let events = SuppressedEvents {
            hook: Hook::CtInvalid,
            class: class(format, ""),
            netns: Some(GATEWAY),
            tuple: Some(Tuple { src: server, dst: translated }),
            count: FLOOD,
            answered: FLOOD,
            last: Instant(at),
        };
        mix(self.number ^ 2).is_multiple_of(64).then_some((events, self.stack()))
    }

    /// A refusal, the RST of the stack, and the RST at `LOCAL_OUT`, as on 6.9 and later.
    fn refused(&self, at: u64, times: u32, format: &str, seq: u32, ack: u32) -> Vec<Made> {
        let mut logged = self.of_server(Hook::CtInvalid, at, times, seq, ack);
        self.entry(&mut logged);
        words(&mut logged, format, "", self.base(0).wrapping_add(WINDOW + 1));
        let mut reset = self.of_server(self.stack(), at + 19_000, times, seq, ack);
        reset.0.nfct = 0;
        reset.0.present |= present::RESET_REASON;
        (reset.0.reset_reason, reset.0.class) = (2, 2);
        let mut leaving = self.of_server(Hook::CtMalformed, at + 24_000, times, 0, 0);
        let [_, translated, server] = self.ends();
        headers(&mut leaving.0, translated, server, self.base(1).wrapping_add(ack), 0, RST);
        (leaving.0.nfct, leaving.0.payload_len, leaving.0.in_index) = (0, 0, 0);
        leaving.0.in_name = [0; wire::NAME_SIZE];
        leaving.0.out_index = 2;
        leaving.0.out_name[..4].copy_from_slice(b"wan0");
        leaving.0.skb ^= 0x100_0000;
        words(&mut leaving, "%s", "invalid new", 0);
        leaving.0.nf_hook = LOCAL_OUT;
        vec![logged, reset, leaving]
    }

    const fn stack(&self) -> Hook {
        if self.ipv6 { Hook::ResetV6 } else { Hook::ResetV4 }
    }

    /// Where the server's (0) and the client's (1) numbers are.
    fn base(&self, side: u64) -> u32 {
        mix(self.number * 2 + side) as u32
    }

    /// A data segment of the server's, this far ahead of what conntrack has seen of both ends.
    fn of_server(&self, hook: Hook, at: u64, times: u32, seq: u32, ack: u32) -> Made {
        let [_, translated, server] = self.ends();
        let mut record = Record::new_zeroed();
        (record.version, record.hook, record.time_ns) = (VERSION, hook as u16, at);
        record.skb = 0xffff_8880_0000_0000 + mix(self.number + u64::from(times)) % BUFFERS * 0x100;
        (record.netns, record.in_index, record.cpu) = (GATEWAY, 2, (self.number % 4) as u32);
        record.in_name[..4].copy_from_slice(b"wan0");
        record.present = present::L3 | present::L4 | present::NETNS | present::NFCT;
        record.payload_len = 1_448;
        let (seq, ack) = (self.base(0).wrapping_add(seq), self.base(1).wrapping_add(ack));
        headers(&mut record, server, translated, seq, ack, PSH_ACK);
        Made(record, hook)
    }

    fn entry(&self, made: &mut Made) {
        made.0.ct = self.conntrack();
        made.0.nfct = 0xffff_8881_0000_0000 | (self.number % 0x10_0000) << 9 | ESTABLISHED_REPLY;
        made.0.present |= present::CONNTRACK | present::NF_HOOK;
        made.0.nf_hook = PRE_ROUTING;
    }

    fn conntrack(&self) -> wire::Conntrack {
        let (original, reply) = self.tuples();
        let [server, client] = [self.base(0), self.base(1)];
        let mut ct = wire::Conntrack::new_zeroed();
        ct.tuples = [original, reply].map(tuple);
        let seen = |end: u32, acknowledged: u32| {
            let mut seen = wire::Seen::new_zeroed();
            (seen.td_end, seen.td_maxend, seen.td_maxwin) = (end, end.wrapping_add(WINDOW), WINDOW);
            // IP_CT_TCP_FLAG_WINDOW_SCALE, SACK_PERM, MAXACK_SET.
            (seen.td_maxack, seen.td_scale, seen.flags) = (acknowledged, 7, 0x23);
            seen
        };
        ct.seen = [seen(client, server), seen(server, client)];
        (ct.status, ct.timeout, ct.state) = (STATUS, 4_294_900_000, ESTABLISHED);
        (ct.last_end, ct.last_dir) = (server, 1);
        ct
    }
}

fn tuple(tuple: Tuple) -> wire::Tuple {
    let mut wire = wire::Tuple::new_zeroed();
    let mut put = |address: SocketAddr, to: fn(&mut wire::Tuple) -> (&mut [u8; 16], &mut [u8; 2])| {
        let (bytes, port) = to(&mut wire);
        match address {
            SocketAddr::V4(v4) => bytes[..4].copy_from_slice(&v4.ip().octets()),
            SocketAddr::V6(v6) => *bytes = v6.ip().octets(),
        }
        *port = address.port().to_be_bytes();
    };
    put(tuple.src, |wire| (&mut wire.src, &mut wire.sport));
    put(tuple.dst, |wire| (&mut wire.dst, &mut wire.dport));
    (wire.l3num, wire.protonum) = (if tuple.src.is_ipv4() { 2 } else { 10 }, 6);
    wire
}

/// Headers without options but the time stamps that every Linux sends.
fn headers(record: &mut Record, src: SocketAddr, dst: SocketAddr, seq: u32, ack: u32, flags: u8) {
    match (src, dst) {
        (SocketAddr::V4(src), SocketAddr::V4(dst)) => {
            record.l3_len = 20;
            record.l3[..12].copy_from_slice(&[0x45, 0, 5, 0xdc, 0x12, 0x34, 0x40, 0, 57, 6, 0, 0]);
            record.l3[12..16].copy_from_slice(&src.ip().octets());
            record.l3[16..20].copy_from_slice(&dst.ip().octets());
        }
        (SocketAddr::V6(src), SocketAddr::V6(dst)) => {
            record.l3_len = 40;
            record.l3[..8].copy_from_slice(&[0x60, 0, 0, 0, 5, 0xb4, 6, 57]);
            record.l3[8..24].copy_from_slice(&src.ip().octets());
            record.l3[24..40].copy_from_slice(&dst.ip().octets());
        }
        _ => {}
    }
    record.l4_len = 32;
    record.l4[..2].copy_from_slice(&src.port().to_be_bytes());
    record.l4[2..4].copy_from_slice(&dst.port().to_be_bytes());
    record.l4[4..8].copy_from_slice(&seq.to_be_bytes());
    record.l4[8..12].copy_from_slice(&ack.to_be_bytes());
    (record.l4[12], record.l4[13]) = (8 << 4, flags);
    record.l4[14..16].copy_from_slice(&502_u16.to_be_bytes());
    record.l4[20..24].copy_from_slice(&[1, 1, 8, 10]);
    record.l4[24..28].copy_from_slice(&seq.rotate_left(7).to_be_bytes());
    record.l4[28..32].copy_from_slice(&ack.rotate_left(9).to_be_bytes());
}

/// What stands for the address that a text has in the kernel.
fn class(format: &str, text: &str) -> u32 {
    format.bytes().chain(text.bytes()).fold(0, |class, byte| mix(class ^ u64::from(byte))) as u32
}

fn words(made: &mut Made, format: &str, text: &str, number: u32) {
    let record = &mut made.0;
    record.format[..format.len()].copy_from_slice(format.as_bytes());
    record.text[..text.len()].copy_from_slice(text.as_bytes());
    record.args[0] = number;
    record.class = class(format, text);
    record.present |= present::TEXT | present::NF_HOOK | present::FORMAT_AFTER_STATE;
}
