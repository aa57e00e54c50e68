//! Whether packets meet a condition, in three values: yes, no, or not understood; and whether all packets of a class agree.

use tracer_model::event::NfHook;
use tracer_model::ruleset::tables::{Action, Condition, Element, Field, Set, Table};
use tracer_model::ruleset::{Key, Test};

use crate::class::{Class, Value, state};
use crate::walker::{Slot, State};

/// The result of a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Truth {
    /// For the typical packet; none where it is not understood.
    pub(crate) typical: Option<bool>,
    /// Whether it may hold for other packets of the class.
    pub(crate) may_hold: bool,
    /// Whether it may fail for other packets of the class.
    pub(crate) may_fail: bool,
    /// What is not understood.
    pub(crate) unclear: Vec<String>,
}

impl Truth {
    const fn of(holds: bool) -> Self {
        Self { typical: Some(holds), may_hold: holds, may_fail: !holds, unclear: Vec::new() }
    }

    const fn varies(typical: bool) -> Self {
        Self { typical: Some(typical), may_hold: true, may_fail: true, unclear: Vec::new() }
    }

    fn unclear(what: String) -> Self {
        Self { typical: None, may_hold: true, may_fail: true, unclear: vec![what] }
    }

    fn not(self) -> Self {
        let Self { typical, may_hold, may_fail, unclear } = self;
        Self { typical: typical.map(|holds| !holds), may_hold: may_fail, may_fail: may_hold, unclear }
    }

    fn and(mut self, other: Self) -> Self {
        self.typical = match (self.typical, other.typical) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            _ => None,
        };
        self.unclear.extend(other.unclear);
        self.may_hold &= other.may_hold;
        self.may_fail |= other.may_fail;
        self
    }

    fn or(self, other: Self) -> Self {
        self.not().and(other.not()).not()
    }
}

/// A packet on its way: its class, and what rules have changed so far.
#[derive(Clone, Copy)]
pub(crate) struct Packet<'a> {
    pub(crate) class: &'a Class,
    pub(crate) state: &'a State,
    pub(crate) table: &'a Table,
}

