//! The closed sets of answers: causes, reasons, the sender of the RST, the confidence. Every output uses these words.

use std::fmt;
use std::str::FromStr;

use crate::conntrack::window::Failure;
use crate::conntrack::{DestroyReason, Message};

macro_rules! words {
    ($(#[doc = $doc:literal])* $name:ident { $($(#[doc = $variant_doc:literal])* $variant:ident = $word:literal,)* }) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[doc = $variant_doc])* $variant,)*
        }

        impl $name {
            /// All of them, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word used for it in every output.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;

            fn from_str(word: &str) -> Result<Self, UnknownWord> {
                Self::ALL
                    .iter()
                    .find(|known| known.name() == word)
                    .copied()
                    .ok_or_else(|| UnknownWord { word: word.to_owned(), known: vec![$($word,)*] })
            }
        }
    };
}

/// A word that is not in the vocabulary.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{word}` is none of {}", known.join(", "))]
pub struct UnknownWord {
    /// The word.
    pub word: String,
    /// The words that are.
    pub known: Vec<&'static str>,
}

words! {
    /// Why a connection was reset, or a packet refused.
    Cause {
        /// The window check failed.
        OutOfWindow = "out-of-window",
        /// The state table refused the packet.
        InvalidState = "invalid-state",
        /// The packet was refused before the state table was asked.
        Malformed = "malformed",
        /// There was no conntrack entry when the segment arrived.
        NoEntry = "no-entry",
        /// A new flow was dropped because the table is full.
        TableFull = "table-full",
        /// A REJECT rule sent the RST.
        RejectRule = "reject-rule",
        /// A SYN to a closed port of this host itself.
        NoListener = "no-listener",
        /// A socket of this host sent the RST.
        LocalSocket = "local-socket",
        /// A NOTRACK rule, or conntrack does not see packets in this namespace.
        NotTracked = "not-tracked",
        /// An endpoint sent the RST; this host only forwarded it.
        PeerReset = "peer-reset",
        /// The evidence does not say.
        Unknown = "unknown",
    }
}

words! {
    /// What exactly, within a cause.
    Reason {
        /// The segment starts beyond the receiver's window.
        SeqOver = "seq-over",
        /// The segment ends before the window: its receiver has it already.
        SeqUnder = "seq-under",
        /// The segment acknowledges data that conntrack has not seen.
        AckOver = "ack-over",
        /// The segment's acknowledgement is hopelessly old.
        AckUnder = "ack-under",
        /// The segment starts beyond the window, by less than the window's size.
        Overshot = "overshot",
        /// The state table has no place for such a packet in this state.
        InvalidState = "invalid-state",
        /// A RST below what its receiver has already acknowledged.
        InvalidRst = "invalid-rst",
        /// A first packet that cannot open a connection.
        InvalidNew = "invalid-new",
        /// The TCP checksum is wrong.
        BadChecksum = "bad-checksum",
        /// The TCP header does not fit into the packet.
        Truncated = "truncated",
        /// A combination of flags that no TCP sends.
        BadFlags = "bad-flags",
        /// The entry's timeout ran out.
        Expired = "expired",
        /// The connection was closed before.
        Closed = "closed",
        /// A full table evicted the entry.
        Evicted = "evicted",
        /// Somebody deleted the entry.
        Deleted = "deleted",
        /// No trace of an entry.
        NeverSeen = "never-seen",
    }
}

words! {
    /// Who sent the RST.
    ResetBy {
        /// The TCP stack of this host, without a socket.
        GatewayStack = "gateway-stack",
        /// A REJECT rule of this host.
        GatewayRejectRule = "gateway-reject-rule",
        /// A socket of this host.
        GatewaySocket = "gateway-socket",
        /// An endpoint.
        Peer = "peer",
    }
}

words! {
    /// How sure an answer is.
    Confidence {
        /// The same packet was seen at every step.
        Proven = "proven",
        /// Some step is concluded, not seen.
        Inferred = "inferred",
    }
}

/// The words of causes and reasons, each once: `invalid-state` is both.
pub fn words() -> Vec<&'static str> {
    let causes = Cause::ALL.iter().map(|cause| cause.name());
    let reasons = Reason::ALL.iter().map(|reason| reason.name()).filter(|word| word.parse::<Cause>().is_err());
    causes.chain(reasons).collect()
}

/// A cause, and a reason where the cause has some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Diagnosis {
    /// The cause.
    pub cause: Cause,
    /// The reason.
    pub reason: Option<Reason>,
}

impl Diagnosis {
    /// A cause without a reason.
    pub const fn plain(cause: Cause) -> Self {
        Self { cause, reason: None }
    }

    const fn with(cause: Cause, reason: Reason) -> Self {
        Self { cause, reason: Some(reason) }
    }

    /// The diagnosis that a message of conntrack's TCP tracker gives.
    pub const fn of_message(message: Message) -> Self {
        match message {
            Message::Window { failure, .. } => Self::with(Cause::OutOfWindow, Reason::of_failure(failure)),
            Message::InvalidState | Message::IgnoredInState | Message::ChallengeAck => {
                Self::with(Cause::InvalidState, Reason::InvalidState)
            }
            Message::InvalidRst => Self::with(Cause::InvalidState, Reason::InvalidRst),
            Message::InvalidNew => Self::with(Cause::InvalidState, Reason::InvalidNew),
            Message::Truncated => Self::with(Cause::Malformed, Reason::Truncated),
            Message::BadChecksum => Self::with(Cause::Malformed, Reason::BadChecksum),
            Message::BadFlags => Self::with(Cause::Malformed, Reason::BadFlags),
            Message::LoweredTimeout | Message::Other => Self::plain(Cause::Unknown),
        }
    }

    /// A segment that came after its connection's entry had ended.
    pub const fn of_destroyed(reason: DestroyReason) -> Self {
        match reason {
            DestroyReason::Expired => Self::with(Cause::NoEntry, Reason::Expired),
            DestroyReason::Closed => Self::with(Cause::NoEntry, Reason::Closed),
            DestroyReason::Evicted => Self::with(Cause::NoEntry, Reason::Evicted),
            DestroyReason::Deleted => Self::with(Cause::NoEntry, Reason::Deleted),
            DestroyReason::Unknown => Self::plain(Cause::NoEntry),
        }
    }

    /// A segment for which there is no entry, and no trace of one.
    pub const NEVER_SEEN: Self = Self::with(Cause::NoEntry, Reason::NeverSeen);
}

impl Reason {
    /// The cause that it is a reason of.
    pub const fn cause(self) -> Cause {
        match self {
            Self::SeqOver | Self::SeqUnder | Self::AckOver | Self::AckUnder | Self::Overshot => Cause::OutOfWindow,
            Self::InvalidState | Self::InvalidRst | Self::InvalidNew => Cause::InvalidState,
            Self::BadChecksum | Self::Truncated | Self::BadFlags => Cause::Malformed,
            Self::Expired | Self::Closed | Self::Evicted | Self::Deleted | Self::NeverSeen => Cause::NoEntry,
        }
    }

    /// The reason that a missed inequality is.
    pub const fn of_failure(failure: Failure) -> Self {
        match failure {
            Failure::SeqOver => Self::SeqOver,
            Failure::SeqUnder => Self::SeqUnder,
            Failure::AckOver => Self::AckOver,
            Failure::AckUnder => Self::AckUnder,
            Failure::Overshot => Self::Overshot,
        }
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            Some(reason) => write!(f, "{}/{reason}", self.cause),
            None => self.cause.fmt(f),
        }
    }
}
