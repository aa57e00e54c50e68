//! RSTs of the ends, with the gateway's interfaces tapped: proven to have come from outside, and from where.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, bail};
use rustix::net::sockopt::set_socket_linger;
use serde_json::Value;

use super::Context;
use super::connection::Connection;
use crate::expect::Expect;
use crate::topology::{CLIENT, Lab, NAT, Nat, server};
use crate::whyrst::Capture;
use crate::wire::flag;

/// Nothing listens on the server's port.
pub(super) fn server_refuses(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &["--tap"])?;
    let Err(error) = lab.client.enter(|| TcpStream::connect(server(4_433)))? else { bail!("something listens") };
    context.step(format!("connecting: {error}"));
    let captured = capture.stop()?;
    let mut expect = Expect::new();
    expect.that(error.kind() == ErrorKind::ConnectionRefused, || format!("the client saw {error}"));
    let report = &captured.report;
    by_peer(&mut expect, report, "server", "wan0");
    expect.is(report, "/flows/0/chain/0/refuses", true);
    expect.is(report, "/flows/0/server", server(4_433).to_string());
    for (field, address) in [("client", CLIENT), ("nat", NAT)] {
        let found = report["flows"][0][field].as_str().unwrap_or_default();
        expect.that(found.starts_with(&format!("{address}:")), || format!("{field} is {found}"));
    }
    captured.replay()?;
    expect.verdict()
}

pub(super) fn server_aborts(context: &Context<'_>) -> Result<()> {
    abort(context, true)
}

pub(super) fn client_aborts(context: &Context<'_>) -> Result<()> {
    abort(context, false)
}

/// One of the ends closes with a linger time of 0 in the middle of a connection, and the other one sees it.
fn abort(context: &Context<'_>, by_server: bool) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &["--tap"])?;
    let connection = Connection::open(&lab, server(443))?;
    let Connection { client, server, client_address, nat_address, server_address, .. } = connection;
    let (mut other, aborted) = if by_server { (client, server) } else { (server, client) };
    set_socket_linger(&aborted, Some(Duration::ZERO))?;
    drop(aborted);
    let error = Connection::error_of(&mut other)?;
    context.step(format!("the {} aborts: {error}", if by_server { "server" } else { "client" }));
    let captured = capture.stop()?;
    captured.replay()?;
    let mut expect = Expect::new();
    expect.that(error == ErrorKind::ConnectionReset, || format!("the other end saw {error}"));
    let (end, interface) = if by_server { ("server", "wan0") } else { ("client", "lan0") };
    by_peer(&mut expect, &captured.report, end, interface);
    of(&mut expect, &captured.report, [client_address, nat_address, server_address]);
    expect.verdict()
}

/// A segment of the server's is refused, the gateway resets the server, and the server's own RST comes back by the tapped
/// interface: it is an effect, and the gateway's RST stays the story.
pub(super) fn gateway_first(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &["--tap"])?;
    let mut connection = Connection::open(&lab, server(443))?;
    let traffic = connection.traffic()?;
    let far = traffic.server_end.wrapping_add(20_000_000);
    connection.tap.send(&traffic.from_server.forge(far, traffic.client_end, flag::ACK, &[b'!'; 300])?)?;
    connection.reset_to_server()?;
    let error = connection.client_learns()?;
    context.step(format!("the gateway resets the server; the client sees {error}"));
    let captured = capture.stop()?;
    let mut expect = Expect::new();
    let report = &captured.report;
    of(&mut expect, report, [connection.client_address, connection.nat_address, connection.server_address]);
    expect.is(report, "/flows/0/cause", "out-of-window");
    expect.is(report, "/flows/0/reason", "seq-over");
    expect.is(report, "/flows/0/reset_by", "gateway-stack");
    expect.is(report, "/flows/0/peer_resets", 1);
    expect.is(report, "/summary/flows_reset", 1);
    captured.replay()?;
    expect.verdict()
}

fn of(expect: &mut Expect, report: &Value, [client, nat, server]: [SocketAddr; 3]) {
    expect.is(report, "/flows/0/client", client.to_string());
    expect.is(report, "/flows/0/nat", nat.to_string());
    expect.is(report, "/flows/0/server", server.to_string());
}

/// One flow, reset by one of its ends whose RST came in by `interface`.
fn by_peer(expect: &mut Expect, report: &Value, end: &str, interface: &str) {
    let flows = report["flows"].as_array().map_or(0, Vec::len);
    expect.that(flows == 1, || format!("{flows} flows are named"));
    expect.is(report, "/flows/0/cause", "peer-reset");
    expect.is(report, "/flows/0/reason", Value::Null);
    expect.is(report, "/flows/0/reset_by", "peer");
    expect.is(report, "/flows/0/confidence", "proven");
    expect.is(report, "/flows/0/resets", 0);
    expect.is(report, "/flows/0/peer_resets", 1);
    expect.is(report, "/flows/0/chain/0/step", "peer-reset-received");
    expect.is(report, "/flows/0/chain/0/from", end);
    expect.is(report, "/flows/0/chain/0/in", interface);
    expect.is(report, "/summary/resets_sent", 0);
    expect.is(report, "/summary/flows_reset", 0);
}
