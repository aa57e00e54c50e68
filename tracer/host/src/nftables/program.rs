//! The expressions of a rule as steps: a program for a machine with registers becomes what it asks of a packet and does to it.
//! What cannot be expressed stays in, by name.

use std::ops::ControlFlow;

use tracer_model::ruleset::audit::output;
use tracer_model::ruleset::tables::{Action, Condition, Field, Nat, Step};
use tracer_model::ruleset::{Family, Hooks, Key, Test};

use super::elements::stateful;
use super::loads;
use super::machine::{Held, Loaded, Lost, Machine, Numbers, swapped};
use super::messages::{NFTA_DATA_VALUE, NFTA_DATA_VERDICT};
use super::statements::{decided, translation};
use super::words::{self, Part};
use crate::iptables::compat;
use crate::nfnetlink::{attribute, attributes, long, number, string};

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
/// `NF_CT_STATE_INVALID_BIT` and `NF_CT_STATE_UNTRACKED_BIT`: the packet has no conntrack entry.
const NO_ENTRY: u32 = 1 | 1 << 6;

const NFT_SET_ANONYMOUS: u32 = 1;

/// What is known of a set before its elements are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Shape {
    /// `NFT_SET_*`.
    pub(super) flags: u32,
    /// Bytes of a key.
    pub(super) key: usize,
    /// Bytes of what a map maps it to.
    pub(super) data: usize,
    /// `NFT_OBJECT_*` of a map of objects.
    pub(super) object: u32,
}

/// A rule as steps.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Program {
    /// What it asks and does.
    pub(super) steps: Vec<Step>,
    /// Packets that it has counted.
    pub(super) packets: Option<u64>,
    /// It in words.
    pub(super) parts: Vec<Part>,
    /// Whether it has a match or a target of xtables.
    pub(super) xtables: bool,
    /// Maps that it looks a number of chance up in.
    pub(super) numbers: Vec<(String, Numbers)>,
}

/// Reads `NFTA_RULE_EXPRESSIONS` of a rule of this family, in a chain that these hooks enter.
pub(super) fn read(list: &[u8], family: Family, hooks: Hooks, shape: impl Fn(&str) -> Option<Shape>) -> Program {
    let mut reader =
        Reader { family, hooks, shape, machine: Machine::default(), offload: None, program: Program::default() };
    for (_, element) in attributes(list).filter(|(kind, _)| *kind == NFTA_LIST_ELEM) {
        let name = attribute(element, NFTA_EXPR_NAME).map(string).unwrap_or_default();
        let data = attribute(element, NFTA_EXPR_DATA).unwrap_or_default();
        if reader.expression(&name, data).is_break() {
            break;
        }
    }
    reader.program
}

struct Reader<S> {
    family: Family,
    hooks: Hooks,
    shape: S,
    machine: Machine,
    /// A flowtable that the rule puts the connection into: whether it does decides whether the rule goes on.
    offload: Option<String>,
    program: Program,
}

fn field(data: &[u8], kind: u16) -> Option<u32> {
    attribute(data, kind).and_then(number)
}

fn value(data: &[u8], kind: u16) -> Option<&[u8]> {
    attribute(data, kind).and_then(|data| attribute(data, NFTA_DATA_VALUE))
}

fn size(data: &[u8], kind: u16) -> usize {
    field(data, kind).and_then(|length| usize::try_from(length).ok()).unwrap_or(0)
}

impl<S: Fn(&str) -> Option<Shape>> Reader<S> {
    fn expression(&mut self, name: &str, data: &[u8]) -> ControlFlow<()> {
        match name {
            "meta" => self.meta(data),
            "ct" => self.ct(data),
            "payload" => self.payload(data),
            "exthdr" => self.option(data),
            "fib" | "socket" | "rt" | "osf" | "tunnel" | "xfrm" | "numgen" | "hash" => match loads::other(name, data) {
                Some((register, held)) => self.machine.load(register, held),
                None => self.strange(name),
            },
            "bitwise" => self.bitwise(data),
            "byteorder" => {
                const NFTA_BYTEORDER_SREG: u16 = 1;
                const NFTA_BYTEORDER_DREG: u16 = 2;
                const NFTA_BYTEORDER_LEN: u16 = 4;
                const NFTA_BYTEORDER_SIZE: u16 = 5;
                match (field(data, NFTA_BYTEORDER_SREG), field(data, NFTA_BYTEORDER_DREG)) {
                    (Some(from), Some(to)) => {
                        self.machine.turn(from, to, size(data, NFTA_BYTEORDER_LEN), size(data, NFTA_BYTEORDER_SIZE));
                    }
                    _ => self.strange(name),
                }
            }
            "cmp" => self.compare(data),
            "range" => self.range(data),
            "lookup" => return self.lookup(data),
            "immediate" => return self.immediate(data),
            "match" | "target" => return self.xtables(name, data),
            "limit" | "quota" | "connlimit" => {
                let (text, over) = loads::rate(name, data);
                self.words(text.clone());
                self.ask(rate(name, text, over));
            }
            "dynset" => self.dynset(data),
            "objref" => return self.objref(data),
            _ => return self.statement(name, data),
        }
        ControlFlow::Continue(())
    }

