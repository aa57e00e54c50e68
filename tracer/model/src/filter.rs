//! Which flows the user wants to see.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::cause::Cause;
use crate::flow_key::FlowKey;

/// A choice of flows: every kind of condition that is given must be met, by any of its alternatives.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Networks the client may be in.
    pub client: Vec<IpNet>,
    /// Networks the server may be in.
    pub server: Vec<IpNet>,
    /// Networks the NAT address may be in; a flow without NAT does not match.
    pub nat: Vec<IpNet>,
    /// Ports, of which one endpoint must have one.
    pub ports: Vec<u16>,
    /// Inode numbers of network namespaces.
    pub netns: Vec<u32>,
    /// Causes.
    pub causes: Vec<Cause>,
}

impl Filter {
    /// Whether it lets everything through.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a flow's endpoints and namespace match. Causes are not looked at: a flow's cause is known at the end.
    pub fn matches(&self, key: &FlowKey) -> bool {
        let within = |nets: &[IpNet], address: Option<IpAddr>| {
            nets.is_empty() || address.is_some_and(|address| nets.iter().any(|net| net.contains(&address)))
        };
        let endpoints = [Some(key.client()), Some(key.server()), key.nat(), key.service()];
        let mut ports = endpoints.into_iter().flatten().map(|endpoint| endpoint.port());
        within(&self.client, Some(key.client().ip()))
            && within(&self.server, Some(key.server().ip()))
            && within(&self.nat, key.nat().map(|nat| nat.ip()))
            && (self.ports.is_empty() || ports.any(|port| self.ports.contains(&port)))
            && (self.netns.is_empty() || key.netns.is_some_and(|netns| self.matches_netns(netns)))
    }

    /// Whether a network namespace matches.
    pub fn matches_netns(&self, netns: u32) -> bool {
        self.netns.is_empty() || self.netns.contains(&netns)
    }

    /// Whether a cause matches.
    pub fn matches_cause(&self, cause: Cause) -> bool {
        self.causes.is_empty() || self.causes.contains(&cause)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::Filter;
    use crate::conntrack::Tuple;
    use crate::flow_key::FlowKey;

    /// 10.0.0.2:34567 → 192.0.2.1:40000 → 192.0.2.2:443, in namespace 7.
    fn translated() -> FlowKey {
        FlowKey {
            netns: Some(7),
            zone: 0,
            original: Tuple { src: "10.0.0.2:34567".parse().unwrap(), dst: "192.0.2.2:443".parse().unwrap() },
            reply: Tuple { src: "192.0.2.2:443".parse().unwrap(), dst: "192.0.2.1:40000".parse().unwrap() },
        }
    }

    #[rstest]
    #[case::nothing_asked(Filter::default(), true)]
    #[case::client(Filter { client: vec!["10.0.0.0/8".parse().unwrap()], ..Filter::default() }, true)]
    #[case::other_client(Filter { client: vec!["10.1.0.0/16".parse().unwrap()], ..Filter::default() }, false)]
    #[case::one_of_two(
        Filter { client: vec!["10.1.0.0/16".parse().unwrap(), "10.0.0.2/32".parse().unwrap()], ..Filter::default() },
        true
    )]
    #[case::nat(Filter { nat: vec!["192.0.2.1/32".parse().unwrap()], ..Filter::default() }, true)]
    #[case::nat_is_not_the_server(Filter { nat: vec!["192.0.2.2/32".parse().unwrap()], ..Filter::default() }, false)]
    #[case::server_port(Filter { ports: vec![443], ..Filter::default() }, true)]
    #[case::nat_port(Filter { ports: vec![40000], ..Filter::default() }, true)]
    #[case::no_such_port(Filter { ports: vec![80], ..Filter::default() }, false)]
    #[case::namespace(Filter { netns: vec![7], ..Filter::default() }, true)]
    #[case::both_must_hold(Filter { netns: vec![7], ports: vec![80], ..Filter::default() }, false)]
    fn matches(#[case] filter: Filter, #[case] expected: bool) {
        assert_eq!(filter.matches(&translated()), expected);
    }

    #[test]
    fn a_flow_without_nat_matches_no_nat_filter() {
        let mut key = translated();
        key.reply.dst = key.original.src;
        assert!(!Filter { nat: vec!["0.0.0.0/0".parse().unwrap()], ..Filter::default() }.matches(&key));
    }
}
