//! The recording format: frames and their payloads.
//!
//! A recording is [`MAGIC`], a little-endian `u32` [`VERSION`], and frames. A frame is
//!
//! ```text
//! u32  length of kind and payload, little-endian
//! u32  CRC-32 (IEEE) of kind and payload, little-endian
//! u8   kind
//! …    payload
//! ```
//!
//! The first frame is that of the host. Record frames hold a `tracer_common::wire::Record` of the capturing host's byte order
//! without its trailing zero bytes, frames of suppressed events an array of numbers. All others hold one JSON object, which
//! the types of `tracer_model` define by their serde attributes. A reader skips unknown kinds and ignores unknown JSON
//! members; a change that an old reader would misunderstand changes [`VERSION`].

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use tracer_model::capture::{Counters, Host, Item};
use tracer_model::known::Known;
use tracer_model::ruleset::Rules;
use tracer_model::time::Instant;

mod suppressed;

/// The first bytes of a recording. As in PNG, the line ends and the 0x1a reveal a transfer that changed them.
pub const MAGIC: &[u8; 12] = b"whyrst\r\n\x1a\n\0\0";

/// Version of the format.
pub const VERSION: u32 = 1;

/// Bytes before a frame's payload: length, checksum, kind.
pub const FRAME_HEADER: usize = 9;

/// The largest frame; a larger length is damage.
pub const FRAME_MAX: u32 = 1 << 20;

/// The largest count, a million a second for nine years; larger ones are cut to it, so that no sum overflows.
const COUNT_MAX: u64 = 1 << 48;

/// Kinds of frames.
pub mod kind {
    /// The host, first in every recording.
    pub const HOST: u8 = 1;
    /// A record of a hook.
    pub const RECORD: u8 = 2;
    /// The state of a hook changed.
    pub const HOOK: u8 = 3;
    /// Counters.
    pub const COUNTERS: u8 = 4;
    /// Facts about a network namespace.
    pub const NETNS: u8 = 5;
    /// The answer to a look-up.
    pub const LOOKED_UP: u8 = 6;
    /// The capture was closed, or the recording goes on in another file.
    pub const ENDED: u8 = 7;
    /// The rules of a namespace that can answer with a RST.
    pub const RULES: u8 = 8;
    /// The use of a conntrack table.
    pub const TABLE_USAGE: u8 = 9;
    /// The host context of a namespace.
    pub const HOST_CONTEXT: u8 = 10;
    /// The counters when this file began, from the second file of a recording on. The frames before it repeat the state
    /// that the reader of the file before has.
    pub const BASELINE: u8 = 11;
    /// A stretch of time that is missing.
    pub const GAP: u8 = 12;
    /// Suppressed events. The payload is binary, in the byte order of the records.
    pub const SUPPRESSED: u8 = 13;
}

/// Everything but a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The host.
    Host(Host),
    /// An item of the capture.
    Item(Item),
    /// The counters in this file count from these on.
    Baseline(Counters),
    /// The recording goes on in its next file.
    Continued(Instant),
}

/// The last frame of a file.
#[derive(Debug, Serialize, Deserialize)]
struct End {
    at_ns: Instant,
    /// The recording goes on in its next file.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    continued: bool,
}

/// Kind and payload of an item.
pub fn encode(item: &Item) -> serde_json::Result<(u8, Vec<u8>)> {
    Ok(match item {
        Item::Record(record) => (kind::RECORD, tracer_model::decode::trimmed(record).to_vec()),
        Item::Hook(status) => (kind::HOOK, serde_json::to_vec(status)?),
        Item::Counters(counters) => (kind::COUNTERS, serde_json::to_vec(counters)?),
        Item::Suppressed(suppressed) => (kind::SUPPRESSED, suppressed::encode(suppressed)),
        Item::Netns(netns) => (kind::NETNS, serde_json::to_vec(netns)?),
        Item::LookedUp(answer) => (kind::LOOKED_UP, serde_json::to_vec(answer)?),
        Item::Rules(rules) => (kind::RULES, serde_json::to_vec(rules)?),
        Item::TableUsage(table_usage) => (kind::TABLE_USAGE, serde_json::to_vec(table_usage)?),
        Item::HostContext(context) => (kind::HOST_CONTEXT, serde_json::to_vec(context)?),
        Item::Gap(gap) => (kind::GAP, serde_json::to_vec(gap)?),
        Item::Ended(at) => (kind::ENDED, serde_json::to_vec(&End { at_ns: *at, continued: false })?),
    })
}

