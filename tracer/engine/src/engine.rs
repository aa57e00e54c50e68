//! The engine: events in, flows with incidents out.

mod flows;
mod judge;
mod received;
mod suppressed;
mod totals;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;

use tracer_common::Hook;
use tracer_model::capture::{Gap, LookUp, LookedUp, Outcome, Request};
use tracer_model::cause::{Cause, Confidence, Diagnosis, ResetBy};
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
use super::gaps::is_after_gap;
use super::pending::Pending;
use super::poller::EntryPoller;
use super::table::FlowTable;

use flows::EvictionKey;
use judge::{diagnosis_of, direction, explain, is_own_reset, key_of_entry, message_of, of_message, of_reset, opens};

pub use totals::{Forgotten, Totals};

/// An event, classified.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The flow it belongs to; `None` where it belongs to none, or the filter does not want it.
    pub flow: Option<FlowId>,
    /// Its kind.
    pub kind: Kind,
    /// The report can name another cause for this flow: another event of the flow decides it, or a fact that is not known yet.
    pub provisional: bool,
}

impl Observed {
    pub(super) const fn new(flow: Option<FlowId>, kind: Kind) -> Self {
        Self { flow, kind, provisional: false }
    }

    /// The event; `None` where the filter does not want its flow.
    pub fn event(&self) -> Option<&Event> {
        Some(match &self.kind {
            Kind::Unwanted => return None,
            Kind::ConntrackVerdict(logged, _) => &logged.event,
            Kind::Reset(reset, ..) => &reset.event,
            Kind::Remark(event) | Kind::ResetOutput(event) | Kind::PeerReset(event) | Kind::ResetReceived(event) => {
                event
            }
        })
    }

    /// The cause that the event is evidence of; `None` where it is an effect.
    pub const fn diagnosis(&self) -> Option<Diagnosis> {
        match &self.kind {
            Kind::ConntrackVerdict(_, diagnosis) | Kind::Reset(_, diagnosis, _) => Some(*diagnosis),
            Kind::ResetReceived(_) => Some(Diagnosis::plain(Cause::PeerReset)),
            Kind::Unwanted | Kind::Remark(_) | Kind::ResetOutput(_) | Kind::PeerReset(_) => None,
        }
    }
}

/// Kinds of events.
#[derive(Debug, Clone)]
pub enum Kind {
    /// conntrack logged a packet: it refused it, or accepted it.
    ConntrackVerdict(Arc<ConntrackVerdict>, Diagnosis),
    /// A further message about a packet that is counted already.
    Remark(Box<Event>),
    /// This host sent a RST.
    Reset(Arc<Reset>, Diagnosis, Confidence),
    /// A RST of this host at `LOCAL_OUT`: an effect, not a cause.
    ResetOutput(Box<Event>),
    /// One of the flow's ends, on this host too, sends a RST: an effect, not a cause.
    PeerReset(Box<Event>),
    /// A RST of one of the flow's ends arrives.
    ResetReceived(Box<Event>),
    /// The filter does not want its flow.
    Unwanted,
}

/// A RST that was sent and that `LOCAL_OUT` can show.
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
    /// The order of eviction. A flow is in it once, at its place or before: it moves to its place when it comes to the front.
    idle: BinaryHeap<Reverse<EvictionKey>>,
    /// Evicted flows.
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
    suppressed: suppressed::Suppressed,
}

