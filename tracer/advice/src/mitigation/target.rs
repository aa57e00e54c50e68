//! The target of a mitigation: a network namespace, its facts, and the addresses, services and rules concerned.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use tracer_model::capture::Netns;
use tracer_model::health::Link;
use tracer_model::host_context::{HostContext, NetnsPath};
use tracer_model::ruleset::Rule;
use tracer_model::ruleset::tables::Ruleset;

use super::rank;
use crate::report::FlowReport;

/// A network namespace to apply a mitigation in.
#[derive(Debug, Clone)]
pub struct Target<'a> {
    /// How a command enters the namespace.
    pub way: NetnsPath,
    /// Its facts.
    pub facts: Option<&'a Netns>,
    /// Its host context.
    pub context: Option<&'a HostContext>,
    /// Destination addresses of refused packets, each with the ingress interface.
    pub addresses: BTreeSet<(Option<String>, IpAddr)>,
    /// Services to exempt from tracking.
    pub services: BTreeSet<SocketAddr>,
    /// Expired timeouts, by the names of their sysctls.
    pub timeouts: BTreeSet<&'static str>,
    /// Candidate rules.
    pub rules: Vec<Rule>,
    /// Its whole ruleset, where it was read.
    pub ruleset: Option<&'a Ruleset>,
    /// Its network interfaces, where they were read.
    pub links: &'a [Link],
}

impl<'a> Target<'a> {
    /// A target without addresses, services, timeouts and rules. Commands enter it by `name` if the context is unknown.
    pub fn new(facts: Option<&'a Netns>, context: Option<&'a HostContext>, name: Option<&String>) -> Self {
        let name = name.or_else(|| facts?.name.as_ref());
        let by_name = || name.map_or(NetnsPath::Here, |name| NetnsPath::Named(name.clone()));
        Self {
            way: context.map_or_else(by_name, |context| context.netns_path.clone()),
            facts,
            context,
            addresses: BTreeSet::new(),
            services: BTreeSet::new(),
            timeouts: BTreeSet::new(),
            rules: Vec::new(),
            ruleset: None,
            links: &[],
        }
    }

    /// Adds what a flow needs.
    pub(super) fn wants(&mut self, flow: &FlowReport) {
        self.addresses.extend(rank::destination(&flow.flow));
        self.services.extend(rank::untranslated_service(&flow.flow));
        self.timeouts.extend(rank::timeout(&flow.flow));
        let rules = flow.candidates.iter().flat_map(|candidates| &candidates.rules);
        self.rules.extend(rules.cloned());
    }

    /// The value of a sysctl.
    pub(super) fn sysctl(&self, name: &str) -> Option<i64> {
        self.facts?.sysctl(name)
    }

    /// Its name in a sentence.
    pub(super) fn title(&self) -> String {
        match &self.way {
            NetnsPath::Here => "this host".to_owned(),
            NetnsPath::Named(name) if super::prints(name) => format!("namespace {name}"),
            NetnsPath::Named(_) => "a namespace whose name cannot be printed".to_owned(),
            NetnsPath::Process(pid) => format!("the namespace of process {pid}"),
        }
    }
}

/// A target with what these flows need.
pub fn wanted<'a>(mut target: Target<'a>, flows: &[&FlowReport]) -> Target<'a> {
    for flow in flows {
        target.wants(flow);
    }
    target
}
