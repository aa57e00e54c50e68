//! Candidate rules: the rules that can have rejected a packet.
//!
//! The kernel does not report which rule rejected a packet. A rule is excluded when the packet contradicts one of its tests,
//! or when its counter did not change; the rules that are left are the candidates.

use std::time::Duration;

use tracer_common::Hook;

use super::tables::Ruleset;
use super::{Key, Rule, Rules, Test};
use crate::event::{Event, NfHook};
use crate::time::Instant;

/// The most rules that are listed.
pub const LISTED: usize = 8;
/// A rule whose counter is zero this soon after a packet has not rejected it. Later, the counter may have been reset.
const FRESH: Duration = Duration::from_secs(1);
/// A ruleset that is read this long after a packet may have changed since.
const LATE: Duration = Duration::from_secs(5);

/// Snapshots of a namespace's ruleset: the first and the last that were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshots {
    /// Read soon after the first packet was rejected.
    first: Rules,
    /// Read when the capture ended.
    last: Option<Rules>,
}

/// The rules that can have rejected a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidates {
    /// The candidates, at most [`LISTED`].
    pub rules: Vec<Rule>,
    /// The number of candidates.
    pub count: usize,
    /// The number of rules of the namespace that answer with a RST.
    pub of: usize,
    /// Why there may be others.
    pub problems: Vec<String>,
}

impl Candidates {
    /// Keeps those that `wanted` holds for, if there is any.
    #[must_use]
    pub fn narrowed(self, wanted: impl Fn(&Rule) -> bool) -> Self {
        let left: Vec<Rule> = self.rules.iter().filter(|rule| wanted(rule)).cloned().collect();
        // Of more than are listed not all are known here.
        if left.is_empty() || self.count > self.rules.len() {
            return self;
        }
        Self { count: left.len(), rules: left, ..self }
    }

    /// The only candidate, where there is one and no problem suggests others.
    pub fn only(&self) -> Option<&Rule> {
        match self.rules.as_slice() {
            [rule] if self.count == 1 && self.problems.is_empty() => Some(rule),
            _ => None,
        }
    }
}

impl Snapshots {
    /// The first snapshot.
    pub const fn new(first: Rules) -> Self {
        Self { first, last: None }
    }

    /// Adds a later snapshot. It replaces an earlier one, but never the first.
    pub fn add(&mut self, rules: Rules) {
        self.last = Some(rules);
    }

    /// The whole ruleset, where both snapshots show the same.
    pub fn whole(&self) -> Option<&Ruleset> {
        let same = self.last.as_ref().is_none_or(|last| last.whole == self.first.whole);
        self.first.whole.as_deref().filter(|_| same && !self.first.bridged)
    }

    /// The last snapshot.
    pub fn latest(&self) -> &Rules {
        self.last.as_ref().unwrap_or(&self.first)
    }

    /// The candidates for the packet of this event.
    pub fn candidates(&self, event: &Event) -> Candidates {
        let between = self.first.at < event.at;
        let last = self.last.as_ref().filter(|_| between);
        let mut pool: Vec<&Rule> = self.first.rules.iter().collect();
        let changed = last.is_some_and(|last| {
            let known = pool.len();
            pool.extend(last.rules.iter().filter(|rule| !self.first.rules.iter().any(|first| first.same(rule))));
            pool.len() > known || last.rules.len() != self.first.rules.len()
        });
        let of = pool.len();
        let mut left: Vec<&Rule> = pool
            .into_iter()
            .filter(|rule| !self.contradicts(rule, event) && !self.did_not_count(rule, event.at))
            .collect();
        if !changed {
            let sure: Vec<&Rule> = left.iter().copied().filter(|rule| self.is_certain(rule, event)).collect();
            left.retain(|rule| !sure.iter().any(|first| comes_first(first, rule)));
        }
        let mut problems = self.first.problems.clone();
        for problem in last.into_iter().flat_map(|last| &last.problems) {
            if !problems.contains(problem) {
                problems.push(problem.clone());
            }
        }
        if changed {
            problems.push("rules that reject came or went during the capture".to_owned());
        }
        let after = self.first.began - event.at;
        if after > LATE {
            problems.push(format!("the ruleset was read only {} s after the packet was rejected", after.as_secs()));
        }
        Candidates { count: left.len(), of, rules: left.into_iter().take(LISTED).cloned().collect(), problems }
    }

    /// Whether the rule's counter proves that it did not match a packet at this time.
    fn did_not_count(&self, rule: &Rule, at: Instant) -> bool {
        let counted = |snapshot: &Rules| snapshot.rules.iter().find(|seen| seen.same(rule))?.packets;
        let snapshots = [Some(&self.first), self.last.as_ref()];
        let after = snapshots.into_iter().flatten().find(|snapshot| snapshot.began > at);
        let before = (self.first.at < at).then_some(&self.first);
        let Some((after, then)) = after.and_then(|snapshot| Some((snapshot, counted(snapshot)?))) else { return false };
        if before.is_some_and(|before| were_reset(before, after)) {
            return false;
        }
        let nothing_yet = then == 0 && after.began - at < FRESH;
        nothing_yet || before.is_some_and(|before| counted(before) == Some(then))
    }

    /// Whether the packet cannot have reached this rule, or fails one of its tests.
    fn contradicts(&self, rule: &Rule, event: &Event) -> bool {
        let elsewhere = event.nf_hook.is_some_and(|hook| rule.hooks.0 != 0 && !rule.hooks.has(hook));
        let ipv4 = event.hook != Hook::RejectV6;
        elsewhere || !rule.family.sees(ipv4) || rule.tests.iter().any(|test| self.holds(test, event) == Some(false))
    }

    /// Whether the rule rejects this packet if the packet reaches it.
    fn is_certain(&self, rule: &Rule, event: &Event) -> bool {
        rule.complete && rule.tests.iter().all(|test| self.holds(test, event) == Some(true))
    }

    fn holds(&self, test: &Test, event: &Event) -> Option<bool> {
        let misled = test.key == Key::InputName && event.nf_hook == Some(NfHook::Forward) && self.first.bridged;
        if misled { None } else { test.holds(event) }
    }
}

/// Whether counters may have been reset between two snapshots: with a new ruleset, or by a command.
fn were_reset(before: &Rules, after: &Rules) -> bool {
    let less = |rule: &Rule| {
        let later = after.rules.iter().find(|later| later.same(rule));
        later.is_some_and(|later| later.packets < rule.packets)
    };
    before.generation != after.generation || before.rules.iter().any(less)
}

/// Whether both rules are of the same chain and a packet reaches `one` before `other`.
fn comes_first(one: &Rule, other: &Rule) -> bool {
    let chain = |rule: &Rule| (rule.backend, rule.family);
    chain(one) == chain(other) && one.table == other.table && one.chain == other.chain && one.place < other.place
}
