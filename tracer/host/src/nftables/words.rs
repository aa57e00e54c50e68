//! A rule in short, close to the notation of nft.

use std::net::IpAddr;

use tracer_model::ruleset::tables::{Action, Condition, Element, Field, Nat, Set};
use tracer_model::ruleset::{Family, Key, Shown, Test};

use super::machine::swapped;

/// Most characters that are kept of a rule's words.
const WORDS: usize = 160;
/// Fields of the TCP header that other protocols have too, or that are named as if they were TCP's.
const FIELDS: [&str; 3] = ["sport", "dport", "flags"];
/// Elements of a set that are shown.
const SHOWN: usize = 4;

/// A part of a rule in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// It is known as it stands.
    Text(String),
    /// A look-up, which shows the elements of an anonymous set.
    Lookup {
        /// What is looked up, in words.
        what: String,
        /// The same as fields.
        of: Vec<Field>,
        /// The set.
        set: String,
        /// What stands between the two.
        by: &'static str,
    },
}

/// A rule of this family in short. A test of the transport header is written as if it were TCP's; a rule that answers with a
/// RST sees no other.
pub(super) fn text<'a>(parts: &[Part], resets: bool, family: Family, set: impl Fn(&str) -> Option<&'a Set>) -> String {
    let words: Vec<String> = parts
        .iter()
        .map(|part| match part {
            Part::Text(words) => words.clone(),
            Part::Lookup { what, of, set: name, by } => {
                let anonymous = name.starts_with("__set") || name.starts_with("__map");
                let shown = set(name).filter(|_| anonymous).and_then(|set| elements(of, set, family));
                format!("{what}{by}{}", shown.unwrap_or_else(|| format!("@{name}")))
            }
        })
        .filter(|words| !words.is_empty())
        .collect();
    let text = tidy(&words, resets).join(" ");
    match text.char_indices().nth(WORDS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// A rule's words, without those that others of them imply.
fn tidy(text: &[String], resets: bool) -> Vec<String> {
    let has = |words: &str| text.iter().any(|known| known == words);
    let names = |with: &str| text.iter().any(|words| words.starts_with(with) || words.contains(&format!(" {with}")));
    let transport = if has("meta l4proto udp") || has("ip protocol udp") {
        "udp"
    } else if resets || has("meta l4proto tcp") || has("ip protocol tcp") {
        "tcp"
    } else {
        "th"
    };
    let implied = |words: &str| match words {
        "meta l4proto tcp" | "ip protocol tcp" | "meta l4proto udp" | "ip protocol udp" => {
            FIELDS.iter().any(|field| names(&format!("tcp {field}")))
        }
        "meta nfproto ipv4" => names("ip "),
        "meta nfproto ipv6" => names("ip6 "),
        _ => false,
    };
    let renamed = |words: &String| {
        FIELDS
            .iter()
            .fold(words.clone(), |words, field| words.replace(&format!("tcp {field}"), &format!("{transport} {field}")))
    };
    text.iter().filter(|words| !implied(words)).map(renamed).collect()
}

/// The elements of a set in braces; none where its fields are not those of the look-up.
fn elements(of: &[Field], set: &Set, family: Family) -> Option<String> {
    let shown: Option<Vec<String>> =
        set.elements.iter().take(SHOWN).map(|element| self::element(of, element, family)).collect();
    let more = if set.elements.len() > SHOWN { ", …" } else { "" };
    Some(format!("{{ {}{more} }}", shown?.join(", ")))
}

fn element(of: &[Field], element: &Element, family: Family) -> Option<String> {
    let mut fields = Vec::new();
    let mut at = 0;
    for field in of.iter().filter(|_| !element.from.is_empty()) {
        let bytes = |all: &[u8]| all.get(at..at + field.length).map(|bytes| in_key_order(field, bytes));
        let test = range(field.key, bytes(&element.from)?, bytes(&element.to)?);
        let words = field.key.words(field.length, family);
        let shown = self::test(&test, Some(&words), family);
        fields.push(shown.strip_prefix(&words).unwrap_or(&shown).trim_start().to_owned());
        at += field.length.next_multiple_of(4);
    }
    let keys = if fields.is_empty() { "*".to_owned() } else { fields.join(" . ") };
    Some(match &element.verdict {
        Some(verdict) => format!("{keys} : {}", action(verdict)),
        None => keys,
    })
}

/// A test of a range; of a prefix, where it is one and its key is known by prefixes.
fn range(key: Key, from: Vec<u8>, to: Vec<u8>) -> Test {
    let same = from.iter().zip(&to).take_while(|(from, to)| from == to).count();
    let rest = |bytes: &[u8], fill: u8| bytes.iter().skip(same).all(|byte| *byte == fill);
    let names = matches!(key, Key::InputName | Key::OutputName);
    if names && same > 0 && same < from.len() && rest(&from, 0) && rest(&to, 0xff) {
        return Test::is(key, from.into_iter().take(same).collect());
    }
    let mask: Vec<u8> = from.iter().zip(&to).map(|(from, to)| !(from ^ to)).collect();
    let leaves = mask.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1));
    let prefix = leaves.skip_while(|bit| *bit == 1).all(|bit| bit == 0);
    let whole = from.iter().zip(&mask).all(|(byte, mask)| byte & !mask == 0)
        && to.iter().zip(&mask).all(|(byte, mask)| byte | mask == 0xff);
    let addresses = matches!(key, Key::NetworkHeader { .. }) && matches!(from.len(), 4 | 16);
    if addresses && from != to && prefix && whole {
        return Test { mask, ..Test::is(key, from) };
    }
    Test { bounds: vec![(from, to)], ..Test::is(key, Vec::new()) }
}

