//! A bench that runs in a guest: boots it and collects its rows.

use anyhow::{Result, bail};
use serde_json::Value;
use whyrst_tests::protocol::{Bench, Message, Plan};

use super::Format;
use crate::kernels;
use crate::process::target;
use crate::vm::{Clock, Guest, Payload};

/// Memory of a guest that holds other people's tools, or a report of 50,000 connections and what reads it.
const MEMORY_MIB: u32 = 4096;

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Format of the rows
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
    /// The kernel: one of those of `cargo xtask vm --list`
    #[arg(long, value_name = "NAME", default_value = "6.12")]
    kernel: String,
    /// The guest's clock: time under KVM, instructions in emulation
    #[arg(long, value_enum, default_value_t = Clock::Instructions)]
    pub(super) clock: Clock,
}

/// What a guest has measured.
pub(super) struct Measured {
    /// The kernel's release.
    pub(super) release: String,
    pub(super) rows: Vec<Value>,
}

/// Boots one kernel and has it measure.
pub(super) fn run(options: &Options, bench: Bench, payload: &Payload) -> Result<Measured> {
    let Options { kernel, clock, .. } = options;
    let [spec] = kernels::select(&[kernel.to_owned()])?[..] else { bail!("`{kernel}` is more than one kernel") };
    let kernel = spec.fetch(false)?;
    let plan = Plan {
        kernel: spec.name.to_owned(),
        log_format: spec.log_format.to_owned(),
        scenarios: Vec::new(),
        shell: false,
        bench: Some(bench),
    };
    let directory = target().join("bench").join(spec.name);
    let guest = Guest::new(&kernel, plan, payload, &directory)?.with(*clock, MEMORY_MIB);
    let mut rows = Vec::new();
    eprintln!("bench: booting {}", kernel.release);
    guest.run(&mut |message| match message {
        Message::Step { text } => eprintln!("bench: {text}"),
        Message::Row { row } => rows.push(row),
        Message::Up { .. } | Message::Start { .. } | Message::End { .. } | Message::Finished => {}
    })?;
    if rows.is_empty() {
        bail!("the guest has measured nothing; its console: {}", directory.join("console.log").display());
    }
    Ok(Measured { release: kernel.release, rows })
}
