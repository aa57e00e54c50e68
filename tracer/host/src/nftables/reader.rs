//! Puts a ruleset together from dumps of its tables, chains, rules and sets.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::ControlFlow;
use std::time::Instant;

use tracer_model::ruleset::audit::{BaseChain, Found, Noted, Verdict};
use tracer_model::ruleset::{Backend, Chains, Hooks, Rule};

use super::expressions::Expressions;
use super::messages::{NFT_MSG_GETCHAIN, NFT_MSG_GETRULE, NFT_MSG_GETTABLE, Table, family};
use super::sets;
use crate::nfnetlink::{End, Message, Nfnetlink, attribute, dump_of, long, number, string};

/// Most rules that are kept; with [`super::expressions::TESTS`] they fit into one frame of a recording.
const MOST: usize = 256;
/// Most rules that an audit looks at the sets of.
const MOST_AUDITED: usize = 16_384;
/// Most elements of sets that are kept, of all rules.
const ELEMENTS: usize = 2_048;
/// `NF_CT_STATE_INVALID_BIT`, as it is in a register.
const INVALID: [u8; 4] = 1u32.to_ne_bytes();

/// What the ruleset is read for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Wanted {
    /// The rules that can answer with a RST.
    #[default]
    Rejecting,
    /// These, and what an audit notes.
    Audit,
}

/// Puts a ruleset together from its dumps.
#[derive(Debug, Default)]
pub(super) struct Reader {
    wanted: Wanted,
    dormant: BTreeSet<Table>,
    chains: BTreeMap<Table, Chains>,
    /// Rules of each chain so far.
    places: BTreeMap<(Table, String), u32>,
    pub(super) rules: Vec<Candidate>,
    /// Base chains that drop.
    drops: Vec<(Table, BaseChain)>,
    /// Tables that iptables-nft writes.
    of_xtables: BTreeSet<Table>,
}

/// A rule that answers with a RST, or may be noted.
#[derive(Debug)]
pub(super) struct Candidate {
    key: Table,
    pub(super) rule: Rule,
    pub(super) read: Expressions,
}

impl Reader {
    pub(super) fn new(wanted: Wanted) -> Self {
        Self { wanted, ..Self::default() }
    }

