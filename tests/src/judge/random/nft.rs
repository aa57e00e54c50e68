//! Random rulesets of nftables.

use super::{ADDRESSES, ADDRESSES6, Dice, FLAGS, MARKS, PORTS, STATES};

const HOOKS: [&str; 5] = ["prerouting", "input", "forward", "output", "postrouting"];

/// A table that is being written.
struct Table {
    family: &'static str,
    /// Chains that any chain may jump to, and chains with a REJECT, which POSTROUTING may not.
    plain: usize,
    rejecting: usize,
    /// The number of a regular chain: it jumps to those behind it alone.
    within: Option<(bool, usize)>,
    hook: &'static str,
}

/// A random ruleset.
pub(super) fn ruleset(dice: &mut Dice) -> String {
    let mut text = String::new();
    for number in 0..=dice.below(3) {
        let family = dice.pick(&["inet", "inet", "ip", "ip6"]);
        let mut table = Table { family, plain: dice.below(3), rejecting: dice.below(3), within: None, hook: "" };
        let mut chains = String::new();
        for base in 0..=dice.below(4) {
            table.hook = HOOKS[dice.below(HOOKS.len())];
            let priority = dice.pick(&["-310", "-300", "-201", "-199", "-150", "-10", "0", "0", "0", "10", "225"]);
            let policy = if dice.percent(12) { "drop" } else { "accept" };
            chains.extend([format!(
                "\tchain base{base} {{\n\t\ttype filter hook {} priority {priority}; policy {policy};\n",
                table.hook
            )]);
            for _ in 0..=dice.below(5) {
                chains.extend([format!("\t\t{}\n", table.rule(dice))]);
            }
            chains.push_str("\t}\n");
        }
        if family != "ip6" && dice.percent(25) {
            chains.push_str(&translation(dice));
        }
        let mut regular = String::new();
        for (rejects, count) in [(false, table.plain), (true, table.rejecting)] {
            for chain in 0..count {
                table.within = Some((rejects, chain));
                table.hook = if rejects { "regular" } else { "postrouting" };
                regular.extend([format!("\tchain {}{chain} {{\n", if rejects { "refuse" } else { "more" })]);
                for _ in 0..=dice.below(4) {
                    regular.extend([format!("\t\t{}\n", table.rule(dice))]);
                }
                regular.push_str("\t}\n");
            }
        }
        text.extend([format!("table {family} t{number} {{\n{}{regular}{chains}}}\n", table.sets(dice))]);
    }
    text
}

/// A chain that translates sources.
fn translation(dice: &mut Dice) -> String {
    let ask = dice.pick(&[
        "oifname \"wan\"",
        "oifname \"lan\"",
        "ip saddr 10.0.0.0/24",
        "ip daddr 192.0.2.0/24",
        "tcp dport 443",
    ]);
    let more = dice.pick(&["", " ct state new", " meta mark != 0x1", " ct state invalid"]);
    let does = dice.pick(&["masquerade", "snat to 192.0.2.1", "accept", "return"]);
    // In a table of both families a translation is for one of them.
    let does = does.replace("snat to", "snat ip to");
    format!(
        "\tchain translate {{\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n\
         \t\tmeta l4proto tcp {ask}{more} counter {does}\n\t\ttcp dport 80 counter accept\n\
         \t\tip saddr 10.0.0.2 oifname \"wan\" counter masquerade\n\t}}\n"
    )
}

