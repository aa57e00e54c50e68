//! Suppressed events: counted in the kernel, not emitted. They add to the counts of their flows.
//!
//! An emitted event with the same hook and class shows what a suppressed event is. If it is of the same flow, it also shows the cause;
//! if it is of another flow, it only shows what conntrack does with such packets.

use std::collections::HashMap;

use ahash::RandomState;

use tracer_common::Hook;
use tracer_model::capture::{self, SuppressedEvents};
use tracer_model::cause::{Cause, Confidence, Diagnosis};
use tracer_model::conntrack::Verdict;
use tracer_model::flow_key::FlowKey;
use tracer_model::time::Instant;

use super::flows::Seen;
use super::{Engine, Kind, Observed};
use crate::flow::{FlowId, Incident, Sample, Tally, Unit};

/// Most kinds of events that a flow remembers. Endpoints can be the same with few reasons to refuse a packet.
const SAMPLES: usize = 16;

/// What is known about suppressed events.
#[derive(Debug, Default)]
pub(super) struct Suppressed {
    /// What conntrack and the stack do with packets of a hook and class, for any flow.
    kinds: HashMap<(Hook, u32), (Diagnosis, Unit), RandomState>,
    /// Events of flows that are not known yet: the counters were read before the records of their first events.
    early: Vec<SuppressedEvents>,
    /// When these were read.
    read: Instant,
}

impl Engine {
    /// Takes suppressed events.
    pub fn suppressed(&mut self, suppressed: &capture::Suppressed) {
        if suppressed.at != self.suppressed.read {
            // All events from before that time have been taken by now.
            self.settle_suppressed();
            self.suppressed.read = suppressed.at;
        }
        for events in &suppressed.events {
            if let Some(netns) = events.netns {
                self.namespace(netns);
            }
            if !self.add(events) {
                self.suppressed.early.push(*events);
            }
        }
    }

    /// Makes flows of those without any emitted event.
    pub(super) fn settle_suppressed(&mut self) {
        for events in std::mem::take(&mut self.suppressed.early) {
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

    /// Whether the filter wants the flow of these events.
    pub fn wants(&self, events: &SuppressedEvents) -> bool {
        let Some(tuple) = events.tuple else { return self.filter.is_empty() };
        let key = FlowKey { netns: events.netns, zone: 0, original: tuple, reply: tuple.reversed() };
        self.flows.of_packet(events.netns, tuple).is_some() || self.filter.matches(&key)
    }

    /// Remembers the kind of an emitted event.
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
            // A kind that the flow has is known for all flows.
            if flow.samples.iter().any(|sample| (sample.hook, sample.class) == (hook, class)) {
                return;
            }
            if flow.samples.len() < SAMPLES {
                flow.samples.push(Sample { hook, class, diagnosis, unit });
            }
        }
        if self.suppressed.kinds.len() < self.limits.waiting {
            self.suppressed.kinds.entry((hook, class)).or_insert((diagnosis, unit));
        }
    }

    /// Adds events to their flow; false if the flow is not known.
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

    /// The kind of events without an emitted event of the same flow.
    fn kind(&self, events: &SuppressedEvents) -> (Diagnosis, Unit) {
        let unknown = Diagnosis::plain(Cause::Unknown);
        match (events.hook, self.suppressed.kinds.get(&(events.hook, events.class))) {
            // The message alone shows the cause, for any flow.
            (Hook::CtInvalid, Some(&(diagnosis, unit))) if diagnosis.cause == Cause::OutOfWindow => (diagnosis, unit),
            (_, Some(&(_, unit))) => (unknown, unit),
            (Hook::CtInvalid | Hook::CtMalformed | Hook::NewRefused, None) => (unknown, Unit::Undecided),
            (Hook::PacketTap | Hook::TcxTap, None) => (Diagnosis::plain(Cause::PeerReset), Unit::Forwarded),
            (hook, None) if hook.is_reject() => (Diagnosis::plain(Cause::RejectRule), Unit::Reset),
            (Hook::EntryDestroyed | Hook::TableFull, None) => (unknown, Unit::Nothing),
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
