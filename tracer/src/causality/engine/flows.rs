//! Which flow an event belongs to: making, finding, renaming and forgetting flows, and the three ways they are looked up by.

use std::cmp::Reverse;

use super::Engine;
use super::judge::{key_of_entry, opener_first};
use crate::causality::flow::{Flow, FlowId, FlowKey, Story, Tally};
use crate::causality::past::Brief;
use crate::cause::{Confidence, Diagnosis};
use crate::conntrack::entry::CtInfo;
use crate::conntrack::{Entry, Nfct, Tuple};
use crate::event::Event;
use crate::time::Instant;

/// What makes a flow: when, and which packet.
pub(super) struct Seen {
    pub(super) at: Instant,
    pub(super) tuple: Option<Tuple>,
}

impl Seen {
    fn of(event: &Event) -> Self {
        Self { at: event.at, tuple: event.tuple() }
    }
}

impl Engine {
    /// Puts an event to its flow, which is made if there is none; `None` where the filter does not want it.
    pub(super) fn account(
        &mut self,
        event: &Event,
        diagnosis: Diagnosis,
        tally: Tally,
        story: Story,
    ) -> Option<FlowId> {
        let id = match event.connection() {
            Some(entry) => self.flow_of_entry(event, entry, &story),
            None => self.flow_of_packet(event, &story),
        };
        match id {
            Some(id) => self.update(id, event, diagnosis, tally, story),
            None => self.totals.unwanted += 1,
        }
        id
    }

    fn flow_of_entry(&mut self, event: &Event, entry: &Entry, story: &Story) -> Option<FlowId> {
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
        self.create(key, true, &Seen::of(event), story)
    }

    fn known_flow_of_entry(&mut self, event: &Event, key: &FlowKey) -> Option<FlowId> {
        if let Some(&id) = self.by_key.get(key) {
            return Some(id);
        }
        // A segment for which there was no entry makes one of its own. Where the connection that it really belongs to is
        // known, that is its flow.
        let picked_up = event.gone.is_none() && event.nfct == Some(Nfct::Entry(CtInfo::New));
        if picked_up && let Some(&id) = self.by_tuple.get(&(key.netns, key.original)) {
            return Some(id);
        }
        let id = self.stranger(key)?;
        self.adopt(id, key.original, key.reply);
        Some(id)
    }

    /// A flow that is known by a packet alone, and turns out to be the one with this entry.
    fn stranger(&self, key: &FlowKey) -> Option<FlowId> {
        [key.reply, key.original].into_iter().find_map(|tuple| {
            let id = *self.by_tuple.get(&(key.netns, tuple))?;
            let flow = self.flows.get(&id)?;
            (!flow.known && flow.seen == Some(tuple) && key.zone == flow.key.zone).then_some(id)
        })
    }

    fn flow_of_packet(&mut self, event: &Event, story: &Story) -> Option<FlowId> {
        let tuple = event.tuple()?;
        let place = (event.netns, tuple);
        if let Some(&id) = self.by_tuple.get(&place) {
            return Some(id);
        }
        if self.recall(event.netns, tuple)
            && let Some(&id) = self.by_tuple.get(&place)
        {
            return Some(id);
        }
        let key = FlowKey { netns: event.netns, zone: 0, original: tuple, reply: tuple.reversed() };
        let key = opener_first(event, key);
        self.create(key, false, &Seen::of(event), story)
    }

    pub(super) fn create(&mut self, key: FlowKey, known: bool, seen: &Seen, story: &Story) -> Option<FlowId> {
        if !self.filter.matches(&key) {
            return None;
        }
        let id = FlowId(self.next_id);
        self.next_id += 1;
        self.insert(Flow {
            id,
            key,
            known,
            seen: seen.tuple,
            state: None,
            assured: None,
            first: seen.at,
            last: seen.at,
            causes: Vec::new(),
            story: story.clone(),
            earlier: None,
            samples: Vec::new(),
            last_refusal: None,
            let_pass: Default::default(),
            fates: Vec::new(),
            looked_up: None,
            peer_reset: None,
            last_arrival: None,
        });
        Some(id)
    }

    /// Takes a flow in, where need be in the place of another one's story.
    fn insert(&mut self, flow: Flow) {
        let forgotten = if self.flows.len() >= self.limits.flows { self.forget() } else { None };
        let (id, key) = (flow.id, flow.key);
        self.by_key.insert(key, id);
        self.by_tuple.insert((key.netns, key.original), id);
        self.by_tuple.insert((key.netns, key.reply), id);
        self.idle.push(Reverse((flow.was_reset(), flow.last, id)));
        if flow.known {
            self.index_wire(&key, id);
        }
        // Flows are of one size: the place of one is good for the next.
        let place = match forgotten {
            Some(mut place) => {
                *place = flow;
                place
            }
            None => Box::new(flow),
        };
        self.flows.insert(id, place);
    }

