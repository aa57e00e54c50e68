//! Documents of nft.

use rstest::rstest;
use serde_json::{Value, json};

use tracer_model::ruleset::tables::{Action, Condition, Step};

use super::super::{Part, SHORT};
use super::part;

fn of(list: &Value) -> Part {
    part(&json!({ "nftables": list }).to_string()).unwrap()
}

fn rule(expressions: &Value) -> Value {
    json!({"rule": {"family": "ip", "table": "t", "chain": "c", "comment": "no", "expr": expressions}})
}

#[test]
fn expressions_of_xtables_are_taken_out() {
    let matches = rule(&json!([{"xt": {"type": "match", "name": "recent"}}, {"drop": null}]));
    let part = of(&json!([matches, rule(&json!([{"xt": null}]))]));
    let loaded: Value = serde_json::from_str(&part.text).unwrap();
    assert_eq!(loaded, json!({"nftables": [rule(&json!([{"drop": null}])), rule(&json!([{"counter": null}]))]}));
    let steps: Vec<(usize, &Step)> = part.left.iter().map(|left| (left.place.rule, &left.step)).collect();
    let first = Step::If(Condition::NotUnderstood("xt match recent".to_owned()));
    assert_eq!(steps, [(0, &first), (1, &Step::Do(Action::NotUnderstood("xt ? ?".to_owned())))]);
    assert_eq!(part.left[1].whence(), "rule 2 of ip t c");
}

#[test]
fn interfaces_are_collected() {
    let asks = |key: &str, right: Value| json!({"match": {"op": "==", "left": {"meta": {"key": key}}, "right": right}});
    let part = of(&json!([
        {"set": {"family": "ip", "table": "t", "name": "s", "type": "iface_index", "elem": ["a"]}},
        {"map": {"family": "ip", "table": "t", "name": "m", "type": "ifname", "map": "verdict", "elem": [["b", {"jump": {"target": "x"}}]]}},
        {"flowtable": {"family": "ip", "table": "t", "name": "f", "dev": ["d"]}},
        {"chain": {"family": "netdev", "table": "n", "name": "i", "dev": "g"}},
        rule(&json!([asks("iif", json!({"set": ["e", "f"]})), {"log": {"prefix": "no"}}])),
        rule(&json!([asks("oifname", json!("h*")), {"jump": {"target": "y"}}])),
    ]));
    assert_eq!(part.devices.iter().collect::<Vec<_>>(), ["a", "d", "e", "f", "g"]);
    assert_eq!(part.names.iter().collect::<Vec<_>>(), ["b", "h0"]);
}

#[rstest]
#[case("{\"nftables\": [}", "line 1: expected value at line 1 column 15")]
#[case("{}", "it has no array `nftables`")]
#[case(
    "{\"nftables\": [{\"flush\": {\"ruleset\": null}}]}",
    "`nftables[0]` is nothing that nft -j list ruleset prints"
)]
#[case("{\"nftables\": [{\"table\": {}}, 7]}", "`nftables[1]` is nothing that nft -j list ruleset prints")]
fn other_documents(#[case] text: &str, #[case] error: &str) {
    assert_eq!(part(text).unwrap_err().to_string(), error);
}

#[test]
fn no_table_has_an_owner() {
    let table = |flags: Value| json!([{"table": {"family": "ip", "name": "t", "flags": flags}}]);
    let loaded = |flags| serde_json::from_str::<Value>(&of(&table(flags)).text).unwrap()["nftables"].take();
    assert_eq!(loaded(json!(["owner", "dormant", "persist"])), table(json!(["dormant"])));
    assert_eq!(loaded(json!("owner")), json!([{"table": {"family": "ip", "name": "t"}}]));
}

#[test]
fn a_long_file_is_cut_into_pieces() {
    let elements: Vec<String> = (0..2_000).map(|it| format!("10.0.{}.{}", it / 250, it % 250)).collect();
    let set = |flags: Value| json!({"set": {"family": "ip", "table": "t", "name": "s", "type": "ipv4_addr", "flags": flags, "elem": elements}});
    let part = of(&json!([set(json!([])), set(json!(["constant"])), rule(&json!([{"drop": null}]))]));
    assert!(part.text.len() > SHORT);
    let pieces = part.pieces.unwrap();
    assert_eq!(pieces.items.len(), 1 + 2_000 + 1 + 1);
    assert_eq!(pieces.items[0].text.matches("10.0.").count(), 0);
    let second = json!({"element": {"family": "ip", "table": "t", "name": "s", "elem": ["10.0.0.1"]}});
    assert_eq!(serde_json::from_str::<Value>(&pieces.items[2].text).unwrap(), second);
}
