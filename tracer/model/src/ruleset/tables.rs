//! A whole ruleset as the kernel runs it: base chains and the chains behind them, rules in order, sets with their elements.
//!
//! Data only. nftables over netlink, matches and targets of xtables inside nftables, and text of iptables-save all become this;
//! the crate `tracer-walk` takes packets through it. Whatever a front-end does not understand it keeps, by name, as
//! [`Condition::NotUnderstood`] or [`Action::NotUnderstood`]: nothing is left out silently.

use serde::{Deserialize, Serialize};

use super::audit::Translation;
use super::{Backend, Family, Hooks, Key, Rule, Test};
use crate::event::NfHook;

/// Every rule of a network namespace that IPv4 and IPv6 packets can meet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ruleset {
    /// The tables, in the order in which they were read.
    pub tables: Vec<Table>,
    /// What could not be read: there may be other rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// A table; one that is dormant is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// The backend that writes it. A table that iptables-nft made may have rules that nft added.
    pub backend: Backend,
    /// The address families whose packets enter it.
    pub family: Family,
    /// Its name.
    pub name: String,
    /// Its chains.
    pub chains: Vec<Chain>,
    /// Its sets and maps, named and anonymous.
    pub sets: Vec<Set>,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Where the kernel enters it; none for a chain that rules jump to.
    pub base: Option<Base>,
    /// Its rules, in order.
    pub rules: Vec<ChainRule>,
}

/// Where the kernel enters a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// The netfilter hook, by its number (`enum nf_inet_hooks`).
    pub hook: u8,
    /// Its priority: lower ones come first (`enum nf_ip_hook_priorities`).
    pub priority: i32,
    /// Its type.
    pub kind: ChainKind,
    /// Whether it drops what no rule decides.
    pub drops: bool,
}

impl Base {
    /// The netfilter hook.
    pub const fn nf_hook(self) -> NfHook {
        NfHook::from_raw(self.hook)
    }
}

/// The type of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChainKind {
    /// `filter`; every table of iptables but `nat`.
    Filter,
    /// `nat`: only the first packet of a tracked connection enters it.
    Nat,
    /// `route`; `mangle` of iptables at OUTPUT.
    Route,
}

/// A rule of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainRule {
    /// Its handle, as `nft -a` shows it; none in legacy iptables.
    pub handle: Option<u64>,
    /// Packets that it has counted, where it counts.
    pub packets: Option<u64>,
    /// Whether iptables (or iptables-nft) wrote it: it is then named by its number in the chain.
    pub by_iptables: bool,
    /// The rule in short, close to the notation of its tool.
    pub text: String,
    /// What it asks and does, in the order in which the kernel does it.
    pub steps: Vec<Step>,
}

/// A step of a rule. The first condition that a packet does not meet ends the rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// It asks something of the packet.
    If(Condition),
    /// It does something to it.
    Do(Action),
}

/// What a rule asks of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// A comparison.
    Is(Test),
    /// Fields of the packet, one behind the other, are an element of a set of the rule's table.
    Element {
        /// The fields.
        of: Vec<Field>,
        /// The set's name.
        set: String,
        /// Whether they have to be an element, or may not be one.
        inside: bool,
    },
    /// All of these.
    All(Vec<Self>),
    /// Any of these.
    Any(Vec<Self>),
    /// Not this.
    Not(Box<Self>),
    /// Always, or never, for any packet of TCP.
    Constant(bool),
    /// It holds until a rate or a number of connections is exceeded, which is rare; the inverse is [`Self::Not`] of it. The text
    /// is the condition in the notation of its tool.
    Usually(String),
    /// It holds for some packets and not for others that look alike: the payload, a quota, a time of day, chance. The text is
    /// the condition in the notation of its tool.
    Varies(String),
    /// What it asks is not understood. The text is the condition in the notation of its tool.
    NotUnderstood(String),
}

/// Bytes of a packet, or of what the kernel knows about it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Field {
    /// The key.
    pub key: Key,
    /// Its length in bytes. In a concatenation each field but the last fills up whole words of four bytes.
    pub length: usize,
    /// The mask that is applied before the comparison; empty for none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mask: Vec<u8>,
    /// Whether the set has this field in the byte order of the host, where the [`Key`] has it in network byte order.
    pub native: bool,
}

