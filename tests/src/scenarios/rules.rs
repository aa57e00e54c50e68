//! What the gateway's own rules and sockets do to a segment, and what they keep from happening.

use std::io::ErrorKind;
use std::net::TcpStream;

use anyhow::{Result, bail};
use serde_json::Value;

use super::Context;
use super::connection::Connection;
use super::reject_rule;
use crate::expect::Expect;
use crate::netns::Namespace;
use crate::topology::{CLIENT, Lab, NAT, Nat, server};
use crate::whyrst::Capture;

/// A filter chain at a hook, with one rule.
pub(super) fn filter_rule(gateway: &Namespace, hook: &str, rule: &str) -> Result<()> {
    reject_rule::chain(gateway, hook)?;
    reject_rule::rule(gateway, hook, rule)
}

/// drop-invalid-input in force: the rule drops an INVALID packet before the stack can answer it.
pub(super) fn invalid_dropped(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    filter_rule(&lab.gateway, "input", "ct state invalid drop")?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut connection = Connection::open(&lab, server(443))?;
    connection.tap.send(&connection.far_ahead()?)?;
    connection.is_alive()?;
    context.step("a segment far ahead is refused and dropped; both ends still talk to each other");
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    let report = &captured.report;
    expect.is(report, "/flows/0/cause", "out-of-window");
    expect.is(report, "/flows/0/reason", "seq-over");
    expect.is(report, "/flows/0/reset_by", Value::Null);
    expect.is(report, "/flows/0/client", connection.client_address.to_string());
    expect.is(report, "/summary/invalid_packets", 1);
    expect.is(report, "/summary/resets_sent", 0);
    expect.is(report, "/summary/flows_reset", 0);
    captured.replay()?;
    expect.verdict()
}

/// A rule rejects what conntrack has refused: the rule is who sent the RST, not the stack.
pub(super) fn invalid_rejected(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    filter_rule(&lab.gateway, "input", "ct state invalid meta l4proto tcp reject with tcp reset")?;
    let handle = reject_rule::handle(&lab.gateway, "input", "reject with tcp reset")?;
    refused_and_rejected(context, &lab, |expect, report| {
        reject_rule::names(expect, report, "/flows/0", "input", handle);
    })
}

/// The same with a rule that exists already; `of_rule` checks what else the report has about it.
pub(super) fn refused_and_rejected(
    context: &Context<'_>,
    lab: &Lab,
    of_rule: impl FnOnce(&mut Expect, &Value),
) -> Result<()> {
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut connection = Connection::open(lab, server(443))?;
    connection.tap.send(&connection.far_ahead()?)?;
    connection.reset_to_server()?;
    let server_error = Connection::error_of(&mut connection.server)?;
    context.step(format!("a segment far ahead is refused and rejected: {server_error}"));
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    expect.that(server_error == ErrorKind::ConnectionReset, || format!("the server saw {server_error}"));
    let report = &captured.report;
    expect.is(report, "/flows/0/cause", "reject-rule");
    expect.is(report, "/flows/0/reset_by", "gateway-reject-rule");
    expect.is(report, "/flows/0/confidence", "proven");
    expect.is(report, "/flows/0/client", connection.client_address.to_string());
    expect.is(report, "/flows/0/nat", connection.nat_address.to_string());
    expect.is(report, "/flows/0/invalid_packets", 1);
    expect.is(report, "/flows/0/resets", 1);
    expect.is(report, "/flows/0/chain/0/step", "conntrack-invalid");
    expect.is(report, "/flows/0/rule/of", 1);
    of_rule(&mut expect, report);
    captured.replay()?;
    expect.verdict()
}

