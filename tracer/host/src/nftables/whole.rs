//! The whole ruleset of a namespace, for a walk: every table, chain and rule of IPv4 and IPv6 packets, and the elements of the
//! sets that these rules name.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::ControlFlow;
use std::time::Instant;

use netlink_packet_core::NLM_F_DUMP;

use tracer_model::ruleset::tables::{Action, Base, Chain, ChainKind, ChainRule, Condition, Ruleset, Set, Step, Table};
use tracer_model::ruleset::{Backend, Family, Hooks};

use super::elements::Elements;
use super::foreign::Foreign;
use super::machine::Numbers;
use super::messages::{
    self, NFT_MSG_GETCHAIN, NFT_MSG_GETRULE, NFT_MSG_GETSET, NFT_MSG_GETSETELEM, NFT_MSG_GETTABLE, family,
};
use super::program::{self, Program, Shape};
use super::words::{self, Part};
use super::{ATTEMPTS, generation};
use crate::nfnetlink::{End, Message, Nfnetlink, attribute, dump_of, long, number, put_string, request, string};

/// Most rules that are kept, of all tables.
const RULES: usize = 200_000;
/// Most elements that are kept, of all sets.
const ELEMENTS: usize = 1_000_000;
/// The tables and chains of iptables-nft; it alone writes these chains in capitals into tables of these names.
const TABLES: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];
const CHAINS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
/// `NF_INET_INGRESS`, a hook of tables of the family inet.
const INGRESS: u32 = 5;

const NFT_SET_INTERVAL: u32 = 1 << 2;
const NFT_SET_CONCAT: u32 = 1 << 7;

/// Reads the whole ruleset of the calling thread's network namespace, and its generation; as much of it as can be read before
/// the deadline.
pub fn whole(deadline: Instant) -> io::Result<(Ruleset, Option<u32>)> {
    let mut attempts = ATTEMPTS;
    loop {
        attempts -= 1;
        let before = generation()?;
        let mut reader = Reader::default();
        let mut end = reader.dump(deadline)?;
        if reader.elements(deadline)? == End::Changed {
            end = End::Changed;
        }
        let changed = end == End::Changed || generation()? != before;
        if changed && attempts > 0 && Instant::now() < deadline {
            continue;
        }
        let mut ruleset = reader.finish();
        if changed {
            ruleset.problems.push("the ruleset changed while it was read".to_owned());
        }
        return Ok((ruleset, before));
    }
}

/// Puts a ruleset together from its dumps.
#[derive(Debug, Default)]
pub(super) struct Reader {
    tables: Vec<Draft>,
    /// Where each table is.
    places: BTreeMap<messages::Table, usize>,
    /// Tables of families that are not read.
    foreign: BTreeMap<messages::Table, Foreign>,
    rules: usize,
    elements: usize,
    problems: Vec<String>,
}

/// A table that is being read.
#[derive(Debug)]
struct Draft {
    number: u8,
    family: Family,
    name: String,
    chains: Vec<Chain>,
    /// Where each chain is.
    places: BTreeMap<String, usize>,
    /// The words of each rule of each chain, and whether it has a match or a target of xtables.
    words: Vec<Vec<(Vec<Part>, bool)>>,
    shapes: BTreeMap<String, Shape>,
    sets: Vec<Set>,
    /// Sets that rules name, in the order in which they do.
    wanted: Vec<String>,
    known: BTreeSet<String>,
    /// Sets whose elements end rules for some packets, and by what.
    varying: BTreeMap<String, String>,
    /// Maps that a number of chance is looked up in.
    numbers: Vec<(String, Numbers)>,
}

