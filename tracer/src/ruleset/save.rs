//! What `iptables-save -c` prints, as far as it can answer a packet with a RST.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Backend, Chains, Family, Hooks, Key, Rule, Test};

/// Most characters that are kept of a rule.
const WORDS: usize = 160;
/// Bytes of an interface's name in a register (`IFNAMSIZ`).
const NAME: usize = 16;

/// The rules that reject with a RST, of tables of the kernel's own, in the order of their chains.
pub fn parse(text: &str, family: Family) -> Vec<Rule> {
    let mut all = Vec::new();
    let mut table = Table::default();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = Table { name: name.trim().to_owned(), ..Table::default() };
        } else if let Some(chain) = line.strip_prefix(':') {
            let name = chain.split_whitespace().next().unwrap_or_default();
            table.chains.chain(name, built_in(name));
        } else if line.trim() == "COMMIT" {
            all.extend(std::mem::take(&mut table).finish());
        } else if let Some(line) = line.strip_prefix('[') {
            table.rule(line, family);
        }
    }
    all
}

/// The hook number of a chain that the kernel enters.
fn built_in(chain: &str) -> Option<u32> {
    let names = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
    names.iter().position(|name| *name == chain).and_then(|number| u32::try_from(number).ok())
}

#[derive(Debug, Default)]
struct Table {
    name: String,
    chains: Chains,
    places: BTreeMap<String, u32>,
    rules: Vec<Rule>,
}

impl Table {
    /// `packets:bytes] -A CHAIN …`.
    fn rule(&mut self, line: &str, family: Family) {
        let Some((counters, rule)) = line.split_once("] -A ") else { return };
        let (chain, rest) = rule.split_once(' ').unwrap_or((rule, ""));
        let place = self.places.entry(chain.to_owned()).or_default();
        let number = *place + 1;
        *place = number;
        let words = words(rest);
        let last = words.iter().rposition(|word| !word.quoted && matches!(word.text.as_str(), "-j" | "-g"));
        let Some((matches, target)) = last.and_then(|at| Some((words.get(..at)?, words.get(at + 1..)?))) else {
            return;
        };
        let Some((name, options)) = target.split_first() else { return };
        let with = options.windows(2).find(|pair| pair[0].text == "--reject-with").map(|pair| pair[1].text.as_str());
        match (name.text.as_str(), with) {
            ("REJECT", Some("tcp-reset")) => {}
            (name, _) => return self.chains.jump(chain, name),
        }
        let (tests, complete) = tests(matches, family);
        self.rules.push(Rule {
            backend: Backend::IptablesLegacy,
            family,
            table: self.name.clone(),
            chain: chain.to_owned(),
            handle: None,
            number: Some(number),
            place: number - 1,
            hooks: Hooks::default(),
            tests,
            complete,
            packets: counters.split(':').next().and_then(|packets| packets.parse().ok()),
            text: rest.chars().take(WORDS).collect(),
        });
    }

    fn finish(self) -> Vec<Rule> {
        let reached = self.chains.reached();
        let with_hooks = |mut rule: Rule| {
            rule.hooks = reached.get(&rule.chain).copied().unwrap_or_default();
            rule
        };
        self.rules.into_iter().map(with_hooks).collect()
    }
}

/// A word of a line; one in quotes is never an option.
#[derive(Debug, Default, PartialEq, Eq)]
struct Word {
    text: String,
    quoted: bool,
}

/// Splits a line as a shell would: double quotes, and backslashes inside of them.
fn words(line: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut word: Option<Word> = None;
    let mut inside = false;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                inside = !inside;
                word.get_or_insert_default().quoted = true;
            }
            '\\' if inside => word.get_or_insert_default().text.extend(characters.next()),
            ' ' if !inside => words.extend(word.take()),
            other => word.get_or_insert_default().text.push(other),
        }
    }
    words.extend(word);
    words
}

/// What the matches of a rule ask, and whether that is all.
fn tests(words: &[Word], family: Family) -> (Vec<Test>, bool) {
    let mut tests = Vec::new();
    let mut complete = true;
    let mut module = "";
    let mut inside = true;
    let mut rest = words.iter().peekable();
    while let Some(word) = rest.next() {
        let option = word.text.as_str();
        if option == "!" {
            inside = false;
            continue;
        }
        let mut value = || rest.next().map(|word| word.text.as_str()).unwrap_or_default();
        let test = match (module, option) {
            (_, "-m") => {
                module = value();
                continue;
            }
            ("comment", "--comment") => {
                value();
                continue;
            }
            ("", "-i") => name(Key::InputName, value()),
            ("", "-o") => name(Key::OutputName, value()),
            ("", "-p") => protocol(value()),
            ("", "-s") => network(value(), family, true),
            ("", "-d") => network(value(), family, false),
            ("tcp", "--sport") => ports(0, value()),
            ("tcp", "--dport") => ports(2, value()),
            ("tcp", "--tcp-flags") => flags(value(), value()),
            ("conntrack", "--ctstate") | ("state", "--state") => states(value()),
            _ => None,
        };
        match test {
            Some(test) => tests.push(Test { inside: test.inside == inside, ..test }),
            None => complete = false,
        }
        inside = true;
    }
    (tests, complete)
}

