//! The engine: events in, flows with stories out.

mod arrival;
mod flood;
mod flows;
mod judge;
mod totals;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;

use tracer_common::Hook;
use tracer_model::capture::{LookUp, LookedUp, Outcome, Request};
use tracer_model::cause::{Confidence, Diagnosis, ResetBy};
use tracer_model::conntrack::entry::CtInfo;
use tracer_model::conntrack::log_format::LogFormat;
use tracer_model::conntrack::{DestroyReason, Message, Nfct, Seq, Tuple, Verdict};
use tracer_model::event::{Event, SocketState};
use tracer_model::filter::Filter;
use tracer_model::time::Instant;

use super::Limits;
use super::effect::{self, Effect};
use super::evicted::{EvictedFlow, EvictedFlows};
use super::flow::{
    ConntrackVerdict, EvidenceRank, Flow, FlowId, Incident, PeerReset, PeerSeen, Reset, ResetOutput, Tally,
};
use super::pending::Pending;
use super::poller::EntryPoller;
use super::table::FlowTable;

use flows::EvictionKey;
use judge::{diagnosis_of, direction, explain, is_own_reset, key_of_entry, message_of, of_message, of_reset, opens};

pub use totals::{Forgotten, Totals};

/// What an event turned out to be.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The flow it belongs to; `None` where it belongs to none, or the filter does not want it.
    pub flow: Option<FlowId>,
    /// What it is.
    pub kind: Kind,
}

/// Kinds of events.
#[derive(Debug, Clone)]
pub enum Kind {
    /// conntrack refused a packet, or let it pass with a remark.
    ConntrackVerdict(Arc<ConntrackVerdict>, Diagnosis),
    /// A further remark on a packet that is already accounted for.
    Remark(Box<Event>),
    /// This host sent a RST.
    Reset(Arc<Reset>, Diagnosis, Confidence),
    /// A RST of this host on its way out: an effect, not a cause.
    ResetOutput(Box<Event>),
    /// One of the flow's ends lives on this host too and sends a RST: an effect, not a cause.
    PeerReset(Box<Event>),
    /// A RST of one of the flow's ends arrives.
    ResetReceived(Box<Event>),
    /// The filter does not want its flow.
    Unwanted,
}

/// A RST that was sent and may be seen leaving.
#[derive(Debug, Clone, Copy)]
struct Sent {
    at: Instant,
    netns: Option<u32>,
    tuple: Tuple,
    seq: Seq,
    flow: FlowId,
}

/// The engine.
#[derive(Debug)]
pub struct Engine {
    log_format: LogFormat,
    limits: Limits,
    filter: Filter,
    flows: FlowTable,
    /// Order in which stories are forgotten. A flow is once in it, not behind its place: it is put there when its turn comes.
    idle: BinaryHeap<Reverse<EvictionKey>>,
    /// Flows whose stories were forgotten.
    past: EvictedFlows,
    next_id: u64,
    pending: Pending,
    sent: VecDeque<Sent>,
    poller: EntryPoller,
    namespaces: BTreeSet<u32>,
    new_namespaces: Vec<u32>,
    /// Namespaces where a rule rejected something.
    rejecting: BTreeSet<u32>,
    new_rejecting: Vec<u32>,
    totals: Totals,
    counted: flood::Counted,
}

impl Engine {
    /// An engine for events of a kernel of this era.
    pub fn new(log_format: LogFormat, limits: Limits, filter: Filter) -> Self {
        Self {
            log_format,
            filter,
            flows: FlowTable::new(),
            idle: BinaryHeap::new(),
            past: EvictedFlows::new(limits.past),
            next_id: 0,
            pending: Pending::new(limits.waiting, limits.patience),
            sent: VecDeque::new(),
            poller: EntryPoller::default(),
            namespaces: BTreeSet::new(),
            new_namespaces: Vec::new(),
            rejecting: BTreeSet::new(),
            new_rejecting: Vec::new(),
            totals: Totals::default(),
            counted: flood::Counted::default(),
            limits,
        }
    }

