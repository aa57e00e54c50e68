//! The host context of a network namespace: the facts that decide which mitigations work there and which commands apply
//! them. These are the owner of the firewall, the NAT rules, the installed tools and the persistence of rules.
//!
//! Data only: the crate `tracer-host` reads it, a recording carries it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::known;
use crate::ruleset::{Backend, Family, Hooks};
use crate::time::Instant;

/// The host context of a network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostContext {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// When this was read.
    #[serde(rename = "at_ns")]
    pub at: Instant,
    /// How a command enters it.
    #[serde(rename = "way")]
    pub netns_path: NetnsPath,
    /// How a command enters the initial namespace, the only one that may change what all namespaces share.
    pub initial: NetnsPath,
    /// Installed tools, by name.
    #[serde(default)]
    pub tools: Vec<String>,
    /// The variant behind the name `iptables`.
    #[serde(default, deserialize_with = "known::value")]
    pub iptables: Option<Backend>,
    /// The program that owns the host's firewall; only in the namespace that it manages.
    #[serde(default, deserialize_with = "known::value")]
    pub manager: Option<Manager>,
    /// What loads rules after a reboot; only in the host's own namespace.
    #[serde(default, rename = "keepers", deserialize_with = "known::elements")]
    pub persistence: Vec<Persistence>,
    /// The backends that have rules here.
    #[serde(default, rename = "holders", deserialize_with = "known::elements")]
    pub backends: Vec<Backend>,
    /// Rules that translate the source address.
    #[serde(default, deserialize_with = "known::elements")]
    pub translations: Vec<Translation>,
    /// Rules that drop INVALID packets to this host.
    #[serde(default, deserialize_with = "known::elements")]
    pub drops: Vec<Dropping>,
    /// Base chains of nftables that filter, without those of iptables.
    #[serde(default, deserialize_with = "known::elements")]
    pub chains: Vec<FilterChain>,
    /// Tables that iptables has created or would use as its own, in nftables and in the legacy backend, with their family.
    #[serde(default, deserialize_with = "known::elements")]
    pub xtables: Vec<(Family, String)>,
    /// Base chains that iptables has created in tables of nftables: family, table and name.
    #[serde(default, deserialize_with = "known::elements")]
    pub xchains: Vec<(Family, String, String)>,
    /// Interfaces of the default routes.
    #[serde(default)]
    pub uplinks: Vec<String>,
    /// Addresses of this namespace, each with its interface.
    #[serde(default)]
    pub addresses: Vec<(String, IpAddr)>,
    /// The host's memory, in bytes.
    pub memory: Option<u64>,
    /// The limits of the table.
    #[serde(flatten)]
    pub limits: Limits,
    /// What could not be read.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// The limits of a conntrack table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// `nf_conntrack_max` of the initial namespace, which applies to all.
    pub max: Option<i64>,
    /// `nf_conntrack_buckets`, one value for the whole host.
    pub buckets: Option<i64>,
    /// The namespace's own `nf_conntrack_max`, where the kernel has one for each namespace; the lower of both applies.
    #[serde(rename = "own_max")]
    pub own: Option<i64>,
}

/// How a command enters a network namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetnsPath {
    /// It is in there already.
    Here,
    /// The namespace has a name under `/run/netns`.
    Named(String),
    /// The process with this number is in it.
    Process(u32),
}

/// A program that owns a host's firewall and overwrites changes of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// firewalld.
    Firewalld,
    /// ufw.
    Ufw,
}

/// What loads rules after a reboot.
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

/// A rule that translates the source address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Translation {
    /// The backend that created it.
    pub backend: Backend,
    /// The address families that it applies to.
    pub family: Family,
    /// The output interface that the rule matches, if it does.
    pub output: Option<String>,
    /// Ranges of new addresses, first and last; none where the rule masquerades.
    #[serde(default)]
    pub to: Vec<(IpAddr, IpAddr)>,
}

/// A rule that drops INVALID packets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropping {
    /// The rule as its tool prints it.
    pub rule: String,
    /// The address families that it applies to.
    pub family: Family,
    /// The input interface that it matches, if it does.
    pub input: Option<String>,
    /// The destination that it matches, if it does.
    pub destination: Option<IpAddr>,
    /// The rule has further conditions, so it may not match every such packet.
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
    /// The hooks that enter it.
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
    /// The host context of a namespace about which only the way into it is known.
    pub fn unknown(netns: u32, at: Instant, netns_path: NetnsPath) -> Self {
        Self {
            netns,
            at,
            netns_path,
            initial: NetnsPath::Here,
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

    /// The tool that writes rules of this backend, for IPv4 or IPv6.
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

    /// The backend for a new rule, for IPv4 or IPv6: the one that translates here, else one that has rules, else one that is
    /// installed.
    pub fn firewall(&self, ipv4: bool) -> Option<Backend> {
        let translating = self.translations.iter().filter(|rule| rule.family.sees(ipv4)).map(|rule| rule.backend);
        let present = self.backends.iter().copied();
        let installed = [Some(Backend::Nftables), self.iptables].into_iter().flatten();
        translating.chain(present).chain(installed).find(|backend| self.tool(*backend, ipv4).is_some())
    }

    /// Addresses that connections are translated to, each with the interface that replies arrive on.
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

    /// The rule that already drops INVALID packets for this address that arrive on this interface.
    pub fn dropped_by(&self, interface: Option<&str>, address: IpAddr) -> Option<&Dropping> {
        self.drops.iter().find(|rule| {
            !rule.narrow
                && rule.family.sees(address.is_ipv4())
                && rule.destination.is_none_or(|only| only == address)
                && rule.input.as_deref().is_none_or(|only| Some(only) == interface)
        })
    }
}
