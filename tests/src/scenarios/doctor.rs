//! `whyrst doctor` on gateways that are well, and on gateways that are not. Commands that it prints are run as printed.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::Context;
use super::bad_input::Hidden;
use super::connection::Connection;
use super::table::Shared;
use crate::command;
use crate::expect::Expect;
use crate::netns::IP;
use crate::topology::{CLIENT, Lab, NAT, Nat, Wiring, server};
use crate::whyrst::{BINARY, run};

/// What a doctor's JSON says.
struct Found(Value);

impl Found {
    /// Of a namespace. The text of the same goes to the artifacts, for eyes.
    fn of(context: &Context<'_>, namespace: &str) -> Result<Self> {
        let (status, text, _) = run(&["doctor", "--netns", namespace])?;
        fs::write(context.artifacts.join("doctor.txt"), &text).context("keeping the text")?;
        if status != Some(0) {
            bail!("exit status {status:?}");
        }
        Self::by(context, &["doctor", "--netns", namespace, "--format", "json"])
    }

    fn by(context: &Context<'_>, arguments: &[&str]) -> Result<Self> {
        let (status, text, said) = run(arguments)?;
        fs::write(context.artifacts.join("doctor.json"), &text).context("keeping the JSON")?;
        if status != Some(0) {
            bail!("exit status {status:?}: {said}");
        }
        serde_json::from_str(&text).context("the doctor's JSON").map(Self)
    }

    fn findings(&self) -> &[Value] {
        self.0["findings"].as_array().map(Vec::as_slice).unwrap_or_default()
    }

    fn finding(&self, id: &str) -> Result<&Value> {
        let found = self.findings().iter().find(|finding| finding["id"] == id);
        found.with_context(|| format!("no finding {id} among {:#?}", self.findings()))
    }

    /// Those that are worth getting up for.
    fn urgent(&self) -> Vec<&Value> {
        self.findings().iter().filter(|finding| finding["severity"] != "info").collect()
    }
}

