//! Files of `nft -j list ruleset`.

use serde_json::{Map, Value};

use tracer_model::ruleset::Family;

use super::nft::left_out;
use super::pieces::{Item, Owner, Pieces};
use super::{Counts, Format, Part, SHORT, ScratchError, interface};

/// Objects that a list has.
const LISTED: [&str; 16] = [
    "metainfo",
    "table",
    "chain",
    "rule",
    "set",
    "map",
    "element",
    "flowtable",
    "counter",
    "quota",
    "limit",
    "ct helper",
    "ct timeout",
    "ct expectation",
    "synproxy",
    "secmark",
];

/// Prepares a file.
pub(super) fn part(text: &str) -> Result<Part, ScratchError> {
    let mut document: Value = serde_json::from_str(text)
        .map_err(|error| ScratchError::Line { line: error.line(), what: error.to_string() })?;
    let Some(Value::Array(list)) = document.get_mut("nftables") else {
        return Err(ScratchError::File("it has no array `nftables`".to_owned()));
    };
    let mut part = Part { format: Format::NftJson, family: "nftables".to_owned(), ..Part::default() };
    let mut counts = Counts::default();
    for (index, entry) in list.iter_mut().enumerate() {
        let object = entry.as_object_mut().filter(|object| object.len() == 1);
        let named =
            object.and_then(|object| object.iter_mut().next()).and_then(|(kind, it)| Some((kind, it.as_object_mut()?)));
        let Some((kind, object)) = named.filter(|(kind, _)| LISTED.contains(&kind.as_str())) else {
            let what = format!("`nftables[{index}]` is nothing that nft -j list ruleset prints");
            return Err(ScratchError::File(what));
        };
        match kind.as_str() {
            "rule" => rule(object, &mut part, &mut counts),
            "table" => owner(object),
            "chain" | "flowtable" => names(object.get("dev"), &mut |name| part.devices.extend(interface(name))),
            "set" | "map" => {
                let kinds = object.get("type").map(Value::to_string).unwrap_or_default();
                let elements = object.get("elem");
                if kinds.contains("iface_index") || kinds.contains("\"iif\"") || kinds.contains("\"oif\"") {
                    names(elements, &mut |name| part.devices.extend(interface(name)));
                } else if kinds.contains("ifname") {
                    names(elements, &mut |name| part.names.extend(interface(name)));
                }
            }
            _ => {}
        }
    }
    let whole = document.to_string();
    if whole.len() > SHORT
        && let Some(Value::Array(list)) = document.get_mut("nftables")
    {
        let items = std::mem::take(list).into_iter().flat_map(piece);
        let items = items.map(|it| Item { line: 0, into: Owner::List, text: it.to_string() });
        part.pieces = Some(Pieces { items: items.collect(), ..Pieces::default() });
    }
    part.text = whole;
    Ok(part)
}

/// An object, with the elements of a set as objects of their own.
fn piece(mut entry: Value) -> Vec<Value> {
    let of_set = entry.as_object_mut().and_then(|object| object.iter_mut().next());
    let of_set = of_set.filter(|(kind, _)| matches!(kind.as_str(), "set" | "map"));
    let Some((_, Value::Object(set))) = of_set else { return vec![entry] };
    let constant = set.get("flags").is_some_and(|flags| flags.to_string().contains("\"constant\""));
    if constant {
        return vec![entry];
    }
    let Some(Value::Array(elements)) = set.remove("elem") else { return vec![entry] };
    let [family, table, name] = ["family", "table", "name"].map(|key| set.get(key).cloned().unwrap_or_default());
    let elements = elements.into_iter().map(
        |element| serde_json::json!({"element": {"family": family, "table": table, "name": name, "elem": [element]}}),
    );
    let elements: Vec<Value> = elements.collect();
    std::iter::once(entry).chain(elements).collect()
}

fn rule(object: &mut Map<String, Value>, part: &mut Part, counts: &mut Counts) {
    let word = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (family, table, chain) = (word("family"), word("table"), word("chain"));
    let family = Family::ALL.into_iter().find(|known| known.name() == family);
    let place = family.map(|family| counts.next(family, &table, &chain, 1));
    let Some(Value::Array(expressions)) = object.get_mut("expr") else { return };
    for expression in expressions.iter() {
        let asks = |keys: [&str; 2]| keys.into_iter().any(|key| meta(expression, key));
        if asks(["iif", "oif"]) || expression.get("fwd").is_some() || expression.get("dup").is_some() {
            names(Some(expression), &mut |name| part.devices.extend(interface(name)));
        } else if asks(["iifname", "oifname"]) {
            names(Some(expression), &mut |name| part.names.extend(interface(name)));
        }
    }
    expressions.retain(|expression| {
        let Some(xt) = expression.get("xt") else { return true };
        let word = |name: &str| xt.get(name).and_then(Value::as_str).unwrap_or("?");
        if let Some(place) = &place {
            part.left.push(left_out(0, place, word("type"), word("name")));
        }
        false
    });
    if expressions.is_empty() {
        expressions.push(serde_json::json!({"counter": null}));
    }
}

/// A table that a program owns is deleted with its socket.
fn owner(object: &mut Map<String, Value>) {
    let owns = |flag: &Value| matches!(flag.as_str(), Some("owner" | "persist"));
    match object.get_mut("flags") {
        Some(Value::Array(flags)) => flags.retain(|flag| !owns(flag)),
        Some(flag) if owns(flag) => {
            object.remove("flags");
        }
        _ => {}
    }
}

/// Whether `{"meta": {"key": …}}` is in an expression. `serde_json` limits how deep it can be.
fn meta(value: &Value, key: &str) -> bool {
    match value {
        Value::Object(object) => {
            let own = object.get("meta").and_then(|meta| meta.get("key")).and_then(Value::as_str);
            own == Some(key) || object.values().any(|value| meta(value, key))
        }
        Value::Array(list) => list.iter().any(|value| meta(value, key)),
        _ => false,
    }
}

/// The strings that can be names of interfaces.
fn names(value: Option<&Value>, each: &mut impl FnMut(&str)) {
    match value {
        Some(Value::String(name)) => each(name),
        Some(Value::Array(list)) => list.iter().for_each(|value| names(Some(value), each)),
        Some(Value::Object(object)) => {
            // Keys, operators, chains and comments name none.
            let other =
                ["key", "op", "target", "comment", "family", "protocol", "field", "flags", "type", "name", "prefix"];
            let values = object.iter().filter(|(key, _)| !other.contains(&key.as_str()));
            values.for_each(|(_, value)| names(Some(value), each));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
