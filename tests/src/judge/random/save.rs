//! Random rulesets of iptables.

use super::{ADDRESSES, ADDRESSES6, Dice, FLAGS, MARKS, PORTS, STATES};

/// A ruleset of iptables that is being written.
#[derive(Clone, Copy)]
pub(super) struct Save {
    /// Whether it is for IPv6.
    pub(super) six: bool,
}

/// The tables of iptables, and their chains.
const TABLES: [(&str, &[&str]); 4] = [
    ("raw", &["PREROUTING", "OUTPUT"]),
    ("mangle", &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"]),
    ("filter", &["INPUT", "FORWARD", "OUTPUT"]),
    ("security", &["INPUT", "FORWARD", "OUTPUT"]),
];
/// Chains of a table that rules jump to.
const OWN: [&str; 3] = ["one", "two", "three"];

impl Save {
    /// A random ruleset.
    pub(super) fn ruleset(self, dice: &mut Dice) -> String {
        let mut text = String::new();
        for (table, chains) in TABLES {
            text.extend([format!("*{table}\n")]);
            for chain in chains {
                let policy = if dice.percent(if table == "filter" { 15 } else { 3 }) { "DROP" } else { "ACCEPT" };
                text.extend([format!(":{chain} {policy} [0:0]\n")]);
            }
            for own in OWN {
                text.extend([format!(":{own} - [0:0]\n")]);
            }
            let most = if table == "filter" { 4 } else { 2 };
            for chain in chains {
                for _ in 0..dice.below(most + 1) {
                    text.extend([format!("-A {chain}{}\n", self.rule(dice, table, chain, 0))]);
                }
            }
            for (number, own) in OWN.iter().enumerate() {
                for _ in 0..dice.below(4) {
                    text.extend([format!("-A {own}{}\n", self.rule(dice, table, "", number + 1))]);
                }
            }
            text.push_str("COMMIT\n");
        }
        text.push_str(
            "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n",
        );
        if dice.percent(40) {
            let ask = dice.pick(&[
                "-o wan",
                "-o lan",
                "-p tcp --dport 443",
                "-m conntrack --ctstate NEW",
                "-m mark --mark 0x1",
            ]);
            let does = dice.pick(&["MASQUERADE", "ACCEPT", "RETURN", "MASQUERADE"]);
            text.extend([format!("-A POSTROUTING {ask} -j {does}\n-A POSTROUTING -o wan -j MASQUERADE\n")]);
        }
        text.push_str("COMMIT\n");
        text
    }

    fn rule(self, dice: &mut Dice, table: &str, chain: &str, behind: usize) -> String {
        let mut rule = String::new();
        let not = |dice: &mut Dice| if dice.percent(20) { " !" } else { "" };
        if dice.percent(25) && !matches!(chain, "OUTPUT" | "POSTROUTING") {
            rule.extend([format!("{} -i {}", not(dice), dice.pick(&["lan", "wan", "wa+", "lo", "l+"]))]);
        }
        if dice.percent(20) && !matches!(chain, "INPUT" | "PREROUTING") {
            rule.extend([format!("{} -o {}", not(dice), dice.pick(&["lan", "wan", "w+", "lo"]))]);
        }
        for end in ["-s", "-d"] {
            if dice.percent(15) {
                let addresses: &[&str] = if self.six { &ADDRESSES6[..5] } else { &ADDRESSES[..9] };
                rule.extend([format!("{} {end} {}", not(dice), addresses[dice.below(addresses.len())])]);
            }
        }
        let target = self.target(dice, table, behind);
        let mut tcp = target.contains("tcp-reset");
        let mut matches = String::new();
        for _ in 0..dice.below(3) {
            let (text, needs_tcp) = self.condition(dice);
            // A match is loaded once for its name.
            let name = text.split_whitespace().nth(1).unwrap_or_default().to_owned();
            if matches.contains(&format!("-m {name} ")) {
                continue;
            }
            tcp |= needs_tcp;
            matches.push_str(&text);
        }
        if tcp || dice.percent(10) {
            rule.push_str(" -p tcp");
        }
        rule.push_str(&matches);
        rule.push_str(&target);
        rule
    }

    fn condition(self, dice: &mut Dice) -> (String, bool) {
        let not = if dice.percent(25) { " !" } else { "" };
        let upper = |dice: &mut Dice, all: &[&str]| dice.some(all, ",").to_uppercase();
        let port = |dice: &mut Dice| PORTS[dice.below(PORTS.len())].replace('-', ":");
        let mark = MARKS[dice.below(MARKS.len())];
        match dice.below(20) {
            0..4 => {
                let mut states = upper(dice, &STATES);
                if dice.percent(20) {
                    states.push_str(dice.pick(&[",DNAT", ",SNAT", ",SNAT,DNAT"]));
                }
                (format!(" -m conntrack{not} --ctstate {states}"), false)
            }
            4 | 5 => (format!(" -m state{not} --state {}", upper(dice, &STATES)), false),
            6..8 => (format!(" -m tcp{not} --{} {}", dice.pick(&["sport", "dport"]), port(dice)), true),
            8 => (format!(" -m tcp{not} --tcp-flags {} {}", upper(dice, &FLAGS), upper(dice, &FLAGS)), true),
            9 => (format!(" -m tcp{not} --syn"), true),
            10 | 11 => {
                let mask = dice.pick(&["", "/0xff", "/0x1", "/0x13"]);
                (format!(" -m mark{not} --mark {mark}{mask}"), false)
            }
            12 | 13 => {
                let kind = dice.pick(&["sports", "dports", "ports"]);
                (format!(" -m multiport{not} --{kind} {},{},443", port(dice), port(dice)), true)
            }
            14 if !self.six => {
                let range = dice.pick(&["10.0.0.1-10.0.0.9", "192.0.2.2-192.0.2.200", "192.0.2.3-198.51.100.1"]);
                (format!(" -m iprange{not} --{} {range}", dice.pick(&["src-range", "dst-range"])), false)
            }
            15 => {
                // IPv6 has no broadcast.
                let kind = dice.pick(&["LOCAL", "UNICAST", "MULTICAST", if self.six { "LOCAL" } else { "BROADCAST" }]);
                (format!(" -m addrtype{not} --{} {kind}", dice.pick(&["src-type", "dst-type"])), false)
            }
            16 if !self.six => {
                let asked = dice.pick(&["--ttl-eq 57", "--ttl-lt 60", "--ttl-gt 60"]);
                (format!(" -m ttl {asked}"), false)
            }
            17 => (format!(" -m length{not} --length {}", dice.pick(&["0:100", "500:1500", "40"])), false),
            18 => (" -m comment --comment \"a -j DROP in a comment\"".to_owned(), false),
            _ => (format!(" -m conntrack{not} --ctstate INVALID"), false),
        }
    }

    fn target(self, dice: &mut Dice, table: &str, behind: usize) -> String {
        let mark = MARKS[dice.below(MARKS.len())];
        match dice.below(24) {
            0..4 => " -j ACCEPT".to_owned(),
            4..8 => " -j DROP".to_owned(),
            8 => " -j RETURN".to_owned(),
            9..12 if table == "filter" => " -j REJECT --reject-with tcp-reset".to_owned(),
            12 if table == "filter" && self.six => " -j REJECT --reject-with icmp6-adm-prohibited".to_owned(),
            12 if table == "filter" => " -j REJECT --reject-with icmp-host-prohibited".to_owned(),
            9..12 if table == "raw" => " -j CT --notrack".to_owned(),
            9..14 if table == "mangle" => {
                let change = dice.pick(&["--set-mark", "--or-mark", "--and-mark", "--xor-mark"]);
                format!(" -j MARK {change} {mark}")
            }
            14 => format!(" -j MARK --set-xmark {mark}/0x11"),
            15 => String::new(),
            _ if behind < OWN.len() => {
                let own = OWN[behind + dice.below(OWN.len() - behind)];
                format!(" -{} {own}", if dice.percent(70) { "j" } else { "g" })
            }
            _ => " -j ACCEPT".to_owned(),
        }
    }
}
