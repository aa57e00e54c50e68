//! The facts, host context and rules of this host, read before a mitigation is printed or applied. It changes nothing.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use tracer_model::capture::{Item, Netns, Request};
use tracer_model::health::Link;
use tracer_model::host_context::HostContext;
use tracer_model::ruleset::Rule;
use tracer_model::ruleset::tables::Ruleset;

use crate::netns::{enter, home};
use crate::worker::answer;
use crate::{links, ruleset};

/// How long reading the rules may take.
const RULES: Duration = Duration::from_secs(3);

/// What is known of a network namespace of this host.
#[derive(Debug)]
pub struct Seen {
    /// Its conntrack.
    pub facts: Netns,
    /// What there is around it.
    pub context: HostContext,
    /// The rules of it that answer with a RST.
    pub rejecting: Vec<Rule>,
    /// All of its rules.
    pub ruleset: Ruleset,
    /// Its network interfaces.
    pub links: Vec<Link>,
}

/// Looks at a namespace; without a number at the one that this program is in.
pub fn see(netns: Option<u32>) -> io::Result<Seen> {
    let inode = match netns {
        Some(inode) => inode,
        None => home()?,
    };
    let unexpected = |item: Item| io::Error::other(format!("the kernel answered something else: {item:?}"));
    let facts = match answer(Request::Netns(inode))? {
        Item::Netns(facts) => facts,
        other => return Err(unexpected(other)),
    };
    let context = match answer(Request::HostContext(inode))? {
        Item::HostContext(context) => *context,
        other => return Err(unexpected(other)),
    };
    let rejecting = match answer(Request::Rules(inode))? {
        Item::Rules(rules) => rules.rules,
        other => return Err(unexpected(other)),
    };
    let (ruleset, links) = enter(inode, || (ruleset::whole(Instant::now() + RULES).0, links::read()))?;
    Ok(Seen { facts, context, rejecting, ruleset, links: links? })
}

/// The addresses that a rule is to be for: those given, else those that the namespace translates to.
pub fn targets(
    context: &HostContext,
    addresses: &[std::net::IpAddr],
    interface: Option<&str>,
) -> BTreeSet<(Option<String>, std::net::IpAddr)> {
    let known = context.translated();
    if addresses.is_empty() {
        let fits = |on: &Option<String>| interface.is_none() || on.is_none() || on.as_deref() == interface;
        let named = |on: Option<String>| interface.map(str::to_owned).or(on);
        return known.into_iter().filter(|(on, _)| fits(on)).map(|(on, address)| (named(on), address)).collect();
    }
    let on = |address: std::net::IpAddr| {
        let found = || known.iter().find(|(_, it)| *it == address).and_then(|(on, _)| on.clone());
        interface.map(str::to_owned).or_else(found)
    };
    addresses.iter().map(|address| (on(*address), *address)).collect()
}
