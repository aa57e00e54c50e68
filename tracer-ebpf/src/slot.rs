//! A record in the making, in the ring buffer's own memory, and the counters that tell what became of every call.

use core::ptr;

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_boot_ns};
use aya_ebpf::macros::map;
use aya_ebpf::maps::ring_buf::RingBufEntry;
use aya_ebpf::maps::{Array, RingBuf};
use tracer_common::counter;
use tracer_common::hook::{self, Hook};
use tracer_common::wire::{RECORD_SIZE, Record, VERSION, present};

use crate::Skipped;
use crate::conntrack;
use crate::flood::Case;
use crate::gone;
use crate::kernel::{Address, Failed, offset};
use crate::log_call::LogCall;
use crate::packet::Skb;
use crate::socket;

/// Bytes of the ring buffer: room for about 5,000 records.
const RING_BYTES: u32 = 4 << 20;

/// Of these, what is kept for the answers to packets that have been told of: one for each CPU, of some hundreds.
const HEADROOM: u32 = 256 << 10;

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// The loader makes it as large as there are CPUs.
#[map]
static COUNTERS: Array<[u64; counter::PLACES]> = Array::with_max_entries(hook::COUNT as u32, BPF_F_MMAPABLE);

#[inline(always)]
fn count(hook: Hook, which: usize) {
    // SAFETY: the helper takes no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    if let Some(counters) = COUNTERS.get_ptr_mut(counter::index(cpu, hook.index())) {
        // SAFETY: the value belongs to this CPU alone, and `which` is below the array's length.
        unsafe { (*counters)[which] += 1 };
    }
}

/// Counts a call of the hooked function.
#[inline(always)]
pub(crate) fn count_hit(hook: Hook) {
    count(hook, counter::HITS);
}

/// Counts a call that is not an event.
#[inline(always)]
pub(crate) fn count_passed(hook: Hook) {
    count(hook, counter::PASSED);
}

/// Counts a record handed to user space.
#[inline(always)]
pub(crate) fn count_emitted(hook: Hook) {
    count(hook, counter::EMITTED);
}

/// Counts an event that is counted with its flow instead of being told.
#[inline(always)]
pub(crate) fn count_suppressed(hook: Hook) {
    count(hook, counter::SUPPRESSED);
}

/// Whether the ring buffer has room only for what belongs to records that are in it already.
#[inline(always)]
pub(crate) fn is_nearly_full() -> bool {
    const BPF_RB_AVAIL_DATA: u64 = 0;
    EVENTS.query(BPF_RB_AVAIL_DATA) > u64::from(RING_BYTES - HEADROOM)
}

/// Counts an event lost.
#[inline(always)]
pub(crate) fn count_lost(hook: Hook) {
    count(hook, counter::LOST);
}

/// A reserved place in the ring buffer. It must end in [`Slot::submit`]: the verifier refuses a program that drops it.
pub(crate) struct Slot {
    entry: RingBufEntry<Record>,
}

impl Slot {
    /// Reserves a place and fills in what every record has.
    #[inline(always)]
    pub(crate) fn reserve(hook: Hook, case: &Case) -> Result<Self, Skipped> {
        let Some(mut entry) = EVENTS.reserve::<Record>(0) else { return Err(case.give_up()) };
        let words: *mut u64 = entry.as_mut_ptr().cast();
        for word in 0..RECORD_SIZE / size_of::<u64>() {
            // SAFETY: the record is a whole number of words long.
            let place = unsafe { words.add(word) };
            // SAFETY: the ring buffer aligns the record to eight bytes. The write is volatile so that it stays a plain
            // store; a call of memset would cost a subprogram.
            unsafe { ptr::write_volatile(place, 0) };
        }
        let mut slot = Self { entry };
        let record = slot.record();
        // SAFETY: the helper takes no arguments.
        record.time_ns = unsafe { bpf_ktime_get_boot_ns() };
        record.version = VERSION;
        record.hook = hook as u16;
        record.class = case.class;
        // SAFETY: the helper takes no arguments.
        record.cpu = unsafe { bpf_get_smp_processor_id() };
        Ok(slot)
    }

