//! The report: what a capture came to, before anything is rendered.

use std::collections::BTreeMap;

use tracer_common::Hook;

use crate::capture::{Counters, Gap, HookCounters, HookState, HookStatus, Host, Netns, TableFull};
use crate::causality::Limits;
use crate::causality::engine::Totals;
use crate::causality::flow::{Flow, Strength, Tally};
use crate::cause::{Cause, Confidence, Diagnosis, ResetBy};
use crate::census::Census;
use crate::conntrack::Nfct;
use crate::diagnosis::{self, Exclusion, Finding, Known, Mitigation, MitigationId};
use crate::filter::Filter;
use crate::ruleset::{Looks, Suspects};
use crate::source::recording::Damage;
use crate::surroundings::Surroundings;
use crate::time::Instant;

/// Where the events came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The running kernel.
    Live,
    /// A recording.
    Recording {
        /// Its path.
        path: String,
        /// Where it is damaged, if it is.
        damage: Option<Damage>,
    },
}

/// A hook in the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookLine {
    /// Which hook.
    pub hook: Hook,
    /// How it was at the end.
    pub state: HookState,
    /// Since when.
    pub since: Instant,
    /// Its exact counters.
    pub counters: HookCounters,
}

/// The counts of a report.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// Packets refused and let pass, and RSTs sent, over all flows.
    pub tally: Tally,
    /// Flows that may have died of a RST of this host.
    pub flows_reset: u64,
    /// Flows per cause, of those that a packet was refused of or a RST was sent to.
    pub by_cause: BTreeMap<Cause, u64>,
    /// Packets of new connections that were dropped because the table was full.
    pub table_full_drops: u64,
}

/// A flow in the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowReport {
    /// The flow.
    pub flow: Box<Flow>,
    /// The namespace's name, where it has one.
    pub netns_name: Option<String>,
    /// The rules that can have rejected it, where a rule did and the ruleset was looked at.
    pub suspects: Option<Suspects>,
    /// Competing causes, and why they are excluded.
    pub excluded: Vec<Exclusion>,
    /// What would cure it.
    pub mitigations: Vec<MitigationId>,
}

/// What a capture came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The host.
    pub host: Host,
    /// Where the events came from.
    pub origin: Origin,
    /// When the capture started.
    pub started: Instant,
    /// When it ended.
    pub ended: Instant,
    /// The hooks.
    pub hooks: Vec<HookLine>,
    /// Events in all.
    pub events: u64,
    /// Events that were counted in the kernel and not told; they are in all the counts.
    pub suppressed: u64,
    /// Events that were neither told nor counted with a flow.
    pub lost: u64,
    /// What was lost per CPU and hook, those that are not zero.
    pub lost_on: Vec<(u32, Hook, u64)>,
    /// Records that could not be decoded.
    pub undecodable: u64,
    /// How often new connections found the table full, per namespace that the filter wants.
    pub table_full: Vec<TableFull>,
    /// Counts.
    pub summary: Summary,
    /// Flows, those that were reset first.
    pub flows: Vec<FlowReport>,
    /// What is missing of the capture's time.
    pub gaps: Vec<Gap>,
    /// Whether a filter hides flows, and how many events of hidden flows there were.
    pub filtered: Option<u64>,
    /// What should be known besides the flows.
    pub findings: Vec<Finding>,
    /// Every mitigation that some flow names.
    pub mitigations: Vec<Mitigation>,
}

/// What a report is made of.
pub struct Ingredients {
    /// The host.
    pub host: Host,
    /// Where the events came from.
    pub origin: Origin,
    /// When the capture ended.
    pub ended: Instant,
    /// The last state of every hook.
    pub hooks: Vec<HookStatus>,
    /// The last counters.
    pub counters: Option<Counters>,
    /// The last facts about every namespace.
    pub namespaces: BTreeMap<u32, Netns>,
    /// What was seen of rulesets that reject, per namespace.
    pub rulesets: BTreeMap<u32, Looks>,
    /// Who held the entries of tables that were full, per namespace.
    pub censuses: BTreeMap<u32, Census>,
    /// What there was around the conntrack of each namespace.
    pub surroundings: BTreeMap<u32, Surroundings>,
    /// What is missing of the capture's time.
    pub gaps: Vec<Gap>,
    /// Records that could not be decoded.
    pub undecodable: u64,
    /// The engine's flows.
    pub flows: Vec<Box<Flow>>,
    /// The engine's counts.
    pub totals: Totals,
    /// What the user wants to see.
    pub filter: Filter,
}

