//! Text of `iptables-save`, with or without `-c`: whole tables, each rule with all that it asks and does.

mod matches;
mod targets;
pub(super) mod values;
pub(super) mod words;

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::Lines;

use tracer_model::ruleset::tables::{Action, Base, Chain, ChainKind, ChainRule, Ruleset, Step, Table};
use tracer_model::ruleset::{Backend, Chains, Family, Hooks};

use self::words::{Extension, Printed};

/// Most characters that are kept of a rule.
const WORDS: usize = 160;
/// Most lines that are named because they are not understood.
const LINES: usize = 8;

/// The chains that the kernel enters, each at the number of its hook.
const HOOKS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// A table of the kernel's, with the priority of its chain at each hook.
struct Known {
    name: &'static str,
    priorities: [Option<i32>; 5],
}

/// `enum nf_ip_hook_priorities` (`linux/netfilter_ipv4.h`), and those of IPv6, which are the same.
const TABLES: [Known; 5] = [
    Known { name: "raw", priorities: [Some(-300), None, None, Some(-300), None] },
    Known { name: "mangle", priorities: [Some(-150); 5] },
    Known { name: "nat", priorities: [Some(-100), Some(100), None, Some(-100), Some(100)] },
    Known { name: "filter", priorities: [None, Some(0), Some(0), Some(0), None] },
    Known { name: "security", priorities: [None, Some(50), Some(50), Some(50), None] },
];

/// Reads what was printed of one family.
pub fn ruleset(text: &str, family: Family) -> Ruleset {
    let mut read = Ruleset::default();
    let mut table: Option<Lined<'_>> = None;
    let mut strange = 0;
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let understood = match (line.as_bytes().first(), &mut table) {
            (None | Some(b'#'), _) => true,
            (Some(b'*'), open) => {
                let new = Lined { name: line[1..].trim(), ..Lined::default() };
                if let Some(old) = open.replace(new) {
                    read.problems.push(old.cut(family));
                }
                true
            }
            (Some(b':'), Some(table)) => table.chain(&line[1..]),
            (Some(b'[' | b'-'), Some(table)) => {
                let line = whole(line, &mut lines);
                table.rule(&line)
            }
            _ if line.trim() == "COMMIT" => {
                if let Some(table) = table.take() {
                    table.finish(family, &mut read);
                }
                true
            }
            _ => line.trim().is_empty(),
        };
        if !understood {
            strange += 1;
            if strange <= LINES {
                let line: String = line.chars().take(WORDS).collect();
                read.problems.push(format!("{} prints a line that is not understood: {line}", tool(family)));
            }
        }
    }
    if let Some(table) = table {
        read.problems.push(table.cut(family));
    }
    if strange > LINES {
        read.problems.push(format!("{} prints {} more such lines", tool(family), strange - LINES));
    }
    read
}

const fn tool(family: Family) -> &'static str {
    if matches!(family, Family::Ip6) { "ip6tables-save" } else { "iptables-save" }
}

/// A rule with those lines that a comment in quotes goes on in; a line break becomes a space.
fn whole(line: &str, lines: &mut Peekable<Lines<'_>>) -> String {
    let mut line = line.to_owned();
    let ends = |next: &str| next.trim() == "COMMIT" || next.starts_with('[') || next.starts_with("-A ");
    while words::is_open(&line)
        && let Some(next) = lines.next_if(|next| !ends(next))
    {
        line.push(' ');
        line.push_str(next);
    }
    line
}

/// A rule that is not sorted yet.
struct LinedRule {
    chain: String,
    packets: Option<u64>,
    text: String,
}

/// The lines of a table.
#[derive(Default)]
struct Lined<'a> {
    name: &'a str,
    /// Chains with their policy; `-` for one that rules jump to.
    chains: Vec<(&'a str, &'a str)>,
    rules: Vec<LinedRule>,
}

impl<'a> Lined<'a> {
    fn chain(&mut self, line: &'a str) -> bool {
        let mut words = line.split_whitespace();
        let (Some(name), Some(policy)) = (words.next(), words.next()) else { return false };
        self.chains.push((name, policy));
        true
    }

    /// `[PACKETS:BYTES] -A CHAIN …`, or without the counters.
    fn rule(&mut self, line: &str) -> bool {
        let (packets, rule) = match line.strip_prefix('[').map(|line| line.split_once("] ")) {
            Some(Some((counters, rule))) => (counters.split(':').next().and_then(|packets| packets.parse().ok()), rule),
            Some(None) => return false,
            None => (None, line),
        };
        let Some(rule) = rule.strip_prefix("-A ") else { return false };
        let (chain, text) = rule.split_once(' ').unwrap_or((rule, ""));
        self.rules.push(LinedRule { chain: chain.to_owned(), packets, text: text.to_owned() });
        true
    }

