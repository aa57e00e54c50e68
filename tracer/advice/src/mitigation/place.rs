//! Where a cure is wanted: a network namespace, what is known of it, and what of it is concerned.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use tracer_model::capture::Netns;
use tracer_model::host_context::{HostContext, NetnsPath};
use tracer_model::ruleset::Rule;

use super::rank;
use crate::report::FlowReport;

/// A network namespace that a cure is wanted in.
#[derive(Debug, Clone)]
pub struct Place<'a> {
    /// How a command comes to run in it.
    pub way: NetnsPath,
    /// What is known of it.
    pub facts: Option<&'a Netns>,
    /// What there is around its conntrack.
    pub context: Option<&'a HostContext>,
    /// Addresses that refused packets are for, each with the interface that they come in by.
    pub targets: BTreeSet<(Option<String>, IpAddr)>,
    /// Services that are to be exempt from tracking.
    pub services: BTreeSet<SocketAddr>,
    /// Timeouts that ran out, by the name of their sysctl.
    pub timeouts: BTreeSet<&'static str>,
    /// Rules that are suspected.
    pub rules: Vec<Rule>,
}

impl<'a> Place<'a> {
    /// A place that nothing is wanted in yet. The name is what is left to go by where nothing else is known.
    pub fn new(facts: Option<&'a Netns>, context: Option<&'a HostContext>, name: Option<&String>) -> Self {
        let name = name.or_else(|| facts?.name.as_ref());
        let by_name = || name.map_or(NetnsPath::Here, |name| NetnsPath::Named(name.clone()));
        Self {
            way: context.map_or_else(by_name, |context| context.netns_path.clone()),
            facts,
            context,
            targets: BTreeSet::new(),
            services: BTreeSet::new(),
            timeouts: BTreeSet::new(),
            rules: Vec::new(),
        }
    }

    /// Adds what a flow needs.
    pub(super) fn wants(&mut self, flow: &FlowReport) {
        self.targets.extend(rank::target(&flow.flow));
        self.services.extend(rank::untranslated_service(&flow.flow));
        self.timeouts.extend(rank::timeout(&flow.flow));
        let rules = flow.candidates.iter().flat_map(|candidates| &candidates.rules);
        self.rules.extend(rules.cloned());
    }

    /// A sysctl's value.
    pub(super) fn sysctl(&self, name: &str) -> Option<i64> {
        self.facts?.sysctl(name)
    }

    /// How it is called in a sentence.
    pub(super) fn title(&self) -> String {
        match &self.way {
            NetnsPath::Here => "this host".to_owned(),
            NetnsPath::Named(name) if super::prints(name) => format!("namespace {name}"),
            NetnsPath::Named(_) => "a namespace whose name cannot be printed".to_owned(),
            NetnsPath::Process(pid) => format!("the namespace of process {pid}"),
        }
    }
}

/// What these flows need, in a place.
pub fn wanted<'a>(mut place: Place<'a>, flows: &[&FlowReport]) -> Place<'a> {
    for flow in flows {
        place.wants(flow);
    }
    place
}
