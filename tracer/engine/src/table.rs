//! The flows, and how they are found: by number, by entry, by a packet's endpoints, on the wire.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};

use ahash::RandomState;

use tracer_model::conntrack::Tuple;
use tracer_model::flow_key::FlowKey;

use super::flow::{Flow, FlowId};
use super::index::Index;

/// A table of flows.
///
/// One index serves all ways of finding a flow but its number: of either tuple it takes what both directions have in common,
/// and what is found is compared with the flow itself, which is needed then anyway.
#[derive(Debug)]
pub(super) struct FlowTable {
    places: Vec<Option<Slot>>,
    free: Vec<u32>,
    by_id: HashMap<FlowId, u32, RandomState>,
    /// The flow that was asked for last: most events are about the same one as the event before, and ask several times.
    last: Cell<Option<(FlowId, u32)>>,
    by_ends: Index<u32>,
}

#[derive(Debug)]
struct Slot {
    flow: Box<Flow>,
    stands_for: StandsFor,
}

/// What a flow is found by. Of several flows with the same endpoints one stands for them; the others wait for eviction.
#[derive(Debug, Clone, Copy, Default)]
struct StandsFor {
    key: bool,
    original: bool,
    reply: bool,
}

impl Slot {
    fn has_key(&self, key: &FlowKey) -> bool {
        self.stands_for.key && self.flow.key == *key
    }

    fn has_packet(&self, netns: Option<u32>, tuple: Tuple) -> bool {
        let (key, stands_for) = (&self.flow.key, self.stands_for);
        key.netns == netns && (stands_for.original && key.original == tuple || stands_for.reply && key.reply == tuple)
    }

    /// Leaves packets with these endpoints to another flow.
    fn yield_packet(&mut self, tuple: Tuple) {
        self.stands_for.original &= self.flow.key.original != tuple;
        self.stands_for.reply &= self.flow.key.reply != tuple;
    }
}