    /// The record.
    #[inline(always)]
    pub(crate) fn record(&mut self) -> &mut Record {
        // SAFETY: `reserve` has written every byte, and every bit pattern is a valid record.
        unsafe { self.entry.assume_init_mut() }
    }

    /// Hands the record to user space.
    #[inline(always)]
    pub(crate) fn submit(mut self) {
        let record = self.record();
        if record.present & present::INCOMPLETE != 0
            && let Some(hook) = Hook::from_number(record.hook)
        {
            count(hook, counter::INCOMPLETE);
        }
        self.entry.submit(0);
    }

    /// The packet's headers, lengths and marks.
    #[inline(always)]
    pub(crate) fn packet(&mut self, skb: &Skb) {
        let failed = skb.write(self.record());
        self.note(failed);
    }

    /// The interface that the packet came in by, where it is known. The index alone was there before.
    #[inline(always)]
    pub(crate) fn interface_in(&mut self, device: Address) {
        let record = self.record();
        if !device.load(offset!(dev_name), &mut record.in_name).any() {
            record.in_index = device.read(offset!(dev_ifindex));
        }
    }

    /// Hook number, interfaces and namespace from a `nf_hook_state`.
    #[inline(always)]
    pub(crate) fn hook_state(&mut self, state: Address) {
        // Little-endian: the low byte comes first whether the field has one byte or four.
        self.nf_hook(state.read(offset!(state_hook)));
        let (input, output) = (state.follow(offset!(state_in)), state.follow(offset!(state_out)));
        let record = self.record();
        record.in_index = input.read(offset!(dev_ifindex));
        record.out_index = output.read(offset!(dev_ifindex));
        // Names of interfaces that are not there become empty.
        let _empty = input.load(offset!(dev_name), &mut record.in_name);
        let _empty = output.load(offset!(dev_name), &mut record.out_name);
        self.netns(state.follow(offset!(state_net)));
    }

    /// The segment that the TCP stack answers with a RST, with the socket that does, or null.
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

    /// The netfilter hook.
    #[inline(always)]
    pub(crate) fn nf_hook(&mut self, hook: u8) {
        let record = self.record();
        record.nf_hook = hook;
        record.present |= present::NF_HOOK;
    }

    /// The network namespace.
    #[inline(always)]
    pub(crate) fn netns(&mut self, net: Address) {
        let record = self.record();
        let failed = net.load(offset!(net_inum), &mut record.netns);
        if !failed.any() {
            record.present |= present::NETNS;
        }
        self.note(failed);
    }

    /// The conntrack entry; a packet may have none.
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

    /// The kernel's own words.
    #[inline(always)]
    pub(crate) fn log_call(&mut self, call: &LogCall) {
        let failed = call.write(self.record());
        self.note(failed);
    }

    /// The entry that ended before the packet came, where the packet has none.
    #[inline(always)]
    pub(crate) fn entry_gone(&mut self) {
        let failed = gone::recall(self.record());
        self.note(failed);
    }

    /// The socket that answers.
    #[inline(always)]
    pub(crate) fn socket(&mut self, sk: Address) {
        let record = self.record();
        record.sk = sk.number();
        let failed = sk.load(offset!(sk_state), &mut record.sk_state);
        record.present |= present::SOCKET;
        self.note(failed);
        self.netns(sk.follow(offset!(sk_net)));
    }

    /// The socket's own endpoints and numbers, and the process, where the function that is returned to works for one.
    #[inline(always)]
    pub(crate) fn own_socket(&mut self, sk: Address, returns_to: Address) {
        let record = self.record();
        let failed = socket::read(sk, returns_to, &mut record.own);
        if !failed.any() {
            record.present |= present::OWN;
        }
        self.note(failed);
    }

    /// Takes back `_nfct`: conntrack has not looked at the packet yet.
    #[inline(always)]
    pub(crate) fn before_conntrack(&mut self) {
        let record = self.record();
        record.present &= !present::NFCT;
        record.nfct = 0;
    }

    /// Why the stack says it resets.
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

/// Read by the loader and by the kernel: the programs call helpers that are for GPL-compatible programs only.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
