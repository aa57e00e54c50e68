//! Counts over a whole capture.

use std::collections::BTreeMap;

use tracer_model::cause::Diagnosis;

use crate::evicted::EvictedFlow;
use crate::flow::{EvidenceRank, Tally};

/// Counts over everything that passed the filter, flows that were forgotten included.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Totals {
    /// Events, whatever they are.
    pub events: u64,
    /// Events of flows that the filter does not want.
    pub unwanted: u64,
    /// RSTs of this host seen leaving.
    pub resets_output: u64,
    /// Events that were counted in the kernel without their flow.
    pub unattributed: Tally,
    /// Counts of flows that were forgotten for want of room, and how many of them may have died of a RST.
    pub forgotten: Forgotten,
}

/// What remains of flows that were forgotten for want of room.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Forgotten {
    /// How many.
    pub flows: u64,
    /// How many of them may have died of a RST of this host.
    pub reset: u64,
    /// Their counts, per cause of the flow and how far its story went.
    pub causes: BTreeMap<(Diagnosis, EvidenceRank), (u64, Tally)>,
}

impl Forgotten {
    /// Counts a flow in.
    pub(super) fn add(&mut self, brief: &EvictedFlow) {
        let (flows, tally) = self.causes.entry((brief.diagnosis, brief.rank)).or_default();
        *flows += 1;
        tally.add(brief.tally);
        self.flows += 1;
        self.reset += u64::from(brief.rank == EvidenceRank::Killed);
    }

    /// Takes one out again.
    pub(super) fn remove(&mut self, brief: &EvictedFlow) {
        if let Some((flows, tally)) = self.causes.get_mut(&(brief.diagnosis, brief.rank)) {
            *flows -= 1;
            tally.subtract(brief.tally);
            self.flows -= 1;
            self.reset -= u64::from(brief.rank == EvidenceRank::Killed);
        }
    }
}
