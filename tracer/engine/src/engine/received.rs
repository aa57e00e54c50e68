//! RSTs at the ingress of a tapped interface, and first packets that conntrack was seen to refuse.
//!
//! This host did not make a RST that it receives. conntrack can refuse it; then it does not reach the other end, and the refusal is the
//! incident.

use std::sync::Arc;

use tracer_model::capture::Outcome;
use tracer_model::cause::{Cause, Confidence, Diagnosis};
use tracer_model::event::Event;
use tracer_model::packet::Packet;

use super::{Engine, Kind, Observed};
use crate::flow::{Flow, FlowId, Incident, PeerReset, PeerSeen, Tally};

impl Engine {
    /// A RST is received.
    pub(super) fn reset_received(&mut self, event: Box<Event>) -> Observed {
        let Some(packet) = event.packet else {
            return Observed::new(None, Kind::ResetReceived(event));
        };
        if let Some(flow) = self.sender_of(&packet, &event) {
            return Observed::new(Some(flow), Kind::ResetOutput(event));
        }
        if let Some(flow) = self.received_before(&packet, &event) {
            return Observed::new(Some(flow), Kind::Remark(event));
        }
        let seen = PeerSeen::Arrived { input: event.input, packet };
        let peer = PeerReset { at: event.at, tuple: packet.tuple(), seen };
        let diagnosis = Diagnosis::plain(Cause::PeerReset);
        let incident = Incident::of_received(diagnosis, peer);
        let tally = Tally { forwarded: 1, ..Tally::default() };
        let flow = self.account(&event, diagnosis, tally, incident);
        if let Some(id) = flow
            && let Some(flow) = self.flows.get_mut(id)
        {
            if flow.known && flow.incident.peer.is_some() {
                flow.incident.confidence = Confidence::Proven;
            }
            flow.peer_reset.get_or_insert(Box::new(peer));
            flow.last_received = Some(Box::new(peer));
            self.poller.start(id, event.at, self.limits.followed);
        }
        let kind = if flow.is_some() { Kind::ResetReceived(event) } else { Kind::Unwanted };
        Observed::new(flow, kind)
    }

    /// conntrack refused the first packet of a connection. Some kernels log it too: then it is counted already.
    pub(super) fn new_refused(&mut self, event: Box<Event>) -> Observed {
        match self.pending.flow_of(event.netns, event.skb, event.packet.as_ref(), event.at) {
            Some(flow) => Observed::new(Some(flow), Kind::Remark(event)),
            None => self.logged(event),
        }
    }

    /// The flow whose RST this is, seen again on another interface: a VLAN on a wire, a bridge on its port.
    fn received_before(&self, packet: &Packet, event: &Event) -> Option<FlowId> {
        let flow = self.flows.get(self.flows.of_packet(event.netns, packet.tuple())?)?;
        let last = flow.last_received.as_ref()?;
        let PeerSeen::Arrived { input, packet: before } = last.seen else { return None };
        let again = before.same_segment(packet) && input != event.input && event.at - last.at <= self.limits.patience;
        again.then_some(flow.id)
    }

    /// The flow that another network namespace of this host has reset as a gateway, and whose RST this is. A namespace that
    /// resets a connection of its own is one of its ends.
    fn sender_of(&self, packet: &Packet, event: &Event) -> Option<FlowId> {
        let same = |sent: &&super::Sent| {
            sent.tuple == packet.tuple() && sent.seq == packet.seq && event.at - sent.at <= self.limits.patience
        };
        let flow = self.flows.get(self.sent.iter().rev().find(same)?.flow)?;
        let of_its_own = matches!(flow.incident.diagnosis.cause, Cause::LocalSocket | Cause::NoListener);
        let as_gateway = flow.known || flow.incident.logged.is_some();
        (as_gateway && !of_its_own && flow.key.netns != event.netns).then_some(flow.id)
    }
}

/// A RST that was received was refused: it has not reached the other end, and the refusal is the incident.
pub(super) fn replace_by_refusal(flow: &mut Flow, incident: Incident) {
    let Some(PeerSeen::Arrived { packet: arrived, .. }) = flow.incident.peer.as_ref().map(|peer| peer.seen) else {
        return;
    };
    let refused = incident.logged.as_ref().map(Arc::as_ref).and_then(|logged| logged.event.packet);
    if refused.is_some_and(|packet| packet.same_segment(&arrived)) {
        flow.incident = incident;
    }
}

/// A look-up shows whether conntrack knows the connection of a RST, or knew it until then: only then the RST was forwarded. A RST that answers a SYN ends the entry at once (`nf_conntrack_tcp_packet`, 5.10 to 7.2).
pub(super) fn confirm(flow: &mut Flow, outcome: &Outcome) {
    let Some(peer) = &flow.incident.peer else { return };
    let known = match outcome {
        Outcome::Found { .. } => true,
        Outcome::NotFound { was } => was.is_some_and(|was| was.ended >= peer.at),
        Outcome::Failed { .. } => false,
    };
    if known {
        flow.incident.confidence = Confidence::Proven;
    }
}
