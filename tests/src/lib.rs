//! The lab: networks of namespaces, real connections through them, injected segments, and the scenarios. It runs as root
//! inside the VM that `cargo xtask vm` boots.
#![forbid(unsafe_code)]

pub mod artifact;
pub mod bench;
pub mod command;
pub mod expect;
pub mod http;
pub mod judge;
pub mod netns;
pub mod protocol;
pub mod scenarios;
pub mod steps;
pub mod storm;
pub mod synthetic;
pub mod topology;
pub mod whyrst;
pub mod wire;
