//! Building events by hand: the raw material of the unit tests.

pub mod doctor;

use bytes::Bytes;
use zerocopy::{FromZeros, IntoBytes};

use tracer_common::Hook;
use tracer_common::wire::{self, Record, VERSION, present};
use tracer_model::decode::decode;
use tracer_model::event::Event;

/// The inode number of the gateway's namespace.
pub const GATEWAY: u32 = 4_026_531_840;
/// `IP_CT_ESTABLISHED_REPLY`.
pub const REPLY: u64 = 3;
/// `IP_CT_NEW`.
pub const NEW: u64 = 2;

/// A record in the making: a segment of the server's at a SNAT gateway, and its entry.
///
/// 10.0.0.2:34567 → 192.0.2.1:34567 → 192.0.2.2:443, as in the documentation.
#[derive(Debug, Clone, Copy)]
pub struct Build {
    /// What has been made of it so far.
    pub record: Record,
}

const CLIENT: [u8; 4] = [10, 0, 0, 2];
const NAT: [u8; 4] = [192, 0, 2, 1];
const SERVER: [u8; 4] = [192, 0, 2, 2];
const CLIENT_PORT: u16 = 34567;
const SERVER_PORT: u16 = 443;

impl Build {
    /// A data segment of the server's, 1000 bytes from `seq` on, that acknowledges `ack`.
    pub fn from_server(hook: Hook, skb: u64, time_ns: u64, seq: u32, ack: u32) -> Self {
        let mut record = Record::new_zeroed();
        record.version = VERSION;
        record.hook = hook as u16;
        record.time_ns = time_ns;
        record.skb = skb;
        record.netns = GATEWAY;
        record.in_index = 2;
        record.in_name[..2].copy_from_slice(b"s0");
        record.present = present::L3 | present::L4 | present::NETNS | present::NFCT;
        let mut build = Self { record };
        build.headers(SERVER, SERVER_PORT, NAT, CLIENT_PORT);
        build.record.l4[4..8].copy_from_slice(&seq.to_be_bytes());
        build.record.l4[8..12].copy_from_slice(&ack.to_be_bytes());
        build.record.l4[13] = 0x18;
        build.record.payload_len = 1_000;
        build
    }