    /// Takes an event. It stays where it is: it is half a kilobyte, and handed on from one place to the next.
    pub fn event(&mut self, event: impl Into<Box<Event>>) -> Observed {
        let mut event = event.into();
        if event.packet.is_some_and(|packet| opens(&packet)) {
            // It opens a connection of its own, whatever the same addresses and ports were before.
            event.destroyed = None;
        }
        self.totals.events += 1;
        if let Some(netns) = event.netns {
            self.namespace(netns);
        }
        let (hook, class) = (event.hook, event.class);
        let observed = self.observe(event);
        self.learn(hook, class, &observed);
        observed
    }

    fn observe(&mut self, event: Box<Event>) -> Observed {
        match event.hook {
            Hook::CtInvalid | Hook::CtMalformed => self.logged(event),
            Hook::NewRefused => self.new_refused(event),
            Hook::ResetV4
            | Hook::ResetV6
            | Hook::RejectV4
            | Hook::RejectV6
            | Hook::LinkRejectV4
            | Hook::LinkRejectV6
            | Hook::ActiveReset
            | Hook::ResetTracepoint => self.reset(event),
            Hook::PacketTap | Hook::TcxTap => self.arrival(event),
            // Ended entries come with the packets that miss them, never by themselves.
            Hook::EntryGone | Hook::TableFull => Observed { flow: None, kind: Kind::Unwanted },
        }
    }

    /// Takes notice of a namespace that something happened in, so that the kernel is asked about it.
    pub fn namespace(&mut self, netns: u32) {
        if self.namespaces.len() < self.limits.waiting && self.namespaces.insert(netns) {
            self.new_namespaces.push(netns);
        }
    }

    /// Takes the answer to a look-up.
    pub fn looked_up(&mut self, answer: LookedUp) {
        let LookedUp { look_up, at, outcome } = answer;
        let Some(id) = self.flows.of_packet(Some(look_up.netns), look_up.tuple) else { return };
        match &outcome {
            Outcome::Found { original, reply, .. } => self.adopt(id, *original, *reply),
            // One that ended before is not this flow's.
            Outcome::NotFound { was: Some(was) } if self.flow(id).is_some_and(|flow| was.ended >= flow.first) => {
                self.adopt(id, was.original, was.reply);
            }
            _ => {}
        }
        let Some(flow) = self.flows.get_mut(id) else { return };
        arrival::confirm(flow, &outcome);
        if flow.learn(at, outcome) {
            self.poller.stop(id);
        }
    }

    /// What the engine wants to know now.
    pub fn requests(&mut self, now: Instant) -> Vec<Request> {
        // The rules first: the longer it takes, the more they may have changed.
        let rules = std::mem::take(&mut self.new_rejecting).into_iter().map(Request::Rules);
        let namespaces = std::mem::take(&mut self.new_namespaces).into_iter().map(Request::Netns);
        let due = self.poller.due(now);
        rules.chain(namespaces).chain(due.into_iter().filter_map(|id| self.look_up(id))).collect()
    }

    /// When it will next want to know something, if nothing happens before.
    pub fn next_request(&self) -> Option<Instant> {
        let at_once = !self.new_namespaces.is_empty() || !self.new_rejecting.is_empty();
        if at_once { Some(Instant(0)) } else { self.poller.next() }
    }

    /// What it wants to know before the capture ends: the entries whose end it has not seen, and the namespaces.
    pub fn last_requests(&mut self) -> Vec<Request> {
        let flows: Vec<FlowId> = self.poller.flows().collect();
        let look_ups = flows.into_iter().filter_map(|id| self.look_up(id));
        let rules = self.rejecting.iter().copied().map(Request::Rules);
        self.namespaces.iter().copied().map(Request::Netns).chain(rules).chain(look_ups).collect()
    }

    /// The namespaces in which packets were refused or RSTs sent.
    pub fn harmed(&self) -> BTreeSet<u32> {
        let harmed = |flow: &&Flow| flow.incident.rank() > EvidenceRank::Ignored && !flow.is_untracked_here();
        self.flows.iter().filter(harmed).filter_map(|flow| flow.key.netns).collect()
    }

