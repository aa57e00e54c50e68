//! A hook's record, field by field: one that a later version adds does not compile until somebody has thought of it.

use bytes::Bytes;
use zerocopy::{FromZeros, IntoBytes};

use tracer_common::Hook;
use tracer_common::wire::{
    self, ARGS, Conntrack, Destroyed, HEADER_SIZE, OLDEST, OwnSocket, RECORD_SIZE, Record, Tuple, VERSION,
};
use tracer_model::conntrack::Message;
use tracer_model::decode::trimmed;
use tracer_model::headers::IpVersion;

use super::Redactor;
use super::packet;
use super::text::own_words;

/// Where the version and the hook's number are.
const HEAD: std::ops::Range<usize> = 32..36;

impl Redactor {
    /// A record of other hosts. One that this program does not understand keeps what it is not understood for, and no more.
    pub(super) fn record(&mut self, raw: &Bytes) -> Bytes {
        let mut record = Record::new_zeroed();
        match record.as_mut_bytes().get_mut(..raw.len()) {
            Some(start) => start.copy_from_slice(raw),
            None => return Bytes::from(vec![0; RECORD_SIZE + 1]),
        }
        if !(OLDEST..=VERSION).contains(&record.version) || Hook::from_number(record.hook).is_none() {
            let mut head = vec![0; HEAD.end];
            head[HEAD].copy_from_slice(&record.as_bytes()[HEAD]);
            return Bytes::from(head);
        }
        Bytes::copy_from_slice(trimmed(self.fields(&record).as_bytes()))
    }

    fn fields(&mut self, record: &Record) -> Record {
        let mut redacted = Record {
            time_ns: record.time_ns,
            skb: self.names.pointer(record.skb),
            nfct: self.names.pointer(record.nfct),
            sk: self.names.pointer(record.sk),
            version: record.version,
            hook: record.hook,
            cpu: record.cpu,
            present: record.present,
            netns: record.netns,
            mark: record.mark,
            payload_len: record.payload_len,
            in_index: record.in_index,
            out_index: record.out_index,
            reset_reason: record.reset_reason,
            nf_hook: record.nf_hook,
            sk_state: record.sk_state,
            l3_len: record.l3_len,
            l4_len: record.l4_len,
            in_name: self.interface_name(&record.in_name),
            out_name: self.interface_name(&record.out_name),
            l3: [0; HEADER_SIZE],
            l4: [0; HEADER_SIZE],
            ct: self.conntrack(&record.ct),
            args: numbers(&record.format, record.args),
            format: Self::kernel_text(&record.format),
            text: Self::kernel_text(&record.text),
            class: self.class(record.class),
            destroyed: self.destroyed(&record.destroyed),
            own: self.own(&record.own),
        };
        packet::redact(record, &mut redacted, &mut self.addresses);
        redacted
    }

    /// It is made of where the kernel keeps its texts.
    pub(super) fn class(&self, class: u32) -> u32 {
        (self.names.pointer(u64::from(class) << 3) >> 3) as u32
    }

    fn interface_name(&self, name: &[u8; wire::NAME_SIZE]) -> [u8; wire::NAME_SIZE] {
        fitted(&self.names.interface(name))
    }

    /// A format or an argument of a message of conntrack's.
    fn kernel_text<const N: usize>(text: &[u8; N]) -> [u8; N] {
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(N);
        let text = &text[..end];
        if Message::known_text(text).is_some() {
            return fitted(text);
        }
        str::from_utf8(text).map_or([0; N], |words| fitted(own_words(words).as_bytes()))
    }

    fn conntrack(&mut self, ct: &Conntrack) -> Conntrack {
        let [original, reply] = &ct.tuples;
        Conntrack { tuples: [self.wire_tuple(original), self.wire_tuple(reply)], reserved: 0, ..*ct }
    }

    fn destroyed(&mut self, destroyed: &Destroyed) -> Destroyed {
        let Destroyed { time_ns, portid, left, caller, pid, comm, ct } = destroyed;
        Destroyed {
            time_ns: *time_ns,
            portid: *portid,
            left: *left,
            caller: *caller,
            pid: *pid,
            comm: self.names.whole_bytes("proc", comm),
            ct: self.conntrack(ct),
        }
    }

    fn own(&mut self, own: &OwnSocket) -> OwnSocket {
        let OwnSocket { tuple, snd_nxt, rcv_nxt, pid, reserved: _, comm } = own;
        OwnSocket {
            tuple: self.wire_tuple(tuple),
            snd_nxt: *snd_nxt,
            rcv_nxt: *rcv_nxt,
            pid: *pid,
            reserved: 0,
            comm: self.names.whole_bytes("proc", comm),
        }
    }

    fn wire_tuple(&mut self, tuple: &Tuple) -> Tuple {
        let Tuple { src, dst, sport, dport, l3num, protonum, reserved: _ } = *tuple;
        let mut address = |bytes: [u8; 16]| {
            let mut pseudonym = [0; 16];
            if let Some(version) = IpVersion::of_l3num(l3num) {
                let field = ..version.source().len();
                if let Some(address) = version.address(&bytes[field]) {
                    packet::write(self.addresses.pseudonym(address), &mut pseudonym[field]);
                }
            }
            pseudonym
        };
        Tuple { src: address(src), dst: address(dst), sport, dport, l3num, protonum, reserved: 0 }
    }
}

/// As many bytes as there is room for, and zeros.
fn fitted<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut room = [0; N];
    for (to, from) in room.iter_mut().zip(bytes) {
        *to = *from;
    }
    room
}

/// The arguments of a format; those that are addresses of strings are nobody's business.
fn numbers(format: &[u8], mut args: [u32; ARGS]) -> [u32; ARGS] {
    let end = format.iter().position(|byte| *byte == 0).unwrap_or(format.len());
    let conversions = format[..end].split(|byte| *byte == b'%').skip(1);
    let mut numbers = [false; ARGS];
    for (number, conversion) in numbers.iter_mut().zip(conversions) {
        *number = matches!(conversion.first(), Some(b'u' | b'd'));
    }
    for (arg, number) in args.iter_mut().zip(numbers) {
        if !number {
            *arg = 0;
        }
    }
    args
}