    /// What is left out, as without its end it would be another table.
    fn cut(&self, family: Family) -> String {
        format!("{} prints the table {} without its end", tool(family), self.name)
    }

    fn finish(self, family: Family, read: &mut Ruleset) {
        let known = TABLES.iter().find(|known| known.name == self.name);
        if known.is_none() {
            read.problems.push(format!("{} prints a table that is not known: {}", tool(family), self.name));
        }
        let mut chains: Vec<Chain> = Vec::new();
        for (name, policy) in &self.chains {
            let base = known.filter(|_| *policy != "-").and_then(|known| known.base(name, *policy == "DROP"));
            if *policy != "-" && base.is_none() && known.is_some() {
                read.problems.push(format!("{} prints a chain that is not known: {name}", tool(family)));
            }
            chains.push(Chain { name: (*name).to_owned(), base, rules: Vec::new() });
        }
        let sorted: Vec<Vec<words::Word>> = self.rules.iter().map(|rule| words::words(&rule.text)).collect();
        let printed: Vec<Printed<'_>> = sorted.iter().map(|words| Printed::read(words)).collect();
        let reached = self.reached(&chains, &printed);
        let places: BTreeMap<&str, usize> =
            self.chains.iter().enumerate().map(|(place, (name, _))| (*name, place)).collect();
        for (rule, printed) in self.rules.iter().zip(&printed) {
            let hooks = reached.get(&rule.chain).copied().unwrap_or_default();
            let steps = steps(printed, &reached, family, hooks);
            let text = rule.text.chars().take(WORDS).collect();
            let new = ChainRule { handle: None, packets: rule.packets, by_iptables: true, text, steps };
            match places.get(rule.chain.as_str()).and_then(|place| chains.get_mut(*place)) {
                Some(chain) => chain.rules.push(new),
                None => read.problems.push(format!(
                    "{} prints a rule of a chain that {} does not have: {}",
                    tool(family),
                    self.name,
                    rule.chain
                )),
            }
        }
        let name = self.name.to_owned();
        read.tables.push(Table { backend: Backend::IptablesLegacy, family, name, chains, sets: Vec::new() });
    }

    /// The hooks that lead to each chain.
    fn reached(&self, chains: &[Chain], printed: &[Printed<'_>]) -> BTreeMap<String, Hooks> {
        let mut ways = Chains::default();
        for chain in chains {
            ways.chain(&chain.name, chain.base.map(|base| base.hook.into()));
        }
        for (rule, printed) in self.rules.iter().zip(printed) {
            if let Some(target) = &printed.target {
                ways.jump(&rule.chain, target.name);
            }
        }
        ways.reached()
    }
}

impl Known {
    fn base(&self, chain: &str, drops: bool) -> Option<Base> {
        let hook = HOOKS.iter().position(|name| *name == chain)?;
        let priority = (*self.priorities.get(hook)?)?;
        let kind = match (self.name, chain) {
            ("nat", _) => ChainKind::Nat,
            ("mangle", "OUTPUT") => ChainKind::Route,
            _ => ChainKind::Filter,
        };
        Some(Base { hook: u8::try_from(hook).ok()?, priority, kind, drops })
    }
}

/// What a rule asks and does, in the kernel's order: addresses, interfaces and protocol, its matches, its target.
fn steps(printed: &Printed<'_>, chains: &BTreeMap<String, Hooks>, family: Family, hooks: Hooks) -> Vec<Step> {
    let generic = printed.generic.iter().map(|option| matches::generic(option, family));
    let asked = printed.matches.iter().map(|asked| matches::condition(asked, family));
    let mut steps: Vec<Step> = generic.chain(asked).map(Step::If).collect();
    if let Some(target) = &printed.target {
        steps.extend(match chain(target, chains) {
            Some(chain) => vec![Step::Do(chain)],
            None => targets::steps(target, family, hooks),
        });
    }
    steps
}

/// Where a target leads, if it is a chain of the table. The four standard targets never are.
fn chain(target: &Extension<'_>, chains: &BTreeMap<String, Hooks>) -> Option<Action> {
    let standard = ["ACCEPT", "DROP", "QUEUE", "RETURN"].contains(&target.name);
    let declared = chains.contains_key(target.name);
    let to = target.name.to_owned();
    (declared && !standard && target.options.is_empty())
        .then(|| if target.is_goto() { Action::Goto(to) } else { Action::Jump(to) })
}

#[cfg(test)]
mod tests;