impl Packet<'_> {
    /// Whether the packet meets a condition of a rule of this table.
    pub(crate) fn meets(self, condition: &Condition) -> Truth {
        match condition {
            Condition::Is(test) => self.passes(test),
            Condition::Element { of, set, inside } => {
                let found = match self.table.set(set) {
                    Some(set) => self.find(of, set).truth(),
                    None => Truth::unclear(format!("@{set}")),
                };
                // The kernel breaks off the rule where a field is absent, inverted or not.
                if *inside || self.lacks(of) { found } else { found.not() }
            }
            Condition::All(all) => all.iter().fold(Truth::of(true), |truth, one| truth.and(self.meets(one))),
            Condition::Any(any) => any.iter().fold(Truth::of(false), |truth, one| truth.or(self.meets(one))),
            Condition::Not(condition) => self.meets(condition).not(),
            Condition::Constant(holds) => Truth::of(*holds),
            Condition::Usually(_) => Truth::varies(true),
            Condition::Varies(what) | Condition::NotUnderstood(what) => Truth::unclear(what.clone()),
        }
    }

    fn passes(self, test: &Test) -> Truth {
        let slot = |slot: &Slot, bytes: fn(u32) -> [u8; 4]| {
            let holds = |value: u32| test.admits(shortened(bytes(value), test.length(), test.key));
            let Some(typical) = slot.typical.map(holds) else {
                return Truth::unclear(test.key.words(test.length(), self.table.family));
            };
            let mut truth = Truth::of(typical);
            for other in &slot.others {
                let holds = holds(*other);
                truth.may_hold |= holds;
                truth.may_fail |= !holds;
            }
            if slot.any { Truth { may_hold: true, may_fail: true, ..truth } } else { truth }
        };
        match test.key {
            Key::State => slot(&self.state.ct, u32::to_ne_bytes),
            Key::Mark => slot(&self.state.mark, u32::to_be_bytes),
            key => match self.value(key, test.length()) {
                Value::Exactly(bytes) => Truth::of(test.admits(bytes)),
                Value::Usually { typical, least, most } => {
                    let truth = test.admits(typical);
                    if agree(test, &least, &most) { Truth::of(truth) } else { Truth::varies(truth) }
                }
                Value::Absent => Truth::of(false),
                Value::Unknown => Truth::unclear(key.words(test.length(), self.table.family)),
            },
        }
    }

    /// What is known of a key at this point of the way.
    fn value(self, key: Key, length: usize) -> Value {
        let of_entry =
            matches!(key, Key::Connection | Key::ConnectionMark | Key::ConnectionStatus | Key::ConnectionDirection);
        if self.state.translated && self.is_of_source(key, length) {
            return Value::Unknown;
        }
        match self.state.ct.typical {
            // A packet is not routed yet, and `nf_hook_state` has no such interface.
            _ if self.state.hook == NfHook::PreRouting && matches!(key, Key::OutputName | Key::OutputIndex) => {
                Value::Exactly(vec![0; length])
            }
            Some(state::INVALID | state::UNTRACKED) if of_entry => Value::Absent,
            _ => self.class.value(key, length),
        }
    }

    /// Whether a key has anything of the source.
    fn is_of_source(self, key: Key, length: usize) -> bool {
        let (first, end) = if self.class.ipv4 { (12, 16) } else { (8, 24) };
        match key {
            Key::NetworkHeader { offset } => offset < end && first < offset.saturating_add(length as u32),
            Key::TransportHeader { offset } => offset < 2,
            Key::AddressType { source, .. } => source,
            _ => false,
        }
    }

    fn lacks(self, of: &[Field]) -> bool {
        of.iter().any(|field| self.value(field.key, field.length) == Value::Absent)
    }

    /// The element of a set that holds these fields.
    pub(crate) fn find<'s>(self, of: &[Field], set: &'s Set) -> Found<'s> {
        let mut found = Found { typical: Hit::Miss, others: Vec::new(), may_miss: false, unclear: Vec::new() };
        if !set.complete {
            found.typical = Hit::Unclear;
            found.unclear.push(format!("@{}", set.name));
        }
        let mut ranges = Vec::new();
        for field in of {
            match self.range(field) {
                Some(range) => ranges.push(range),
                None if self.value(field.key, field.length) == Value::Absent => {
                    found.may_miss = true;
                    return Found { typical: Hit::Miss, unclear: Vec::new(), ..found };
                }
                None => {
                    found.typical = Hit::Unclear;
                    found.unclear.push(field.key.words(field.length, self.table.family));
                    found.others = set.elements.iter().collect();
                    found.may_miss = set.elements.iter().all(|element| !element.from.is_empty());
                    return found;
                }
            }
        }
        let varies = ranges.iter().any(|range| range.least != range.most);
        let mut catch_all = None;
        for element in &set.elements {
            if element.from.is_empty() {
                catch_all = Some(element);
                continue;
            }
            let (within, overlaps) = holds(element, &ranges);
            if within && found.typical == Hit::Miss {
                found.typical = Hit::In(element);
            } else if within || (varies && overlaps) {
                found.others.push(element);
            }
        }
        if found.typical == Hit::Miss {
            found.typical = catch_all.map_or(Hit::Miss, Hit::In);
        } else if varies {
            found.others.extend(catch_all);
        }
        found.may_miss = !set.complete || (catch_all.is_none() && (varies || found.typical == Hit::Miss));
        found
    }

    /// The bytes of a field as a set has them.
    fn range(self, field: &Field) -> Option<Range> {
        let masked = |mut bytes: Vec<u8>| {
            for (byte, mask) in bytes.iter_mut().zip(&field.mask) {
                *byte &= mask;
            }
            if field.native {
                bytes.reverse();
            }
            bytes
        };
        let exactly = |bytes: Vec<u8>| {
            let bytes = masked(bytes);
            Some(Range { typical: bytes.clone(), least: bytes.clone(), most: bytes })
        };
        let slot = |slot: &Slot, bytes: fn(u32) -> [u8; 4]| {
            let typical = shortened(bytes(slot.typical?), field.length, field.key);
            if slot.others.is_empty() && !slot.any {
                return exactly(typical);
            }
            Some(Range { typical: masked(typical), least: vec![0; field.length], most: vec![0xff; field.length] })
        };
        match field.key {
            Key::State => slot(&self.state.ct, u32::to_ne_bytes),
            Key::Mark => slot(&self.state.mark, u32::to_be_bytes),
            key => match self.value(key, field.length) {
                Value::Exactly(bytes) => exactly(bytes),
                // Bounds mean nothing behind a mask or in another byte order.
                Value::Usually { typical, .. } if !field.mask.is_empty() || field.native => Some(Range {
                    typical: masked(typical),
                    least: vec![0; field.length],
                    most: vec![0xff; field.length],
                }),
                Value::Usually { typical, least, most } => Some(Range { typical, least, most }),
                Value::Absent | Value::Unknown => None,
            },
        }
    }
}

