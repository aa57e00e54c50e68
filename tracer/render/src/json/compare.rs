//! `whyrst report --compare --format json`: the comparison of two captures, `whyrst.compare.v1`.

use std::io;

use schemars::JsonSchema;
use serde::Serialize;

use tracer_advice::compare;
use tracer_advice::compare::rate::LEVEL;
use tracer_advice::compare::{Changed, Count, Row, Side, Verdict};
use tracer_model::capture::Origin;

use super::{rfc3339, types, writing};

/// The identifier of the schema of `whyrst report --compare --format json`.
pub const COMPARE_SCHEMA: &str = "whyrst.compare.v1";

/// Two captures, before and after a change.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(title = "whyrst.compare.v1", extend("$id" = COMPARE_SCHEMA))]
struct Comparison<'a> {
    /// Always `whyrst.compare.v1`.
    schema: &'static str,
    tool: types::Tool,
    before: Capture<'a>,
    after: Capture<'a>,
    /// All connections.
    total: Counts,
    /// Packets of new connections dropped because the table was full.
    table_full_drops: Pair<u64>,
    /// Per cause and reason; the most frequent come first.
    by_cause: Vec<OfCause>,
    /// Per server.
    by_server: Vec<OfServer>,
    /// Per client, server and cause.
    by_route: Vec<OfRoute>,
    /// Differences between the hosts that may explain a change.
    changed: Vec<Change<'a>>,
    /// Differences in load when the captures ended.
    load: Vec<Change<'a>>,
    /// Limits of the comparison.
    caveats: &'a [String],
    /// The significance level: `fewer` and `more` mean that chance makes such a difference with a lower probability.
    level: f64,
}

/// A capture.
#[derive(Debug, Serialize, JsonSchema)]
struct Capture<'a> {
    /// The path of the recording.
    source: &'a str,
    host: types::Host<'a>,
    /// Version of the program that captured.
    whyrst: &'a str,
    /// RFC 3339, UTC.
    #[schemars(extend("format" = "date-time"))]
    started: String,
    /// RFC 3339, UTC.
    #[schemars(extend("format" = "date-time"))]
    ended: String,
    duration_s: f64,
    events: u64,
    events_lost: u64,
    records_not_understood: u64,
    /// Connections that were evicted from the flow table; only the totals include them.
    flows_forgotten: u64,
    /// Events of flows that the filter hides; absent without a filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    events_hidden: Option<u64>,
    /// The damage of the recording; null if it is complete.
    damage: Option<&'a str>,
}

/// A value of both captures.
#[derive(Debug, Serialize, JsonSchema)]
struct Pair<T> {
    before: T,
    after: T,
}

/// Counts of one capture.
#[derive(Debug, Serialize, JsonSchema)]
struct CountShape {
    /// Connections that a RST of this host may have killed.
    connections_reset: u64,
    /// Other connections with a refused packet or a RST.
    connections_not_reset: u64,
    invalid_packets: u64,
    ignored_packets: u64,
    resets_sent: u64,
}

/// Counts of both captures, and their rates.
#[derive(Debug, Serialize, JsonSchema)]
struct Counts {
    before: CountShape,
    after: CountShape,
    /// Rates of reset connections.
    reset: Rates,
    /// Rates of the others.
    not_reset: Rates,
}

/// Two rates.
#[derive(Debug, Serialize, JsonSchema)]
struct Rates {
    /// Null if the capture has no duration.
    before_per_minute: Option<f64>,
    after_per_minute: Option<f64>,
    difference_per_minute: Option<f64>,
    /// `fewer` and `more`: the rates differ. `no-difference-shown`: chance may explain the difference. `too-few`: so few
    /// connections in this time cannot show a difference. `lost-events`: missing events of the side with fewer connections
    /// may explain it. `not-watched`: one capture lacked the hooks that see such connections.
    verdict: VerdictWord,
    /// Probability of such a difference or a larger one by chance, if connections are independent; null if it was not
    /// computed.
    p: Option<f64>,
}

#[derive(Debug)]
struct VerdictWord(Verdict);

impl Serialize for VerdictWord {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.name())
    }
}

impl JsonSchema for VerdictWord {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Verdict".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "enum": Verdict::NAMES })
    }
}

#[derive(Debug, Serialize, JsonSchema)]
struct OfCause {
    cause: types::Cause,
    reason: Option<types::Reason>,
    #[serde(flatten)]
    counts: Counts,
}

#[derive(Debug, Serialize, JsonSchema)]
struct OfServer {
    server: String,
    #[serde(flatten)]
    counts: Counts,
}

#[derive(Debug, Serialize, JsonSchema)]
struct OfRoute {
    /// Its address, without the port.
    client: String,
    server: String,
    cause: types::Cause,
    reason: Option<types::Reason>,
    /// `before`, `after`, `both`, or `neither` if conntrack only logged packets that it accepted.
    seen: &'static str,
    #[serde(flatten)]
    counts: Counts,
}