    /// The flow with this number.
    pub fn flow(&self, id: FlowId) -> Option<&Flow> {
        self.flows.get(id)
    }

    /// Whether an entry that was looked up belongs to a flow.
    pub fn knows(&self, look_up: &LookUp) -> bool {
        self.flows.of_packet(Some(look_up.netns), look_up.tuple).is_some()
    }

    /// The counts.
    pub const fn totals(&self) -> &Totals {
        &self.totals
    }

    /// How many flows are remembered, and how many refused packets wait for a RST.
    pub fn load(&self) -> (usize, usize) {
        (self.flows.len(), self.pending.len())
    }

    /// All flows whose stories are known, in the order of their numbers, and the counts.
    pub fn finish(mut self) -> (Vec<Box<Flow>>, Totals) {
        self.settle_suppressed();
        let (mut flows, others): (Vec<Box<Flow>>, Vec<Box<Flow>>) =
            self.flows.into_flows().partition(|flow| flow.is_whole());
        for flow in others {
            self.totals.forgotten.add(&EvictedFlow::of(&flow));
        }
        flows.sort_unstable_by_key(|flow| flow.id);
        (flows, self.totals)
    }

    fn look_up(&self, id: FlowId) -> Option<Request> {
        let Flow { key, known, seen, .. } = self.flow(id)?;
        // An entry is found by its own tuples alone; of a flow that is known by a packet that is the packet's.
        let tuple = if *known { key.original } else { seen.unwrap_or(key.original) };
        Some(Request::LookUp(LookUp { netns: key.netns?, zone: key.zone, tuple }))
    }

    /// conntrack's log functions ran.
    fn logged(&mut self, event: Box<Event>) -> Observed {
        let message = message_of(&event);
        if message.is_remark() {
            return self.remark(event);
        }
        if is_own_reset(&event) {
            return self.reset_output(event);
        }
        let diagnosis = of_message(message, &event);
        let verdict = message.verdict(self.log_format);
        // A packet that opens nothing belongs to no connection that it could have a direction in.
        let direction = direction(&event).filter(|_| message != Message::InvalidNew);
        let window = explain(&event, message, direction, self.log_format);
        let logged = Arc::new(ConntrackVerdict { event, verdict, direction, window });
        let tally = match verdict {
            Verdict::Invalid => Tally { invalid: 1, ..Tally::default() },
            Verdict::Ignored => Tally { ignored: 1, ..Tally::default() },
            Verdict::Unknown => Tally { undecided: 1, ..Tally::default() },
        };
        let incident = || Incident::of_logged(diagnosis, Arc::clone(&logged));
        let flow = self.account(&logged.event, diagnosis, tally, incident());
        if let Some(id) = flow {
            self.pending.insert(id, Arc::clone(&logged));
            if let Some(flow) = self.flows.get_mut(id) {
                flow.last_logged = Some(Arc::clone(&logged));
                if flow.incident.peer.is_some() {
                    arrival::take_back(flow, incident());
                }
                flow.remember(&logged);
            }
        }
        let kind = if flow.is_some() { Kind::ConntrackVerdict(logged, diagnosis) } else { Kind::Unwanted };
        Observed { flow, kind }
    }

    /// A second message about a packet that has been counted.
    fn remark(&mut self, event: Box<Event>) -> Observed {
        let flow = event.entry.and_then(|entry| self.flows.of_key(&key_of_entry(&event, &entry)));
        if let Some(flow) = flow.and_then(|id| self.flows.get_mut(id)) {
            let same = flow.incident.logged.as_ref().is_some_and(|logged| logged.event.skb == event.skb);
            if same {
                flow.incident.remark = event.words.clone().map(Box::new);
            }
        }
        Observed { flow, kind: Kind::Remark(event) }
    }

