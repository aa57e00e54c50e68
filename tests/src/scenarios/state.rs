//! Segments that do not fit the state of their connection: what the state table refuses, and what it lets pass.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use socket2::SockRef;

use super::Context;
use super::connection::Connection;
use super::window::one_flow;
use crate::expect::Expect;
use crate::netns::Namespace;
use crate::topology::{Lab, NAT, Nat, server};
use crate::whyrst::{Capture, Captured};
use crate::wire::{PATIENCE, Segment, Tap, flag};

/// The sysctl that 5.15 has got and 5.10 has not.
const IGNORE_INVALID_RST: &str = "net.netfilter.nf_conntrack_tcp_ignore_invalid_rst";

/// How far off the numbers of odd SYNs are.
const OFF: u32 = 100_000;

/// A server that has lost its connection answers a late copy of an old segment: with a RST that is as old. Conntrack refuses
/// it, the gateway's stack never answers a RST, and the client goes on waiting.
pub(super) fn invalid_rst(context: &Context<'_>) -> Result<()> {
    let (lab, capture) = start(context)?;
    let (expect, captured) = old_reset(context, &lab, capture, false)?;
    refused_reset(expect, &captured)
}

/// The same where such RSTs are let pass: it reaches the client, for whom it is too old as well. 5.10 cannot do that.
pub(super) fn invalid_rst_let_pass(context: &Context<'_>) -> Result<()> {
    let (lab, capture) = start(context)?;
    let path = Path::new("/proc/sys").join(IGNORE_INVALID_RST.replace('.', "/"));
    let possible = lab.gateway.enter(|| path.exists())?;
    ensure!(possible != context.refuses_everything(), "{IGNORE_INVALID_RST} is there: {possible}");
    if !possible {
        let (expect, captured) = old_reset(context, &lab, capture, false)?;
        return refused_reset(expect, &captured);
    }
    lab.gateway.sysctl(IGNORE_INVALID_RST, "1")?;
    let (mut expect, captured) = old_reset(context, &lab, capture, true)?;
    expect.is(&captured.report, "/flows", Value::Array(Vec::new()));
    captured.replay()?;
    expect.verdict()
}

fn start(context: &Context<'_>) -> Result<(Lab, Capture)> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    Ok((lab, capture))
}

/// Makes a dead server answer an old segment, and checks what becomes of its RST and of the client.
pub(super) fn old_reset(
    context: &Context<'_>,
    lab: &Lab,
    capture: Capture,
    passes: bool,
) -> Result<(Expect, Captured)> {
    let inside = Tap::open(&lab.client, "c0")?;
    let connection = Connection::open(lab, server(443))?;
    let client_address = connection.client_address;
    let traffic = connection.traffic()?;
    // The client's first segment with payload: since then it has acknowledged what the server has said.
    let first = |segments: &[Segment]| segments.iter().find(|seen| seen.src == client_address && seen.len > 0).cloned();
    let old = inside.wait("the client's first segment", first)?;
    let Connection { mut client, server: dying, tap, nat_address, server_address, .. } = connection;
    die_in_silence(lab, &dying)?;
    drop(dying);
    lab.server.run(&["nft", "delete", "table", "inet", "silence"])?;
    inside.send(&old)?;
    let reset = tap.wait("the server's RST", |segments| {
        segments.iter().find(|seen| seen.src == server_address && seen.has(flag::RST)).cloned()
    })?;
    context.step(format!("the server answers a segment with ack {} by RST {}", old.ack, reset.seq));
    // Another connection: what was to come of the RST has come when that is over.
    Connection::open(lab, server(8_080))?;
    let mut expect = Expect::new();
    let resets: Vec<Segment> = inside.segments().into_iter().filter(|seen| seen.has(flag::RST)).collect();
    let wanted = usize::from(passes);
    expect.that(resets.len() == wanted, || format!("{} RSTs have reached the client, not {wanted}", resets.len()));
    expect.that(reset.seq == old.ack && reset.seq != traffic.server_end, || format!("the RST has seq {}", reset.seq));
    let answers = tap.segments().into_iter().filter(|seen| seen.src == nat_address && seen.has(flag::RST)).count();
    expect.that(answers == 0, || format!("the gateway has sent {answers} RSTs"));
    client.set_nonblocking(true)?;
    match client.read(&mut [0; 1]) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => context.step("the client waits"),
        other => expect.that(false, || format!("the client's read gave {other:?}")),
    }
    let captured = capture.stop()?;
    if !passes {
        expect.is(&captured.report, "/flows/0/client", client_address.to_string());
        expect.is(&captured.report, "/flows/0/nat", nat_address.to_string());
        expect.is(&captured.report, "/flows/0/server", server_address.to_string());
        expect.is(&captured.report, "/flows/0/chain/0/packet/seq", reset.seq);
    }
    Ok((expect, captured))
}

