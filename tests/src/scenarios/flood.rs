//! Floods of segments, far above the rate limit. The report counts every segment and names every connection.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::Context;
use crate::expect::Expect;
use crate::storm::{self, Kind, Storm};
use crate::topology::{Lab, Nat};
use crate::whyrst::Capture;

/// Connections of a flood.
pub(super) const FLOWS: usize = 20;
/// Segments of a flood: more than the 64 events per second that the rate limit allows a connection. The last round is not whole.
const SEGMENTS: usize = 1_507;
/// Untracked flows: more than three quarters of their 65,536 keys, the level at which whyrst frees keys.
const UNTRACKED: usize = 60_000;
/// Connections of a flood that comes later.
pub(super) const LATE: usize = 20;
/// How long a report of so many may take.
const MANY: Duration = Duration::from_mins(5);
/// Long enough for whyrst to read the suppressed events twice.
const LONG: Duration = Duration::from_secs(11);

pub(super) fn invalid(context: &Context<'_>) -> Result<()> {
    flood(context, Kind::Invalid)
}

pub(super) fn no_entry(context: &Context<'_>) -> Result<()> {
    flood(context, Kind::NoEntry)
}

pub(super) fn rejected(context: &Context<'_>) -> Result<()> {
    flood(context, Kind::Reject)
}

/// whyrst reads the counts while they change, and neither misses nor doubles any.
pub(super) fn goes_on(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let storm = Storm::prepare(&lab, Kind::Invalid, u16::try_from(FLOWS)?)?;
    let before = storm::witness(&lab.gateway)?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let (begun, mut sent) = (Instant::now(), 0);
    while begun.elapsed() < LONG {
        storm.break_out(FLOWS)?;
        sent += FLOWS;
    }
    storm::wait_for(&lab.gateway, before, sent)?;
    judge(context, capture, &storm, Kind::Invalid, sent)
}

/// More untracked flows than there are keys take the keys of later flows, but only for some seconds.
pub(super) fn makes_room(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let storm = Storm::prepare(&lab, Kind::NoEntry, u16::try_from(UNTRACKED + LATE)?)?;
    let before = storm::witness(&lab.gateway)?;
    // A report of all of them would not fit into the guest. The filter is in user space: the BPF programs count all of them.
    let ports: Vec<String> = (UNTRACKED..UNTRACKED + LATE).map(|number| storm::port(number).to_string()).collect();
    let options: Vec<&str> = ports.iter().flat_map(|port| ["--port", port]).chain(["--log", "debug"]).collect();
    let mut capture = Capture::unrecorded(Some(&lab.gateway), &context.artifacts, &options)?;
    storm.break_out(UNTRACKED)?;
    storm::wait_for(&lab.gateway, before, UNTRACKED)?;
    let said = "freed the slots of inactive flows";
    // whyrst reads every ten seconds. The third time at the latest, the flows have been quiet for ten seconds.
    let room = capture.wait_for(said).or_else(|_| capture.wait_for(said))?;
    context.step(room);
    storm.of(UNTRACKED..UNTRACKED + LATE)?;
    storm::wait_for(&lab.gateway, before, UNTRACKED + LATE)?;
    let report = capture.stop_within(MANY)?.report;

    let mut expect = Expect::new();
    expect.is(&report, "/summary/resets_sent", LATE);
    expect.is(&report, "/capture/events_lost", 0);
    let missing: Vec<usize> =
        storm.misreported(&report, UNTRACKED + LATE).into_iter().filter(|number| *number >= UNTRACKED).collect();
    expect
        .that(missing.is_empty(), || format!("connections {missing:?}, which came when there was room, are not named"));
    expect.verdict()
}

fn flood(context: &Context<'_>, kind: Kind) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let storm = Storm::prepare(&lab, kind, u16::try_from(FLOWS)?)?;
    let before = storm::witness(&lab.gateway)?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    storm.break_out(SEGMENTS)?;
    storm::wait_for(&lab.gateway, before, SEGMENTS)?;
    judge(context, capture, &storm, kind, SEGMENTS)
}

/// Compares the report with the segments that were sent. How many of them are suppressed depends on the machine.
fn judge(context: &Context<'_>, capture: Capture, storm: &Storm, kind: Kind, sent: usize) -> Result<()> {
    let captured = capture.stop()?;
    let report = &captured.report;
    let [events, counted] = ["events", "events_suppressed"].map(|name| report["capture"][name].as_u64().unwrap_or(0));
    context.step(format!("{sent} segments: {events} events, {counted} suppressed"));

    let mut expect = Expect::new();
    let refused = if kind == Kind::Invalid { sent } else { 0 };
    expect.is(report, "/summary/invalid_packets", refused);
    expect.is(report, "/summary/resets_sent", sent);
    expect.is(report, "/capture/events_lost", 0);
    let missing = storm.misreported(report, sent);
    expect.that(missing.is_empty(), || format!("connections {missing:?} are not named with all their segments"));
    captured.replay()?;
    expect.verdict()
}
