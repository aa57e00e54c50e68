//! `cargo xtask bench flood`: whyrst's counts in a flood, and the cost.

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};
use whyrst_tests::protocol::{Bench, Flood};

use super::{guest, print_with, table};
use crate::arch::Arch;
use crate::{dist, setup};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    guest: guest::Options,
    /// Segments of each storm
    #[arg(long, value_name = "NUMBER", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    segments: u64,
    /// Connections of the storm with many
    #[arg(long, value_name = "NUMBER", default_value_t = 50_000, value_parser = clap::value_parser!(u16).range(1..=60_000))]
    flows: u16,
    /// Only these storms, by the names of the rows [default: all]
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    storm: Vec<String>,
    /// Run target/dist/whyrst, the release binary, instead of the one for tests
    #[arg(long)]
    dist: bool,
}

/// The columns of the table.
const COLUMNS: [&str; 15] = [
    "name",
    "flows",
    "injected",
    "reported_invalid",
    "reported_resets",
    "flows_named",
    "exact",
    "events_suppressed",
    "events_lost",
    "segments_per_second",
    "user_side_us_per_segment",
    "bpf_ns_per_segment",
    "process_bytes",
    "map_bytes",
    "error",
];

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::run()?;
    let mut payload = dist::payload("vm")?;
    if arguments.dist {
        payload.whyrst = dist::binary(Arch::Amd64)?;
    }
    let extent = Flood { segments: arguments.segments, flows: arguments.flows, cases: arguments.storm.clone() };
    let measured = guest::run(&arguments.guest, Bench::Flood(extent), &payload)?;
    let clock = arguments.guest.clock.name();
    let profile = if arguments.dist { "dist" } else { "vm" };
    let head = json!({ "kernel": measured.release, "clock": clock, "profile": profile });
    print_with(&head, &measured.rows, arguments.guest.format, || {
        let of = |row: &Value| -> Value {
            let columns = COLUMNS.iter().filter(|column| !row[**column].is_null());
            columns.map(|column| ((*column).to_owned(), row[*column].clone())).collect::<Map<_, _>>().into()
        };
        table(&measured.rows.iter().map(of).collect::<Vec<_>>())
    })?;
    let wrong: Vec<&str> =
        measured.rows.iter().filter(|row| row["exact"] != true).filter_map(|row| row["name"].as_str()).collect();
    if !wrong.is_empty() {
        bail!("the counts are not those of the kernel: {}", wrong.join(", "));
    }
    Ok(())
}
