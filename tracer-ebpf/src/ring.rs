//! The ring buffer: a reservation is memory of the ring buffer itself, in which a hook fills in its record.

use core::ptr;

use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_boot_ns};
use aya_ebpf::macros::map;
use aya_ebpf::maps::RingBuf;
use aya_ebpf::maps::ring_buf::RingBufEntry;
use tracer_common::hook::Hook;
use tracer_common::wire::{RECORD_SIZE, Record, VERSION, present};

use crate::conntrack;
use crate::counters::count_incomplete;
use crate::destroyed;
use crate::kernel::{Address, Failed, offset};
use crate::log_call::LogCall;
use crate::packet::Skb;
use crate::socket;

/// Bytes of the ring buffer: room for about 5,000 records.
const RING_BYTES: u32 = 4 << 20;

/// Of these, the bytes for RSTs that answer packets with a record: one RST for each of some hundred CPUs.
const HEADROOM: u32 = 256 << 10;

/// The records for user space.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// Whether only the headroom is left, for RSTs that answer packets with a record.
#[inline(always)]
pub(crate) fn is_nearly_full() -> bool {
    const BPF_RB_AVAIL_DATA: u64 = 0;
    EVENTS.query(BPF_RB_AVAIL_DATA) > u64::from(RING_BYTES - HEADROOM)
}

/// Reserved memory of the ring buffer. It must end in [`Reservation::submit`]: the verifier rejects a program that drops it.
pub(crate) struct Reservation {
    entry: RingBufEntry<Record>,
}

impl Reservation {
    /// Reserves memory and fills in the fields that every record has; `None` where the ring buffer is full.
    #[inline(always)]
    pub(crate) fn new(hook: Hook, class: u32) -> Option<Self> {
        let mut entry = EVENTS.reserve::<Record>(0)?;
        let words: *mut u64 = entry.as_mut_ptr().cast();
        for word in 0..RECORD_SIZE / size_of::<u64>() {
            // SAFETY: the record is a whole number of words long.
            let word = unsafe { words.add(word) };
            // SAFETY: the ring buffer aligns the record to eight bytes. The write is volatile so that it stays a plain
            // store; a call of memset would cost a subprogram.
            unsafe { ptr::write_volatile(word, 0) };
        }
        let mut reservation = Self { entry };
        let record = reservation.record();
        // SAFETY: the helper takes no arguments.
        record.time_ns = unsafe { bpf_ktime_get_boot_ns() };
        record.version = VERSION;
        record.hook = hook as u16;
        record.class = class;
        // SAFETY: the helper takes no arguments.
        record.cpu = unsafe { bpf_get_smp_processor_id() };
        Some(reservation)
    }

    /// The record.
    #[inline(always)]
    pub(crate) fn record(&mut self) -> &mut Record {
        // SAFETY: `new` has written every byte, and every bit pattern is a valid record.
        unsafe { self.entry.assume_init_mut() }
    }

    /// Emits the record.
    #[inline(always)]
    pub(crate) fn submit(mut self) {
        let record = self.record();
        if record.present & present::INCOMPLETE != 0
            && let Some(hook) = Hook::from_number(record.hook)
        {
            count_incomplete(hook);
        }
        self.entry.submit(0);
    }

    /// Fills in the packet's headers, lengths and marks.
    #[inline(always)]
    pub(crate) fn packet(&mut self, skb: &Skb) {
        let failed = skb.write(self.record());
        self.note(failed);
    }

    /// Fills in the input interface, where it is known; `packet` fills in its index alone.
    #[inline(always)]
    pub(crate) fn interface_in(&mut self, device: Address) {
        let record = self.record();
        if !device.load(offset!(dev_name), &mut record.in_name).any() {
            record.in_index = device.read(offset!(dev_ifindex));
        }
    }

