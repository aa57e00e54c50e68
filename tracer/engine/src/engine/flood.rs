//! Events that were counted in the kernel instead of being told: they add to the counts of their flows.
//!
//! What such an event is follows from one that was told: its hook and class are the same. Of the same flow it also tells
//! why; of another it tells what conntrack does with such packets, and no more.

use std::collections::HashMap;

use ahash::RandomState;

use tracer_common::Hook;
use tracer_model::capture::{Suppressed, SuppressedEvents};
use tracer_model::cause::{Cause, Confidence, Diagnosis};
use tracer_model::conntrack::Verdict;
use tracer_model::flow_key::FlowKey;
use tracer_model::time::Instant;

use super::flows::Seen;
use super::{Engine, Kind, Observed};
use crate::flow::{FlowId, Incident, Sample, Tally, Unit};

/// Most kinds of events that a flow remembers. Endpoints can be the same with few reasons to refuse a packet.
const SAMPLES: usize = 16;

/// What is known of events that are only counted.
#[derive(Debug, Default)]
pub(super) struct Counted {
    /// What conntrack and the stack do with packets of a hook and class, whatever the flow.
    kinds: HashMap<(Hook, u32), (Diagnosis, Unit), RandomState>,
    /// Events of flows that are not known yet: what was read before the records of their first events.
    early: Vec<SuppressedEvents>,
    /// When these were read.
    read: Instant,
}

impl Engine {
    /// Takes events that were counted in the kernel.
    pub fn suppressed(&mut self, suppressed: &Suppressed) {
        if suppressed.at != self.counted.read {
            // Whatever was told before that time has been taken by now.
            self.settle_suppressed();
            self.counted.read = suppressed.at;
        }
        for events in &suppressed.events {
            if let Some(netns) = events.netns {
                self.namespace(netns);
            }
            if !self.add(events) {
                self.counted.early.push(*events);
            }
        }
    }

    /// Makes flows of those that no record was about.
    pub(super) fn settle_suppressed(&mut self) {
        for events in std::mem::take(&mut self.counted.early) {
            if self.add(&events) {
                continue;
            }
            let (diagnosis, unit) = self.kind(&events);
            let counted = tally(&events, unit);
            let Some(tuple) = events.tuple else {
                if self.filter.is_empty() {
                    self.totals.unattributed.add(counted);
                }
                continue;
            };
            if counted == Tally::default() {
                continue;
            }
            let key = FlowKey { netns: events.netns, zone: 0, original: tuple, reply: tuple.reversed() };
            let seen = Seen { at: events.last, tuple: Some(tuple) };
            let incident = Incident::new(diagnosis, Confidence::Inferred);
            match self.create(key, false, &seen, &incident) {
                Some(id) => self.count_for(id, diagnosis, counted, events.last),
                None => self.totals.unwanted += events.count + events.answered,
            }
        }
    }

    /// Whether such events are of a flow that the filter wants.
    pub fn wants(&self, events: &SuppressedEvents) -> bool {
        let Some(tuple) = events.tuple else { return self.filter.is_empty() };
        let key = FlowKey { netns: events.netns, zone: 0, original: tuple, reply: tuple.reversed() };
        self.flows.of_packet(events.netns, tuple).is_some() || self.filter.matches(&key)
    }

    /// Remembers what an event was that was told.
    pub(super) fn learn(&mut self, hook: Hook, class: u32, observed: &Observed) {
        let (diagnosis, unit) = match &observed.kind {
            Kind::ConntrackVerdict(logged, diagnosis) => (*diagnosis, of_verdict(logged.verdict)),
            Kind::Reset(reset, diagnosis, _) => (*diagnosis, if reset.doubtful { Unit::Nothing } else { Unit::Reset }),
            Kind::ResetReceived(_) => (Diagnosis::plain(Cause::PeerReset), Unit::Forwarded),
            Kind::Remark(_) | Kind::ResetOutput(_) | Kind::PeerReset(_) => {
                (Diagnosis::plain(Cause::Unknown), Unit::Nothing)
            }
            Kind::Unwanted => return,
        };
        let mut flow = observed.flow.and_then(|id| self.flows.get_mut(id));
        if let Some(flow) = &mut flow {
            // What a flow knows, all know.
            if flow.samples.iter().any(|sample| (sample.hook, sample.class) == (hook, class)) {
                return;
            }
            if flow.samples.len() < SAMPLES {
                flow.samples.push(Sample { hook, class, diagnosis, unit });
            }
        }
        if self.counted.kinds.len() < self.limits.waiting {
            self.counted.kinds.entry((hook, class)).or_insert((diagnosis, unit));
        }
    }

    /// Adds events to their flow; false where it is not known.
    fn add(&mut self, events: &SuppressedEvents) -> bool {
        let Some(tuple) = events.tuple else { return false };
        let Some(id) = self.known_flow_of_packet(events.netns, tuple) else { return false };
        let Some(flow) = self.flows.get(id) else { return false };
        let of_kind = |sample: &&Sample| (sample.hook, sample.class) == (events.hook, events.class);
        let (diagnosis, unit) = match flow.samples.iter().find(of_kind) {
            Some(sample) => (sample.diagnosis, sample.unit),
            None => self.kind(events),
        };
        self.count_for(id, diagnosis, tally(events, unit), events.last);
        true
    }

    fn count_for(&mut self, id: FlowId, diagnosis: Diagnosis, counted: Tally, last: Instant) {
        let Some(flow) = self.flows.get_mut(id).filter(|_| counted != Tally::default()) else { return };
        flow.last = flow.last.max(last);
        flow.count(diagnosis, counted);
    }

    /// What events are of which none of the same flow was told.
    fn kind(&self, events: &SuppressedEvents) -> (Diagnosis, Unit) {
        let unknown = Diagnosis::plain(Cause::Unknown);
        match (events.hook, self.counted.kinds.get(&(events.hook, events.class))) {
            // The message says it all, whoever the packet is of.
            (Hook::CtInvalid, Some(&(diagnosis, unit))) if diagnosis.cause == Cause::OutOfWindow => (diagnosis, unit),
            (_, Some(&(_, unit))) => (unknown, unit),
            (Hook::CtInvalid | Hook::CtMalformed | Hook::NewRefused, None) => (unknown, Unit::Undecided),
            (Hook::PacketTap | Hook::TcxTap, None) => (Diagnosis::plain(Cause::PeerReset), Unit::Forwarded),
            (hook, None) if hook.is_reject() => (Diagnosis::plain(Cause::RejectRule), Unit::Reset),
            (Hook::EntryGone | Hook::TableFull, None) => (unknown, Unit::Nothing),
            (_, None) => (unknown, Unit::Reset),
        }
    }
}

fn of_verdict(verdict: Verdict) -> Unit {
    match verdict {
        Verdict::Invalid => Unit::Invalid,
        Verdict::Ignored => Unit::Ignored,
        Verdict::Unknown => Unit::Undecided,
    }
}

fn tally(events: &SuppressedEvents, unit: Unit) -> Tally {
    let mut tally = unit.times(events.count);
    tally.add(Unit::Reset.times(events.answered));
    tally
}
