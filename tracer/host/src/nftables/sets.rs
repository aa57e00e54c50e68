//! The elements of anonymous sets and verdict maps: what `{ 80, 443, 8000-8999 }` in a rule becomes. Such a set is made with
//! its rule, and never changes.

use std::io;
use std::ops::ControlFlow;
use std::time::Instant;

use netlink_packet_core::NLM_F_DUMP;

use tracer_model::ruleset::audit::Verdict;

use super::messages::{NFT_MSG_GETSET, NFT_MSG_GETSETELEM, NFTA_DATA_VALUE, NFTA_DATA_VERDICT, Table};
use super::statements::verdict;
use crate::nfnetlink::{End, Message, Nfnetlink, attribute, attributes, message, number, put_string, request};

const NFT_SET_ANONYMOUS: u32 = 0x1;
const NFT_SET_CONSTANT: u32 = 0x2;
const NFT_SET_INTERVAL: u32 = 0x4;

const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_KEY: u16 = 1;

/// Most elements that are read of a set.
const MOST: usize = 256;

/// Lower and upper bounds, both included.
pub(super) type Bounds = Vec<(Vec<u8>, Vec<u8>)>;

/// An element as it is dumped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Element {
    key: Vec<u8>,
    /// False sorts first: where one interval ends another may start.
    starts: bool,
}