/// JSON of the frame that a further file of a recording begins to count with.
pub(super) fn encode_baseline(counters: &Counters) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(counters)
}

/// JSON of the frame that ends a file whose recording goes on in the next.
pub(super) fn encode_continued(at: Instant) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&End { at_ns: at, continued: true })
}

/// JSON of the host frame.
pub fn encode_host(host: &Host) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(host)
}

/// Decodes a frame that is not a record; `None` for kinds and words that this version does not know.
pub fn decode(kind: u8, payload: &[u8]) -> serde_json::Result<Option<Frame>> {
    let item = match kind {
        kind::HOST => return Ok(Some(Frame::Host(serde_json::from_slice(payload)?))),
        kind::HOOK => serde_json::from_slice::<Known<_>>(payload)?.ok().map(Item::Hook),
        kind::COUNTERS => Some(Item::Counters(counters(payload)?)),
        kind::SUPPRESSED => suppressed::decode(payload).map(Item::Suppressed),
        kind::NETNS => Some(Item::Netns(serde_json::from_slice(payload)?)),
        kind::LOOKED_UP => Some(Item::LookedUp(serde_json::from_slice(payload)?)),
        kind::RULES => Some(Item::Rules(rules(payload)?)),
        kind::TABLE_USAGE => Some(Item::TableUsage(serde_json::from_slice(payload)?)),
        kind::HOST_CONTEXT => Some(Item::HostContext(serde_json::from_slice(payload)?)),
        kind::BASELINE => return Ok(Some(Frame::Baseline(counters(payload)?))),
        kind::GAP => serde_json::from_slice::<Known<_>>(payload)?.ok().map(Item::Gap),
        kind::ENDED => match serde_json::from_slice(payload)? {
            End { at_ns, continued: true } => return Ok(Some(Frame::Continued(at_ns))),
            End { at_ns, continued: false } => Some(Item::Ended(at_ns)),
        },
        _ => None,
    };
    Ok(item.map(Frame::Item))
}

/// Counters, none of them above [`COUNT_MAX`].
fn counters(payload: &[u8]) -> serde_json::Result<Counters> {
    let mut counters: Counters = serde_json::from_slice(payload)?;
    let of_hooks = counters.hooks.iter_mut().flat_map(|hook| &mut hook.0);
    let per_cpu = counters.lost_on.iter_mut().map(|(_, _, lost)| lost);
    let of_tables = counters.table_full.iter_mut().flat_map(|full| [&mut full.dropped, &mut full.made_room]);
    for count in of_hooks.chain(per_cpu).chain(of_tables) {
        *count = (*count).min(COUNT_MAX);
    }
    Ok(counters)
}

