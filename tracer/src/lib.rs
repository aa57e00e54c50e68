//! The command line of whyrst: arguments become a configuration, a session runs, signals end it.
//!
//! What it is made of is in the crates below this directory: `model`, `recording`, `engine`, `advice`, `render`, `host`.
#![forbid(unsafe_code)]

pub mod annotate;
pub mod cli;
