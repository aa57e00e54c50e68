//! What becomes of the packets of a class.

use tracer_model::ruleset::Rule;
use tracer_model::ruleset::audit::BaseChain;

/// Which packets of the class get somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reach {
    /// The typical packet, for certain.
    Typical,
    /// The typical packet, if a rule that is not understood lets it.
    Doubtful,
    /// Other packets of the class alone: from other addresses, above a rate.
    Others,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fate {
    /// It passes the last hook of its way: to the stack, or out of an interface.
    Accepted,
    /// It is dropped without an answer.
    Dropped,
    /// A rule answers with a TCP RST.
    Reset,
    /// A rule answers with an ICMP error.
    Icmp,
    /// A program in user space decides.
    Queued,
    /// SYNPROXY takes it.
    Synproxy,
    /// It is translated: where it goes then is not followed.
    Translated,
    /// A rule does something with it that is not understood.
    Unknown,
}

impl Fate {
    /// A word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Dropped => "dropped",
            Self::Reset => "reset",
            Self::Icmp => "icmp",
            Self::Queued => "queued",
            Self::Synproxy => "synproxy",
            Self::Translated => "translated",
            Self::Unknown => "unknown",
        }
    }
}

/// What decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// A rule.
    Rule(Box<Rule>),
    /// The policy of a base chain.
    Policy(Box<BaseChain>),
    /// No rule: there is none on the way that does.
    Nothing,
}

/// A fate that is possible, and what decides it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The fate.
    pub fate: Fate,
    /// What decides.
    pub by: By,
    /// Which packets meet it.
    pub reach: Reach,
    /// `ct state` of a typical packet where that is decided, one of [`state`](crate::state): what a rule before conntrack
    /// rejects has no entry yet.
    pub state: Option<u32>,
}

/// A rule that is not understood, where a packet of the class may meet it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unclear {
    /// The rule.
    pub rule: Rule,
    /// What of it is not understood, in the notation of its tool.
    pub what: String,
}

/// The result of a walk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Walk {
    /// The fates that are possible, those of typical packets first; each pair of fate and decider once.
    pub outcomes: Vec<Outcome>,
    /// The rules on the way that are not understood and may change the fate.
    pub unclear: Vec<Unclear>,
    /// The rules that exempt packets of the class from tracking.
    pub untracked_by: Vec<(Rule, Reach)>,
    /// The rules that put the connection into a flowtable.
    pub offloaded_by: Vec<Rule>,
}

impl Walk {
    /// The fate of the typical packet, where it is certain.
    pub fn typical(&self) -> Option<Fate> {
        let mut fates =
            self.outcomes.iter().filter(|outcome| outcome.reach != Reach::Others).map(|outcome| outcome.fate);
        let first = fates.next()?;
        (fates.all(|fate| fate == first) && first != Fate::Unknown).then_some(first)
    }

    /// The outcomes that a typical packet may meet.
    pub fn of_typical(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter(|outcome| outcome.reach != Reach::Others)
    }

    /// Whether a fate is possible for any packet of the class.
    pub fn may(&self, fate: Fate) -> bool {
        self.outcomes.iter().any(|outcome| outcome.fate == fate)
    }
}
