//! whyrst as a library: from the bytes a hook emits to a report that names who reset a connection and why.
#![deny(unsafe_code)]

pub mod attach;
pub mod capture;
pub mod causality;
pub mod cause;
pub mod census;
pub mod cli;
pub mod compare;
pub mod conntrack;
pub mod decode;
pub mod diagnosis;
pub mod event;
pub mod evidence;
pub mod explain;
pub mod filter;
mod flood;
#[doc(hidden)]
pub mod fuzzing;
pub mod health;
pub mod kernel;
pub mod mitigate;
pub mod packet;
pub mod pages;
pub mod redact;
pub mod render;
pub mod report;
pub mod retell;
pub mod ruleset;
pub mod session;
pub mod shell;
pub mod source;
pub mod surroundings;
#[cfg(test)]
mod testing;
pub mod time;
pub mod version;