    /// Statements that ask nothing.
    fn statement(&mut self, name: &str, data: &[u8]) -> ControlFlow<()> {
        let action = match name {
            "counter" => {
                const NFTA_COUNTER_PACKETS: u16 = 2;
                self.program.packets = attribute(data, NFTA_COUNTER_PACKETS).and_then(long);
                Action::Nothing("counter".to_owned())
            }
            "log" | "last" | "dup" => Action::Nothing(name.to_owned()),
            "notrack" => Action::Untrack,
            "reject" => {
                const NFTA_REJECT_TYPE: u16 = 1;
                const NFT_REJECT_TCP_RST: u32 = 1;
                match field(data, NFTA_REJECT_TYPE) {
                    Some(NFT_REJECT_TCP_RST) => Action::RejectWithReset,
                    _ => Action::RejectWithIcmp,
                }
            }
            "nat" | "masq" | "redir" => return self.translates(name, data),
            "queue" => {
                const NFTA_QUEUE_FLAGS: u16 = 3;
                const NFT_QUEUE_FLAG_BYPASS: u8 = 1;
                let flags = attribute(data, NFTA_QUEUE_FLAGS).and_then(|flags| flags.get(1));
                Action::Queue { bypass: flags.is_some_and(|flags| flags & NFT_QUEUE_FLAG_BYPASS != 0) }
            }
            "synproxy" => Action::Synproxy,
            "tproxy" => Action::Tproxy,
            "flow_offload" => {
                const NFTA_FLOW_TABLE_NAME: u16 = 1;
                let flowtable = attribute(data, NFTA_FLOW_TABLE_NAME).map(string).unwrap_or_default();
                // A packet without an entry ends the rule (`nft_flow_offload_eval`).
                self.entry();
                Action::Offload { flowtable }
            }
            "fwd" => Action::NotUnderstood("fwd".to_owned()),
            other => {
                self.strange(other);
                return ControlFlow::Continue(());
            }
        };
        let offload = match &action {
            Action::Offload { .. } => Some(words::action(&action)),
            _ => None,
        };
        let flow = self.act(action);
        self.offload = self.offload.take().or(offload);
        flow
    }

    /// An expression that is not known: it may load, ask and decide anything.
    fn strange(&mut self, name: &str) {
        self.machine.clear();
        let text = format!("[{name}]");
        self.words(text.clone());
        self.step(Step::Do(Action::NotUnderstood(text)));
    }

    fn words(&mut self, text: impl Into<String>) {
        self.program.parts.push(Part::Text(text.into()));
    }

    fn step(&mut self, step: Step) {
        if !matches!(step, Step::Do(Action::Nothing(_)))
            && let Some(text) = self.offload.take()
        {
            self.program.steps.push(Step::If(Condition::Varies(text)));
        }
        self.program.steps.push(step);
    }

    fn ask(&mut self, condition: Condition) {
        self.step(Step::If(condition));
    }

