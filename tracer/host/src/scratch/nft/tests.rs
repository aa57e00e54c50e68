//! Files of nft: interfaces, files that are not read, and pieces.

use rstest::rstest;

use tracer_model::ruleset::tables::{Action, Condition, Step};

use super::super::pieces::Owner;
use super::super::{Part, SHORT};
use super::part;

fn chain(rules: &str) -> String {
    format!(
        "table inet t {{\n\tchain c {{\n\t\ttype filter hook input priority filter; policy accept;\n{rules}\n\t}}\n}}\n"
    )
}

fn names(part: &Part) -> (Vec<&str>, Vec<&str>) {
    (part.devices.iter().map(String::as_str).collect(), part.names.iter().map(String::as_str).collect())
}

#[rstest]
#[case("iif \"eth0\" accept comment \"no\"", &["eth0"], &[])]
#[case("oif { \"a\", \"b\" } log prefix \"no\" accept", &["a", "b"], &[])]
#[case("iif lo accept; iif eth1 drop", &["eth1"], &[])]
#[case("iifname \"wan*\" oifname != \"lan\" accept", &[], &["lan", "wan0"])]
#[case("iifname . tcp dport vmap { \"x\" . 22 : accept }", &[], &["x"])]
#[case("fib saddr . iif oif missing drop", &[], &[])]
#[case("fib daddr . iif type local accept", &[], &[])]
#[case("ip daddr 10.0.0.1 fwd to \"out\"", &["out"], &[])]
#[case("ct state invalid drop", &[], &[])]
fn interfaces_of_rules(#[case] rule: &str, #[case] devices: &[&str], #[case] others: &[&str]) {
    assert_eq!(names(&part(&chain(rule)).unwrap()), (devices.to_vec(), others.to_vec()));
}

#[test]
fn interfaces_of_sets_and_hooks() {
    let text = "table inet t {\n\tset s {\n\t\ttype iface_index\n\t\telements = { \"a\",\n\t\t\t     \"b\" }\n\t}\n\tmap m {\n\t\ttypeof iifname : verdict\n\t\telements = { \"c\" : drop }\n\t}\n\tset other {\n\t\ttype ipv4_addr\n\t\tcomment \"no\"\n\t\telements = { 10.0.0.1 }\n\t}\n\tflowtable f {\n\t\thook ingress priority filter\n\t\tdevices = { d, \"e\" }\n\t\tcounter\n\t}\n}\ntable netdev n {\n\tchain i {\n\t\ttype filter hook ingress device \"g\" priority filter; policy accept;\n\t}\n}\n";
    assert_eq!(names(&part(text).unwrap()), (vec!["a", "b", "d", "e", "g"], vec!["c"]));
}

#[rstest]
#[case("include \"/etc/shadow\"\n", 1)]
#[case("table ip t { }; include \"/etc/shadow\"\n", 1)]
#[case("table ip t {\n\tchain c {\n\t\tinclude \"/etc/*\"\n\t}\n}\n", 3)]
#[case("# a comment\ninclude \\\n\"/etc/shadow\"\n", 2)]
#[case("table ip t {\n\tset s {\n\t\ttype ipv4_addr; include \"x\"\n\t}\n}\n", 3)]
fn no_other_file_is_read(#[case] text: &str, #[case] line: usize) {
    let error = part(text).unwrap_err().to_string();
    assert_eq!(error, format!("line {line}: it includes another file: put that in its place"));
}

#[test]
fn the_word_alone_includes_nothing() {
    part(&chain("log prefix \"include \" comment \"include \\\"x\" # include \"y\"")).unwrap();
}

#[rstest]
#[case::a_match("xt match \"recent\" counter drop", " counter drop", Step::If(Condition::NotUnderstood("line 4: xt match recent".to_owned())))]
#[case::without_quotes("counter xt match recent drop", "counter  drop", Step::If(Condition::NotUnderstood("line 4: xt match recent".to_owned())))]
#[case::a_target("counter xt target \"TARPIT\"", "counter ", Step::Do(Action::NotUnderstood("line 4: xt target TARPIT".to_owned())))]
#[case::alone("xt target \"LOG\"", "counter", Step::Do(Action::Nothing("line 4: xt target LOG".to_owned())))]
#[case::as_a_comment("ip saddr 10.0.0.1 # xt_recent counter drop", "ip saddr 10.0.0.1  counter drop", Step::If(Condition::NotUnderstood("line 4: xt match recent".to_owned())))]
#[case::a_target_as_a_comment("counter # xt_TARPIT", "counter ", Step::Do(Action::NotUnderstood("line 4: xt target TARPIT".to_owned())))]
fn expressions_of_xtables(#[case] rule: &str, #[case] loaded: &str, #[case] step: Step) {
    let part = part(&chain(rule)).unwrap();
    assert_eq!(part.text, chain(loaded));
    assert_eq!(part.left.iter().map(|left| &left.step).collect::<Vec<_>>(), [&step]);
}

