//! The interface between the BPF programs and user space: the hook table, the record that a hook emits, the kernel layout
//! that a hook reads by, its counters and its rate limit.
//!
//! Integers and byte arrays only; no pointers, no enums with payloads, no padding. Everything here compiles for the
//! BPF target and for the host.
#![no_std]
#![forbid(unsafe_code)]

pub mod counter;
pub mod hook;
pub mod layout;
pub mod ratelimit;
pub mod table_full;
pub mod wire;

pub use hook::Hook;
pub use layout::Layout;
pub use wire::Record;