impl Report {
    /// Puts a report together.
    pub fn new(ingredients: Ingredients) -> Self {
        let Ingredients { host, origin, ended, hooks, counters, namespaces, .. } = ingredients;
        let Ingredients { rulesets, censuses, surroundings, gaps, undecodable, flows, totals, filter, .. } =
            ingredients;
        let hooks = hook_lines(&hooks, counters.as_ref());
        let namespace = |flow: &Flow| flow.key.netns.and_then(|inode| namespaces.get(&inode));
        // Endpoints on the same host mind their own business, unless the user asks for their namespace.
        let of_endpoint = |flow: &Flow| {
            filter.netns.is_empty()
                && flow.is_untracked_here()
                && namespace(flow).is_some_and(|facts| facts.entries == Some(0) && !facts.tracks())
        };
        let (of_endpoints, flows): (Vec<Box<Flow>>, Vec<Box<Flow>>) =
            flows.into_iter().partition(|flow| of_endpoint(flow));
        let mut flows = flows;
        for flow in &mut flows {
            if unseen(flow, &gaps) {
                flow.settle(Diagnosis::plain(Cause::Unknown));
                flow.story.confidence = Confidence::Inferred;
            } else if let Some(diagnosis) = diagnosis::explain_silence(flow, &hooks, namespace(flow)) {
                flow.settle(diagnosis);
            }
        }
        let (wanted, hidden): (Vec<Box<Flow>>, Vec<Box<Flow>>) =
            flows.into_iter().partition(|flow| filter.matches_cause(flow.story.diagnosis.cause));
        let table_full: Vec<TableFull> = counters.as_ref().map_or_else(Vec::new, |counters| {
            let wanted = |full: &&TableFull| filter.matches_netns(full.netns);
            counters.table_full.iter().filter(wanted).copied().collect()
        });
        let mut summary = summarise(&wanted, &totals, &filter);
        summary.table_full_drops = table_full.iter().map(|full| full.dropped).sum();
        let mut flows: Vec<FlowReport> = wanted
            .into_iter()
            .map(|flow| {
                let facts = namespace(&flow);
                let suspects = suspects(&flow, &rulesets);
                let around = flow.key.netns.and_then(|inode| surroundings.get(&inode));
                let known = Known { facts, around };
                FlowReport {
                    netns_name: facts.and_then(|facts| facts.name.clone()),
                    excluded: diagnosis::exclusions(&flow, &hooks, facts),
                    mitigations: diagnosis::mitigations_for(&flow, host.era, &known, suspects.as_ref()),
                    suspects,
                    flow,
                }
            })
            .collect();
        // With the keys beside each other: those of 65,536 flows are in as many places.
        flows.sort_by_cached_key(|report| {
            (std::cmp::Reverse(report.flow.story.strength()), report.flow.first, report.flow.id)
        });
        let lost = hooks.iter().map(|line| line.counters.lost()).sum();
        let suppressed = hooks.iter().map(|line| line.counters.suppressed()).sum();
        let full = table_full.iter().map(|full| full.netns);
        let mitigations = diagnosis::mitigations(&flows, full, &namespaces, &surroundings);
        let mut report = Self {
            started: host.started,
            host,
            origin,
            ended,
            hooks,
            events: totals.events,
            suppressed,
            lost,
            lost_on: counters.map(|counters| counters.lost_on).unwrap_or_default(),
            undecodable,
            table_full,
            summary,
            flows,
            gaps,
            filtered: (!filter.is_empty())
                .then(|| totals.unwanted + hidden.iter().map(|flow| events_of(flow.tally())).sum::<u64>()),
            findings: Vec::new(),
            mitigations,
        };
        report.findings = diagnosis::findings(&report, &namespaces, &censuses, &totals, &of_endpoints);
        report
    }

    /// How long the capture took.
    pub fn duration(&self) -> std::time::Duration {
        self.ended - self.started
    }
}

/// Whether what led to a flow's end may be missing: it came right after a gap, and the first step of it is not there. That
/// is the refusal of a segment that is known to have been refused, or what an end answers with a RST of its own.
fn unseen(flow: &Flow, gaps: &[Gap]) -> bool {
    let patience = Limits::default().patience;
    let (silent, at) = match &flow.story.reset {
        Some(reset) => {
            let refused = reset.by == ResetBy::GatewayStack && reset.event.nfct == Some(Nfct::None);
            (refused && flow.story.refusal.is_none() && reset.event.gone.is_none(), reset.event.at)
        }
        None => (flow.story.diagnosis.cause == Cause::PeerReset, flow.first),
    };
    // Records that were on their way when a file ended are older than the next one.
    let after = |gap: &Gap| {
        gap.until.is_some_and(|until| at - until <= patience) && gap.from.is_none_or(|from| from - at <= patience)
    };
    silent && gaps.iter().any(after)
}

const fn events_of(tally: Tally) -> u64 {
    tally.invalid + tally.ignored + tally.undecided + tally.resets
}

/// The rules that can have rejected a flow.
fn suspects(flow: &Flow, rulesets: &BTreeMap<u32, Looks>) -> Option<Suspects> {
    let reset = flow.story.reset.as_ref().filter(|_| flow.story.diagnosis.cause == Cause::RejectRule)?;
    Some(rulesets.get(&reset.event.netns?)?.suspects(&reset.event))
}

fn hook_lines(statuses: &[HookStatus], counters: Option<&Counters>) -> Vec<HookLine> {
    statuses
        .iter()
        .map(|status| HookLine {
            hook: status.hook,
            state: status.state.clone(),
            since: status.since,
            counters: counters
                .and_then(|counters| counters.hooks.get(status.hook.index()).copied())
                .unwrap_or_default(),
        })
        .collect()
}

fn summarise(flows: &[Box<Flow>], totals: &Totals, filter: &Filter) -> Summary {
    let mut summary = Summary::default();
    let mut count = |diagnosis: Diagnosis, flows: u64, tally: Tally, named: bool| {
        summary.tally.add(tally);
        if named {
            *summary.by_cause.entry(diagnosis.cause).or_default() += flows;
        }
    };
    for flow in flows {
        let named = flow.story.strength() > Strength::Ignored;
        count(flow.story.diagnosis, 1, flow.tally(), named);
    }
    let mut reset = flows.iter().filter(|flow| flow.was_reset()).count() as u64;
    for ((diagnosis, strength), (flows, tally)) in &totals.forgotten.causes {
        if filter.matches_cause(diagnosis.cause) {
            count(*diagnosis, *flows, *tally, *strength > Strength::Ignored);
            reset += if *strength == Strength::Killed { *flows } else { 0 };
        }
    }
    if filter.causes.is_empty() {
        summary.tally.add(totals.unattributed);
    }
    summary.flows_reset = reset;
    summary
}
