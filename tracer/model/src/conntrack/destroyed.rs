//! How a conntrack entry ended (`nf_ct_delete`, `net/netfilter/nf_conntrack_core.c`, 5.10 to 7.2).

use super::entry::{Entry, TcpState};
use crate::event::Text;
use crate::time::Instant;

/// An entry that ended before the packet came that would have belonged to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DestroyedEntry {
    /// When it ended.
    pub at: Instant,
    /// The entry as it was.
    pub entry: Entry,
    /// Who ended it.
    pub by: EndedBy,
}

/// Who ended an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndedBy {
    /// Its timeout.
    Timeout,
    /// A program, by netlink: `conntrack -D`, `conntrack -F`.
    UserSpace {
        /// Process.
        pid: u32,
        /// Its name.
        comm: Text<16>,
    },
    /// `early_drop`: the table was full, and a new connection took the place of one without traffic in both directions.
    EarlyDrop,
    /// The garbage collector, before its time: the table is above 95 % full.
    Pressure,
    /// The masquerading address, an interface or a module went away.
    CleanUp,
    /// The TCP tracker: a RST or a SYN that reopens a closed connection.
    Tracker,
    /// The kernel, by a function that is not known.
    Kernel,
}

/// What an entry's end means for its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// The timeout of a connection that was not closed ran out.
    Expired,
    /// The connection had been closed.
    Closed,
    /// The table needed the room.
    Evicted,
    /// Somebody took it away.
    Deleted,
    /// Not known.
    Unknown,
}

impl End {
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
    /// What that means for the connection.
    pub const fn end(&self) -> End {
        match (self.by, self.entry.state) {
            (EndedBy::UserSpace { .. } | EndedBy::CleanUp, _) => End::Deleted,
            (EndedBy::EarlyDrop | EndedBy::Pressure, _) => End::Evicted,
            (EndedBy::Timeout, TcpState::TimeWait | TcpState::Close) | (EndedBy::Tracker, _) => End::Closed,
            (EndedBy::Timeout, _) => End::Expired,
            (EndedBy::Kernel, _) => End::Unknown,
        }
    }
}