    fn act(&mut self, action: Action) -> ControlFlow<()> {
        self.words(words::action(&action));
        let ends = ends(&action);
        self.step(Step::Do(action));
        // Of what stands behind a verdict nothing is ever run.
        if ends { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// What uses bytes of a conntrack entry or a socket ends the rule where there is none (`NFT_BREAK`).
    fn needs(&mut self, held: Option<&Held>) {
        match held {
            Some(Held::Bytes(Loaded {
                key: Key::ConnectionMark | Key::ConnectionStatus | Key::ConnectionDirection | Key::Connection,
                ..
            })) => self.entry(),
            Some(Held::Bytes(Loaded { key: Key::Socket, length, .. })) => {
                // Whatever it is: a test of no bit holds where there is a socket.
                let none = vec![0; *length];
                let there = Test { mask: none.clone(), ..Test::is(Key::Socket, none) };
                self.ask(Condition::Is(there));
            }
            _ => {}
        }
    }

    fn entry(&mut self) {
        let tracked = Step::If(Condition::Is(Test::state(NO_ENTRY, true)));
        if !self.program.steps.contains(&tracked) {
            self.step(tracked);
        }
    }

    fn meta(&mut self, data: &[u8]) {
        const NFTA_META_DREG: u16 = 1;
        const NFTA_META_KEY: u16 = 2;
        const NFTA_META_SREG: u16 = 3;
        const NFT_META_MARK: u32 = 3;
        let key = field(data, NFTA_META_KEY);
        if let Some(register) = field(data, NFTA_META_DREG) {
            return self.machine.load(register, loads::meta(key));
        }
        let held = field(data, NFTA_META_SREG).and_then(|register| self.machine.get(register)).cloned();
        self.needs(held.as_ref());
        let action = match (key, &held) {
            (Some(NFT_META_MARK), Some(held)) => mark(held),
            (Some(NFT_META_MARK), None) => Action::MarkUnknown,
            // NFT_META_PRIORITY, NFT_META_NFTRACE, NFT_META_SECMARK.
            (Some(2 | 12 | 14), _) => Action::Nothing(format!("{} set", loads::meta_name(key))),
            _ => Action::NotUnderstood(format!("{} set", loads::meta_name(key))),
        };
        let text = match (&action, held) {
            (Action::MarkUnknown, Some(Held::Bytes(loaded))) => {
                format!("meta mark set {}", self.named(&loaded))
            }
            (Action::MarkUnknown, Some(Held::Lost(lost))) => format!("meta mark set {}", lost.name),
            _ => words::action(&action),
        };
        self.words(text);
        self.step(Step::Do(action));
    }

    fn ct(&mut self, data: &[u8]) {
        const NFTA_CT_DREG: u16 = 1;
        const NFTA_CT_KEY: u16 = 2;
        const NFTA_CT_DIRECTION: u16 = 3;
        const NFTA_CT_SREG: u16 = 4;
        const NFT_CT_ZONE: u32 = 17;
        let key = field(data, NFTA_CT_KEY);
        if let Some(register) = field(data, NFTA_CT_DREG) {
            let direction = attribute(data, NFTA_CT_DIRECTION).and_then(|bytes| bytes.first()).copied();
            return self.machine.load(register, loads::ct(key, direction));
        }
        let held = field(data, NFTA_CT_SREG).and_then(|register| self.machine.get(register)).cloned();
        self.needs(held.as_ref());
        let name = key.and_then(|key| loads::CT.get(key as usize)).map_or("?", |(name, ..)| name);
        let text = format!("ct {name} set");
        self.words(text.clone());
        let action = if key == Some(NFT_CT_ZONE) { Action::NotUnderstood(text) } else { Action::Nothing(text) };
        self.step(Step::Do(action));
    }

    fn payload(&mut self, data: &[u8]) {
        const NFTA_PAYLOAD_DREG: u16 = 1;
        const NFTA_PAYLOAD_BASE: u16 = 2;
        const NFTA_PAYLOAD_OFFSET: u16 = 3;
        const NFTA_PAYLOAD_LEN: u16 = 4;
        const NFTA_PAYLOAD_SREG: u16 = 5;
        /// More than any header has.
        const FAR: u32 = 1 << 16;
        let base = field(data, NFTA_PAYLOAD_BASE);
        let offset = field(data, NFTA_PAYLOAD_OFFSET).filter(|offset| *offset < FAR);
        let length = size(data, NFTA_PAYLOAD_LEN).min(FAR as usize);
        if let Some(register) = field(data, NFTA_PAYLOAD_DREG) {
            let held = match (base, offset) {
                (Some(0), Some(offset)) => Held::Bytes(Loaded::new(Key::LinkHeader { offset }, length)),
                (Some(1), Some(offset)) => Held::Bytes(Loaded::new(Key::NetworkHeader { offset }, length)),
                (Some(2), Some(offset)) => Held::Bytes(Loaded::new(Key::TransportHeader { offset }, length)),
                // NFT_PAYLOAD_INNER_HEADER: behind the TCP header.
                (_, offset) => {
                    Held::Lost(Lost::varying(format!("@ih,{},{}", offset.unwrap_or(0) * 8, length * 8), length))
                }
            };
            return self.machine.load(register, held);
        }
        let held = field(data, NFTA_PAYLOAD_SREG).and_then(|register| self.machine.get(register)).cloned();
        self.needs(held.as_ref());
        let start = offset.and_then(|offset| usize::try_from(offset).ok()).unwrap_or(0);
        let touches = |from: usize, to: usize| start < to && from < start + length;
        let (ipv4, ipv6) = self.versions();
        let harmless = match base {
            Some(0) => true,
            Some(1) => !(ipv4 && touches(12, 20) || ipv6 && touches(8, 40)),
            // The window and what follows it.
            Some(2) => !touches(0, 14),
            _ => false,
        };
        let text = match base {
            Some(base @ 0..=2) => format!("@{},{},{} set", ["ll", "nh", "th"][base as usize], start * 8, length * 8),
            _ => "payload set".to_owned(),
        };
        self.words(text.clone());
        self.step(Step::Do(if harmless { Action::Nothing(text) } else { Action::NotUnderstood(text) }));
    }

    /// Whether the rule may have a packet of IPv4, and one of IPv6, before it.
    fn versions(&self) -> (bool, bool) {
        let asked = |version: &[u8], ethertype: &[u8]| {
            let mut tests = self.program.steps.iter().filter_map(|step| match step {
                Step::If(Condition::Is(test)) if test.mask.is_empty() => Some(test),
                _ => None,
            });
            tests.all(|test| match test.key {
                Key::Family => test.admits(version.to_vec()),
                Key::EtherType => test.admits(ethertype.to_vec()),
                _ => true,
            })
        };
        (self.family.sees(true) && asked(&[2], &[0x08, 0x00]), self.family.sees(false) && asked(&[10], &[0x86, 0xdd]))
    }

    /// Options of TCP and IPv4, extension headers of IPv6.
    fn option(&mut self, data: &[u8]) {
        const NFTA_EXTHDR_DREG: u16 = 1;
        const NFTA_EXTHDR_LEN: u16 = 4;
        const NFTA_EXTHDR_SREG: u16 = 7;
        let name = loads::option(data);
        if let Some(register) = field(data, NFTA_EXTHDR_DREG) {
            let length = size(data, NFTA_EXTHDR_LEN).max(1);
            return self.machine.load(register, Held::Lost(Lost::varying(name, length)));
        }
        let set = field(data, NFTA_EXTHDR_SREG);
        let held = set.and_then(|register| self.machine.get(register)).cloned();
        self.needs(held.as_ref());
        let text = if set.is_some() { format!("{name} set") } else { format!("reset {name}") };
        self.words(text.clone());
        self.step(Step::Do(Action::Nothing(text)));
    }

    fn bitwise(&mut self, data: &[u8]) {
        const NFTA_BITWISE_SREG: u16 = 1;
        const NFTA_BITWISE_DREG: u16 = 2;
        const NFTA_BITWISE_LEN: u16 = 3;
        const NFTA_BITWISE_MASK: u16 = 4;
        const NFTA_BITWISE_XOR: u16 = 5;
        const NFTA_BITWISE_OP: u16 = 6;
        const NFTA_BITWISE_DATA: u16 = 7;
        const NFTA_BITWISE_SREG2: u16 = 8;
        let (Some(from), Some(to)) = (field(data, NFTA_BITWISE_SREG), field(data, NFTA_BITWISE_DREG)) else {
            return self.strange("bitwise");
        };
        let length = size(data, NFTA_BITWISE_LEN);
        let other = field(data, NFTA_BITWISE_SREG2).and_then(|register| self.machine.constant(register));
        let not = |bytes: &[u8]| bytes.iter().map(|byte| !byte).collect::<Vec<u8>>();
        // NFT_BITWISE_MASK_XOR, LSHIFT, RSHIFT, AND, OR, XOR.
        match (field(data, NFTA_BITWISE_OP).unwrap_or(0), other) {
            (0, _) => match (value(data, NFTA_BITWISE_MASK), value(data, NFTA_BITWISE_XOR)) {
                (Some(mask), Some(xor)) => self.machine.mask(from, to, mask, xor),
                _ => self.machine.load(to, Held::Lost(Lost::new("[bitwise]", length))),
            },
            (3, Some(other)) => self.machine.mask(from, to, &other, &vec![0; other.len()]),
            (4, Some(other)) => self.machine.mask(from, to, &not(&other), &other),
            (5, Some(other)) => self.machine.mask(from, to, &vec![0xff; other.len()], &other),
            (operation, _) => {
                let (name, varies, native) = match self.machine.get(from) {
                    Some(Held::Bytes(loaded)) => (self.named(loaded), false, loaded.native),
                    Some(Held::Lost(lost)) => (lost.name.clone(), lost.varies, lost.native),
                    _ => ("[register]".to_owned(), false, false),
                };
                let by = value(data, NFTA_BITWISE_DATA).and_then(|bytes| bytes.first_chunk());
                let by = by.map_or_else(|| "…".to_owned(), |bytes| u32::from_ne_bytes(*bytes).to_string());
                let sign = ["", "<<", ">>", "&", "|", "^"].get(operation as usize).copied().unwrap_or("?");
                let name = format!("{name} {sign} {by}");
                self.machine.load(to, Held::Lost(Lost { varies, native, ..Lost::new(name, length) }));
            }
        }
    }

    fn compare(&mut self, data: &[u8]) {
        const NFTA_CMP_SREG: u16 = 1;
        const NFTA_CMP_OP: u16 = 2;
        const NFTA_CMP_DATA: u16 = 3;
        let held = field(data, NFTA_CMP_SREG).and_then(|register| self.machine.get(register)).cloned();
        let (Some(value), Some(operator)) = (value(data, NFTA_CMP_DATA), field(data, NFTA_CMP_OP)) else {
            return self.unknown("[cmp]".to_owned(), false);
        };
        let (least, most) = (&vec![0; value.len()][..], &vec![0xff; value.len()][..]);
        // NFT_CMP_EQ, NEQ, LT, LTE, GT, GTE.
        let (from, to, inside) = match operator {
            0 => (value, value, true),
            1 => (value, value, false),
            2 => (value, most, false),
            3 => (least, value, true),
            4 => (least, value, false),
            5 => (value, most, true),
            _ => return self.unknown("[cmp]".to_owned(), false),
        };
        self.bounds(held.as_ref(), (from, to), inside);
    }

    fn range(&mut self, data: &[u8]) {
        const NFTA_RANGE_SREG: u16 = 1;
        const NFTA_RANGE_OP: u16 = 2;
        const NFTA_RANGE_FROM_DATA: u16 = 3;
        const NFTA_RANGE_TO_DATA: u16 = 4;
        let held = field(data, NFTA_RANGE_SREG).and_then(|register| self.machine.get(register)).cloned();
        match (value(data, NFTA_RANGE_FROM_DATA), value(data, NFTA_RANGE_TO_DATA)) {
            (Some(from), Some(to)) => {
                let inside = field(data, NFTA_RANGE_OP).unwrap_or(0) == 0;
                self.bounds(held.as_ref(), (from, to), inside);
            }
            _ => self.unknown("[range]".to_owned(), false),
        }
    }

    /// A comparison of which nothing can be expressed.
    fn unknown(&mut self, text: String, varies: bool) {
        self.words(text.clone());
        self.ask(if varies { Condition::Varies(text) } else { Condition::NotUnderstood(text) });
    }

    fn bounds(&mut self, held: Option<&Held>, (from, to): (&[u8], &[u8]), inside: bool) {
        let named = |name: &str, native| words::comparison(name, (from, to), inside, native);
        match held {
            Some(Held::Bytes(loaded)) => {
                if let Some(test) = test(loaded, from, to, inside) {
                    self.test(test, loaded.name.as_deref());
                } else {
                    let text = named(&self.named(loaded), loaded.native);
                    self.unknown(text, false);
                }
            }
            Some(Held::Constant(bytes)) => {
                let within = bytes.get(..from.len()).is_some_and(|bytes| from <= bytes && bytes <= to);
                self.ask(Condition::Constant(within == inside));
            }
            Some(Held::Route { name, present }) => {
                let zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
                let there = from.split_first().is_some_and(|(first, rest)| *first == 1 && zero(rest));
                let none = zero(from);
                let known = from == to && (none || (*present && there));
                let text = match (present, none == inside) {
                    (true, true) => format!("{name} missing"),
                    (true, false) => format!("{name} exists"),
                    (false, _) => named(name, true),
                };
                if known {
                    self.words(text);
                    let test = Test::is(Key::ReversePath, vec![u8::from(!none)]);
                    self.ask(Condition::Is(Test { inside, ..test }));
                } else {
                    self.unknown(named(name, true), false);
                }
            }
            Some(Held::Lost(lost)) => {
                let text = named(&lost.name, lost.native);
                self.unknown(text, lost.varies);
            }
            None => self.unknown(named("[register]", false), false),
        }
    }

    fn test(&mut self, test: Test, name: Option<&str>) {
        // nft loads fields that lie side by side at once.
        if let Some((first, second)) = halves(&test) {
            self.test(first, name);
            return self.test(second, name);
        }
        let mut test = test;
        let family = self.written();
        // A range is written as two comparisons, one after the other.
        if let Some(Step::If(Condition::Is(last))) = self.program.steps.last()
            && let Some(both) = last.and(&test)
            && self.program.parts.last() == Some(&Part::Text(words::test(last, name, family)))
        {
            self.program.steps.pop();
            self.program.parts.pop();
            test = both;
        }
        self.words(words::test(&test, name, family));
        self.ask(Condition::Is(test));
    }

    /// The family whose words are those for the packets that the rule may have before it.
    fn written(&self) -> Family {
        if self.versions() == (false, true) { Family::Ip6 } else { self.family }
    }

    fn named(&self, loaded: &Loaded) -> String {
        loaded.name.clone().unwrap_or_else(|| loaded.key.words(loaded.length, self.written()))
    }

    /// What a set is asked for: the fields, in words too, and what of it is not known.
    fn fields(&self, register: Option<u32>, length: usize) -> (Vec<Field>, String, Vec<Lost>) {
        let (mut fields, mut names, mut lost) = (Vec::new(), Vec::new(), Vec::new());
        let held = register.map(|register| self.machine.span(register, length)).unwrap_or_default();
        for held in held {
            let unknown = |length| Field { key: Key::Unknown, length, mask: Vec::new(), native: false };
            let (field, name) = match held {
                Held::Bytes(loaded) => {
                    if let Some(field) = loaded.field() {
                        let name = words::field(&field, loaded.name.as_deref(), self.written());
                        (field, name)
                    } else {
                        let name = format!("{} ^ …", self.named(&loaded));
                        lost.push(Lost::new(name.clone(), loaded.length));
                        (unknown(loaded.length), name)
                    }
                }
                Held::Lost(known) => {
                    let (native, name) = (known.native, known.name.clone());
                    let field = Field { native, ..unknown(known.length) };
                    lost.push(known);
                    (field, name)
                }
                Held::Constant(bytes) => {
                    lost.push(Lost::new("[constant]", bytes.len()));
                    (unknown(bytes.len()), "[constant]".to_owned())
                }
                Held::Route { name, .. } => {
                    lost.push(Lost::new(name.clone(), 4));
                    (unknown(4), name)
                }
            };
            fields.push(field);
            names.push(name);
        }
        (fields, names.join(" . "), lost)
    }

    fn lookup(&mut self, data: &[u8]) -> ControlFlow<()> {
        const NFTA_LOOKUP_SET: u16 = 1;
        const NFTA_LOOKUP_SREG: u16 = 2;
        const NFTA_LOOKUP_DREG: u16 = 3;
        const NFTA_LOOKUP_FLAGS: u16 = 5;
        const NFT_REG_VERDICT: u32 = 0;
        const NFT_LOOKUP_F_INV: u32 = 1;
        let set = attribute(data, NFTA_LOOKUP_SET).map(string).unwrap_or_default();
        let known = (self.shape)(&set).filter(|shape| shape.key > 0);
        let shape = known.unwrap_or_default();
        let (of, what, lost) = self.fields(field(data, NFTA_LOOKUP_SREG), shape.key);
        let inside = field(data, NFTA_LOOKUP_FLAGS).unwrap_or(0) & NFT_LOOKUP_F_INV == 0;
        let to = field(data, NFTA_LOOKUP_DREG);
        let by = match (to, inside) {
            (Some(NFT_REG_VERDICT), _) => " vmap ",
            (Some(_), _) => " map ",
            (None, true) => " ",
            (None, false) => " != ",
        };
        let text = format!("{what}{by}@{set}");
        if known.is_none() {
            let text = text.trim_start().to_owned();
            self.words(text.clone());
            if to == Some(NFT_REG_VERDICT) {
                self.step(Step::Do(Action::NotUnderstood(text)));
                return ControlFlow::Continue(());
            }
            self.ask(Condition::NotUnderstood(text.clone()));
            if let Some(register) = to {
                self.machine.load(register, Held::Lost(Lost::new(text, 16)));
            }
            return ControlFlow::Continue(());
        }
        // Nothing else is looked up in an anonymous map.
        if let [Lost { numbers: Some(numbers), .. }] = &lost[..]
            && of.len() == 1
            && shape.flags & NFT_SET_ANONYMOUS != 0
        {
            self.program.numbers.push((set.clone(), *numbers));
        }
        if to != Some(NFT_REG_VERDICT) {
            self.found(&of, &lost, &set, inside, &text);
        }
        match to {
            Some(NFT_REG_VERDICT) => {
                self.program.parts.push(Part::Lookup { what, of: of.clone(), set: set.clone(), by });
                self.step(Step::Do(Action::VerdictMap { of, map: set }));
            }
            Some(register) => {
                self.machine.load(register, Held::Lost(Lost::new(text, shape.data.max(1))));
            }
            None => self.program.parts.push(Part::Lookup { what, of, set, by }),
        }
        ControlFlow::Continue(())
    }

    /// Asks whether fields are an element of a set; where none of them is known, that is not understood, or varies.
    fn found(&mut self, of: &[Field], lost: &[Lost], set: &str, inside: bool, text: &str) {
        let unknown = lost.len() == of.len();
        if unknown && lost.iter().all(|lost| lost.varies && lost.numbers.is_none()) {
            self.ask(Condition::Varies(text.to_owned()));
        } else if unknown && lost.iter().all(|lost| lost.numbers.is_none()) {
            self.ask(Condition::NotUnderstood(text.to_owned()));
        } else {
            self.ask(Condition::Element { of: of.to_vec(), set: set.to_owned(), inside });
        }
    }

    fn immediate(&mut self, data: &[u8]) -> ControlFlow<()> {
        const NFTA_IMMEDIATE_DREG: u16 = 1;
        const NFTA_IMMEDIATE_DATA: u16 = 2;
        /// A verdict that ends the rule, as if it had not matched.
        const NFT_BREAK: i32 = -2;
        const NFTA_VERDICT_CODE: u16 = 1;
        let given = attribute(data, NFTA_IMMEDIATE_DATA);
        let Some(verdict) = given.and_then(|data| attribute(data, NFTA_DATA_VERDICT)) else {
            match (field(data, NFTA_IMMEDIATE_DREG), value(data, NFTA_IMMEDIATE_DATA)) {
                (Some(register), Some(bytes)) => self.machine.load(register, Held::Constant(bytes.to_vec())),
                _ => self.strange("immediate"),
            }
            return ControlFlow::Continue(());
        };
        if field(verdict, NFTA_VERDICT_CODE).map(u32::cast_signed) == Some(NFT_BREAK) {
            self.ask(Condition::Constant(false));
            return ControlFlow::Break(());
        }
        self.act(decided(verdict))
    }

    /// A match or a target of xtables.
    fn xtables(&mut self, kind: &str, data: &[u8]) -> ControlFlow<()> {
        // NFTA_MATCH_NAME, _REV, _INFO; NFTA_TARGET_NAME, _REV, _INFO.
        let name = attribute(data, 1).map(string).unwrap_or_default();
        let revision = field(data, 2).unwrap_or(0);
        let info = attribute(data, 3).unwrap_or_default();
        self.program.xtables = true;
        if kind == "match" {
            let condition = compat::condition(&name, revision, info, self.family);
            for text in words::condition(&condition, self.family) {
                self.words(text);
            }
            match condition {
                Condition::All(all) => all.into_iter().for_each(|part| self.ask(part)),
                Condition::Constant(true) => {}
                other => self.ask(other),
            }
            return ControlFlow::Continue(());
        }
        for step in compat::steps(&name, revision, info, self.family, self.hooks) {
            let mut action = match step {
                Step::Do(action) => action,
                Step::If(condition) => {
                    self.ask(condition);
                    continue;
                }
            };
            self.to_interface(&mut action);
            self.words(match &action {
                Action::RejectWithReset => "REJECT --reject-with tcp-reset".to_owned(),
                Action::RejectWithIcmp => "REJECT".to_owned(),
                Action::MarkUnknown => format!("-j {name}"),
                other => words::action(other),
            });
            let ends = ends(&action);
            self.step(Step::Do(action));
            if ends {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    fn translates(&mut self, name: &str, data: &[u8]) -> ControlFlow<()> {
        const NFTA_NAT_TYPE: u16 = 1;
        const NFTA_NAT_FAMILY: u16 = 2;
        const NFT_NAT_SNAT: u32 = 0;
        const NFPROTO_IPV4: u32 = 2;
        const NFPROTO_IPV6: u32 = 10;
        // In a table of both families it translates packets of its own (`nft_nat_inet_eval`).
        if self.family == Family::Inet && name == "nat" {
            let (own, version) = match field(data, NFTA_NAT_FAMILY) {
                Some(NFPROTO_IPV4) => (self.versions() == (true, false), 2),
                Some(NFPROTO_IPV6) => (self.versions() == (false, true), 10),
                _ => (true, 0),
            };
            if !own {
                self.ask(Condition::Is(Test::is(Key::Family, vec![version])));
            }
        }
        // NFTA_NAT_REG_ADDR_MIN, _MAX, _PROTO_MIN, _MAX; NFTA_MASQ_REG_PROTO_MIN, _MAX; NFTA_REDIR_REG_PROTO_MIN, _MAX.
        let registers = match name {
            "nat" => 3..=6,
            "masq" => 2..=3,
            _ => 1..=2,
        };
        let held = registers.filter_map(|kind| self.machine.get(field(data, kind)?).cloned());
        let held: Vec<Held> = held.collect();
        for held in &held {
            self.needs(Some(held));
        }
        let looked_up = held.iter().find_map(|held| match held {
            Held::Lost(lost) => Some(lost.name.clone()),
            Held::Bytes(loaded) => Some(self.named(loaded)),
            _ => None,
        });
        let to = translation(name, data, |register| self.machine.constant(register));
        let nat = match (name, field(data, NFTA_NAT_TYPE)) {
            ("nat", Some(NFT_NAT_SNAT)) => Nat::Source(to),
            ("masq", _) => Nat::Masquerade(to),
            ("redir", _) => Nat::Redirect(to),
            _ => Nat::Destination(to),
        };
        let mut action = Action::Nat(nat);
        self.to_interface(&mut action);
        let text = words::action(&action);
        self.words(match looked_up {
            Some(looked_up) if !text.contains(" to ") => format!("{text} to {looked_up}"),
            _ => text,
        });
        self.step(Step::Do(action));
        ControlFlow::Break(())
    }

    /// Adds the interface that the rule asks the packet to leave by.
    fn to_interface(&self, action: &mut Action) {
        if let Action::Nat(Nat::Source(to) | Nat::Masquerade(to) | Nat::Destination(to) | Nat::Redirect(to)) = action {
            let tests: Vec<Test> = self.program.steps.iter().filter_map(asked).cloned().collect();
            to.output = output(&tests);
        }
    }

    /// `add @set { … }`: what an element has of its own may end the rule.
    fn dynset(&mut self, data: &[u8]) {
        const NFTA_DYNSET_SET_NAME: u16 = 1;
        const NFTA_DYNSET_OP: u16 = 3;
        const NFTA_DYNSET_SREG_KEY: u16 = 4;
        const NFTA_DYNSET_EXPR: u16 = 7;
        const NFTA_DYNSET_FLAGS: u16 = 9;
        const NFTA_DYNSET_EXPRESSIONS: u16 = 10;
        const NFT_DYNSET_F_INV: u32 = 1;
        let set = attribute(data, NFTA_DYNSET_SET_NAME).map(string).unwrap_or_default();
        let length = (self.shape)(&set).map_or(4, |shape| shape.key);
        let held = field(data, NFTA_DYNSET_SREG_KEY).map(|register| self.machine.span(register, length));
        for held in held.unwrap_or_default() {
            self.needs(Some(&held));
        }
        let operation =
            field(data, NFTA_DYNSET_OP).and_then(|at| ["add", "update", "delete"].get(at as usize).copied());
        let several = attribute(data, NFTA_DYNSET_EXPRESSIONS).into_iter().flat_map(attributes);
        let own = attribute(data, NFTA_DYNSET_EXPR).into_iter().chain(several.map(|(_, own)| own));
        let own: Vec<(String, bool)> = own.filter_map(stateful).collect();
        let inverted = field(data, NFTA_DYNSET_FLAGS).unwrap_or(0) & NFT_DYNSET_F_INV != 0;
        let more = own.first().map_or_else(String::new, |(own, _)| format!(" {own}"));
        let text = format!("{} @{set} {{ …{more} }}", operation.unwrap_or("?"));
        self.words(text.clone());
        match (operation, &own[..]) {
            (None, _) => self.step(Step::Do(Action::NotUnderstood(text))),
            (_, []) if !inverted => self.step(Step::Do(Action::Nothing(text))),
            (_, [(name, over)]) if !inverted => self.ask(rate(name, text, *over)),
            _ => self.ask(Condition::Varies(text)),
        }
    }

    /// A named counter, quota, limit, helper, …
    fn objref(&mut self, data: &[u8]) -> ControlFlow<()> {
        const NFTA_OBJREF_IMM_TYPE: u16 = 1;
        const NFTA_OBJREF_IMM_NAME: u16 = 2;
        const NFTA_OBJREF_SET_SREG: u16 = 3;
        const NFTA_OBJREF_SET_NAME: u16 = 4;
        let (kind, name) = if let Some(set) = attribute(data, NFTA_OBJREF_SET_NAME).map(string) {
            let shape = (self.shape)(&set).filter(|shape| shape.key > 0);
            let (of, what, lost) = self.fields(field(data, NFTA_OBJREF_SET_SREG), shape.map_or(0, |shape| shape.key));
            let text = format!("{what} map @{set}");
            if shape.is_some() {
                self.found(&of, &lost, &set, true, &text);
            } else {
                self.ask(Condition::NotUnderstood(text.clone()));
            }
            (shape.map_or(0, |shape| shape.object), text)
        } else {
            let name = attribute(data, NFTA_OBJREF_IMM_NAME).map(string).unwrap_or_default();
            (field(data, NFTA_OBJREF_IMM_TYPE).unwrap_or(0), name)
        };
        // NFT_OBJECT_COUNTER and those behind it.
        let kinds = ["counter", "quota", "ct helper", "limit", "ct count", "tunnel", "ct timeout", "secmark"];
        let kinds = kinds.into_iter().chain(["ct expectation", "synproxy"]);
        let known = kinds.zip(1..).find(|(_, number)| *number == kind).map(|(word, _)| word);
        let text = format!("{} name {name}", known.unwrap_or("object"));
        match known {
            Some("synproxy") => return self.act(Action::Synproxy),
            Some("quota" | "limit" | "ct count") => self.unknown(text, true),
            Some("tunnel") | None => {
                self.words(text.clone());
                self.step(Step::Do(Action::NotUnderstood(text)));
            }
            Some(_) => {
                self.words(text.clone());
                self.step(Step::Do(Action::Nothing(text)));
            }
        }
        ControlFlow::Continue(())
    }
}

/// The test of a step.
fn asked(step: &Step) -> Option<&Test> {
    match step {
        Step::If(Condition::Is(test)) => Some(test),
        _ => None,
    }
}

/// Whether nothing behind an action is ever run.
const fn ends(action: &Action) -> bool {
    matches!(
        action,
        Action::Accept
            | Action::Drop
            | Action::Return
            | Action::Jump(_)
            | Action::Goto(_)
            | Action::RejectWithReset
            | Action::RejectWithIcmp
            | Action::Queue { .. }
            | Action::Nat(_)
    )
}

/// What setting the mark to this does.
fn mark(held: &Held) -> Action {
    let word = |bytes: &[u8]| bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
    match held {
        Held::Constant(bytes) => match word(bytes) {
            Some(xor) if bytes.len() == 4 => Action::Mark { and: 0, xor },
            _ => Action::MarkUnknown,
        },
        Held::Bytes(loaded) if loaded.key == Key::Mark && loaded.native && loaded.length == 4 => {
            let (and, xor) = (word(&loaded.mask).unwrap_or(u32::MAX), word(&loaded.xor).unwrap_or(0));
            Action::Mark { and, xor }
        }
        _ => Action::MarkUnknown,
    }
}

/// A comparison of what a register holds, in the byte order of [`Key`]; none where no [`Test`] expresses it.
fn test(loaded: &Loaded, from: &[u8], to: &[u8], inside: bool) -> Option<Test> {
    let (mut from, mut to, length) = (from.to_vec(), to.to_vec(), from.len());
    if length == 0 || length > loaded.length || to.len() != length {
        return None;
    }
    if loaded.is_turned() {
        if from != to {
            return None;
        }
        from.iter_mut().zip(&loaded.xor).for_each(|(byte, xor)| *byte ^= xor);
        to.clone_from(&from);
    }
    // Numbers of the host's order are compared for equality alone.
    let ordered = loaded.key != Key::State && (!loaded.native || length == 1);
    if from != to && !ordered {
        return None;
    }
    let mut mask = loaded.mask.get(..length).unwrap_or(&loaded.mask).to_vec();
    if loaded.native {
        if length != loaded.length {
            return None;
        }
        (from, to, mask) = (swapped(&from), swapped(&to), swapped(&mask));
    }
    if mask.iter().all(|byte| *byte == 0xff) {
        mask.clear();
    }
    Some(Test { key: loaded.key, mask, bounds: vec![(from, to)], inside })
}

/// Both halves of a test of source and destination, addresses or ports.
fn halves(test: &Test) -> Option<(Test, Test)> {
    let (from, to) = test.bounds.first().filter(|(from, to)| from == to && test.inside && test.mask.is_empty())?;
    let (at, key): (usize, Key) = match (test.key, from.len()) {
        (Key::NetworkHeader { offset: 12 }, 8) => (4, Key::NetworkHeader { offset: 16 }),
        (Key::NetworkHeader { offset: 8 }, 32) => (16, Key::NetworkHeader { offset: 24 }),
        (Key::TransportHeader { offset: 0 }, 4) => (2, Key::TransportHeader { offset: 2 }),
        _ => return None,
    };
    let ((first, second), _) = (from.split_at_checked(at)?, to);
    Some((Test::is(test.key, first.to_vec()), Test::is(key, second.to_vec())))
}

/// A rate or a number of connections, which seldom is exceeded; how much of a quota is left nobody knows.
fn rate(name: &str, text: String, over: bool) -> Condition {
    match (name, over) {
        ("limit" | "connlimit", false) => Condition::Usually(text),
        ("limit" | "connlimit", true) => Condition::Not(Box::new(Condition::Usually(text))),
        _ => Condition::Varies(text),
    }
}
