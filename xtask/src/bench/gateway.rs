//! `cargo xtask bench gateway`: the cost of whyrst and other tools on a gateway without incidents.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use whyrst_tests::bench::wants_tools_of_others;
use whyrst_tests::protocol::{Bench, Gateway};

use super::{guest, print_with, table};
use crate::{dist, setup, tools};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    guest: guest::Options,
    /// How often each tool is measured, between two measurements of nothing
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Bytes of each download
    #[arg(long, value_name = "BYTES", default_value_t = 16 << 20)]
    bytes: u64,
    /// Short connections of each measurement
    #[arg(long, value_name = "NUMBER", default_value_t = 800, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Measure only these tools, by the names of the rows [default: all]
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    tool: Vec<String>,
}

/// The columns of the table.
const COLUMNS: [(&str, &str); 9] = [
    ("name", "tool"),
    ("bpf_runs_per_packet", "BPF runs/packet"),
    ("packet_socket_runs_per_packet", "classic filters/packet"),
    ("throughput_ratio", "throughput"),
    ("throughput_ratio_spread", "spread"),
    ("connections_ratio", "connections/s"),
    ("connections_ratio_spread", "spread "),
    ("tool_cpu", "its CPU"),
    ("error", "error"),
];

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::run()?;
    let mut payload = dist::payload("vm")?;
    let mut versions = BTreeMap::new();
    if wants_tools_of_others(&arguments.tool)? {
        let tools = tools::fetch()?;
        (payload.files, versions) = (tools.files, tools.versions);
    }
    let extent = Gateway {
        rounds: arguments.rounds,
        bytes: arguments.bytes,
        connections: arguments.connections,
        tools: arguments.tool.clone(),
    };
    let measured = guest::run(&arguments.guest, Bench::Gateway(extent), &payload)?;
    let clock = arguments.guest.clock.name();
    let head = json!({
        "kernel": measured.release,
        "clock": clock,
        "rounds": arguments.rounds,
        "download_bytes": arguments.bytes,
        "connections": arguments.connections,
        "versions": versions,
    });
    print_with(&head, &measured.rows, arguments.guest.format, || text(&measured.rows))?;
    let failed: Vec<&str> =
        measured.rows.iter().filter(|row| !row["error"].is_null()).filter_map(|row| row["name"].as_str()).collect();
    if !failed.is_empty() {
        bail!("not measured: {}", failed.join(", "));
    }
    Ok(())
}

fn text(rows: &[Value]) -> String {
    let short = |row: &Value| {
        let columns = COLUMNS.iter().filter(|(member, _)| !row[member].is_null());
        columns
            .map(|(member, title)| ((*title).to_owned(), cell(&row[member])))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let programs = |row: &Value| {
        let of = row["name"].clone();
        let each = row["programs"].as_array().cloned().unwrap_or_default();
        each.into_iter().map(move |program| {
            json!({ "tool": of, "program": program["program"], "runs": program["runs"],
                    "runs/packet": program["runs_per_packet"], "ns/run": program["ns_per_run"] })
        })
    };
    let programs: Vec<Value> = rows.iter().flat_map(programs).collect();
    let notes: Vec<String> =
        rows.iter().filter_map(|row| Some(format!("{}: {}", row["name"].as_str()?, row["note"].as_str()?))).collect();
    let rows: Vec<Value> = rows.iter().map(short).collect();
    format!("{}\n\nPrograms that ran:\n\n{}\n\n{}", table(&rows), table(&programs), notes.join("\n"))
}

fn cell(value: &Value) -> Value {
    match value.as_array().map(Vec::as_slice) {
        Some([low, high]) => format!("{low}–{high}").into(),
        _ => value.clone(),
    }
}
