//! The rules of a network namespace that can answer a packet with a TCP RST, and the candidates for one packet.
//!
//! Pure. The kernel does not report the rule, so a rule is always inferred: evidence excludes all others.

pub mod audit;
mod candidates;
mod chains;
pub mod tables;
mod test;
mod views;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::event::NfHook;
use crate::known;
use crate::shell::{nft_name, word, xtables_name};
use crate::time::Instant;

pub use candidates::{Candidates, LISTED, Snapshots};
pub use chains::Chains;
pub use test::{Key, Shown, Test};

use tables::Ruleset;

/// A snapshot of the rules of a namespace that can answer with a RST.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// When reading them began.
    #[serde(rename = "began_ns")]
    pub began: Instant,
    /// When they had been read.
    #[serde(rename = "at_ns")]
    pub at: Instant,
    /// The generation of the nftables ruleset, which grows with each change; absent without nftables.
    pub generation: Option<u32>,
    /// Whether the rules apply to bridged packets too (`bridge-nf-call-iptables`). At FORWARD their buffer then has another
    /// interface than the rules match (`br_nf_forward_ip`, 5.10 to 7.2).
    #[serde(default)]
    pub bridged: bool,
    /// The rules, in the order of their chains.
    #[serde(deserialize_with = "known::elements")]
    pub rules: Vec<Rule>,
    /// What could not be read: there may be other rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// The whole ruleset, where it is small enough to be kept: a packet can then be taken through it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole: Option<Arc<Ruleset>>,
}

/// A rule that answers with a RST.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The backend that created it.
    pub backend: Backend,
    /// The address families that it applies to.
    pub family: Family,
    /// Its table.
    pub table: String,
    /// Its chain.
    pub chain: String,
    /// Its handle, as `nft -a` shows it.
    pub handle: Option<u64>,
    /// Its place in the chain, from 1 on, as `iptables -L --line-numbers` shows it.
    pub number: Option<u32>,
    /// Its place among all rules of its chain, from 0 on.
    pub place: u32,
    /// The netfilter hooks that lead to its chain.
    pub hooks: Hooks,
    /// Its tests of a packet, as far as they are understood.
    pub tests: Vec<Test>,
    /// Whether these are all of its tests.
    pub complete: bool,
    /// Packets that it has counted, where it counts.
    pub packets: Option<u64>,
    /// The rule in short, close to the notation of its tool.
    pub text: String,
}

impl Rule {
    /// Whether two snapshots have the same rule; its counter may differ.
    fn same(&self, other: &Self) -> bool {
        let what = |rule: &Self| (rule.backend, rule.family, rule.handle, rule.place, rule.number);
        what(self) == what(other)
            && self.table == other.table
            && self.chain == other.chain
            && self.tests == other.tests
            && self.text == other.text
    }

    /// Whether its tool accepts the names of its table and chain as names.
    pub fn can_be_named(&self) -> bool {
        let readable = if self.backend == Backend::Nftables { nft_name } else { xtables_name };
        readable(&self.table) && readable(&self.chain)
    }

    /// The command that lists its chain; where a name cannot be written, all rules.
    pub fn shown_by(&self) -> String {
        let (table, chain, family) = (word(&self.table), word(&self.chain), self.family);
        let writable = self.can_be_named();
        let program = match (self.backend, family) {
            (Backend::Nftables, _) if !writable => return format!("nft -a list ruleset {family}"),
            (Backend::Nftables, _) => return format!("nft -a list chain {family} {table} {chain}"),
            (Backend::IptablesNft, Family::Ip6) => "ip6tables",
            (Backend::IptablesNft, _) => "iptables",
            (Backend::IptablesLegacy, Family::Ip6) => "ip6tables-legacy",
            (Backend::IptablesLegacy, _) => "iptables-legacy",
        };
        if !writable {
            return format!("{program}-save");
        }
        let table = if table == "filter" { String::new() } else { format!("-t {table} ") };
        format!("{program} {table}-L {chain} -n -v --line-numbers")
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, table, chain, .. } = self;
        match (self.backend, family) {
            (Backend::Nftables, _) => write!(f, "{family} {table} {chain}")?,
            (_, Family::Ip6) => write!(f, "ip6tables {table} {chain}")?,
            _ => write!(f, "iptables {table} {chain}")?,
        }
        match (self.number, self.handle) {
            (Some(number), _) => write!(f, " rule {number}"),
            (None, Some(handle)) => write!(f, " handle {handle}"),
            (None, None) => Ok(()),
        }
    }
}

/// The software that created a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// nftables.
    Nftables,
    /// iptables that writes into nftables.
    IptablesNft,
    /// iptables with its own tables in the kernel.
    IptablesLegacy,
}

impl Backend {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Nftables, Self::IptablesNft, Self::IptablesLegacy];

    /// The word used for it in every output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::IptablesNft => "iptables-nft",
            Self::IptablesLegacy => "iptables-legacy",
        }
    }
}

/// The families of tables whose REJECT calls `nf_send_reset`; those of bridges and devices send their RST elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Both.
    Inet,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ip, Self::Ip6, Self::Inet];

    /// The word that nft uses for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
        }
    }

    /// Whether its rules apply to IPv4, or to IPv6.
    pub const fn sees(self, ipv4: bool) -> bool {
        match self {
            Self::Ip => ipv4,
            Self::Ip6 => !ipv4,
            Self::Inet => true,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A set of netfilter hooks: bit n is hook number n (`enum nf_inet_hooks`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Hooks(pub u8);

impl Hooks {
    /// The hook with this number alone; a number that no hook has gives an empty set.
    pub const fn only(number: u32) -> Self {
        if number < 8 { Self(1 << number) } else { Self(0) }
    }

    /// The names that nft has for those in it.
    pub fn names(self) -> Vec<&'static str> {
        let all = ["prerouting", "input", "forward", "output", "postrouting"];
        all.into_iter().zip(0..).filter(|(_, number)| self.0 & (1 << number) != 0).map(|(name, _)| name).collect()
    }

    /// Whether a hook is in it.
    pub const fn has(self, hook: NfHook) -> bool {
        let number = match hook {
            NfHook::PreRouting => 0,
            NfHook::LocalIn => 1,
            NfHook::Forward => 2,
            NfHook::LocalOut => 3,
            NfHook::PostRouting => 4,
            NfHook::Unknown(number) => number,
        };
        number < 8 && self.0 & (1 << number) != 0
    }
}