    /// Takes back the flow whose packets had these endpoints, if its story was forgotten; tells whether there is one.
    pub(super) fn recall(&mut self, netns: Option<u32>, tuple: Tuple) -> bool {
        let Some(brief) = self.past.take(netns, tuple) else { return false };
        self.totals.forgotten.remove(&brief);
        self.insert(Flow {
            id: brief.id,
            key: brief.key(),
            known: brief.known,
            seen: Some(tuple),
            state: None,
            assured: None,
            first: brief.first,
            last: brief.last,
            causes: vec![(brief.diagnosis, brief.tally)],
            story: Story::new(brief.diagnosis, Confidence::Inferred),
            earlier: Some((brief.strength, brief.diagnosis)),
            samples: Vec::new(),
            last_refusal: None,
            let_pass: Default::default(),
            fates: Vec::new(),
            looked_up: None,
            peer_reset: None,
            last_arrival: None,
        });
        true
    }

    pub(super) fn update(&mut self, id: FlowId, event: &Event, diagnosis: Diagnosis, tally: Tally, story: Story) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        flow.last = flow.last.max(event.at);
        flow.first = flow.first.min(event.at);
        if let Some(entry) = event.connection() {
            flow.state = Some(entry.state);
            flow.assured = Some(entry.status.assured());
        }
        flow.count(diagnosis, tally);
        flow.tell(story);
    }

    /// Forgets the story of the flow that is missed least.
    fn forget(&mut self) -> Option<Box<Flow>> {
        while let Some(Reverse(place)) = self.idle.pop() {
            let (.., id) = place;
            let Some(flow) = self.flows.get(&id) else { continue };
            let now = (flow.was_reset(), flow.last, id);
            // It was reset, or heard of, since it was put there.
            if now != place {
                self.idle.push(Reverse(now));
                continue;
            }
            let Some(flow) = self.flows.remove(&id) else { continue };
            self.follow.stop(id);
            self.unindex(&flow.key, id);
            let brief = Brief::of(&flow);
            self.totals.forgotten.add(&brief);
            self.past.insert(brief);
            return Some(flow);
        }
        None
    }

    fn unindex(&mut self, key: &FlowKey, id: FlowId) {
        if self.by_key.get(key) == Some(&id) {
            self.by_key.remove(key);
        }
        for tuple in [key.original, key.reply] {
            if self.by_tuple.get(&(key.netns, tuple)) == Some(&id) {
                self.by_tuple.remove(&(key.netns, tuple));
            }
        }
        for tuple in on_wire(key) {
            self.by_wire.remove(&tuple, id);
        }
    }

    /// Gives a flow that was known by a packet alone the endpoints of the entry that the kernel has for it.
    pub(super) fn adopt(&mut self, id: FlowId, original: Tuple, reply: Tuple) {
        let Some(flow) = self.flows.get(&id) else { return };
        if flow.known {
            return;
        }
        let old = flow.key;
        let key = FlowKey { original, reply, ..old };
        self.unindex(&old, id);
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.key = key;
            flow.known = true;
        }
        self.by_key.entry(key).or_insert(id);
        self.by_tuple.entry((key.netns, original)).or_insert(id);
        self.by_tuple.entry((key.netns, reply)).or_insert(id);
        self.index_wire(&key, id);
    }

    fn index_wire(&mut self, key: &FlowKey, id: FlowId) {
        for tuple in on_wire(key) {
            self.by_wire.insert(&tuple, id);
        }
    }

    /// The flows that conntrack knows and one of whose ends sends packets with these endpoints, or gets them.
    pub(super) fn on_the_wire(&self, tuple: Tuple) -> impl Iterator<Item = FlowId> {
        let tuple = tuple.min(tuple.reversed());
        let has = move |id: &FlowId| {
            self.flows.get(id).is_some_and(|flow| flow.known && on_wire(&flow.key).any(|known| known == tuple))
        };
        self.by_wire.get(&tuple).filter(has)
    }
}

/// What the ends of a flow send to each other, before and behind the gateway: one tuple for either direction.
fn on_wire(key: &FlowKey) -> impl Iterator<Item = Tuple> {
    let either = |tuple: Tuple| tuple.min(tuple.reversed());
    let (before, behind) = (either(key.original), either(key.reply));
    std::iter::once(before).chain((behind != before).then_some(behind))
}
