//! A flow: a connection as the gateway knows it, and the incident that happened to it.

use std::net::SocketAddr;
use std::sync::Arc;

use tracer_common::Hook;
use tracer_model::capture::Outcome;
use tracer_model::cause::{Cause, Confidence, Diagnosis, ResetBy};
use tracer_model::conntrack::window::{Explanation, Failure};
use tracer_model::conntrack::{DestroyedEntry, Direction, Entry, Nfct, Seq, TcpState, Tuple, Verdict};
use tracer_model::event::{Event, Interface, LogMessage};
use tracer_model::flow_key::FlowKey;
use tracer_model::packet::{Packet, ResetSegment};
use tracer_model::time::Instant;

use super::effect::Effect;

/// A flow's number, in the order of appearance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(pub u64);

/// Counts of a flow, or of one cause within a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Packets that conntrack refused.
    pub invalid: u64,
    /// Packets that conntrack logged and accepted.
    pub ignored: u64,
    /// Packets whose verdict is not known.
    pub undecided: u64,
    /// RSTs that this host sent.
    pub resets: u64,
    /// RSTs of the ends that arrived.
    pub forwarded: u64,
}

impl Tally {
    /// Adds another tally.
    pub const fn add(&mut self, other: Self) {
        self.invalid += other.invalid;
        self.ignored += other.ignored;
        self.undecided += other.undecided;
        self.resets += other.resets;
        self.forwarded += other.forwarded;
    }

    /// Subtracts a tally that was added before.
    pub(super) const fn subtract(&mut self, other: Self) {
        self.invalid -= other.invalid;
        self.ignored -= other.ignored;
        self.undecided -= other.undecided;
        self.resets -= other.resets;
        self.forwarded -= other.forwarded;
    }
}

/// What an event is counted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Invalid,
    Ignored,
    Undecided,
    Reset,
    Forwarded,
    /// It is a further event about something that is counted already.
    Nothing,
}

impl Unit {
    /// So many of them.
    pub(super) fn times(self, count: u64) -> Tally {
        let none = Tally::default();
        match self {
            Self::Invalid => Tally { invalid: count, ..none },
            Self::Ignored => Tally { ignored: count, ..none },
            Self::Undecided => Tally { undecided: count, ..none },
            Self::Reset => Tally { resets: count, ..none },
            Self::Forwarded => Tally { forwarded: count, ..none },
            Self::Nothing => none,
        }
    }
}

/// What events of a hook and class are counted as, and their cause, as an event that was emitted shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) hook: Hook,
    pub(super) class: u32,
    pub(super) diagnosis: Diagnosis,
    pub(super) unit: Unit,
}

/// A packet that conntrack logged, and its verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConntrackVerdict {
    /// The event.
    pub event: Box<Event>,
    /// What conntrack did with the packet.
    pub verdict: Verdict,
    /// The packet's direction.
    pub direction: Option<Direction>,
    /// The window check explained, where it is what failed.
    pub window: Option<Explanation>,
}

/// A RST that this host sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    /// The event.
    pub event: Box<Event>,
    /// Who sent it.
    pub by: ResetBy,
    /// Its numbers, where the segment that it answers could be read.
    pub answer: Option<ResetSegment>,
    /// What it does to the peer.
    pub effect: Effect,
    /// The segment is signed (TCP-MD5, TCP-AO): the kernel sends the RST only if it finds the key.
    pub doubtful: bool,
}

/// The gateway's own RST seen again, leaving un-NATed through conntrack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResetOutput {
    /// When.
    pub at: Instant,
    /// By which interface.
    pub output: Option<Interface>,
}

/// A RST of one of the flow's ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerReset {
    /// When.
    pub at: Instant,
    /// Which end: source and destination of the RST.
    pub tuple: Tuple,
    /// How it is known.
    pub seen: PeerSeen,
}

/// How a RST of an end is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerSeen {
    /// The end lives in another network namespace of this host, and its RST was seen being made.
    Made {
        /// Inode number of that namespace.
        netns: Option<u32>,
        /// The segment that it answers, where it answers one.
        answered: Option<Packet>,
    },
    /// The RST arrived on an interface that is tapped.
    Arrived {
        /// The interface.
        input: Option<Interface>,
        /// The RST.
        packet: Packet,
    },
}

