//! Segments that no TCP makes: refused before the connection's state is asked.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::Context;
use super::connection::{Connection, Traffic};
use super::window::{both_died, one_flow};
use crate::expect::Expect;
use crate::netns::Namespace;
use crate::topology::{Lab, Nat, SERVER6, server};
use crate::whyrst::{Capture, Captured};
use crate::wire::{Segment, Tap, flag};

/// The gateway verifies checksums: conntrack refuses the segment, and the gateway's stack throws it away.
pub(super) fn bad_checksum(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    lab.gateway.sysctl("net.netfilter.nf_conntrack_checksum", "1")?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut connection = Connection::open(&lab, server(443))?;
    let traffic = connection.traffic()?;
    connection.tap.send(&spoilt(&traffic)?)?;
    stays_alive(&mut connection, &traffic)?;
    context.step("a segment with a bad checksum disappears in the gateway");
    let at_gateway = checksum_errors(&lab.gateway)?;
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    expect.that(at_gateway == 1, || format!("the gateway's stack has counted {at_gateway} bad checksums"));
    refused_in_silence(&mut expect, &captured, &connection, "bad-checksum", 1);
    captured.replay()?;
    expect.verdict()
}

/// The gateway does not: the segment goes on to the client, who throws it away. There is nothing to report.
pub(super) fn bad_checksum_unchecked(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    lab.gateway.sysctl("net.netfilter.nf_conntrack_checksum", "0")?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut connection = Connection::open(&lab, server(443))?;
    let inside = Tap::open(&lab.client, "c0")?;
    let traffic = connection.traffic()?;
    let segment = spoilt(&traffic)?;
    connection.tap.send(&segment)?;
    let arrives = |segments: &[Segment]| {
        segments.iter().any(|seen| seen.dst == connection.client_address && seen.seq == segment.seq).then_some(())
    };
    inside.wait("the segment with the bad checksum", arrives)?;
    stays_alive(&mut connection, &traffic)?;
    context.step("a segment with a bad checksum reaches the client");
    let at_client = checksum_errors(&lab.client)?;
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    expect.that(at_client == 1, || format!("the client's stack has counted {at_client} bad checksums"));
    expect.is(&captured.report, "/flows", Value::Array(Vec::new()));
    expect.is(&captured.report, "/capture/events", 0);
    captured.replay()?;
    expect.verdict()
}

/// What the server sends next, but with a bad checksum.
fn spoilt(traffic: &Traffic) -> Result<Segment> {
    traffic
        .from_server
        .forge(traffic.server_end, traffic.client_end, flag::ACK | flag::PSH, &[b'!'; 200])?
        .with_bad_checksum()
}

/// How many segments the stack of a namespace has thrown away for their checksum.
fn checksum_errors(namespace: &Namespace) -> Result<u64> {
    let text = namespace.run(&["cat", "/proc/net/snmp"])?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp:")).map(str::split_whitespace);
    let (mut names, values) = (lines.next().context("no names")?, lines.next().context("no values")?);
    let index = names.position(|name| name == "InCsumErrors").context("no InCsumErrors")?;
    values.clone().nth(index).context("no value")?.parse().context("InCsumErrors")
}

/// SYN and FIN at once, and an acknowledgement that is exactly right: the RST that answers it kills.
pub(super) fn bad_flags(context: &Context<'_>) -> Result<()> {
    bad_flags_to(context, server(443))
}

pub(super) fn ipv6_bad_flags(context: &Context<'_>) -> Result<()> {
    bad_flags_to(context, SocketAddr::new(SERVER6, 8443))
}

