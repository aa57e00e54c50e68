//! The flow of an event: creating, restoring and evicting flows.

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;

use tracer_model::cause::{Confidence, Diagnosis};
use tracer_model::conntrack::entry::CtInfo;
use tracer_model::conntrack::{Entry, Nfct, Tuple};
use tracer_model::event::Event;
use tracer_model::flow_key::FlowKey;
use tracer_model::time::Instant;

use super::Engine;
use super::judge::{key_of_entry, opener_first};
use crate::evicted::EvictedFlow;
use crate::flow::{Flow, FlowId, Incident, Tally};

/// The event that makes a flow: its time and its packet.
pub(super) struct Seen {
    pub(super) at: Instant,
    pub(super) tuple: Option<Tuple>,
}

impl Seen {
    fn of(event: &Event) -> Self {
        Self { at: event.at, tuple: event.tuple() }
    }
}

/// The order of eviction: flows that were not reset go first, then the one that was idle longest. It is one number, because there
/// are many and they are compared often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EvictionKey(u128);

impl EvictionKey {
    /// One bit for whether it was reset, 64 of time, 63 of its number.
    fn of(flow: &Flow) -> Self {
        Self(u128::from(flow.was_reset()) << 127 | u128::from(flow.last.0) << 63 | u128::from(flow.id.0))
    }

    const fn flow(self) -> FlowId {
        FlowId(self.0 as u64 & (u64::MAX >> 1))
    }
}

impl Engine {
    /// Puts an event to its flow, which is made if there is none; `None` where the filter does not want it.
    pub(super) fn account(
        &mut self,
        event: &Event,
        diagnosis: Diagnosis,
        tally: Tally,
        incident: Incident,
    ) -> Option<FlowId> {
        let id = match event.connection() {
            Some(entry) => self.flow_of_entry(event, entry, &incident),
            None => self.flow_of_packet(event, &incident),
        };
        match id {
            Some(id) => self.update(id, event, diagnosis, tally, incident),
            None => self.totals.unwanted += 1,
        }
        id
    }

    fn flow_of_entry(&mut self, event: &Event, entry: &Entry, incident: &Incident) -> Option<FlowId> {
        let key = opener_first(event, key_of_entry(event, entry));
        if let Some(id) = self.known_flow_of_entry(event, &key) {
            return Some(id);
        }
        let recalled = [key.original, key.reply].map(|tuple| self.recall(key.netns, tuple));
        if recalled.contains(&true)
            && let Some(id) = self.known_flow_of_entry(event, &key)
        {
            return Some(id);
        }
        self.create(key, true, &Seen::of(event), incident)
    }

    fn known_flow_of_entry(&mut self, event: &Event, key: &FlowKey) -> Option<FlowId> {
        if let Some(id) = self.flows.of_key(key) {
            return Some(id);
        }
        // A segment for which there was no entry makes one of its own. Where the connection that it really belongs to is
        // known, that is its flow.
        let picked_up = event.destroyed.is_none() && event.nfct == Some(Nfct::Entry(CtInfo::New));
        if picked_up && let Some(id) = self.flows.of_packet(key.netns, key.original) {
            return Some(id);
        }
        let id = self.flow_without_entry(key)?;
        self.adopt(id, key.original, key.reply);
        Some(id)
    }

    /// A flow that is known by a packet alone, and turns out to be the one with this entry.
    fn flow_without_entry(&self, key: &FlowKey) -> Option<FlowId> {
        [key.reply, key.original].into_iter().find_map(|tuple| {
            let id = self.flows.of_packet(key.netns, tuple)?;
            let flow = self.flows.get(id)?;
            (!flow.known && flow.seen == Some(tuple) && key.zone == flow.key.zone).then_some(id)
        })
    }

    fn flow_of_packet(&mut self, event: &Event, incident: &Incident) -> Option<FlowId> {
        let tuple = event.tuple()?;
        if let Some(id) = self.known_flow_of_packet(event.netns, tuple) {
            return Some(id);
        }
        let key = FlowKey { netns: event.netns, zone: 0, original: tuple, reply: tuple.reversed() };
        let key = opener_first(event, key);
        self.create(key, false, &Seen::of(event), incident)
    }

    /// The flow that packets with these endpoints belong to, evicted or not.
    pub(super) fn known_flow_of_packet(&mut self, netns: Option<u32>, tuple: Tuple) -> Option<FlowId> {
        self.flows.of_packet(netns, tuple).or_else(|| {
            self.recall(netns, tuple);
            self.flows.of_packet(netns, tuple)
        })
    }

    pub(super) fn create(&mut self, key: FlowKey, known: bool, seen: &Seen, incident: &Incident) -> Option<FlowId> {
        if !self.filter.matches(&key) {
            return None;
        }
        let id = FlowId(self.next_id);
        self.next_id += 1;
        self.insert(Flow { seen: seen.tuple, ..Flow::new(id, key, known, seen.at, incident.clone()) });
        Some(id)
    }

    /// Adds a flow, and evicts another if there is no room.
    fn insert(&mut self, flow: Flow) {
        let evicted = if self.flows.len() >= self.limits.flows { self.evict() } else { None };
        self.idle.push(Reverse(EvictionKey::of(&flow)));
        // Flows are of one size: the place of one is good for the next.
        let place = match evicted {
            Some(mut place) => {
                *place = flow;
                place
            }
            None => Box::new(flow),
        };
        self.flows.insert(place);
    }

    /// Restores the evicted flow whose packets had these endpoints; returns whether there is one.
    pub(super) fn recall(&mut self, netns: Option<u32>, tuple: Tuple) -> bool {
        let Some(evicted) = self.past.take(netns, tuple) else { return false };
        self.totals.forgotten.remove(&evicted);
        let incident = Incident::new(evicted.diagnosis, Confidence::Inferred);
        self.insert(Flow {
            seen: Some(tuple),
            last: evicted.last,
            causes: vec![(evicted.diagnosis, evicted.tally)],
            earlier: Some((evicted.rank, evicted.diagnosis)),
            ..Flow::new(evicted.id, evicted.key(), evicted.known, evicted.first, incident)
        });
        true
    }

    pub(super) fn update(&mut self, id: FlowId, event: &Event, diagnosis: Diagnosis, tally: Tally, incident: Incident) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        flow.last = flow.last.max(event.at);
        flow.first = flow.first.min(event.at);
        if let Some(entry) = event.connection() {
            flow.state = Some(entry.state);
            flow.assured = Some(entry.status.assured());
        }
        flow.count(diagnosis, tally);
        flow.offer(incident);
    }

    /// Evicts the first flow in the order of eviction.
    fn evict(&mut self) -> Option<Box<Flow>> {
        while let Some(mut next) = self.idle.peek_mut() {
            let id = next.0.flow();
            let now = self.flows.get(id).map(EvictionKey::of);
            // It was reset, or had an event, since it was put there.
            if let Some(now) = now
                && now != next.0
            {
                next.0 = now;
                continue;
            }
            PeekMut::pop(next);
            let Some(flow) = self.flows.remove(id) else { continue };
            self.poller.stop(id);
            let evicted = EvictedFlow::of(&flow);
            self.totals.forgotten.add(&evicted);
            self.past.insert(evicted);
            return Some(flow);
        }
        None
    }

    /// Gives a flow that was known by a packet alone the endpoints of the entry that the kernel has for it.
    pub(super) fn adopt(&mut self, id: FlowId, original: Tuple, reply: Tuple) {
        if self.flows.get(id).is_some_and(|flow| !flow.known) {
            self.flows.adopt(id, original, reply);
        }
    }
}
