//! The expressions of a rule: a program for a machine with registers. What it loads and compares is understood here as
//! far as an event can tell it; whatever else it does makes the rule incomplete, and excludes nothing.

use std::collections::BTreeMap;

use super::super::nfnetlink::{attribute, attributes, long, number, string};
use super::sets::Bounds;
use crate::ruleset::{Backend, Family, Key, Shown, Test};

/// What a rule does, as far as it is understood, up to where it rejects.
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

/// What a register holds.
#[derive(Debug, Clone)]
struct Loaded {
    key: Key,
    length: usize,
    mask: Vec<u8>,
}

/// Registers by their first four bytes: `NFT_REG_1` to `NFT_REG_4` have 16, `NFT_REG32_00` to `NFT_REG32_15` four.
#[derive(Debug, Default)]
struct Registers(BTreeMap<u32, Loaded>);

/// Bytes that an unknown expression may load: what all registers have.
const ALL: usize = 64;

impl Registers {
    fn unit(register: u32) -> Option<u32> {
        match register {
            1..=4 => Some((register - 1) * 4),
            8..=23 => Some(register - 8),
            _ => None,
        }
    }

    fn load(&mut self, register: u32, loaded: Loaded) {
        let units = |length: usize| u32::try_from(length.div_ceil(4)).unwrap_or(u32::MAX);
        let Some(unit) = Self::unit(register) else { return self.0.clear() };
        let end = unit.saturating_add(units(loaded.length));
        self.0.retain(|first, known| first.saturating_add(units(known.length)) <= unit || *first >= end);
        self.0.insert(unit, loaded);
    }

    /// Something that is not understood was loaded.
    fn lose(&mut self, register: u32) {
        self.load(register, Loaded { key: Key::Unknown, length: ALL, mask: Vec::new() });
    }

    fn get(&self, register: u32) -> Option<&Loaded> {
        self.0.get(&Self::unit(register)?).filter(|loaded| loaded.key != Key::Unknown)
    }
}

/// Most tests that are kept of a rule.
pub(super) const TESTS: usize = 16;
/// Most characters that are kept of its words.
const WORDS: usize = 160;

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;

/// Whether a rule goes on behind an expression.
#[derive(PartialEq, Eq)]
enum Goes {
    On,
    NoFurther,
}

impl Expressions {
    /// Reads `NFTA_RULE_EXPRESSIONS` of a rule of this family.
    pub(super) fn read(list: &[u8], family: Family) -> Self {
        let mut read = Self { complete: true, ..Self::default() };
        let mut registers = Registers::default();
        for (_, element) in attributes(list).filter(|(kind, _)| *kind == NFTA_LIST_ELEM) {
            let name = attribute(element, NFTA_EXPR_NAME).map(string).unwrap_or_default();
            let data = attribute(element, NFTA_EXPR_DATA).unwrap_or_default();
            if read.expression(&name, data, &mut registers, family) == Goes::NoFurther {
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
        match elements.filter(|elements| fits(elements) && !elements.is_empty() && self.tests.len() < TESTS) {
            Some(bounds) => {
                let test = Test { key: loaded.key, mask: loaded.mask, bounds, inside };
                if let Some(words) = self.text.get_mut(place) {
                    *words = Shown(&test, family).to_string();
                }
                self.tests.push(test);
            }
            None => self.complete = false,
        }
    }

    fn expression(&mut self, name: &str, data: &[u8], registers: &mut Registers, family: Family) -> Goes {
        match name {
            "meta" => self.meta(data, registers),
            "ct" => self.ct(data, registers),
            "payload" => self.payload(data, registers),
            "bitwise" => bitwise(data, registers),
            "cmp" => self.compare(data, registers, family),
            "range" => self.range(data, registers, family),
            "lookup" => self.lookup(data, registers, family),
            "immediate" => self.immediate(data, registers),
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
                if attribute(data, NFTA_REJECT_TYPE).and_then(number) == Some(NFT_REJECT_TCP_RST) {
                    self.rejects = Some(Backend::Nftables);
                    self.text.push("reject with tcp reset".to_owned());
                }
                return Goes::NoFurther;
            }
            // limit, quota, connlimit, fib, socket, …: whether they let a packet pass is not known here.
            other => {
                registers.0.clear();
                self.not_understood(format!("[{other}]"));
            }
        }
        Goes::On
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
        registers.load(register, Loaded { key, length, mask: Vec::new() });
    }

    fn ct(&mut self, data: &[u8], registers: &mut Registers) {
        const NFTA_CT_DREG: u16 = 1;
        const NFTA_CT_KEY: u16 = 2;
        const NFT_CT_STATE: u32 = 0;
        let Some(register) = attribute(data, NFTA_CT_DREG).and_then(number) else {
            return self.text.push("[ct set]".to_owned());
        };
        if attribute(data, NFTA_CT_KEY).and_then(number) == Some(NFT_CT_STATE) {
            registers.load(register, Loaded { key: Key::State, length: 4, mask: Vec::new() });
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
            Some(length) if length <= ALL => registers.load(register, Loaded { key, length, mask: Vec::new() }),
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
                self.not_understood(format!("{what}vmap @{set}"));
            }
            Some(register) => {
                self.not_understood(format!("{what}@{set}"));
                registers.lose(register);
            }
            None => {
                let flags = attribute(data, NFTA_LOOKUP_FLAGS).and_then(number).unwrap_or(0);
                let text = format!("{what}@{set}");
                // Named sets change by themselves; the kernel names anonymous ones so, which nobody else can.
                match loaded.filter(|_| set.starts_with("__set")) {
                    Some(loaded) if self.lookups.len() < TESTS => {
                        let (inside, place) = (flags & NFT_LOOKUP_F_INV == 0, self.text.len());
                        self.lookups.push(Lookup { set, loaded, inside, place });
                        self.text.push(text);
                    }
                    _ => self.not_understood(text),
                }
            }
        }
    }

