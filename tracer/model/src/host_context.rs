//! What there is around conntrack in a network namespace, as far as it decides which remedies work there and how they are
//! written: who owns the firewall, whom it translates, which tools there are, and what outlives a reboot.
//!
//! Pure: `kernel/surroundings` reads it, a recording carries it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::known;
use crate::ruleset::{Backend, Family, Hooks};
use crate::time::Instant;

/// What there is around a network namespace's conntrack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostContext {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// When this was read.
    #[serde(rename = "at_ns")]
    pub at: Instant,
    /// How a command comes to run in it.
    pub way: Way,
    /// How one comes to run in the initial namespace, which alone may change what all share.
    pub initial: Way,
    /// Tools that are installed, by name.
    #[serde(default)]
    pub tools: Vec<String>,
    /// Which variant the plain `iptables` is.
    #[serde(default, deserialize_with = "known::value")]
    pub iptables: Option<Backend>,
    /// What owns the host's firewall; only where that is this namespace's.
    #[serde(default, deserialize_with = "known::value")]
    pub manager: Option<Manager>,
    /// What brings rules back after a reboot; only of the host's own namespace.
    #[serde(default, rename = "keepers", deserialize_with = "known::elements")]
    pub persistence: Vec<Persistence>,
    /// What holds rules here.
    #[serde(default, rename = "holders", deserialize_with = "known::elements")]
    pub backends: Vec<Backend>,
    /// Rules that change the source of what leaves.
    #[serde(default, deserialize_with = "known::elements")]
    pub translations: Vec<Translation>,
    /// Rules that drop what conntrack refused, where packets for this host come by.
    #[serde(default, deserialize_with = "known::elements")]
    pub drops: Vec<Dropping>,
    /// Base chains of nftables that filter, and are not those of iptables.
    #[serde(default, deserialize_with = "known::elements")]
    pub chains: Vec<FilterChain>,
    /// Tables that iptables has made, or would take for its own: those of nftables with their family, and its legacy ones.
    #[serde(default, deserialize_with = "known::elements")]
    pub xtables: Vec<(Family, String)>,
    /// Base chains that iptables has made in tables of nftables: family, table and name.
    #[serde(default, deserialize_with = "known::elements")]
    pub xchains: Vec<(Family, String, String)>,
    /// Interfaces that default routes lead to.
    #[serde(default)]
    pub uplinks: Vec<String>,
    /// Addresses of this namespace, each with its interface.
    #[serde(default)]
    pub addresses: Vec<(String, IpAddr)>,
    /// The host's memory, in bytes.
    pub memory: Option<u64>,
    /// How large the table may become.
    #[serde(flatten)]
    pub limits: Limits,
    /// What could not be read.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// How large the table may become.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// `nf_conntrack_max` of the initial namespace, which holds for all.
    pub max: Option<i64>,
    /// `nf_conntrack_buckets`, of which there is one.
    pub buckets: Option<i64>,
    /// The namespace's own `nf_conntrack_max`, where the kernel lets it have one; the lower of both holds.
    #[serde(rename = "own_max")]
    pub own: Option<i64>,
}

/// How a command comes to run in a network namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// It is there already.
    Here,
    /// The namespace has a name under `/run/netns`.
    Named(String),
    /// The process with this number is in it.
    Process(u32),
}

/// A program that owns a host's firewall and overwrites what others do to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// firewalld.
    Firewalld,
    /// ufw.
    Ufw,
}

/// What brings rules back after a reboot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "keeper", rename_all = "kebab-case")]
pub enum Persistence {
    /// nftables.service, which loads this file.
    Nftables {
        /// Its path.
        file: String,
    },
    /// Debian's netfilter-persistent.
    NetfilterPersistent,
    /// Red Hat's iptables-services.
    IptablesServices,
}

/// A rule that changes the source of what leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Translation {
    /// What made it.
    pub backend: Backend,
    /// The address families that it sees.
    pub family: Family,
    /// The interface that a packet has to leave by, where the rule names one.
    pub output: Option<String>,
    /// The first and the last of its new addresses; none where it takes the interface's.
    #[serde(default)]
    pub to: Vec<(IpAddr, IpAddr)>,
}

