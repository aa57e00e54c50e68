//! Whether a change is in force: it is there, it is not there, or that is not known. Only what a tool documents as "there is no
//! such thing" counts as not there.

use std::fs;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use tracer_model::host_context::NetnsPath;
use tracer_model::mitigation::{Change, Command, NftBatch, Probe, Step};
use tracer_model::ruleset::Family;

use super::places::Places;
use super::run::{Ran, one_line, ran};

/// How nft begins its error if a table or a chain does not exist.
const NFT_ABSENT: &str = "Error: No such file or directory";
/// What iptables prints if a rule or its chain does not exist. It exits with 1 for other errors too.
const IPTABLES_ABSENT: [&str; 2] =
    ["Bad rule (does a matching rule exist in that chain?)", "No chain/target/match by that name"];
/// What `firewall-cmd` prints if a rule does not exist. A Python program that fails also exits with 1.
const FIREWALLD_ABSENT: &str = "no";
/// `EXIT_FAILURE`: all three exit with it if something does not exist.
const FAILURE: i32 = 1;

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "found", rename_all = "kebab-case")]
pub enum Found {
    /// It is not there.
    Absent,
    /// A sysctl has this value.
    Value {
        /// The value.
        value: String,
    },
    /// The rule is there.
    Rule,
    /// The table is there, or rules in chains of others are.
    Nft(Listing),
}

/// What nft lists.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The handle of the table, which the kernel gives to no other table; none if there is no table.
    pub handle: Option<u64>,
    /// The objects in it, as JSON without handles and counters.
    pub objects: Vec<String>,
    /// The comments of its rules; none for a rule without one.
    pub comments: Vec<Option<String>>,
    /// The mitigation's rules in chains of others.
    pub inserted: Vec<Inserted>,
}

/// A rule in a chain of others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inserted {
    family: Family,
    table: String,
    chain: String,
    handle: u64,
}

/// It is not known whether a change is in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{probe}` does not show whether it is in force: {because}")]
pub struct Unknown {
    /// What was to show it.
    pub probe: String,
    /// Why it does not.
    pub because: String,
}

/// What a tool answered.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Present(String),
    Absent,
    Unknown(String),
}

/// Looks whether a change is in force.
pub(super) fn probed(step: &Step, places: &Places) -> Result<Found, Unknown> {
    let mut listing = Listing::default();
    for (index, probe) in step.probes().iter().enumerate() {
        let unknown = |because: String| Unknown { probe: probe.line(&step.netns), because };
        match (ask(probe, &step.netns, places), &step.change) {
            (Answer::Unknown(because), _) => return Err(unknown(because)),
            (Answer::Absent, Change::NftBatch(_)) => {}
            (Answer::Absent, _) => return Ok(Found::Absent),
            (Answer::Present(text), Change::Sysctl { .. }) => return Ok(Found::Value { value: text }),
            (Answer::Present(_), Change::IptablesRule(_) | Change::FirewalldRule(_)) => return Ok(Found::Rule),
            (Answer::Present(text), Change::NftBatch(batch)) => {
                listing.read(&text, index == 0, batch).map_err(unknown)?;
            }
        }
    }
    let nothing = listing.handle.is_none() && listing.inserted.is_empty();
    Ok(if nothing { Found::Absent } else { Found::Nft(listing) })
}

/// The packets that the rule of a step has counted; none without a counter.
pub(super) fn packets(step: &Step, places: &Places) -> Result<Option<u64>, Unknown> {
    let Some(probe) = step.counters() else { return Ok(None) };
    let unknown = |because: &str| Unknown { probe: probe.line(&step.netns), because: because.to_owned() };
    let text = match ask(&probe, &step.netns, places) {
        Answer::Present(text) => text,
        Answer::Absent => return Err(unknown("it is not there")),
        Answer::Unknown(because) => return Err(unknown(&because)),
    };
    let count = match &step.change {
        Change::IptablesRule(rule) => {
            let comment = rule.rule.iter().skip_while(|word| *word != "--comment").nth(1);
            comment.and_then(|comment| iptables_packets(&text, comment))
        }
        _ => nft_packets(&text),
    };
    count.map(Some).ok_or_else(|| unknown("its counter is not in there"))
}

