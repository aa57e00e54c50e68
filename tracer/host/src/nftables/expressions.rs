//! The expressions of a rule: a program for a machine with registers. What it loads and compares is understood as far as an
//! event shows it; whatever else it does makes the rule incomplete, and excludes nothing.

use std::ops::ControlFlow;

use tracer_model::ruleset::audit::{Does, Verdict};
use tracer_model::ruleset::{Backend, Family, Key, Shown, Test};

use super::messages::{NFTA_DATA_VALUE, NFTA_DATA_VERDICT};
use super::registers::{ALL, Loaded, Registers, bitwise};
use super::sets::Bounds;
use super::statements::{translates, verdict};
use crate::iptables::compat;
use crate::iptables::xtables::Target;
use crate::nfnetlink::{attribute, attributes, long, number, string};
use crate::terminal::Terminal;

/// What a rule does, as far as it is understood, up to where it ends.
#[derive(Debug, Default)]
pub(super) struct Expressions {
    /// Whether it answers with a RST, and who wrote it.
    pub(super) rejects: Option<Backend>,
    /// What it asks of a packet before.
    pub(super) tests: Vec<Test>,
    /// Whether that is all.
    pub(super) complete: bool,
    /// Packets counted before.
    pub(super) packets: Option<u64>,
    /// Chains that it jumps or goes to.
    pub(super) jumps: Vec<String>,
    /// Whether it has a verdict map, whose elements may lead to any chain.
    pub(super) anywhere: bool,
    /// What it looks up in sets whose elements are still to be read.
    pub(super) lookups: Vec<Lookup>,
    /// What it comes to.
    pub(super) terminal: Option<Terminal>,
    /// An anonymous verdict map from conntrack states to verdicts.
    pub(super) state_map: Option<String>,
    /// Whether it asks for the conntrack state, or translates, in a way that is not understood.
    pub(super) unclear: bool,
    /// Who wrote it, where that shows: matches and targets of xtables are those of iptables-nft.
    pub(super) author: Option<Backend>,
    /// It in words.
    text: Vec<String>,
}

/// A look-up in an anonymous set, as in `tcp dport { 80, 443 }`.
#[derive(Debug)]
pub(super) struct Lookup {
    /// The set's name.
    pub(super) set: String,
    loaded: Loaded,
    inside: bool,
    /// Its place in the words.
    place: usize,
}

/// Most tests that are kept of a rule.
pub(super) const TESTS: usize = 16;
/// Most characters that are kept of its words.
const WORDS: usize = 160;

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;

impl Expressions {
    /// Reads `NFTA_RULE_EXPRESSIONS` of a rule of this family.
    pub(super) fn read(list: &[u8], family: Family) -> Self {
        let mut read = Self { complete: true, ..Self::default() };
        let mut registers = Registers::default();
        for (_, element) in attributes(list).filter(|(kind, _)| *kind == NFTA_LIST_ELEM) {
            let name = attribute(element, NFTA_EXPR_NAME).map(string).unwrap_or_default();
            let data = attribute(element, NFTA_EXPR_DATA).unwrap_or_default();
            if read.expression(&name, data, &mut registers, family).is_break() {
                break;
            }
        }
        read
    }

    /// Takes the elements of a set that it looks something up in; none where they are not known.
    pub(super) fn resolve(&mut self, lookup: Lookup, elements: Option<Bounds>, family: Family) {
        let Lookup { loaded, inside, place, .. } = lookup;
        let fits = |bounds: &Bounds| {
            let length = |(from, to): &(Vec<u8>, Vec<u8>)| from.len() == loaded.length && to.len() == loaded.length;
            bounds.iter().all(|bounds| length(bounds) && (loaded.key != Key::State || bounds.0 == bounds.1))
        };
        let (of_state, tests) = (loaded.key == Key::State, self.tests.len());
        let elements = elements.filter(|elements| fits(elements) && !elements.is_empty() && tests < TESTS);
        if let Some(bounds) = elements {
            let test = Test { key: loaded.key, mask: loaded.mask, bounds, inside };
            if let Some(words) = self.text.get_mut(place) {
                *words = Shown(&test, family).to_string();
            }
            self.tests.push(test);
        } else {
            self.complete = false;
            self.unclear |= of_state;
        }
    }

