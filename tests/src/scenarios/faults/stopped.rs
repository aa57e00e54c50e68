//! Nobody reads the ring buffer for a while, and processors come and go: the counts stay exact.

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::Value;

use super::super::Context;
use super::super::connection::Connection;
use super::super::rules::filter_rule;
use super::hits;
use crate::expect::Expect;
use crate::topology::{Lab, Nat, server};
use crate::whyrst::Capture;
use crate::wire::PATIENCE;

/// More refused segments than the ring buffer has room for: 4 MiB at 848 bytes each are 4,946.
const FLOOD: usize = 8_000;
/// Refused segments on each processor.
const EACH: usize = 300;

/// The function that refuses them.
const REFUSES: &str = "nf_ct_l4proto_log_invalid";

/// What was refused is counted exactly, whatever became of the records.
fn counted(expect: &mut Expect, report: &Value, sent: usize, target: &str) {
    let hits = hits(report, target);
    expect.that(hits == sent as u64, || format!("{hits} of {sent} segments are counted"));
    expect.is(report, "/flows/0/cause", "out-of-window");
    expect.is(report, "/flows/0/reset_by", Value::Null);
}

/// The function that logs segments out of the window: its name in the report.
fn refuses(report: &Value) -> String {
    report["capture"]["hooks"][0]["target"].as_str().unwrap_or(REFUSES).to_owned()
}

/// whyrst is stopped while more is refused than the ring buffer holds, and continued.
pub(in super::super) fn reader(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    // Otherwise each is answered with a RST, and the connection ends.
    filter_rule(&lab.gateway, "input", "ct state invalid drop")?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut connection = Connection::open(&lab, server(443))?;
    let segment = connection.far_ahead()?;
    capture.signal(Signal::STOP)?;
    stopped(&capture)?;
    for _ in 0..FLOOD {
        connection.tap.send(&segment)?;
    }
    // What is sent later comes later: everything before has been refused once this is answered.
    connection.is_alive()?;
    context.step(format!("{FLOOD} segments were refused while it was stopped"));
    capture.signal(Signal::CONT)?;
    connection.tap.send(&segment)?;
    connection.is_alive()?;
    let captured = capture.stop()?;
    let mut expect = Expect::new();
    let report = &captured.report;
    counted(&mut expect, report, FLOOD + 1, &refuses(report));
    context.step(format!("{} events came through one by one", report["capture"]["events"]));
    expect.is(report, "/summary/invalid_packets", FLOOD + 1);
    expect.is(report, "/capture/events_lost", 0);
    captured.replay()?;
    expect.verdict()
}

/// Waits until a process is stopped.
fn stopped(capture: &Capture) -> Result<()> {
    let path = format!("/proc/{}/stat", capture.pid());
    let start = Instant::now();
    loop {
        let stat = fs::read_to_string(&path).with_context(|| path.clone())?;
        if stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')) {
            return Ok(());
        }
        ensure!(start.elapsed() < PATIENCE, "it does not stop");
    }
}

/// The machine's second processor, which it is booted without.
const SECOND: &str = "/sys/devices/system/cpu/cpu1/online";

/// A processor comes while whyrst captures, sees refusals, and goes again. What it has counted stays counted.
pub(in super::super) fn processors(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    filter_rule(&lab.gateway, "input", "ct state invalid drop")?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut connection = Connection::open(&lab, server(443))?;
    let segment = connection.far_ahead()?;
    for (online, cpu) in [(None, 0), (Some("1"), 1), (Some("0"), 0), (Some("1"), 1)] {
        if let Some(online) = online {
            fs::write(SECOND, online).with_context(|| format!("writing {online} to {SECOND}"))?;
        }
        let mut set = CpuSet::new();
        set.set(cpu);
        sched_setaffinity(None, &set).with_context(|| format!("going to processor {cpu}"))?;
        for _ in 0..EACH {
            connection.tap.send(&segment)?;
        }
        connection.is_alive()?;
        context.step(format!("{EACH} segments were refused on processor {cpu}"));
    }
    let captured = capture.stop()?;
    let mut all = CpuSet::new();
    (0..2).for_each(|cpu| all.set(cpu));
    sched_setaffinity(None, &all)?;
    fs::write(SECOND, "0").context("switching the second processor off")?;
    let mut expect = Expect::new();
    let report = &captured.report;
    counted(&mut expect, report, 4 * EACH, &refuses(report));
    expect.is(report, "/summary/invalid_packets", 4 * EACH);
    expect.is(report, "/capture/events_lost", 0);
    captured.replay()?;
    expect.verdict()
}
