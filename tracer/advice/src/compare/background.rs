//! What differs between the hosts of two captures, and may explain why one has more resets than the other.

use std::collections::{BTreeMap, BTreeSet};

use tracer_model::capture::Netns;
use tracer_model::ruleset::Rules;

use super::Side;

/// Something that is not the same in both captures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// What.
    pub what: String,
    /// The namespace it belongs to, as the second capture names it.
    pub netns: Option<(u32, Option<String>)>,
    /// What it was; `None` where there was none.
    pub before: Option<String>,
    /// What it became.
    pub after: Option<String>,
}

/// What may explain something, and what says how busy the hosts were.
pub(super) fn changes(before: &Side, after: &Side) -> (Vec<Changed>, Vec<Changed>) {
    let (one, other) = (&before.report.host, &after.report.host);
    let mut changed = Vec::new();
    let mut load = Vec::new();
    let mut host = |what: &str, before: String, after: String| {
        push(&mut changed, what, None, Some(before), Some(after));
    };
    host("host", one.hostname.clone(), other.hostname.clone());
    host("kernel", one.kernel.clone(), other.kernel.clone());
    host("era of conntrack's logging code", one.log_format.to_string(), other.log_format.to_string());
    host("whyrst", one.tool.clone(), other.tool.clone());
    for (first, second) in pairs(&before.background.namespaces, &after.background.namespaces) {
        let netns = Some((second.inode, second.name.clone()));
        let number = |number: Option<u32>| number.map(|number| number.to_string());
        push(&mut load, "conntrack entries", netns.clone(), number(first.entries), number(second.entries));
        let sysctls = first.sysctls.iter().chain(&second.sysctls);
        // How many entries there are is no setting.
        let names: BTreeSet<&str> =
            sysctls.map(|(name, _)| name.as_str()).filter(|name| *name != "nf_conntrack_count").collect();
        for name in names {
            let value = |netns: &Netns| netns.sysctl(name).map(|value| value.to_string());
            push(&mut changed, name, netns.clone(), value(first), value(second));
        }
        let rules = |side: &Side, netns: &Netns| side.background.rulesets.get(&netns.inode).map(texts);
        // A ruleset is looked at where a rule has rejected something: where it was not, nothing is known of it.
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

/// The rules without what changes by itself: their counters, and handles, which a reloaded ruleset has others of.
fn texts(rules: &Rules) -> BTreeSet<String> {
    let text =
        |rule: &tracer_model::ruleset::Rule| format!("{} {} {}: {}", rule.family, rule.table, rule.chain, rule.text);
    rules.rules.iter().map(text).collect()
}

/// The namespaces that are in both captures: of the same name, else of the same number, else the only ones.
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
