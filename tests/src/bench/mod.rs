//! What is measured inside the guest. Rows go to the host, which prints them.

mod contender;
mod flood;
mod gateway;
mod load;
mod programs;
mod statistics;
mod traffic;

use anyhow::Result;

use crate::protocol::{Bench, Message};

/// Where a bench tells of its rows, and of how far it is.
pub type Report<'a> = &'a dyn Fn(Message);

/// Runs a bench.
pub fn run(bench: &Bench, report: Report<'_>) -> Result<()> {
    match bench {
        Bench::Gateway(extent) => gateway::run(extent, report),
        Bench::Flood(extent) => flood::run(extent, report),
    }
}
