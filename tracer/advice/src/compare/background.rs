//! Differences between the hosts of two captures that may explain a difference in resets.

use std::collections::{BTreeMap, BTreeSet};

use tracer_model::capture::Netns;
use tracer_model::ruleset::Rules;

use super::Side;

/// A difference between the captures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// What.
    pub what: String,
    /// Its namespace, as the second capture names it.
    pub netns: Option<(u32, Option<String>)>,
    /// The value in the first capture; `None` if it was absent.
    pub before: Option<String>,
    /// The value in the second capture.
    pub after: Option<String>,
}

/// Differences that may explain resets, and differences in load.
pub(super) fn changes(before: &Side, after: &Side) -> (Vec<Changed>, Vec<Changed>) {
    let (one, other) = (&before.report.host, &after.report.host);
    let mut changed = Vec::new();
    let mut load = Vec::new();
    let mut host = |what: &str, before: String, after: String| {
        push(&mut changed, what, None, Some(before), Some(after));
    };
    host("host", one.hostname.clone(), other.hostname.clone());
    host("kernel", one.kernel.clone(), other.kernel.clone());
    host("conntrack log format", one.log_format.to_string(), other.log_format.to_string());
    host("whyrst", one.tool.clone(), other.tool.clone());
    for (first, second) in pairs(&before.background.namespaces, &after.background.namespaces) {
        let netns = Some((second.inode, second.name.clone()));
        let number = |number: Option<u32>| number.map(|number| number.to_string());
        push(&mut load, "conntrack entries", netns.clone(), number(first.entries), number(second.entries));
        let sysctls = first.sysctls.iter().chain(&second.sysctls);
        // The number of entries is not a setting.
        let names: BTreeSet<&str> =
            sysctls.map(|(name, _)| name.as_str()).filter(|name| *name != "nf_conntrack_count").collect();
        for name in names {
            let value = |netns: &Netns| netns.sysctl(name).map(|value| value.to_string());
            push(&mut changed, name, netns.clone(), value(first), value(second));
        }
        let rules = |side: &Side, netns: &Netns| side.background.rulesets.get(&netns.inode).map(texts);
        // whyrst reads a ruleset only after a rule has rejected a packet. An unread ruleset is unknown.
        if let (Some(first), Some(second)) = (rules(before, first), rules(after, second)) {
            for rule in first.difference(&second) {
                push(&mut changed, "REJECT rule", netns.clone(), Some(rule.clone()), None);
            }
            for rule in second.difference(&first) {
                push(&mut changed, "REJECT rule", netns.clone(), None, Some(rule.clone()));
            }
        }
    }
    (changed, load)
}

fn push(
    to: &mut Vec<Changed>,
    what: &str,
    netns: Option<(u32, Option<String>)>,
    before: Option<String>,
    after: Option<String>,
) {
    if before != after {
        to.push(Changed { what: what.to_owned(), netns, before, after });
    }
}

/// The rules without their counters and handles, which change without an edit.
fn texts(rules: &Rules) -> BTreeSet<String> {
    let text =
        |rule: &tracer_model::ruleset::Rule| format!("{} {} {}: {}", rule.family, rule.table, rule.chain, rule.text);
    rules.rules.iter().map(text).collect()
}

/// The namespaces of both captures, paired by name, else by inode number. A single one on each side is a pair.
fn pairs<'a>(before: &'a BTreeMap<u32, Netns>, after: &'a BTreeMap<u32, Netns>) -> Vec<(&'a Netns, &'a Netns)> {
    if let ([first], [second]) = (&before.values().collect::<Vec<_>>()[..], &after.values().collect::<Vec<_>>()[..]) {
        return vec![(first, second)];
    }
    let same = |second: &&'a Netns| {
        let named = |first: &&&Netns| first.name.is_some() && first.name == second.name;
        let numbered = |first: &&Netns| first.name.is_none() && second.name.is_none();
        let by_name = before.values().collect::<Vec<_>>().iter().find(named).copied();
        by_name.or_else(|| before.get(&second.inode).filter(numbered))
    };
    after.values().filter_map(|second| Some((same(&second)?, second))).collect()
}