    fn immediate(&mut self, data: &[u8], registers: &mut Registers) {
        const NFTA_IMMEDIATE_DREG: u16 = 1;
        const NFTA_IMMEDIATE_DATA: u16 = 2;
        const NFTA_VERDICT_CODE: u16 = 1;
        const NFTA_VERDICT_CHAIN: u16 = 2;
        const NFT_JUMP: i32 = -3;
        const NFT_GOTO: i32 = -4;
        let Some(verdict) = attribute(data, NFTA_IMMEDIATE_DATA).and_then(|data| attribute(data, NFTA_DATA_VERDICT))
        else {
            if let Some(register) = attribute(data, NFTA_IMMEDIATE_DREG).and_then(number) {
                registers.lose(register);
            }
            return;
        };
        let code = attribute(verdict, NFTA_VERDICT_CODE).and_then(number).map(u32::cast_signed);
        if matches!(code, Some(NFT_JUMP | NFT_GOTO)) {
            self.jumps.extend(attribute(verdict, NFTA_VERDICT_CHAIN).map(string));
        }
        self.not_understood("[verdict]".to_owned());
    }

    /// A match of xtables.
    fn xt_match(&mut self, data: &[u8], family: Family) {
        const NFTA_MATCH_NAME: u16 = 1;
        const NFTA_MATCH_REV: u16 = 2;
        const NFTA_MATCH_INFO: u16 = 3;
        let name = attribute(data, NFTA_MATCH_NAME).map(string).unwrap_or_default();
        let revision = attribute(data, NFTA_MATCH_REV).and_then(number).unwrap_or(0);
        let info = attribute(data, NFTA_MATCH_INFO).unwrap_or_default();
        let understood = match (name.as_str(), revision) {
            ("comment", _) => Some((Vec::new(), true)),
            ("tcp", 0) => xt_tcp(info),
            ("conntrack", 3) => xt_conntrack(info),
            _ => None,
        };
        match understood {
            Some((tests, all)) => {
                for test in tests {
                    self.test(test, family);
                }
                if !all {
                    self.not_understood(format!("-m {name} …"));
                }
            }
            None => self.not_understood(format!("-m {name}")),
        }
    }