fn bad_flags_to(context: &Context<'_>, address: SocketAddr) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut connection = Connection::open(&lab, address)?;
    let traffic = connection.traffic()?;
    let flags = flag::SYN | flag::FIN | flag::ACK;
    connection.tap.send(&traffic.from_server.forge(traffic.server_end, traffic.client_end, flags, &[])?)?;
    let (reset, server_error, client_error) = connection.both_learn()?;
    context.step(format!("SYN, FIN and ACK at once are answered by RST {}: {server_error}", reset.seq));
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    expect
        .that(reset.seq == traffic.client_end, || format!("the RST has seq {}, not {}", reset.seq, traffic.client_end));
    both_died(&mut expect, server_error, client_error);
    let report = &captured.report;
    one_flow(&mut expect, report, &connection);
    expect.is(report, "/flows/0/cause", "malformed");
    expect.is(report, "/flows/0/reason", "bad-flags");
    expect.is(report, "/flows/0/kernel_text", "invalid tcp flag combination");
    expect.is(report, "/flows/0/confidence", "proven");
    expect.is(report, "/flows/0/reset_by", "gateway-stack");
    expect.is(report, "/flows/0/reset_effect", "kills");
    expect.is(report, "/flows/0/invalid_packets", 1);
    expect.is(report, "/flows/0/resets", 1);
    expect.is(report, "/flows/0/window", Value::Null);
    expect.is(report, "/flows/0/chain/0/packet/flags", "FS.");
    expect.is(report, "/summary/by_cause", json!({ "malformed": 1 }));
    expect.is(report, "/summary/flows_reset", 1);
    captured.replay()?;
    expect.verdict()
}

/// FIN and RST at once: refused too, but no RST is ever answered.
pub(super) fn bad_flags_reset(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut connection = Connection::open(&lab, server(443))?;
    let traffic = connection.traffic()?;
    let flags = flag::FIN | flag::RST | flag::ACK;
    connection.tap.send(&traffic.from_server.forge(traffic.server_end, traffic.client_end, flags, &[])?)?;
    stays_alive(&mut connection, &traffic)?;
    context.step("FIN, RST and ACK at once disappear in the gateway");
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    refused_in_silence(&mut expect, &captured, &connection, "bad-flags", 1);
    captured.replay()?;
    expect.verdict()
}

/// A data offset that points beyond the segment's end, and one that is shorter than any TCP header.
pub(super) fn truncated(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut connection = Connection::open(&lab, server(443))?;
    let traffic = connection.traffic()?;
    let segment = traffic.from_server.forge(traffic.server_end, traffic.client_end, flag::ACK, b"four")?;
    for words in [15, 4] {
        connection.tap.send_frame(&segment.frame_with_data_offset(words)?)?;
    }
    stays_alive(&mut connection, &traffic)?;
    context.step("headers of 60 and of 16 bytes in segments of 24 disappear in the gateway");
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    refused_in_silence(&mut expect, &captured, &connection, "truncated", 2);
    captured.replay()?;
    expect.verdict()
}

/// Both ends still talk to each other, and nothing but that was on the server's wire since.
fn stays_alive(connection: &mut Connection, before: &Traffic) -> Result<()> {
    const BYTES: u32 = 250;
    connection.is_alive()?;
    connection.client_sends(BYTES as usize)?;
    // is_alive has sent 300.
    connection.traffic_up_to(before.client_end.wrapping_add(300 + BYTES))?;
    let nat = connection.nat_address;
    let resets = connection.tap.segments().iter().filter(|seen| seen.src == nat && seen.has(flag::RST)).count();
    ensure!(resets == 0, "the gateway has sent {resets} RSTs");
    Ok(())
}

/// Checks that this many packets were refused and no RST was sent.
fn refused_in_silence(expect: &mut Expect, captured: &Captured, connection: &Connection, reason: &str, packets: u64) {
    let report = &captured.report;
    one_flow(expect, report, connection);
    expect.is(report, "/flows/0/cause", "malformed");
    expect.is(report, "/flows/0/reason", reason);
    expect.is(report, "/flows/0/reset_by", Value::Null);
    expect.is(report, "/flows/0/reset_effect", Value::Null);
    expect.is(report, "/flows/0/invalid_packets", packets);
    expect.is(report, "/flows/0/ignored_packets", 0);
    expect.is(report, "/flows/0/resets", 0);
    expect.is(report, "/flows/0/window", Value::Null);
    expect.is(report, "/summary/resets_sent", 0);
    expect.is(report, "/summary/flows_reset", 0);
    expect.is(report, "/summary/by_cause", json!({ "malformed": 1 }));
}
