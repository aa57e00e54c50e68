//! Text of iptables-save becomes steps.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use rstest::rstest;
use tracer_model::ruleset::Family::{self, Ip, Ip6};
use tracer_model::ruleset::tables::{Base, ChainKind, Ruleset, Step};
use tracer_walk::{Class, Fate, Interface, Path, Walker, state};

use super::ruleset;
use crate::iptables::shown::steps as shown;

fn rule(family: Family, table: &str, chain: &str, rule: &str) -> Vec<Step> {
    let text = format!("*{table}\n:{chain} ACCEPT [0:0]\n:svc - [0:0]\n[1:60] -A {chain} {rule}\nCOMMIT\n");
    let read = ruleset(&text, family);
    assert_eq!(read.problems, [""; 0]);
    read.tables[0].chains[0].rules[0].steps.clone()
}

#[rstest]
#[case::addresses("-s 10.0.0.0/8 ! -d 192.0.2.2/32", "ip saddr 10.0.0.0/8; ip daddr != 192.0.2.2")]
#[case::a_mask_with_holes("-d 10.0.0.0/255.0.255.0", "ip daddr & 0xff00ff00 == 10.0.0.0")]
#[case::no_address("-s fd00::/8", "?(-s fd00::/8)")]
#[case::interfaces("! -i lan+ -o wan0", "iifname != \"lan*\"; oifname \"wan0\"")]
#[case::any_interface("-i + ! -o +", "true; false")]
#[case::no_interface("-i a-name-that-is-too-long", "?(-i a-name-that-is-too-long)")]
#[case::protocols("-p tcp ! -p 17 ! -p carp -p all", "meta l4proto tcp; meta l4proto != udp; true; true")]
#[case::fragments("-f", "@nh,48,16 & 0x1fff != 0x0000")]
#[case::no_fragments("! -f", "@nh,48,16 & 0x1fff == 0x0000")]
#[case::of_no_match("--level 1", "?(--level 1)")]
#[case::ports("-m tcp --sport 1024:65535 ! --dport 80", "(tcp sport 1024-65535 and tcp dport != 80)")]
#[case::flags("-m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN", "tcp flags & 0x17 != 0x02")]
#[case::tcp_alone("-m tcp", "true")]
#[case::tcp_option("-m tcp --dport 1 --tcp-option 8", "(tcp dport 1 and ?(-m tcp --dport 1 --tcp-option 8))")]
#[case::unknown_option("-m tcp --dport 1 --new 1", "?(-m tcp --dport 1 --new 1)")]
#[case::a_service("-m tcp --dport http", "?(-m tcp --dport http)")]
#[case::another_protocol("-m udp ! --dport 53", "false")]
#[case::comment(r#"-m comment --comment "-j DROP""#, "true")]
#[case::comment_in_one_word("-m comment --comment -j", "true")]
#[case::many_ports("-m multiport --dports 22,80:90", "tcp dport { 22, 80-90 }")]
#[case::neither_port("-m multiport ! --ports 1", "(tcp sport != 1 and tcp dport != 1)")]
#[case::either_port("-m multiport --ports 1", "(tcp sport 1 or tcp dport 1)")]
#[case::ranges("-m iprange --src-range 10.0.0.1-10.0.0.9", "ip saddr 10.0.0.1-10.0.0.9")]
#[case::types("-m addrtype ! --dst-type LOCAL,BROADCAST", "fib daddr type != { 0x00000002, 0x00000003 }")]
#[case::type_at_input("-m addrtype --src-type LOCAL --limit-iface-in", "fib saddr . iif type 0x00000002")]
#[case::type_at_output(
    "-m addrtype --dst-type LOCAL --limit-iface-out",
    "?(-m addrtype --dst-type LOCAL --limit-iface-out)"
)]
#[case::mark("-m mark ! --mark 0x1/0xff", "meta mark & 0x000000ff != 0x00000001")]
#[case::connmark("-m connmark --mark 7", "ct mark 0x00000007")]
#[case::mac("-m mac --mac-source 02:00:00:00:00:0a", "(iifname != \"\" and ether saddr 0x02000000000a)")]
#[case::packet_type("-m pkttype ! --pkt-type broadcast", "meta pkttype != 0x01")]
#[case::length("-m length --length 0:100", "meta length 0x00000000-0x00000064")]
#[case::ttl("-m ttl --ttl-lt 5", "@nh,64,8 0x00-0x04")]
#[case::no_ttl("-m ttl --ttl-lt 0 -m ttl --ttl-gt 255 -m ttl ! --ttl-eq 1", "false; false; @nh,64,8 != 0x01")]
#[case::tos("-m tos --tos 0x10/0x3f", "@nh,8,8 & 0x3f == 0x10")]
#[case::dscp("-m dscp ! --dscp 0x0a", "@nh,8,8 != 0x28/6")]
#[case::ecn("-m ecn --ecn-tcp-cwr ! --ecn-tcp-ece", "(tcp flags & 0x80 == 0x80 and tcp flags & 0x40 != 0x40)")]
#[case::mss("-m tcpmss --mss 1:500", "(tcp flags & 0x02 == 0x02 and not ~(-m tcpmss --mss 1:500))")]
#[case::no_mss("-m tcpmss ! --mss 1:500", "(tcp flags & 0x02 != 0x02 or ~(-m tcpmss ! --mss 1:500))")]
#[case::socket("-m socket --nowildcard", "socket 0x01")]
#[case::socket_with_mark("-m socket --restore-skmark", "(socket 0x01 and ?(-m socket --restore-skmark))")]
#[case::owner("-m owner --uid-owner 0", "(socket 0x01 and ?(-m owner --uid-owner 0))")]
#[case::not_owner("-m owner ! --uid-owner 0", "(not socket 0x01 or ?(-m owner ! --uid-owner 0))")]
#[case::reverse_path("-m rpfilter --validmark --invert", "fib saddr . iif oif != 0x01")]
#[case::loose_path("-m rpfilter --loose", "(fib saddr . iif oif 0x01 or ~(-m rpfilter --loose))")]
#[case::no_ipsec("-m policy --dir in --pol none", "meta ipsec 0x00")]
#[case::ipsec("-m policy --dir out --pol ipsec", "meta ipsec 0x01")]
#[case::ipsec_of_a_kind(
    "-m policy --dir in --pol ipsec --mode tunnel",
    "(meta ipsec 0x01 and ?(-m policy --dir in --pol ipsec --mode tunnel))"
)]
#[case::recent("-m recent --set --name DEFAULT --mask 255.255.255.255 --rsource", "true")]
#[case::recently("-m recent --update --seconds 60 --name a", "not ~(-m recent --update --seconds 60 --name a)")]
#[case::helper("-m helper --helper ftp", "(ct status & 0x00000001 != 0x00000000 and ?(-m helper --helper ftp))")]
#[case::label("-m connlabel ! --label a", "(ct state invalid,untracked or ?(-m connlabel ! --label a))")]
#[case::limit("-m limit --limit 1/sec", "~(-m limit --limit 1/sec)")]
#[case::bytes(
    "-m connbytes ! --connbytes 1 --connbytes-dir both --connbytes-mode packets",
    "(ct state != invalid,untracked and ?(-m connbytes ! --connbytes 1 --connbytes-dir both --connbytes-mode packets))"
)]
#[case::burst(
    "-m hashlimit --hashlimit-above 1/sec --hashlimit-name a",
    "not ~(-m hashlimit --hashlimit-above 1/sec --hashlimit-name a)"
)]
#[case::few("-m connlimit --connlimit-upto 9", "~(-m connlimit --connlimit-upto 9)")]
#[case::quota("-m quota ! --quota 9", "not ~(-m quota ! --quota 9)")]
#[case::string("-m string --string a --algo bm", "not ~(-m string --string a --algo bm)")]
#[case::likely("-m statistic --mode random --probability 0.5", "≈(-m statistic --mode random --probability 0.5)")]
#[case::unlikely("-m statistic --mode random --probability 0.49", "≈(-m statistic --mode random --probability 0.49)")]
#[case::certain("-m statistic --mode random ! --probability 1.0", "false")]
#[case::no_share("-m statistic --mode random --probability 2", "?(-m statistic --mode random --probability 2)")]
#[case::first_alone("-m statistic --mode nth --every 2 --packet 0", "≈(-m statistic --mode nth --every 2 --packet 0)")]
#[case::time("-m time --timestart 08:00:00", "?(-m time --timestart 08:00:00)")]
#[case::set("-m set ! --match-set a src,dst", "?(-m set ! --match-set a src,dst)")]
#[case::new("-m what --ever", "?(-m what --ever)")]
#[case::nothing("! ", "?(!)")]
fn matches_of_ipv4(#[case] options: &str, #[case] expected: &str) {
    assert_eq!(shown(&rule(Ip, "filter", "INPUT", options), Ip), expected);
}