    /// A RST of this host is seen leaving: conntrack knows no such flow, because it carries the gateway's own address.
    fn reset_output(&mut self, event: Box<Event>) -> Observed {
        self.totals.resets_output += 1;
        let sent = event.packet.and_then(|packet| {
            let answers = |sent: &Sent| {
                sent.netns == event.netns
                    && sent.tuple == packet.tuple()
                    && sent.seq == packet.seq
                    && event.at - sent.at <= self.limits.patience
            };
            self.sent.iter().rposition(answers).and_then(|index| self.sent.remove(index))
        });
        let flow = sent.map(|sent| sent.flow);
        if let Some(flow) = flow.and_then(|id| self.flows.get_mut(id))
            && flow.incident.reset.is_some()
            && flow.incident.reset_output.is_none()
        {
            flow.incident.reset_output = Some(ResetOutput { at: event.at, output: event.output });
        }
        Observed { flow, kind: Kind::ResetOutput(event) }
    }

    /// This host sends a RST.
    fn reset(&mut self, event: Box<Event>) -> Observed {
        let by = match event.hook {
            hook if hook.is_reject() => ResetBy::GatewayRejectRule,
            _ if event.socket.is_some() => ResetBy::GatewaySocket,
            _ => ResetBy::GatewayStack,
        };
        let refused = self.refused_before(&event);
        if refused.is_none()
            && let Some(flow) = self.flow_of_peer(&event)
        {
            return Observed { flow: Some(flow), kind: Kind::PeerReset(event) };
        }
        let (mut diagnosis, mut confidence) = of_reset(&event);
        if by == ResetBy::GatewayStack
            && let Some((_, logged, certainty)) = &refused
        {
            diagnosis = diagnosis_of(logged);
            confidence = *certainty;
        }
        let logged = refused.as_ref().map(|(_, logged, _)| logged);
        let entry = logged.and_then(|logged| logged.event.connection()).or(event.connection());
        let side = logged.map_or_else(|| direction(&event), |logged| logged.direction);
        let closed = event.destroyed.as_ref().is_some_and(|gone| gone.reason() == DestroyReason::Closed);
        let is_attempt = event.socket.as_ref().is_some_and(|socket| socket.state == SocketState::SYN_SENT);
        let effect = match &event.packet {
            _ if closed => Effect::Closed,
            Some(_) if is_attempt => Effect::OtherConnection,
            Some(packet) => effect::of_answer(packet, entry.zip(side)),
            // The socket is no more: whatever its peer makes of this RST, it will not find the connection again.
            None if event.own_socket().is_some() => Effect::Kills,
            None => Effect::Unknown,
        };
        let doubtful = by == ResetBy::GatewayStack && event.packet.is_some_and(|packet| packet.options.signed());
        let reset = Arc::new(Reset { answer: event.answer(), event, by, effect, doubtful });
        let incident = Incident::of_reset(diagnosis, confidence, logged.cloned(), Arc::clone(&reset));
        let tally = Tally { resets: u64::from(!doubtful), ..Tally::default() };
        let flow = match refused {
            Some((flow, ..)) => {
                self.update(flow, &reset.event, diagnosis, tally, incident);
                Some(flow)
            }
            None => self.account(&reset.event, diagnosis, tally, incident),
        };
        if let Some(flow) = flow {
            if by == ResetBy::GatewayRejectRule
                && let Some(netns) = reset.event.netns
                && self.rejecting.len() < self.limits.waiting
                && self.rejecting.insert(netns)
            {
                self.new_rejecting.push(netns);
            }
            self.remember_sent(flow, &reset);
            self.poller.start(flow, reset.event.at, self.limits.followed);
        }
        let kind = if flow.is_some() { Kind::Reset(reset, diagnosis, confidence) } else { Kind::Unwanted };
        Observed { flow, kind }
    }