fn in_key_order(field: &Field, bytes: &[u8]) -> Vec<u8> {
    if field.native { swapped(bytes) } else { bytes.to_vec() }
}

/// The words for a condition.
pub(super) fn condition(condition: &Condition, family: Family) -> Vec<String> {
    let several = |all: &[Condition]| all.iter().flat_map(|part| self::condition(part, family)).collect::<Vec<_>>();
    match condition {
        Condition::Is(test) => vec![self::test(test, None, family)],
        Condition::Element { set, inside, .. } => vec![format!("{}@{set}", if *inside { "" } else { "!= " })],
        Condition::All(all) => several(all),
        Condition::Any(any) => {
            let parts: Vec<String> = any.iter().map(|part| self::condition(part, family).join(" ")).collect();
            vec![format!("( {} )", parts.join(" or "))]
        }
        // Its text says that it is the inverse.
        Condition::Not(inner) if matches!(&**inner, Condition::Usually(_)) => self::condition(inner, family),
        Condition::Not(inner) => vec![format!("not ( {} )", self::condition(inner, family).join(" "))],
        Condition::Constant(true) => Vec::new(),
        Condition::Constant(false) => vec!["never".to_owned()],
        Condition::Usually(text) | Condition::Varies(text) | Condition::NotUnderstood(text) => vec![text.clone()],
    }
}

/// The words for an action.
pub(super) fn action(action: &Action) -> String {
    match action {
        Action::Accept => "accept".to_owned(),
        Action::Drop => "drop".to_owned(),
        Action::Return => "return".to_owned(),
        Action::Jump(to) => format!("jump {to}"),
        Action::Goto(to) => format!("goto {to}"),
        Action::VerdictMap { map, .. } => format!("vmap @{map}"),
        Action::RejectWithReset => "reject with tcp reset".to_owned(),
        Action::RejectWithIcmp => "reject".to_owned(),
        Action::Queue { bypass: false } => "queue".to_owned(),
        Action::Queue { bypass: true } => "queue flags bypass".to_owned(),
        Action::Untrack => "notrack".to_owned(),
        Action::Mark { and: 0, xor } => format!("meta mark set {xor:#x}"),
        Action::Mark { and: u32::MAX, xor } => format!("meta mark set meta mark ^ {xor:#x}"),
        Action::Mark { and, xor: 0 } => format!("meta mark set meta mark & {and:#x}"),
        Action::Mark { and, xor } => {
            let or = if and & xor == 0 { '|' } else { '^' };
            format!("meta mark set meta mark & {and:#x} {or} {xor:#x}")
        }
        Action::MarkUnknown => "meta mark set …".to_owned(),
        Action::Nat(nat) => translation(nat),
        Action::Synproxy => "synproxy".to_owned(),
        Action::Tproxy => "tproxy".to_owned(),
        Action::Offload { flowtable } => format!("flow add @{flowtable}"),
        Action::Nothing(text) | Action::NotUnderstood(text) => text.clone(),
    }
}

fn translation(nat: &Nat) -> String {
    let (name, to) = match nat {
        Nat::Source(to) => ("snat", to),
        Nat::Masquerade(to) => ("masquerade", to),
        Nat::Destination(to) => ("dnat", to),
        Nat::Redirect(to) => ("redirect", to),
    };
    if to.to.is_empty() && to.ports.is_none() { name.to_owned() } else { format!("{name} to {to}") }
}

/// The words for a comparison of something that is not known.
pub(super) fn comparison(name: &str, (from, to): (&[u8], &[u8]), inside: bool, native: bool) -> String {
    let order = |bytes: &[u8]| if native { swapped(bytes) } else { bytes.to_vec() };
    between(name, (from, to), inside, |bytes| number(Key::Unknown, &order(bytes)))
}

