//! A flow: a connection as the gateway knows it, and the story of what was done to it.

use std::net::SocketAddr;
use std::sync::Arc;

use tracer_common::Hook;
use tracer_model::capture::Outcome;
use tracer_model::cause::{Confidence, Diagnosis, ResetBy};
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
    /// Packets that conntrack let pass with a remark.
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

    /// Takes away a tally that was added before.
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
    /// It is a further sign of something that is counted already.
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

/// What events of a hook and class are counted as, and why they happen, as one of them that was told showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) hook: Hook,
    pub(super) class: u32,
    pub(super) diagnosis: Diagnosis,
    pub(super) unit: Unit,
}

/// What conntrack said of a packet.
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

/// How far a story goes; the furthest is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EvidenceRank {
    /// A packet was remarked on and let pass.
    Ignored,
    /// A packet was remarked on, and what became of it is not known.
    Undecided,
    /// Packets were counted in the kernel, and none of them was told.
    Counted,
    /// A packet was refused.
    Refused,
    /// A RST of one of the ends came by, and none of this host's before it.
    Forwarded,
    /// A RST was sent that cannot have ended the connection.
    Answered,
    /// A RST was sent that may have ended the connection.
    Killed,
}

/// What happened to a flow: the packet, conntrack's refusal, the RST.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incident {
    /// Why.
    pub diagnosis: Diagnosis,
    /// How sure that is.
    pub confidence: Confidence,
    rank: EvidenceRank,
    /// What conntrack said of the packet.
    pub logged: Option<Arc<ConntrackVerdict>>,
    /// Packets that were let pass before, and that the refusal follows from; oldest first.
    pub follows: Vec<Arc<ConntrackVerdict>>,
    /// Remarks of conntrack on the same packet.
    pub remark: Option<Box<LogMessage>>,
    /// The RST that answered it.
    pub reset: Option<Arc<Reset>>,
    /// The RST on its way out.
    pub reset_output: Option<ResetOutput>,
    /// The RST of one of the ends, where it is the story.
    pub peer: Option<Box<PeerReset>>,
}

impl Incident {
    /// A story of which nothing is known but why, as of events that were only counted.
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
        }
    }

    /// A packet was refused, or remarked on.
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
    pub(super) fn of_arrival(diagnosis: Diagnosis, peer: PeerReset) -> Self {
        let rank = EvidenceRank::Forwarded;
        // Until a look-up shows that conntrack knows the connection.
        Self { rank, peer: Some(Box::new(peer)), ..Self::new(diagnosis, Confidence::Inferred) }
    }

    /// How far it goes.
    pub const fn rank(&self) -> EvidenceRank {
        self.rank
    }

    /// When it began.
    pub fn began(&self) -> Option<Instant> {
        let refused = self.logged.as_ref().map(|logged| logged.event.at);
        let reset = || self.reset.as_ref().map(|reset| reset.event.at);
        refused.or_else(reset).or_else(|| self.peer.as_ref().map(|peer| peer.at))
    }

    /// The event that tells most of the packet: the refusal, else the reset.
    pub fn trigger(&self) -> Option<&Event> {
        self.logged.as_ref().map(|logged| &*logged.event).or_else(|| self.reset.as_ref().map(|reset| &*reset.event))
    }

    /// The entry as it was when the story began.
    pub fn entry(&self) -> Option<&Entry> {
        self.trigger()?.entry.as_ref()
    }

    /// The entry that the packet would have belonged to, where it had ended before.
    pub fn gone(&self) -> Option<&DestroyedEntry> {
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

/// What one end of a flow has sent that was let pass in spite of the window check.
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

/// Most fates that are kept of a flow.
const FATES: usize = 16;

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
    /// The story that goes furthest; the earliest of those.
    pub incident: Incident,
    /// The last packet that was refused.
    pub last_logged: Option<Arc<ConntrackVerdict>>,
    /// What was let pass of each end, by the direction's index.
    pub let_pass: [LetPass; 2],
    /// What became of the entry, each change once.
    pub entry_statuses: Vec<EntryStatus>,
    /// When the last look-up was answered.
    pub looked_up: Option<Instant>,
    /// The first RST of one of its ends.
    pub peer_reset: Option<Box<PeerReset>>,
    /// The last one that arrived.
    pub last_arrival: Option<Box<PeerReset>>,
    /// What it had come to before its story was forgotten.
    pub(super) earlier: Option<(EvidenceRank, Diagnosis)>,
    /// What its events were, by which those that were only counted are understood.
    pub(super) samples: Vec<Sample>,
}

impl Flow {
    /// A flow of which nothing is known but who it is and what made it known.
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
            last_arrival: None,
            earlier: None,
            samples: Vec::new(),
        }
    }

    /// Whether its story can be told: none was forgotten, or none that went further than the one there is.
    pub(super) fn is_whole(&self) -> bool {
        self.earlier.is_none_or(|(rank, _)| !self.is_only_counted() && rank <= self.incident.rank())
    }

    /// Whether nothing but RSTs are known of it, for segments that conntrack is not known to have looked at. In a namespace
    /// that tracks nothing that is an endpoint minding its own business.
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

    /// How far a segment that one of its ends has sent, with these endpoints and this sequence number, is from where that end
    /// was; `None` where that is not known.
    ///
    /// What a flow's end sends next is within a window of that. Connections of one host between the same addresses and
    /// ports have starting numbers that differ by 16 bytes for every microsecond between them (`secure_tcp_seq`).
    pub(super) fn gap_to(&self, segment: Tuple, seq: Seq) -> Option<Gap> {
        /// The least that conntrack takes for a window (`MAXACKWINCONST`).
        const WINDOW: u32 = 66_000;
        let reset = self.incident.reset.as_ref();
        let entry = self.incident.trigger().and_then(Event::connection);
        // The RST took its number from the peer, who had it from the other end: there that end goes on.
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

    /// Whether none of its events was told: they were only counted.
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

    /// Remembers a packet that was let pass, where the entry does not account for it as for others.
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

    /// The packets that a refusal follows from: it acknowledges what was let pass without being recorded, and that was not
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

    /// Takes a diagnosis that follows from what became known after the flow's last event.
    pub fn settle(&mut self, diagnosis: Diagnosis) {
        for (known, _) in &mut self.causes {
            if *known == self.incident.diagnosis {
                *known = diagnosis;
            }
        }
        self.incident.diagnosis = diagnosis;
    }

    /// Takes a story that goes further than the one it has.
    pub(super) fn tell(&mut self, incident: Incident) {
        let forgotten = self.earlier.is_some() && self.is_only_counted();
        if forgotten || incident.rank() > self.incident.rank() {
            let follows = incident.logged.as_ref().map(|logged| self.follows(logged)).unwrap_or_default();
            self.incident = Incident { follows, ..incident };
        }
    }

    /// Takes the answer to a look-up; tells whether the entry's end is known now.
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
        if changed && self.entry_statuses.len() < FATES {
            self.entry_statuses.push(EntryStatus { at, not_before: self.looked_up, outcome });
        }
        self.looked_up = Some(at);
        ended
    }
}
