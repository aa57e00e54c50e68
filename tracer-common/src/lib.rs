//! What the BPF programs and the user side agree on: the hook table, the record a hook emits, the kernel layout a
//! hook reads by, and the counters it keeps.
//!
//! Integers and byte arrays only; no pointers, no enums with payloads, no padding. Everything here compiles for the
//! BPF target and for the host.
#![no_std]
#![forbid(unsafe_code)]

pub mod counter;
pub mod flood;
pub mod hook;
pub mod layout;
pub mod table;
pub mod wire;

pub use hook::Hook;
pub use layout::Layout;
pub use wire::Record;
