//! RSTs of the ends themselves: the gateway forwards them and is not accused.
//!
//! All namespaces of the lab share one kernel: the probes see the ends' own functions too.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use std::{panic, thread};

use anyhow::{Context as _, Result};
use serde_json::Value;
use socket2::SockRef;

use super::Context;
use super::connection::Connection;
use super::reject::logged;
use crate::expect::Expect;
use crate::topology::{Lab, Nat, server};
use crate::whyrst::{Capture, Captured};
use crate::wire::{Tap, flag};

/// A SYN to a closed port of the server: its stack answers, with the function that is hooked.
pub(super) fn server_refuses(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let at_server = Tap::open(&lab.server, "s0")?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let error = logged(&lab.client, server(4_433))?;
    context.step(format!("connecting to {}: {error}", server(4_433)));
    at_server.wait("the server's RST", |segments| {
        segments.iter().any(|segment| segment.src == server(4_433) && segment.has(flag::RST)).then_some(())
    })?;
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    expect.that(error == ErrorKind::ConnectionRefused, || format!("the client saw {error}"));
    not_accused(&mut expect, &captured);
    expect.is(&captured.report, "/findings/0/id", "endpoint-resets");
    expect.is(&captured.report, "/findings/0/evidence/server", "1");
    captured.replay()?;
    expect.verdict()
}

/// The server's program gives up in the middle of a connection.
pub(super) fn server_aborts(context: &Context<'_>) -> Result<()> {
    aborts(context, |connection| (connection.server, connection.client))
}

/// The client's does.
pub(super) fn client_aborts(context: &Context<'_>) -> Result<()> {
    aborts(context, |connection| (connection.client, connection.server))
}

/// One end closes its socket with a linger time of 0: its stack sends a RST, and the other end gets it.
fn aborts(context: &Context<'_>, ends: fn(Connection) -> (TcpStream, TcpStream)) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let (aborting, mut other) = ends(Connection::open(&lab, server(443))?);
    SockRef::from(&aborting).set_linger(Some(Duration::ZERO)).context("SO_LINGER")?;
    drop(aborting);
    let error = Connection::error_of(&mut other)?;
    context.step(format!("the other end: {error}"));
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    expect.that(error == ErrorKind::ConnectionReset, || format!("the other end saw {error}"));
    not_accused(&mut expect, &captured);
    captured.replay()?;
    expect.verdict()
}

/// The server, far away, gives up while the client is sending: what its last acknowledgements have called forth is on its
/// way then, and is answered by RSTs of the server's stack, with the function that is hooked.
pub(super) fn server_aborts_upload(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    lab.distant_server(50)?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let Connection { mut client, mut server, server_address, tap, .. } = Connection::open(&lab, server(443))?;
    let error = thread::scope(|scope| -> Result<ErrorKind> {
        let upload = scope.spawn(move || {
            loop {
                if let Err(error) = client.write_all(&[b'u'; 10_000]) {
                    return error.kind();
                }
            }
        });
        server.read_exact(&mut vec![0; 200_000]).context("the server's read")?;
        SockRef::from(&server).set_linger(Some(Duration::ZERO)).context("SO_LINGER")?;
        drop(server);
        Ok(upload.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked)))
    })?;
    let resets = tap.wait("RSTs of the server's stack", |segments| {
        let resets = segments.iter().filter(|seen| seen.src == server_address && seen.has(flag::RST)).count();
        (resets > 1).then_some(resets)
    })?;
    context.step(format!("the client: {error}; {resets} RSTs of the server"));
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    expect.that(error == ErrorKind::ConnectionReset, || format!("the client saw {error}"));
    not_accused(&mut expect, &captured);
    expect.is(&captured.report, "/findings/0/id", "endpoint-resets");
    captured.replay()?;
    expect.verdict()
}

/// The report names no flow, and counts no RST as the gateway's.
fn not_accused(expect: &mut Expect, captured: &Captured) {
    let report = &captured.report;
    expect.is(report, "/flows", Value::Array(Vec::new()));
    expect.is(report, "/summary/resets_sent", 0);
    expect.is(report, "/summary/flows_reset", 0);
    expect.is(report, "/summary/invalid_packets", 0);
    expect.is(report, "/capture/events_lost", 0);
}