    /// Whether an audit may note it; of the many rules that only accept or drop few do.
    pub(super) fn may_matter(&self) -> bool {
        let asks = || self.tests.iter().any(|test| test.key == Key::State);
        let looks_up = || self.lookups.iter().any(|lookup| lookup.loaded.key == Key::State);
        let does = matches!(self.terminal, Some(Terminal::Does(_)));
        does || self.unclear || self.state_map.is_some() || (self.terminal.is_some() && (asks() || looks_up()))
    }

    /// What an audit notes of it, once its sets are read.
    pub(super) fn noted(&self) -> Option<Does> {
        self.terminal.clone()?.noted(&self.tests)
    }

    /// Decides what becomes of packets in the state INVALID by its verdict map.
    pub(super) fn decide_invalid(&mut self, verdict: Verdict) {
        let terminal = Terminal::Verdict(verdict);
        self.text.push(format!("{{ invalid : {} }}", terminal.words()));
        self.tests.push(Test::state(1, false));
        self.terminal = Some(terminal);
    }

    fn expression(&mut self, name: &str, data: &[u8], registers: &mut Registers, family: Family) -> ControlFlow<()> {
        match name {
            "meta" => self.meta(data, registers),
            "ct" => self.ct(data, registers),
            "payload" => self.payload(data, registers),
            "bitwise" => bitwise(data, registers),
            "cmp" => self.compare(data, registers, family),
            "range" => self.range(data, registers, family),
            "lookup" => self.lookup(data, registers, family),
            "immediate" => return self.immediate(data, registers),
            "counter" => {
                const NFTA_COUNTER_PACKETS: u16 = 2;
                self.packets = attribute(data, NFTA_COUNTER_PACKETS).and_then(long);
                self.text.push("counter".to_owned());
            }
            "log" => self.text.push("log".to_owned()),
            "match" => self.xt_match(data, family),
            "target" => return self.xt_target(data, family),
            "reject" => {
                const NFTA_REJECT_TYPE: u16 = 1;
                const NFT_REJECT_TCP_RST: u32 = 1;
                self.terminal = Some(Terminal::Verdict(Verdict::Reject));
                if attribute(data, NFTA_REJECT_TYPE).and_then(number) == Some(NFT_REJECT_TCP_RST) {
                    self.rejects = Some(Backend::Nftables);
                    self.text.push("reject with tcp reset".to_owned());
                } else {
                    self.text.push("reject".to_owned());
                }
                return ControlFlow::Break(());
            }
            "notrack" => self.ends(Terminal::Does(Does::Untracks)),
            "nat" | "masq" | "redir" => {
                match translates(name, data, registers) {
                    Some((does, known)) => {
                        self.unclear |= !known;
                        self.ends(Terminal::Does(does));
                    }
                    None => self.unclear = true,
                }
                return ControlFlow::Break(());
            }
            // limit, quota, connlimit, fib, socket, …: whether they let a packet pass is not known here.
            other => {
                registers.clear();
                self.not_understood(format!("[{other}]"));
            }
        }
        ControlFlow::Continue(())
    }

    fn ends(&mut self, terminal: Terminal) {
        self.text.push(terminal.words());
        self.terminal = Some(terminal);
    }

    fn not_understood(&mut self, text: String) {
        self.complete = false;
        self.text.push(text);
    }

    fn test(&mut self, mut test: Test, family: Family) {
        // A range is written as two comparisons, one after the other.
        if let Some(both) = self.tests.last().and_then(|last| last.and(&test))
            && self.tests.last().map(|last| Shown(last, family).to_string()).as_ref() == self.text.last()
        {
            self.tests.pop();
            self.text.pop();
            test = both;
        }
        self.text.push(Shown(&test, family).to_string());
        if self.tests.len() < TESTS {
            self.tests.push(test);
        } else {
            self.complete = false;
        }
    }