#[test]
fn rules_keep_their_places() {
    let rules =
        "accept # handle 4\n\n# a comment\nip saddr { 10.0.0.1,\n10.0.0.2 } drop\nxt match a drop; xt match b drop";
    let part = part(&chain(rules)).unwrap();
    let places: Vec<(usize, usize)> = part.left.iter().map(|left| (left.line, left.place.rule)).collect();
    assert_eq!(places, [(9, 2), (9, 3)]);
}

/// The kernel deletes a table with the socket that owns it.
#[rstest]
#[case("flags owner,persist", "")]
#[case("flags owner;", ";")]
#[case("flags dormant,owner", "flags dormant")]
#[case("flags dormant", "flags dormant")]
fn no_table_has_an_owner(#[case] flags: &str, #[case] loaded: &str) {
    let table = |flags: &str| format!("table inet t {{\n\t{flags}\n}}\n");
    assert_eq!(part(&table(flags)).unwrap().text, table(loaded));
}

#[test]
fn a_long_file_is_cut_into_pieces() {
    let addresses: Vec<String> = (0..2_000).map(|it| format!("10.0.{}.{}", it / 250, it % 250)).collect();
    let set = |flags: &str, name: &str| {
        let list = addresses.join(",\n");
        format!("\tset {name} {{\n\t\ttype ipv4_addr\n\t\t{flags}\n\t\telements = {{ {list} }}\n\t}}\n")
    };
    let rules = "\tchain c {\n\t\ttype filter hook input priority 0; policy drop;\n\t\tip saddr $a xt match x drop\n\t\tip saddr { 1.2.3.4, # one\n5.6.7.8 } accept\n\t}\n";
    let text = format!("define a = 10.0.0.1\ntable ip t {{\n{}{}{rules}}}\n", set("", "s"), set("flags constant", "k"));
    let part = part(&text).unwrap();
    assert!(part.text.len() > SHORT);
    let pieces = part.pieces.unwrap();
    assert_eq!(pieces.before, ["define a = 10.0.0.1"]);
    let (elements, rules): (Vec<_>, Vec<_>) =
        pieces.items.iter().partition(|item| item.into == Owner::Set("ip t s".to_owned()));
    assert_eq!((elements.len(), elements[0].text.as_str(), elements[0].line), (2_000, "10.0.0.0", 6));
    assert_eq!((elements[1_999].text.as_str(), elements[1_999].line), ("10.0.7.249", 2_005));
    assert!(rules.iter().all(|item| item.into == Owner::Chain("ip t c".to_owned())));
    let rules: Vec<&str> = rules.iter().map(|item| item.text.as_str()).collect();
    assert_eq!(rules, ["ip saddr $a  drop", "ip saddr { 1.2.3.4,  5.6.7.8 } accept"]);
    assert_eq!(pieces.frame.lines().count(), text.lines().count());
    // A constant set gets its elements when it is created.
    assert_eq!(pieces.frame.matches("elements").count(), 1);
    assert!(pieces.frame.contains("type filter hook input priority 0; policy drop;\n"));
    assert!(!pieces.frame.contains("accept"));
}

proptest::proptest! {
    /// Whatever a file has in it, reading it ends, and pieces lie on the text.
    #[test]
    fn reading_is_total(text in "([{};,\"#\n\\\\a-z .=$@é]|elements = |table ip t |chain c |set s |xt match x |define ){0,60}") {
        // Not behind it: in a comment the padding would be left out.
        let padded = format!("{}\n{text}", " ".repeat(SHORT));
        if let Ok(part) = part(&padded) {
            proptest::prop_assert!(part.text.len() + 20 * part.left.len() >= SHORT);
        }
    }
}