/// A difference.
#[derive(Debug, Serialize, JsonSchema)]
struct Change<'a> {
    what: &'a str,
    /// Inode number of the network namespace in the second capture; null if the difference is not of a namespace.
    netns: Option<u32>,
    netns_name: Option<&'a str>,
    /// Null if absent.
    before: Option<&'a str>,
    after: Option<&'a str>,
}

/// Writes the comparison.
pub fn write(comparison: &compare::Comparison, to: &mut dyn io::Write) -> io::Result<()> {
    let compare::Comparison { before, after, .. } = comparison;
    let sides = (before, after);
    let dropped = |side: &Side| side.report.summary.table_full_drops;
    let shape = Comparison {
        schema: COMPARE_SCHEMA,
        tool: types::Tool { name: "whyrst", version: env!("CARGO_PKG_VERSION") },
        before: capture(before),
        after: capture(after),
        total: counts(&comparison.total, sides),
        table_full_drops: Pair { before: dropped(before), after: dropped(after) },
        by_cause: comparison
            .by_cause
            .iter()
            .map(|row| OfCause {
                cause: types::Cause(row.of.cause),
                reason: row.of.reason.map(types::Reason),
                counts: counts(row, sides),
            })
            .collect(),
        by_server: comparison
            .by_server
            .iter()
            .map(|row| OfServer { server: row.of.to_string(), counts: counts(row, sides) })
            .collect(),
        by_route: comparison
            .routes
            .iter()
            .map(|row| OfRoute {
                client: row.of.client.to_string(),
                server: row.of.server.to_string(),
                cause: types::Cause(row.of.diagnosis.cause),
                reason: row.of.diagnosis.reason.map(types::Reason),
                seen: seen(row.before, row.after),
                counts: counts(row, sides),
            })
            .collect(),
        changed: comparison.changed.iter().map(change).collect(),
        load: comparison.load.iter().map(change).collect(),
        caveats: &comparison.caveats,
        level: LEVEL,
    };
    writing::document(&shape, to)
}

/// Writes the JSON Schema of the comparison.
pub fn write_schema(to: &mut dyn io::Write) -> io::Result<()> {
    writing::document(&schemars::schema_for!(Comparison<'_>), to)
}

fn capture(side: &Side) -> Capture<'_> {
    let report = &side.report;
    let (source, damage) = match &report.origin {
        Origin::Live => ("live", None),
        Origin::Recording { path, damage } => (path.as_str(), damage.as_ref().map(|damage| damage.what.as_str())),
    };
    let host = &report.host;
    Capture {
        source,
        host: types::Host { hostname: &host.hostname, kernel: &host.kernel, log_format: host.log_format.name() },
        whyrst: &host.tool,
        started: rfc3339(host.clock, report.started),
        ended: rfc3339(host.clock, report.ended),
        duration_s: report.duration().as_secs_f64(),
        events: report.events,
        events_lost: report.lost,
        records_not_understood: report.undecodable,
        flows_forgotten: side.background.forgotten,
        events_hidden: report.filtered,
        damage,
    }
}

fn counts<K>(row: &Row<K>, (before, after): (&Side, &Side)) -> Counts {
    let shape = |count: Count| CountShape {
        connections_reset: count.reset,
        connections_not_reset: count.not_reset,
        invalid_packets: count.invalid,
        ignored_packets: count.ignored,
        resets_sent: count.resets,
    };
    let rates = |select: fn(Count) -> u64, verdict: Verdict| {
        let one = before.sample(select(row.before)).per_minute();
        let other = after.sample(select(row.after)).per_minute();
        Rates {
            before_per_minute: one,
            after_per_minute: other,
            difference_per_minute: one.zip(other).map(|(one, other)| other - one),
            verdict: VerdictWord(verdict),
            p: verdict.p(),
        }
    };
    Counts {
        before: shape(row.before),
        after: shape(row.after),
        reset: rates(|count| count.reset, row.reset),
        not_reset: rates(|count| count.not_reset, row.not_reset),
    }
}

const fn seen(before: Count, after: Count) -> &'static str {
    match (before.reset + before.not_reset, after.reset + after.not_reset) {
        (0, 0) => "neither",
        (_, 0) => "before",
        (0, _) => "after",
        _ => "both",
    }
}

fn change(changed: &Changed) -> Change<'_> {
    Change {
        what: &changed.what,
        netns: changed.netns.as_ref().map(|(inode, _)| *inode),
        netns_name: changed.netns.as_ref().and_then(|(_, name)| name.as_deref()),
        before: changed.before.as_deref(),
        after: changed.after.as_deref(),
    }
}
