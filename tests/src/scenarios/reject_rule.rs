//! Which rule rejects: the report must name the one that the rulesets' own tools show.

use std::io::ErrorKind;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::Context;
use super::connection::Connection;
use crate::command;
use crate::expect::Expect;
use crate::netns::Namespace;
use crate::topology::{Lab, Nat, server};
use crate::whyrst::Capture;

/// Loads what rejects, so that it is watched from the start: a rule would load it during the capture, and be faster.
pub(super) fn load() -> Result<()> {
    for module in ["nf_reject_ipv4", "nf_reject_ipv6"] {
        command::run("/sbin/modprobe", &[module])?;
    }
    Ok(())
}

/// A table with an empty chain, both named as usual.
pub(super) fn chain(gateway: &Namespace, hook: &str) -> Result<()> {
    gateway.run(&["nft", "add table inet filter"])?;
    let base = format!("add chain inet filter {hook} {{ type filter hook {hook} priority 0; }}");
    gateway.run(&["nft", &base]).map(drop)
}

/// A rule of that chain.
pub(super) fn rule(gateway: &Namespace, chain: &str, rule: &str) -> Result<()> {
    gateway.run(&["nft", &format!("add rule inet filter {chain} {rule}")]).map(drop)
}

/// The handle of the rule with `text` in it, as nft shows it.
pub(super) fn handle(gateway: &Namespace, chain: &str, text: &str) -> Result<u64> {
    let list = gateway.run(&["nft", "-a", "list", "chain", "inet", "filter", chain])?;
    let line = list.lines().find(|line| line.contains(text)).with_context(|| format!("no `{text}` in:\n{list}"))?;
    let (_, handle) = line.rsplit_once("# handle ").with_context(|| format!("no handle in: {line}"))?;
    Ok(handle.trim().parse()?)
}

/// The flow at this JSON pointer was rejected by a rule of the table `inet filter`, and the report shows how to see it.
pub(super) fn names(expect: &mut Expect, report: &Value, flow: &str, chain: &str, handle: u64) {
    expect.is(report, &format!("{flow}/rule/backend"), "nftables");
    expect.is(report, &format!("{flow}/rule/family"), "inet");
    expect.is(report, &format!("{flow}/rule/table"), "filter");
    expect.is(report, &format!("{flow}/rule/chain"), chain);
    expect.is(report, &format!("{flow}/rule/handle"), handle);
    expect.is(report, &format!("{flow}/rule/number"), Value::Null);
    certain(expect, report, flow);
    let command = format!("ip netns exec gateway nft -a list chain inet filter {chain}");
    shown_by(expect, report, &command);
}

/// Nothing else comes into question.
fn certain(expect: &mut Expect, report: &Value, flow: &str) {
    expect.is(report, &format!("{flow}/rule/certainty"), "inferred");
    expect.is(report, &format!("{flow}/rule/candidate_count"), 1);
    expect.is(report, &format!("{flow}/rule/problems"), json!([]));
}

fn shown_by(expect: &mut Expect, report: &Value, command: &str) {
    let commands: Vec<&Value> = report["mitigations"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|mitigation| mitigation["id"] == "review-reject-rule")
        .flat_map(|mitigation| mitigation["commands"].as_array().into_iter().flatten())
        .collect();
    expect.that(commands.contains(&&json!(command)), || format!("the commands are {commands:?}, not {command}"));
}

