//! What whyrst makes of floods, and what they cost it: are the counts those of the kernel, is every victim named, and how much
//! processor time and memory does it take.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aya::maps::loaded_maps;
use serde_json::{Value, json};

use super::Report;
use super::load;
use super::programs::{self, Counting};
use super::statistics::{number, rounded};
use crate::protocol::{Flood, Message};
use crate::storm::{self, Kind, Storm};
use crate::topology::{Lab, Nat};
use crate::whyrst::Capture;
use crate::{artifact, command};

/// A storm, its name and its number of flows.
struct Case {
    name: &'static str,
    kind: Kind,
    flows: fn(&Flood) -> u16,
}

const ALL: [Case; 4] = [
    Case { name: "invalid-one-flow", kind: Kind::Invalid, flows: |_| 1 },
    Case { name: "invalid-many-flows", kind: Kind::Invalid, flows: |extent| extent.flows },
    Case { name: "rst-storm", kind: Kind::NoEntry, flows: |_| 1_000 },
    Case { name: "reject-storm", kind: Kind::Reject, flows: |_| 1_000 },
];

/// Where the size of conntrack's table is set.
const LIMIT: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
/// How long whyrst may take to work off a storm, and to end.
const PATIENCE: Duration = Duration::from_mins(5);
/// It has nothing more to do when it has used no processor time for so long.
const QUIET: Duration = Duration::from_millis(300);

pub(super) fn run(extent: &Flood, report: Report<'_>) -> Result<()> {
    // The limit holds for all namespaces; it is there once conntrack is.
    command::run("/sbin/modprobe", &["nf_conntrack"])?;
    fs::write(LIMIT, "262144").context(LIMIT)?;
    for case in ALL.iter().filter(|case| extent.cases.is_empty() || extent.cases.iter().any(|name| name == case.name)) {
        report(Message::Step { text: case.name.to_owned() });
        let row =
            measure(case, extent).unwrap_or_else(|error| json!({ "name": case.name, "error": format!("{error:#}") }));
        report(Message::Row { row });
    }
    Ok(())
}

fn measure(case: &Case, extent: &Flood) -> Result<Value> {
    let flows = (case.flows)(extent);
    let injected = usize::try_from(extent.segments)?;
    ensure!(injected >= usize::from(flows), "{injected} segments are not enough for {flows} flows");
    let lab = Lab::build(Nat::NftMasquerade)?;
    let begun = Instant::now();
    let storm = Storm::prepare(&lab, case.kind, flows)?;
    let prepared = begun.elapsed();
    let before = storm::witness(&lab.gateway)?;
    let artifacts = Path::new(artifact::DIRECTORY);
    let capture = Capture::unrecorded(Some(&lab.gateway), artifacts, &[])?;
    let counting = Counting::start()?;
    let (programs_before, used_before) = (programs::loaded()?, load::of_process(capture.id())?);
    let started = Instant::now();
    storm.break_out(injected)?;
    let took = started.elapsed();
    let used_in_storm = load::of_process(capture.id())?.saturating_sub(used_before);
    let used = quiet(&capture)?.saturating_sub(used_before);
    let ran = programs::since(&programs_before, &programs::loaded()?);
    drop(counting);
    let memory = load::peak_memory(capture.id())?;
    let maps = map_memory()?;
    let after = storm::witness(&lab.gateway)?;
    let ending = Instant::now();
    let captured = capture.stop_within(PATIENCE)?;
    let ending = ending.elapsed();

    let reported = |pointer: &str| captured.report.pointer(pointer).cloned().unwrap_or_default();
    let (met, resets) = (after.met - before.met, after.resets - before.resets);
    let stack = after.stack_resets - before.stack_resets;
    let named = captured.report["flows"].as_array().map_or(0, Vec::len);
    let invalid = if case.kind == Kind::Invalid { injected } else { 0 };
    let misreported = storm.misreported(&captured.report, injected);
    let exact = met == injected as u64
        && resets == met
        && reported("/summary/invalid_packets") == invalid
        && reported("/summary/resets_sent") == injected
        && named == usize::from(flows)
        && misreported.is_empty();
    let runs: u64 = ran.iter().map(|program| program.runs).sum();
    let kernel: u64 = ran.iter().map(|program| program.nanoseconds).sum();
    let per_segment = used.as_secs_f64() * 1e6 / number(extent.segments);
    Ok(json!({
        "name": case.name,
        "flows": flows,
        "injected": injected,
        "kernel_met": met,
        "kernel_resets": resets,
        "kernel_stack_resets": stack,
        "reported_invalid": reported("/summary/invalid_packets"),
        "reported_resets": reported("/summary/resets_sent"),
        "flows_named": named,
        "flows_named_wrongly": misreported.len(),
        "exact": exact,
        "events": reported("/capture/events"),
        "events_suppressed": reported("/capture/events_suppressed"),
        "events_lost": reported("/capture/events_lost"),
        "segments_per_second": (number(extent.segments) / took.as_secs_f64()).round(),
        "prepared_seconds": rounded(prepared.as_secs_f64()),
        "user_side_cpu": rounded(used_in_storm.as_secs_f64() / took.as_secs_f64()),
        "user_side_us_per_segment": rounded(per_segment),
        "user_side_cpu_at_100000_per_second": rounded(per_segment / 10.0),
        "bpf_runs_per_segment": rounded(number(runs) / number(extent.segments)),
        "bpf_ns_per_segment": (number(kernel) / number(extent.segments)).round(),
        "process_bytes": memory,
        "map_bytes": maps,
        "report_seconds": rounded(ending.as_secs_f64()),
        "programs": ran.iter().map(|program| json!({
            "program": program.name,
            "runs": program.runs,
            "ns_per_run": (number(program.nanoseconds) / number(program.runs)).round(),
        })).collect::<Vec<_>>(),
    }))
}

/// Waits until whyrst has worked off what it was given; gives the processor time that it has used up to then.
fn quiet(capture: &Capture) -> Result<Duration> {
    let deadline = Instant::now() + PATIENCE;
    let (mut used, mut since) = (load::of_process(capture.id())?, Instant::now());
    while since.elapsed() < QUIET {
        ensure!(Instant::now() < deadline, "whyrst has not worked off the storm in {PATIENCE:?}");
        thread::sleep(QUIET / 10);
        let now = load::of_process(capture.id())?;
        if now != used {
            (used, since) = (now, Instant::now());
        }
    }
    Ok(used)
}

/// Memory of all BPF maps, in bytes, as the kernel accounts for it.
fn map_memory() -> Result<u64> {
    let mut sum = 0;
    for info in loaded_maps() {
        let Ok(descriptor) = info?.fd() else { continue };
        sum += programs::described(&descriptor, "memlock:")?;
    }
    Ok(sum)
}
