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

/// What `whyrst mitigate` says.
#[derive(Debug, Serialize, JsonSchema)]
struct Mitigate<'a> {
    /// `whyrst.mitigate.v1`
    schema: &'static str,
    /// The cure that was asked for, or all of them.
    mitigations: Vec<Entry<'a>>,
    /// What was done, where something was to be.
    outcome: Option<Done<'a>>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Entry<'a> {
    #[serde(flatten)]
    mitigation: types::Mitigation<'a>,
    /// Whether it can help on this host.
    applies: bool,
    /// Why not, if it cannot.
    because: Option<&'a str>,
    /// Whether `--apply` does it: it changes something, and every change can be taken back.
    can_be_applied: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Done<'a> {
    /// `applied` or `undone`.
    state: &'static str,
    /// The file of the journal.
    entry: &'a str,
    /// The commands that were run.
    commands: &'a [String],
    /// What is not as it should be all the same.
    remarks: &'a [String],
    /// What the kernel counted before and after, where it was watched.
    watched: Vec<Watched>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Watched {
    /// What was counted.
    counter: &'static str,
    before: Option<Count>,
    after: Option<Count>,
    /// `too-little-traffic`, `fell`, `rose` or `no-clear-change`; null where a counter could not be read.
    verdict: Option<&'static str>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Count {
    count: u64,
    seconds: f64,
}

/// Writes it.
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

/// Writes the schema of that.
pub fn write_mitigate_schema(to: &mut dyn io::Write) -> io::Result<()> {
    writing::document(&schemars::schema_for!(Mitigate<'_>), to)
}

fn done(outcome: &Outcome) -> Done<'_> {
    Done {
        state: outcome.state,
        entry: &outcome.entry,
        commands: &outcome.commands,
        remarks: &outcome.remarks,
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