fn ask(probe: &Probe, netns: &NetnsPath, places: &Places) -> Answer {
    let run = |command: &Command| match ran(command, netns, places) {
        Ok(ran) => Ok(ran),
        Err(error) => Err(Answer::Unknown(error.to_string())),
    };
    let answered = match probe {
        Probe::Sysctl(name) => {
            let path = places.sysctls.join(name.replace('.', "/"));
            return match places.inside(netns, || fs::read_to_string(path)).and_then(|text| text) {
                Ok(text) => Answer::Present(text.trim().to_owned()),
                Err(error) => Answer::Unknown(error.to_string()),
            };
        }
        Probe::Nft(command) => run(command).map(|ran| of_nft(&ran)),
        Probe::Iptables(command) => run(command).map(|ran| of_iptables(&ran)),
        Probe::Firewalld(command) => run(command).map(|ran| of_firewalld(&ran)),
    };
    answered.unwrap_or_else(|unknown| unknown)
}

fn of_nft(ran: &Ran) -> Answer {
    answer(ran, ran.stderr.starts_with(NFT_ABSENT))
}

fn of_iptables(ran: &Ran) -> Answer {
    answer(ran, IPTABLES_ABSENT.iter().any(|words| ran.stderr.contains(words)))
}

fn of_firewalld(ran: &Ran) -> Answer {
    answer(ran, ran.stdout.trim() == FIREWALLD_ABSENT)
}

fn answer(ran: &Ran, absent: bool) -> Answer {
    match ran.status.code() {
        Some(0) => Answer::Present(ran.stdout.clone()),
        Some(FAILURE) if absent => Answer::Absent,
        _ => Answer::Unknown(ran.why()),
    }
}

impl Listing {
    /// Reads a listing of the own table, or of a chain of others.
    fn read(&mut self, text: &str, own: bool, batch: &NftBatch) -> Result<(), String> {
        for (kind, object) in objects(text)? {
            let handle = object["handle"].as_u64();
            let comment = object["comment"].as_str();
            match kind.as_str() {
                "table" if own => self.handle = Some(handle.ok_or("its table has no handle")?),
                "rule" if own => {
                    self.comments.push(comment.map(str::to_owned));
                    self.objects.push(plain(&kind, object));
                }
                _ if own => self.objects.push(plain(&kind, object)),
                "rule" if comment == Some(&batch.comment) => {
                    let of = |name: &str| object[name].as_str().map(str::to_owned);
                    let family = Family::ALL.into_iter().find(|it| Some(it.name()) == object["family"].as_str());
                    let parts = family.zip(of("table")).zip(of("chain")).zip(handle);
                    let (((family, table), chain), handle) = parts.ok_or("a rule has no handle")?;
                    self.inserted.push(Inserted { family, table, chain, handle });
                }
                _ => {}
            }
        }
        if own && self.handle.is_none() {
            return Err("it lists no table".to_owned());
        }
        Ok(())
    }

    /// Whether it is what a batch makes, and nothing else.
    pub(super) fn is_of(&self, batch: &NftBatch) -> bool {
        self.handle.is_some()
            && self.objects.len() == batch.chains.len() + batch.rules.len()
            && self.comments.len() == batch.rules.len()
            && self.comments.iter().all(|comment| comment.as_ref() == Some(&batch.comment))
            && self.inserted.len() == batch.inserts.len()
    }

    /// The program that deletes it, by handles: a table or a rule that others have made meanwhile has another one.
    pub(super) fn delete(&self) -> Command {
        let rules = self.inserted.iter().map(|Inserted { family, table, chain, handle }| {
            format!("delete rule {} {table} {chain} handle {handle}", family.name())
        });
        let table = self.handle.map(|handle| format!("delete table inet handle {handle}"));
        Command::nft(table.into_iter().chain(rules).collect())
    }
}