impl FlowTable {
    pub(super) fn new() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::default(),
            last: Cell::new(None),
            by_ends: Index::new(),
        }
    }

    /// How many flows there are.
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn get(&self, id: FlowId) -> Option<&Flow> {
        let at = self.place_of(id)?;
        Some(&self.places[at as usize].as_ref()?.flow)
    }

    pub(super) fn get_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        let at = self.place_of(id)?;
        Some(&mut self.places[at as usize].as_mut()?.flow)
    }

    /// All flows, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.places.iter().flatten().map(|place| place.flow.as_ref())
    }

    /// All flows, in no order.
    pub(super) fn into_flows(self) -> impl Iterator<Item = Box<Flow>> {
        self.places.into_iter().flatten().map(|place| place.flow)
    }

    /// The flow with exactly these endpoints.
    pub(super) fn of_key(&self, key: &FlowKey) -> Option<FlowId> {
        self.find(key.original, |place| place.has_key(key))
    }

    /// The flow that packets with these endpoints belong to. The zone of a packet without an entry is not known.
    pub(super) fn of_packet(&self, netns: Option<u32>, tuple: Tuple) -> Option<FlowId> {
        self.find(tuple, |place| place.has_packet(netns, tuple))
    }

    /// The flows that conntrack knows and one of whose ends sends packets with these endpoints, or gets them, in whatever
    /// namespace: several gateways of this host may have the same addresses.
    pub(super) fn on_the_wire(&self, tuple: Tuple) -> impl Iterator<Item = FlowId> {
        let tuple = EitherWay(tuple);
        let has = move |flow: &&Flow| flow.known && wire_tuples(&flow.key).any(|known| known == tuple);
        let flow = |at: u32| self.places[at as usize].as_ref().map(|place| place.flow.as_ref());
        self.by_ends.get(&tuple).filter_map(flow).filter(has).map(|flow| flow.id)
    }

    /// Takes a flow in. From now on it stands for its endpoints, whichever flow did before.
    pub(super) fn insert(&mut self, flow: Box<Flow>) {
        let (id, key) = (flow.id, flow.key);
        if let Some(place) = self.find_mut(key.original, |place| place.has_key(&key)) {
            place.stands_for.key = false;
        }
        for tuple in [key.original, key.reply] {
            if let Some(place) = self.find_mut(tuple, |place| place.has_packet(key.netns, tuple)) {
                place.yield_packet(tuple);
            }
        }
        let place = Some(Slot { flow, stands_for: StandsFor { key: true, original: true, reply: true } });
        let at = if let Some(at) = self.free.pop() {
            self.places[at as usize] = place;
            at
        } else {
            self.places.push(place);
            (self.places.len() - 1) as u32
        };
        self.by_id.insert(id, at);
        self.last.set(Some((id, at)));
        wire_tuples(&key).for_each(|tuple| self.by_ends.insert(&tuple, at));
    }

    /// Takes a flow out.
    pub(super) fn remove(&mut self, id: FlowId) -> Option<Box<Flow>> {
        let at = self.by_id.remove(&id)?;
        self.last.set(None);
        let Slot { flow, .. } = self.places[at as usize].take()?;
        wire_tuples(&flow.key).for_each(|tuple| self.by_ends.remove(&tuple, at));
        self.free.push(at);
        Some(flow)
    }

    /// Gives a flow the endpoints that conntrack has for it. For those that another flow stands for it does not.
    pub(super) fn adopt(&mut self, id: FlowId, original: Tuple, reply: Tuple) {
        let Some((at, old)) = self.place_of(id).zip(self.get(id).map(|flow| flow.key)) else { return };
        let key = FlowKey { original, reply, ..old };
        wire_tuples(&old).for_each(|tuple| self.by_ends.remove(&tuple, at));
        let stands_for = StandsFor {
            key: self.of_key(&key).is_none(),
            original: self.of_packet(key.netns, original).is_none(),
            reply: self.of_packet(key.netns, reply).is_none(),
        };
        if let Some(place) = &mut self.places[at as usize] {
            (place.flow.key, place.flow.known, place.stands_for) = (key, true, stands_for);
        }
        wire_tuples(&key).for_each(|tuple| self.by_ends.insert(&tuple, at));
    }

    fn place_of(&self, id: FlowId) -> Option<u32> {
        if let Some((last, at)) = self.last.get()
            && last == id
        {
            return Some(at);
        }
        let at = *self.by_id.get(&id)?;
        self.last.set(Some((id, at)));
        Some(at)
    }

    fn find(&self, tuple: Tuple, is: impl Fn(&Slot) -> bool) -> Option<FlowId> {
        let at = self.by_ends.find(&EitherWay(tuple), |at| self.places[at as usize].as_ref().is_some_and(&is))?;
        let id = self.places[at as usize].as_ref()?.flow.id;
        self.last.set(Some((id, at)));
        Some(id)
    }

    fn find_mut(&mut self, tuple: Tuple, is: impl Fn(&Slot) -> bool) -> Option<&mut Slot> {
        let at = self.by_ends.find(&EitherWay(tuple), |at| self.places[at as usize].as_ref().is_some_and(&is))?;
        self.places[at as usize].as_mut()
    }
}

/// A tuple for which it does not matter who of the two sends.
#[derive(Debug, Clone, Copy)]
struct EitherWay(Tuple);

impl PartialEq for EitherWay {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0 || self.0 == other.0.reversed()
    }
}

impl Hash for EitherWay {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.min(self.0.reversed()).hash(state);
    }
}

/// What the ends of a flow send to each other, before and behind the gateway.
fn wire_tuples(key: &FlowKey) -> impl Iterator<Item = EitherWay> + use<> {
    let (before, behind) = (EitherWay(key.original), EitherWay(key.reply));
    std::iter::once(before).chain((behind != before).then_some(behind))
}

