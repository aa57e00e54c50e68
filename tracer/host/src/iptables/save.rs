//! Text of `iptables-save -c`: the rules that can answer a packet with a RST, and those that an
//! [`tracer_model::ruleset::audit`] notes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tracer_model::ruleset::audit::{BaseChain, Found, Noted, Verdict};
use tracer_model::ruleset::{Backend, Chains, Family, Hooks, Key, Rule, Test};

use super::options::{Printed, Word};
use super::xtables::{self, Target};
use crate::terminal::Terminal;

/// Most characters that are kept of a rule.
const WORDS: usize = 160;
/// Bytes of an interface's name in a register (`IFNAMSIZ`).
const NAME: usize = 16;

/// The rules of tables of the kernel's own, in the order of their chains.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// Those that reject with a RST.
    pub rejecting: Vec<Rule>,
    /// What an audit notes.
    pub found: Found,
}

/// Reads what was printed of one family.
pub fn parse(text: &str, family: Family) -> Saved {
    let mut all = Saved::default();
    let mut table = Table::default();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = Table { name: name.trim().to_owned(), ..Table::default() };
        } else if let Some(chain) = line.strip_prefix(':') {
            let mut words = chain.split_whitespace();
            let name = words.next().unwrap_or_default();
            let hook = built_in(name);
            table.chains.chain(name, hook);
            if let Some(hook) = hook.filter(|_| words.next() == Some("DROP")) {
                table.drops(name, Hooks::only(hook), family);
            }
        } else if line.trim() == "COMMIT" {
            std::mem::take(&mut table).finish(&mut all);
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
    noted: Vec<Noted>,
    drops: Vec<BaseChain>,
    problems: Vec<String>,
}

impl Table {
    fn drops(&mut self, chain: &str, hooks: Hooks, family: Family) {
        let (table, name) = (self.name.clone(), chain.to_owned());
        self.drops.push(BaseChain { backend: Backend::IptablesLegacy, family, table, name, hooks });
    }

    /// `packets:bytes] -A CHAIN …`.
    fn rule(&mut self, line: &str, family: Family) {
        let Some((counters, rule)) = line.split_once("] -A ") else { return };
        let (chain, rest) = rule.split_once(' ').unwrap_or((rule, ""));
        let place = self.places.entry(chain.to_owned()).or_default();
        let number = *place + 1;
        *place = number;
        let words = words(rest);
        let last = words.iter().rposition(|word| word.is("-j") || word.is("-g"));
        let Some((matches, target)) = last.and_then(|at| Some((words.get(..at)?, words.get(at + 1..)?))) else {
            return;
        };
        let Some((name, options)) = target.split_first() else { return };
        let (tests, complete) = tests(matches, family);
        let target = xtables::target(&name.text, &Printed { words: options, family });
        let (resets, unreadable) = (target == Target::Reset, target == Target::Unreadable);
        let terminal = match target {
            Target::Reset => Some(Terminal::Verdict(Verdict::Reject)),
            Target::Terminal(terminal) => Some(terminal),
            Target::Other | Target::Unreadable => None,
        };
        if let Some(Terminal::Verdict(Verdict::Chain(to))) = &terminal {
            self.chains.jump(chain, to);
        }
        let asks_state = || matches.iter().any(|word| word.is("--ctstate") || word.is("--state"));
        let understood = tests.iter().any(|test| test.key == Key::State) || !asks_state();
        if unreadable || (matches!(terminal, Some(Terminal::Verdict(_))) && !understood) {
            let tool = if family == Family::Ip6 { "ip6tables" } else { "iptables" };
            self.problems.push(format!("{tool} {} {chain} rule {number} is not understood", self.name));
        }
        let does = terminal.and_then(|terminal| terminal.noted(&tests));
        if !resets && does.is_none() {
            return;
        }
        let rule = Rule {
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
        };
        self.noted.extend(does.map(|does| Noted { does, rule: rule.clone() }));
        if resets {
            self.rules.push(rule);
        }
    }

    fn finish(self, all: &mut Saved) {
        let reached = self.chains.reached();
        let with_hooks = |mut rule: Rule| {
            rule.hooks = reached.get(&rule.chain).copied().unwrap_or_default();
            rule
        };
        let noted = self.noted.into_iter().map(|Noted { does, rule }| Noted { does, rule: with_hooks(rule) });
        all.found.extend(Found { noted: noted.collect(), drops: self.drops, problems: self.problems });
        all.rejecting.extend(self.rules.into_iter().map(with_hooks));
    }
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
            ("tcp", "--sport") => ports(xtables::SOURCE_PORT, value()),
            ("tcp", "--dport") => ports(xtables::DESTINATION_PORT, value()),
            ("tcp", "--tcp-flags") => flags(value(), value()),
            ("conntrack", "--ctstate") | ("state", "--state") => xtables::states_named(value()),
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
    Some(xtables::ports(offset, from.parse().ok()?, to.parse().ok()?))
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
    Some(xtables::tcp_flags(bits(mask)?, bits(set)?))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use tracer_model::ruleset::audit::Does;
    use tracer_model::ruleset::{Family, Hooks, Shown};

