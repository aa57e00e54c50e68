//! Sockets of the gateway itself that reset their connections: whyrst must not take them for anything else.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;
use std::{panic, thread};

use anyhow::{Context as _, Result};
use rustix::net::sockopt::set_socket_linger;
use serde_json::Value;

use super::Context;
use super::connection::Connection;
use crate::expect::Expect;
use crate::topology::{CLIENT, Lab, Nat, server};
use crate::whyrst::Capture;
use crate::wire::{PATIENCE, Tap, flag};

/// The gateway's own address on the client's side.
const GATEWAY: ([u8; 4], u16) = ([10, 0, 0, 1], 8_080);

/// How a service on the gateway ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// It closes with a linger time of 0.
    Linger,
    /// It closes with data unread.
    Unread,
}

pub(super) fn lingers(context: &Context<'_>) -> Result<()> {
    // What `tcp_disconnect` gives as its reason; ABORT_ON_LINGER is for TCP_LINGER2 below 0.
    aborts(context, How::Linger, "tcp-state")
}

pub(super) fn leaves_data(context: &Context<'_>) -> Result<()> {
    aborts(context, How::Unread, "tcp-abort-on-close")
}

/// A connection of the client's to a service of the gateway's: both ends.
fn to_gateway(lab: &Lab) -> Result<(TcpStream, TcpStream)> {
    let service = SocketAddr::from(GATEWAY);
    let listener = lab.gateway.enter(|| TcpListener::bind(service))?.context("listening")?;
    let client = lab.client.enter(|| TcpStream::connect(service))?.context("connecting")?;
    client.set_read_timeout(Some(PATIENCE))?;
    let (accepted, _) = listener.accept().context("accepting")?;
    accepted.set_read_timeout(Some(PATIENCE))?;
    Ok((client, accepted))
}

fn aborts(context: &Context<'_>, how: How, kernel_reason: &str) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let (mut client, accepted) = to_gateway(&lab)?;
    let client_address = client.local_addr()?;
    match how {
        How::Linger => set_socket_linger(&accepted, Some(Duration::ZERO))?,
        How::Unread => {
            client.write_all(b"who reads this?")?;
            accepted.peek(&mut [0; 1]).context("waiting for the client's data")?;
        }
    }
    drop(accepted);
    let error = Connection::error_of(&mut client)?;
    context.step(format!("a service of the gateway closes: {error}"));
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    expect.that(error == ErrorKind::ConnectionReset, || format!("the client saw {error}"));
    let report = &captured.report;
    of_socket(&mut expect, report, client_address);
    // The service is a thread of the program that runs the scenarios.
    expect.is(report, "/flows/0/chain/0/step", "reset-sent");
    expect.is(report, "/flows/0/chain/0/function", "tcp_send_active_reset");
    expect.is(report, "/flows/0/chain/0/process/pid", std::process::id());
    expect.is(report, "/flows/0/reset_effect", "kills");
    let reason = &report["flows"][0]["reason"];
    let expected = if context.names_reset_reasons() { Value::from(kernel_reason) } else { Value::Null };
    expect.that(*reason == expected, || format!("the reason is {reason}, not {expected}"));
    captured.replay()?;
    expect.verdict()
}

/// A service of the gateway has closed, and the client goes on: what it sends comes to a socket in `TIME_WAIT`, which has
/// nobody to give it to (`tcp_timewait_state_process`, `TCP_TW_RST`).
pub(super) fn time_wait(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    // While the service still holds the socket it would not go to TIME_WAIT.
    lab.distant_client(50)?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let tap = Tap::open(&lab.client, "c0")?;
    let (mut client, accepted) = to_gateway(&lab)?;
    let (client_address, service) = (client.local_addr()?, SocketAddr::from(GATEWAY));
    drop(accepted);
    tap.wait("the client to acknowledge the FIN", |segments| {
        let fin = segments.iter().find(|segment| segment.src == service && segment.has(flag::FIN))?;
        segments.iter().any(|segment| segment.dst == service && segment.ack == fin.end()).then_some(())
    })?;
    client.write_all(b"one more thing")?;
    tap.wait("the gateway's RST", |segments| {
        segments.iter().any(|segment| segment.src == service && segment.has(flag::RST)).then_some(())
    })?;
    // After the end of the stream a RST is a broken pipe (`tcp_reset`, TCP_CLOSE_WAIT).
    let written = client.write(b"and another");
    context.step(format!("the client writes to a service that has closed: {written:?}"));
    let captured = capture.stop()?;
    let mut expect = Expect::new();
    expect.that(written.as_ref().is_err_and(|error| error.kind() == ErrorKind::BrokenPipe), || format!("{written:?}"));
    let report = &captured.report;
    of_socket(&mut expect, report, client_address);
    expect.is(report, "/flows/0/chain/0/socket_state", "TIME_WAIT");
    captured.replay()?;
    expect.verdict()
}

