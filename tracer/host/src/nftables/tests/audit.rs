//! What an audit notes of a ruleset, and what it reports as not understood.

use rstest::rstest;

use tracer_model::ruleset::audit::{Does, Found};

use super::super::reader::{Reader, Wanted};
use super::{
    INET, IPV4, attribute, bitwise, chain, cmp, counter, expression, jump, meta, number, payload, reject, rule, target,
    text, value, xt_match,
};
use crate::nfnetlink::Message;

fn verdict(code: u32) -> Vec<u8> {
    expression("immediate", &[number(1, 0), attribute(2, &attribute(2, &number(1, code)))])
}

/// A constant in a register.
fn constant(register: u32, bytes: &[u8]) -> Vec<u8> {
    expression("immediate", &[number(1, register), value(2, bytes)])
}

/// `ct state` of these bits.
fn state(bits: u32) -> Vec<u8> {
    [expression("ct", &[number(2, 0), number(1, 1)]), bitwise(&bits.to_ne_bytes()), cmp(1, &[0; 4])].concat()
}

fn found(family: u8, hook: u32, expressions: &[Vec<u8>]) -> Found {
    let mut reader = Reader::new(Wanted::Audit);
    chain(&mut reader, family, "chain", Some(hook));
    rule(&mut reader, family, "chain", 7, expressions);
    reader.finish().1
}

/// What is noted of a rule, and its words.
fn noted(family: u8, expressions: &[Vec<u8>]) -> Vec<String> {
    let found = found(family, 1, expressions);
    assert!(found.noted.iter().all(|noted| noted.rule.hooks.0 == 2 && noted.rule.handle == Some(7)));
    let noted = found.noted.iter().map(|noted| {
        let more = noted
            .does
            .translation()
            .map_or_else(String::new, |to| format!(" {to} {}", to.output.as_deref().unwrap_or("anywhere")));
        format!("{}{more}: {}", noted.does.name(), noted.rule.text)
    });
    noted.chain(found.problems).collect()
}

fn wan() -> Vec<u8> {
    [meta(7), cmp(0, b"wan0\0\0\0\0\0\0\0\0\0\0\0\0")].concat()
}

fn nat(parts: &[Vec<u8>]) -> Vec<u8> {
    expression("nat", &[&[number(1, 0), number(2, 2)], parts].concat())
}

#[rstest]
#[case::drop(&[state(1), counter(3), verdict(0)], "drops-invalid: ct state invalid counter drop")]
#[case::of_several(&[state(0x41), verdict(0)], "drops-invalid: ct state invalid,untracked drop")]
#[case::accept(&[state(1), verdict(1)], "accepts-invalid: ct state invalid accept")]
#[case::unreachable(&[state(1), reject(0)], "rejects-invalid: ct state invalid reject")]
#[case::elsewhere(&[state(1), jump("bad")], "sends-invalid: ct state invalid jump bad")]
#[case::notrack(&[payload(2, 2, 2), cmp(0, &[0, 53]), expression("notrack", &[])], "untracks: th dport 53 notrack")]
#[case::notrack_udp(&[meta(16), cmp(0, &[17]), payload(2, 2, 2), cmp(0, &[0, 53]), expression("notrack", &[])],
    "untracks: udp dport 53 notrack")]
#[case::masquerade(&[wan(), expression("masq", &[])], "masquerades  wan0: oifname \"wan0\" masquerade")]
#[case::masquerade_to_ports(&[wan(), constant(1, &[4, 0]), constant(2, &[7, 208]), expression("masq", &[number(2, 1), number(3, 2)])],
    "masquerades :1024-2000 wan0: oifname \"wan0\" masquerade to :1024-2000")]
#[case::one_address(&[constant(1, &[192, 0, 2, 1]), nat(&[number(3, 1)])], "source-nat 192.0.2.1 anywhere: snat to 192.0.2.1")]
#[case::addresses_and_ports(&[
    constant(1, &[192, 0, 2, 1]), constant(2, &[192, 0, 2, 4]), constant(3, &[4, 0]), constant(4, &[7, 208]),
    nat(&[number(3, 1), number(4, 2), number(5, 3), number(6, 4)])],
    "source-nat 192.0.2.1-192.0.2.4:1024-2000 anywhere: snat to 192.0.2.1-192.0.2.4:1024-2000")]
