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
                title: "run Linux 6.1 or later, which accepts old segments and acknowledgements",
                side_effects: &["conntrack still refuses segments over the window and acknowledgements of unseen data"],
                reasons: &[Reason::SeqUnder, Reason::AckUnder, Reason::Overshot],
            },
            Self::DropInvalidInput => About {
                title: "drop INVALID TCP packets before the gateway's own stack can answer them",
                side_effects: &[
                    "if a connection has really vanished here, the server gets no RST: it retransmits until it gives up",
                    "the segment is still lost; TCP recovers by retransmission",
                    "if the two directions of a connection take different paths (asymmetric routing, anycast), conntrack \
                     refuses all its packets, and dropping them makes it hang instead of failing at once",
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
                title: "accept every segment that is out of the window",
                side_effects: &[
                    "conntrack no longer checks windows in this namespace: forged segments and RSTs pass more easily",
                    "it does not help with packets that the state table refuses",
                    "packets refused for another reason are still forwarded with their private source address",
                ],
                reasons: &[Reason::SeqUnder, Reason::SeqOver, Reason::AckUnder, Reason::AckOver, Reason::Overshot],
            },
            Self::IgnoreInvalidRst => About {
                title: "accept RSTs below the sequence number that their receiver has acknowledged",
                side_effects: &["a blind attacker's RST reaches the client, which checks it (RFC 5961)"],
                reasons: &[Reason::InvalidRst],
            },
            Self::RaiseTimeout => About {
                title: "keep idle connections for at least 2 h 4 min, as RFC 5382 requires of a NAT",
                side_effects: &[
                    "connections whose endpoints have vanished stay in the table until then: monitor its size",
                    "it applies to a connection from its next packet on",
                ],
                reasons: &[Reason::Expired],
            },
            Self::Keepalive => About {
                title: "send TCP keepalives at an interval below the entry's timeout (SO_KEEPALIVE, TCP_KEEPIDLE)",
                side_effects: &["only the client or the server can do it; the default of Linux is 2 h"],
                reasons: &[Reason::Expired],
            },
            Self::RaiseTableSize => About {
                title: "enlarge the conntrack table and its number of buckets",
                side_effects: &[
                    "each entry takes about 300 bytes of kernel memory, each bucket 8",
                    "the kernel rehashes the table when the number of buckets changes: packets wait meanwhile",
                    "all network namespaces share the limit of the initial one",
                ],
                reasons: &[Reason::Evicted],
            },
            Self::UntrackService => About {
                title: "exempt a service that is not translated from connection tracking (NOTRACK)",
                side_effects: &[
                    "rules that match the state of a connection no longer match it: the accepting rule replaces them",
                    "the service must never be translated: a later NAT rule for it breaks it",
                    "`conntrack -L` no longer lists its connections, and conntrack neither counts nor logs them",
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
                title: "review the rule that rejects, and add a rule ahead of it for packets that it should not reject",
                side_effects: &["the review changes nothing; the owner of the ruleset writes the new rule"],
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
