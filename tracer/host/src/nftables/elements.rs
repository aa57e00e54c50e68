//! The elements of a set, a map or a verdict map, as the kernel dumps them, and the bounds that they stand for.

use tracer_model::ruleset::tables::{Action, Element};

use super::loads;
use super::messages::{NFTA_DATA_VALUE, NFTA_DATA_VERDICT};
use super::statements::decided;
use crate::nfnetlink::{Message, attribute, attributes, number, string};

/// An element as it is dumped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dumped {
    /// Its key; empty for the element that catches all others.
    key: Vec<u8>,
    /// The last key of a range of concatenated fields.
    last: Option<Vec<u8>>,
    /// Whether an interval ends before it.
    ends: bool,
    verdict: Option<Action>,
}

/// The elements of a set so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Elements {
    dumped: Vec<Dumped>,
    /// What may keep a packet from matching an element that it is in: a rate, a quota.
    pub(super) varies: Option<String>,
}

impl Elements {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.dumped.len()
    }

    /// Takes those of a message.
    pub(super) fn take(&mut self, message: Message<'_>) {
        const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
        let list = attribute(message.attributes, NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or_default();
        for (_, element) in attributes(list) {
            self.element(element);
        }
    }

    fn element(&mut self, element: &[u8]) {
        const NFTA_SET_ELEM_KEY: u16 = 1;
        const NFTA_SET_ELEM_DATA: u16 = 2;
        const NFTA_SET_ELEM_FLAGS: u16 = 3;
        const NFTA_SET_ELEM_EXPR: u16 = 7;
        const NFTA_SET_ELEM_KEY_END: u16 = 10;
        const NFTA_SET_ELEM_EXPRESSIONS: u16 = 11;
        const NFT_SET_ELEM_INTERVAL_END: u32 = 1;
        const NFT_SET_ELEM_CATCHALL: u32 = 2;
        let value = |kind| attribute(element, kind).and_then(|data| attribute(data, NFTA_DATA_VALUE));
        let flags = attribute(element, NFTA_SET_ELEM_FLAGS).and_then(number).unwrap_or(0);
        let catches_all = flags & NFT_SET_ELEM_CATCHALL != 0;
        let key = match value(NFTA_SET_ELEM_KEY).filter(|key| !key.is_empty()) {
            Some(key) if !catches_all => key.to_vec(),
            None if !catches_all => return,
            _ => Vec::new(),
        };
        let data = attribute(element, NFTA_SET_ELEM_DATA).and_then(|data| attribute(data, NFTA_DATA_VERDICT));
        let several = attribute(element, NFTA_SET_ELEM_EXPRESSIONS).into_iter().flat_map(attributes);
        let own = attribute(element, NFTA_SET_ELEM_EXPR).into_iter().chain(several.map(|(_, own)| own));
        for (name, _) in own.filter_map(stateful) {
            self.varies.get_or_insert(name);
        }
        self.dumped.push(Dumped {
            last: value(NFTA_SET_ELEM_KEY_END).filter(|last| last.len() == key.len()).map(<[u8]>::to_vec),
            key,
            ends: flags & NFT_SET_ELEM_INTERVAL_END != 0,
            verdict: data.map(decided),
        });
    }

    /// What they stand for, where keys are the bounds of intervals, or stand for themselves.
    pub(super) fn resolve(self, interval: bool) -> Vec<Element> {
        let mut dumped = self.dumped;
        let catches_all = dumped.iter().position(|element| element.key.is_empty()).map(|at| dumped.remove(at));
        // Ranges of concatenated fields have both their bounds; others are what lies between two keys.
        let ranges = !interval || dumped.iter().any(|element| element.last.is_some());
        let mut found = if ranges { dumped.into_iter().map(alone).collect() } else { intervals(dumped) };
        found.extend(catches_all.map(alone));
        found
    }
}

fn alone(element: Dumped) -> Element {
    let Dumped { key, last, verdict, .. } = element;
    Element { to: last.unwrap_or_else(|| key.clone()), from: key, verdict }
}

/// An interval goes from its key up to the next one, whether that ends it or begins another (`nft_rbtree_lookup`).
fn intervals(mut dumped: Vec<Dumped>) -> Vec<Element> {
    dumped.sort_by(|one, other| (&one.key, !one.ends).cmp(&(&other.key, !other.ends)));
    let mut found = Vec::with_capacity(dumped.len());
    let mut dumped = dumped.into_iter().peekable();
    while let Some(Dumped { key, ends, verdict, .. }) = dumped.next() {
        let last = match dumped.peek() {
            Some(next) if next.key.len() == key.len() => before(next.key.clone()),
            _ => Some(vec![0xff; key.len()]),
        };
        if let Some(to) = last.filter(|last| !ends && *last >= key) {
            found.push(Element { from: key, to, verdict });
        }
    }
    found
}

/// The number before a big-endian one.
fn before(mut key: Vec<u8>) -> Option<Vec<u8>> {
    for byte in key.iter_mut().rev() {
        let (less, borrow) = byte.overflowing_sub(1);
        *byte = less;
        if !borrow {
            return Some(key);
        }
    }
    None
}

/// The name of an expression with a state of its own that ends a rule for some packets, and whether its rate has to be exceeded;
/// none for those that only count.
pub(super) fn stateful(expression: &[u8]) -> Option<(String, bool)> {
    const NFTA_EXPR_NAME: u16 = 1;
    const NFTA_EXPR_DATA: u16 = 2;
    let name = attribute(expression, NFTA_EXPR_NAME).map(string)?;
    let over = loads::over(&name, attribute(expression, NFTA_EXPR_DATA).unwrap_or_default());
    (!matches!(name.as_str(), "counter" | "last")).then_some((name, over))
}