impl Engine {
    /// An engine for events of a kernel with this log format.
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
            suppressed: suppressed::Suppressed::default(),
            limits,
        }
    }

    /// Takes an event. It is boxed: it has half a kilobyte, and is passed on often.
    pub fn event(&mut self, event: impl Into<Box<Event>>) -> Observed {
        let mut event = event.into();
        if event.packet.is_some_and(|packet| opens(&packet)) {
            // It opens a new connection, whatever connection had the same addresses and ports before.
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

    /// Marks an event if the report can name another cause for its flow. `gaps`: the missing parts of the capture so far.
    pub(super) fn mark_provisional(&mut self, observed: &mut Observed, gaps: &[Gap]) {
        let Some(diagnosis) = observed.diagnosis() else { return };
        let Some(flow) = observed.flow.and_then(|id| self.flows.get_mut(id)) else { return };
        let at = observed.event().map(|event| event.at);
        let (first, incident) = (flow.first, &mut flow.incident);
        let (decides, since) = match (&incident.reset, &incident.peer) {
            (Some(reset), _) => (at == Some(reset.event.at), reset.event.at),
            // A gap before the first event of the connection can hold more of it.
            (None, peer) => (at == peer.as_ref().map(|peer| peer.at), first),
        };
        incident.after_gap |= decides && incident.lacks_first_step() && is_after_gap(since, gaps);
        observed.provisional =
            incident.diagnosis != diagnosis || incident.after_gap || incident.is_refused_in_silence();
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
            Hook::PacketTap | Hook::TcxTap => self.reset_received(event),
            // A destroyed entry comes with the packet that misses it, never by itself.
            Hook::EntryDestroyed | Hook::TableFull => Observed::new(None, Kind::Unwanted),
        }
    }

    /// Notes a namespace with events, to ask the kernel about it.
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
            // One that was destroyed before is not this flow's.
            Outcome::NotFound { was: Some(was) } if self.flow(id).is_some_and(|flow| was.ended >= flow.first) => {
                self.adopt(id, was.original, was.reply);
            }
            _ => {}
        }
        let Some(flow) = self.flows.get_mut(id) else { return };
        received::confirm(flow, &outcome);
        if flow.learn(at, outcome) {
            self.poller.stop(id);
        }
    }

    /// The engine's questions to the kernel now.
    pub fn requests(&mut self, now: Instant) -> Vec<Request> {
        // The rules first: the longer it takes, the more they may have changed.
        let rules = std::mem::take(&mut self.new_rejecting).into_iter().map(Request::Rules);
        let namespaces = std::mem::take(&mut self.new_namespaces).into_iter().map(Request::Netns);
        let due = self.poller.due(now);
        rules.chain(namespaces).chain(due.into_iter().filter_map(|id| self.look_up(id))).collect()
    }

    /// The time of the next question, if no event comes before.
    pub fn next_request(&self) -> Option<Instant> {
        let at_once = !self.new_namespaces.is_empty() || !self.new_rejecting.is_empty();
        if at_once { Some(Instant(0)) } else { self.poller.next() }
    }

    /// The questions at the end of the capture: the entries that were not seen to end, and the namespaces.
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

    /// All flows that were not evicted, in the order of their numbers, and the counts.
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
        // ctnetlink finds an entry by its own tuples alone. A flow without a known entry has that of its packet.
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
        // A packet that cannot open a connection belongs to none, and has no direction.
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
                    received::replace_by_refusal(flow, incident());
                }
                flow.remember(&logged);
            }
        }
        let kind = if flow.is_some() { Kind::ConntrackVerdict(logged, diagnosis) } else { Kind::Unwanted };
        Observed::new(flow, kind)
    }

    /// A further message about a packet that is counted already.
    fn remark(&mut self, event: Box<Event>) -> Observed {
        let flow = event.entry.and_then(|entry| self.flows.of_key(&key_of_entry(&event, &entry)));
        if let Some(flow) = flow.and_then(|id| self.flows.get_mut(id)) {
            let same = flow.incident.logged.as_ref().is_some_and(|logged| logged.event.skb == event.skb);
            if same {
                flow.incident.remark = event.words.clone().map(Box::new);
            }
        }
        Observed::new(flow, Kind::Remark(event))
    }

    /// A RST of this host at `LOCAL_OUT`: conntrack knows no such flow, because its source is the gateway's own address.
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
        Observed::new(flow, Kind::ResetOutput(event))
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
            return Observed::new(Some(flow), Kind::PeerReset(event));
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
        let closed = event.destroyed.as_ref().is_some_and(|destroyed| destroyed.reason() == DestroyReason::Closed);
        let is_attempt = event.socket.as_ref().is_some_and(|socket| socket.state == SocketState::SYN_SENT);
        let effect = match &event.packet {
            _ if closed => Effect::Closed,
            Some(_) if is_attempt => Effect::OtherConnection,
            Some(packet) => effect::of_answer(packet, entry.zip(side)),
            // The socket is closed: whatever its peer does with this RST, the connection is over.
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
        Observed::new(flow, kind)
    }

    /// The refused packet that a RST answers: in the same buffer, or else the same segment in another buffer.
    ///
    /// A packet that conntrack refuses has no entry. A packet with an entry, or an untracked one, was accepted: its message is not the
    /// cause of the RST. A packet without an entry was refused, whatever verdict the message was read as. For a packet that a full
    /// socket answers, the entry is not known, and the message alone counts.
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
    /// Only if conntrack here did not see the answered segment, or accepted it: if it refused the segment or did not know its
    /// connection, this namespace is a gateway itself, unless a socket of its own got the segment. And only if the segment continues
    /// the connection: other connections of this host can have the same addresses and ports.
    fn flow_of_peer(&mut self, event: &Event) -> Option<FlowId> {
        // A known segment delivered here, untranslated or translated back: this namespace is an end of the connection.
        let known = matches!(event.nfct, Some(Nfct::Entry(info)) if info != CtInfo::New);
        let is_gateway = event.nfct != Some(Nfct::None) && !known && !event.has_full_socket();
        if is_gateway || event.hook.is_reject() {
            return None;
        }
        let tuple = event.tuple()?;
        let elsewhere = |id: &FlowId| self.flows.get(*id).is_some_and(|flow| flow.key.netns != event.netns);
        let candidates: Vec<FlowId> = self.flows.on_the_wire(tuple).filter(elsewhere).collect();
        // The position of the end that sent the segment; a socket that answers no segment expects it at `rcv_nxt`.
        let next = event.packet.map(|packet| packet.seq).or_else(|| event.own_socket().map(|own| own.rcv_nxt))?;
        let gap = |id: &FlowId| self.flows.get(*id).and_then(|flow| flow.gap_to(tuple, next));
        let id = match candidates[..] {
            [] => return None,
            [only] if !known && gap(&only).is_none() => only,
            _ => {
                // An end that tracks its connections can reset them by itself, unless the gateway has reset this one.
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
mod destroyed;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod suppressed_events;
#[cfg(test)]
mod taps;
#[cfg(test)]
mod tests;