/// Takes a server's socket away without a word on the wire.
fn die_in_silence(lab: &Lab, dying: &std::net::TcpStream) -> Result<()> {
    lab.server.run(&["nft", "add table inet silence"])?;
    lab.server.run(&["nft", "add chain inet silence output { type filter hook output priority 0; }"])?;
    lab.server.run(&["nft", "add rule inet silence output tcp flags & rst == rst drop"])?;
    SockRef::from(dying).set_linger(Some(Duration::ZERO)).context("linger")
}

fn refused_reset(mut expect: Expect, captured: &Captured) -> Result<()> {
    let report = &captured.report;
    let flows = report["flows"].as_array().map_or(0, Vec::len);
    expect.that(flows == 1, || format!("{flows} flows are named"));
    expect.is(report, "/flows/0/cause", "invalid-state");
    expect.is(report, "/flows/0/reason", "invalid-rst");
    expect.is(report, "/flows/0/reset_by", Value::Null);
    expect.is(report, "/flows/0/tcp_state", "ESTABLISHED");
    expect.is(report, "/flows/0/invalid_packets", 1);
    expect.is(report, "/flows/0/resets", 0);
    expect.is(report, "/summary/flows_reset", 0);
    expect.is(report, "/summary/resets_sent", 0);
    captured.replay()?;
    expect.verdict()
}

/// A SYN from the client's side inside an established connection: let pass, because the server may know better. It answers
/// with a challenge ACK.
pub(super) fn syn_in_established(context: &Context<'_>) -> Result<()> {
    let (lab, capture) = start(context)?;
    let inside = Tap::open(&lab.client, "c0")?;
    let mut connection = Connection::open(&lab, server(443))?;
    let traffic = connection.traffic()?;
    let seq = traffic.client_end.wrapping_add(OFF);
    inside.send(&last_of(&inside, connection.client_address)?.forge(seq, 0, flag::SYN, &[])?)?;
    challenged(&inside, &connection, seq)?;
    context.step(format!("a SYN with seq {seq} is answered by a challenge ACK"));
    connection.is_alive()?;
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    let resets = connection.tap.segments().into_iter().filter(|seen| seen.has(flag::RST)).count();
    expect.that(resets == 0, || format!("{resets} RSTs on the wire"));
    let report = &captured.report;
    one_flow(&mut expect, report, &connection);
    expect.is(report, "/flows/0/cause", "invalid-state");
    expect.is(report, "/flows/0/reason", "invalid-state");
    expect.is(report, "/flows/0/reset_by", Value::Null);
    expect.is(report, "/flows/0/invalid_packets", 0);
    expect.is(report, "/flows/0/ignored_packets", 1);
    expect.steps(report, &["conntrack-ignored"]);
    expect.is(report, "/flows/0/chain/0/direction", "original");
    expect.is(report, "/flows/0/chain/0/packet/flags", "S");
    expect.is(report, "/flows/0/chain/0/packet/seq", seq);
    expect.is(report, "/summary/flows_reset", 0);
    captured.replay()?;
    expect.verdict()
}

/// The last segment that an end has sent.
fn last_of(tap: &Tap, end: SocketAddr) -> Result<Segment> {
    tap.wait("a segment", |segments| segments.iter().rfind(|seen| seen.src == end).cloned())
}

/// Waits until the server's challenge ACK to a SYN (RFC 5961 §4) is on both wires.
fn challenged(inside: &Tap, connection: &Connection, seq: u32) -> Result<()> {
    let from_server =
        |seen: &&Segment| seen.src == connection.server_address && seen.flags == flag::ACK && seen.len == 0;
    // IPv4's identification: NAT leaves it alone.
    let id = |segment: &Segment| segment.frame[18..20].to_vec();
    let challenge = connection.tap.wait("the server's challenge ACK", |segments| {
        let syn = segments.iter().position(|seen| seen.flags == flag::SYN && seen.seq == seq)?;
        segments[syn..].iter().find(from_server).map(id)
    })?;
    inside.wait("the challenge ACK behind the gateway", |segments| {
        segments.iter().filter(from_server).any(|seen| id(seen) == challenge).then_some(())
    })
}