#[rstest]
#[case::invalid("--ctstate INVALID", "ct state invalid")]
#[case::negated("! --ctstate NEW,UNTRACKED", "ct state != new,untracked")]
#[case::dnat("--ctstate DNAT", "ct status & 0x00000020 != 0x00000000")]
#[case::snat_or_new("--ctstate NEW,SNAT", "(ct state new or ct status & 0x00000010 != 0x00000000)")]
#[case::field_f4(
    "! --ctstate RELATED,ESTABLISHED,NEW,DNAT",
    "(ct state != established,related,new and not ct status & 0x00000020 != 0x00000000)"
)]
#[case::direction("--ctdir REPLY", "(ct state != invalid,untracked and ct direction 0x01)")]
#[case::protocol("--ctproto 6 --ctproto 6", "ct state != invalid,untracked")]
#[case::another_protocol("--ctproto udp", "(ct state != invalid,untracked and false)")]
#[case::status(
    "--ctstatus ASSURED,SEEN_REPLY",
    "(ct state != invalid,untracked and ct status & 0x00000006 != 0x00000000)"
)]
#[case::no_status("--ctstatus NONE", "(ct state != invalid,untracked and false)")]
#[case::any_status("! --ctstatus NONE", "ct state != invalid,untracked")]
#[case::addresses(
    "! --ctorigdst 10.0.0.0/8",
    "(ct state != invalid,untracked and ?(-m conntrack ! --ctorigdst 10.0.0.0/8))"
)]
#[case::state_and_direction(
    "--ctstate INVALID --ctdir ORIGINAL",
    "(ct state invalid and (ct state invalid,untracked or ct direction 0x00))"
)]
#[case::not_known("--ctstate INVALID --ctnew 1", "?(-m conntrack --ctstate INVALID --ctnew 1)")]
#[case::no_state("--ctstate WHAT", "?(-m conntrack --ctstate WHAT)")]
fn conntrack(#[case] options: &str, #[case] expected: &str) {
    assert_eq!(shown(&rule(Ip, "filter", "FORWARD", &format!("-m conntrack {options}")), Ip), expected);
}

