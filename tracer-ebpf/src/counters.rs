//! The outcome of every call of a hooked function, counted per hook and CPU.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use tracer_common::counter;
use tracer_common::hook::{self, Hook};

/// The counters. The loader makes the array as large as the number of CPUs needs it.
#[map]
static COUNTERS: Array<[u64; counter::STRIDE]> = Array::with_max_entries(hook::COUNT as u32, BPF_F_MMAPABLE);

/// Why a call of a hooked function led to no record.
pub(crate) enum Skipped {
    /// The call is not an event: another protocol, the nested call of the log functions, or an early return of the kernel.
    Passed,
    /// The rate limit suppressed the event and counted it by flow.
    Suppressed,
    /// Neither the ring buffer nor the rate limit's slots had room: the event is lost.
    Full,
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

/// Counts an emitted record.
#[inline(always)]
pub(crate) fn count_emitted(hook: Hook) {
    count(hook, counter::EMITTED);
}

/// Counts an emitted record that lacks a field.
#[inline(always)]
pub(crate) fn count_incomplete(hook: Hook) {
    count(hook, counter::INCOMPLETE);
}

/// Counts a suppressed event.
#[inline(always)]
pub(crate) fn count_suppressed(hook: Hook) {
    count(hook, counter::SUPPRESSED);
}

/// Counts a lost event.
#[inline(always)]
pub(crate) fn count_lost(hook: Hook) {
    count(hook, counter::LOST);
}

#[inline(always)]
fn count(hook: Hook, which: usize) {
    // SAFETY: the helper takes no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    if let Some(counters) = COUNTERS.get_ptr_mut(counter::index(cpu, hook.index())) {
        // SAFETY: the value belongs to this CPU alone, and `which` is below the array's length.
        unsafe { (*counters)[which] += 1 };
    }
}
