//! Compares two captures, before and after a change: which causes became more or less frequent, and whether the counts are
//! large enough to show it.
//!
//! Pure. It counts connections, because the packets of one connection are not independent events. Each connection counts
//! once, under its final cause.

mod background;
pub mod rate;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use tracer_common::Hook;
use tracer_engine::flow::{EvidenceRank, Flow};
use tracer_engine::session::Background;
use tracer_model::capture::{HookState, Origin};
use tracer_model::cause::{Cause, Diagnosis};

use crate::report::Report;

use rate::{Difference, Sample};

pub use background::Changed;

/// Counts of one capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Connections that a RST of this host may have killed.
    pub reset: u64,
    /// Other connections with a refused packet, or with a RST of this host or of an endpoint.
    pub not_reset: u64,
    /// Packets that conntrack refused.
    pub invalid: u64,
    /// Packets that conntrack logged and accepted.
    pub ignored: u64,
    /// RSTs that this host sent.
    pub resets: u64,
}

impl Count {
    fn add(&mut self, flow: &Flow) {
        let rank = flow.incident.rank();
        self.reset += u64::from(rank == EvidenceRank::Killed);
        self.not_reset += u64::from(rank > EvidenceRank::Ignored && rank < EvidenceRank::Killed);
        let tally = flow.tally();
        self.invalid += tally.invalid;
        self.ignored += tally.ignored;
        self.resets += tally.resets;
    }
}

/// Whether two rates differ, judged by their counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    /// The result of the test on both counts.
    Tested(Difference),
    /// They differ, but the missing events could explain it: lost or undecodable records, evicted flows.
    Lost,
    /// One of the captures lacked the hooks that see such connections.
    NotWatched,
}

impl Verdict {
    /// The word used for it in every output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tested(Difference::Fewer(_)) => "fewer",
            Self::Tested(Difference::More(_)) => "more",
            Self::Tested(Difference::None(_)) => "no-difference-shown",
            Self::Tested(Difference::TooFew) => "too-few",
            Self::Lost => "lost-events",
            Self::NotWatched => "not-watched",
        }
    }

    /// All names, in the order of the documentation.
    pub const NAMES: [&'static str; 6] =
        ["fewer", "more", "no-difference-shown", "too-few", "lost-events", "not-watched"];

    /// The probability of such a difference by chance, if it was computed.
    pub const fn p(self) -> Option<f64> {
        match self {
            Self::Tested(Difference::Fewer(p) | Difference::More(p) | Difference::None(p)) => Some(p),
            _ => None,
        }
    }
}

/// A count in both captures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row<K> {
    /// What it is.
    pub of: K,
    /// Count of the first capture.
    pub before: Count,
    /// Count of the second.
    pub after: Count,
    /// The verdict on reset connections.
    pub reset: Verdict,
    /// The verdict on the others.
    pub not_reset: Verdict,
}

/// Client, server and diagnosis. The client has no port, because each connection has another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The client's address.
    pub client: IpAddr,
    /// The server.
    pub server: SocketAddr,
    /// Why.
    pub diagnosis: Diagnosis,
}

/// A capture to compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// Its report.
    pub report: Report,
    /// Facts of its host.
    pub background: Background,
}

impl Side {
    /// Records that are missing from the counts: lost or undecodable ones.
    pub const fn missing(&self) -> u64 {
        self.report.lost.saturating_add(self.report.undecodable)
    }

    /// A count over the duration of this capture.
    pub fn sample(&self, events: u64) -> Sample {
        Sample { events, time: self.report.duration() }
    }

    fn watched(&self, hook: Hook) -> bool {
        let state = self.report.hooks.iter().find(|line| line.hook == hook).map(|line| &line.state);
        // A function whose module is not loaded does not run.
        matches!(state, Some(HookState::Attached | HookState::Waiting { .. }))
    }

