//! The frame of what there is around a namespace's conntrack.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use tracer_model::host_context::{Dropping, FilterChain, HostContext, Limits, Manager, Persistence, Translation, Way};
use tracer_model::ruleset::{Backend, Family, Hooks};
use tracer_model::time::Instant;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SurroundingsDto {
    netns: u32,
    at_ns: u64,
    way: Way,
    initial: Way,
    #[serde(default)]
    tools: Vec<String>,
    #[serde(default)]
    iptables: Option<String>,
    #[serde(default)]
    manager: Option<String>,
    #[serde(default, rename = "keepers")]
    persistence: Vec<KeeperDto>,
    #[serde(default, rename = "holders")]
    backends: Vec<String>,
    #[serde(default)]
    translations: Vec<TranslationDto>,
    #[serde(default)]
    drops: Vec<DroppingDto>,
    #[serde(default)]
    chains: Vec<ChainDto>,
    #[serde(default)]
    xtables: Vec<(String, String)>,
    #[serde(default)]
    xchains: Vec<(String, String, String)>,
    #[serde(default)]
    uplinks: Vec<String>,
    #[serde(default)]
    addresses: Vec<(String, IpAddr)>,
    #[serde(default)]
    memory: Option<u64>,
    #[serde(default)]
    max: Option<i64>,
    #[serde(default)]
    buckets: Option<i64>,
    #[serde(default)]
    own_max: Option<i64>,
    #[serde(default)]
    problems: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "keeper", rename_all = "kebab-case")]
