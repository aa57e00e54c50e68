//! What others ask of a whole ruleset: the rules that reject with a RST, and those that matter to tracked connections.

use std::collections::BTreeMap;

use super::audit::{Audit, BaseChain, Does, Found, Noted, Verdict, output};
use super::tables::{Action, Chain, Condition, Field, Nat, Ruleset, Step, Table};
use super::{Chains, Hooks, Rule, Rules, Test};
use crate::time::Instant;

/// Most rejecting rules that are kept: with their tests they fit into one frame of a recording.
const MOST: usize = 256;
/// Most elements of sets that become bounds of a test, of all rules.
const ELEMENTS: usize = 2_048;
/// Most tests that are kept of a rule.
const TESTS: usize = 16;

impl Ruleset {
    /// Adds the rules that reject with a RST to a snapshot, and what could not be read.
    pub fn rejecting(&self, rules: &mut Rules) {
        let mut room = ELEMENTS;
        let mut left_out = 0;
        for table in &self.tables {
            let reached = reached(table);
            for (chain, place, rejects) in rejecting(table) {
                let Some(rule) = table.named(chain, place).filter(|_| rejects) else { continue };
                if rules.rules.len() == MOST {
                    left_out += 1;
                    continue;
                }
                let (tests, complete) = tests(table, chain, place, &mut room);
                let hooks = reached.get(&chain.name).copied().unwrap_or_default();
                rules.rules.push(Rule { hooks, tests, complete, ..rule });
            }
        }
        rules.problems.extend(self.problems.iter().cloned());
        if left_out > 0 {
            rules.problems.push(format!("{left_out} more rules that reject with a RST are not listed"));
        }
    }

    /// The rules that matter to tracked connections.
    pub fn audit(&self, netns: u32, at: Instant) -> Audit {
        let mut found = Found { problems: self.problems.clone(), ..Found::default() };
        for table in &self.tables {
            let reached = reached(table);
            for chain in &table.chains {
                let hooks = reached.get(&chain.name).copied().unwrap_or_default();
                for (place, rule) in chain.rules.iter().enumerate() {
                    let tests: Vec<Test> = rule.tests().cloned().collect();
                    let noted = rule.steps.iter().filter_map(|step| match step {
                        Step::Do(action) => does(table, action, &tests),
                        Step::If(_) => None,
                    });
                    for does in noted {
                        let Some(named) = table.named(chain, place) else { continue };
                        let (_, complete) = self::tests(table, chain, place, &mut 0);
                        found.noted.push(Noted { does, rule: Rule { hooks, complete, ..named } });
                    }
                }
                if let Some(base) = chain.base.filter(|base| base.drops) {
                    found.drops.push(BaseChain {
                        backend: table.backend,
                        family: table.family,
                        table: table.name.clone(),
                        name: chain.name.clone(),
                        hooks: Hooks::only(base.hook.into()),
                    });
                }
            }
        }
        Audit::new(netns, at, found)
    }

    /// Whether any rule puts connections into a flowtable: its name, with the rule.
    pub fn offloading(&self) -> Vec<(String, Rule)> {
        let mut found = Vec::new();
        for table in &self.tables {
            for chain in &table.chains {
                for (place, rule) in chain.rules.iter().enumerate() {
                    let flowtable = rule.steps.iter().find_map(|step| match step {
                        Step::Do(Action::Offload { flowtable }) => Some(flowtable.clone()),
                        _ => None,
                    });
                    found.extend(flowtable.zip(table.named(chain, place)));
                }
            }
        }
        found
    }
}

/// The hooks that lead to each chain of a table.
fn reached(table: &Table) -> BTreeMap<String, Hooks> {
    let mut chains = Chains::default();
    for chain in &table.chains {
        chains.chain(&chain.name, chain.base.map(|base| base.hook.into()));
        for step in chain.rules.iter().flat_map(|rule| &rule.steps) {
            match step {
                Step::Do(Action::Jump(to) | Action::Goto(to)) => chains.jump(&chain.name, to),
                Step::Do(Action::VerdictMap { map, .. }) => {
                    let set = table.set(map).filter(|set| set.complete);
                    if set.is_none() {
                        chains.anywhere(&chain.name);
                    }
                    for element in set.into_iter().flat_map(|set| &set.elements) {
                        if let Some(Action::Jump(to) | Action::Goto(to)) = &element.verdict {
                            chains.jump(&chain.name, to);
                        }
                    }
                }
                _ => {}
            }
        }
    }
    chains.reached()
}

