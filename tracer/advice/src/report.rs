//! The report of a capture, before it is rendered: flows, counts, findings and mitigations.

use std::collections::BTreeMap;

use crate as diagnosis;

use tracer_common::Hook;
use tracer_engine::conclusion::Conclusion;
use tracer_engine::engine::Totals;
use tracer_engine::flow::{EvidenceRank, Flow, Tally};
use tracer_engine::hook_line::HookLine;
use tracer_model::capture::{Gap, Host, Origin, TableFull};
use tracer_model::cause::{Cause, Diagnosis};
use tracer_model::filter::Filter;
use tracer_model::finding::Finding;
use tracer_model::mitigation::{Mitigation, MitigationId};
use tracer_model::ruleset::{Candidates, Rule, Snapshots};
use tracer_model::time::Instant;
use tracer_walk::{By, Class, Fate, Walker};

use crate::{Exclusion, Known};

/// The counts of a report.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// Refused packets, accepted packets that conntrack logged, and RSTs sent, over all flows.
    pub tally: Tally,
    /// Flows that a RST of this host may have killed.
    pub flows_reset: u64,
    /// Flows per cause, among those with a refused packet or a RST.
    pub by_cause: BTreeMap<Cause, u64>,
    /// Packets of new connections dropped because the table was full.
    pub table_full_drops: u64,
}

/// A flow in the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowReport {
    /// The flow.
    pub flow: Box<Flow>,
    /// The namespace's name, if it has one.
    pub netns_name: Option<String>,
    /// The candidate rules, if a rule rejected the flow and the ruleset was read.
    pub candidates: Option<Candidates>,
    /// Excluded causes, each with its evidence.
    pub excluded: Vec<Exclusion>,
    /// Mitigations, the most thorough first.
    pub mitigations: Vec<MitigationId>,
}

/// The result of a capture.
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
    /// Rate-limited events: counted in the kernel, but not emitted. All counts include them.
    pub suppressed: u64,
    /// Events that were neither emitted nor counted with a flow.
    pub lost: u64,
    /// Lost events per CPU and hook, where there are any.
    pub lost_on: Vec<(u32, Hook, u64)>,
    /// Records that could not be decoded.
    pub undecodable: u64,
    /// How often new connections found the table full, per namespace that matches the filter.
    pub table_full: Vec<TableFull>,
    /// Counts.
    pub summary: Summary,
    /// Flows; the reset ones come first.
    pub flows: Vec<FlowReport>,
    /// Gaps in the capture's time.
    pub gaps: Vec<Gap>,
    /// Events of flows that a filter hides; none without a filter.
    pub filtered: Option<u64>,
    /// Findings.
    pub findings: Vec<Finding>,
    /// Every mitigation that a flow names.
    pub mitigations: Vec<Mitigation>,
}

impl Report {
    /// Builds the report of a concluded session.
    pub fn new(concluded: Conclusion) -> Self {
        let Conclusion { host, origin, ended, hooks, counters, namespaces, rulesets, .. } = concluded;
        let Conclusion { table_usages, host_context, gaps, undecodable, flows, of_endpoints, totals, filter, .. } =
            concluded;
        let namespace = |flow: &Flow| flow.key.netns.and_then(|inode| namespaces.get(&inode));
        let (wanted, hidden): (Vec<Box<Flow>>, Vec<Box<Flow>>) =
            flows.into_iter().partition(|flow| filter.matches_cause(flow.incident.diagnosis.cause));
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
                let candidates = candidates(&flow, &rulesets);
                let context = flow.key.netns.and_then(|inode| host_context.get(&inode));
                let known = Known { facts, context };
                FlowReport {
                    netns_name: facts.and_then(|facts| facts.name.clone()),
                    excluded: diagnosis::exclusions(&flow, &hooks, facts),
                    mitigations: diagnosis::mitigations_for(&flow, host.log_format, &known, candidates.as_ref()),
                    candidates,
                    flow,
                }
            })
            .collect();
        // Cached keys lie side by side; reading them from 65,536 boxed flows would miss the cache.
        flows.sort_by_cached_key(|report| {
            (std::cmp::Reverse(report.flow.incident.rank()), report.flow.first, report.flow.id)
        });
        let lost = hooks.iter().map(|line| line.counters.lost()).sum();
        let suppressed = hooks.iter().map(|line| line.counters.suppressed()).sum();
        let full = table_full.iter().map(|full| full.netns);
        let mitigations = diagnosis::mitigations(&flows, full, &namespaces, &host_context);
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
        report.findings = diagnosis::findings(&report, &namespaces, &table_usages, &totals, &of_endpoints);
        report
    }

    /// Duration of the capture.
    pub fn duration(&self) -> std::time::Duration {
        self.ended - self.started
    }
}

const fn events_of(tally: Tally) -> u64 {
    tally.invalid + tally.ignored + tally.undecided + tally.resets
}

/// The rules that may have rejected a flow.
fn candidates(flow: &Flow, rulesets: &BTreeMap<u32, Snapshots>) -> Option<Candidates> {
    let reset = flow.incident.reset.as_ref().filter(|_| flow.incident.diagnosis.cause == Cause::RejectRule)?;
    let snapshots = rulesets.get(&reset.event.netns?)?;
    let candidates = snapshots.candidates(&reset.event);
    // The packet was rejected: of the rules that a walk ends at, only those that reject it with a RST are left.
    let walked = snapshots.whole().filter(|_| candidates.count > 1).zip(Class::of(&reset.event));
    Some(match walked.map(|(ruleset, class)| Walker::new(ruleset).walk(&class)) {
        Some(walk) => candidates.narrowed(|rule| {
            let place = |rule: &Rule| (rule.family, rule.table.clone(), rule.chain.clone(), rule.place);
            walk.outcomes.iter().any(|outcome| match &outcome.by {
                By::Rule(by) => outcome.fate == Fate::Reset && place(by) == place(rule),
                By::Policy(_) | By::Nothing => false,
            })
        }),
        None => candidates,
    })
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
        let named = flow.incident.rank() > EvidenceRank::Ignored;
        count(flow.incident.diagnosis, 1, flow.tally(), named);
    }
    let mut reset = flows.iter().filter(|flow| flow.was_reset()).count() as u64;
    for ((diagnosis, rank), (flows, tally)) in &totals.forgotten.causes {
        if filter.matches_cause(diagnosis.cause) {
            count(*diagnosis, *flows, *tally, *rank > EvidenceRank::Ignored);
            reset += if *rank == EvidenceRank::Killed { *flows } else { 0 };
        }
    }
    if filter.causes.is_empty() {
        summary.tally.add(totals.unattributed);
    }
    summary.flows_reset = reset;
    summary
}
