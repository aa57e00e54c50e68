//! The conntrack log format: the shape of the TCP logging code, which decides the verdict on a logged packet.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The format of a kernel. Distributions backport the code, so the format is detected from BTF and not derived from a
/// version number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// 5.10: `nf_ct_l4proto_log_invalid(skb, ct, fmt, …)`; every window failure is INVALID.
    E1,
    /// 5.15 to 6.0: the hook state is passed too; every window failure is INVALID.
    E2,
    /// 6.1 to 6.1.183, 6.6.87, up to 6.12.103: packets with some window failures are accepted (`NFCT_TCP_IGNORE`); the
    /// message is passed in a `va_format`.
    E3,
    /// 6.1.184, 6.12.104, 7.2 and later: as E3, but the message is logged after the entry's lock is released.
    E4,
    /// None of these.
    #[serde(other)]
    Unknown,
}

impl LogFormat {
    /// The word used for it in every output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::E1 => "e1",
            Self::E2 => "e2",
            Self::E3 => "e3",
            Self::E4 => "e4",
            Self::Unknown => "unknown",
        }
    }

    /// The format with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::E1, Self::E2, Self::E3, Self::E4, Self::Unknown].into_iter().find(|log_format| log_format.name() == name)
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
