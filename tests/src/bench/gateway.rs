//! The costs of tools on a gateway without incidents.
//!
//! Runs without a tool and runs with one alternate, so that each ratio is of neighbours. The spread of the ratios between runs
//! without a tool is the noise. Time is taken with the kernel's count of programs switched off,
//! because that count costs something per run; what runs is counted in a pass of its own.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::Report;
use super::contender::{ALL, Contender, Running};
use super::programs::{self, Counting, PacketSockets};
use super::statistics::{Sample, number, rounded};
use super::traffic::{Done, Traffic};
use crate::protocol::{Gateway, Message};
use crate::topology::{Lab, Nat};

/// The row that everything is compared with.
const NOTHING: &str = "nothing";

/// Both kinds of traffic, once.
struct Pair {
    download: Done,
    connections: Done,
}

/// What has been measured of a tool.
#[derive(Default)]
struct Tally {
    throughput: Sample,
    connections: Sample,
    bytes_per_second: Sample,
    connections_per_second: Sample,
    guest: Sample,
    process: Sample,
    memory: u64,
    counted: Option<Counted>,
    error: Option<String>,
    stubborn: bool,
}

/// What ran, by the kernel's count.
struct Counted {
    per_packet: f64,
    sockets_per_packet: f64,
    per_end: f64,
    programs: Vec<Value>,
}

pub(super) fn run(extent: &Gateway, report: Report<'_>) -> Result<()> {
    let contenders: Vec<&Contender> = ALL
        .iter()
        .filter(|tool| extent.tools.is_empty() || extent.tools.iter().any(|name| name == tool.name))
        .collect();
    let traffic = Traffic::new(Lab::build(Nat::NftMasquerade)?)?;
    let step = |text: String| report(Message::Step { text });
    // The first traffic of a machine loads modules and fills caches.
    measure(&traffic, extent)?;
    let mut nothing = Tally::default();
    let mut tallies: Vec<Tally> = contenders.iter().map(|_| Tally::default()).collect();
    for round in 1..=extent.rounds {
        let mut before = measure(&traffic, extent)?;
        for (tool, tally) in contenders.iter().zip(&mut tallies) {
            if tally.error.is_some() {
                continue;
            }
            step(format!("round {round} of {}: {}", extent.rounds, tool.name));
            match with(tool, &traffic, extent, round == 1) {
                Ok(with) => {
                    let after = measure(&traffic, extent)?;
                    tally.add(extent, &before, &with.pair, &after);
                    nothing.add(extent, &before, &after, &before);
                    tally.process.push(with.process);
                    tally.memory = tally.memory.max(with.memory);
                    tally.counted = with.counted.or(tally.counted.take());
                    tally.stubborn |= with.stubborn;
                    before = after;
                }
                Err(error) => tally.error = Some(format!("{error:#}")),
            }
        }
    }
    let noise = [nothing.throughput.spread(), nothing.connections.spread()];
    nothing.counted = Some(count(&traffic, extent)?);
    report(Message::Row { row: nothing.row(NOTHING, None, noise) });
    for (tool, tally) in contenders.into_iter().zip(tallies) {
        report(Message::Row { row: tally.row(tool.name, Some(tool), noise) });
    }
    Ok(())
}

fn measure(traffic: &Traffic, extent: &Gateway) -> Result<Pair> {
    traffic.forget()?;
    let download = traffic.download(extent.bytes)?;
    Ok(Pair { download, connections: traffic.connections(extent.connections)? })
}

/// What was measured while a tool was running.
struct With {
    pair: Pair,
    process: f64,
    memory: u64,
    counted: Option<Counted>,
    stubborn: bool,
}

fn with(tool: &Contender, traffic: &Traffic, extent: &Gateway, counting: bool) -> Result<With> {
    let running = tool.start(&traffic.lab.gateway)?;
    let used = running.used()?;
    let pair = measure(traffic, extent)?;
    let process = share(running.used()?.saturating_sub(used), pair.download.took + pair.connections.took);
    let counted = counting.then(|| count(traffic, extent)).transpose()?;
    let memory = running.memory().context("it did not last")?;
    let ended = Running::stop(running)?;
    ensure_unloaded()?;
    Ok(With { pair, process, memory, counted, stubborn: !ended })
}