/// The rules of a table, and whether each rejects with a RST.
fn rejecting(table: &Table) -> impl Iterator<Item = (&Chain, usize, bool)> {
    table.chains.iter().flat_map(|chain| {
        let rules = chain.rules.iter().enumerate();
        rules.map(move |(place, rule)| (chain, place, rule.steps.contains(&Step::Do(Action::RejectWithReset))))
    })
}

/// What a rule asks of a packet, as far as tests can say it; and whether they say all.
fn tests(table: &Table, chain: &Chain, place: usize, room: &mut usize) -> (Vec<Test>, bool) {
    let (mut found, mut complete) = (Vec::new(), true);
    let steps = chain.rules.get(place).map_or(&[][..], |rule| &rule.steps);
    for step in steps {
        let asked = match step {
            Step::If(Condition::Constant(true)) => continue,
            Step::If(Condition::Is(test)) => Some(test.clone()),
            Step::If(Condition::Element { of, set, inside }) => element(table, of, set, *inside, room),
            Step::If(_) => None,
            // What it asks behind that is asked of another packet, or not at all.
            Step::Do(Action::NotUnderstood(_) | Action::VerdictMap { .. }) => {
                complete = false;
                break;
            }
            Step::Do(Action::Jump(_) | Action::Goto(_)) => {
                complete = false;
                continue;
            }
            Step::Do(_) => continue,
        };
        match asked.filter(|_| found.len() < TESTS) {
            Some(test) => found.push(test),
            None => complete = false,
        }
    }
    (found, complete)
}

/// A look-up of one field as a test, where the set is small enough.
fn element(table: &Table, of: &[Field], set: &str, inside: bool, room: &mut usize) -> Option<Test> {
    let [field] = of else { return None };
    let set = table.set(set).filter(|set| set.complete && !field.native && !set.elements.is_empty())?;
    let fits = |bytes: &[u8]| bytes.len() == field.length;
    let plain = set.elements.iter().all(|element| fits(&element.from) && fits(&element.to));
    if !plain || set.elements.len() > *room {
        return None;
    }
    *room -= set.elements.len();
    let bounds = set.elements.iter().map(|element| (element.from.clone(), element.to.clone())).collect();
    Some(Test { key: field.key, mask: field.mask.clone(), bounds, inside })
}

/// What an audit notes of something that a rule does.
fn does(table: &Table, action: &Action, tests: &[Test]) -> Option<Does> {
    let verdict = match action {
        Action::Untrack => return Some(Does::Untracks),
        Action::Nat(nat) => {
            let translation =
                |of: &super::audit::Translation| super::audit::Translation { output: output(tests), ..of.clone() };
            return Some(match nat {
                Nat::Source(of) => Does::SourceNat(translation(of)),
                Nat::Masquerade(of) => Does::Masquerades(translation(of)),
                Nat::Destination(of) | Nat::Redirect(of) => Does::DestinationNat(translation(of)),
            });
        }
        // `ct state vmap { invalid : drop }`.
        Action::VerdictMap { of, map } => {
            let [field] = &of[..] else { return None };
            let invalid = Test::state(1, false);
            if field.key != invalid.key || !field.mask.is_empty() {
                return None;
            }
            let elements = &table.set(map)?.elements;
            let element = elements.iter().find(|element| element.from == 1u32.to_ne_bytes())?;
            return Does::to_invalid(&verdict(element.verdict.as_ref()?)?, &[invalid]);
        }
        action => verdict(action)?,
    };
    Does::to_invalid(&verdict, tests)
}

fn verdict(action: &Action) -> Option<Verdict> {
    Some(match action {
        Action::Accept => Verdict::Accept,
        Action::Drop => Verdict::Drop,
        Action::RejectWithReset | Action::RejectWithIcmp => Verdict::Reject,
        Action::Jump(to) | Action::Goto(to) => Verdict::Chain(to.clone()),
        _ => return None,
    })
}
