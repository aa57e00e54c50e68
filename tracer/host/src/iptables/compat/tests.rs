//! Structures become the same steps as the text of the rule that they come from.

use rstest::rstest;
use tracer_model::ruleset::Family::{self, Inet, Ip, Ip6};
use tracer_model::ruleset::Hooks;
use tracer_model::ruleset::tables::{Action, Condition, Step};

use super::{condition, steps};
use crate::iptables::shown;
use crate::iptables::text::ruleset;

/// A structure of this size with these bytes.
fn structure(size: usize, bytes: &[(usize, &[u8])]) -> Vec<u8> {
    let mut info = vec![0; size];
    for (at, bytes) in bytes {
        info[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    info
}

/// What a target does, whatever it asks before and whichever hooks lead to it.
fn action(name: &str, revision: u32, info: &[u8], family: Family) -> Action {
    let does = |step| if let Step::Do(action) = step { Some(action) } else { None };
    steps(name, revision, info, family, Hooks::default()).into_iter().find_map(does).unwrap()
}

/// A line of the table, as steps of the text and of the structure.
fn both(line: &str) -> (Vec<Step>, Vec<Step>) {
    let [place, text, stored, bytes] = line.split(" | ").collect::<Vec<_>>()[..] else { panic!("{line}") };
    let [family, table, chain] = place.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
    let [name, revision, size] = stored.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
    let family = if family == "ip6" { Ip6 } else { Ip };
    let printed = ruleset(&format!("*{table}\n:{chain} ACCEPT [0:0]\n[0:0] -A {chain} {text}\nCOMMIT\n"), family);
    let base = printed.tables[0].chains[0].base.unwrap();
    let mut info = vec![0; size.parse().unwrap()];
    for (at, hex) in bytes.split(' ').map(|bytes| bytes.split_once(':').unwrap()) {
        let at: usize = at.parse().unwrap();
        for (place, byte) in (at..).zip((0..hex.len()).step_by(2)) {
            info[place] = u8::from_str_radix(&hex[byte..byte + 2], 16).unwrap();
        }
    }
    let revision = revision.parse().unwrap();
    let stored = if text.starts_with("-m") {
        vec![Step::If(condition(name, revision, &info, family))]
    } else {
        steps(name, revision, &info, family, Hooks::only(base.hook.into()))
    };
    (printed.tables[0].chains[0].rules[0].steps.clone(), stored)
}

/// A structure has no text: its name stands for it.
fn named(step: Step) -> Step {
    fn of(condition: Condition) -> Condition {
        match condition {
            Condition::Usually(text) => Condition::Usually(short(&text)),
            Condition::Varies(text) => Condition::Varies(short(&text)),
            Condition::NotUnderstood(text) => Condition::NotUnderstood(short(&text)),
            Condition::All(all) => Condition::All(all.into_iter().map(of).collect()),
            Condition::Any(any) => Condition::Any(any.into_iter().map(of).collect()),
            Condition::Not(not) => Condition::Not(Box::new(of(*not))),
            other => other,
        }
    }
    match step {
        Step::If(condition) => Step::If(of(condition)),
        Step::Do(Action::Nothing(text)) => Step::Do(Action::Nothing(short(&text))),
        Step::Do(Action::NotUnderstood(text)) => Step::Do(Action::NotUnderstood(short(&text))),
        other @ Step::Do(_) => other,
    }
}

fn short(text: &str) -> String {
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(target_endian = "little")]
#[test]
fn text_and_structure_have_one_meaning() {
    let lines: Vec<&str> = include_str!("stored.txt").lines().filter(|line| !line.starts_with('#')).collect();
    assert!(lines.len() > 80);
    for line in lines {
        let (printed, stored) = both(line);
        let printed: Vec<Step> = printed.into_iter().map(named).collect();
        assert_eq!(shown::steps(&printed, Ip), shown::steps(&stored, Ip), "{line}");
        assert_eq!(printed, stored, "{line}");
    }
}

/// What is decided names it, whatever the rest of the match or target is.
#[test]
fn an_option_that_is_not_known_is_never_ignored() {
    for line in include_str!("stored.txt").lines().filter(|line| !line.starts_with('#')) {
        let mut parts: Vec<String> = line.split(" | ").map(str::to_owned).collect();
        parts[1].push_str(" --new 1");
        let (printed, _) = both(&parts.join(" | "));
        let shown = shown::steps(&printed, Ip);
        // The protocol decides before any option, and HMARK gives any mark.
        let whatever = ["false", "mark unknown"].contains(&shown.as_str());
        assert!(whatever || shown.contains("--new 1)"), "{line}: {shown}");
    }
}

/// Structures that iptables 1.8.9 does not write, but older ones did, or the kernel may get from others.
#[rstest]
#[case::state("state", 0, &structure(4, &[(0, &0x41_u32.to_ne_bytes())]), "ct state invalid,untracked")]
#[case::conntrack_1(
    "conntrack",
    1,
    &structure(152, &[(146, &1_u16.to_ne_bytes()), (150, &[0x80])]),
    "ct status & 0x00000020 != 0x00000000"
)]
#[case::alias_alone(
    "conntrack",
    3,
    &structure(168, &[(146, &0x2000_u16.to_ne_bytes())]),
    "ct state != invalid,untracked"
)]
#[case::no_such_state("conntrack", 3, &structure(168, &[(146, &1_u16.to_ne_bytes()), (151, &[0xfe])]), "false")]
#[case::addrtype_0("addrtype", 0, &structure(12, &[(2, &4_u16.to_ne_bytes())]), "fib daddr type 0x00000002")]
#[case::tcp("tcp", 0, &structure(12, &[(2, &[0xff; 2]), (6, &[0xff; 2])]), "true")]
#[case::no_port("tcp", 0, &structure(12, &[(2, &[0xff; 2]), (6, &[0xff; 2]), (11, &[1])]), "tcp sport != 0-65535")]
#[case::mark("mark", 1, &structure(12, &[(0, &7_u32.to_ne_bytes()), (4, &[0xff; 4])]), "meta mark 0x00000007")]
#[case::later_mark("mark", 2, &structure(12, &[]), "?(-m mark)")]
#[case::udp("udp", 0, &structure(10, &[]), "false")]
#[case::limit("limit", 0, &structure(40, &[]), "~(-m limit)")]
#[case::set("set", 4, &structure(56, &[]), "?(-m set)")]
#[case::new("what", 0, &structure(8, &[]), "?(-m what)")]
#[case::cut_off("conntrack", 3, &structure(150, &[]), "?(-m conntrack)")]
fn matches(#[case] name: &str, #[case] revision: u32, #[case] info: &[u8], #[case] expected: &str) {
    assert_eq!(shown::condition(&condition(name, revision, info, Ip), Ip), expected);
}

