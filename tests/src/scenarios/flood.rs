//! Floods: far more segments than are told one by one. The counts are those that were sent, and nobody is left out.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::Context;
use crate::expect::Expect;
use crate::storm::{self, Kind, Storm};
use crate::topology::{Lab, Nat};
use crate::whyrst::Capture;

/// Connections of a flood.
pub(super) const FLOWS: usize = 20;
/// Segments of a flood: more than the 64 of each connection that are told in a second. The last round of them is not whole.
const SEGMENTS: usize = 1_507;
/// Longer than the time after which whyrst reads for the second time what was counted.
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

/// Reading the counts while they change neither hides nor doubles any.
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

fn flood(context: &Context<'_>, kind: Kind) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let storm = Storm::prepare(&lab, kind, u16::try_from(FLOWS)?)?;
    let before = storm::witness(&lab.gateway)?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    storm.break_out(SEGMENTS)?;
    storm::wait_for(&lab.gateway, before, SEGMENTS)?;
    judge(context, capture, &storm, kind, SEGMENTS)
}

/// Compares what is reported with what was sent. How much is told and how much only counted depends on the machine.
fn judge(context: &Context<'_>, capture: Capture, storm: &Storm, kind: Kind, sent: usize) -> Result<()> {
    let captured = capture.stop()?;
    let report = &captured.report;
    let [events, counted] = ["events", "events_suppressed"].map(|name| report["capture"][name].as_u64().unwrap_or(0));
    context.step(format!("{sent} segments: {events} events told, {counted} counted"));

    let mut expect = Expect::new();
    let refused = if kind == Kind::Invalid { sent } else { 0 };
    expect.is(report, "/summary/invalid_packets", refused);
    expect.is(report, "/summary/resets_sent", sent);
    expect.is(report, "/capture/events_lost", 0);
    let missing = storm.not_told(report, sent);
    expect.that(missing.is_empty(), || format!("connections {missing:?} are not named with all their segments"));
    captured.replay()?;
    expect.verdict()
}