/// The same from the server's side is refused, and the gateway's stack answers for a port that nothing listens on. The RST has
/// seq 0: it cannot end a connection that is established.
pub(super) fn syn_from_server(context: &Context<'_>) -> Result<()> {
    let (lab, capture) = start(context)?;
    let mut connection = Connection::open(&lab, server(443))?;
    let traffic = connection.traffic()?;
    let seq = traffic.server_end.wrapping_add(OFF);
    connection.tap.send(&traffic.from_server.forge(seq, 0, flag::SYN, &[])?)?;
    let reset = connection.reset_to_server()?;
    connection.is_alive()?;
    context.step(format!("a SYN from the server's side is answered by RST seq {} ack {}", reset.seq, reset.ack));
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    let numbers = (reset.seq, reset.ack);
    expect.that(numbers == (0, seq.wrapping_add(1)), || format!("the RST has seq and ack {numbers:?}"));
    let report = &captured.report;
    one_flow(&mut expect, report, &connection);
    expect.is(report, "/flows/0/cause", "invalid-state");
    expect.is(report, "/flows/0/reason", "invalid-state");
    expect.is(report, "/flows/0/reset_by", "gateway-stack");
    expect.is(report, "/flows/0/confidence", "proven");
    expect.is(report, "/flows/0/invalid_packets", 1);
    expect.is(report, "/flows/0/resets", 1);
    expect.is(report, "/flows/0/reset_effect", "dropped");
    expect.is(report, "/summary/flows_reset", 0);
    captured.replay()?;
    expect.verdict()
}

/// The SYN took another way to the server, the SYN-ACK comes by the gateway: it has no entry for it.
pub(super) fn syn_ack_no_entry(context: &Context<'_>) -> Result<()> {
    let (lab, capture) = start(context)?;
    let mut connection = Connection::open(&lab, server(443))?;
    let _listener = lab.server.enter(|| TcpListener::bind(server(8_443)))?.context("listening")?;
    let client = SocketAddr::new(NAT, 40_000);
    let isn = 1_000_000;
    let template = last_of(&connection.tap, connection.nat_address)?.between(client, server(8_443));
    // What a tap sends on the gateway's side of the wire, conntrack does not see.
    Tap::open(&lab.gateway, "wan0")?.send(&template.forge(isn, 0, flag::SYN, &[])?)?;
    let (answer, reset) = connection.tap.wait("SYN-ACK and RST", |segments| {
        let answer = segments.iter().find(|seen| seen.src == server(8_443) && seen.has(flag::SYN | flag::ACK))?;
        let reset = segments.iter().find(|seen| seen.src == client && seen.has(flag::RST))?;
        Some((answer.clone(), reset.clone()))
    })?;
    context.step(format!("the server's SYN-ACK {} is answered by RST {}", answer.seq, reset.seq));
    wait_without_half_open(&lab.server)?;
    connection.is_alive()?;
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    expect.that(reset.seq == isn + 1, || format!("the RST has seq {}, not {}", reset.seq, isn + 1));
    let report = &captured.report;
    let flows = report["flows"].as_array().map_or(0, Vec::len);
    expect.that(flows == 1, || format!("{flows} flows are named"));
    // Whoever sends the SYN-ACK is the server.
    expect.is(report, "/flows/0/client", client.to_string());
    expect.is(report, "/flows/0/server", server(8_443).to_string());
    expect.is(report, "/flows/0/nat", Value::Null);
    expect.is(report, "/flows/0/cause", "invalid-state");
    expect.is(report, "/flows/0/reason", "invalid-new");
    expect.is(report, "/flows/0/reset_by", "gateway-stack");
    // Kernels before 6.9 refuse it without a word.
    let says_so: bool = report["capture"]["hooks"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|hook| hook["hook"] == "ct-malformed" && hook["hits"] != 0);
    expect.is(report, "/flows/0/confidence", if says_so { "proven" } else { "inferred" });
    expect.is(report, "/flows/0/resets", 1);
    expect.is(report, "/summary/resets_sent", 1);
    expect.is(report, "/summary/by_cause", json!({ "invalid-state": 1 }));
    captured.replay()?;
    expect.verdict()
}

