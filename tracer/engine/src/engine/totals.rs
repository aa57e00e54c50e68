//! Counts over a whole capture.

use std::collections::BTreeMap;

use tracer_model::cause::Diagnosis;

use crate::evicted::EvictedFlow;
use crate::flow::{EvidenceRank, Tally};

/// Counts over everything that passed the filter, evicted flows included.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Totals {
    /// Events of any kind.
    pub events: u64,
    /// Events of flows that the filter does not want.
    pub unwanted: u64,
    /// RSTs of this host at `LOCAL_OUT`.
    pub resets_output: u64,
    /// Events that were counted in the kernel without their flow.
    pub unattributed: Tally,
    /// Counts of evicted flows.
    pub forgotten: Forgotten,
}

/// The counts of flows that were evicted for want of room.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Forgotten {
    /// How many.
    pub flows: u64,
    /// How many of them may have died of a RST of this host.
    pub reset: u64,
    /// Their counts, per cause and rank of the flow.
    pub causes: BTreeMap<(Diagnosis, EvidenceRank), (u64, Tally)>,
}

impl Forgotten {
    /// Counts a flow in.
    pub(super) fn add(&mut self, evicted: &EvictedFlow) {
        let (flows, tally) = self.causes.entry((evicted.diagnosis, evicted.rank)).or_default();
        *flows += 1;
        tally.add(evicted.tally);
        self.flows += 1;
        self.reset += u64::from(evicted.rank == EvidenceRank::Killed);
    }

    /// Takes one out again.
    pub(super) fn remove(&mut self, evicted: &EvictedFlow) {
        if let Some((flows, tally)) = self.causes.get_mut(&(evicted.diagnosis, evicted.rank)) {
            *flows -= 1;
            tally.subtract(evicted.tally);
            self.flows -= 1;
            self.reset -= u64::from(evicted.rank == EvidenceRank::Killed);
        }
    }
}