    /// Whether the capture's hooks see connections with a cause.
    fn sees(&self, cause: Cause) -> bool {
        let any = |hooks: &[Hook]| hooks.iter().any(|hook| self.watched(*hook));
        match cause {
            Cause::PeerReset => any(&[Hook::PacketTap, Hook::TcxTap]),
            Cause::RejectRule => any(&[Hook::RejectV4, Hook::RejectV6]),
            Cause::OutOfWindow | Cause::InvalidState | Cause::Malformed => any(&[Hook::CtInvalid]),
            Cause::TableFull => any(&[Hook::TableFull]),
            Cause::NoEntry => any(&[Hook::EntryDestroyed]),
            Cause::LocalSocket => any(&[Hook::ActiveReset]),
            Cause::NoListener | Cause::NotTracked | Cause::Unknown => {
                any(&[Hook::ResetV4, Hook::ResetV6, Hook::ResetTracepoint])
            }
        }
    }
}

/// What a comparison of two counts has to reckon with.
#[derive(Debug, Clone, Copy)]
struct Doubt {
    /// Both captures watched what resets are seen by, or neither did.
    reset: bool,
    /// The same for connections that were not reset.
    not_reset: bool,
    /// How many more connections there may have been in each.
    more: [u64; 2],
}

/// Two captures compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The first.
    pub before: Side,
    /// The second.
    pub after: Side,
    /// Over everything.
    pub total: Row<()>,
    /// Per cause and reason; what there is most of comes first.
    pub by_cause: Vec<Row<Diagnosis>>,
    /// Per server.
    pub by_server: Vec<Row<SocketAddr>>,
    /// Per client, server and cause.
    pub routes: Vec<Row<Route>>,
    /// Differences between the hosts that may explain a change.
    pub changed: Vec<Changed>,
    /// What else is different: how busy they were.
    pub load: Vec<Changed>,
    /// Limits of the comparison.
    pub caveats: Vec<String>,
}

impl Comparison {
    /// Compares two captures.
    pub fn new(before: Side, after: Side) -> Self {
        let pair = (&before, &after);
        let everything = |side: &Side| {
            let mut total = Count::default();
            side.report.flows.iter().for_each(|flow| total.add(&flow.flow));
            // Flows that were forgotten are in the report's own sums.
            let summary = &side.report.summary;
            total.reset = summary.flows_reset;
            total.not_reset = summary.by_cause.values().sum::<u64>().saturating_sub(summary.flows_reset);
            Count {
                invalid: summary.tally.invalid,
                ignored: summary.tally.ignored,
                resets: summary.tally.resets,
                ..total
            }
        };
        let alike = |cause: Cause| before.sees(cause) == after.sees(cause);
        let missing = [before.missing(), after.missing()];
        let forgotten = [before.background.forgotten, after.background.forgotten];
        let more = [0, 1].map(|side| missing[side].saturating_add(forgotten[side]));
        // A RST of an endpoint counts as not reset by this host.
        let resets_alike = Cause::ALL.iter().filter(|cause| **cause != Cause::PeerReset).all(|cause| alike(*cause));
        let all = Doubt { reset: resets_alike, not_reset: resets_alike && alike(Cause::PeerReset), more };
        let of = |cause: Cause| Doubt { reset: alike(cause), not_reset: alike(cause), more };
        let total = row((), everything(&before), everything(&after), pair, Doubt { more: missing, ..all });
        let by_cause = counted(pair, |flow| flow.incident.diagnosis, |diagnosis| of(diagnosis.cause));
        let by_server = counted(pair, |flow| flow.key.server(), |_| all);
        let route = |flow: &Flow| Route {
            client: flow.key.client().ip(),
            server: flow.key.server(),
            diagnosis: flow.incident.diagnosis,
        };
        let routes = counted(pair, route, |route| of(route.diagnosis.cause));
        let (changed, load) = background::changes(&before, &after);
        let caveats = caveats(&before, &after);
        Self { before, after, total, by_cause, by_server, routes, changed, load, caveats }
    }
}

