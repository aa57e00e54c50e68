//! The caller of a hooked function: the kernel function by its return address, and the running process.

use aya_ebpf::helpers::generated::{bpf_get_current_comm, bpf_get_current_pid_tgid};
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use tracer_common::wire::{CALLER_RANGES, caller};

use crate::kernel::Address;

/// Start, end and value of the functions of [`caller`]. User space writes it again when a module is loaded, because the
/// functions of the module move.
#[map]
static CALLERS: Array<[[u64; 3]; CALLER_RANGES]> = Array::with_max_entries(1, 0);

/// The known function that contains an address: a value of [`caller`].
#[inline(always)]
pub(crate) fn function_at(address: Address) -> u32 {
    let mut found = caller::OTHER;
    let Some(ranges) = CALLERS.get(0) else { return found };
    for [start, end, value] in ranges {
        if address.number() >= *start && address.number() < *end {
            found = *value as u32;
        }
    }
    found
}

/// Writes the number and the name of the running process.
#[inline(always)]
pub(crate) fn process(pid: &mut u32, comm: &mut [u8; 16]) {
    // SAFETY: the helper takes no arguments.
    *pid = (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32;
    // SAFETY: the size given is that of the array.
    let status = unsafe { bpf_get_current_comm((&raw mut *comm).cast(), 16) };
    if status != 0 {
        *comm = [0; 16];
    }
}