impl Table {
    /// The header that a rule asks: nft refuses to ask two.
    fn header(&self, dice: &mut Dice) -> &'static str {
        match self.family {
            "inet" if dice.percent(70) => "ip",
            "inet" => "ip6",
            family => family,
        }
    }

    /// Named sets and maps that rules refer to.
    fn sets(&self, dice: &mut Dice) -> String {
        let six = self.family == "ip6";
        let (kind, addresses): (_, &[&str]) = if six { ("ipv6_addr", &ADDRESSES6) } else { ("ipv4_addr", &ADDRESSES) };
        let mut members: Vec<&str> = addresses.iter().filter(|_| dice.percent(25)).copied().collect();
        members.truncate(3);
        if members.is_empty() {
            members.push(addresses[0]);
        }
        let pairs: Vec<String> = (0..=dice.below(3))
            .map(|_| format!("{} . {}", addresses[dice.below(addresses.len())], PORTS[dice.below(PORTS.len())]))
            .collect();
        let mut verdicts = Vec::new();
        for port in ["22", "80", "443", "1024-32767", "32768-65535"] {
            if dice.percent(50) {
                verdicts.push(format!("{port} : {}", Self::map_verdict(dice)));
            }
        }
        if verdicts.is_empty() {
            verdicts.push("443 : accept".to_owned());
        }
        format!(
            "\tset addresses {{\n\t\ttype {kind}\n\t\tflags interval\n\t\tauto-merge\n\t\telements = {{ {} }}\n\t}}\n\
             \tset pairs {{\n\t\ttype {kind} . inet_service\n\t\tflags interval\n\t\telements = {{ {} }}\n\t}}\n\
             \tmap ports {{\n\t\ttype inet_service : verdict\n\t\tflags interval\n\t\telements = {{ {} }}\n\t}}\n",
            members.join(", "),
            pairs[0],
            verdicts.join(", ")
        )
    }

    /// A verdict of a named map, which any chain may ask.
    fn map_verdict(dice: &mut Dice) -> &'static str {
        dice.pick(&["accept", "accept", "drop", "drop", "continue", "return"])
    }

    fn rule(&self, dice: &mut Dice) -> String {
        let ip = self.header(dice);
        let mut words: Vec<String> = (0..dice.below(3)).map(|_| self.condition(dice, ip)).collect();
        if dice.percent(18) {
            words.push(Self::change(dice));
        }
        if dice.percent(20) {
            words.push(self.lookup(dice));
        } else if dice.percent(85) || words.is_empty() {
            words.push("counter".to_owned());
            words.push(self.verdict(dice));
        }
        words.join(" ")
    }

    fn change(dice: &mut Dice) -> String {
        let mark = MARKS[dice.below(MARKS.len())];
        match dice.below(6) {
            0 | 1 => format!("meta mark set {mark}"),
            2 => format!("meta mark set meta mark or {mark}"),
            3 => format!("meta mark set meta mark xor {mark}"),
            4 => format!("meta mark set meta mark and {mark}"),
            _ => "notrack".to_owned(),
        }
    }

    /// A verdict map.
    fn lookup(&self, dice: &mut Dice) -> String {
        let verdict = |dice: &mut Dice| match self.target(dice) {
            Some(target) if dice.percent(40) => target,
            _ => (dice.pick(&["accept", "drop", "return", "continue", "drop"])).to_owned(),
        };
        match dice.below(6) {
            0 | 1 => {
                let elements: Vec<String> = STATES
                    .iter()
                    .filter(|_| dice.percent(50))
                    .copied()
                    .collect::<Vec<_>>()
                    .into_iter()
                    .map(|state| format!("{state} : {}", verdict(dice)))
                    .collect();
                if elements.is_empty() {
                    "return".to_owned()
                } else {
                    format!("ct state vmap {{ {} }}", elements.join(", "))
                }
            }
            2 => "tcp dport vmap @ports".to_owned(),
            3 => format!(
                "iifname . oifname vmap {{ \"lan\" . \"wan\" : {}, \"wan\" . \"lan\" : {} }}",
                verdict(dice),
                verdict(dice)
            ),
            4 => format!("meta mark vmap {{ 0x1 : {}, 0x10-0x1f : {} }}", verdict(dice), verdict(dice)),
            _ => format!("iifname vmap {{ \"lan\" : {}, \"wan\" : {} }}", verdict(dice), verdict(dice)),
        }
    }

    /// A jump to a chain of the table that this one may jump to.
    fn target(&self, dice: &mut Dice) -> Option<String> {
        let word = if dice.percent(70) { "jump" } else { "goto" };
        let (least, may_reject) = match self.within {
            None => (0, self.hook != "postrouting"),
            Some((rejects, number)) => (number + 1, rejects),
        };
        let plain_least = if matches!(self.within, Some((true, _))) { 0 } else { least };
        let mut all: Vec<String> = (plain_least..self.plain).map(|number| format!("more{number}")).collect();
        if may_reject {
            all.extend((least..self.rejecting).map(|number| format!("refuse{number}")));
        }
        (!all.is_empty()).then(|| format!("{word} {}", all[dice.below(all.len())]))
    }

    fn verdict(&self, dice: &mut Dice) -> String {
        let rejects = self.hook != "postrouting";
        match dice.below(20) {
            0..4 => "accept".to_owned(),
            4..8 => "drop".to_owned(),
            8 | 9 => "return".to_owned(),
            10..13 if rejects => "reject with tcp reset".to_owned(),
            13 if rejects => match self.family {
                "ip" => "reject with icmp type admin-prohibited".to_owned(),
                "ip6" => "reject with icmpv6 type admin-prohibited".to_owned(),
                _ => "reject with icmpx type port-unreachable".to_owned(),
            },
            14 => "continue".to_owned(),
            _ => self.target(dice).unwrap_or_else(|| "accept".to_owned()),
        }
    }

    fn condition(&self, dice: &mut Dice, ip: &'static str) -> String {
        let not = if dice.percent(25) { "!= " } else { "" };
        let port = |dice: &mut Dice| PORTS[dice.below(PORTS.len())];
        match dice.below(22) {
            0..4 => match dice.below(4) {
                0 => format!("ct state {}", dice.some(&STATES, ",")),
                1 => format!("ct state {not}{{ {} }}", dice.some(&STATES, ", ")),
                2 => format!("ct state != {}", STATES[dice.below(STATES.len())]),
                _ => format!("ct state & ({}) != 0", dice.some(&STATES, " | ")),
            },
            4..6 => {
                let name = dice.pick(&[
                    "\"lan\"",
                    "\"wan\"",
                    "\"wa*\"",
                    "\"lo\"",
                    "{ \"lan\", \"lo\" }",
                    "{ \"wan\", \"lan\" }",
                ]);
                format!("iifname {not}{name}")
            }
            6 | 7 => {
                let name = dice.pick(&["\"lan\"", "\"wan\"", "\"l*\"", "\"lo\"", "{ \"lan\", \"lo\" }"]);
                format!("oifname {not}{name}")
            }
            8..11 => {
                let addresses: &[&str] = if ip == "ip6" { &ADDRESSES6 } else { &ADDRESSES };
                let end = dice.pick(&["saddr", "daddr"]);
                let (kind, own) = (self.family == "ip6", ip == "ip6");
                match dice.below(4) {
                    0 if kind == own => format!("{ip} {end} {not}@addresses"),
                    1 if kind == own => format!("{ip} {end} . tcp dport {not}@pairs"),
                    2 => format!("{ip} {end} {not}{{ {}, {} }}", addresses[0], addresses[4]),
                    _ => format!("{ip} {end} {not}{}", addresses[dice.below(addresses.len())]),
                }
            }
            11 | 12 => format!("tcp {} {not}{}", dice.pick(&["sport", "dport"]), port(dice)),
            13 => format!("tcp {} {not}{{ 22, 443, 40000-50000 }}", dice.pick(&["sport", "dport"])),
            14 => format!("th dport {not}{}", port(dice)),
            15 | 16 => match dice.below(5) {
                0 => format!("tcp flags {}", dice.some(&FLAGS, ",")),
                1 => format!("tcp flags & ({}) == {}", dice.some(&FLAGS, " | "), dice.pick(&FLAGS)),
                2 => format!("tcp flags & ({}) != 0", dice.some(&FLAGS, " | ")),
                3 => "tcp flags & (fin | syn | rst | ack) == syn".to_owned(),
                _ => format!("tcp flags {not}{{ syn, ack | psh, rst }}"),
            },
            17 | 18 => {
                let mark = MARKS[dice.below(MARKS.len())];
                match dice.below(4) {
                    0 => format!("meta mark & {mark} == {}", MARKS[dice.below(MARKS.len())]),
                    1 => format!("meta mark {not}0x1-0x10"),
                    2 => format!("meta mark & 0xff != {mark}"),
                    _ => format!("meta mark {not}{mark}"),
                }
            }
            19 if self.family == "inet" => {
                let own = if ip == "ip6" { "ipv6" } else { "ipv4" };
                let other = if ip == "ip6" { "ipv4" } else { "ipv6" };
                match dice.below(3) {
                    0 => format!("meta nfproto {own}"),
                    _ => format!("meta nfproto != {other}"),
                }
            }
            19 => dice.pick(&["meta l4proto tcp", "meta l4proto 6", "meta l4proto != udp"]).to_owned(),
            20 => (dice.pick(&[
                "fib daddr type local",
                "fib daddr type != local",
                "fib saddr type local",
                "fib daddr type unicast",
                "meta length > 500",
                "meta length < 60",
                "iifname . tcp dport { \"lan\" . 22, \"wan\" . 40000 }",
                "ct state . iifname { invalid . \"wan\", new . \"lan\" }",
            ]))
            .to_owned(),
            _ if ip == "ip6" => (dice.pick(&["ip6 hoplimit 57", "ip6 hoplimit < 10", "ip6 nexthdr tcp"])).to_owned(),
            _ => (dice.pick(&[
                "ip ttl 57",
                "ip ttl < 60",
                "ip ttl != 1-100",
                "ip dscp cs0",
                "ip protocol tcp",
                "ip protocol != tcp",
                "ip version 4",
                "ip length > 1000",
            ]))
            .to_owned(),
        }
    }
}