/// A service of the gateway opens a connection, and the server, which has an older one of these addresses and ports, answers
/// the SYN with an old ACK (RFC 5961 §4.2). conntrack lets that pass with a remark, the socket answers with a RST, which is for
/// the older connection, and its next SYN opens the new one.
pub(super) fn old_ack(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let (service, stale) = (server(443), server(9_443));
    let _service = lab.server.enter(|| TcpListener::bind(service))?.context("listening")?;
    let _stale = lab.server.enter(|| TcpListener::bind(stale))?.context("listening")?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let tap = Tap::open(&lab.server, "s0")?;
    let _connection = lab.gateway.enter(|| TcpStream::connect(service))?.context("connecting")?;
    let syn_ack = tap.wait("the server's SYN-ACK", |segments| {
        segments.iter().find(|segment| segment.src == service && segment.has(flag::SYN)).cloned()
    })?;
    // A server that has an older connection answers with no SYN-ACK.
    lab.server.run(&["nft", "add table inet silence"])?;
    lab.server.run(&["nft", "add chain inet silence input { type filter hook input priority 0; }"])?;
    lab.server.run(&["nft", "add rule inet silence input tcp dport 9443 drop"])?;
    let connected = thread::scope(|scope| -> Result<_> {
        let connecting = scope.spawn(|| lab.gateway.enter(|| TcpStream::connect_timeout(&stale, PATIENCE)));
        let syn = tap.wait("the gateway's SYN", |segments| {
            segments.iter().find(|segment| segment.dst == stale && segment.has(flag::SYN)).cloned()
        })?;
        let old = syn.seq.wrapping_sub(100_000);
        tap.send(&syn_ack.between(stale, syn.src).forge(1_000_000, old, flag::ACK, &[])?)?;
        tap.wait("the gateway's RST", |segments| {
            segments
                .iter()
                .find(|segment| segment.dst == stale && segment.has(flag::RST) && segment.seq == old)
                .map(drop)
        })?;
        lab.server.run(&["nft", "delete table inet silence"])?;
        connecting.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked))
    })?;
    context.step(format!("an old ACK answers the gateway's SYN: {connected:?}"));
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    expect.that(connected.is_ok(), || format!("the gateway's connection: {connected:?}"));
    let report = &captured.report;
    let flows = report["flows"].as_array().map_or(0, Vec::len);
    expect.that(flows == 1, || format!("{flows} flows are named"));
    expect.is(report, "/flows/0/server", stale.to_string());
    expect.is(report, "/flows/0/nat", Value::Null);
    expect.is(report, "/flows/0/cause", "local-socket");
    expect.is(report, "/flows/0/reset_by", "gateway-socket");
    expect.is(report, "/flows/0/reset_effect", "other-connection");
    expect.is(report, "/flows/0/ignored_packets", 1);
    expect.is(report, "/flows/0/invalid_packets", 0);
    expect.is(report, "/flows/0/resets", 1);
    expect.is(report, "/flows/0/mitigations", Value::Array(Vec::new()));
    expect.is(report, "/flows/0/chain/0/step", "conntrack-ignored");
    expect.is(report, "/flows/0/chain/0/packet/flags", ".");
    expect.is(report, "/flows/0/chain/1/step", "reset-sent");
    expect.is(report, "/flows/0/chain/1/socket_state", "SYN_SENT");
    expect.is(report, "/summary/flows_reset", 0);
    captured.replay()?;
    expect.verdict()
}

/// One flow: a socket of the gateway's reset the connection with this client.
fn of_socket(expect: &mut Expect, report: &Value, client: SocketAddr) {
    let flows = report["flows"].as_array().map_or(0, Vec::len);
    expect.that(flows == 1, || format!("{flows} flows are named"));
    expect.that(client.ip() == CLIENT, || format!("the client is {client}"));
    expect.is(report, "/flows/0/cause", "local-socket");
    expect.is(report, "/flows/0/confidence", "proven");
    expect.is(report, "/flows/0/reset_by", "gateway-socket");
    expect.is(report, "/flows/0/client", client.to_string());
    expect.is(report, "/flows/0/server", SocketAddr::from(GATEWAY).to_string());
    expect.is(report, "/flows/0/nat", Value::Null);
    expect.is(report, "/flows/0/invalid_packets", 0);
    expect.is(report, "/flows/0/resets", 1);
    expect.is(report, "/summary/resets_sent", 1);
}