    fn meta(&mut self, data: &[u8], registers: &mut Registers) {
        const NFTA_META_DREG: u16 = 1;
        const NFTA_META_KEY: u16 = 2;
        let key = attribute(data, NFTA_META_KEY).and_then(number);
        let Some(register) = attribute(data, NFTA_META_DREG).and_then(number) else {
            // `meta mark set` and its like ask nothing.
            return self.text.push("[meta set]".to_owned());
        };
        let (key, length) = match key {
            Some(1) => (Key::EtherType, 2),
            Some(6) => (Key::InputName, 16),
            Some(7) => (Key::OutputName, 16),
            Some(15) => (Key::Family, 1),
            Some(16) => (Key::Transport, 1),
            _ => return registers.lose(register),
        };
        registers.load(register, Loaded::new(key, length));
    }

    fn ct(&mut self, data: &[u8], registers: &mut Registers) {
        const NFTA_CT_DREG: u16 = 1;
        const NFTA_CT_KEY: u16 = 2;
        const NFT_CT_STATE: u32 = 0;
        let Some(register) = attribute(data, NFTA_CT_DREG).and_then(number) else {
            return self.text.push("[ct set]".to_owned());
        };
        if attribute(data, NFTA_CT_KEY).and_then(number) == Some(NFT_CT_STATE) {
            registers.load(register, Loaded::new(Key::State, 4));
        } else {
            registers.lose(register);
        }
    }

    fn payload(&mut self, data: &[u8], registers: &mut Registers) {
        const NFTA_PAYLOAD_DREG: u16 = 1;
        const NFTA_PAYLOAD_BASE: u16 = 2;
        const NFTA_PAYLOAD_OFFSET: u16 = 3;
        const NFTA_PAYLOAD_LEN: u16 = 4;
        let field = |kind| attribute(data, kind).and_then(number);
        let Some(register) = field(NFTA_PAYLOAD_DREG) else {
            // The packet is changed: what was asked of it before is not what the event shows.
            self.tests.clear();
            self.lookups.clear();
            return self.not_understood("[payload set]".to_owned());
        };
        let (offset, length) = (field(NFTA_PAYLOAD_OFFSET), field(NFTA_PAYLOAD_LEN));
        let key = match (field(NFTA_PAYLOAD_BASE), offset) {
            (Some(1), Some(offset)) => Key::NetworkHeader { offset },
            (Some(2), Some(offset)) => Key::TransportHeader { offset },
            _ => return registers.lose(register),
        };
        match length.and_then(|length| usize::try_from(length).ok()) {
            Some(length) if length <= ALL => registers.load(register, Loaded::new(key, length)),
            _ => registers.lose(register),
        }
    }

    fn compare(&mut self, data: &[u8], registers: &Registers, family: Family) {
        const NFTA_CMP_SREG: u16 = 1;
        const NFTA_CMP_OP: u16 = 2;
        const NFTA_CMP_DATA: u16 = 3;
        let loaded = attribute(data, NFTA_CMP_SREG).and_then(number).and_then(|register| registers.get(register));
        let value = attribute(data, NFTA_CMP_DATA).and_then(|data| attribute(data, NFTA_DATA_VALUE));
        let operator = attribute(data, NFTA_CMP_OP).and_then(number);
        let (Some(loaded), Some(value), Some(operator)) = (loaded, value, operator) else {
            return self.not_understood("[cmp]".to_owned());
        };
        let (least, most) = (vec![0; value.len()], vec![0xff; value.len()]);
        let value = value.to_vec();
        // NFT_CMP_EQ, NEQ, LT, LTE, GT, GTE.
        let (from, to, inside) = match operator {
            0 => (value.clone(), value, true),
            1 => (value.clone(), value, false),
            2 => (value, most, false),
            3 => (least, value, true),
            4 => (least, value, false),
            5 => (value, most, true),
            _ => return self.not_understood("[cmp]".to_owned()),
        };
        self.bounds(loaded, from, to, inside, family);
    }

    fn range(&mut self, data: &[u8], registers: &Registers, family: Family) {
        const NFTA_RANGE_SREG: u16 = 1;
        const NFTA_RANGE_OP: u16 = 2;
        const NFTA_RANGE_FROM_DATA: u16 = 3;
        const NFTA_RANGE_TO_DATA: u16 = 4;
        let loaded = attribute(data, NFTA_RANGE_SREG).and_then(number).and_then(|register| registers.get(register));
        let bound = |kind| attribute(data, kind).and_then(|data| attribute(data, NFTA_DATA_VALUE)).map(<[u8]>::to_vec);
        match (loaded, bound(NFTA_RANGE_FROM_DATA), bound(NFTA_RANGE_TO_DATA)) {
            (Some(loaded), Some(from), Some(to)) => {
                let inside = attribute(data, NFTA_RANGE_OP).and_then(number).unwrap_or(0) == 0;
                self.bounds(loaded, from, to, inside, family);
            }
            _ => self.not_understood("[range]".to_owned()),
        }
    }