#[cfg(test)]
mod tests {
    use tracer_model::cause::{Cause, Confidence, Diagnosis};
    use tracer_model::conntrack::Tuple;
    use tracer_model::flow_key::FlowKey;
    use tracer_model::time::Instant;

    use super::FlowTable;
    use crate::flow::{Flow, FlowId, Incident};

    const NETNS: Option<u32> = Some(7);

    fn tuple(src: &str, dst: &str) -> Tuple {
        Tuple { src: src.parse().unwrap(), dst: dst.parse().unwrap() }
    }

    fn translated() -> FlowKey {
        let (original, reply) = (tuple("10.0.0.2:1", "192.0.2.2:80"), tuple("192.0.2.2:80", "192.0.2.1:1"));
        FlowKey { netns: NETNS, zone: 0, original, reply }
    }

    fn flow(id: u64, key: FlowKey, known: bool) -> Box<Flow> {
        let incident = Incident::new(Diagnosis::plain(Cause::Unknown), Confidence::Inferred);
        Box::new(Flow::new(FlowId(id), key, known, Instant(id), incident))
    }

    #[test]
    fn found_by_its_entry_by_packets_of_either_side_and_on_the_wire() {
        let (mut table, key) = (FlowTable::new(), translated());
        table.insert(flow(1, key, true));
        assert_eq!(table.of_key(&key), Some(FlowId(1)));
        assert_eq!(table.of_key(&FlowKey { zone: 1, ..key }), None);
        for tuple in [key.original, key.reply] {
            assert_eq!(table.of_packet(NETNS, tuple), Some(FlowId(1)));
            assert_eq!(table.of_packet(NETNS, tuple.reversed()), None, "nobody sends that through this gateway");
            assert_eq!(table.of_packet(None, tuple), None);
            assert_eq!(table.on_the_wire(tuple.reversed()).collect::<Vec<_>>(), [FlowId(1)]);
        }
        table.remove(FlowId(1)).unwrap();
        assert_eq!((table.of_key(&key), table.get(FlowId(1)), table.len()), (None, None, 0));
    }

    /// Of several flows with the same endpoints the one that came last stands for them, and no other after it.
    #[test]
    fn the_last_one_stands_for_its_endpoints() {
        let (mut table, key) = (FlowTable::new(), translated());
        table.insert(flow(1, key, true));
        table.insert(flow(2, key, true));
        assert_eq!((table.of_key(&key), table.of_packet(NETNS, key.reply)), (Some(FlowId(2)), Some(FlowId(2))));
        assert_eq!(table.on_the_wire(key.reply).count(), 2);
        table.remove(FlowId(2)).unwrap();
        assert_eq!((table.of_key(&key), table.of_packet(NETNS, key.reply)), (None, None));
        assert_eq!(table.get(FlowId(1)).map(|flow| flow.id), Some(FlowId(1)));
    }

    /// A flow that was known by a packet alone, and what it does not stand for when it gets its entry's endpoints.
    #[test]
    fn adopted_endpoints_stay_with_the_flow_that_has_them() {
        let (mut table, key) = (FlowTable::new(), translated());
        let by_packet = FlowKey { original: key.reply, reply: key.reply.reversed(), ..key };
        table.insert(flow(1, by_packet, false));
        assert_eq!(table.on_the_wire(key.reply).count(), 0, "conntrack does not know it");
        table.adopt(FlowId(1), key.original, key.reply);
        assert_eq!((table.of_key(&by_packet), table.of_packet(NETNS, by_packet.reply)), (None, None));
        assert_eq!((table.of_key(&key), table.of_packet(NETNS, key.original)), (Some(FlowId(1)), Some(FlowId(1))));
        table.insert(flow(2, FlowKey { zone: 1, ..by_packet }, false));
        table.adopt(FlowId(2), key.original, key.reply);
        assert_eq!(table.of_packet(NETNS, key.original), Some(FlowId(1)));
        assert_eq!(table.of_key(&FlowKey { zone: 1, ..key }), Some(FlowId(2)));
    }
}
