//! Clocks that jump: the wall clock is set, and the machine sleeps.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use serde_json::Value;

use super::super::Context;
use super::super::connection::Connection;
use super::report;
use crate::expect::Expect;
use crate::topology::{Lab, Nat, server};
use crate::whyrst::Capture;

/// Seconds of a day.
const DAY: i64 = 86_400;

/// Steps the wall clock.
fn step(seconds: i64) -> Result<()> {
    let now = clock_gettime(ClockId::Realtime);
    let then = Timespec { tv_sec: now.tv_sec + seconds, tv_nsec: now.tv_nsec };
    clock_settime(ClockId::Realtime, then).context("setting the clock")
}

/// How far one clock is from another.
fn apart(one: ClockId, other: ClockId) -> i64 {
    clock_gettime(one).tv_sec - clock_gettime(other).tv_sec
}

/// The clock is set forwards by a year and back by two, between resets. The report has them in order, with the times of a
/// clock that nobody sets, from one file and from several.
pub(in super::super) fn stepped(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let several = context.artifacts.join("several");
    fs::create_dir_all(&several)?;
    let started = clock_gettime(ClockId::Realtime).tv_sec;
    let many = Capture::record(&several.join("r.whyrst"), &["--rotate", "16KiB", "--keep", "99"])?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut clients = Vec::new();
    for seconds in [365 * DAY, -730 * DAY, 365 * DAY] {
        let mut connection = Connection::open(&lab, server(443))?;
        connection.is_reset()?;
        clients.push(connection.client_address.to_string());
        step(seconds)?;
        many.signal(rustix::process::Signal::HUP)?;
    }
    context.step("a year forwards, two back, one forwards");
    let captured = capture.stop()?;
    many.stop_recording()?;
    let mut expect = Expect::new();
    let (joined, _) = report(&several.display().to_string())?;
    for report in [&captured.report, &joined] {
        let order = in_order(report)?;
        expect.that(order == clients, || format!("the report has {order:?}, expected {clients:?}"));
        let duration = report["capture"]["duration_s"].as_f64().unwrap_or_default();
        expect.that((0.1..60.0).contains(&duration), || format!("it took {duration} s"));
        let first: Timestamp = report["flows"][0]["first"].as_str().unwrap_or_default().parse()?;
        let off = (first.0 - started).abs();
        expect.that(off < 60, || format!("a flow began {off} s from when the capture did"));
    }
    expect.is(&captured.report, "/capture/events_lost", 0);
    captured.replay()?;
    expect.verdict()
}

/// The clients in the order of their times in the report.
fn in_order(report: &Value) -> Result<Vec<String>> {
    let flows = report["flows"].as_array().context("no flows")?;
    let mut flows: Vec<(&str, &str)> =
        flows.iter().filter_map(|flow| Some((flow["first"].as_str()?, flow["client"].as_str()?))).collect();
    flows.sort_unstable();
    Ok(flows.into_iter().map(|(_, client)| client.to_owned()).collect())
}

/// Seconds of a time as the report has it, since 1970.
struct Timestamp(i64);

impl std::str::FromStr for Timestamp {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let time: jiff::Timestamp = text.parse()?;
        Ok(Self(time.as_second()))
    }
}

/// The machine sleeps (ACPI S3, woken by its clock) between two resets of a capture. The report has both, and their times
/// include the sleep.
pub(in super::super) fn suspended(context: &Context<'_>) -> Result<()> {
    const SLEEP: i64 = 5;
    let lab = Lab::build(Nat::NftMasquerade)?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut connections = [Connection::open(&lab, server(443))?, Connection::open(&lab, server(444))?];
    connections[0].is_reset()?;
    let before = apart(ClockId::Boottime, ClockId::Monotonic);
    let alarm = Path::new("/sys/class/rtc/rtc0/wakealarm");
    fs::write(alarm, format!("+{SLEEP}")).context("wakealarm")?;
    fs::write("/sys/power/state", "mem").context("/sys/power/state")?;
    let slept = apart(ClockId::Boottime, ClockId::Monotonic) - before;
    context.step(format!("slept for {slept} s"));
    ensure!(slept > 0, "the machine has not slept");
    connections[1].is_reset()?;
    let captured = capture.stop()?;
    let mut expect = Expect::new();
    let order = in_order(&captured.report)?;
    let clients = connections.map(|connection| connection.client_address.to_string());
    expect.that(order == clients, || format!("the report has {order:?}, expected {clients:?}"));
    let duration = captured.report["capture"]["duration_s"].as_f64().unwrap_or_default();
    let slept = Duration::from_secs(slept.unsigned_abs()).as_secs_f64();
    expect.that(duration > slept, || format!("it took {duration} s, of which {slept} asleep"));
    expect.is(&captured.report, "/capture/events_lost", 0);
    captured.replay()?;
    expect.verdict()
}