    pub(super) fn dump(&mut self, deadline: Instant) -> io::Result<End> {
        let mut ends = Vec::new();
        for (kind, take) in [
            (NFT_MSG_GETTABLE, Self::table as fn(&mut Self, Message<'_>)),
            (NFT_MSG_GETCHAIN, Self::chain),
            (NFT_MSG_GETRULE, Self::rule),
        ] {
            let end = Nfnetlink::open()?.dump(&dump_of(kind), Some(deadline), |message| {
                take(self, message);
                let most = if self.wanted == Wanted::Audit { MOST_AUDITED } else { MOST };
                Ok(if self.rules.len() > most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            })?;
            ends.push(end);
        }
        let worst = [End::Cut, End::Changed].into_iter().find(|end| ends.contains(end));
        Ok(worst.unwrap_or(End::Whole))
    }

    pub(super) fn table(&mut self, message: Message<'_>) {
        const NFTA_TABLE_NAME: u16 = 1;
        const NFTA_TABLE_FLAGS: u16 = 2;
        const NFT_TABLE_F_DORMANT: u32 = 1;
        let flags = attribute(message.attributes, NFTA_TABLE_FLAGS).and_then(number).unwrap_or(0);
        if let Some(name) = attribute(message.attributes, NFTA_TABLE_NAME)
            && flags & NFT_TABLE_F_DORMANT != 0
        {
            self.dormant.insert((message.family, string(name)));
        }
    }

    pub(super) fn chain(&mut self, message: Message<'_>) {
        const NFTA_CHAIN_TABLE: u16 = 1;
        const NFTA_CHAIN_NAME: u16 = 3;
        const NFTA_CHAIN_HOOK: u16 = 4;
        const NFTA_CHAIN_POLICY: u16 = 5;
        const NFTA_HOOK_HOOKNUM: u16 = 1;
        const NF_DROP: u32 = 0;
        let found = |kind| attribute(message.attributes, kind);
        let (Some(table), Some(name)) = (found(NFTA_CHAIN_TABLE), found(NFTA_CHAIN_NAME)) else { return };
        let hook = found(NFTA_CHAIN_HOOK).and_then(|hook| attribute(hook, NFTA_HOOK_HOOKNUM)).and_then(number);
        let (key, name) = ((message.family, string(table)), string(name));
        self.chains.entry(key.clone()).or_default().chain(&name, hook);
        let drops = found(NFTA_CHAIN_POLICY).and_then(number) == Some(NF_DROP);
        if let (Some(hook), Some(family), true) = (hook, family(message.family), drops) {
            let (table, hooks) = (key.1.clone(), Hooks::only(hook));
            self.drops.push((key, BaseChain { backend: Backend::Nftables, family, table, name, hooks }));
        }
    }

    pub(super) fn rule(&mut self, message: Message<'_>) {
        const NFTA_RULE_TABLE: u16 = 1;
        const NFTA_RULE_CHAIN: u16 = 2;
        const NFTA_RULE_HANDLE: u16 = 3;
        const NFTA_RULE_EXPRESSIONS: u16 = 4;
        let Some(family) = family(message.family) else { return };
        let found = |kind| attribute(message.attributes, kind);
        let (Some(table), Some(chain)) = (found(NFTA_RULE_TABLE).map(string), found(NFTA_RULE_CHAIN).map(string))
        else {
            return;
        };
        let key = (message.family, table.clone());
        let counter = self.places.entry((key.clone(), chain.clone())).or_default();
        let place = *counter;
        *counter += 1;
        let read = Expressions::read(found(NFTA_RULE_EXPRESSIONS).unwrap_or_default(), family);
        let chains = self.chains.entry(key.clone()).or_default();
        for to in &read.jumps {
            chains.jump(&chain, to);
        }
        // Where a map of states leads is read from its elements.
        if read.anywhere && (self.wanted == Wanted::Rejecting || read.state_map.is_none()) {
            chains.anywhere(&chain);
        }
        if read.author.is_some() {
            self.of_xtables.insert(key.clone());
        }
        if read.rejects.is_none() && !(self.wanted == Wanted::Audit && read.may_matter()) {
            return;
        }
        let backend = read.author.unwrap_or(Backend::Nftables);
        let rule = Rule {
            backend,
            family,
            table,
            chain,
            handle: found(NFTA_RULE_HANDLE).and_then(long),
            number: (backend == Backend::IptablesNft).then_some(place + 1),
            place,
            hooks: Hooks::default(),
            text: String::new(),
            tests: Vec::new(),
            complete: false,
            packets: read.packets,
        };
        self.rules.push(Candidate { key, rule, read });
    }

    /// Reads the anonymous sets of the rules that are kept, as many as a frame of a recording has room for, and the verdict
    /// maps of an audit.
    pub(super) fn sets(&mut self, deadline: Instant) {
        let mut room = ELEMENTS;
        for Candidate { key, rule, read } in &mut self.rules {
            if let Some(map) = read.state_map.take() {
                let chains = self.chains.entry(key.clone()).or_default();
                match sets::verdicts(key, &map, deadline) {
                    Ok(verdicts) => {
                        for (state, verdict) in verdicts {
                            if let Verdict::Chain(to) = &verdict {
                                chains.jump(&rule.chain, to);
                            }
                            if state == INVALID {
                                read.decide_invalid(verdict);
                            }
                        }
                    }
                    Err(error) => {
                        tracing::debug!("map {map} of table {}: {error}", key.1);
                        chains.anywhere(&rule.chain);
                        read.unclear = true;
                    }
                }
            }
            for lookup in std::mem::take(&mut read.lookups) {
                let elements = sets::read(key, &lookup.set, deadline).unwrap_or_else(|error| {
                    // It went with its rule.
                    tracing::debug!("set {} of table {}: {error}", lookup.set, key.1);
                    None
                });
                let elements = elements.filter(|elements| elements.len() <= room);
                room -= elements.as_ref().map_or(0, Vec::len);
                read.resolve(lookup, elements, rule.family);
            }
        }
    }

    pub(super) fn finish(self) -> (Vec<Rule>, Found) {
        let reached: BTreeMap<Table, BTreeMap<String, Hooks>> =
            self.chains.into_iter().map(|(table, chains)| (table, chains.reached())).collect();
        let (mut rejecting, mut found) = (Vec::new(), Found::default());
        for Candidate { key, rule, read } in self.rules {
            if self.dormant.contains(&key) {
                continue;
            }
            let hooks = reached.get(&key).and_then(|chains| chains.get(&rule.chain)).copied().unwrap_or_default();
            let (does, rejects, unclear) = (read.noted(), read.rejects.is_some(), read.unclear);
            // What could not be read of its sets is not understood.
            let complete = read.complete && read.lookups.is_empty();
            let rule = Rule { hooks, text: read.words(), complete, tests: read.tests, ..rule };
            if self.wanted == Wanted::Audit {
                if unclear {
                    found.problems.push(format!("{rule} is not understood: {}", rule.text));
                }
                found.noted.extend(does.map(|does| Noted { does, rule: rule.clone() }));
            }
            if rejects && rejecting.len() < MOST {
                rejecting.push(rule);
            }
        }
        let awake = self.drops.into_iter().filter(|(table, _)| !self.dormant.contains(table));
        found.drops = awake
            .map(|(table, chain)| {
                let backend = if self.of_xtables.contains(&table) { Backend::IptablesNft } else { Backend::Nftables };
                BaseChain { backend, ..chain }
            })
            .collect();
        (rejecting, found)
    }
}