/// A verdict map of conntrack states: each state with what becomes of its packets. Verdicts that decide nothing are left
/// out.
pub(super) fn verdicts((family, table): &Table, name: &str, deadline: Instant) -> io::Result<Vec<(Vec<u8>, Verdict)>> {
    let wanted = request(NFT_MSG_GETSETELEM, NLM_F_DUMP, *family, &of_set(table, name));
    let mut found = Vec::new();
    let end = Nfnetlink::open()?.dump(&wanted, Some(deadline), |message| {
        found.extend(mapped(message));
        Ok(if found.len() < MOST { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    if end == End::Cut { Err(io::ErrorKind::TimedOut.into()) } else { Ok(found) }
}

/// `NFTA_SET_TABLE` and `NFTA_SET_NAME`, or `NFTA_SET_ELEM_LIST_TABLE` and `NFTA_SET_ELEM_LIST_SET`.
fn of_set(table: &str, name: &str) -> Vec<u8> {
    [put_string(1, table), put_string(2, name)].concat()
}

/// The elements of a message of a verdict map.
pub(super) fn mapped(message: Message<'_>) -> Vec<(Vec<u8>, Verdict)> {
    const NFTA_SET_ELEM_DATA: u16 = 2;
    let list = attribute(message.attributes, NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or_default();
    let of = |element: &[u8]| {
        let key = attribute(element, NFTA_SET_ELEM_KEY).and_then(|key| attribute(key, NFTA_DATA_VALUE))?;
        let data = attribute(element, NFTA_SET_ELEM_DATA).and_then(|data| attribute(data, NFTA_DATA_VERDICT))?;
        Some((key.to_vec(), verdict(data)?))
    };
    attributes(list).filter_map(|(_, element)| of(element)).collect()
}

/// Reads a set; none where it is not of the kind that is understood, or has too many elements.
pub(super) fn read((family, table): &Table, name: &str, deadline: Instant) -> io::Result<Option<Bounds>> {
    const NFTA_SET_FLAGS: u16 = 3;
    let which = of_set(table, name);
    let answer = Nfnetlink::open()?.exchange(&request(NFT_MSG_GETSET, 0, *family, &which))?;
    let flags = attribute(message(&answer)?.attributes, NFTA_SET_FLAGS).and_then(number).unwrap_or(0);
    let plain = NFT_SET_ANONYMOUS | NFT_SET_CONSTANT;
    if flags & !NFT_SET_INTERVAL != plain {
        return Ok(None);
    }
    let mut elements = Some(Vec::new());
    let wanted = request(NFT_MSG_GETSETELEM, NLM_F_DUMP, *family, &which);
    let end = Nfnetlink::open()?.dump(&wanted, Some(deadline), |message| {
        elements = elements.take().and_then(|known| take(known, message));
        Ok(if elements.is_some() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    let elements = elements.filter(|_| end == End::Whole);
    Ok(elements.and_then(|elements| bounds(elements, flags & NFT_SET_INTERVAL != 0)))
}

/// The elements of a message, added to those before.
pub(super) fn take(mut known: Vec<Element>, message: Message<'_>) -> Option<Vec<Element>> {
    const NFTA_SET_ELEM_FLAGS: u16 = 3;
    const NFTA_SET_ELEM_KEY_END: u16 = 10;
    const NFT_SET_ELEM_INTERVAL_END: u32 = 1;
    for (_, element) in attributes(attribute(message.attributes, NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or_default()) {
        let flags = attribute(element, NFTA_SET_ELEM_FLAGS).and_then(number).unwrap_or(0);
        let key = attribute(element, NFTA_SET_ELEM_KEY).and_then(|key| attribute(key, NFTA_DATA_VALUE))?;
        let understood = flags & !NFT_SET_ELEM_INTERVAL_END == 0 && attribute(element, NFTA_SET_ELEM_KEY_END).is_none();
        if !understood || known.len() >= MOST {
            return None;
        }
        known.push(Element { key: key.to_vec(), starts: flags & NFT_SET_ELEM_INTERVAL_END == 0 });
    }
    Some(known)
}

/// What elements stand for. The end of an interval is the first key behind it; the last interval may have none.
pub(super) fn bounds(mut elements: Vec<Element>, interval: bool) -> Option<Bounds> {
    if !interval {
        let all = elements.iter().all(|element| element.starts);
        return all.then(|| elements.into_iter().map(|element| (element.key.clone(), element.key)).collect());
    }
    elements.sort_unstable();
    let mut bounds = Bounds::new();
    let mut elements = elements.into_iter().peekable();
    while let Some(element) = elements.next() {
        if !element.starts {
            continue;
        }
        let last = match elements.next_if(|next| !next.starts) {
            Some(end) => before(end.key)?,
            None if elements.peek().is_none() => vec![0xff; element.key.len()],
            None => return None,
        };
        bounds.push((element.key, last));
    }
    Some(bounds)
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

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use tracer_model::ruleset::audit::Verdict;

    use super::{Element, bounds, mapped, take};
    use crate::nfnetlink::{Message, put as attribute};

    fn elements(keys: &[(u16, bool)]) -> Vec<Element> {
        keys.iter().map(|(key, starts)| Element { key: key.to_be_bytes().to_vec(), starts: *starts }).collect()
    }

    #[rstest]
    #[case::values(&[(443, true), (80, true)], false, Some(&[(443, 443), (80, 80)][..]))]
    #[case::a_value_and_a_range(&[(446, false), (443, true), (81, false), (80, true), (0, false)], true,
        Some(&[(80, 80), (443, 445)][..]))]
    #[case::neighbours(&[(80, true), (256, false), (256, true), (300, false)], true, Some(&[(80, 255), (256, 299)][..]))]
    #[case::to_the_end(&[(1024, true)], true, Some(&[(1024, 65_535)][..]))]
    #[case::no_end(&[(80, true), (443, true), (444, false)], true, None)]
    #[case::an_end_where_there_are_no_intervals(&[(80, true), (81, false)], false, None)]
    #[case::none(&[], true, Some(&[][..]))]
    fn what_elements_stand_for(
        #[case] keys: &[(u16, bool)],
        #[case] interval: bool,
        #[case] expected: Option<&[(u16, u16)]>,
    ) {
        let bytes = |key: u16| key.to_be_bytes().to_vec();
        let expected: Option<Vec<_>> =
            expected.map(|bounds| bounds.iter().map(|(from, to)| (bytes(*from), bytes(*to))).collect());
        assert_eq!(bounds(elements(keys), interval), expected);
    }

    #[test]
    fn elements_of_a_message() {
        let element = |key: &[u8], flags: u32| {
            let key = attribute(1, &attribute(1, key));
            attribute(1, &[key, attribute(3, &flags.to_be_bytes())].concat())
        };
        let taken = |list: &[u8]| {
            take(Vec::new(), Message { family: 1, attributes: &attribute(3, list), ..Message::default() })
        };
        let two = [element(&[0, 80], 0), element(&[0, 81], 1)].concat();
        assert_eq!(taken(&two), Some(elements(&[(80, true), (81, false)])));
        assert_eq!(taken(&element(&[0, 80], 2)), None, "NFT_SET_ELEM_CATCHALL");
        assert_eq!(taken(&attribute(1, &[])), None, "no key");
        assert_eq!(taken(&two.repeat(200)), None, "too many");
        assert_eq!(taken(&[]), Some(Vec::new()));
    }

    /// `ct state vmap { established : accept, invalid : drop }` as the kernel dumps it.
    #[test]
    fn verdict_maps() {
        let element = |state: u32, code: u32| {
            let key = attribute(1, &attribute(1, &state.to_ne_bytes()));
            let data = attribute(2, &attribute(2, &attribute(1, &code.to_be_bytes())));
            attribute(1, &[key, data].concat())
        };
        let of = |list: &[Vec<u8>]| {
            let attributes = attribute(3, &list.concat());
            mapped(Message { family: 1, attributes: &attributes, ..Message::default() })
        };
        let state = |bits: u32| bits.to_ne_bytes().to_vec();
        let both = [(state(2), Verdict::Accept), (state(1), Verdict::Drop)];
        assert_eq!(of(&[element(2, 1), element(1, 0)]), both);
        // return
        assert_eq!(of(&[element(1, (-5i32).cast_unsigned())]), []);
        assert_eq!(of(&[attribute(1, &[0; 3])]), []);
    }
}