/// A tool that leaves a program behind would be measured with the next one.
fn ensure_unloaded() -> Result<()> {
    // What a process had is taken away after it has ended, by a worker of the kernel.
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let left = programs::loaded()?;
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{} programs are still loaded", left.len());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The same traffic with the kernel's count on.
fn count(traffic: &Traffic, extent: &Gateway) -> Result<Counted> {
    traffic.forget()?;
    let _counting = Counting::start()?;
    let sockets = PacketSockets::start()?;
    let before = programs::loaded()?;
    let download = traffic.download(extent.bytes)?;
    let connections = traffic.connections(extent.connections)?;
    let (after, socket_calls) = (programs::loaded()?, sockets.count()?);
    let packets = download.packets + connections.packets;
    ensure!(packets > 0, "the gateway has forwarded nothing");
    traffic.forget()?;
    let ends = programs::since(&after, &programs::loaded()?);
    let ran = programs::since(&before, &after);
    let runs = |programs: &[programs::Program]| -> f64 { programs.iter().map(|program| number(program.runs)).sum() };
    let of_program = |program: &programs::Program| {
        json!({
            "program": program.name,
            "runs": program.runs,
            "runs_per_packet": rounded(number(program.runs) / number(packets)),
            "ns_per_run": (number(program.nanoseconds) / number(program.runs)).round(),
        })
    };
    Ok(Counted {
        per_packet: runs(&ran) / number(packets),
        sockets_per_packet: number(socket_calls) / number(packets),
        per_end: runs(&ends) / f64::from(extent.connections + 1),
        programs: ran.iter().map(of_program).collect(),
    })
}

impl Tally {
    fn add(&mut self, extent: &Gateway, before: &Pair, with: &Pair, after: &Pair) {
        let seconds = |pair: &Pair| (pair.download.took.as_secs_f64(), pair.connections.took.as_secs_f64());
        let ((b0, c0), (b, c), (b1, c1)) = (seconds(before), seconds(with), seconds(after));
        self.throughput.push(f64::midpoint(b0, b1) / b);
        self.connections.push(f64::midpoint(c0, c1) / c);
        self.bytes_per_second.push(number(extent.bytes) / b);
        self.connections_per_second.push(f64::from(extent.connections) / c);
        self.guest.push(share(with.download.busy + with.connections.busy, with.download.took + with.connections.took));
    }

    fn row(self, name: &str, tool: Option<&Contender>, [bulk, short]: [[f64; 2]; 2]) -> Value {
        if let Some(error) = self.error {
            return json!({ "name": name, "command": tool.map(Contender::command), "error": error });
        }
        let within = |sample: &Sample, [low, high]: [f64; 2]| (low..=high).contains(&sample.median());
        let mut row = json!({
            "name": name,
            "command": tool.map(Contender::command),
            "throughput_ratio": rounded(self.throughput.median()),
            "throughput_ratio_spread": self.throughput.spread().map(rounded),
            "throughput_within_noise": within(&self.throughput, bulk),
            "connections_ratio": rounded(self.connections.median()),
            "connections_ratio_spread": self.connections.spread().map(rounded),
            "connections_within_noise": within(&self.connections, short),
            "bytes_per_second": self.bytes_per_second.median().round(),
            "connections_per_second": rounded(self.connections_per_second.median()),
            "guest_cpu": rounded(self.guest.median()),
            "tool_cpu": rounded(self.process.median()),
            "tool_memory_bytes": self.memory,
            "ended_by_sigint": !self.stubborn,
            "note": tool.and_then(|tool| tool.note),
        });
        if let Some(counted) = self.counted {
            row["bpf_runs_per_packet"] = rounded(counted.per_packet).into();
            row["packet_socket_runs_per_packet"] = rounded(counted.sockets_per_packet).into();
            row["bpf_runs_per_connection_end"] = rounded(counted.per_end).into();
            row["programs"] = counted.programs.into();
        }
        row
    }
}

fn share(part: Duration, whole: Duration) -> f64 {
    part.as_secs_f64() / whole.as_secs_f64()
}
