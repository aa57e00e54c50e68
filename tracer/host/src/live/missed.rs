//! Missed calls of hooked functions: those for which the kernel ran no program.
//!
//! The kernel runs no kprobe program while the CPU is inside another one, or looks a map up for user space
//! (`bpf_disable_instrumentation()`): it misses the calls in an interrupt during that time. From 6.7 on it counts them
//! (`trace_call_bpf()`), per program, and shows the count with the program's descriptor (`bpf_prog_show_fdinfo()`).

use std::fs;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// The line of the count.
const FIELD: &str = "recursion_misses:";

/// The calls that a program has missed; 0 where the kernel does not count them.
pub(super) fn by(program: BorrowedFd<'_>) -> u64 {
    let path = format!("/proc/self/fdinfo/{}", program.as_raw_fd());
    match fs::read_to_string(&path) {
        Ok(text) => field(&text),
        Err(error) => {
            tracing::debug!("{path}: {error}");
            0
        }
    }
}

fn field(text: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(FIELD)?.trim().parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn the_count_is_found() {
        assert_eq!(field("pos:\t0\nprog_type:\t2\nrecursion_misses:\t19\nverified_insns:\t4\n"), 19);
        assert_eq!(field("pos:\t0\nprog_type:\t2\n"), 0);
    }
}