/// Waits until a namespace has no connection in SYN-RECV.
fn wait_without_half_open(namespace: &Namespace) -> Result<()> {
    const SYN_RECV: &str = "03";
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        let sockets = namespace.run(&["cat", "/proc/net/tcp"])?;
        if !sockets.lines().any(|line| line.split_whitespace().nth(3) == Some(SYN_RECV)) {
            return Ok(());
        }
    }
    bail!("the server still has a half-open connection")
}

/// The segments at two taps.
fn segments_of(wan: &Tap, lan: &Tap) -> String {
    let lines = |tap: &Tap| {
        let line = |seen: Segment| {
            format!(
                "{} > {} {:#04x} seq {} ack {} len {}",
                seen.src, seen.dst, seen.flags, seen.seq, seen.ack, seen.len
            )
        };
        tap.segments().into_iter().map(line).collect::<Vec<_>>().join("; ")
    };
    format!("wan: {}\nlan: {}", lines(wan), lines(lan))
}

/// A SYN while conntrack waits for the last ACK: the server answers it with a challenge ACK, which must not be taken for that
/// last ACK. Both are let pass.
pub(super) fn challenge_ack(context: &Context<'_>) -> Result<()> {
    let (lab, capture) = start(context)?;
    // Nobody repeats anything meanwhile: a second FIN of the client's would be taken for the server's, one of the server's behind
    // the SYN would hide it.
    lab.client.ip("route change default via 10.0.0.1 rto_min 20s")?;
    lab.server.ip("route change 192.0.2.0/24 dev s0 src 192.0.2.2 rto_min 20s")?;
    for end in [&lab.client, &lab.server] {
        end.sysctl("net.ipv4.tcp_early_retrans", "0")?;
    }
    let inside = Tap::open(&lab.client, "c0")?;
    let mut connection = Connection::open(&lab, server(443))?;
    let before = connection.traffic()?;
    connection.client.write_all(b"goodbye")?;
    connection.client.shutdown(Shutdown::Write)?;
    connection.server.read_to_end(&mut Vec::new())?;
    // Seven bytes and the FIN.
    let traffic = connection.traffic_up_to(before.client_end.wrapping_add(8))?;
    // The client's last ACK is lost.
    lab.client.run(&["nft", "add table inet silence"])?;
    lab.client.run(&["nft", "add chain inet silence output { type filter hook output priority 0; }"])?;
    lab.client.run(&["nft", "add rule inet silence output meta l4proto tcp drop"])?;
    connection.server.shutdown(Shutdown::Write)?;
    let fin = |segments: &[Segment]| {
        segments.iter().any(|seen| seen.src == connection.server_address && seen.has(flag::FIN)).then_some(())
    };
    inside.wait("the server's FIN", fin)?;
    let waiting = lab.gateway.run(&["conntrack", "-L", "-p", "tcp"])?;
    ensure!(waiting.contains("LAST_ACK"), "the entry is {waiting}, after {}", segments_of(&connection.tap, &inside));
    let seq = traffic.client_end.wrapping_add(OFF);
    inside.send(&last_of(&inside, connection.client_address)?.forge(seq, 0, flag::SYN, &[])?)?;
    challenged(&inside, &connection, seq)?;
    context.step("a SYN before the last ACK is answered by a challenge ACK");
    let entry = lab.gateway.run(&["conntrack", "-L", "-p", "tcp"])?;
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    expect.that(entry.contains("LAST_ACK"), || format!("the entry is {entry}"));
    let resets = connection.tap.segments().into_iter().filter(|seen| seen.has(flag::RST)).count();
    expect.that(resets == 0, || format!("{resets} RSTs on the wire"));
    let report = &captured.report;
    expect.is(report, "/flows/0/client", connection.client_address.to_string());
    expect.is(report, "/flows/0/server", connection.server_address.to_string());
    expect.is(report, "/flows/0/tcp_state", "LAST_ACK");
    expect.is(report, "/flows/0/cause", "invalid-state");
    expect.is(report, "/flows/0/reset_by", Value::Null);
    expect.is(report, "/summary/ignored_packets", 2);
    expect.is(report, "/summary/invalid_packets", 0);
    expect.is(report, "/summary/flows_reset", 0);
    captured.replay()?;
    expect.verdict()
}