/// Counts flows by a key.
fn counted<K: Ord + Copy>(pair: (&Side, &Side), of: impl Fn(&Flow) -> K, doubt: impl Fn(&K) -> Doubt) -> Vec<Row<K>> {
    let mut counts: BTreeMap<K, [Count; 2]> = BTreeMap::new();
    for (index, side) in [pair.0, pair.1].into_iter().enumerate() {
        for flow in &side.report.flows {
            counts.entry(of(&flow.flow)).or_default()[index].add(&flow.flow);
        }
    }
    let mut rows: Vec<Row<K>> =
        counts.into_iter().map(|(key, [first, second])| row(key, first, second, pair, doubt(&key))).collect();
    let weight = |count: Count| (count.reset, count.not_reset, count.ignored);
    rows.sort_by_key(|row| std::cmp::Reverse(weight(row.before).max(weight(row.after))));
    rows
}

/// Compares two counts.
fn row<K>(of: K, first: Count, second: Count, (before, after): (&Side, &Side), doubt: Doubt) -> Row<K> {
    let verdict = |comparable: bool, one: u64, other: u64| {
        let (one, other) = (before.sample(one), after.sample(other));
        let [more_before, more_after] = doubt.more;
        let found = rate::compare(one, other);
        // The difference must remain if all missing events belong to the side with fewer.
        let stands = match found {
            Difference::Fewer(_) => matches!(rate::compare(one, other.and(more_after)), Difference::Fewer(_)),
            Difference::More(_) => matches!(rate::compare(one.and(more_before), other), Difference::More(_)),
            Difference::None(_) | Difference::TooFew => true,
        };
        match (comparable, stands) {
            (false, _) => Verdict::NotWatched,
            (true, false) => Verdict::Lost,
            (true, true) => Verdict::Tested(found),
        }
    };
    Row {
        of,
        before: first,
        after: second,
        reset: verdict(doubt.reset, first.reset, second.reset),
        not_reset: verdict(doubt.not_reset, first.not_reset, second.not_reset),
    }
}

/// Limits of the comparison.
fn caveats(before: &Side, after: &Side) -> Vec<String> {
    let mut caveats = Vec::new();
    for (name, side) in [("before", before), ("after", after)] {
        let report = &side.report;
        if report.lost > 0 {
            caveats.push(format!("{name}: {} events were lost; the counts lack them", report.lost));
        }
        if report.undecodable > 0 {
            caveats.push(format!("{name}: {} records could not be decoded", report.undecodable));
        }
        if let Origin::Recording { damage: Some(damage), .. } = &report.origin {
            caveats.push(format!("{name}: the recording is damaged at byte {}: {}", damage.offset, damage.what));
        }
        if side.background.forgotten > 0 {
            let forgotten = side.background.forgotten;
            caveats.push(format!(
                "{name}: {forgotten} connections were evicted from the flow table; only the totals include them"
            ));
        }
    }
    for (name, one, other) in [("before", before, after), ("after", after, before)] {
        let missing: Vec<&str> = Hook::ALL
            .into_iter()
            .filter(|hook| one.watched(*hook) && !other.watched(*hook))
            .map(|hook| hook.spec().symbol)
            .collect();
        if !missing.is_empty() {
            caveats.push(format!("attached only {name}: {}", missing.join(", ")));
        }
    }
    let wall = |side: &Side| {
        let clock = side.report.host.clock;
        (clock.wall(side.report.started), clock.wall(side.report.ended))
    };
    let ((first, first_end), (second, second_end)) = (wall(before), wall(after));
    let same_host = before.report.host.hostname == after.report.host.hostname;
    if !same_host {
        caveats.push("the recordings are from two hosts: their traffic may differ".to_owned());
    } else if (first, first_end) == (second, second_end) {
        caveats.push("both recordings are the same capture".to_owned());
    } else if second < first_end && first < second_end {
        caveats.push("the captures overlap: events in both are counted twice".to_owned());
    } else if second < first {
        caveats.push("the second recording was taken before the first".to_owned());
    }
    caveats.push("connections without an event are not counted: the amount of traffic is unknown".to_owned());
    caveats
}

#[cfg(test)]
mod tests;
