//! `whyrst mitigate` as JSON, `whyrst.mitigate.v1`.

use std::io;

use schemars::JsonSchema;
use serde::Serialize;

use tracer_model::mitigation::Mitigation;
use tracer_model::mitigation::watched::{Window, compare};

use super::{types, writing};
use crate::mitigate::{Offer, Outcome, rates};

/// The identifier of the schema.
pub const MITIGATE_SCHEMA: &str = "whyrst.mitigate.v1";

/// The output of `whyrst mitigate`.
#[derive(Debug, Serialize, JsonSchema)]
struct Mitigate<'a> {
    /// `whyrst.mitigate.v1`
    schema: &'static str,
    /// The requested mitigation, or all of them.
    mitigations: Vec<Entry<'a>>,
    /// The result of `--apply` or `--undo`; null without them.
    outcome: Option<Done<'a>>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Entry<'a> {
    #[serde(flatten)]
    mitigation: types::Mitigation<'a>,
    /// Whether it applies on this host.
    applies: bool,
    /// Why it does not apply; null if it does.
    because: Option<&'a str>,
    /// Whether `--apply` works: the mitigation changes something, and every change can be undone.
    can_be_applied: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Done<'a> {
    /// `applied` or `undone`.
    state: &'static str,
    /// The file of the journal.
    entry: &'a str,
    /// The commands that whyrst ran.
    commands: &'a [String],
    /// Warnings.
    remarks: &'a [String],
    /// Whether every change is in force, as the read-only probes show it.
    in_force: Option<bool>,
    /// The result of `--verify`; null without it.
    verified: Option<Verified>,
    /// The kernel's counts before and after; empty with `--watch 0`.
    watched: Vec<Watched>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Verified {
    /// The packets that the mitigation's own rules have counted; 0 if none came within the time.
    packets: u64,
    /// For how long whyrst has waited.
    seconds: f64,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Watched {
    /// The name of the counter.
    counter: &'static str,
    before: Option<Count>,
    after: Option<Count>,
    /// `too-little-traffic`, `fell`, `rose` or `no-clear-change`; null if a counter could not be read.
    verdict: Option<&'static str>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Count {
    count: u64,
    seconds: f64,
}

/// Writes the document.
pub fn write_mitigate(offers: &[Offer], outcome: Option<&Outcome>, to: &mut dyn io::Write) -> io::Result<()> {
    let entry = |offer: &'_ Offer| -> (bool, bool) {
        (offer.not_because.is_none(), Mitigation::can_be_applied(&offer.mitigation))
    };
    let mitigations = offers.iter().map(|offer| {
        let (applies, can_be_applied) = entry(offer);
        let because = offer.not_because.as_deref();
        Entry { mitigation: super::mitigation(&offer.mitigation), applies, because, can_be_applied }
    });
    let shape = Mitigate { schema: MITIGATE_SCHEMA, mitigations: mitigations.collect(), outcome: outcome.map(done) };
    writing::document(&shape, to)
}

/// Writes its JSON Schema.
pub fn write_mitigate_schema(to: &mut dyn io::Write) -> io::Result<()> {
    writing::document(&schemars::schema_for!(Mitigate<'_>), to)
}

fn done(outcome: &Outcome) -> Done<'_> {
    Done {
        state: outcome.state,
        entry: &outcome.entry,
        commands: &outcome.commands,
        remarks: &outcome.remarks,
        in_force: outcome.in_force,
        verified: outcome.verified.map(|it| Verified { packets: it.packets, seconds: it.waited.as_secs_f64() }),
        watched: outcome.watched.iter().flat_map(|(before, after)| watched(before, after)).collect(),
    }
}

fn watched(before: &Window, after: &Window) -> Vec<Watched> {
    let names = ["invalid", "TcpOutRsts", "TcpEstabResets"];
    let count = |count: u64, window: &Window| Count { count, seconds: window.time.as_secs_f64() };
    let all = names.into_iter().zip(rates(before, after)).map(|(counter, (_, counts))| Watched {
        counter,
        before: counts.map(|(first, _)| count(first, before)),
        after: counts.map(|(_, second)| count(second, after)),
        verdict: counts.map(|(first, second)| compare((first, before.time), (second, after.time)).name()),
    });
    all.collect()
}
