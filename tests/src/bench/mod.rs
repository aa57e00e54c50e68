//! Benches inside the guest. They send rows to the host, which prints them.

mod contender;
mod flood;
mod gateway;
mod load;
mod programs;
mod statistics;
mod traffic;

use anyhow::{Result, bail};

use crate::protocol::{Bench, Message};

/// Whether the selected tools include one other than whyrst, which the guest does not hold by itself. No name selects all.
pub fn wants_tools_of_others(names: &[String]) -> Result<bool> {
    if let Some(unknown) = names.iter().find(|name| contender::ALL.iter().all(|tool| tool.name != **name)) {
        let known: Vec<&str> = contender::ALL.iter().map(|tool| tool.name).collect();
        bail!("no tool `{unknown}`; there are {}", known.join(", "));
    }
    let measured = contender::ALL.iter().filter(|tool| names.is_empty() || names.iter().any(|name| name == tool.name));
    Ok(measured.into_iter().any(|tool| !tool.is_whyrst()))
}

/// Takes the rows of a bench, and its progress.
pub type Report<'a> = &'a dyn Fn(Message);

/// Runs a bench.
pub fn run(bench: &Bench, report: Report<'_>) -> Result<()> {
    match bench {
        Bench::Gateway(extent) => gateway::run(extent, report),
        Bench::Flood(extent) => flood::run(extent, report),
    }
}