    use super::{Saved, Word, parse, words};

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
        let rules = parse(SAVED, Family::Ip).rejecting;
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
    #[case("-p udp -m udp --dport 53", "meta l4proto udp", false)]
    #[case("-m limit --limit 1/sec", "", false)]
    #[case("-m string --string \"-i lan0 --dport 1\" --algo bm", "", false)]
    #[case("-m multiport --dports 80,443", "", false)]
    #[case("-m tcp --dport", "", false)]
    #[case("! ", "", true)]
    fn options_are_understood_or_said_not_to_be(#[case] options: &str, #[case] tests: &str, #[case] complete: bool) {
        let saved = format!("*filter\n[0:0] -A INPUT {options} -j REJECT --reject-with tcp-reset\nCOMMIT\n");
        let rules = parse(&saved, Family::Ip).rejecting;
        let [rule] = &rules[..] else { panic!("{rules:?}") };
        let shown: Vec<String> = rule.tests.iter().map(|test| Shown(test, Family::Ip).to_string()).collect();
        assert_eq!(shown.join("; "), tests);
        assert_eq!(rule.complete, complete);
    }

    const GATEWAY: &str = r#"*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
[4:240] -A PREROUTING -p udp -m udp --dport 53 -j CT --notrack
[0:0] -A OUTPUT -p udp -m udp --sport 53 -j NOTRACK
[0:0] -A PREROUTING -p tcp -m tcp --dport 21 -j CT --helper ftp
COMMIT
*nat
:POSTROUTING ACCEPT [0:0]
:PREROUTING ACCEPT [0:0]
[1:60] -A POSTROUTING -s 10.0.0.0/8 -o wan0 -p tcp -j SNAT --to-source 192.0.2.1-192.0.2.4:1024-2000 --random
[1:60] -A POSTROUTING -o wan1 -j MASQUERADE
[1:60] -A POSTROUTING -o ppp+ -p udp -j MASQUERADE --to-ports 40000-50000
[1:60] -A PREROUTING -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.9:8080
[1:60] -A PREROUTING -p tcp -m tcp --dport 81 -j REDIRECT --to-ports 8081
[1:60] -A POSTROUTING -j SNAT --to-source what
COMMIT
*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:bad - [0:0]
[3:180] -A INPUT -i wan0 -m conntrack --ctstate INVALID -m comment --comment "-j ACCEPT" -j DROP
[0:0] -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
[0:0] -A FORWARD -m state --state INVALID -j bad
[0:0] -A FORWARD -m conntrack ! --ctstate NEW,ESTABLISHED,RELATED -j REJECT --reject-with icmp-port-unreachable
[0:0] -A FORWARD -m conntrack --ctstate INVALID -j LOG
[0:0] -A FORWARD -m conntrack --ctstate WHAT -j DROP
[9:540] -A bad -j DROP
COMMIT
"#;

    #[test]
    fn what_an_audit_notes() {
        let saved = parse(GATEWAY, Family::Ip);
        assert_eq!(saved.rejecting, []);
        let noted: Vec<String> = saved
            .found
            .noted
            .iter()
            .map(|noted| {
                let more = match &noted.does {
                    Does::SendsInvalid { to } => format!(" {to}"),
                    does => does
                        .translation()
                        .map_or_else(String::new, |to| format!(" {to} {}", to.output.as_deref().unwrap_or("anywhere"))),
                };
                format!("{}: {}{more} at {}", noted.rule, noted.does.name(), noted.rule.hooks.0)
            })
            .collect();
        let expected = [
            "iptables raw PREROUTING rule 1: untracks at 1",
            "iptables raw OUTPUT rule 1: untracks at 8",
            "iptables nat POSTROUTING rule 1: source-nat 192.0.2.1-192.0.2.4:1024-2000 wan0 at 16",
            "iptables nat POSTROUTING rule 2: masquerades  wan1 at 16",
            "iptables nat POSTROUTING rule 3: masquerades :40000-50000 anywhere at 16",
            "iptables nat PREROUTING rule 1: destination-nat 10.0.0.9:8080 anywhere at 1",
            "iptables nat PREROUTING rule 2: destination-nat :8081 anywhere at 1",
            "iptables filter INPUT rule 1: drops-invalid at 2",
            "iptables filter FORWARD rule 1: sends-invalid bad at 4",
            "iptables filter FORWARD rule 2: rejects-invalid at 4",
        ];
        assert_eq!(noted, expected);
        let drops: Vec<&str> = saved.found.drops.iter().map(|chain| chain.name.as_str()).collect();
        assert_eq!(drops, ["INPUT"]);
        let not_understood = ["nat POSTROUTING rule 4", "filter FORWARD rule 4"]
            .map(|rule| format!("iptables {rule} is not understood"));
        assert_eq!(saved.found.problems, not_understood);
    }

    #[test]
    fn ipv6_addresses_have_brackets_before_ports() {
        let translated = |to: &str| {
            let saved = format!("*nat\n[0:0] -A POSTROUTING -j SNAT --to-source {to}\nCOMMIT\n");
            let found = parse(&saved, Family::Ip6).found;
            found.noted.first().and_then(|noted| noted.does.translation().map(ToString::to_string))
        };
        for to in ["fd00::1", "[fd00::1]:1024-2000", "fd00::1-fd00::4"] {
            assert_eq!(translated(to).as_deref(), Some(to));
        }
        assert_eq!(translated("192.0.2.1"), None);
        assert_eq!(translated("[fd00::1"), None);
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
            assert_eq!(parse(saved, Family::Ip), Saved::default());
        }
        // A file that is cut before its COMMIT.
        assert_eq!(parse(&SAVED[..SAVED.len() - 8], Family::Ip), Saved::default());
    }
}
