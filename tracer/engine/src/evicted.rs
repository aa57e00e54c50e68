//! Flows whose stories were forgotten for want of room: who they were and what they came to, in little memory, so that one
//! that is heard of again is not taken for another.

use std::net::{Ipv4Addr, SocketAddr};

use tracer_model::cause::Diagnosis;
use tracer_model::conntrack::Tuple;
use tracer_model::flow_key::FlowKey;
use tracer_model::time::Instant;

use super::flow::{EvidenceRank, Flow, FlowId, Tally};
use super::index::Index;

/// What remains of a flow.
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
    /// What a flow has come to. What it was before its story was forgotten once already goes first.
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

/// Forgotten flows, by the endpoints of their packets.
#[derive(Debug)]
pub(super) struct EvictedFlows {
    capacity: usize,
    briefs: Vec<Option<EvictedFlow>>,
    free: Vec<u32>,
    by_tuple: Index<u32>,
}

impl EvictedFlows {
    pub(super) fn new(capacity: usize) -> Self {
        let capacity = capacity.min(u32::MAX as usize);
        Self { capacity, briefs: Vec::new(), free: Vec::new(), by_tuple: Index::new() }
    }

    /// Keeps what remains of a flow, where there is room.
    pub(super) fn insert(&mut self, brief: EvictedFlow) {
        let key = brief.key();
        let place = match self.free.pop() {
            Some(place) => {
                self.briefs[place as usize] = Some(brief);
                place
            }
            None if self.briefs.len() < self.capacity => {
                self.briefs.push(Some(brief));
                (self.briefs.len() - 1) as u32
            }
            None => return,
        };
        for tuple in [key.original, key.reply] {
            self.by_tuple.insert(&(key.netns, tuple), place);
        }
    }

    /// Gives back the latest flow that packets with these endpoints belonged to.
    pub(super) fn take(&mut self, netns: Option<u32>, tuple: Tuple) -> Option<EvictedFlow> {
        if self.briefs.len() == self.free.len() {
            return None;
        }
        let of_it = |place: &u32| {
            let brief = self.briefs[*place as usize].as_ref()?;
            let key = brief.key();
            (key.netns == netns && [key.original, key.reply].contains(&tuple)).then_some((brief.id, *place))
        };
        let (_, place) = self.by_tuple.get(&(netns, tuple)).filter_map(|place| of_it(&place)).max()?;
        let brief = self.briefs[place as usize].take()?;
        let key = brief.key();
        for tuple in [key.original, key.reply] {
            self.by_tuple.remove(&(key.netns, tuple), place);
        }
        self.free.push(place);
        Some(brief)
    }
}
