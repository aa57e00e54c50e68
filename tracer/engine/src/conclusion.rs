//! What a capture came to: every flow's cause, decided for good once everything that may bear on it is known.
//!
//! The engine decides while events come in; that is provisional. Here it is known which part of the capture is missing, and
//! what conntrack in each namespace is like. A report is a view of the conclusion, and changes nothing in it.

use std::collections::BTreeMap;

use tracer_common::Hook;
use tracer_model::capture::{Counters, Gap, HookCounters, HookState, HookStatus, Host, Netns, Origin};
use tracer_model::cause::{Cause, Confidence, Diagnosis, ResetBy};
use tracer_model::conntrack::Nfct;
use tracer_model::filter::Filter;
use tracer_model::host_context::HostContext;
use tracer_model::ruleset::Snapshots;
use tracer_model::table_usage::TableUsage;
use tracer_model::time::Instant;

use crate::Limits;
use crate::engine::Totals;
use crate::flow::Flow;
use crate::silence::explain_silence;

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

impl HookLine {
    /// A line for every hook whose state is known.
    pub(crate) fn all(statuses: &[HookStatus], counters: Option<&Counters>) -> Vec<Self> {
        let counted = |hook: Hook| counters.and_then(|counters| counters.hooks.get(hook.index()).copied());
        let line = |status: &HookStatus| Self {
            hook: status.hook,
            state: status.state.clone(),
            since: status.since,
            counters: counted(status.hook).unwrap_or_default(),
        };
        statuses.iter().map(line).collect()
    }
}

/// What a capture came to.
#[derive(Debug)]
pub struct Conclusion {
    /// The host.
    pub host: Host,
    /// Where the events came from.
    pub origin: Origin,
    /// When the capture ended.
    pub ended: Instant,
    /// The hooks.
    pub hooks: Vec<HookLine>,
    /// The last counters.
    pub counters: Option<Counters>,
    /// The last facts about every namespace.
    pub namespaces: BTreeMap<u32, Netns>,
    /// What was seen of rulesets that reject, per namespace.
    pub rulesets: BTreeMap<u32, Snapshots>,
    /// Who held the entries of tables that were full, per namespace.
    pub table_usages: BTreeMap<u32, TableUsage>,
    /// What there was around the conntrack of each namespace.
    pub host_context: BTreeMap<u32, HostContext>,
    /// What is missing of the capture's time.
    pub gaps: Vec<Gap>,
    /// Records that could not be decoded.
    pub undecodable: u64,
    /// The flows of gateways, each with its cause.
    pub flows: Vec<Box<Flow>>,
    /// Flows that were reset in namespaces that track no connections: endpoints on this host.
    pub of_endpoints: Vec<Box<Flow>>,
    /// The engine's counts.
    pub totals: Totals,
    /// What the user wants to see.
    pub filter: Filter,
}

impl Conclusion {
    /// Decides every flow's cause.
    pub(crate) fn conclude(&mut self) {
        let flows = std::mem::take(&mut self.flows);
        let Self { namespaces, filter, .. } = &*self;
        let namespace = |flow: &Flow| flow.key.netns.and_then(|inode| namespaces.get(&inode));
        // Endpoints on the same host mind their own business, unless the user asks for their namespace.
        let of_endpoint = |flow: &Flow| {
            filter.netns.is_empty()
                && flow.is_untracked_here()
                && namespace(flow).is_some_and(|facts| facts.entries == Some(0) && !facts.tracks())
        };
        let (of_endpoints, mut flows): (Vec<Box<Flow>>, Vec<Box<Flow>>) =
            flows.into_iter().partition(|flow| of_endpoint(flow));
        for flow in &mut flows {
            if unseen(flow, &self.gaps) {
                flow.settle(Diagnosis::plain(Cause::Unknown));
                flow.incident.confidence = Confidence::Inferred;
            } else if let Some(diagnosis) = explain_silence(flow, &self.hooks, namespace(flow)) {
                flow.settle(diagnosis);
            }
        }
        (self.flows, self.of_endpoints) = (flows, of_endpoints);
    }
}

/// Whether what led to a flow's end may be missing: it came right after a gap, and the first step of it is not there. That
/// is the refusal of a segment that is known to have been refused, or what an end answers with a RST of its own.
fn unseen(flow: &Flow, gaps: &[Gap]) -> bool {
    let patience = Limits::default().patience;
    let (silent, at) = match &flow.incident.reset {
        Some(reset) => {
            let refused = reset.by == ResetBy::GatewayStack && reset.event.nfct == Some(Nfct::None);
            (refused && flow.incident.logged.is_none() && reset.event.destroyed.is_none(), reset.event.at)
        }
        None => (flow.incident.diagnosis.cause == Cause::PeerReset, flow.first),
    };
    // Records that were on their way when a file ended are older than the next one.
    let after = |gap: &Gap| {
        gap.until.is_some_and(|until| at - until <= patience) && gap.from.is_none_or(|from| from - at <= patience)
    };
    silent && gaps.iter().any(after)
}