    /// The refusal of the packet that a RST answers: of the same buffer, or else of the same segment in another one.
    ///
    /// conntrack takes the entry away from a packet that it refuses. One that still has an entry, or is untracked, was
    /// let pass: whatever was said about it is not why it was answered. One that has none was refused, whatever this
    /// program took the message to mean. Of one that a full socket answers that is not known: the message alone counts.
    fn refused_before(&mut self, event: &Event) -> Option<(FlowId, Arc<ConntrackVerdict>, Confidence)> {
        let taken = self.pending.take(event.netns, event.skb, event.packet.as_ref(), event.at);
        if !matches!(event.nfct, Some(Nfct::None) | None) {
            return None;
        }
        let (flow, logged, confidence) = if let Some(refused) = taken {
            (refused.flow, refused.logged, Confidence::Proven)
        } else {
            let packet = event.packet.as_ref()?;
            let id = self.flows.of_packet(event.netns, packet.tuple())?;
            let last = self.flows.get_mut(id)?.last_logged.take()?;
            let recent = event.at - last.event.at <= self.limits.patience;
            let same = last.event.packet.is_some_and(|refused| refused.same_segment(packet));
            if !recent || !same {
                return None;
            }
            (id, last, Confidence::Inferred)
        };
        let known = self.flows.get_mut(flow)?;
        known.last_logged = None;
        if logged.verdict == Verdict::Invalid || event.nfct.is_none() {
            return Some((flow, logged, confidence));
        }
        known.correct(diagnosis_of(&logged), logged.verdict);
        let proven = ConntrackVerdict { verdict: Verdict::Invalid, ..ConntrackVerdict::clone(&logged) };
        Some((flow, Arc::new(proven), confidence))
    }

    /// The flow of a gateway on this host that has the sender of this RST for one of its ends.
    ///
    /// Only where conntrack did not look at the answered segment, or found nothing wrong with it: one that it refused or
    /// had never heard of makes this namespace a gateway itself, unless a socket of its own got it. And only where the segment goes on with the connection:
    /// other connections of this host may have the same addresses and ports.
    fn flow_of_peer(&mut self, event: &Event) -> Option<FlowId> {
        // A known segment that is delivered here, untranslated or translated back: this namespace is an end of it.
        let known = matches!(event.nfct, Some(Nfct::Entry(info)) if info != CtInfo::New);
        let is_gateway = event.nfct != Some(Nfct::None) && !known && !event.has_full_socket();
        if is_gateway || event.hook.is_reject() {
            return None;
        }
        let tuple = event.tuple()?;
        let elsewhere = |id: &FlowId| self.flows.get(*id).is_some_and(|flow| flow.key.netns != event.netns);
        let candidates: Vec<FlowId> = self.flows.on_the_wire(tuple).filter(elsewhere).collect();
        // Where the end that sent the segment was: a socket that answers none expects it there.
        let next = event.packet.map(|packet| packet.seq).or_else(|| event.own_socket().map(|own| own.rcv_nxt))?;
        let gap = |id: &FlowId| self.flows.get(*id).and_then(|flow| flow.gap_to(tuple, next));
        let id = match candidates[..] {
            [] => return None,
            [only] if !known && gap(&only).is_none() => only,
            _ => {
                // An end that tracks its connections has reasons of its own, unless the gateway has reset it.
                let was_reset = |id: &FlowId| self.flows.get(*id).is_some_and(|flow| flow.incident.reset.is_some());
                let near = |id: FlowId| Some((gap(&id).filter(|gap| gap.small)?.bytes, id));
                candidates.into_iter().filter(|id| !known || was_reset(id)).filter_map(near).min()?.1
            }
        };
        let flow = self.flows.get_mut(id)?;
        let seen = PeerSeen::Made { netns: event.netns, answered: event.packet };
        flow.peer_reset.get_or_insert(Box::new(PeerReset { at: event.at, tuple: tuple.reversed(), seen }));
        Some(id)
    }

    fn remember_sent(&mut self, flow: FlowId, reset: &Reset) {
        let (Some(tuple), Some(answer)) = (reset.event.tuple(), reset.answer) else { return };
        let at = reset.event.at;
        while self.sent.front().is_some_and(|oldest| at - oldest.at > self.limits.patience)
            || self.sent.len() >= self.limits.waiting
        {
            self.sent.pop_front();
        }
        self.sent.push_back(Sent { at, netns: reset.event.netns, tuple: tuple.reversed(), seq: answer.seq, flow });
    }
}

#[cfg(test)]
mod arrivals;
#[cfg(test)]
mod asking;
#[cfg(test)]
mod counted;
#[cfg(test)]
mod endings;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
