//! What every other crate speaks of: packets, conntrack entries, events, causes, rulesets and health data.
//!
//! No IO, no clock, no BPF: bytes of a hook become an [`event::Event`] here, and everything else is data with the
//! questions that can be answered from it alone.
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
pub mod host_context;
pub mod kernel_log;
pub mod mitigation;
pub mod packet;
pub mod ruleset;
pub mod shell;
pub mod suppressed;
pub mod table_usage;
pub mod time;
