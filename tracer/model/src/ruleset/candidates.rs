//! Which rules can have rejected a packet.

use std::time::Duration;

use tracer_common::Hook;

use super::{Key, Rule, Rules, Test};
use crate::event::{Event, NfHook};
use crate::time::Instant;

/// Most rules that are listed.
pub const LISTED: usize = 8;
/// A rule that has counted nothing this soon after a packet has not rejected it. Later its counter may have been reset.
const FRESH: Duration = Duration::from_secs(1);
/// A ruleset that is read so long after a packet may be another than the packet met.
const LATE: Duration = Duration::from_secs(5);

/// What was seen of a namespace's ruleset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshots {
    /// Soon after the first packet was rejected.
    first: Rules,
    /// When the capture ended.
    last: Option<Rules>,
}

/// The rules that can have rejected a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidates {
    /// They, at most [`LISTED`].
    pub rules: Vec<Rule>,
    /// How many they are.
    pub count: usize,
    /// How many rules of the namespace answer with a RST at all.
    pub of: usize,
    /// Why there may be others.
    pub problems: Vec<String>,
}

impl Candidates {
    /// The rule, where it is the only one and nothing suggests that there may be others.
    pub fn only(&self) -> Option<&Rule> {
        match self.rules.as_slice() {
            [rule] if self.count == 1 && self.problems.is_empty() => Some(rule),
            _ => None,
        }
    }
}

impl Snapshots {
    /// A first look.
    pub const fn new(first: Rules) -> Self {
        Self { first, last: None }
    }

    /// A later look; it takes the place of the one before, never of the first.
    pub fn again(&mut self, rules: Rules) {
        self.last = Some(rules);
    }

    /// The last look.
    pub fn latest(&self) -> &Rules {
        self.last.as_ref().unwrap_or(&self.first)
    }

    /// The rules that can have rejected the packet of this event.
    pub fn candidates(&self, event: &Event) -> Candidates {
        let between = self.first.at < event.at;
        let last = self.last.as_ref().filter(|_| between);
        let mut pool: Vec<&Rule> = self.first.rules.iter().collect();
        let gone_or_new = last.is_some_and(|last| {
            let known = pool.len();
            pool.extend(last.rules.iter().filter(|rule| !self.first.rules.iter().any(|first| first.same(rule))));
            pool.len() > known || last.rules.len() != self.first.rules.len()
        });
        let of = pool.len();
        let mut left: Vec<&Rule> = pool
            .into_iter()
            .filter(|rule| !self.contradicts(rule, event) && !self.did_not_count(rule, event.at))
            .collect();
        if !gone_or_new {
            let sure: Vec<&Rule> = left.iter().copied().filter(|rule| self.is_certain(rule, event)).collect();
            left.retain(|rule| !sure.iter().any(|first| comes_first(first, rule)));
        }
        let mut problems = self.first.problems.clone();
        for problem in last.into_iter().flat_map(|last| &last.problems) {
            if !problems.contains(problem) {
                problems.push(problem.clone());
            }
        }
        if gone_or_new {
            problems.push("rules that reject came or went during the capture".to_owned());
        }
        let after = self.first.began - event.at;
        if after > LATE {
            problems.push(format!("the ruleset was read only {} s after the packet was rejected", after.as_secs()));
        }
        Candidates { count: left.len(), of, rules: left.into_iter().take(LISTED).cloned().collect(), problems }
    }

    /// Whether the rule's counter shows that it did not match a packet at this time.
    fn did_not_count(&self, rule: &Rule, at: Instant) -> bool {
        let counted = |style: &Rules| style.rules.iter().find(|seen| seen.same(rule))?.packets;
        let snapshots = [Some(&self.first), self.last.as_ref()];
        let after = snapshots.into_iter().flatten().find(|style| style.began > at);
        let before = (self.first.at < at).then_some(&self.first);
        let Some((after, then)) = after.and_then(|style| Some((style, counted(style)?))) else { return false };
        if before.is_some_and(|before| began_anew(before, after)) {
            return false;
        }
        let nothing_yet = then == 0 && after.began - at < FRESH;
        nothing_yet || before.is_some_and(|before| counted(before) == Some(then))
    }

    /// Whether the packet cannot have met this rule, or not have passed one of its tests.
    fn contradicts(&self, rule: &Rule, event: &Event) -> bool {
        let elsewhere = event.nf_hook.is_some_and(|hook| rule.hooks.0 != 0 && !rule.hooks.has(hook));
        let ipv4 = event.hook != Hook::RejectV6;
        elsewhere || !rule.family.sees(ipv4) || rule.tests.iter().any(|test| self.holds(test, event) == Some(false))
    }

    /// Whether the rule rejects this packet if it comes by.
    fn is_certain(&self, rule: &Rule, event: &Event) -> bool {
        rule.complete && rule.tests.iter().all(|test| self.holds(test, event) == Some(true))
    }

    fn holds(&self, test: &Test, event: &Event) -> Option<bool> {
        let misled = test.key == Key::InputName && event.nf_hook == Some(NfHook::Forward) && self.first.bridged;
        if misled { None } else { test.holds(event) }
    }
}

/// Whether counters may have begun anew between two looks: with another ruleset, or because somebody reset them.
fn began_anew(before: &Rules, after: &Rules) -> bool {
    let less = |rule: &Rule| {
        let later = after.rules.iter().find(|later| later.same(rule));
        later.is_some_and(|later| later.packets < rule.packets)
    };
    before.generation != after.generation || before.rules.iter().any(less)
}

/// Whether a packet meets one rule before the other, of the same chain.
fn comes_first(one: &Rule, other: &Rule) -> bool {
    let chain = |rule: &Rule| (rule.backend, rule.family);
    chain(one) == chain(other) && one.table == other.table && one.chain == other.chain && one.place < other.place
}
