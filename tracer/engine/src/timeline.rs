//! The steps of a flow's incident, in order: the only place that decides what a step is, and which one comes first.
//!
//! Renderers map each [`StepKind`] to their format with an exhaustive match. A new kind of step is added here, and the compiler
//! names the renderers that lack it. Steps are ordered by time, and by causality within the same instant.

use tracer_model::capture::Outcome;
use tracer_model::cause::ResetBy;
use tracer_model::conntrack::{DestroyedEntry, Nfct, TcpState, Tuple, Verdict};
use tracer_model::event::{Event, Interface, LogMessage};
use tracer_model::packet::Packet;
use tracer_model::time::Instant;

use crate::engine::{Kind, Observed};
use crate::flow::{ConntrackVerdict, EntryStatus, EvidenceRank, Flow, PeerReset, PeerSeen, Reset};

/// The steps of a flow's incident.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeline<'a> {
    /// When the incident began. An entry can have been destroyed, and packets accepted, before that.
    pub origin: Instant,
    /// The steps, in order.
    pub steps: Vec<Step<'a>>,
}

/// A step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step<'a> {
    /// When it was seen.
    pub at: Instant,
    /// What it is.
    pub kind: StepKind<'a>,
}

/// What a step is, with its evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepKind<'a> {
    /// The connection's entry was destroyed before the packet came.
    EntryDestroyed(&'a DestroyedEntry),
    /// conntrack accepted an earlier packet without recording it, and the refusal follows from that.
    AcceptedBefore(&'a ConntrackVerdict),
    /// conntrack logged a packet.
    Logged {
        /// The packet, and what conntrack did with it.
        logged: &'a ConntrackVerdict,
        /// A further message about the same packet.
        remark: Option<&'a LogMessage>,
    },
    /// conntrack logged a packet again. It is part of [`StepKind::Logged`] in a timeline, and on its own as an event.
    Remark(&'a Event),
    /// The packet was not translated back.
    NatSkipped {
        /// The RST that answered it.
        reset: &'a Reset,
        /// `skb->_nfct`, as the function that made the RST saw it.
        nfct: Nfct,
        /// Where the packet went instead of to the client.
        destination: std::net::SocketAddr,
    },
    /// This host sent a RST.
    ResetSent {
        /// The RST.
        reset: &'a Reset,
        /// An earlier step has the segment that it answers.
        segment_shown: bool,
    },
    /// The RST was seen at `LOCAL_OUT`, untranslated.
    ResetOutput {
        /// The interface that it leaves by.
        output: Option<Interface>,
    },
    /// One of the flow's ends, in another network namespace of this host, sent a RST.
    PeerResetSent {
        /// Source and destination of the RST.
        tuple: Option<Tuple>,
        /// Inode number of that namespace; absent in an event, which has one of its own.
        netns: Option<u32>,
        /// The segment that it answers, where it answers one.
        answered: Option<Segment<'a>>,
    },
    /// A RST of one of the flow's ends arrived.
    PeerResetReceived {
        /// The interface.
        input: Option<Interface>,
        /// The RST; absent where it could not be read.
        packet: Option<&'a Packet>,
    },
    /// A look-up found the entry.
    EntryState(EntryFound),
    /// A look-up found the entry in CLOSE: a RST of one end passed through to the other.
    PeerResetForwarded(EntryFound),
    /// A look-up found no entry.
    EntryNotFound {
        /// The answer before, which was another.
        not_before: Option<Instant>,
    },
    /// The entry could not be looked up.
    EntryUnknown {
        /// Why.
        because: &'a str,
    },
}

/// A segment, and how it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Its headers.
    pub packet: &'a Packet,
    /// `skb->mark`; 0 where only the headers are kept.
    pub mark: u32,
    /// The headers were read from a fragment of the buffer.
    pub from_fragment: bool,
}

impl<'a> Segment<'a> {
    /// The segment of an event, where its headers were in reach.
    pub fn of(event: &'a Event) -> Option<Self> {
        let packet = event.packet.as_ref()?;
        Some(Self { packet, mark: event.mark, from_fragment: event.flags.from_fragment })
    }
}

impl<'a> From<&'a Packet> for Segment<'a> {
    fn from(packet: &'a Packet) -> Self {
        Self { packet, mark: 0, from_fragment: false }
    }
}

/// An entry that a look-up found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryFound {
    /// State of the TCP tracker.
    pub state: Option<TcpState>,
    /// Seconds before it expires.
    pub timeout_s: Option<u32>,
    /// The answer before, which was another.
    pub not_before: Option<Instant>,
}

impl StepKind<'_> {
    /// The step's name in every output.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::EntryDestroyed(_) => "entry-destroyed",
            Self::AcceptedBefore(logged) | Self::Logged { logged, .. } => match logged.verdict {
                Verdict::Invalid => "conntrack-invalid",
                Verdict::Ignored => "conntrack-ignored",
                Verdict::Unknown => "conntrack-undecided",
            },
            Self::Remark(_) => "conntrack-remark",
            Self::NatSkipped { .. } => "nat-skipped",
            Self::ResetSent { .. } => "reset-sent",
            Self::ResetOutput { .. } => "reset-output",
            Self::PeerResetSent { .. } => "peer-reset-sent",
            Self::PeerResetReceived { .. } => "peer-reset-received",
            Self::EntryState(_) => "entry-state",
            Self::PeerResetForwarded(_) => "peer-reset-forwarded",
            Self::EntryNotFound { .. } => "entry-not-found",
            Self::EntryUnknown { .. } => "entry-unknown",
        }
    }
}