impl Reader {
    /// Reads everything but the elements of sets.
    fn dump(&mut self, deadline: Instant) -> io::Result<End> {
        let mut ends = Vec::new();
        for (kind, take) in [
            (NFT_MSG_GETTABLE, Self::table as fn(&mut Self, Message<'_>)),
            (NFT_MSG_GETCHAIN, Self::chain),
            (NFT_MSG_GETSET, Self::set),
            (NFT_MSG_GETRULE, Self::rule),
        ] {
            let end = Nfnetlink::open()?.dump(&dump_of(kind), Some(deadline), |message| {
                take(self, message);
                Ok(if self.rules > RULES { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            })?;
            ends.push(end);
        }
        if self.rules > RULES {
            self.problems.push(format!("there are more than {RULES} rules, and no more are read"));
        } else if ends.contains(&End::Cut) {
            self.problems.push("the ruleset is too large to be read whole".to_owned());
        }
        let changed = ends.contains(&End::Changed);
        Ok(if changed { End::Changed } else { End::Whole })
    }

    /// Reads the elements of the sets that rules name.
    fn elements(&mut self, deadline: Instant) -> io::Result<End> {
        let mut socket = Nfnetlink::open()?;
        let (mut changed, mut late) = (false, 0);
        for table in 0..self.tables.len() {
            let Some(draft) = self.tables.get_mut(table) else { break };
            let (number, of) = (draft.number, format!("table {} {}", draft.family, draft.name));
            let (name_of_table, wanted) = (draft.name.clone(), std::mem::take(&mut draft.wanted));
            for name in wanted {
                let mut elements = Elements::default();
                if Instant::now() > deadline {
                    late += 1;
                    self.resolve(table, name, elements, false);
                    continue;
                }
                let which = [put_string(1, &name_of_table), put_string(2, &name)].concat();
                let room = ELEMENTS - self.elements;
                let end =
                    socket.dump(&request(NFT_MSG_GETSETELEM, NLM_F_DUMP, number, &which), Some(deadline), |part| {
                        elements.take(part);
                        Ok(if elements.len() > room { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
                    });
                let complete = matches!(end, Ok(End::Whole | End::Changed));
                match end {
                    Ok(End::Cut) if elements.len() > room => {
                        let more = format!("there are more than {ELEMENTS} elements, and no more are read");
                        self.problems.push(format!("set {name} of {of}: {more}"));
                    }
                    Ok(End::Cut) => late += 1,
                    Ok(end) => changed |= end == End::Changed,
                    Err(error) => self.problems.push(format!("set {name} of {of}: {error}")),
                }
                if !complete {
                    // The dump may still be under way.
                    socket = Nfnetlink::open()?;
                }
                self.resolve(table, name, elements, complete);
            }
        }
        if late > 0 {
            self.problems.push(format!("there was no time to read the elements of {late} sets"));
        }
        Ok(if changed { End::Changed } else { End::Whole })
    }

    pub(super) fn table(&mut self, message: Message<'_>) {
        const NFTA_TABLE_NAME: u16 = 1;
        const NFTA_TABLE_FLAGS: u16 = 2;
        const NFT_TABLE_F_DORMANT: u32 = 1;
        let Some(name) = attribute(message.attributes, NFTA_TABLE_NAME).map(string) else { return };
        let flags = attribute(message.attributes, NFTA_TABLE_FLAGS).and_then(number).unwrap_or(0);
        if flags & NFT_TABLE_F_DORMANT != 0 {
            return;
        }
        let key = (message.family, name.clone());
        let family = family(message.family);
        if family.is_none() || message.family == messages::INET {
            self.foreign.entry(key.clone()).or_default();
        }
        if let Some(family) = family
            && !self.places.contains_key(&key)
        {
            self.places.insert(key, self.tables.len());
            self.tables.push(Draft::new(message.family, family, name));
        }
    }

    pub(super) fn chain(&mut self, message: Message<'_>) {
        const NFTA_CHAIN_TABLE: u16 = 1;
        const NFTA_CHAIN_NAME: u16 = 3;
        const NFTA_CHAIN_HOOK: u16 = 4;
        const NFTA_CHAIN_POLICY: u16 = 5;
        const NFTA_CHAIN_TYPE: u16 = 7;
        const NFTA_HOOK_HOOKNUM: u16 = 1;
        const NFTA_HOOK_PRIORITY: u16 = 2;
        const NF_DROP: u32 = 0;
        let found = |kind| attribute(message.attributes, kind);
        let (Some(table), Some(name)) = (found(NFTA_CHAIN_TABLE), found(NFTA_CHAIN_NAME).map(string)) else { return };
        let key = (message.family, string(table));
        let hook = found(NFTA_CHAIN_HOOK);
        let hooknum = hook.and_then(|hook| attribute(hook, NFTA_HOOK_HOOKNUM)).and_then(number);
        let drops = found(NFTA_CHAIN_POLICY).and_then(number) == Some(NF_DROP);
        if let Some(foreign) = self.foreign.get_mut(&key) {
            let enters = hooknum.filter(|hook| message.family != messages::INET || *hook == INGRESS);
            foreign.chain(&name, enters, drops);
        }
        let Some(draft) = self.places.get(&key).and_then(|at| self.tables.get_mut(*at)) else { return };
        if draft.places.contains_key(&name) || (message.family == messages::INET && hooknum == Some(INGRESS)) {
            return;
        }
        let base = hook.zip(hooknum).and_then(|(hook, hooknum)| {
            let kind = match found(NFTA_CHAIN_TYPE).map(string).as_deref() {
                Some("nat") => ChainKind::Nat,
                Some("route") => ChainKind::Route,
                _ => ChainKind::Filter,
            };
            let priority = attribute(hook, NFTA_HOOK_PRIORITY).and_then(number).unwrap_or(0).cast_signed();
            Some(Base { hook: u8::try_from(hooknum).ok()?, priority, kind, drops })
        });
        draft.places.insert(name.clone(), draft.chains.len());
        draft.chains.push(Chain { name, base, rules: Vec::new() });
        draft.words.push(Vec::new());
    }

    pub(super) fn set(&mut self, message: Message<'_>) {
        const NFTA_SET_TABLE: u16 = 1;
        const NFTA_SET_NAME: u16 = 2;
        const NFTA_SET_FLAGS: u16 = 3;
        const NFTA_SET_KEY_LEN: u16 = 5;
        const NFTA_SET_DATA_LEN: u16 = 7;
        const NFTA_SET_OBJ_TYPE: u16 = 15;
        let found = |kind| attribute(message.attributes, kind);
        let (Some(table), Some(name)) = (found(NFTA_SET_TABLE), found(NFTA_SET_NAME).map(string)) else { return };
        let number_of = |kind| found(kind).and_then(number).unwrap_or(0);
        let size = |kind| usize::try_from(number_of(kind)).unwrap_or(0);
        let key = (message.family, string(table));
        if let Some(draft) = self.places.get(&key).and_then(|at| self.tables.get_mut(*at)) {
            let shape = Shape {
                flags: number_of(NFTA_SET_FLAGS),
                key: size(NFTA_SET_KEY_LEN),
                data: size(NFTA_SET_DATA_LEN),
                object: number_of(NFTA_SET_OBJ_TYPE),
            };
            draft.shapes.insert(name, shape);
        }
    }

    pub(super) fn rule(&mut self, message: Message<'_>) {
        const NFTA_RULE_TABLE: u16 = 1;
        const NFTA_RULE_CHAIN: u16 = 2;
        const NFTA_RULE_HANDLE: u16 = 3;
        const NFTA_RULE_EXPRESSIONS: u16 = 4;
        let found = |kind| attribute(message.attributes, kind);
        let (Some(table), Some(chain)) = (found(NFTA_RULE_TABLE), found(NFTA_RULE_CHAIN).map(string)) else { return };
        let key = (message.family, string(table));
        let list = found(NFTA_RULE_EXPRESSIONS).unwrap_or_default();
        if let Some(foreign) = self.foreign.get_mut(&key).filter(|foreign| foreign.is_entered()) {
            foreign.rule(&chain, list);
        }
        let Some(draft) = self.places.get(&key).and_then(|at| self.tables.get_mut(*at)) else { return };
        let Some(at) = draft.places.get(&chain).copied() else { return };
        self.rules += 1;
        if self.rules > RULES {
            return;
        }
        let base = draft.chains.get(at).and_then(|chain| chain.base);
        let hooks = base.map(|base| Hooks::only(base.hook.into())).unwrap_or_default();
        let Program { steps, packets, parts, xtables, numbers } =
            program::read(list, draft.family, hooks, |name| draft.shapes.get(name).copied());
        for step in &steps {
            if let Some(name) = set_of(step)
                && draft.known.insert(name.to_owned())
            {
                draft.wanted.push(name.to_owned());
            }
        }
        draft.numbers.extend(numbers);
        let handle = found(NFTA_RULE_HANDLE).and_then(long);
        let rule = ChainRule { handle, packets, by_iptables: xtables, text: String::new(), steps };
        if let (Some(chain), Some(words)) = (draft.chains.get_mut(at), draft.words.get_mut(at)) {
            chain.rules.push(rule);
            words.push((parts, xtables));
        }
    }

    /// Takes what was read of a set's elements.
    fn resolve(&mut self, table: usize, name: String, elements: Elements, complete: bool) {
        let room = ELEMENTS - self.elements;
        let Some(draft) = self.tables.get_mut(table) else { return };
        let flags = draft.shapes.get(&name).copied().unwrap_or_default().flags;
        if let Some(varies) = &elements.varies {
            draft.varying.insert(name.clone(), varies.clone());
        }
        let mut elements = elements.resolve(flags & (NFT_SET_INTERVAL | NFT_SET_CONCAT) == NFT_SET_INTERVAL);
        elements.truncate(room);
        self.elements += elements.len();
        draft.sets.push(Set { name, elements, complete });
    }

    /// Takes a message of elements as those of every set that rules name so far.
    pub(super) fn take(&mut self, message: Message<'_>) {
        for table in 0..self.tables.len() {
            let Some(draft) = self.tables.get_mut(table) else { break };
            for name in std::mem::take(&mut draft.wanted) {
                let mut elements = Elements::default();
                elements.take(message);
                self.resolve(table, name, elements, true);
            }
        }
    }

    pub(super) fn finish(mut self) -> Ruleset {
        for ((number, name), foreign) in &self.foreign {
            self.problems.extend(foreign.problems(*number, name));
        }
        Ruleset { tables: self.tables.into_iter().map(Draft::finish).collect(), problems: self.problems }
    }
}

/// The set that a step looks something up in.
fn set_of(step: &Step) -> Option<&str> {
    match step {
        Step::If(Condition::Element { set, .. }) => Some(set),
        Step::Do(Action::VerdictMap { map, .. }) => Some(map),
        _ => None,
    }
}

impl Draft {
    fn new(number: u8, family: Family, name: String) -> Self {
        Self {
            number,
            family,
            name,
            chains: Vec::new(),
            places: BTreeMap::new(),
            words: Vec::new(),
            shapes: BTreeMap::new(),
            sets: Vec::new(),
            wanted: Vec::new(),
            known: BTreeSet::new(),
            varying: BTreeMap::new(),
            numbers: Vec::new(),
        }
    }

    /// Whether its name and a base chain are those of iptables.
    fn of_iptables(&self) -> bool {
        let base = |chain: &Chain| chain.base.is_some() && CHAINS.contains(&chain.name.as_str());
        self.family != Family::Inet && TABLES.contains(&self.name.as_str()) && self.chains.iter().any(base)
    }

    fn finish(mut self) -> Table {
        let of_iptables = self.of_iptables();
        let sets: BTreeMap<&str, &Set> = self.sets.iter().map(|set| (set.name.as_str(), set)).collect();
        let mut xtables = false;
        for (chain, words) in self.chains.iter_mut().zip(self.words) {
            for (rule, (parts, by_xtables)) in chain.rules.iter_mut().zip(words) {
                xtables |= by_xtables;
                rule.by_iptables |= of_iptables;
                let resets = rule.steps.contains(&Step::Do(Action::RejectWithReset));
                rule.text = words::text(&parts, resets, self.family, |name| sets.get(name).copied());
                vary(&mut rule.steps, &self.varying);
            }
        }
        let numbers: BTreeMap<String, Numbers> = self.numbers.into_iter().collect();
        for set in &mut self.sets {
            if let Some(numbers) = numbers.get(&set.name) {
                covered(set, *numbers);
            }
        }
        let backend = if of_iptables || xtables { Backend::IptablesNft } else { Backend::Nftables };
        Table { backend, family: self.family, name: self.name, chains: self.chains, sets: self.sets }
    }
}

/// Asks, before a look-up, what elements of the set ask themselves.
fn vary(steps: &mut Vec<Step>, varying: &BTreeMap<String, String>) {
    if varying.is_empty() {
        return;
    }
    *steps = std::mem::take(steps)
        .into_iter()
        .flat_map(|step| {
            let by = set_of(&step).and_then(|set| Some((set, varying.get(set)?)));
            let asks = by.map(|(set, by)| Step::If(Condition::Varies(format!("{by} of an element of @{set}"))));
            asks.into_iter().chain([step])
        })
        .collect();
}

/// A map of all numbers that are looked up in it has an element for each packet: its last one is that of all others.
fn covered(set: &mut Set, Numbers { first, count, native }: Numbers) {
    let word = |bytes: &[u8]| {
        let bytes = *bytes.first_chunk::<4>()?;
        Some(if native { u32::from_ne_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    };
    let mut ranges: Vec<(u32, u32)> =
        set.elements.iter().filter_map(|element| word(&element.from).zip(word(&element.to))).collect();
    ranges.sort_unstable();
    let end = u64::from(first) + u64::from(count);
    let reached = ranges.iter().fold(u64::from(first), |reached, (from, to)| {
        if u64::from(*from) <= reached { reached.max(u64::from(*to) + 1) } else { reached }
    });
    let catches = set.elements.iter().any(|element| element.from.is_empty());
    if count > 0
        && reached >= end
        && !catches
        && let Some(last) = set.elements.last_mut()
    {
        last.from.clear();
        last.to.clear();
    }
}
