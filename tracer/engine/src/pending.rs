//! Refused packets, by the address of their buffer, until a RST answers them or they are too old.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;

use tracer_model::event::SkbId;
use tracer_model::packet::Packet;
use tracer_model::time::Instant;

use super::flow::{ConntrackVerdict, FlowId};

/// A refused packet.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    pub(super) flow: FlowId,
    pub(super) logged: Arc<ConntrackVerdict>,
}

/// A bounded map from buffers to refused packets; the oldest is removed first.
///
/// A buffer's address alone proves nothing: the allocator hands it out again. [`Pending::take`] also compares the segment.
#[derive(Debug)]
pub(super) struct Pending {
    capacity: usize,
    patience: Duration,
    by_buffer: HashMap<(Option<u32>, SkbId), Refused, RandomState>,
    order: VecDeque<(Instant, (Option<u32>, SkbId))>,
}

impl Pending {
    pub(super) fn new(capacity: usize, patience: Duration) -> Self {
        Self { capacity, patience, by_buffer: HashMap::default(), order: VecDeque::new() }
    }

    /// Adds a refused packet; it replaces an older one in the same buffer.
    pub(super) fn insert(&mut self, flow: FlowId, logged: Arc<ConntrackVerdict>) {
        let at = logged.event.at;
        let key = (logged.event.netns, logged.event.skb);
        while let Some((then, oldest)) = self.order.front().copied() {
            if self.order.len() < self.capacity && at - then <= self.patience {
                break;
            }
            self.order.pop_front();
            if self.by_buffer.get(&oldest).is_some_and(|refused| refused.logged.event.at == then) {
                self.by_buffer.remove(&oldest);
            }
        }
        self.order.push_back((at, key));
        self.by_buffer.insert(key, Refused { flow, logged });
    }

    /// The flow of the refused packet in this buffer, if it is the same segment and not too old. It stays.
    pub(super) fn flow_of(
        &self,
        netns: Option<u32>,
        skb: SkbId,
        segment: Option<&Packet>,
        now: Instant,
    ) -> Option<FlowId> {
        let refused = self.by_buffer.get(&(netns, skb))?;
        let event = &refused.logged.event;
        let same = event.packet.as_ref().zip(segment).is_some_and(|(refused, now)| refused.same_segment(now));
        (same && now - event.at <= self.patience).then_some(refused.flow)
    }

    /// The refused packet in this buffer, if it is the same segment and not too old. It is returned once.
    pub(super) fn take(
        &mut self,
        netns: Option<u32>,
        skb: SkbId,
        segment: Option<&Packet>,
        now: Instant,
    ) -> Option<Refused> {
        let key = (netns, skb);
        let refused = self.by_buffer.get(&key)?;
        let event = &refused.logged.event;
        let same = match (event.packet.as_ref(), segment) {
            (Some(refused), Some(answered)) => refused.same_segment(answered),
            // The headers were out of reach at one of the two hooks; the entry's tuple is what is left to compare.
            (None, Some(answered)) => {
                event.entry.is_some_and(|entry| [entry.original, entry.reply].contains(&answered.tuple()))
            }
            _ => false,
        };
        if same && now - event.at <= self.patience { self.by_buffer.remove(&key) } else { None }
    }

    /// How many are waiting.
    pub(super) fn len(&self) -> usize {
        self.by_buffer.len()
    }
}