/// How far a segment is from what was seen of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap {
    /// In bytes, to either side.
    pub(super) bytes: u32,
    /// It may be the connection's: not more than a window.
    pub(super) small: bool,
}

/// The rank of an incident's evidence; a flow keeps the incident with the highest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EvidenceRank {
    /// A packet was logged and accepted.
    Ignored,
    /// A packet was logged, and the verdict is not known.
    Undecided,
    /// All events were suppressed: counted in the kernel, not emitted.
    Counted,
    /// A packet was refused.
    Refused,
    /// A RST of one of the ends was received, and this host sent none before.
    Forwarded,
    /// A RST was sent that cannot have ended the connection.
    Answered,
    /// A RST was sent that may have ended the connection.
    Killed,
}

/// What happened to a flow: a packet, conntrack's verdict, a RST.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incident {
    /// Why.
    pub diagnosis: Diagnosis,
    /// How sure that is.
    pub confidence: Confidence,
    rank: EvidenceRank,
    /// The packet that conntrack logged.
    pub logged: Option<Arc<ConntrackVerdict>>,
    /// Packets that were accepted before without being recorded, and that the refusal follows from; oldest first.
    pub follows: Vec<Arc<ConntrackVerdict>>,
    /// A further message of conntrack about the same packet.
    pub remark: Option<Box<LogMessage>>,
    /// The RST that answered it.
    pub reset: Option<Arc<Reset>>,
    /// The RST at `LOCAL_OUT`.
    pub reset_output: Option<ResetOutput>,
    /// The RST of one of the ends, where it is the incident.
    pub peer: Option<Box<PeerReset>>,
    /// Its first step can be missing: it came right after a gap in the capture.
    pub(super) after_gap: bool,
}

impl Incident {
    /// An incident of which only the cause is known, as of suppressed events.
    pub(super) const fn new(diagnosis: Diagnosis, confidence: Confidence) -> Self {
        Self {
            diagnosis,
            confidence,
            rank: EvidenceRank::Counted,
            logged: None,
            follows: Vec::new(),
            remark: None,
            reset: None,
            reset_output: None,
            peer: None,
            after_gap: false,
        }
    }

    /// conntrack logged a packet.
    pub(super) fn of_logged(diagnosis: Diagnosis, logged: Arc<ConntrackVerdict>) -> Self {
        let rank = match logged.verdict {
            Verdict::Invalid => EvidenceRank::Refused,
            Verdict::Unknown => EvidenceRank::Undecided,
            Verdict::Ignored => EvidenceRank::Ignored,
        };
        Self { rank, logged: Some(logged), ..Self::new(diagnosis, Confidence::Proven) }
    }

    /// A RST was sent, for a packet that was refused or for another reason.
    pub(super) fn of_reset(
        diagnosis: Diagnosis,
        confidence: Confidence,
        logged: Option<Arc<ConntrackVerdict>>,
        reset: Arc<Reset>,
    ) -> Self {
        let rank = if reset.effect.may_have_killed() { EvidenceRank::Killed } else { EvidenceRank::Answered };
        Self { rank, logged, reset: Some(reset), ..Self::new(diagnosis, confidence) }
    }

    /// A RST of one of the ends arrived.
    pub(super) fn of_received(diagnosis: Diagnosis, peer: PeerReset) -> Self {
        let rank = EvidenceRank::Forwarded;
        // Until a look-up shows that conntrack knows the connection.
        Self { rank, peer: Some(Box::new(peer)), ..Self::new(diagnosis, Confidence::Inferred) }
    }

    /// Whether its first step is not in the evidence: the refusal of a segment that conntrack is known to have refused, or the
    /// packet that an end answers with a RST.
    pub(super) fn lacks_first_step(&self) -> bool {
        match &self.reset {
            Some(reset) => {
                let refused = reset.by == ResetBy::GatewayStack && reset.event.nfct == Some(Nfct::None);
                refused && self.logged.is_none() && reset.event.destroyed.is_none()
            }
            None => self.diagnosis.cause == Cause::PeerReset,
        }
    }

    /// Whether the cause waits for facts about conntrack in the namespace: the RST answers a segment that conntrack refused without
    /// a message.
    pub(super) fn is_refused_in_silence(&self) -> bool {
        self.diagnosis.cause == Cause::Unknown && self.reset.is_some() && self.lacks_first_step()
    }