    fn headers(&mut self, src: [u8; 4], sport: u16, dst: [u8; 4], dport: u16) {
        let record = &mut self.record;
        record.l3_len = 20;
        record.l3[..20].copy_from_slice(&[0x45, 0, 4, 16, 0x12, 0x34, 0x40, 0, 64, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        record.l3[12..16].copy_from_slice(&src);
        record.l3[16..20].copy_from_slice(&dst);
        record.l4_len = 20;
        record.l4[..2].copy_from_slice(&sport.to_be_bytes());
        record.l4[2..4].copy_from_slice(&dport.to_be_bytes());
        record.l4[12] = 5 << 4;
        record.l4[14..16].copy_from_slice(&500u16.to_be_bytes());
    }

    /// With other endpoints.
    ///
    /// # Panics
    ///
    /// Never: a header is longer than what is kept of it.
    #[must_use]
    pub fn between(mut self, src: ([u8; 4], u16), dst: ([u8; 4], u16)) -> Self {
        let kept: [u8; 10] = self.record.l4[4..14].try_into().unwrap();
        self.headers(src.0, src.1, dst.0, dst.1);
        self.record.l4[4..12].copy_from_slice(&kept[..8]);
        self.record.l4[13] = kept[9];
        self
    }

    /// With other flags.
    #[must_use]
    pub fn flags(mut self, flags: u8) -> Self {
        self.record.l4[13] = flags;
        self
    }

    /// With an entry whose server has sent up to `server_end` and whose client acknowledged all of it, with a window of
    /// 32121 bytes; the client has sent up to `client_end`, all of it acknowledged.
    #[must_use]
    pub fn entry(mut self, info: u64, server_end: u32, client_end: u32) -> Self {
        let tuple = |src: [u8; 4], sport: u16, dst: [u8; 4], dport: u16| {
            let mut tuple = wire::Tuple::new_zeroed();
            tuple.src[..4].copy_from_slice(&src);
            tuple.dst[..4].copy_from_slice(&dst);
            tuple.sport = sport.to_be_bytes();
            tuple.dport = dport.to_be_bytes();
            tuple.l3num = 2;
            tuple.protonum = 6;
            tuple
        };
        let ct = &mut self.record.ct;
        ct.tuples[0] = tuple(CLIENT, CLIENT_PORT, SERVER, SERVER_PORT);
        ct.tuples[1] = tuple(SERVER, SERVER_PORT, NAT, CLIENT_PORT);
        ct.status = 0x1e;
        ct.state = 3;
        let seen = |td_end: u32, td_maxend: u32, td_maxwin: u32, td_maxack: u32| {
            let mut seen = wire::Seen::new_zeroed();
            (seen.td_end, seen.td_maxend, seen.td_maxwin, seen.td_maxack) = (td_end, td_maxend, td_maxwin, td_maxack);
            // IP_CT_TCP_FLAG_MAXACK_SET
            seen.flags = 0x20;
            seen
        };
        ct.seen[0] = seen(client_end, client_end.wrapping_add(64_000), 32_121, server_end);
        ct.seen[1] = seen(server_end, server_end.wrapping_add(32_121), 64_000, client_end);
        self.record.nfct = 0xffff_8880_0000_1000 | info;
        self.record.present |= present::CONNTRACK;
        self
    }

    /// Without an entry, of a connection whose entry ended at `time_ns`: in this state, with this much of its timeout left,
    /// by this caller of `nf_ct_delete`, for this netlink port.
    #[must_use]
    pub fn destroyed(mut self, time_ns: u64, state: u8, left: i32, caller: u32, portid: u32) -> Self {
        let with_entry = self.entry(REPLY, 3_271_668_047, 2_102_471_179);
        let destroyed = &mut self.record.destroyed;
        destroyed.ct = with_entry.record.ct;
        destroyed.ct.state = state;
        (destroyed.time_ns, destroyed.left, destroyed.caller, destroyed.portid) = (time_ns, left, caller, portid);
        if portid != 0 {
            destroyed.pid = 4_711;
            destroyed.comm[..9].copy_from_slice(b"conntrack");
        }
        self.record.present |= present::DESTROYED;
        self
    }

    /// Of a connection that is not translated.
    #[must_use]
    pub fn untranslated(mut self) -> Self {
        self.record.ct.tuples[0].src = self.record.ct.tuples[1].dst;
        self
    }

    /// An old ACK, which answers the SYN of a connection that a socket of this host opens.
    pub fn old_ack(hook: Hook, time_ns: u64) -> Self {
        let mut build = Self::from_server(hook, 0xffff_8881_0000_0100, time_ns, 1_000, 2_000).flags(0x10);
        build.record.payload_len = 0;
        build
    }

    /// What conntrack of 5.15 and later remarks on it: it is let pass.
    pub fn ignored_old_ack(time_ns: u64) -> Self {
        const SYN_SENT: u8 = 1;
        let mut build = Self::old_ack(Hook::CtInvalid, time_ns).entry(REPLY, 0, 100_000).untranslated();
        let ct = &mut build.record.ct;
        (ct.status, ct.state, ct.seen[1]) = (0, SYN_SENT, wire::Seen::new_zeroed());
        build.record.args[1] = 1;
        build.words("packet (index %d) in dir %d ignored, state %s", "SYN_SENT", 3)
    }

    /// With another original client port, so that it is another connection.
    #[must_use]
    pub fn connection(mut self, port: u16) -> Self {
        let port = port.to_be_bytes();
        self.record.ct.tuples[0].sport = port;
        self.record.ct.tuples[1].dport = port;
        self.record.l4[2..4].copy_from_slice(&port);
        self
    }

    /// With the kernel's words: a format, its string argument, its first number.
    #[must_use]
    pub fn words(mut self, format: &str, text: &str, number: u32) -> Self {
        self.record.format[..format.len()].copy_from_slice(format.as_bytes());
        self.record.text[..text.len()].copy_from_slice(text.as_bytes());
        self.record.args[0] = number;
        self.record.present |= present::TEXT;
        self
    }

    /// At a netfilter hook.
    #[must_use]
    pub fn at(mut self, nf_hook: u8) -> Self {
        self.record.nf_hook = nf_hook;
        self.record.present |= present::NF_HOOK;
        self
    }

    /// In another namespace.
    #[must_use]
    pub fn netns(mut self, netns: u32) -> Self {
        self.record.netns = netns;
        self
    }

    /// With a socket in this state.
    #[must_use]
    pub fn socket(mut self, state: u8) -> Self {
        self.record.sk = 0xffff_8880_0000_2000;
        self.record.sk_state = state;
        self.record.present |= present::SOCKET;
        self
    }

    /// The bytes of the record.
    pub fn bytes(&self) -> Bytes {
        Bytes::copy_from_slice(self.record.as_bytes())
    }

    /// The event.
    ///
    /// # Panics
    ///
    /// If the test made a record that is none.
    pub fn event(&self) -> Event {
        decode(&self.bytes()).unwrap()
    }
}