impl<'a> Timeline<'a> {
    /// The steps of a flow's incident.
    pub fn of(flow: &'a Flow) -> Self {
        let incident = &flow.incident;
        let mut steps = Vec::new();
        let mut add = |at: Instant, kind: StepKind<'a>| steps.push(Step { at, kind });
        // Causes before effects: the order of those of the same instant.
        if let Some(destroyed) = incident.destroyed() {
            add(destroyed.at, StepKind::EntryDestroyed(destroyed));
        }
        for logged in &incident.follows {
            add(logged.event.at, StepKind::AcceptedBefore(logged));
        }
        if let Some(logged) = &incident.logged {
            add(logged.event.at, StepKind::Logged { logged, remark: incident.remark.as_deref() });
        }
        if let Some(reset) = &incident.reset {
            if let Some((nfct, destination)) = flow.nat_skipped(reset) {
                add(reset.event.at, StepKind::NatSkipped { reset, nfct, destination });
            }
            add(reset.event.at, StepKind::ResetSent { reset, segment_shown: incident.logged.is_some() });
        }
        if let Some(reset_output) = incident.reset_output {
            add(reset_output.at, StepKind::ResetOutput { output: reset_output.output });
        }
        if let Some(reset) = flow.peer_reset.as_deref() {
            add(reset.at, StepKind::of_peer(reset));
        }
        for status in &flow.entry_statuses {
            add(status.at, StepKind::of_status(flow, status));
        }
        steps.sort_by_key(|step| step.at);
        Self { origin: flow.began(), steps }
    }

    /// Whether a RST of one end passed through to the other.
    pub fn passed_through(&self, flow: &Flow) -> bool {
        let forwarded = |step: &Step<'_>| matches!(step.kind, StepKind::PeerResetForwarded(_));
        flow.incident.rank() == EvidenceRank::Forwarded || self.steps.iter().any(forwarded)
    }
}

impl<'a> StepKind<'a> {
    fn of_peer(reset: &'a PeerReset) -> Self {
        match &reset.seen {
            PeerSeen::Made { netns, answered } => Self::PeerResetSent {
                tuple: Some(reset.tuple),
                netns: *netns,
                answered: answered.as_ref().map(Segment::from),
            },
            PeerSeen::Arrived { input, packet } => Self::PeerResetReceived { input: *input, packet: Some(packet) },
        }
    }

    fn of_status(flow: &Flow, status: &'a EntryStatus) -> Self {
        let not_before = status.not_before;
        match &status.outcome {
            Outcome::Found { state, timeout_s, .. } => {
                let found = EntryFound { state: *state, timeout_s: *timeout_s, not_before };
                let closed = *state == Some(TcpState::Close);
                if closed && flow.reset_passed_through() {
                    Self::PeerResetForwarded(found)
                } else {
                    Self::EntryState(found)
                }
            }
            Outcome::NotFound { .. } => Self::EntryNotFound { not_before },
            Outcome::Failed { because } => Self::EntryUnknown { because },
        }
    }
}

impl Observed {
    /// The event as a step; `None` where the filter does not want its flow.
    pub fn step(&self) -> Option<Step<'_>> {
        let kind = match &self.kind {
            Kind::Unwanted => return None,
            Kind::ConntrackVerdict(logged, _) => StepKind::Logged { logged, remark: None },
            Kind::Remark(event) => StepKind::Remark(event),
            Kind::Reset(reset, ..) => StepKind::ResetSent { reset, segment_shown: false },
            Kind::ResetOutput(event) => StepKind::ResetOutput { output: event.output },
            Kind::PeerReset(event) => {
                let tuple = event.tuple().map(Tuple::reversed);
                StepKind::PeerResetSent { tuple, netns: None, answered: Segment::of(event) }
            }
            Kind::ResetReceived(event) => {
                StepKind::PeerResetReceived { input: event.input, packet: event.packet.as_ref() }
            }
        };
        Some(Step { at: self.event()?.at, kind })
    }
}

impl Flow {
    /// Whether an entry found in CLOSE got there by a RST that passed through: it was in another state when this host's own
    /// RST, which conntrack does not count to the flow, was sent.
    fn reset_passed_through(&self) -> bool {
        let by_end_or_unseen = matches!(self.reset_by(), Some(ResetBy::GatewayStack | ResetBy::Peer));
        by_end_or_unseen && self.state != Some(TcpState::Close)
    }

    /// Proof that a packet was not translated back: `skb->_nfct` at the function that made the RST, and the gateway's own address
    /// as the packet's destination.
    fn nat_skipped(&self, reset: &Reset) -> Option<(Nfct, std::net::SocketAddr)> {
        let destination = reset.event.packet?.dst;
        let translated = reset.by == ResetBy::GatewayStack && self.key.nat() == Some(destination);
        Some((reset.event.nfct?, destination)).filter(|_| translated)
    }
}