#[case::redirect(&[constant(1, &[31, 144]), expression("redir", &[number(1, 1)])],
    "destination-nat :8080 anywhere: redirect to :8080")]
fn rules_that_matter(#[case] expressions: &[Vec<u8>], #[case] expected: &str) {
    assert_eq!(noted(INET, expressions), [expected]);
}

#[rstest]
#[case::established(&[state(2), verdict(0)])]
#[case::everything(&[counter(1), verdict(0)])]
#[case::only_counted(&[state(1), counter(1)])]
#[case::returns(&[state(1), verdict((-5i32).cast_unsigned())])]
fn rules_that_do_not(#[case] expressions: &[Vec<u8>]) {
    assert_eq!(noted(INET, expressions), [""; 0]);
}

#[test]
fn what_is_not_understood_is_a_problem() {
    let of_state = expression("ct", &[number(2, 0), number(1, 1)]);
    let lookup = |set: &str| expression("lookup", &[text(1, set), number(2, 1)]);
    let named = noted(INET, &[of_state.clone(), lookup("bad"), verdict(0)]);
    assert_eq!(named, ["inet filter chain handle 7 is not understood: ct state @bad drop"]);
    let map = expression("lookup", &[text(1, "states"), number(2, 1), number(3, 0)]);
    let mapped = noted(INET, &[of_state, map]);
    assert_eq!(mapped, ["inet filter chain handle 7 is not understood: ct state vmap @states"]);
    // snat to ip saddr map { … }: noted, without an address.
    let looked_up = noted(
        INET,
        &[
            payload(1, 12, 4),
            expression("lookup", &[text(1, "__map0"), number(2, 1), number(3, 1)]),
            nat(&[number(3, 1)]),
        ],
    );
    assert!(looked_up[0].starts_with("source-nat  anywhere: "), "{looked_up:?}");
    assert!(looked_up[1].starts_with("inet filter chain handle 7 is not understood: "), "{looked_up:?}");
}

#[test]
fn rules_of_iptables_nft() {
    let mut info = [0; 160];
    info[146] = 1;
    info[150] = 1;
    let invalid = [xt_match("conntrack", 3, &info), counter(3), verdict(0)];
    assert_eq!(noted(IPV4, &invalid), ["drops-invalid: ct state invalid counter drop"]);
    assert_eq!(found(IPV4, 1, &invalid).noted[0].rule.to_string(), "iptables filter chain rule 1");
    let notrack = target("CT", &[&1u16.to_ne_bytes()[..], &[0; 62]].concat());
    assert_eq!(noted(IPV4, &[counter(0), notrack]), ["untracks: counter notrack"]);
    assert_eq!(noted(IPV4, &[target("CT", &[0; 64])]), [""; 0], "a helper");
    let one = [1u32, 3].map(u32::to_ne_bytes).concat();
    let old = [one, vec![192, 0, 2, 1, 192, 0, 2, 4, 4, 0, 7, 208]].concat();
    assert_eq!(
        noted(IPV4, &[wan(), target("SNAT", &old)]),
        ["source-nat 192.0.2.1-192.0.2.4:1024-2000 wan0: oifname \"wan0\" snat to 192.0.2.1-192.0.2.4:1024-2000"]
    );
    let mut new = vec![0; 44];
    new[..4].copy_from_slice(&1u32.to_ne_bytes());
    new[4..20].fill(0xfd);
    new[20..36].fill(0xfd);
    let does = found(10, 4, &[target("SNAT", &new)]).noted.remove(0).does;
    assert!(
        matches!(&does, Does::SourceNat(to) if to.to_string() == "fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd"),
        "{does:?}"
    );
    assert_eq!(noted(IPV4, &[target("SNAT", &[0; 7])]), ["iptables filter chain rule 1 is not understood: -j SNAT"]);
}

#[test]
fn chains_that_drop() {
    let mut reader = Reader::new(Wanted::Audit);
    for (name, policy) in [("input", 0u32), ("forward", 1)] {
        let hook = attribute(4, &[number(1, 1), number(2, 0)].concat());
        let attributes = [text(1, "filter"), text(3, name), hook, number(5, policy)].concat();
        reader.chain(Message { family: INET, attributes: &attributes, ..Message::default() });
    }
    let drops: Vec<String> = reader.finish().1.drops.into_iter().map(|chain| chain.name).collect();
    assert_eq!(drops, ["input"]);
}