/// Rules, with a problem that counts those that this version does not know.
fn rules(payload: &[u8]) -> serde_json::Result<Rules> {
    #[derive(Deserialize)]
    struct All {
        rules: Vec<IgnoredAny>,
    }

    let mut rules: Rules = serde_json::from_slice(payload)?;
    let All { rules: all } = serde_json::from_slice(payload)?;
    match all.len().saturating_sub(rules.rules.len()) {
        0 => {}
        unknown => rules
            .problems
            .push(format!("{unknown} rules of the recording are of a kind that this program does not know")),
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use tracer_model::host_context::{
        Dropping, FilterChain, HostContext, Limits, Manager, NetnsPath, Persistence, Translation,
    };
    use tracer_model::ruleset::{Backend, Family, Hooks, Key};
    use tracer_model::time::Instant;

    use super::{COUNT_MAX, Frame, Item, decode, encode, kind};

    fn full() -> HostContext {
        HostContext {
            netns: 7,
            at: Instant(8),
            netns_path: NetnsPath::Named("gateway".to_owned()),
            initial: NetnsPath::Process(1),
            tools: vec!["nft".to_owned()],
            iptables: Some(Backend::IptablesLegacy),
            manager: Some(Manager::Ufw),
            persistence: vec![
                Persistence::Nftables { file: "/etc/nftables.conf".to_owned() },
                Persistence::NetfilterPersistent,
                Persistence::IptablesServices,
            ],
            backends: Backend::ALL.to_vec(),
            translations: vec![Translation {
                backend: Backend::Nftables,
                family: Family::Inet,
                output: Some("wan0".to_owned()),
                to: vec![("192.0.2.1".parse().unwrap(), "192.0.2.4".parse().unwrap())],
            }],
            drops: vec![Dropping {
                rule: "inet filter input handle 3".to_owned(),
                family: Family::Ip6,
                input: Some("wan0".to_owned()),
                destination: Some("2001:db8::1".parse().unwrap()),
                narrow: true,
            }],
            chains: vec![FilterChain {
                family: Family::Ip,
                table: "filter".to_owned(),
                name: "input".to_owned(),
                hooks: Hooks(2),
            }],
            xtables: vec![(Family::Ip, "nat".to_owned())],
            xchains: vec![(Family::Ip, "nat".to_owned(), "POSTROUTING".to_owned())],
            uplinks: vec!["wan0".to_owned()],
            addresses: vec![("wan0".to_owned(), "192.0.2.1".parse().unwrap())],
            memory: Some(1 << 30),
            limits: Limits { max: Some(1), buckets: Some(2), own: Some(3) },
            problems: vec!["too large".to_owned()],
        }
    }

    #[test]
    fn a_host_context_is_read_as_it_was_written() {
        let item = Item::HostContext(Box::new(full()));
        let (kind, payload) = encode(&item).unwrap();
        assert_eq!(decode(kind, &payload).unwrap(), Some(Frame::Item(item)));
    }

    /// A later version has more words.
    #[test]
    fn unknown_words_are_left_out() {
        let json = r#"{"netns": 7, "at_ns": 8, "way": "here", "initial": "here", "iptables": "iptables-bpf",
            "keepers": [{"keeper": "new-one", "file": "x"}], "holders": ["eBPF", "nftables"], "new": 1}"#;
        let expected =
            HostContext { backends: vec![Backend::Nftables], ..HostContext::unknown(7, Instant(8), NetnsPath::Here) };
        let read = decode(kind::HOST_CONTEXT, json.as_bytes()).unwrap();
        assert_eq!(read, Some(Frame::Item(Item::HostContext(Box::new(expected)))));
        let hook = r#"{"hook": 999, "target": "new", "since_ns": 1, "state": "attached"}"#;
        assert_eq!(decode(kind::HOOK, hook.as_bytes()).unwrap(), None);
        assert_eq!(decode(kind::GAP, br#"{"why": "new"}"#).unwrap(), None);
        assert!(decode(kind::GAP, b"{").is_err(), "damage");
    }

    #[test]
    fn unknown_rules_are_counted() {
        let rule = |backend: &str, key: &str| {
            format!(
                r#"{{"backend": "{backend}", "family": "ip", "table": "t", "chain": "c", "place": 0, "hooks": 2,
                "tests": [{{"key": "{key}", "bounds": [], "inside": true}}], "complete": true, "text": ""}}"#
            )
        };
        let rules = [rule("nftables", "new"), rule("new", "state"), rule("iptables-nft", "state")].join(",");
        let json = format!(r#"{{"netns": 7, "began_ns": 8, "at_ns": 9, "rules": [{rules}], "problems": ["p"]}}"#);
        let Some(Frame::Item(Item::Rules(rules))) = decode(kind::RULES, json.as_bytes()).unwrap() else {
            panic!("no rules")
        };
        let keys: Vec<Key> = rules.rules.iter().map(|rule| rule.tests[0].key).collect();
        assert_eq!(keys, [Key::Unknown, Key::State]);
        assert_eq!(rules.problems, ["p", "1 rules of the recording are of a kind that this program does not know"]);
    }

    #[test]
    fn counts_are_limited() {
        let json = br#"{"at_ns": 1, "hooks": [[18446744073709551615, 1]], "lost_on": [[0, 0, 18446744073709551615]],
            "table_full": [{"netns": 1, "dropped": 18446744073709551615, "made_room": 2, "first_ns": 3, "last_ns": 4}]}"#;
        for kind in [kind::COUNTERS, kind::BASELINE] {
            let counters = match decode(kind, json).unwrap() {
                Some(Frame::Item(Item::Counters(counters)) | Frame::Baseline(counters)) => counters,
                other => panic!("{other:?}"),
            };
            assert_eq!(counters.hooks[0].0, [COUNT_MAX, 1, 0, 0, 0, 0]);
            assert_eq!(counters.lost_on[0].2, COUNT_MAX);
            assert_eq!((counters.table_full[0].dropped, counters.table_full[0].made_room), (COUNT_MAX, 2));
        }
    }
}