#[rstest]
#[case("-m state --state INVALID", "-m conntrack --ctstate INVALID")]
#[case("-m state ! --state NEW,RELATED", "-m conntrack ! --ctstate RELATED,NEW")]
fn the_old_match_asks_the_same(#[case] old: &str, #[case] new: &str) {
    assert_eq!(rule(Ip, "filter", "INPUT", old), rule(Ip, "filter", "INPUT", new));
}

#[rstest]
#[case("-s fd00::/8 -p ipv6-icmp", "ip6 saddr fd00::/8; meta l4proto 58")]
#[case("-m hl --hl-eq 255", "@nh,56,8 0xff")]
#[case("-m dscp --dscp 0x0a", "@nh,0,16 & 0x0fc0 == 0x0280")]
#[case("-m ah --ahspi 1", "(@nh,48,8 != 0x06 and ?(-m ah --ahspi 1))")]
#[case("-m ipv6header --header protocol --soft", "(@nh,48,8 0x06 or ?(-m ipv6header --header protocol --soft))")]
#[case("-m ipv6header --header frag", "(@nh,48,8 != 0x06 and ?(-m ipv6header --header frag))")]
#[case("-m ipv6header ! --header frag", "(@nh,48,8 0x06 or ?(-m ipv6header ! --header frag))")]
#[case("-m addrtype --dst-type MULTICAST", "@nh,192,8 0xff")]
#[case("-m addrtype ! --dst-type UNICAST", "not (@nh,192,8 != 0xff and ip6 daddr != ::)")]
#[case("-m addrtype --dst-type UNICAST,LOCAL", "(@nh,192,8 != 0xff and ip6 daddr != :: and fib daddr type 0x00000002)")]
fn matches_of_ipv6(#[case] options: &str, #[case] expected: &str) {
    assert_eq!(shown(&rule(Ip6, "filter", "INPUT", options), Ip6), expected);
}

