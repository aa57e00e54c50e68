//! Destroyed conntrack entries: what destroyed an entry, and why (`nf_ct_delete`, `net/netfilter/nf_conntrack_core.c`, 5.10 to 7.2).

use super::entry::{Entry, TcpState};
use crate::event::Text;
use crate::time::Instant;

/// An entry that was destroyed before a packet of its connection came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DestroyedEntry {
    /// When it was destroyed.
    pub at: Instant,
    /// Its last state.
    pub entry: Entry,
    /// What destroyed it.
    pub by: DestroyedBy,
}

/// What destroyed an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DestroyedBy {
    /// Its timeout.
    Timeout,
    /// A program, by netlink: `conntrack -D`, `conntrack -F`.
    UserSpace {
        /// Process.
        pid: u32,
        /// Its name.
        comm: Text<16>,
    },
    /// `early_drop`: the table was full, and a new connection evicted one without traffic in both directions.
    EarlyDrop,
    /// The garbage collector, before the timeout: the table is above 95 % full.
    Pressure,
    /// The removal of a masquerading address, an interface or a module.
    CleanUp,
    /// The TCP tracker: a RST or a SYN that reopens a closed connection.
    Tracker,
    /// A kernel function that is not known.
    Kernel,
}

/// Why an entry was destroyed, seen from its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DestroyReason {
    /// The timeout of an open connection expired.
    Expired,
    /// The connection was closed before.
    Closed,
    /// The table was full.
    Evicted,
    /// A program or a change of the configuration deleted it.
    Deleted,
    /// Not known.
    Unknown,
}

impl DestroyReason {
    /// The word used for it in every output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Closed => "closed",
            Self::Evicted => "evicted",
            Self::Deleted => "deleted",
            Self::Unknown => "unknown",
        }
    }
}

impl DestroyedEntry {
    /// Why it was destroyed.
    pub const fn reason(&self) -> DestroyReason {
        match (self.by, self.entry.state) {
            (DestroyedBy::UserSpace { .. } | DestroyedBy::CleanUp, _) => DestroyReason::Deleted,
            (DestroyedBy::EarlyDrop | DestroyedBy::Pressure, _) => DestroyReason::Evicted,
            (DestroyedBy::Timeout, TcpState::TimeWait | TcpState::Close) | (DestroyedBy::Tracker, _) => {
                DestroyReason::Closed
            }
            (DestroyedBy::Timeout, _) => DestroyReason::Expired,
            (DestroyedBy::Kernel, _) => DestroyReason::Unknown,
        }
    }
}