enum KeeperDto {
    Nftables {
        file: String,
    },
    NetfilterPersistent,
    IptablesServices,
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Serialize, Deserialize)]
struct TranslationDto {
    backend: String,
    family: String,
    #[serde(default)]
    output: Option<String>,
    #[serde(default)]
    to: Vec<(IpAddr, IpAddr)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct DroppingDto {
    rule: String,
    family: String,
    #[serde(default)]
    input: Option<String>,
    #[serde(default)]
    destination: Option<IpAddr>,
    narrow: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct ChainDto {
    family: String,
    table: String,
    name: String,
    hooks: u8,
}

fn backend(name: &str) -> Option<Backend> {
    Backend::ALL.into_iter().find(|known| known.name() == name)
}

fn family(name: &str) -> Option<Family> {
    Family::ALL.into_iter().find(|known| known.name() == name)
}

impl From<&Persistence> for KeeperDto {
    fn from(keeper: &Persistence) -> Self {
        match keeper {
            Persistence::Nftables { file } => Self::Nftables { file: file.clone() },
            Persistence::NetfilterPersistent => Self::NetfilterPersistent,
            Persistence::IptablesServices => Self::IptablesServices,
        }
    }
}

impl KeeperDto {
    fn known(self) -> Option<Persistence> {
        Some(match self {
            Self::Nftables { file } => Persistence::Nftables { file },
            Self::NetfilterPersistent => Persistence::NetfilterPersistent,
            Self::IptablesServices => Persistence::IptablesServices,
            Self::Unknown => return None,
        })
    }
}

impl From<&HostContext> for SurroundingsDto {
    fn from(from: &HostContext) -> Self {
        let translation = |rule: &Translation| TranslationDto {
            backend: rule.backend.name().to_owned(),
            family: rule.family.name().to_owned(),
            output: rule.output.clone(),
            to: rule.to.clone(),
        };
        let dropping = |rule: &Dropping| DroppingDto {
            rule: rule.rule.clone(),
            family: rule.family.name().to_owned(),
            input: rule.input.clone(),
            destination: rule.destination,
            narrow: rule.narrow,
        };
        let chain = |chain: &FilterChain| ChainDto {
            family: chain.family.name().to_owned(),
            table: chain.table.clone(),
            name: chain.name.clone(),
            hooks: chain.hooks.0,
        };
        let xchain =
            |(family, table, name): &(Family, String, String)| (family.name().to_owned(), table.clone(), name.clone());
        Self {
            netns: from.netns,
            at_ns: from.at.0,
            way: from.way.clone(),
            initial: from.initial.clone(),
            tools: from.tools.clone(),
            iptables: from.iptables.map(|backend| backend.name().to_owned()),
            manager: from.manager.map(|manager| manager.name().to_owned()),
            persistence: from.persistence.iter().map(Into::into).collect(),
            backends: from.backends.iter().map(|backend| backend.name().to_owned()).collect(),
            translations: from.translations.iter().map(translation).collect(),
            drops: from.drops.iter().map(dropping).collect(),
            chains: from.chains.iter().map(chain).collect(),
            xtables: from.xtables.iter().map(|(family, table)| (family.name().to_owned(), table.clone())).collect(),
            xchains: from.xchains.iter().map(xchain).collect(),
            uplinks: from.uplinks.clone(),
            addresses: from.addresses.clone(),
            memory: from.memory,
            max: from.limits.max,
            buckets: from.limits.buckets,
            own_max: from.limits.own,
            problems: from.problems.clone(),
        }
    }
}

impl From<SurroundingsDto> for HostContext {
    fn from(dto: SurroundingsDto) -> Self {
        let translation = |rule: TranslationDto| {
            let (backend, family) = (backend(&rule.backend)?, family(&rule.family)?);
            Some(Translation { backend, family, output: rule.output, to: rule.to })
        };
        let dropping = |rule: DroppingDto| {
            let DroppingDto { rule, family: of, input, destination, narrow } = rule;
            Some(Dropping { rule, family: family(&of)?, input, destination, narrow })
        };
        let chain = |dto: ChainDto| {
            let family = family(&dto.family)?;
            Some(FilterChain { family, table: dto.table, name: dto.name, hooks: Hooks(dto.hooks) })
        };
        Self {
            netns: dto.netns,
            at: Instant(dto.at_ns),
            way: dto.way,
            initial: dto.initial,
            tools: dto.tools,
            iptables: dto.iptables.as_deref().and_then(backend),
            manager: [Manager::Firewalld, Manager::Ufw]
                .into_iter()
                .find(|known| Some(known.name()) == dto.manager.as_deref()),
            persistence: dto.persistence.into_iter().filter_map(KeeperDto::known).collect(),
            backends: dto.backends.iter().filter_map(|name| backend(name)).collect(),
            translations: dto.translations.into_iter().filter_map(translation).collect(),
            drops: dto.drops.into_iter().filter_map(dropping).collect(),
            chains: dto.chains.into_iter().filter_map(chain).collect(),
            xtables: dto.xtables.into_iter().filter_map(|(of, table)| Some((family(&of)?, table))).collect(),
            xchains: dto
                .xchains
                .into_iter()
                .filter_map(|(of, table, name)| Some((family(&of)?, table, name)))
                .collect(),
            uplinks: dto.uplinks,
            addresses: dto.addresses,
            memory: dto.memory,
            limits: Limits { max: dto.max, buckets: dto.buckets, own: dto.own_max },
            problems: dto.problems,
        }
    }
}

#[cfg(test)]
mod tests {
    use tracer_model::host_context::{
        Dropping, FilterChain, HostContext, Limits, Manager, Persistence, Translation, Way,
    };
    use tracer_model::ruleset::{Backend, Family, Hooks};
    use tracer_model::time::Instant;

    use super::SurroundingsDto;

    fn full() -> HostContext {
        HostContext {
            netns: 7,
            at: Instant(8),
            way: Way::Named("gateway".to_owned()),
            initial: Way::Process(1),
            tools: vec!["nft".to_owned()],
            iptables: Some(Backend::IptablesLegacy),
            manager: Some(Manager::Ufw),
            persistence: vec![
                Persistence::Nftables { file: "/etc/nftables.conf".to_owned() },
                Persistence::NetfilterPersistent,
                Persistence::IptablesServices,
            ],
            backends: Backend::ALL.to_vec(),
            translations: vec![Translation {
                backend: Backend::Nftables,
                family: Family::Inet,
                output: Some("wan0".to_owned()),
                to: vec![("192.0.2.1".parse().unwrap(), "192.0.2.4".parse().unwrap())],
            }],
            drops: vec![Dropping {
                rule: "inet filter input handle 3".to_owned(),
                family: Family::Ip6,
                input: Some("wan0".to_owned()),
                destination: Some("2001:db8::1".parse().unwrap()),
                narrow: true,
            }],
            chains: vec![FilterChain {
                family: Family::Ip,
                table: "filter".to_owned(),
                name: "input".to_owned(),
                hooks: Hooks(2),
            }],
            xtables: vec![(Family::Ip, "nat".to_owned())],
            xchains: vec![(Family::Ip, "nat".to_owned(), "POSTROUTING".to_owned())],
            uplinks: vec!["wan0".to_owned()],
            addresses: vec![("wan0".to_owned(), "192.0.2.1".parse().unwrap())],
            memory: Some(1 << 30),
            limits: Limits { max: Some(1), buckets: Some(2), own: Some(3) },
            problems: vec!["too large".to_owned()],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let json = serde_json::to_vec(&SurroundingsDto::from(&full())).unwrap();
        assert_eq!(HostContext::from(serde_json::from_slice::<SurroundingsDto>(&json).unwrap()), full());
    }

    /// Of a newer version: what is not known is left out.
    #[test]
    fn what_is_not_known_is_left_out() {
        let json = r#"{"netns": 7, "at_ns": 8, "way": "here", "initial": "here", "iptables": "iptables-bpf",
            "keepers": [{"keeper": "new-one", "file": "x"}], "holders": ["eBPF", "nftables"], "new": 1}"#;
        let read = HostContext::from(serde_json::from_str::<SurroundingsDto>(json).unwrap());
        let expected =
            HostContext { backends: vec![Backend::Nftables], ..HostContext::unknown(7, Instant(8), Way::Here) };
        assert_eq!(read, expected);
    }
}