#[rstest]
#[case("-j ACCEPT", "accept")]
#[case("-j DROP", "drop")]
#[case("-j RETURN", "return")]
#[case("-j svc", "jump svc")]
#[case("-g svc", "goto svc")]
#[case("-j undeclared", "?(-j undeclared)")]
#[case("-g undeclared", "?(-g undeclared)")]
#[case("-j svc --what", "?(-j svc --what)")]
#[case("-j QUEUE", "queue")]
#[case("-j NFQUEUE --queue-num 1", "queue")]
#[case("-j NFQUEUE --queue-balance 0:3 --queue-bypass", "queue bypass")]
#[case("-j NFQUEUE --queue-new", "?(-j NFQUEUE --queue-new)")]
#[case("-j REJECT", "reject")]
#[case("-j REJECT --reject-with icmp-port-unreachable", "reject")]
#[case("-j REJECT --reject-with tcp-reset", "reset")]
#[case("-j LOG --log-prefix \"-j DROP\"", "nothing(-j LOG --log-prefix \"-j DROP\")")]
#[case("-j SYNPROXY --sack-perm --mss 1460", "synproxy")]
#[case("-j AUDIT --type drop", "nothing(-j AUDIT --type drop)")]
#[case("-j MARK --set-xmark 0x1/0xff", "mark & 0xffffff00 ^ 0x1")]
#[case("-j MARK --set-mark 0x1/0xf0", "mark & 0xffffff0e ^ 0x1")]
#[case("-j MARK --and-mark 0xf0", "mark & 0xf0 ^ 0x0")]
#[case("-j MARK --or-mark 0xf0", "mark & 0xffffff0f ^ 0xf0")]
#[case("-j MARK --xor-mark 0xf0", "mark & 0xffffffff ^ 0xf0")]
#[case("-j MARK --new 1", "?(-j MARK --new 1)")]
#[case(
    "-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff",
    "ct state != invalid,untracked; mark unknown"
)]
#[case("-j CONNMARK --save-mark", "nothing(-j CONNMARK --save-mark)")]
#[case("-j CONNMARK --set-xmark 0x1/0x1", "nothing(-j CONNMARK --set-xmark 0x1/0x1)")]
#[case("-j SET --add-set a src --exist", "nothing(-j SET --add-set a src --exist)")]
#[case("-j SET --map-set a src --map-mark", "mark unknown")]
#[case("-j HMARK --hmark-mod 5", "mark unknown")]
#[case("-j TPROXY --on-port 1 --on-ip 127.0.0.1 --tproxy-mark 0x1/0x1", "tproxy")]
#[case("-j CLUSTERIP --new", "?(-j CLUSTERIP --new)")]
fn targets_of_any_table(#[case] target: &str, #[case] expected: &str) {
    assert_eq!(shown(&rule(Ip, "mangle", "PREROUTING", target), Ip), expected);
}

#[rstest]
#[case("raw", "OUTPUT", "-j NOTRACK", "untrack")]
#[case("raw", "OUTPUT", "-j CT --notrack", "untrack")]
#[case("raw", "OUTPUT", "-j CT --helper ftp", "nothing(-j CT --helper ftp)")]
#[case("raw", "OUTPUT", "-j CT --zone 1", "?(-j CT --zone 1)")]
#[case("nat", "POSTROUTING", "-j SNAT --to-source 192.0.2.1-192.0.2.4:1-9 --random", "snat 192.0.2.1-192.0.2.4:1-9")]
#[case("nat", "POSTROUTING", "-j SNAT --to-source what", "?(-j SNAT --to-source what)")]
#[case("nat", "POSTROUTING", "-j SNAT", "?(-j SNAT)")]
#[case("nat", "POSTROUTING", "-j MASQUERADE --random-fully", "masquerade ")]
#[case("nat", "POSTROUTING", "-j MASQUERADE --to-ports 1-9", "masquerade :1-9")]
#[case("nat", "PREROUTING", "-j DNAT --to-destination 10.0.0.9:80", "dnat 10.0.0.9:80")]
#[case("nat", "PREROUTING", "-j REDIRECT --to-ports 81", "redirect :81")]
#[case("nat", "PREROUTING", "-j NETMAP --to 10.1.0.0/16", "dnat 10.1.0.0-10.1.255.255")]
#[case("nat", "POSTROUTING", "-j NETMAP --to 10.1.0.0/16", "snat 10.1.0.0-10.1.255.255")]
#[case("nat", "PREROUTING", "-j REDIRECT --new", "?(-j REDIRECT --new)")]
fn targets_of_their_table(#[case] table: &str, #[case] chain: &str, #[case] target: &str, #[case] expected: &str) {
    assert_eq!(shown(&rule(Ip, table, chain, target), Ip), expected);
}

