//! The names of the mitigations, and the description of each that is the same on every host.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::cause::Reason;

/// The stable name of a mitigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MitigationId {
    /// A kernel that accepts such packets.
    UpgradeKernel,
    /// A rule that drops INVALID packets before the local stack can answer them.
    DropInvalidInput,
    /// No window checks.
    BeLiberal,
    /// RSTs below the acknowledged sequence number are accepted.
    IgnoreInvalidRst,
    /// A longer timeout for idle connections.
    RaiseTimeout,
    /// Keepalives of a client or server, more often than the timeout.
    Keepalive,
    /// A larger table.
    RaiseTableSize,
    /// A service that is not tracked.
    UntrackService,
    /// A review of the rule that rejects.
    ReviewRejectRule,
}

/// The description of a mitigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// Its title, one line.
    pub title: &'static str,
    /// Its side effects.
    pub side_effects: &'static [&'static str],
    /// The reasons that it mitigates.
    pub reasons: &'static [Reason],
}

/// A name that no mitigation has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{word}` is no mitigation; there are {}", MitigationId::ALL.map(MitigationId::name).join(", "))]
pub struct UnknownMitigation {
    /// The name.
    pub word: String,
}

impl MitigationId {
    /// All of them, the most thorough first.
    pub const ALL: [Self; 9] = [
        Self::UpgradeKernel,
        Self::DropInvalidInput,
        Self::BeLiberal,
        Self::IgnoreInvalidRst,
        Self::RaiseTimeout,
        Self::Keepalive,
        Self::RaiseTableSize,
        Self::UntrackService,
        Self::ReviewRejectRule,
    ];

    /// The word used for it in every output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UpgradeKernel => "upgrade-kernel",
            Self::DropInvalidInput => "drop-invalid-input",
            Self::BeLiberal => "be-liberal",
            Self::IgnoreInvalidRst => "ignore-invalid-rst",
            Self::RaiseTimeout => "raise-timeout",
            Self::Keepalive => "keepalive",
            Self::RaiseTableSize => "raise-table-size",
            Self::UntrackService => "untrack-service",
            Self::ReviewRejectRule => "review-reject-rule",
        }
    }

    /// Its title, one line.
    pub fn title(self) -> &'static str {
        self.about().title
    }

    /// Its description.
    pub const fn about(self) -> About {
        match self {
            Self::UpgradeKernel => About {
                title: "run Linux 6.1 or later: it lets old segments and acknowledgements pass instead of refusing them",
                side_effects: &["segments over the window and acknowledgements of unseen data are still refused"],
                reasons: &[Reason::SeqUnder, Reason::AckUnder, Reason::Overshot],
            },
            Self::DropInvalidInput => About {
                title: "drop TCP packets that conntrack refused before the gateway's own stack can answer them",
                side_effects: &[
                    "the server gets no RST when its connection really has no socket here: it retransmits until it gives up",
                    "the segment is still lost; TCP recovers by retransmission",
                    "where both directions of a connection take different ways (asymmetric routing, anycast), conntrack \
                     refuses all of it, and dropping makes it hang instead of failing at once",
                ],
                reasons: &[
                    Reason::SeqUnder,
                    Reason::SeqOver,
                    Reason::AckUnder,
                    Reason::AckOver,
                    Reason::Overshot,
                    Reason::InvalidState,
                    Reason::InvalidNew,
                    Reason::BadFlags,
                ],
            },
            Self::BeLiberal => About {
                title: "let every segment pass that is out of the window",
                side_effects: &[
                    "window checks end for all connections of the namespace: forged segments and RSTs pass more easily",
                    "does not help against packets that the state table refuses",
                    "what is refused for another reason still keeps its private source when it is forwarded",
                ],
                reasons: &[Reason::SeqUnder, Reason::SeqOver, Reason::AckUnder, Reason::AckOver, Reason::Overshot],
            },
            Self::IgnoreInvalidRst => About {
                title: "let RSTs pass that are below what their receiver has acknowledged",
                side_effects: &["a blind attacker's RST reaches the client, which then checks it itself (RFC 5961)"],
                reasons: &[Reason::InvalidRst],
            },
            Self::RaiseTimeout => About {
                title: "keep idle connections for at least 2 h 4 min, as RFC 5382 asks of a NAT",
                side_effects: &[
                    "connections whose ends have vanished stay in the table for as long: watch its size",
                    "holds for connections that carry a packet after it is set",
                ],
                reasons: &[Reason::Expired],
            },
            Self::Keepalive => About {
                title: "let one end send TCP keepalives more often than the entry's timeout (SO_KEEPALIVE, TCP_KEEPIDLE)",
                side_effects: &["it has to be done at the client or the server; the default of Linux is 2 h"],
                reasons: &[Reason::Expired],
            },
            Self::RaiseTableSize => About {
                title: "make room for more connections, with buckets to match",
                side_effects: &[
                    "each entry takes about 300 bytes of kernel memory, each bucket 8",
                    "the table is hashed anew when the number of buckets changes: packets wait for that moment",
                    "all network namespaces share the limit of the initial one",
                ],
                reasons: &[Reason::Evicted],
            },
            Self::UntrackService => About {
                title: "exempt a service that is not translated from connection tracking (NOTRACK)",
                side_effects: &[
                    "rules that ask for the state of a connection do not see it any more: the accepting rule stands for them",
                    "it must never be NATed: whoever adds a NAT rule for it later breaks it",
                    "its connections are no longer in `conntrack -L`, nor counted or logged there",
                ],
                reasons: &[
                    Reason::SeqUnder,
                    Reason::SeqOver,
                    Reason::AckUnder,
                    Reason::AckOver,
                    Reason::Overshot,
                    Reason::InvalidState,
                    Reason::InvalidRst,
                ],
            },
            Self::ReviewRejectRule => About {
                title: "look at the rule that rejects, and accept or drop ahead of it what it should not reject",
                side_effects: &["looking changes nothing; a new rule ahead of it is the ruleset's owner's to write"],
                reasons: &[],
            },
        }
    }
}

impl fmt::Display for MitigationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for MitigationId {
    type Err = UnknownMitigation;

    fn from_str(word: &str) -> Result<Self, UnknownMitigation> {
        let found = Self::ALL.into_iter().find(|known| known.name() == word);
        found.ok_or_else(|| UnknownMitigation { word: word.to_owned() })
    }
}