fn name(key: Key, name: &str) -> Option<Test> {
    let mut bytes = name.as_bytes().to_vec();
    if bytes.last() == Some(&b'+') {
        bytes.pop();
    } else {
        bytes.resize(NAME, 0);
    }
    (!bytes.is_empty() && bytes.len() <= NAME).then(|| Test::is(key, bytes))
}

fn protocol(name: &str) -> Option<Test> {
    let number = match name {
        "tcp" => 6,
        "udp" => 17,
        "icmp" => 1,
        other => other.parse().ok().filter(|number| *number != 0)?,
    };
    Some(Test::is(Key::Transport, vec![number]))
}

/// An address with the length of a prefix, or with a mask.
fn network(network: &str, family: Family, source: bool) -> Option<Test> {
    let (address, mask) = network.split_once('/').unwrap_or((network, ""));
    let address = octets(address)?;
    let mask = match mask.parse::<usize>() {
        Ok(length) if length <= address.len() * 8 => {
            (0..address.len()).map(|at| prefix_byte(length.saturating_sub(at * 8))).collect()
        }
        Ok(_) => return None,
        Err(_) if mask.is_empty() => vec![0xff; address.len()],
        Err(_) => octets(mask)?,
    };
    let offset = match (family, source) {
        (Family::Ip6, true) => 8,
        (Family::Ip6, false) => 24,
        (_, true) => 12,
        (_, false) => 16,
    };
    let length = if family == Family::Ip6 { 16 } else { 4 };
    let fits = address.len() == length && mask.len() == length;
    fits.then(|| Test { mask, ..Test::is(Key::NetworkHeader { offset }, address) })
}

/// The byte of a mask that begins so many bits before the prefix ends.
const fn prefix_byte(bits: usize) -> u8 {
    match bits {
        0 => 0,
        bits @ 1..8 => 0xff << (8 - bits),
        _ => 0xff,
    }
}

fn octets(address: &str) -> Option<Vec<u8>> {
    Some(match address.parse().ok()? {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    })
}

fn ports(offset: u32, range: &str) -> Option<Test> {
    let (from, to) = range.split_once(':').unwrap_or((range, range));
    let port = |text: &str| Some(text.parse::<u16>().ok()?.to_be_bytes().to_vec());
    let bounds = vec![(port(from)?, port(to)?)];
    Some(Test { key: Key::TransportHeader { offset }, mask: Vec::new(), bounds, inside: true })
}

fn flags(mask: &str, set: &str) -> Option<Test> {
    let bits = |names: &str| {
        names.split(',').try_fold(0u8, |bits, name| {
            let bit = match name {
                "FIN" => 0x01,
                "SYN" => 0x02,
                "RST" => 0x04,
                "PSH" => 0x08,
                "ACK" => 0x10,
                "URG" => 0x20,
                "ALL" => 0x3f,
                "NONE" => 0,
                _ => return None,
            };
            Some(bits | bit)
        })
    };
    let (mask, set) = (bits(mask)?, bits(set)?);
    Some(Test { mask: vec![mask], ..Test::is(Key::TransportHeader { offset: 13 }, vec![set]) })
}