    fn bounds(&mut self, loaded: &Loaded, from: Vec<u8>, to: Vec<u8>, inside: bool, family: Family) {
        let length = from.len();
        // Numbers of the host's order are compared for equality alone.
        let ordered = loaded.key != Key::State || from == to;
        if length == 0 || length > loaded.length || to.len() != length || !ordered {
            self.unclear |= loaded.key == Key::State;
            return self.not_understood("[cmp]".to_owned());
        }
        let mask = loaded.mask.get(..length).unwrap_or(&loaded.mask).to_vec();
        self.test(Test { key: loaded.key, mask, bounds: vec![(from, to)], inside }, family);
    }

    fn lookup(&mut self, data: &[u8], registers: &mut Registers, family: Family) {
        const NFTA_LOOKUP_SET: u16 = 1;
        const NFTA_LOOKUP_SREG: u16 = 2;
        const NFTA_LOOKUP_DREG: u16 = 3;
        const NFT_REG_VERDICT: u32 = 0;
        const NFTA_LOOKUP_FLAGS: u16 = 5;
        const NFT_LOOKUP_F_INV: u32 = 1;
        let loaded = attribute(data, NFTA_LOOKUP_SREG).and_then(number).and_then(|register| registers.get(register));
        let loaded = loaded.cloned();
        let what = loaded.as_ref().map_or_else(String::new, |loaded| loaded.key.words(loaded.length, family) + " ");
        let set = attribute(data, NFTA_LOOKUP_SET).map(string).unwrap_or_default();
        match attribute(data, NFTA_LOOKUP_DREG).and_then(number) {
            Some(NFT_REG_VERDICT) => {
                self.anywhere = true;
                if loaded.is_some_and(|loaded| loaded.key == Key::State && loaded.mask.is_empty()) {
                    if set.starts_with("__map") {
                        self.state_map = Some(set.clone());
                    } else {
                        self.unclear = true;
                    }
                }
                self.not_understood(format!("{what}vmap @{set}"));
            }
            Some(register) => {
                self.not_understood(format!("{what}@{set}"));
                registers.lose(register);
            }
            None => {
                let flags = attribute(data, NFTA_LOOKUP_FLAGS).and_then(number).unwrap_or(0);
                let text = format!("{what}@{set}");
                let of_state = loaded.as_ref().is_some_and(|loaded| loaded.key == Key::State);
                // Named sets change by themselves; the kernel names anonymous ones so, which nobody else can.
                match loaded.filter(|_| set.starts_with("__set")) {
                    Some(loaded) if self.lookups.len() < TESTS => {
                        let (inside, place) = (flags & NFT_LOOKUP_F_INV == 0, self.text.len());
                        self.lookups.push(Lookup { set, loaded, inside, place });
                        self.text.push(text);
                    }
                    _ => {
                        self.unclear |= of_state;
                        self.not_understood(text);
                    }
                }
            }
        }
    }

    fn immediate(&mut self, data: &[u8], registers: &mut Registers) -> ControlFlow<()> {
        const NFTA_IMMEDIATE_DREG: u16 = 1;
        const NFTA_IMMEDIATE_DATA: u16 = 2;
        let given = attribute(data, NFTA_IMMEDIATE_DATA);
        let Some(decided) = given.and_then(|data| attribute(data, NFTA_DATA_VERDICT)) else {
            if let Some(register) = attribute(data, NFTA_IMMEDIATE_DREG).and_then(number) {
                registers.lose(register);
                let value = given.and_then(|data| attribute(data, NFTA_DATA_VALUE)).filter(|value| value.len() <= ALL);
                if let Some(value) = value {
                    let constant = Some(value.to_vec());
                    registers.load(register, Loaded { constant, ..Loaded::new(Key::Unknown, value.len()) });
                }
            }
            return ControlFlow::Continue(());
        };
        match verdict(decided) {
            Some(verdict) => {
                if let Verdict::Chain(to) = &verdict {
                    self.jumps.push(to.clone());
                    self.complete = false;
                }
                self.ends(Terminal::Verdict(verdict));
            }
            None => self.not_understood("[verdict]".to_owned()),
        }
        // Of what stands behind a verdict nothing is ever run.
        ControlFlow::Break(())
    }