    /// Its rank.
    pub const fn rank(&self) -> EvidenceRank {
        self.rank
    }

    /// When it began.
    pub fn began(&self) -> Option<Instant> {
        let refused = self.logged.as_ref().map(|logged| logged.event.at);
        let reset = || self.reset.as_ref().map(|reset| reset.event.at);
        refused.or_else(reset).or_else(|| self.peer.as_ref().map(|peer| peer.at))
    }

    /// The event with the most about the packet: the refusal, else the RST.
    pub fn trigger(&self) -> Option<&Event> {
        self.logged.as_ref().map(|logged| &*logged.event).or_else(|| self.reset.as_ref().map(|reset| &*reset.event))
    }

    /// The entry as it was when the incident began.
    pub fn entry(&self) -> Option<&Entry> {
        self.trigger()?.entry.as_ref()
    }

    /// The entry that the packet would have belonged to, where it was destroyed before.
    pub fn destroyed(&self) -> Option<&DestroyedEntry> {
        let of_reset = || self.reset.as_ref().and_then(|reset| reset.event.destroyed.as_deref());
        self.logged.as_ref().and_then(|logged| logged.event.destroyed.as_deref()).or_else(of_reset)
    }
}

/// What a look-up found, when it differs from what was known before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryStatus {
    /// When the kernel answered.
    pub at: Instant,
    /// When the previous answer, the one that differs, was given.
    pub not_before: Option<Instant>,
    /// The answer.
    pub outcome: Outcome,
}

/// Packets of one end that conntrack accepted in spite of the window check.
///
/// From 6.1 on such a packet is forwarded, but the entry does not account for it as for others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LetPass {
    /// The last overshot: its end became this end's `td_end`, although the other end has no use for it.
    overshot: Option<Arc<ConntrackVerdict>>,
    /// The one that reaches furthest beyond this end's `td_end`: payload that was not recorded.
    unrecorded: Option<Arc<ConntrackVerdict>>,
}

impl LetPass {
    const NOTHING: Self = Self { overshot: None, unrecorded: None };
}

/// Most entry statuses that are kept of a flow.
const ENTRY_STATUSES: usize = 16;

/// A flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Its number.
    pub id: FlowId,
    /// Its endpoints.
    pub key: FlowKey,
    /// The endpoints come from a conntrack entry, not from the packet alone.
    pub known: bool,
    /// The endpoints of its first packet.
    pub seen: Option<Tuple>,
    /// State of the TCP tracker, as last seen by a hook.
    pub state: Option<TcpState>,
    /// Whether the handshake was completed, as last seen.
    pub assured: Option<bool>,
    /// First event.
    pub first: Instant,
    /// Last event.
    pub last: Instant,
    /// Counts per cause, in the order of appearance.
    pub causes: Vec<(Diagnosis, Tally)>,
    /// The incident with the highest rank; the earliest of those.
    pub incident: Incident,
    /// The last packet that was refused.
    pub last_logged: Option<Arc<ConntrackVerdict>>,
    /// Packets of each end that were accepted without being recorded, by the direction's index.
    pub let_pass: [LetPass; 2],
    /// The entry's statuses, each change once.
    pub entry_statuses: Vec<EntryStatus>,
    /// When the last look-up was answered.
    pub looked_up: Option<Instant>,
    /// The first RST of one of its ends.
    pub peer_reset: Option<Box<PeerReset>>,
    /// The last one that arrived.
    pub last_received: Option<Box<PeerReset>>,
    /// Its rank and cause before it was evicted.
    pub(super) earlier: Option<(EvidenceRank, Diagnosis)>,
    /// Its events' kinds, by which suppressed events are classified.
    pub(super) samples: Vec<Sample>,
}

impl Flow {
    /// A flow of which only the endpoints and the first incident are known.
    pub(super) const fn new(id: FlowId, key: FlowKey, known: bool, at: Instant, incident: Incident) -> Self {
        Self {
            id,
            key,
            known,
            seen: None,
            state: None,
            assured: None,
            first: at,
            last: at,
            causes: Vec::new(),
            incident,
            last_logged: None,
            let_pass: [LetPass::NOTHING; 2],
            entry_statuses: Vec::new(),
            looked_up: None,
            peer_reset: None,
            last_received: None,
            earlier: None,
            samples: Vec::new(),
        }
    }