/// Numbers in network byte order keep their last bytes, those in host order and names their first.
fn shortened(bytes: [u8; 4], length: usize, key: Key) -> Vec<u8> {
    let length = length.min(4);
    match key {
        Key::State => bytes[..length].to_vec(),
        _ => bytes[4 - length..].to_vec(),
    }
}

/// Whether all values from `least` to `most` give a test the same result.
fn agree(test: &Test, least: &[u8], most: &[u8]) -> bool {
    let length = test.length();
    let (Some(least), Some(most)) = (least.get(..length), most.get(..length)) else { return false };
    let mask = &test.mask;
    if mask.is_empty() || mask.iter().all(|byte| *byte == 0xff) {
        let outside = |(from, to): &(Vec<u8>, Vec<u8>)| most < &from[..] || &to[..] < least;
        let covers = |(from, to): &(Vec<u8>, Vec<u8>)| &from[..] <= least && most <= &to[..];
        return test.bounds.iter().any(covers) || test.bounds.iter().all(outside);
    }
    // Only the bytes that the mask leaves count.
    let fixed = |(byte, mask): (usize, &u8)| *mask == 0 || least.get(byte) == most.get(byte);
    mask.iter().enumerate().all(fixed)
}

/// Bytes of a field, and their bounds.
struct Range {
    typical: Vec<u8>,
    least: Vec<u8>,
    most: Vec<u8>,
}

/// Whether an element holds the typical values, and whether it may hold others of the class.
fn holds(element: &Element, ranges: &[Range]) -> (bool, bool) {
    let (mut within, mut overlaps, mut at) = (true, true, 0);
    let alone = ranges.len() == 1;
    for range in ranges {
        let length = range.typical.len();
        // A set may be of shorter keys than the register: an address of which a prefix is loaded.
        let length = if alone { length.min(element.from.len()) } else { length };
        let (Some(from), Some(to)) = (element.from.get(at..at + length), element.to.get(at..at + length)) else {
            return (false, false);
        };
        within &= from <= &range.typical[..length] && &range.typical[..length] <= to;
        overlaps &= from <= &range.most[..length] && &range.least[..length] <= to;
        at += length.next_multiple_of(4);
    }
    (within, overlaps)
}

/// Where the typical packet is in a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hit<'s> {
    /// In this element.
    In(&'s Element),
    /// In none.
    Miss,
    /// That is not understood.
    Unclear,
}

/// What was found in a set.
pub(crate) struct Found<'s> {
    /// The element of the typical packet.
    pub(crate) typical: Hit<'s>,
    /// Elements that other packets of the class may be in.
    pub(crate) others: Vec<&'s Element>,
    /// Whether other packets may be in no element.
    pub(crate) may_miss: bool,
    /// What is not understood.
    pub(crate) unclear: Vec<String>,
}

impl Found<'_> {
    fn truth(self) -> Truth {
        let typical = match self.typical {
            Hit::In(_) => Some(true),
            Hit::Miss => Some(false),
            Hit::Unclear => None,
        };
        Truth {
            typical,
            may_hold: typical != Some(false) || !self.others.is_empty(),
            may_fail: typical != Some(true) || self.may_miss,
            unclear: self.unclear,
        }
    }
}

/// The verdict of an element of a verdict map.
pub(crate) fn verdict(element: &Element) -> Option<&Action> {
    element.verdict.as_ref()
}