const GATEWAY: &str = r#"# Generated by iptables-save v1.8.9
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:maps - [0:0]
[1:60] -A PREROUTING -j maps
[1:60] -A maps -j NETMAP --to 10.0.0.0/24
COMMIT
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
COMMIT
*filter
:INPUT DROP [1:60]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING - [0:0]
[3:180] -A INPUT -m comment --comment "a
-j DROP" -j ACCEPT
-A POSTROUTING
COMMIT
*security
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
COMMIT
"#;

#[test]
fn tables_have_the_chains_of_the_kernel() {
    let read = ruleset(GATEWAY, Ip);
    assert_eq!(read.problems, [""; 0]);
    let mut bases = Vec::new();
    for table in &read.tables {
        for chain in &table.chains {
            let Some(Base { hook, priority, kind, drops }) = chain.base else { continue };
            let kind = match kind {
                ChainKind::Filter => "filter",
                ChainKind::Nat => "nat",
                ChainKind::Route => "route",
            };
            let drops = if drops { " drop" } else { "" };
            bases.push(format!("{} {}: {kind} {hook} {priority}{drops}", table.name, chain.name));
        }
    }
    let expected = [
        "mangle PREROUTING: filter 0 -150",
        "mangle INPUT: filter 1 -150",
        "mangle FORWARD: filter 2 -150",
        "mangle OUTPUT: route 3 -150",
        "mangle POSTROUTING: filter 4 -150",
        "nat PREROUTING: nat 0 -100",
        "nat INPUT: nat 1 100",
        "nat OUTPUT: nat 3 -100",
        "nat POSTROUTING: nat 4 100",
        "raw PREROUTING: filter 0 -300",
        "raw OUTPUT: filter 3 -300",
        "filter INPUT: filter 1 0 drop",
        "filter FORWARD: filter 2 0",
        "filter OUTPUT: filter 3 0",
        "security INPUT: filter 1 50",
        "security FORWARD: filter 2 50",
        "security OUTPUT: filter 3 50",
    ];
    assert_eq!(bases, expected);
}

#[test]
fn rules_are_named_as_the_tool_numbers_them() {
    let read = ruleset(GATEWAY, Ip);
    let table = read.tables.iter().find(|table| table.name == "filter").unwrap();
    let input = table.chain("INPUT").unwrap();
    let [rule] = &input.rules[..] else { panic!("{:?}", input.rules) };
    assert_eq!((rule.packets, rule.handle, rule.by_iptables), (Some(3), None, true));
    assert_eq!(rule.text, "-m comment --comment \"a -j DROP\" -j ACCEPT");
    assert_eq!(shown(&rule.steps, Ip), "true; accept");
    assert_eq!(table.named(input, 0).unwrap().to_string(), "iptables filter INPUT rule 1");
    let own = table.chain("POSTROUTING").unwrap();
    assert_eq!((own.base, own.rules[0].packets, &own.rules[0].steps[..]), (None, None, &[][..]));
    // Which end NETMAP translates is decided by what jumps to its chain.
    let maps = &read.tables[1].chain("maps").unwrap().rules[0];
    assert_eq!(shown(&maps.steps, Ip), "dnat 10.0.0.0-10.0.0.255");
}

#[rstest]
#[case("", 0, &[])]
#[case("# nothing\n\n", 0, &[])]
#[case("*filter\n:INPUT ACCEPT [0:0]\n", 0, &["iptables-save prints the table filter without its end"])]
#[case("*filter\n*nat\nCOMMIT\n", 1, &["iptables-save prints the table filter without its end"])]
#[case("*new\n:INPUT ACCEPT [0:0]\nCOMMIT\n", 1, &["iptables-save prints a table that is not known: new"])]
#[case("*raw\n:INPUT ACCEPT [0:0]\nCOMMIT\n", 1, &["iptables-save prints a chain that is not known: INPUT"])]
#[case(
    "*raw\n[0:0] -A x -j DROP\nCOMMIT\n",
    1,
    &["iptables-save prints a rule of a chain that raw does not have: x"]
)]
#[case("-A INPUT\n", 0, &["iptables-save prints a line that is not understood: -A INPUT"])]
#[case("*raw\n[0:0] -I x\nCOMMIT\n", 1, &["iptables-save prints a line that is not understood: [0:0] -I x"])]
#[case("COMMIT\n", 0, &[])]
fn what_is_not_understood_is_a_problem(#[case] text: &str, #[case] tables: usize, #[case] problems: &[&str]) {
    let Ruleset { tables: read, problems: found } = ruleset(text, Ip);
    assert_eq!((read.len(), &found[..]), (tables, &problems.iter().map(ToString::to_string).collect::<Vec<_>>()[..]));
}

