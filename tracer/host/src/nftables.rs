//! The nftables ruleset of a namespace, as far as it can answer a packet with a RST or is noted by an audit
//! (`net/netfilter/nf_tables_api.c`).
//!
//! Names of constants are those of `include/uapi/linux/netfilter/nf_tables.h`. Rules of iptables-nft are here too: they
//! are nftables rules whose matches and targets are those of xtables (`nft_compat`).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Instant;
use std::{fs, io};

use tracer_model::ruleset::audit::{BaseChain, Found, Noted, Verdict};
use tracer_model::ruleset::{Backend, Chains, Family, Hooks, Rule};

use super::nfnetlink::{End, Message, Nfnetlink, attribute, dump_of, long, message, number, request, string};
use super::symbols::Symbols;

use expressions::Expressions;

mod bases;
mod datagram;
mod endings;
mod expressions;
mod sets;
mod xtables;

/// `NFNL_SUBSYS_NFTABLES`, in the high byte of a message's type.
const SUBSYSTEM: u16 = 10 << 8;
const NFT_MSG_GETTABLE: u16 = SUBSYSTEM | 1;
const NFT_MSG_GETCHAIN: u16 = SUBSYSTEM | 4;
const NFT_MSG_GETRULE: u16 = SUBSYSTEM | 7;
const NFT_MSG_GETGEN: u16 = SUBSYSTEM | 16;

/// How often it is read again when it changed meanwhile.
const ATTEMPTS: usize = 3;
/// Most rules that are kept; with [`expressions::TESTS`] they fit into one frame of a recording.
const MOST: usize = 256;
/// Most rules that an audit looks at the sets of.
const MOST_AUDITED: usize = 16_384;

/// Most elements of sets that are kept, of all rules.
const ELEMENTS: usize = 2_048;

/// `NF_CT_STATE_INVALID_BIT`, as it is in a register.
const INVALID: [u8; 4] = 1u32.to_ne_bytes();

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Ruleset {
    /// The number of the ruleset; it grows with each change.
    pub(super) generation: Option<u32>,
    /// The rules that can answer with a RST.
    pub(super) rules: Vec<Rule>,
    /// What an audit notes, where one was asked for.
    pub(super) found: Found,
    /// Why there may be others.
    pub(super) problems: Vec<String>,
}

/// What the ruleset is read for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Wanted {
    /// The rules that can answer with a RST.
    #[default]
    Rejecting,
    /// These, and what an audit notes.
    Audit,
}

pub(super) use bases::{read as base_chains, tables};
pub use datagram::take as take_datagram;

/// Whether nftables is there. Asking it anything where it is not would make the kernel load it.
pub(super) fn is_there() -> bool {
    // What is built in does not come and go: one look at the symbols, which takes long, is enough.
    static BUILT_IN: OnceLock<bool> = OnceLock::new();
    // Only modules with parameters have a directory when they are built in.
    let built_in = || {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let list = fs::read_to_string(Path::new("/lib/modules").join(release).join("modules.builtin"));
        list.is_ok_and(|list| list.lines().any(|module| module.ends_with("/nf_tables.ko")))
    };
    let listed = || {
        let symbols = Symbols::of_running_kernel(&["nf_tables_newrule"]);
        symbols.is_ok_and(|found| found.get("nf_tables_newrule").is_some_and(|symbol| symbol.module.is_none()))
    };
    Path::new("/sys/module/nf_tables").exists() || *BUILT_IN.get_or_init(|| built_in() || listed())
}

/// Reads the ruleset of the calling thread's network namespace, as much of it as can be read before the deadline.
pub(super) fn read(wanted: Wanted, deadline: Instant) -> io::Result<Ruleset> {
    let mut attempts = ATTEMPTS;
    loop {
        attempts -= 1;
        let before = generation()?;
        let mut reader = Reader { wanted, ..Reader::default() };
        let end = reader.dump(deadline)?;
        reader.sets(deadline);
        let changed = end == End::Changed || generation()? != before;
        if changed && attempts > 0 && Instant::now() < deadline {
            continue;
        }
        let mut problems = Vec::new();
        if end == End::Cut {
            problems.push("the ruleset is too large to be read whole".to_owned());
        } else if changed {
            problems.push("the ruleset changed while it was read".to_owned());
        }
        let (rules, found) = reader.finish();
        return Ok(Ruleset { generation: before, rules, found, problems });
    }
}

fn generation() -> io::Result<Option<u32>> {
    const NFTA_GEN_ID: u16 = 1;
    let answer = Nfnetlink::open()?.exchange(&request(NFT_MSG_GETGEN, 0, 0, &[]))?;
    Ok(attribute(message(&answer)?.attributes, NFTA_GEN_ID).and_then(number))
}

/// A family's number and a table's name.
type Table = (u8, String);

/// Puts a ruleset together from its dumps.
#[derive(Debug, Default)]
struct Reader {
    wanted: Wanted,
    dormant: BTreeSet<Table>,
    chains: BTreeMap<Table, Chains>,
    /// Rules of each chain so far.
    places: BTreeMap<(Table, String), u32>,
    rules: Vec<Candidate>,
    /// Base chains that drop.
    drops: Vec<(Table, BaseChain)>,
    /// Tables that iptables-nft writes.
    of_xtables: BTreeSet<Table>,
}

/// A rule that answers with a RST, or may be noted.
#[derive(Debug)]
struct Candidate {
    key: Table,
    rule: Rule,
    read: Expressions,
}

impl Reader {
    fn dump(&mut self, deadline: Instant) -> io::Result<End> {
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

    fn table(&mut self, message: Message<'_>) {
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

    fn chain(&mut self, message: Message<'_>) {
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

    fn rule(&mut self, message: Message<'_>) {
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
    fn sets(&mut self, deadline: Instant) {
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
                                read.end_with(verdict);
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

    fn finish(self) -> (Vec<Rule>, Found) {
        let reached: BTreeMap<Table, BTreeMap<String, Hooks>> =
            self.chains.into_iter().map(|(table, chains)| (table, chains.reached())).collect();
        let (mut rejecting, mut found) = (Vec::new(), Found::default());
        for Candidate { key, rule, read } in self.rules {
            if self.dormant.contains(&key) {
                continue;
            }
            let hooks = reached.get(&key).and_then(|chains| chains.get(&rule.chain)).copied().unwrap_or_default();
            let (does, rejects, unclear) = (read.does(), read.rejects.is_some(), read.unclear);
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

/// The families whose rules are read. Those of ARP, bridges and devices do not call `nf_send_reset`, and conntrack has not
/// seen their packets yet.
const fn family(number: u8) -> Option<Family> {
    match number {
        1 => Some(Family::Inet),
        2 => Some(Family::Ip),
        10 => Some(Family::Ip6),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