    /// A target of xtables.
    fn xt_target(&mut self, data: &[u8], family: Family) -> Goes {
        const NFTA_TARGET_NAME: u16 = 1;
        const NFTA_TARGET_INFO: u16 = 3;
        /// `linux/netfilter_ipv4/ipt_REJECT.h`.
        const IPT_TCP_RESET: u32 = 7;
        /// `linux/netfilter_ipv6/ip6t_REJECT.h`.
        const IP6T_TCP_RESET: u32 = 6;
        let name = attribute(data, NFTA_TARGET_NAME).map(string).unwrap_or_default();
        if name != "REJECT" {
            self.not_understood(format!("-j {name}"));
            return Goes::On;
        }
        let with = attribute(data, NFTA_TARGET_INFO).and_then(|info| info.first_chunk()).copied();
        let reset = if family == Family::Ip6 { IP6T_TCP_RESET } else { IPT_TCP_RESET };
        if with.map(u32::from_ne_bytes) == Some(reset) {
            self.rejects = Some(Backend::IptablesNft);
            self.text.push("REJECT --reject-with tcp-reset".to_owned());
        }
        Goes::NoFurther
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
    fn tidy(&self) -> Vec<&str> {
        let begins = |with: &str| self.text.iter().any(|words| words.starts_with(with));
        let implied = |words: &str| match words {
            "meta l4proto tcp" | "ip protocol tcp" => begins("tcp "),
            "meta nfproto ipv4" => begins("ip "),
            "meta nfproto ipv6" => begins("ip6 "),
            _ => false,
        };
        self.text.iter().map(String::as_str).filter(|words| !implied(words)).collect()
    }
}

fn bitwise(data: &[u8], registers: &mut Registers) {
    const NFTA_BITWISE_SREG: u16 = 1;
    const NFTA_BITWISE_DREG: u16 = 2;
    const NFTA_BITWISE_MASK: u16 = 4;
    const NFTA_BITWISE_XOR: u16 = 5;
    const NFTA_BITWISE_OP: u16 = 6;
    /// Its name was `NFT_BITWISE_BOOL` before there were others.
    const NFT_BITWISE_MASK_XOR: u32 = 0;
    let field = |kind| attribute(data, kind).and_then(number);
    let value = |kind| attribute(data, kind).and_then(|data| attribute(data, NFTA_DATA_VALUE));
    let Some(register) = field(NFTA_BITWISE_DREG) else { return registers.0.clear() };
    let plain = field(NFTA_BITWISE_OP).unwrap_or(NFT_BITWISE_MASK_XOR) == NFT_BITWISE_MASK_XOR
        && value(NFTA_BITWISE_XOR).is_some_and(|xor| xor.iter().all(|byte| *byte == 0));
    let loaded = field(NFTA_BITWISE_SREG).and_then(|register| registers.get(register)).cloned();
    match (loaded, value(NFTA_BITWISE_MASK)) {
        (Some(loaded), Some(mask)) if plain && loaded.mask.is_empty() && mask.len() == loaded.length => {
            registers.load(register, Loaded { mask: mask.to_vec(), ..loaded });
        }
        _ => registers.lose(register),
    }
}

/// `struct xt_tcp` (`linux/netfilter/xt_tcpudp.h`): the tests, and whether they are all.
fn xt_tcp(info: &[u8]) -> Option<(Vec<Test>, bool)> {
    const XT_TCP_INV_SRCPT: u8 = 1;
    const XT_TCP_INV_DSTPT: u8 = 2;
    const XT_TCP_INV_FLAGS: u8 = 4;
    const FLAGS: Key = Key::TransportHeader { offset: 13 };
    let info: &[u8; 12] = info.first_chunk()?;
    let port = |at: usize| u16::from_ne_bytes([info[at], info[at + 1]]);
    let [option, mask, flags, invert] = [info[8], info[9], info[10], info[11]];
    let ports = |offset: u32, from: u16, to: u16, inverted: bool| {
        ((from, to) != (0, u16::MAX) || inverted).then(|| Test {
            key: Key::TransportHeader { offset },
            mask: Vec::new(),
            bounds: vec![(from.to_be_bytes().to_vec(), to.to_be_bytes().to_vec())],
            inside: !inverted,
        })
    };
    let inverted = invert & XT_TCP_INV_FLAGS != 0;
    let tests = [
        ports(0, port(0), port(2), invert & XT_TCP_INV_SRCPT != 0),
        ports(2, port(4), port(6), invert & XT_TCP_INV_DSTPT != 0),
        (mask != 0).then(|| Test { mask: vec![mask], inside: !inverted, ..Test::is(FLAGS, vec![flags]) }),
    ];
    Some((tests.into_iter().flatten().collect(), option == 0))
}

/// `struct xt_conntrack_mtinfo3` (`linux/netfilter/xt_conntrack.h`), likewise.
fn xt_conntrack(info: &[u8]) -> Option<(Vec<Test>, bool)> {
    const MATCH_FLAGS: usize = 146;
    const INVERT_FLAGS: usize = 148;
    const STATE_MASK: usize = 150;
    const XT_CONNTRACK_STATE: u16 = 1;
    /// `XT_CONNTRACK_STATE_BIT` of the four states, and `XT_CONNTRACK_STATE_INVALID`.
    const STATES: u16 = 0xf;
    const XT_CONNTRACK_STATE_UNTRACKED: u16 = 1 << 8;
    const NF_CT_STATE_UNTRACKED_BIT: u32 = 1 << 6;
    let short = |at: usize| Some(u16::from_ne_bytes([*info.get(at)?, *info.get(at + 1)?]));
    let (asked, inverted, states) = (short(MATCH_FLAGS)?, short(INVERT_FLAGS)?, short(STATE_MASK)?);
    // SNAT and DNAT are states of their own here; whether a packet's entry has them is not asked.
    let known = states & !(STATES | XT_CONNTRACK_STATE_UNTRACKED) == 0;
    if asked & XT_CONNTRACK_STATE == 0 || !known {
        return Some((Vec::new(), asked == 0));
    }
    let untracked = if states & XT_CONNTRACK_STATE_UNTRACKED == 0 { 0 } else { NF_CT_STATE_UNTRACKED_BIT };
    let bits = u32::from(states & STATES) | untracked;
    let test = Test::state(bits, inverted & XT_CONNTRACK_STATE != 0);
    Some((vec![test], asked == XT_CONNTRACK_STATE))
}
