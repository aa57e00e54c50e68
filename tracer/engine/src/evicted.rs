//! Flows that were evicted for want of room: their endpoints, cause and counts, in little memory, so that further events of such a
//! flow do not count as another flow.

use std::net::{Ipv4Addr, SocketAddr};

use tracer_model::cause::Diagnosis;
use tracer_model::conntrack::Tuple;
use tracer_model::flow_key::FlowKey;
use tracer_model::time::Instant;

use super::flow::{EvidenceRank, Flow, FlowId, Tally};
use super::index::Index;

/// The summary of an evicted flow.
#[derive(Debug)]
pub(super) struct EvictedFlow {
    pub(super) id: FlowId,
    netns: Option<u32>,
    zone: u16,
    pub(super) known: bool,
    pub(super) rank: EvidenceRank,
    pub(super) diagnosis: Diagnosis,
    ends: Ends,
    pub(super) first: Instant,
    pub(super) last: Instant,
    pub(super) tally: Tally,
}

/// The endpoints of both tuples.
#[derive(Debug)]
enum Ends {
    V4([(Ipv4Addr, u16); 4]),
    Other(Box<[SocketAddr; 4]>),
}

impl EvictedFlow {
    /// The summary of a flow. If it was evicted before, the incident with the higher rank counts.
    pub(super) fn of(flow: &Flow) -> Self {
        let now = (flow.incident.rank(), flow.incident.diagnosis);
        let further = |(rank, _): &(EvidenceRank, Diagnosis)| flow.is_only_counted() || *rank >= now.0;
        let (rank, diagnosis) = flow.earlier.filter(further).unwrap_or(now);
        let FlowKey { netns, zone, original, reply } = flow.key;
        Self {
            id: flow.id,
            netns,
            zone,
            known: flow.known,
            rank,
            diagnosis,
            ends: Ends::of([original.src, original.dst, reply.src, reply.dst]),
            first: flow.first,
            last: flow.last,
            tally: flow.tally(),
        }
    }

    pub(super) fn key(&self) -> FlowKey {
        let [src, dst, reply_src, reply_dst] = match &self.ends {
            Ends::V4(ends) => ends.map(SocketAddr::from),
            Ends::Other(ends) => **ends,
        };
        let (original, reply) = (Tuple { src, dst }, Tuple { src: reply_src, dst: reply_dst });
        FlowKey { netns: self.netns, zone: self.zone, original, reply }
    }
}

impl Ends {
    fn of(ends: [SocketAddr; 4]) -> Self {
        match ends {
            [SocketAddr::V4(a), SocketAddr::V4(b), SocketAddr::V4(c), SocketAddr::V4(d)] => {
                Self::V4([a, b, c, d].map(|end| (*end.ip(), end.port())))
            }
            ends => Self::Other(Box::new(ends)),
        }
    }
}

/// Evicted flows, by the endpoints of their packets.
#[derive(Debug)]
pub(super) struct EvictedFlows {
    capacity: usize,
    flows: Vec<Option<EvictedFlow>>,
    free: Vec<u32>,
    by_tuple: Index<u32>,
}

impl EvictedFlows {
    pub(super) fn new(capacity: usize) -> Self {
        let capacity = capacity.min(u32::MAX as usize);
        Self { capacity, flows: Vec::new(), free: Vec::new(), by_tuple: Index::new() }
    }

    /// Keeps a flow's summary, if there is room.
    pub(super) fn insert(&mut self, flow: EvictedFlow) {
        let key = flow.key();
        let slot = match self.free.pop() {
            Some(slot) => {
                self.flows[slot as usize] = Some(flow);
                slot
            }
            None if self.flows.len() < self.capacity => {
                self.flows.push(Some(flow));
                (self.flows.len() - 1) as u32
            }
            None => return,
        };
        for tuple in [key.original, key.reply] {
            self.by_tuple.insert(&(key.netns, tuple), slot);
        }
    }

    /// Removes the latest flow that packets with these endpoints belong to, and returns it.
    pub(super) fn take(&mut self, netns: Option<u32>, tuple: Tuple) -> Option<EvictedFlow> {
        if self.flows.len() == self.free.len() {
            return None;
        }
        let of_it = |slot: &u32| {
            let flow = self.flows[*slot as usize].as_ref()?;
            let key = flow.key();
            (key.netns == netns && [key.original, key.reply].contains(&tuple)).then_some((flow.id, *slot))
        };
        let (_, slot) = self.by_tuple.get(&(netns, tuple)).filter_map(|slot| of_it(&slot)).max()?;
        let flow = self.flows[slot as usize].take()?;
        let key = flow.key();
        for tuple in [key.original, key.reply] {
            self.by_tuple.remove(&(key.netns, tuple), slot);
        }
        self.free.push(slot);
        Some(flow)
    }
}