#[rstest]
#[case("REJECT", 0, &structure(4, &[(0, &7_u32.to_ne_bytes())]), Ip, "reset")]
#[case("REJECT", 0, &structure(4, &[(0, &7_u32.to_ne_bytes())]), Ip6, "reject")]
#[case("REJECT", 0, &[], Ip, "?(-j REJECT)")]
#[case("CONNMARK", 1, &structure(16, &[(12, &[2])]), Ip, "mark unknown")]
#[case("MARK", 3, &structure(16, &[]), Ip, "?(-j MARK)")]
#[case("NETMAP", 0, &structure(20, &[(4, &1_u32.to_ne_bytes())]), Ip, "?(-j NETMAP)")]
#[case("CLUSTERIP", 0, &structure(64, &[]), Ip, "?(-j CLUSTERIP)")]
#[case("svc", 0, &[], Ip, "?(-j svc)")]
fn targets(
    #[case] name: &str,
    #[case] revision: u32,
    #[case] info: &[u8],
    #[case] family: Family,
    #[case] expected: &str,
) {
    assert_eq!(shown::action(&action(name, revision, info, family)), expected);
}

/// Every name, revision and length has an answer.
#[test]
fn any_structure_is_read() {
    let names: Vec<&str> = include_str!("stored.txt")
        .lines()
        .filter_map(|line| line.split(" | ").nth(2)?.split(' ').next())
        .chain(["state", "mark", "what"])
        .collect();
    for name in names {
        for revision in 0..5 {
            for length in 0..320 {
                for family in [Ip, Ip6, Inet] {
                    let info = vec![0xff; length];
                    let asked = condition(name, revision, &info, family);
                    let read = steps(name, revision, &info, family, Hooks(0xff));
                    assert!(!shown::condition(&asked, family).is_empty() && !read.is_empty(), "{name}");
                }
            }
        }
    }
}