/// What a rule does to a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Accepts it: the base chain ends, later base chains still see it.
    Accept,
    /// Drops it.
    Drop,
    /// Ends this chain; at a base chain its policy decides.
    Return,
    /// Goes to a chain of the table, and comes back.
    Jump(String),
    /// Goes to a chain of the table, and comes back to where this chain was jumped from.
    Goto(String),
    /// Decides by the element of a verdict map.
    VerdictMap {
        /// The fields that are looked up.
        of: Vec<Field>,
        /// The map's name.
        map: String,
    },
    /// Answers with a TCP RST, and drops it.
    RejectWithReset,
    /// Answers with an ICMP error, and drops it.
    RejectWithIcmp,
    /// Hands it to a program in user space, which decides.
    Queue {
        /// Whether it goes on (accepted) where no program listens.
        bypass: bool,
    },
    /// Exempts it from conntrack, where it is not tracked yet.
    Untrack,
    /// Changes its mark: `mark = (mark & and) ^ xor`.
    Mark {
        /// The bits that are kept.
        and: u32,
        /// The bits that are turned over.
        xor: u32,
    },
    /// Changes its mark to something that is not known: that of its conntrack entry, an element of a map.
    MarkUnknown,
    /// Translates it, if it is the first packet of a tracked connection, and ends the base chain.
    Nat(Nat),
    /// `SYNPROXY`: answers SYNs and checks the cookie of the ACK that follows; drops an ACK whose cookie is wrong.
    Synproxy,
    /// Redirects it to a local socket without changing it (TPROXY).
    Tproxy,
    /// Puts its connection into a flowtable, whose packets pass by all rules from then on; the packet itself goes on.
    Offload {
        /// The flowtable.
        flowtable: String,
    },
    /// Changes or notes something that no rule's decision depends on: a counter, a log line, the TTL, the MSS.
    Nothing(String),
    /// What it does is not understood: it may decide. The text is the statement in the notation of its tool.
    NotUnderstood(String),
}

/// A translation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nat {
    /// Of the source, to fixed addresses.
    Source(Translation),
    /// Of the source, to the address of the interface that it leaves by.
    Masquerade(Translation),
    /// Of the destination.
    Destination(Translation),
    /// Of the destination, to this host.
    Redirect(Translation),
}

/// A set, a map, or a verdict map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// Its elements.
    pub elements: Vec<Element>,
    /// Whether these are all of them. Rules of packets may add some to a dynamic set at any time; what it had when it was read
    /// counts.
    pub complete: bool,
}

/// An element of a set. Concatenated fields fill up whole words of four bytes each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Element {
    /// The lower bound of each field, included, one behind the other. Empty for the element that catches all others.
    pub from: Vec<u8>,
    /// The upper bound of each field, included.
    pub to: Vec<u8>,
    /// The verdict of a verdict map.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Action>,
}

impl Ruleset {
    /// Joins what two front-ends read.
    pub fn extend(&mut self, other: Self) {
        self.tables.extend(other.tables);
        self.problems.extend(other.problems);
    }
}

impl Ruleset {
    /// The same rules, with none that has counted anything: two snapshots can then be compared.
    #[must_use]
    pub fn without_counters(mut self) -> Self {
        let chains = self.tables.iter_mut().flat_map(|table| &mut table.chains);
        for rule in chains.flat_map(|chain| &mut chain.rules) {
            rule.packets = None;
        }
        self
    }
}

impl ChainRule {
    /// The comparisons that a packet has to meet.
    pub fn tests(&self) -> impl Iterator<Item = &Test> {
        self.steps.iter().filter_map(|step| match step {
            Step::If(Condition::Is(test)) => Some(test),
            _ => None,
        })
    }
}

impl Table {
    /// A chain of this name.
    pub fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.name == name)
    }

    /// A set of this name.
    pub fn set(&self, name: &str) -> Option<&Set> {
        self.sets.iter().find(|set| set.name == name)
    }

    /// A rule of one of its chains, in the form that names it in outputs.
    pub fn named(&self, chain: &Chain, place: usize) -> Option<Rule> {
        let rule = chain.rules.get(place)?;
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        let backend = match (self.backend, rule.by_iptables) {
            (Backend::IptablesNft, false) => Backend::Nftables,
            (backend, _) => backend,
        };
        Some(Rule {
            backend,
            family: self.family,
            table: self.name.clone(),
            chain: chain.name.clone(),
            handle: rule.handle,
            number: rule.by_iptables.then(|| place.saturating_add(1)),
            place,
            hooks: chain.base.map(|base| Hooks::only(base.hook.into())).unwrap_or_default(),
            tests: rule.tests().cloned().collect(),
            complete: false,
            packets: rule.packets,
            text: rule.text.clone(),
        })
    }
}