    /// A match of xtables.
    fn xt_match(&mut self, data: &[u8], family: Family) {
        const NFTA_MATCH_NAME: u16 = 1;
        const NFTA_MATCH_REV: u16 = 2;
        const NFTA_MATCH_INFO: u16 = 3;
        self.author = Some(Backend::IptablesNft);
        let name = attribute(data, NFTA_MATCH_NAME).map(string).unwrap_or_default();
        let revision = attribute(data, NFTA_MATCH_REV).and_then(number).unwrap_or(0);
        let info = attribute(data, NFTA_MATCH_INFO).unwrap_or_default();
        if let Some((tests, all)) = compat::matched(&name, revision, info) {
            for test in tests {
                self.test(test, family);
            }
            if !all {
                self.not_understood(format!("-m {name} …"));
            }
        } else {
            self.unclear |= matches!(name.as_str(), "conntrack" | "state");
            self.not_understood(format!("-m {name}"));
        }
    }

    /// A target of xtables.
    fn xt_target(&mut self, data: &[u8], family: Family) -> ControlFlow<()> {
        const NFTA_TARGET_NAME: u16 = 1;
        const NFTA_TARGET_REV: u16 = 2;
        const NFTA_TARGET_INFO: u16 = 3;
        let name = attribute(data, NFTA_TARGET_NAME).map(string).unwrap_or_default();
        let revision = attribute(data, NFTA_TARGET_REV).and_then(number).unwrap_or(0);
        let info = attribute(data, NFTA_TARGET_INFO).unwrap_or_default();
        self.author = Some(Backend::IptablesNft);
        match compat::target(&name, revision, info, family) {
            Target::Reset => {
                self.rejects = self.author;
                self.terminal = Some(Terminal::Verdict(Verdict::Reject));
                self.text.push("REJECT --reject-with tcp-reset".to_owned());
                return ControlFlow::Break(());
            }
            Target::Terminal(rejects @ Terminal::Verdict(Verdict::Reject)) => {
                self.terminal = Some(rejects);
                self.text.push("REJECT".to_owned());
                return ControlFlow::Break(());
            }
            Target::Terminal(does @ Terminal::Does(_)) => self.ends(does),
            // Chains and other verdicts are nftables' own here: these are extensions.
            other => {
                self.unclear |= other == Target::Unreadable;
                self.not_understood(format!("-j {name}"));
            }
        }
        ControlFlow::Continue(())
    }

    /// It in short.
    pub(super) fn words(&self) -> String {
        let text = self.tidy().join(" ");
        match text.char_indices().nth(WORDS) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    }

    /// Its words, without those that others of them imply.
    fn tidy(&self) -> Vec<String> {
        let has = |words: &str| self.text.iter().any(|known| known == words);
        let begins = |with: &str| self.text.iter().any(|words| words.starts_with(with));
        // A test of the transport header is written as if it were TCP's; a rule that answers with a RST sees no other.
        let transport = if has("meta l4proto udp") || has("ip protocol udp") {
            "udp "
        } else if self.rejects.is_some() || has("meta l4proto tcp") || has("ip protocol tcp") {
            "tcp "
        } else {
            "th "
        };
        let implied = |words: &str| match words {
            "meta l4proto tcp" | "ip protocol tcp" | "meta l4proto udp" | "ip protocol udp" => begins("tcp "),
            "meta nfproto ipv4" => begins("ip "),
            "meta nfproto ipv6" => begins("ip6 "),
            _ => false,
        };
        let kept = self.text.iter().filter(|words| !implied(words));
        kept.map(|words| words.strip_prefix("tcp ").map_or_else(|| words.clone(), |rest| format!("{transport}{rest}")))
            .collect()
    }
}