/// What a finding advises.
fn advice(finding: &Value) -> Vec<&str> {
    finding["advice"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Runs a command as it was printed. The only shell here is busybox', which has an `ip` of its own that knows no namespaces
/// and takes it before any other.
fn as_printed(command: &str) -> Result<String> {
    let command = command.strip_prefix("ip ").map_or_else(|| command.to_owned(), |rest| format!("{IP} {rest}"));
    command::run("/bin/busybox", &["sh", "-c", &command])
}

/// So many connections of the client's that stay open.
fn crowd(lab: &Lab, count: usize) -> Result<(TcpListener, Vec<TcpStream>)> {
    let listener = lab.server.enter(|| TcpListener::bind(server(443)))?.context("listening")?;
    let connections = lab.client.enter(|| {
        (0..count).map(|_| TcpStream::connect(server(443)).context("connecting")).collect::<Result<Vec<_>>>()
    })??;
    Ok((listener, connections))
}

/// Nothing is wrong with the lab's gateway, and the doctor has no warning.
pub(super) fn healthy(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let mut connection = Connection::open(&lab, server(443))?;
    let found = Found::of(context, lab.gateway.name())?;
    connection.is_alive()?;
    let mut expect = Expect::new();
    let urgent = found.urgent();
    expect.that(urgent.is_empty(), || format!("{urgent:#?}"));
    let document = &found.0;
    expect.is(document, "/schema", "whyrst.doctor.v1");
    expect.is(document, "/host/log_format", context.log_format);
    expect.is(document, "/tracing/possible", true);
    expect.is(document, "/namespaces/0/name", lab.gateway.name());
    expect.is(document, "/namespaces/0/netns", lab.gateway.inode()?);
    expect.is(document, "/namespaces/0/entries", 1);
    expect.is(document, "/namespaces/0/table/counted", 1);
    expect.is(document, "/namespaces/0/table/tcp_states/ESTABLISHED", 1);
    expect.is(document, "/namespaces/0/table/top_sources/0/what", CLIENT.to_string());
    expect.is(document, "/namespaces/0/nat_ports/0/nat", NAT.to_string());
    expect.is(document, "/namespaces/0/nat_ports/0/used", 1);
    expect.is(document, "/namespaces/0/nat_ports/0/usable", 64_512);
    expect.is(document, "/namespaces/0/rules/0/does", "masquerades");
    expect.is(document, "/namespaces/0/rules/0/output", "wan0");
    expect.is(document, "/namespaces/0/counters/invalid/total", 0);
    let (status, ..) = run(&["doctor", "--netns", lab.gateway.name(), "--fail-on", "warning"])?;
    expect.that(status == Some(0), || format!("--fail-on warning: {status:?}"));
    // From inside, and all of them at once.
    lab.gateway.run(&[BINARY, "doctor", "--fail-on", "warning"])?;
    let all = Found::by(context, &["doctor", "--all-netns", "--format", "json"])?;
    let names: Vec<&str> = all.0["namespaces"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|namespace| namespace["name"].as_str())
        .collect();
    expect.that(["client", "gateway", "server"].iter().all(|name| names.contains(name)), || format!("{names:?}"));
    expect.verdict()
}

/// An office router whose table is full for weeks: the doctor names the clients that fill it, and its command helps.
pub(super) fn full_table(context: &Context<'_>) -> Result<()> {
    const CLIENTS: usize = 40;
    let lab = Lab::build(Nat::NftMasquerade)?;
    let crowd = crowd(&lab, CLIENTS)?;
    let room = Shared::set("nf_conntrack_max", 40)?;
    let buckets = Shared::keep("nf_conntrack_buckets")?;
    let refused = lab.client.enter(|| TcpStream::connect_timeout(&server(443), Duration::from_millis(1_500)))?;
    context.step(format!("40 connections, room for 40; another: {:?}", refused.as_ref().map(drop)));
    let found = Found::of(context, lab.gateway.name())?;
    let (status, ..) = run(&["doctor", "--netns", lab.gateway.name(), "--fail-on", "critical"])?;

    let mut expect = Expect::new();
    expect.that(status == Some(1), || format!("--fail-on critical: {status:?}"));
    expect.that(refused.is_err(), || "the table took another connection".to_owned());
    let full = &found.0["findings"][0];
    expect.is(full, "/id", "conntrack-table-full");
    expect.is(full, "/severity", "critical");
    expect.is(full, "/evidence/top_sources", format!("{CLIENT} (40)"));
    expect.is(full, "/evidence/top_services", format!("tcp {} (40)", server(443)));
    expect.is(full, "/evidence/mitigation", "raise-table-size");
    // Nothing but the packets that were dropped is wrong besides.
    let others: Vec<&Value> =
        found.urgent().into_iter().skip(1).filter(|other| other["id"] != "packets-dropped").collect();
    expect.that(others.is_empty(), || format!("{others:#?}"));
    let dropped = found.finding("packets-dropped")?;
    expect.that(dropped["evidence"]["total"] != "0", || format!("{dropped}"));

    let raises: Vec<&str> = advice(full).into_iter().filter(|command| command.contains("sysctl -w")).collect();
    expect.that(!raises.is_empty(), || format!("{full:#}"));
    for command in raises {
        context.step(command);
        as_printed(command)?;
    }
    let listed =
        advice(full).into_iter().find(|command| command.contains("conntrack -L -s")).context("conntrack -L")?;
    let lines = as_printed(listed)?.lines().count();
    expect.that(lines == 40, || format!("{listed}: {lines} lines"));
    let again = Found::of(context, lab.gateway.name())?;
    let urgent = again.urgent();
    expect.that(urgent.is_empty(), || format!("after that: {urgent:#?}"));
    drop((crowd, room, buckets));
    expect.verdict()
}

/// Rules of nft, of iptables that writes into nftables, and of legacy iptables.
pub(super) fn rules(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let gateway = &lab.gateway;
    let rules: [&[&str]; 9] = [
        &["nft", "add table inet fw"],
        &["nft", "add chain inet fw in { type filter hook input priority 0; policy accept; }"],
        &["nft", "add chain inet fw pre { type filter hook prerouting priority raw; }"],
        &["nft", "add chain inet fw unused"],
        &["nft", "add rule inet fw in ct state vmap { established : accept, related : accept, invalid : drop }"],
        &["nft", "add rule inet fw pre udp dport 53 notrack"],
        &["nft", "add rule inet fw unused ct state invalid drop"],
        &["iptables-nft", "-A", "FORWARD", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP"],
        &["iptables-nft", "-t", "raw", "-A", "OUTPUT", "-p", "udp", "--sport", "53", "-j", "CT", "--notrack"],
    ];
    rules.iter().try_for_each(|rule| gateway.run(rule).map(drop))?;
    gateway.run(&["iptables-legacy", "-A", "INPUT", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP"])?;
    gateway.run(&["ip6tables-legacy", "-P", "INPUT", "DROP"])?;
    let found = Found::of(context, gateway.name())?;
    let mut expect = Expect::new();
    let urgent = found.urgent();
    expect.that(urgent.is_empty(), || format!("{urgent:#?}"));
    let drops = found.finding("rules-drop-invalid")?;
    let mut named: Vec<&str> = (1..=4).filter_map(|n| drops["evidence"][format!("rule_{n}")].as_str()).collect();
    named.sort_unstable();
    // At input the chain that was registered last comes first: of two rules that drop, it decides.
    let expected = [
        "iptables filter FORWARD rule 1 at forward: ct state invalid counter drop",
        "iptables filter INPUT rule 1 at input: -m conntrack --ctstate INVALID -j DROP",
    ];
    expect.that(named.len() == expected.len(), || format!("{named:#?}"));
    for (named, expected) in named.iter().zip(expected) {
        expect.that(named.starts_with(expected), || format!("`{named}`, not `{expected}`"));
    }
    let untracked = found.finding("rules-untrack")?;
    let untracks: Vec<&str> = (1..=3).filter_map(|n| untracked["evidence"][format!("rule_{n}")].as_str()).collect();
    for expected in ["at prerouting: udp dport 53 notrack", "iptables raw OUTPUT rule 1 at output: "] {
        expect.that(untracks.iter().any(|rule| rule.contains(expected)), || format!("`{expected}`: {untracks:#?}"));
    }
    for command in advice(drops).into_iter().chain(advice(untracked)).filter(|line| line.starts_with("ip netns exec")) {
        let shown = as_printed(command)?;
        expect.that(
            shown.contains("INVALID") || shown.contains("invalid") || shown.to_lowercase().contains("notrack"),
            || format!("{command}: {shown}"),
        );
    }
    let answered = found.findings().iter().any(|finding| finding["id"] == "invalid-answered");
    expect.that(!answered, || "INVALID is dropped at input, but said to be answered".to_owned());
    gateway.run(&["iptables-legacy", "-F", "INPUT"])?;
    let without = Found::of(context, gateway.name())?;
    let named = without.finding("rules-drop-invalid")?["evidence"].to_string();
    expect.that(named.contains("at input: ct state vmap"), || named.clone());
    expect.verdict()
}

/// 20 ports towards one server, all in use: another connection finds none, while the table is nearly empty.
pub(super) fn ports(context: &Context<'_>) -> Result<()> {
    const PORTS: usize = 20;
    let lab = Lab::wire(Wiring::default())?;
    for rule in [
        "add table ip nat",
        "add chain ip nat postrouting { type nat hook postrouting priority srcnat; }",
        "add rule ip nat postrouting oifname wan0 meta l4proto tcp snat to 192.0.2.1:20000-20019",
    ] {
        lab.gateway.run(&["nft", rule])?;
    }
    let crowd = crowd(&lab, PORTS)?;
    let refused = lab.client.enter(|| TcpStream::connect_timeout(&server(443), Duration::from_millis(1_500)))?;
    context.step(format!("20 ports, 20 connections; another: {:?}", refused.as_ref().map(drop)));
    let found = Found::of(context, lab.gateway.name())?;
    let mut expect = Expect::new();
    expect.that(refused.is_err(), || "a 21st connection was translated".to_owned());
    let scarce = &found.0["findings"][0];
    expect.is(scarce, "/id", "nat-ports-exhausted");
    expect.is(scarce, "/severity", "critical");
    expect.is(scarce, "/evidence/used", "20");
    expect.is(scarce, "/evidence/usable", "20");
    expect.is(scarce, "/evidence/range", "20000-20019");
    let title = scarce["title"].as_str().unwrap_or_default();
    expect.that(title.contains(&format!("{NAT} to tcp {}", server(443))), || title.to_owned());
    let command =
        advice(scarce).into_iter().find(|command| command.contains("conntrack -L")).context("conntrack -L")?;
    let lines = as_printed(command)?.lines().count();
    expect.that(lines == PORTS, || format!("{command}: {lines} lines"));
    drop(crowd);
    expect.verdict()
}

/// Without privileges it says what it sees, and what it does not.
pub(super) fn unprivileged(context: &Context<'_>) -> Result<()> {
    let line = format!("{BINARY} doctor --format json");
    let text = command::run("/bin/busybox", &["su", "nobody", "-s", "/bin/sh", "-c", &line])?;
    fs::write(context.artifacts.join("doctor.json"), &text).context("keeping the JSON")?;
    let found = Found(serde_json::from_str(&text).context("the doctor's JSON")?);
    let mut expect = Expect::new();
    expect.is(&found.0, "/tracing/possible", false);
    expect.is(&found.0, "/namespaces/0/table", Value::Null);
    expect.that(found.0["namespaces"][0]["max"].is_u64(), || "the limit is not known".to_owned());
    let privileges = found.finding("no-privileges")?;
    expect.that(privileges["title"].as_str().is_some_and(|title| title.contains("CAP_BPF")), || privileges.to_string());
    let unread = found.finding("not-read")?;
    let table = |line: &&str| line.contains("the table could not be read") && line.contains("CAP_NET_ADMIN");
    expect.that(advice(unread).iter().any(table), || unread.to_string());
    expect.verdict()
}

/// A kernel that does not describe its types: the doctor says so, and looks at conntrack all the same.
pub(super) fn untraceable(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let _connection = Connection::open(&lab, server(443))?;
    let _hidden = Hidden::new("/sys/kernel/btf")?;
    let found = Found::of(context, lab.gateway.name())?;
    let (status, ..) = run(&["doctor", "--netns", lab.gateway.name(), "--fail-on", "warning"])?;
    let mut expect = Expect::new();
    expect.that(status == Some(1), || format!("--fail-on warning: {status:?}"));
    expect.is(&found.0, "/tracing/possible", false);
    found.finding("no-btf")?;
    expect.is(&found.0, "/namespaces/0/table/counted", 1);
    expect.verdict()
}
