//! `cargo xtask bench start`: where the time goes between the start and the first hook.

use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use super::{Format, print};
use crate::dist;
use crate::process::output;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How the rows are printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let payload = dist::payload("vm")?;
    let steps = output(Command::new(&payload.lab).args(["steps", "/sys/kernel/btf", "/proc/kallsyms"]))?;
    let steps: Map<String, Value> = serde_json::from_str(&steps).context("the steps of a start")?;
    let rows: Vec<Value> = steps.into_iter().map(|(name, ms)| json!({ "name": name, "native_ms": ms })).collect();
    print(&rows, arguments.format)
}