/// A rule that drops what conntrack refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropping {
    /// How its tool shows it.
    pub rule: String,
    /// The address families that it sees.
    pub family: Family,
    /// The interface that it asks for, if it does.
    pub input: Option<String>,
    /// The destination that it asks for, if it does.
    pub destination: Option<IpAddr>,
    /// It asks for more than that: it may not meet every packet.
    pub narrow: bool,
}

/// A base chain of nftables that filters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterChain {
    /// The address families whose packets enter it.
    pub family: Family,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Where it is entered.
    pub hooks: Hooks,
}

impl Manager {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Firewalld => "firewalld",
            Self::Ufw => "ufw",
        }
    }
}

impl HostContext {
    /// Of a namespace of which nothing is known but the way there.
    pub fn unknown(netns: u32, at: Instant, way: Way) -> Self {
        Self {
            netns,
            at,
            way,
            initial: Way::Here,
            tools: Vec::new(),
            iptables: None,
            manager: None,
            persistence: Vec::new(),
            backends: Vec::new(),
            translations: Vec::new(),
            drops: Vec::new(),
            chains: Vec::new(),
            xtables: Vec::new(),
            xchains: Vec::new(),
            uplinks: Vec::new(),
            addresses: Vec::new(),
            memory: None,
            limits: Limits::default(),
            problems: Vec::new(),
        }
    }

    /// Whether a tool is installed.
    pub fn has(&self, tool: &str) -> bool {
        self.tools.iter().any(|known| known == tool)
    }

    /// The tool that writes rules of this kind, of this version of IP.
    pub fn tool(&self, backend: Backend, ipv4: bool) -> Option<String> {
        let plain = if ipv4 { "iptables" } else { "ip6tables" };
        let suffixed = match backend {
            Backend::Nftables => return self.has("nft").then(|| "nft".to_owned()),
            Backend::IptablesNft => format!("{plain}-nft"),
            Backend::IptablesLegacy => format!("{plain}-legacy"),
        };
        if self.iptables == Some(backend) && self.has(plain) {
            return Some(plain.to_owned());
        }
        self.has(&suffixed).then_some(suffixed)
    }

    /// What a new rule for this version of IP is to be written with: what translates here, else what holds any rules, else
    /// what is installed.
    pub fn firewall(&self, ipv4: bool) -> Option<Backend> {
        let translating = self.translations.iter().filter(|rule| rule.family.sees(ipv4)).map(|rule| rule.backend);
        let holding = self.backends.iter().copied();
        let installed = [Some(Backend::Nftables), self.iptables].into_iter().flatten();
        translating.chain(holding).chain(installed).find(|backend| self.tool(*backend, ipv4).is_some())
    }

    /// Addresses that connections are translated to, each with the interface that answers come in by.
    pub fn translated(&self) -> Vec<(Option<String>, IpAddr)> {
        let mut found: Vec<(Option<String>, IpAddr)> = Vec::new();
        for rule in &self.translations {
            let fixed = rule.to.iter().flat_map(|(first, last)| [*first, *last]).map(|to| (rule.output.clone(), to));
            let on = |interface: &String| match &rule.output {
                Some(output) => output == interface,
                None => self.uplinks.contains(interface),
            };
            let of_interface = self
                .addresses
                .iter()
                .filter(|(interface, address)| on(interface) && rule.family.sees(address.is_ipv4()));
            let of_interface = of_interface.map(|(interface, address)| (Some(interface.clone()), *address));
            let all: Vec<_> = if rule.to.is_empty() { of_interface.collect() } else { fixed.collect() };
            for target in all {
                if !found.contains(&target) {
                    found.push(target);
                }
            }
        }
        found
    }

    /// The rule that already drops refused packets for this address which come in by this interface, if one does.
    pub fn dropped_by(&self, interface: Option<&str>, address: IpAddr) -> Option<&Dropping> {
        self.drops.iter().find(|rule| {
            !rule.narrow
                && rule.family.sees(address.is_ipv4())
                && rule.destination.is_none_or(|only| only == address)
                && rule.input.as_deref().is_none_or(|only| Some(only) == interface)
        })
    }
}