/// Two connections, two rules in one chain and one elsewhere: each connection's own rule is named.
pub(super) fn two_rules(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    load()?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut connections = [Connection::open(&lab, server(443))?, Connection::open(&lab, server(8443))?];
    chain(&lab.gateway, "input")?;
    chain(&lab.gateway, "forward")?;
    rule(&lab.gateway, "input", "meta l4proto tcp reject with tcp reset")?;
    rule(&lab.gateway, "forward", "tcp dport { 8443, 9000-9100 } counter reject with tcp reset")?;
    rule(&lab.gateway, "forward", "iifname lan0 tcp dport { 80, 443 } reject with tcp reset")?;
    let handles = [handle(&lab.gateway, "forward", "{ 80, 443 }")?, handle(&lab.gateway, "forward", "8443")?];
    let mut errors = Vec::new();
    for connection in &mut connections {
        errors.push(connection.client_learns()?);
    }
    context.step(format!("the next segments of both clients are rejected: {errors:?}"));
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    expect.that(errors == [ErrorKind::ConnectionReset; 2], || format!("the clients saw {errors:?}"));
    let report = &captured.report;
    let flows = report["flows"].as_array().map(Vec::as_slice).unwrap_or_default();
    expect.that(flows.len() == 2, || format!("{} flows are named", flows.len()));
    for (connection, handle) in connections.iter().zip(handles) {
        let server = json!(connection.server_address.to_string());
        let index = flows.iter().position(|flow| flow["server"] == server).context("a flow is missing")?;
        let flow = format!("/flows/{index}");
        expect.is(report, &format!("{flow}/cause"), "reject-rule");
        expect.is(report, &format!("{flow}/reset_by"), "gateway-reject-rule");
        expect.is(report, &format!("{flow}/client"), connection.client_address.to_string());
        expect.is(report, &format!("{flow}/rule/of"), 3);
        names(&mut expect, report, &flow, "forward", handle);
    }
    captured.replay()?;
    expect.verdict()
}

/// A rule of iptables, behind one that lets something else pass: its number is what `--line-numbers` shows.
pub(super) fn iptables(context: &Context<'_>) -> Result<()> {
    iptables_rule(context, "iptables", "iptables-nft")
}

/// The same in the kernel's own tables.
pub(super) fn legacy(context: &Context<'_>) -> Result<()> {
    iptables_rule(context, "iptables-legacy", "iptables-legacy")
}

fn iptables_rule(context: &Context<'_>, program: &str, backend: &str) -> Result<()> {
    let lab = Lab::build(Nat::IptablesSnat)?;
    load()?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut connection = Connection::open(&lab, server(443))?;
    let forward = |rule: &str| {
        let words: Vec<&str> = [program, "-A", "FORWARD"].into_iter().chain(rule.split_whitespace()).collect();
        lab.gateway.run(&words).map(drop)
    };
    forward("-p tcp --dport 8443 -j REJECT --reject-with tcp-reset")?;
    forward("-i wan0 -m conntrack --ctstate ESTABLISHED -j ACCEPT")?;
    forward("-i lan0 -p tcp --dport 443 -j REJECT --reject-with tcp-reset")?;
    let list = lab.gateway.run(&[program, "-L", "FORWARD", "-n", "--line-numbers"])?;
    let shown = list.lines().find(|line| line.contains("REJECT") && line.contains("dpt:443"));
    let number: u32 = shown.and_then(|line| line.split_whitespace().next()).context("no such rule")?.parse()?;
    let client_error = connection.client_learns()?;
    context.step(format!("the client's next segment is rejected by rule {number}: {client_error}"));
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    expect.that(client_error == ErrorKind::ConnectionReset, || format!("the client saw {client_error}"));
    let report = &captured.report;
    expect.is(report, "/flows/0/cause", "reject-rule");
    expect.is(report, "/flows/0/reset_by", "gateway-reject-rule");
    expect.is(report, "/flows/0/client", connection.client_address.to_string());
    expect.is(report, "/flows/0/rule/backend", backend);
    expect.is(report, "/flows/0/rule/family", "ip");
    expect.is(report, "/flows/0/rule/table", "filter");
    expect.is(report, "/flows/0/rule/chain", "FORWARD");
    expect.is(report, "/flows/0/rule/number", number);
    expect.is(report, "/flows/0/rule/of", 2);
    certain(&mut expect, report, "/flows/0");
    let command = format!("ip netns exec gateway {program} -L FORWARD -n -v --line-numbers");
    shown_by(&mut expect, report, &command);
    captured.replay()?;
    expect.verdict()
}