/// The server is behind a bridge of the gateway's, where a rule rejects what no hook of the IP stack ever sees. 5.10 makes
/// such a RST in a function of its own (`nft_reject_br_send_v4_tcp_reset`), which whyrst does not watch.
pub(super) fn reject_on_bridge(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    for command in [
        "link add name br0 type bridge",
        "address flush dev wan0",
        "link set wan0 master br0",
        "address add 192.0.2.1/24 dev br0",
        "link set br0 up",
    ] {
        lab.gateway.ip(command)?;
    }
    lab.gateway.run(&["nft", "add rule inet nat postrouting oifname br0 masquerade"])?;
    reject_rule::load()?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut connection = Connection::open(&lab, server(443))?;
    lab.gateway.run(&["nft", "add table bridge filter"])?;
    lab.gateway.run(&["nft", "add chain bridge filter prerouting { type filter hook prerouting priority 0; }"])?;
    lab.gateway.run(&["nft", "add rule bridge filter prerouting tcp sport 443 reject with tcp reset"])?;
    std::io::Write::write_all(&mut connection.server, b"let me in")?;
    let server_error = Connection::error_of(&mut connection.server)?;
    context.step(format!("the server's next segment is rejected on the bridge: {server_error}"));
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    expect.that(server_error == ErrorKind::ConnectionReset, || format!("the server saw {server_error}"));
    let report = &captured.report;
    let flows = report["flows"].as_array().map_or(0, Vec::len);
    if context.log_format == "e1" {
        expect.that(flows == 0, || format!("{flows} flows are named"));
        return expect.verdict();
    }
    expect.that(flows == 1, || format!("{flows} flows are named"));
    expect.is(report, "/flows/0/cause", "reject-rule");
    expect.is(report, "/flows/0/reset_by", "gateway-reject-rule");
    expect.is(report, "/flows/0/confidence", "proven");
    // Before conntrack the segment has no entry; the look-up names the client.
    expect.is(report, "/flows/0/client", connection.client_address.to_string());
    expect.is(report, "/flows/0/nat", connection.nat_address.to_string());
    captured.replay()?;
    expect.verdict()
}

/// A NOTRACK rule that was meant for something else: the server's segments are not translated back any more.
pub(super) fn not_tracked(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut connection = Connection::open(&lab, server(443))?;
    lab.gateway.run(&["nft", "add table inet raw"])?;
    lab.gateway.run(&["nft", "add chain inet raw prerouting { type filter hook prerouting priority raw; }"])?;
    lab.gateway.run(&["nft", "add rule inet raw prerouting iifname wan0 tcp sport 443 notrack"])?;
    std::io::Write::write_all(&mut connection.server, b"who will hear this?")?;
    connection.reset_to_server()?;
    let server_error = Connection::error_of(&mut connection.server)?;
    context.step(format!("the server's next segment is untracked: {server_error}"));
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    expect.that(server_error == ErrorKind::ConnectionReset, || format!("the server saw {server_error}"));
    let report = &captured.report;
    expect.is(report, "/flows/0/cause", "not-tracked");
    expect.is(report, "/flows/0/reset_by", "gateway-stack");
    expect.is(report, "/flows/0/confidence", "proven");
    // The segment had no entry, but its connection has one: the look-up names the client.
    expect.is(report, "/flows/0/client", connection.client_address.to_string());
    expect.is(report, "/flows/0/nat", connection.nat_address.to_string());
    expect.is(report, "/flows/0/server", connection.server_address.to_string());
    expect.is(report, "/summary/flows_reset", 1);
    captured.replay()?;
    expect.verdict()
}

/// A SYN to a port of the gateway itself where nothing listens.
pub(super) fn no_listener(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let target = (NAT, 4_433).into();
    let Err(error) = lab.client.enter(|| TcpStream::connect::<std::net::SocketAddr>(target))? else {
        bail!("something listens on {target}")
    };
    context.step(format!("connecting to {target}: {error}"));
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    expect.that(error.kind() == ErrorKind::ConnectionRefused, || format!("{error}"));
    let report = &captured.report;
    let flows = report["flows"].as_array().map_or(0, Vec::len);
    expect.that(flows == 1, || format!("{flows} flows are named"));
    expect.is(report, "/flows/0/cause", "no-listener");
    expect.is(report, "/flows/0/reset_by", "gateway-stack");
    expect.is(report, "/flows/0/server", target.to_string());
    let client = report["flows"][0]["client"].as_str().unwrap_or_default();
    expect.that(client.starts_with(&format!("{CLIENT}:")), || format!("the client is {client}"));
    captured.replay()?;
    expect.verdict()
}

/// With `tcp_be_liberal` nothing is out of the window: not an event, not a flow.
pub(super) fn be_liberal(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    lab.gateway.sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", "1")?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut connection = Connection::open(&lab, server(443))?;
    connection.tap.send(&connection.far_ahead()?)?;
    connection.is_alive()?;
    context.step("a segment far ahead passes; both ends still talk to each other");
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    let report = &captured.report;
    expect.is(report, "/flows", Value::Array(Vec::new()));
    expect.is(report, "/capture/events", 0);
    captured.replay()?;
    expect.verdict()
}
