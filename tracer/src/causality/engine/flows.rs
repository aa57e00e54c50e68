//! Which flow an event belongs to: making, finding, renaming and forgetting flows, and the three ways they are looked up by.

use std::collections::hash_map;

use super::Engine;
use super::judge::{key_of_entry, opener_first, wire_tuples};
use crate::causality::flow::{Flow, FlowId, FlowKey, Story, Strength, Tally};
use crate::cause::Diagnosis;
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
        if let Some(&id) = self.by_key.get(&key) {
            return Some(id);
        }
        // A segment for which there was no entry makes one of its own. Where the connection that it really belongs to is
        // known, that is its flow.
        let picked_up = event.gone.is_none() && event.nfct == Some(Nfct::Entry(CtInfo::New));
        if picked_up && let Some(&id) = self.by_tuple.get(&(key.netns, key.original)) {
            return Some(id);
        }
        if let Some(id) = self.stranger(&key) {
            self.adopt(id, key.original, key.reply);
            return Some(id);
        }
        self.create(key, true, &Seen::of(event), story)
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
        if let Some(&id) = self.by_tuple.get(&(event.netns, tuple)) {
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
        if self.flows.len() >= self.limits.flows {
            self.forget();
        }
        let id = FlowId(self.next_id);
        self.next_id += 1;
        self.by_key.insert(key, id);
        self.by_tuple.insert((key.netns, key.original), id);
        self.by_tuple.insert((key.netns, key.reply), id);
        self.idle.insert((story.strength() == Strength::Killed, seen.at, id));
        self.flows.insert(
            id,
            Flow {
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
                last_refusal: None,
                let_pass: Default::default(),
                fates: Vec::new(),
                looked_up: None,
                peer_reset: None,
                last_arrival: None,
                samples: Vec::new(),
            },
        );
        if known {
            self.index_wire(&key, id);
        }
        Some(id)
    }

    pub(super) fn update(&mut self, id: FlowId, event: &Event, diagnosis: Diagnosis, tally: Tally, story: Story) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        self.idle.remove(&(flow.was_reset(), flow.last, id));
        flow.last = flow.last.max(event.at);
        flow.first = flow.first.min(event.at);
        if let Some(entry) = event.connection() {
            flow.state = Some(entry.state);
            flow.assured = Some(entry.status.assured());
        }
        flow.count(diagnosis, tally);
        flow.tell(story);
        self.idle.insert((flow.was_reset(), flow.last, id));
    }

    /// Forgets the flow that is missed least and keeps its counts.
    fn forget(&mut self) {
        let Some((_, _, id)) = self.idle.pop_first() else { return };
        let Some(flow) = self.flows.remove(&id) else { return };
        self.follow.stop(id);
        self.unindex(&flow.key, id);
        let forgotten = &mut self.totals.forgotten;
        forgotten.flows += 1;
        forgotten.reset += u64::from(flow.was_reset());
        let (diagnosis, tally) = (flow.story.diagnosis, flow.tally());
        match forgotten.causes.iter_mut().find(|(known, _, _)| *known == diagnosis) {
            Some((_, flows, sum)) => {
                *flows += 1;
                sum.add(tally);
            }
            None => forgotten.causes.push((diagnosis, 1, tally)),
        }
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
        for tuple in wire_tuples(key) {
            if let hash_map::Entry::Occupied(mut flows) = self.by_wire.entry(tuple) {
                flows.get_mut().retain(|known| *known != id);
                if flows.get().is_empty() {
                    flows.remove();
                }
            }
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
        for tuple in wire_tuples(key) {
            let flows = self.by_wire.entry(tuple).or_default();
            if !flows.contains(&id) {
                flows.push(id);
            }
        }
    }
}