    /// Fills in hook number, interfaces and namespace from a `nf_hook_state`.
    #[inline(always)]
    pub(crate) fn hook_state(&mut self, state: Address) {
        // Little-endian: the low byte comes first whether the field has one byte or four.
        self.nf_hook(state.read(offset!(state_hook)));
        let (input, output) = (state.follow(offset!(state_in)), state.follow(offset!(state_out)));
        let record = self.record();
        record.in_index = input.read(offset!(dev_ifindex));
        record.out_index = output.read(offset!(dev_ifindex));
        // The name of an absent interface becomes empty.
        let _empty = input.load(offset!(dev_name), &mut record.in_name);
        let _empty = output.load(offset!(dev_name), &mut record.out_name);
        self.netns(state.follow(offset!(state_net)));
    }

    /// Fills in the segment that the TCP stack answers with a RST, and the socket that answers, which may be null.
    #[inline(always)]
    pub(crate) fn answered(&mut self, skb: &Skb, sk: Address) {
        self.packet(skb);
        self.interface_in(skb.device());
        self.conntrack(skb.conntrack());
        if sk.is_null() {
            self.netns(skb.route_net());
        } else {
            self.socket(sk);
        }
    }

    /// Fills in the netfilter hook.
    #[inline(always)]
    pub(crate) fn nf_hook(&mut self, hook: u8) {
        let record = self.record();
        record.nf_hook = hook;
        record.present |= present::NF_HOOK;
    }

    /// Fills in the network namespace.
    #[inline(always)]
    pub(crate) fn netns(&mut self, net: Address) {
        let record = self.record();
        let failed = net.load(offset!(net_inum), &mut record.netns);
        if !failed.any() {
            record.present |= present::NETNS;
        }
        self.note(failed);
    }

    /// Fills in the conntrack entry; a packet may have none.
    #[inline(always)]
    pub(crate) fn conntrack(&mut self, ct: Address) {
        if ct.is_null() {
            return;
        }
        let record = self.record();
        let failed = conntrack::read(ct, &mut record.ct);
        if !failed.any() {
            record.present |= present::CONNTRACK;
        }
        self.note(failed);
    }

    /// Fills in the kernel's log message.
    #[inline(always)]
    pub(crate) fn log_call(&mut self, call: &LogCall) {
        let failed = call.write(self.record());
        self.note(failed);
    }

    /// Fills in the destroyed entry that the packet would have belonged to, where the packet has none.
    #[inline(always)]
    pub(crate) fn destroyed_entry(&mut self) {
        let failed = destroyed::find_for(self.record());
        self.note(failed);
    }

    /// Fills in the socket that answers.
    #[inline(always)]
    pub(crate) fn socket(&mut self, sk: Address) {
        let record = self.record();
        record.sk = sk.number();
        let failed = sk.load(offset!(sk_state), &mut record.sk_state);
        record.present |= present::SOCKET;
        self.note(failed);
        self.netns(sk.follow(offset!(sk_net)));
    }

    /// Fills in the socket's own endpoints and numbers, and the process if the calling function acts on behalf of one.
    #[inline(always)]
    pub(crate) fn own_socket(&mut self, sk: Address, returns_to: Address) {
        let record = self.record();
        let failed = socket::read(sk, returns_to, &mut record.own);
        if !failed.any() {
            record.present |= present::OWN;
        }
        self.note(failed);
    }

    /// Clears `_nfct`, which has no meaning before conntrack has seen the packet.
    #[inline(always)]
    pub(crate) fn before_conntrack(&mut self) {
        let record = self.record();
        record.present &= !present::NFCT;
        record.nfct = 0;
    }

    /// Fills in the stack's reset reason.
    #[inline(always)]
    pub(crate) fn reset_reason(&mut self, reason: Address) {
        let record = self.record();
        record.reset_reason = reason.number() as u32;
        record.present |= present::RESET_REASON;
    }

    #[inline(always)]
    fn note(&mut self, failed: Failed) {
        if failed.any() {
            self.record().present |= present::INCOMPLETE;
        }
    }
}

/// The loader and the kernel read it: the programs call helpers that are for GPL-compatible programs only.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