fn states(names: &str) -> Option<Test> {
    let bits = names.split(',').try_fold(0u32, |bits, name| {
        let bit = match name {
            "INVALID" => 1,
            "ESTABLISHED" => 1 << 1,
            "RELATED" => 1 << 2,
            "NEW" => 1 << 3,
            "UNTRACKED" => 1 << 6,
            _ => return None,
        };
        Some(bits | bit)
    })?;
    Some(Test::state(bits, false))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::super::{Family, Hooks, Shown};
    use super::{Word, parse, words};

    const SAVED: &str = r#"# Generated by iptables-save v1.8.9 on Sat Nov 21 11:00:00 2026
*raw
:PREROUTING ACCEPT [10:840]
COMMIT
*filter
:INPUT ACCEPT [10:840]
:FORWARD DROP [0:0]
:svc - [0:0]
[7:420] -A INPUT -p tcp -j REJECT --reject-with icmp-port-unreachable
[1:60] -A INPUT -i wan0 -p tcp -m tcp --dport 113 -j REJECT --reject-with tcp-reset
[0:0] -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
[9:540] -A FORWARD -j svc
[8:480] -A svc -p tcp -m comment --comment "not \"here\" -j ACCEPT" -j REJECT --reject-with tcp-reset
COMMIT
"#;

    #[test]
    fn rules_of_a_saved_ruleset() {
        let rules = parse(SAVED, Family::Ip);
        let names: Vec<String> = rules.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["iptables filter INPUT rule 2", "iptables filter svc rule 1"]);
        assert_eq!([rules[0].hooks, rules[1].hooks], [Hooks::only(1), Hooks::only(2)]);
        assert_eq!([rules[0].packets, rules[1].packets], [Some(1), Some(8)]);
        assert!(rules.iter().all(|rule| rule.complete && rule.handle.is_none()));
        assert_eq!(rules[0].text, "-i wan0 -p tcp -m tcp --dport 113 -j REJECT --reject-with tcp-reset");
        assert_eq!(rules[0].shown_by(), "iptables-legacy -L INPUT -n -v --line-numbers");
    }

    #[rstest]
    #[case("-i lan+", "iifname \"lan*\"", true)]
    #[case("! -i lan0", "iifname != \"lan0\"", true)]
    #[case("-s 10.0.0.0/8", "ip saddr 10.0.0.0/8", true)]
    #[case("! -d 192.0.2.2/32", "ip daddr != 192.0.2.2/32", true)]
    #[case("-d 10.0.0.0/255.0.255.0", "ip daddr & 0xff00ff00 == 10.0.0.0", true)]
    #[case("-s fd00::/8", "", false)]
    #[case("-s 10.0.0.0/33", "", false)]
    #[case("-p tcp -m tcp --sport 1024:65535", "meta l4proto tcp; tcp sport 1024-65535", true)]
    #[case("-p tcp -m tcp ! --dport 80", "meta l4proto tcp; tcp dport != 80", true)]
    #[case("-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN", "meta l4proto tcp; tcp flags & 0x17 == 0x02", true)]
    #[case("-m conntrack --ctstate INVALID", "ct state invalid", true)]
    #[case("-m conntrack ! --ctstate NEW", "ct state != new", true)]
    #[case("-m state --state NEW,UNTRACKED", "ct state new,untracked", true)]
    #[case("-m conntrack --ctstate SNAT", "", false)]
    #[case("-m conntrack --ctdir ORIGINAL", "", false)]
    #[case("-p udp -m udp --dport 53", "meta l4proto 17", false)]
    #[case("-m limit --limit 1/sec", "", false)]
    #[case("-m string --string \"-i lan0 --dport 1\" --algo bm", "", false)]
    #[case("-m multiport --dports 80,443", "", false)]
    #[case("-m tcp --dport", "", false)]
    #[case("! ", "", true)]
    fn options_are_understood_or_said_not_to_be(#[case] options: &str, #[case] tests: &str, #[case] complete: bool) {
        let saved = format!("*filter\n[0:0] -A INPUT {options} -j REJECT --reject-with tcp-reset\nCOMMIT\n");
        let rules = parse(&saved, Family::Ip);
        let [rule] = &rules[..] else { panic!("{rules:?}") };
        let shown: Vec<String> = rule.tests.iter().map(|test| Shown(test, Family::Ip).to_string()).collect();
        assert_eq!(shown.join("; "), tests);
        assert_eq!(rule.complete, complete);
    }

    #[test]
    fn quotes_hold_words_together() {
        let word = |text: &str, quoted: bool| Word { text: text.to_owned(), quoted };
        assert_eq!(words(r#"a  "b \"c" d"#), [word("a", false), word("b \"c", true), word("d", false)]);
        assert_eq!(words(r#"""#), [word("", true)]);
        assert_eq!(words(r#""\"#), [word("", true)]);
    }

    #[test]
    fn nonsense_is_no_rule() {
        for saved in ["", "[", "[0:0] -A", "[0:0] -A INPUT -j", "*filter\n[x] -A INPUT -j REJECT\nCOMMIT", "COMMIT"] {
            assert_eq!(parse(saved, Family::Ip), []);
        }
        // A file that is cut before its COMMIT.
        assert_eq!(parse(&SAVED[..SAVED.len() - 8], Family::Ip), []);
    }
}