#[test]
fn strange_lines_are_counted() {
    let read = ruleset(&"what\n".repeat(20), Ip6);
    assert_eq!(read.problems.len(), super::LINES + 1);
    assert_eq!(read.problems.last().unwrap(), "ip6tables-save prints 12 more such lines");
}

proptest! {
    /// Every rule is there, with whatever it says.
    #[test]
    fn no_rule_is_left_out(words in vec(select(&WORDS[..]), 0..12)) {
        let text = words.join(" ");
        let read = ruleset(&format!("*filter\n:INPUT DROP [0:0]\n:-j - [0:0]\n-A INPUT {text}\nCOMMIT\n"), Ip);
        prop_assert_eq!(&read.problems, &[""; 0]);
        let rules = &read.tables[0].chains[0].rules;
        prop_assert_eq!(rules.len(), 1);
        prop_assert!(words.is_empty() || !rules[0].steps.is_empty());
    }

    #[test]
    fn any_text_is_read(text in "[*:\\[A-Z -]{0,8}([a-zA-Z0-9!\"\\\\:/, -]|\n|-[Amjgip] |COMMIT\n){0,60}") {
        for family in [Ip, Ip6] {
            let read = ruleset(&text, family);
            prop_assert!(read.tables.len() <= text.matches('*').count());
        }
    }
}

const WORDS: [&str; 24] = [
    "!",
    "-m",
    "-j",
    "-g",
    "-i",
    "-p",
    "-s",
    "-f",
    "tcp",
    "conntrack",
    "--dport",
    "--ctstate",
    "INVALID,DNAT",
    "10.0.0.0/8",
    "80:",
    "set",
    "--match-set",
    "\"a b\"",
    "comment",
    "--comment",
    "MARK",
    "--set-xmark",
    "0x1/0xff",
    "recent",
];

/// The walk gives what the kernel's counters gave.
#[test]
fn matches_hold_where_the_kernel_counted() {
    let lines: Vec<&str> = include_str!("counted.txt").lines().filter(|line| !line.starts_with('#')).collect();
    assert!(lines.len() > 100);
    for line in lines {
        let [segment, counted, options] = line.split(" | ").collect::<Vec<_>>()[..] else { panic!("{line}") };
        let (family, ends, state) = match segment {
            "ip invalid" => (Ip, ["10.9.0.2", "10.9.0.1"], state::INVALID),
            "ip new" => (Ip, ["10.9.0.2", "10.9.0.1"], state::NEW),
            "ip6 invalid" => (Ip6, ["fd09::2", "fd09::1"], state::INVALID),
            other => panic!("{other}"),
        };
        let [source, destination] = ends.map(|end| end.parse().unwrap());
        let input = Interface { name: "lan0".to_owned(), index: None };
        let mut class =
            Class::new(source, destination, (40000, 80), state).with_data().by(Path::Input, Some(input), None);
        let traffic_class: (usize, &[u8]) = if family == Ip { (1, &[0x08]) } else { (0, &[0x60, 0x80]) };
        class.set_network(traffic_class.0, traffic_class.1);
        if family == Ip6 {
            // Of 1,052 bytes, of which 40 are the header.
            class.set_network(4, &1012u16.to_be_bytes());
        }
        // The entry is not confirmed yet; without one the walk asks neither.
        (class.status, class.reply) = (Some(0), Some(false));
        let text = format!("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT {options} -j DROP\nCOMMIT\n");
        let read = ruleset(&text, family);
        let walk = Walker::new(&read).walk(&class);
        let expected = match counted {
            "1" => Some(Fate::Dropped),
            "0" => Some(Fate::Accepted),
            _ => None,
        };
        assert_eq!(walk.typical(), expected, "{line}: {}", shown(&read.tables[0].chains[0].rules[0].steps, family));
    }
}