/// The objects of a listing, with their kinds.
fn objects(text: &str) -> Result<Vec<(String, Value)>, String> {
    let mut document: Value = serde_json::from_str(text).map_err(|error| format!("it prints no JSON: {error}"))?;
    let Some(Value::Array(all)) = document.get_mut("nftables").map(Value::take) else {
        return Err("it prints no list of objects".to_owned());
    };
    let pairs = all.into_iter().filter_map(|object| match object {
        Value::Object(map) => map.into_iter().next(),
        _ => None,
    });
    Ok(pairs.filter(|(kind, _)| kind != "metainfo").collect())
}

/// An object without what differs between two of the same, or changes by itself.
fn plain(kind: &str, mut object: Value) -> String {
    if let Value::Object(map) = &mut object {
        map.shift_remove("handle");
    }
    if let Some(Value::Array(expressions)) = object.get_mut("expr") {
        for expression in expressions {
            if let Some(counter) = expression.get_mut("counter").filter(|it| it.is_object()) {
                *counter = Value::Null;
            }
        }
    }
    format!("{kind} {object}")
}

fn nft_packets(text: &str) -> Option<u64> {
    let counters = objects(text).ok()?.into_iter().filter(|(kind, _)| kind == "rule").flat_map(|(_, rule)| {
        let expressions = rule["expr"].as_array().into_iter().flatten();
        expressions.filter_map(|it| it["counter"]["packets"].as_u64()).collect::<Vec<u64>>()
    });
    let counters: Vec<u64> = counters.collect();
    (!counters.is_empty()).then(|| counters.iter().sum())
}

/// The packets of rules with a comment, as `iptables -v -S` prints them: `-c PACKETS BYTES`.
fn iptables_packets(text: &str, comment: &str) -> Option<u64> {
    let of = |line: &str| -> Option<u64> {
        let words = shlex::split(line)?;
        let after = |option: &str| words.iter().skip_while(|word| *word != option).nth(1);
        if after("--comment").is_some_and(|found| found == comment) { after("-c")?.parse().ok() } else { None }
    };
    let counts: Vec<u64> = text.lines().filter_map(of).collect();
    (!counts.is_empty()).then(|| counts.iter().sum())
}

impl Found {
    /// Whether both are the same thing. A table that was loaded again after a restart has other handles.
    pub(super) fn is(&self, other: &Self, same_boot: bool) -> bool {
        match (self, other) {
            (Self::Nft(one), Self::Nft(two)) if !same_boot => {
                one.handle.is_some() == two.handle.is_some() && one.objects == two.objects
            }
            _ => self == other,
        }
    }

    /// For a sentence.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Absent => "nothing".to_owned(),
            Self::Value { value } => format!("`{}`", one_line(value)),
            Self::Rule => "the rule".to_owned(),
            Self::Nft(listing) => listing.shown(),
        }
    }

    /// How it differs from an earlier one, for a sentence.
    pub(super) fn since(&self, earlier: &Self) -> String {
        let (Self::Nft(now), Self::Nft(then)) = (self, earlier) else {
            return format!("{}, and was {}", self.shown(), earlier.shown());
        };
        let but = |one: &Listing, two: &Listing| -> Vec<String> {
            one.objects.iter().filter(|object| !two.objects.contains(object)).map(|it| one_line(it)).collect()
        };
        let (added, missing) = (but(now, then), but(then, now));
        if added.is_empty() && missing.is_empty() {
            return format!("{}, and was {}", now.shown(), then.shown());
        }
        let parts = [("in addition", added), ("no longer", missing)].into_iter().filter(|(_, all)| !all.is_empty());
        parts.map(|(word, all)| format!("{word} {}", all.join(", "))).collect::<Vec<_>>().join("; ")
    }
}

