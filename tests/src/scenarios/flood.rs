//! Floods: far more segments than are told one by one. The counts are those that were sent, and nobody is left out.

use anyhow::Result;

use super::Context;
use crate::expect::Expect;
use crate::storm::{self, Kind, Storm};
use crate::topology::{Lab, Nat};
use crate::whyrst::Capture;

/// Connections of a flood.
pub(super) const FLOWS: usize = 20;
/// Segments of a flood: more than the 64 of each connection that are told in a second. How many are counted instead depends on
/// how long the machine takes to send them. That has to be less than the ten seconds after which whyrst reads the counts for the
/// first time: what a CPU receives while it looks up a count is not seen (docs/limits.md). The last round of them is not whole.
const SEGMENTS: usize = 1_507;

pub(super) fn invalid(context: &Context<'_>) -> Result<()> {
    flood(context, Kind::Invalid)
}

pub(super) fn no_entry(context: &Context<'_>) -> Result<()> {
    flood(context, Kind::NoEntry)
}

pub(super) fn rejected(context: &Context<'_>) -> Result<()> {
    flood(context, Kind::Reject)
}

fn flood(context: &Context<'_>, kind: Kind) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let storm = Storm::prepare(&lab, kind, u16::try_from(FLOWS)?)?;
    let before = storm::witness(&lab.gateway)?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    storm.break_out(SEGMENTS)?;
    storm::wait_for(&lab.gateway, before, SEGMENTS)?;
    let captured = capture.stop()?;
    let report = &captured.report;
    let [events, counted] = ["events", "events_suppressed"].map(|name| report["capture"][name].as_u64().unwrap_or(0));
    context.step(format!("{SEGMENTS} segments: {events} events told, {counted} counted"));

    let mut expect = Expect::new();
    let refused = if kind == Kind::Invalid { SEGMENTS } else { 0 };
    expect.is(report, "/summary/invalid_packets", refused);
    expect.is(report, "/summary/resets_sent", SEGMENTS);
    expect.is(report, "/capture/events_lost", 0);
    let missing = storm.not_told(report, SEGMENTS);
    expect.that(missing.is_empty(), || format!("connections {missing:?} are not named with all their segments"));
    captured.replay()?;
    expect.verdict()
}