    /// Whether its incident can be reported: no incident with a higher rank was evicted.
    pub(super) fn is_whole(&self) -> bool {
        self.earlier.is_none_or(|(rank, _)| !self.is_only_counted() && rank <= self.incident.rank())
    }

    /// Whether only RSTs are known of it, for segments that conntrack need not have seen. In a namespace that tracks nothing it is a
    /// connection of an endpoint.
    pub fn is_untracked_here(&self) -> bool {
        let untracked = |reset: &Reset| {
            let event = &reset.event;
            let unknown = event.packet.is_none() || event.nfct.is_none() && event.has_full_socket();
            reset.by != ResetBy::GatewayRejectRule
                && event.connection().is_none()
                && (event.nfct == Some(Nfct::None) || unknown)
        };
        self.last_logged.is_none()
            && self.incident.logged.is_none()
            && self.incident.reset.as_ref().is_some_and(|reset| untracked(reset))
    }

    /// The distance of a segment from the position of the end that sent it; `None` if the position is not known.
    ///
    /// The next segment of an end is within a window of its position. Connections of one host between the same addresses and
    /// ports have starting numbers that differ by 16 bytes for every microsecond between them (`secure_tcp_seq`).
    pub(super) fn gap_to(&self, segment: Tuple, seq: Seq) -> Option<Gap> {
        /// The least window of conntrack (`MAXACKWINCONST`).
        const WINDOW: u32 = 66_000;
        let reset = self.incident.reset.as_ref();
        let entry = self.incident.trigger().and_then(Event::connection);
        // The RST's number is from the peer's ACK: the next byte of the other end.
        let answered = reset.and_then(|reset| Some((reset.event.packet?, reset.answer?)));
        let of_reset = answered
            .filter(|(offender, answer)| offender.src == segment.dst && answer.ack.is_none())
            .map(|(_, answer)| answer.seq);
        let of_entry = || {
            let entry = entry?;
            let sent = |side: &Direction| [entry.tuple(*side), entry.tuple(side.other()).reversed()].contains(&segment);
            let seen = entry.side([Direction::Original, Direction::Reply].into_iter().find(sent)?);
            (seen.td_maxwin != 0).then_some(seen.td_end)
        };
        let bytes = seq.since(of_reset.or_else(of_entry)?).unsigned_abs();
        let windows = entry.into_iter().flat_map(|entry| entry.seen).map(|seen| seen.td_maxwin);
        Some(Gap { bytes, small: bytes <= windows.fold(WINDOW, u32::max) })
    }

    /// Whether all of its events were suppressed.
    pub fn is_only_counted(&self) -> bool {
        self.incident.trigger().is_none() && self.incident.peer.is_none()
    }

    /// All its counts.
    pub fn tally(&self) -> Tally {
        let mut sum = Tally::default();
        for (_, tally) in &self.causes {
            sum.add(*tally);
        }
        sum
    }

    /// Whether it may have died of a RST of this host.
    pub fn was_reset(&self) -> bool {
        self.incident.rank() == EvidenceRank::Killed
    }

    /// When its incident began.
    pub fn began(&self) -> Instant {
        self.incident.began().unwrap_or(self.first)
    }

    /// Who reset it.
    pub fn reset_by(&self) -> Option<ResetBy> {
        let peer = || (self.incident.rank() == EvidenceRank::Forwarded).then_some(ResetBy::Peer);
        self.incident.reset.as_ref().map(|reset| reset.by).or_else(peer)
    }