impl Listing {
    fn shown(&self) -> String {
        let table = match self.handle {
            Some(handle) => format!("a table with handle {handle} and {} objects", self.objects.len()),
            None => "no table".to_owned(),
        };
        match self.inserted.len() {
            0 => table,
            rules => format!("{table}, and {rules} rules in chains of others"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;

    use rstest::rstest;

    use tracer_model::host_context::NetnsPath;
    use tracer_model::mitigation::{Change, Command, NftBatch, NftChain, NftInsert, NftRule, Step};
    use tracer_model::ruleset::Family;

    use super::{Answer, Found, Listing, iptables_packets, nft_packets, of_firewalld, of_iptables, of_nft, probed};
    use crate::mitigate::places::Places;
    use crate::mitigate::run::Ran;
    use crate::netns::home;

    fn ended(code: i32, stdout: &str, stderr: &str) -> Ran {
        Ran { status: ExitStatus::from_raw(code << 8), stdout: stdout.to_owned(), stderr: stderr.to_owned() }
    }

    const NO_RULE: &str = "iptables: Bad rule (does a matching rule exist in that chain?).";

    /// A failure that is not "not there" is not known.
    #[rstest]
    #[case::rule(0, "", Some(true))]
    #[case::no_rule(1, NO_RULE, Some(false))]
    #[case::no_chain(1, "iptables: No chain/target/match by that name.", Some(false))]
    #[case::incompatible(
        1,
        "iptables v1.8.9 (nf_tables): chain `INPUT' in table `filter' is incompatible, use 'nft' tool.",
        None
    )]
    #[case::lock(4, "Another app is currently holding the xtables lock.", None)]
    #[case::kernel(3, "iptables: can't initialize iptables table `filter': Permission denied", None)]
    #[case::lock_with_the_words(4, NO_RULE, None)]
    #[case::usage(2, "", None)]
    fn answers_of_iptables(#[case] code: i32, #[case] stderr: &str, #[case] there: Option<bool>) {
        let answer = of_iptables(&ended(code, "", stderr));
        assert_eq!(matches!(answer, Answer::Present(_)), there == Some(true), "{answer:?}");
        assert_eq!(answer == Answer::Absent, there == Some(false), "{answer:?}");
        assert_eq!(matches!(answer, Answer::Unknown(_)), there.is_none(), "{answer:?}");
    }

    #[rstest]
    #[case::yes(0, "yes", Some(true))]
    #[case::no(1, "no", Some(false))]
    #[case::not_running(252, "", None)]
    #[case::not_authorized(253, "", None)]
    #[case::python_failed(1, "", None)]
    fn answers_of_firewalld(#[case] code: i32, #[case] stdout: &str, #[case] there: Option<bool>) {
        let answer = of_firewalld(&ended(code, stdout, ""));
        assert_eq!(answer == Answer::Absent, there == Some(false), "{answer:?}");
        assert_eq!(matches!(answer, Answer::Unknown(_)), there.is_none(), "{answer:?}");
    }

    #[rstest]
    #[case::table(1, "Error: No such file or directory list table inet whyrst ^^^^^^", true)]
    #[case::other(1, "Error: cache initialization failed: Operation not permitted", false)]
    #[case::old(1, "Error: syntax error, unexpected list", false)]
    #[case::no_json(1, "Error: JSON support not compiled-in", false)]
    #[case::crash(139, "Error: No such file or directory", false)]
    fn answers_of_nft(#[case] code: i32, #[case] stderr: &str, #[case] absent: bool) {
        let answer = of_nft(&ended(code, "", stderr));
        assert_eq!(answer == Answer::Absent, absent, "{answer:?}");
        assert_eq!(matches!(answer, Answer::Unknown(_)), !absent, "{answer:?}");
        let killed = Ran { status: ExitStatus::from_raw(9), ..ended(0, "", "") };
        assert_eq!(of_nft(&killed), Answer::Unknown("it was ended by signal 9".to_owned()));
    }

    fn batch() -> NftBatch {
        let chain = |name: &str| name.to_owned();
        NftBatch {
            table: "whyrst".to_owned(),
            chains: vec![NftChain { name: chain("input"), hook: chain("input"), priority: chain("-10") }],
            rules: vec![NftRule { chain: chain("input"), rule: "ct state invalid counter drop".to_owned() }],
            inserts: vec![NftInsert {
                family: Family::Inet,
                table: chain("filter"),
                chain: chain("forward"),
                rule: "accept".to_owned(),
            }],
            comment: "whyrst:x".to_owned(),
        }
    }

    const OWN: &str = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
        {"table": {"family": "inet", "name": "whyrst", "handle": 7}},
        {"chain": {"family": "inet", "table": "whyrst", "name": "input", "handle": 1, "prio": -10}},
        {"rule": {"family": "inet", "table": "whyrst", "chain": "input", "handle": 2, "comment": "whyrst:x",
            "expr": [{"counter": {"packets": 3, "bytes": 120}}, {"drop": null}]}}]}"#;
    const OTHERS: &str = r#"{"nftables": [{"chain": {"family": "inet", "table": "filter", "name": "forward", "handle": 1}},
        {"rule": {"family": "inet", "table": "filter", "chain": "forward", "handle": 4, "expr": []}},
        {"rule": {"family": "inet", "table": "filter", "chain": "forward", "handle": 9, "comment": "whyrst:x", "expr": []}}]}"#;

    fn listed(own: &str, others: &str) -> Listing {
        let mut listing = Listing::default();
        listing.read(own, true, &batch()).unwrap();
        listing.read(others, false, &batch()).unwrap();
        listing
    }

    #[test]
    fn a_listing_of_nft() {
        let listing = listed(OWN, OTHERS);
        assert!(listing.is_of(&batch()), "{listing:?}");
        assert_eq!(
            listing.delete().statements,
            ["delete table inet handle 7", "delete rule inet filter forward handle 9"]
        );
        assert_eq!(listed(&OWN.replace("120", "999").replace("\"packets\": 3", "\"packets\": 4"), OTHERS), listing);
        assert_eq!(nft_packets(OWN), Some(3));
        for (from, to) in [
            ("{\"drop\": null}", "{\"accept\": null}"),
            ("\"prio\": -10", "\"prio\": 0"),
            ("\"handle\": 7", "\"handle\": 8"),
            ("whyrst:x", "of somebody else"),
        ] {
            assert_ne!(listed(&OWN.replacen(from, to, 1), OTHERS), listing, "{to}");
        }
        let foreign = listed(&OWN.replace("whyrst:x", "of somebody else"), OTHERS);
        assert!(!foreign.is_of(&batch()));
        let set = r#"{"set": {"family": "inet", "table": "whyrst", "name": "mine", "handle": 3}}"#;
        assert!(!listed(&OWN.replacen("{\"chain\"", &format!("{set}, {{\"chain\""), 1), OTHERS).is_of(&batch()));
        for wrong in ["", "[]", "{}", "{\"nftables\": 1}", "{\"nftables\": []}"] {
            assert!(Listing::default().read(wrong, true, &batch()).is_err(), "{wrong}");
        }
        let reloaded = Found::Nft(listed(&OWN.replace("\"handle\": 7", "\"handle\": 8"), OTHERS));
        assert!(reloaded.is(&Found::Nft(listing.clone()), false) && !reloaded.is(&Found::Nft(listing), true));
    }

    #[test]
    fn counters_of_iptables() {
        let text = "-P INPUT ACCEPT -c 9 0\n-A INPUT -d 192.0.2.1/32 -m comment --comment \"whyrst:x\" -c 3 120 -j DROP\n\
                    -A INPUT -m comment --comment \"whyrst:x y\" -c 7 0 -j DROP\n\
                    -A INPUT -m comment --comment \"whyrst:x\" -c 4 160 -j DROP\n";
        assert_eq!(iptables_packets(text, "whyrst:x"), Some(7));
        assert_eq!(iptables_packets(text, "whyrst:z"), None);
    }

    /// A program that is missing, and a file that is missing, show nothing.
    #[test]
    fn what_cannot_be_asked_is_not_known() {
        let places = Places::of(&[(home().unwrap(), NetnsPath::Here)], &[]).unwrap();
        let change = Change::Sysctl { name: "net.netfilter.no_such_sysctl".to_owned(), before: 0, after: 1 };
        let unknown = probed(&Step { netns: NetnsPath::Here, change }, &places).unwrap_err();
        assert!(unknown.to_string().contains("No such file"), "{unknown}");
        let missing =
            super::ask(&super::Probe::Iptables(Command::of(&["no-such-iptables"])), &NetnsPath::Here, &places);
        assert!(matches!(missing, Answer::Unknown(_)), "{missing:?}");
    }
}
