//! The data that all crates share: packets, conntrack entries, events, causes, rulesets and health data.
//!
//! No IO, no clock, no BPF. The types that a recording holds carry their serde attributes here, so that a recording and the
//! program have one representation; the JSON names are those of the first recordings and do not change.
#![forbid(unsafe_code)]

pub mod capture;
pub mod cause;
pub mod conntrack;
pub mod decode;
pub mod event;
pub mod evidence;
pub mod filter;
pub mod finding;
pub mod flow_key;
pub mod headers;
pub mod health;
mod hook_number;
pub mod host_context;
pub mod kernel_log;
pub mod known;
pub mod mitigation;
pub mod packet;
pub mod ruleset;
pub mod shell;
pub mod suppressed;
pub mod table_usage;
pub mod time;
