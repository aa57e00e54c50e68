//! The result of a capture: the cause of every flow, decided once, when all facts are known.
//!
//! The engine decides while events come in. Two kinds of causes wait for the end: those of a refusal without a message, for which
//! facts about the namespace are needed ([`crate::silence`]), and those right after a gap. `Observed::provisional` marks both. A
//! report is a view of the conclusion and changes nothing in it.

use std::collections::BTreeMap;

use tracer_model::capture::{Counters, Gap, Host, Netns, Origin};
use tracer_model::cause::{Cause, Confidence, Diagnosis};
use tracer_model::filter::Filter;
use tracer_model::host_context::HostContext;
use tracer_model::ruleset::Snapshots;
use tracer_model::table_usage::TableUsage;
use tracer_model::time::Instant;

use crate::engine::Totals;
use crate::flow::Flow;
use crate::hook_line::HookLine;
use crate::silence::explain_silence;

/// The result of a capture.
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
    /// The rulesets that reject, per namespace.
    pub rulesets: BTreeMap<u32, Snapshots>,
    /// The usage of tables that were full, per namespace.
    pub table_usages: BTreeMap<u32, TableUsage>,
    /// The host context of each namespace.
    pub host_context: BTreeMap<u32, HostContext>,
    /// The missing stretches of the capture's time.
    pub gaps: Vec<Gap>,
    /// Records that could not be decoded.
    pub undecodable: u64,
    /// The flows of gateways, each with its cause.
    pub flows: Vec<Box<Flow>>,
    /// Flows that were reset in namespaces that track no connections: endpoints on this host.
    pub of_endpoints: Vec<Box<Flow>>,
    /// The engine's counts.
    pub totals: Totals,
    /// The user's filter.
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
            if flow.incident.after_gap {
                flow.settle(Diagnosis::plain(Cause::Unknown));
                flow.incident.confidence = Confidence::Inferred;
            } else if let Some(diagnosis) = explain_silence(flow, &self.hooks, namespace(flow)) {
                flow.settle(diagnosis);
            }
        }
        (self.flows, self.of_endpoints) = (flows, of_endpoints);
    }
}

#[cfg(test)]
mod tests {
    use tracer_common::Hook;
    use tracer_model::capture::{Gap, GapReason, Host, Item, Origin};
    use tracer_model::cause::Cause;
    use tracer_model::conntrack::Nfct;
    use tracer_model::filter::Filter;
    use tracer_model::time::Instant;
    use tracer_testing::Build;

    use crate::session::Session;

    const SECOND: u64 = 1_000_000_000;

    /// A RST of the gateway at `at`, in a capture that lacks the second before 10 s: whether the trace marks it, and its cause in the
    /// report. `before` puts it into the file before the gap.
    fn reset(flags: u8, at: u64, before: bool) -> (bool, Cause, Cause) {
        let mut session = Session::new(Host::nobody(), Filter::default());
        let (from, until) = (Some(Instant(9 * SECOND)), Some(Instant(10 * SECOND)));
        let gap = Item::Gap(Gap { from, until, why: GapReason::NotCaptured });
        let record = Item::Record(Build::from_server(Hook::ResetV4, 1, at, 7, 0).flags(flags).bytes());
        let mut items = [gap, record];
        if before {
            items.reverse();
        }
        let [observed] = items.iter().filter_map(|item| session.item(item)).collect::<Vec<_>>().try_into().unwrap();
        let event = observed.event().unwrap();
        assert_eq!(event.nfct, Some(Nfct::None));
        let traced = observed.diagnosis().unwrap().cause;
        let flows = session.finish(Origin::Live).flows;
        (observed.provisional, traced, flows[0].incident.diagnosis.cause)
    }

    #[test]
    fn a_cause_that_a_gap_can_change_is_provisional() {
        const SYN: u8 = 0x02;
        const ACK: u8 = 0x10;
        // The refusal of the SYN can lie in the gap.
        assert_eq!(reset(SYN, 11 * SECOND, false), (true, Cause::NoListener, Cause::Unknown));
        assert_eq!(reset(SYN, 13 * SECOND, false), (false, Cause::NoListener, Cause::NoListener));
        // All that was before it is there.
        assert_eq!(reset(SYN, 8 * SECOND, true), (false, Cause::NoListener, Cause::NoListener));
        // Facts about the namespace can explain it.
        assert_eq!(reset(ACK, 13 * SECOND, false), (true, Cause::Unknown, Cause::Unknown));
    }
}