fn between(name: &str, (from, to): (&[u8], &[u8]), inside: bool, value: impl Fn(&[u8]) -> String) -> String {
    let (least, most) = (from.iter().all(|byte| *byte == 0), to.iter().all(|byte| *byte == 0xff));
    match (from == to, inside, least, most) {
        (true, true, ..) => format!("{name} {}", value(from)),
        (true, false, ..) => format!("{name} != {}", value(from)),
        (_, true, true, _) => format!("{name} <= {}", value(to)),
        (_, true, _, true) => format!("{name} >= {}", value(from)),
        (_, false, true, _) => format!("{name} > {}", value(to)),
        (_, false, _, true) => format!("{name} < {}", value(from)),
        (_, true, ..) => format!("{name} {}-{}", value(from), value(to)),
        (_, false, ..) => format!("{name} != {}-{}", value(from), value(to)),
    }
}

/// A number in network byte order, or the word that nft has for it.
fn number(key: Key, bytes: &[u8]) -> String {
    /// `RTN_*` (`include/uapi/linux/rtnetlink.h`).
    const TYPES: [&str; 9] =
        ["unspec", "unicast", "local", "broadcast", "anycast", "multicast", "blackhole", "unreachable", "prohibit"];
    let hexadecimal = bytes.len() > 8 || key == Key::ConnectionStatus;
    let number = bytes.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte));
    let words: &[&str] = match key {
        Key::AddressType { .. } => &TYPES,
        Key::PacketType => &["host", "broadcast", "multicast", "other"],
        Key::ConnectionDirection => &["original", "reply"],
        Key::Ipsec => &["missing", "exists"],
        _ => &[],
    };
    let word = usize::try_from(number).ok().and_then(|at| words.get(at));
    match word {
        Some(word) => (*word).to_owned(),
        None if hexadecimal => bytes.iter().fold("0x".to_owned(), |text, byte| text + &format!("{byte:02x}")),
        None => number.to_string(),
    }
}

fn address(bytes: &[u8]) -> String {
    let short = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let address = short.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from));
    address.map_or_else(|_| number(Key::Connection, bytes), |address| address.to_string())
}

/// The words of `ct status` for bits of `enum ip_conntrack_status`.
fn status(bytes: &[u8]) -> Option<String> {
    const BITS: [(u32, &str); 7] = [
        (1, "expected"),
        (1 << 1, "seen-reply"),
        (1 << 2, "assured"),
        (1 << 3, "confirmed"),
        (1 << 4, "snat"),
        (1 << 5, "dnat"),
        (1 << 9, "dying"),
    ];
    let bits = u32::from_be_bytes(bytes.try_into().ok()?);
    let known = BITS.iter().filter(|(bit, _)| bits & bit != 0);
    let (all, words) =
        known.fold((0, Vec::new()), |(all, words), (bit, word)| (all | bit, [words, vec![*word]].concat()));
    (all == bits && bits != 0).then(|| words.join(","))
}

/// The words for a test, with another name for its key where there is one.
pub(super) fn test(test: &Test, name: Option<&str>, family: Family) -> String {
    let words = test.key.words(test.length(), family);
    let named = name.unwrap_or(&words);
    if let [(from, to)] = &test.bounds[..] {
        let zero = from.iter().chain(to).all(|byte| *byte == 0);
        if test.key == Key::ReversePath && test.mask.is_empty() && from == to {
            return format!("{named} {}", if zero == test.inside { "missing" } else { "exists" });
        }
        let plain = match test.key {
            Key::Length
            | Key::InputIndex
            | Key::OutputIndex
            | Key::PacketType
            | Key::ConnectionDirection
            | Key::AddressType { .. }
            | Key::Socket
            | Key::Ipsec
            | Key::Unknown => true,
            Key::Connection => from.len() <= 8,
            _ => false,
        };
        // What conntrack has for an address is one, whatever its key.
        if test.key == Key::Connection && named.ends_with("addr") && test.mask.is_empty() {
            return between(named, (from, to), test.inside, address);
        }
        if plain && test.mask.is_empty() {
            return between(named, (from, to), test.inside, |bytes| number(test.key, bytes));
        }
        if let Some(bits) =
            Some(&test.mask).filter(|_| test.key == Key::ConnectionStatus && zero).and_then(|bits| status(bits))
        {
            return format!("{named} {}{bits}", if test.inside { "! " } else { "" });
        }
    }
    let shown = Shown(test, family).to_string();
    match shown.strip_prefix(&words) {
        Some(rest) => format!("{named}{rest}"),
        None => shown,
    }
}

/// The words for what is looked up.
pub(super) fn field(field: &Field, name: Option<&str>, family: Family) -> String {
    match (name, field.key) {
        (Some(name), _) => name.to_owned(),
        (None, Key::Unknown) => "[register]".to_owned(),
        (None, key) => key.words(field.length, family),
    }
}