    /// Which end an address is.
    pub fn end(&self, address: SocketAddr) -> Option<&'static str> {
        let (key, is) = (&self.key, |endpoint: Option<SocketAddr>| endpoint == Some(address));
        if is(Some(key.server())) || is(key.service()) {
            Some("server")
        } else if is(Some(key.client())) || is(key.nat()) {
            Some("client")
        } else {
            None
        }
    }

    /// Counts an event under a cause.
    pub(super) fn count(&mut self, diagnosis: Diagnosis, tally: Tally) {
        match self.causes.iter_mut().find(|(known, _)| *known == diagnosis) {
            Some((_, sum)) => sum.add(tally),
            None => self.causes.push((diagnosis, tally)),
        }
    }

    /// Counts a packet as refused that was counted otherwise before its RST proved it.
    pub(super) fn correct(&mut self, diagnosis: Diagnosis, believed: Verdict) {
        let Some((_, tally)) = self.causes.iter_mut().find(|(known, _)| *known == diagnosis) else { return };
        let from = match believed {
            Verdict::Invalid => return,
            Verdict::Ignored => &mut tally.ignored,
            Verdict::Unknown => &mut tally.undecided,
        };
        if *from > 0 {
            *from -= 1;
            tally.invalid += 1;
        }
    }

    /// Remembers a packet that was accepted and that the entry does not record as others.
    pub(super) fn remember(&mut self, logged: &Arc<ConntrackVerdict>) {
        let (Verdict::Ignored, Some(window), Some(packet)) = (logged.verdict, logged.window, logged.event.packet)
        else {
            return;
        };
        let side = &mut self.let_pass[window.direction.index()];
        if window.failure == Failure::Overshot {
            side.overshot = Some(Arc::clone(logged));
            return;
        }
        let known = side.unrecorded.as_ref().and_then(|known| known.event.packet).map(|known| known.end());
        if packet.end().after(known.unwrap_or(window.sender.td_end)) {
            side.unrecorded = Some(Arc::clone(logged));
        }
    }

    /// The packets that a refusal follows from: it acknowledges bytes that were accepted without being recorded, and those were not
    /// recorded because an overshot had moved `td_end` so far that all acknowledgements had become too old.
    pub(super) fn follows(&self, logged: &ConntrackVerdict) -> Vec<Arc<ConntrackVerdict>> {
        let Some(window) = logged.window.filter(|window| window.failure == Failure::AckOver) else {
            return Vec::new();
        };
        let Some(unrecorded) = &self.let_pass[window.direction.other().index()].unrecorded else { return Vec::new() };
        let reaches = unrecorded.event.packet.is_some_and(|packet| !packet.end().before(window.value));
        if !reaches || unrecorded.event.at > logged.event.at {
            return Vec::new();
        }
        let moved = |overshot: &&Arc<ConntrackVerdict>| {
            let end = overshot.event.packet.map(|packet| packet.end());
            unrecorded.window.is_some_and(|old| old.failure == Failure::AckUnder && Some(old.receiver.td_end) == end)
        };
        let overshot = self.let_pass[window.direction.index()].overshot.as_ref().filter(moved);
        overshot.into_iter().chain([unrecorded]).cloned().collect()
    }

    /// Replaces the diagnosis by one that follows from facts known at the end.
    pub(super) fn settle(&mut self, diagnosis: Diagnosis) {
        for (known, _) in &mut self.causes {
            if *known == self.incident.diagnosis {
                *known = diagnosis;
            }
        }
        self.incident.diagnosis = diagnosis;
    }

    /// Takes an incident if its rank is higher.
    pub(super) fn offer(&mut self, incident: Incident) {
        let restored = self.earlier.is_some() && self.is_only_counted();
        if restored || incident.rank() > self.incident.rank() {
            let follows = incident.logged.as_ref().map(|logged| self.follows(logged)).unwrap_or_default();
            self.incident = Incident { follows, ..incident };
        }
    }

    /// Takes the answer to a look-up; returns whether the entry's end is known now.
    pub(super) fn learn(&mut self, at: Instant, outcome: Outcome) -> bool {
        let ended = match &outcome {
            Outcome::NotFound { .. } => true,
            Outcome::Found { state, .. } => *state == Some(TcpState::Close),
            Outcome::Failed { .. } => false,
        };
        let essence = |outcome: &Outcome| match outcome {
            Outcome::Found { state, .. } => (0, *state),
            Outcome::NotFound { .. } => (1, None),
            Outcome::Failed { .. } => (2, None),
        };
        let changed = self.entry_statuses.last().is_none_or(|last| essence(&last.outcome) != essence(&outcome));
        if changed && self.entry_statuses.len() < ENTRY_STATUSES {
            self.entry_statuses.push(EntryStatus { at, not_before: self.looked_up, outcome });
        }
        self.looked_up = Some(at);
        ended
    }
}
