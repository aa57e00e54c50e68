//! Segments that come after their connection's entry has ended.
//!
//! With `tcp_loose` set such a segment is taken for the first of a new connection; without, it is refused without a word.
//! Either way it is not translated, and the gateway's own stack answers it.

use std::io::{ErrorKind, Write};
use std::net::Shutdown;
use std::time::Instant;

use anyhow::{Result, bail};
use serde_json::Value;

use super::Context;
use super::connection::Connection;
use crate::expect::Expect;
use crate::topology::{Lab, Nat, server};
use crate::whyrst::Capture;
use crate::wire::PATIENCE;

/// How an entry ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// By its timeout, the connection being idle.
    Timeout,
    /// By its timeout, the connection being closed; then a copy of an old segment arrives.
    Close,
    /// By `conntrack -D`.
    Delete,
    /// By `conntrack -F`.
    Flush,
    /// With the address that it was masqueraded by.
    AddressRemoved,
    /// By its timeout, before whyrst was started.
    BeforeStart,
}

pub(super) fn expired(context: &Context<'_>) -> Result<()> {
    check(context, How::Timeout, true, "expired")
}

pub(super) fn expired_strict(context: &Context<'_>) -> Result<()> {
    check(context, How::Timeout, false, "expired")
}

pub(super) fn closed(context: &Context<'_>) -> Result<()> {
    check(context, How::Close, true, "closed")
}

pub(super) fn closed_strict(context: &Context<'_>) -> Result<()> {
    check(context, How::Close, false, "closed")
}

pub(super) fn deleted(context: &Context<'_>) -> Result<()> {
    check(context, How::Delete, true, "deleted")
}

pub(super) fn deleted_strict(context: &Context<'_>) -> Result<()> {
    check(context, How::Delete, false, "deleted")
}

pub(super) fn flushed(context: &Context<'_>) -> Result<()> {
    check(context, How::Flush, true, "deleted")
}

pub(super) fn address_removed(context: &Context<'_>) -> Result<()> {
    check(context, How::AddressRemoved, true, "deleted")
}

pub(super) fn flushed_strict(context: &Context<'_>) -> Result<()> {
    check(context, How::Flush, false, "deleted")
}

pub(super) fn address_removed_strict(context: &Context<'_>) -> Result<()> {
    check(context, How::AddressRemoved, false, "deleted")
}

pub(super) fn older(context: &Context<'_>) -> Result<()> {
    check(context, How::BeforeStart, true, "never-seen")
}

pub(super) fn older_strict(context: &Context<'_>) -> Result<()> {
    check(context, How::BeforeStart, false, "never-seen")
}

fn check(context: &Context<'_>, how: How, loose: bool, reason: &str) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    lab.gateway.sysctl("net.netfilter.nf_conntrack_tcp_loose", if loose { "1" } else { "0" })?;
    if matches!(how, How::Timeout | How::BeforeStart) {
        lab.gateway.sysctl("net.netfilter.nf_conntrack_tcp_timeout_established", "1")?;
    }
    lab.gateway.sysctl("net.netfilter.nf_conntrack_tcp_timeout_time_wait", "1")?;
    let early = if how == How::BeforeStart {
        let connection = Connection::open(&lab, server(443))?;
        wait_without_entries(&lab)?;
        Some(connection)
    } else {
        None
    };
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut connection = match early {
        Some(connection) => connection,
        None => Connection::open(&lab, server(443))?,
    };
    let old = connection.traffic()?.from_server;
    match how {
        How::Timeout | How::BeforeStart => {}
        How::Close => {
            connection.client.shutdown(Shutdown::Both)?;
            connection.server.shutdown(Shutdown::Both)?;
        }
        How::Delete => drop(lab.gateway.run(&["conntrack", "-D", "-p", "tcp", "--dport", "443"])?),
        How::Flush => drop(lab.gateway.run(&["conntrack", "-F"])?),
        How::AddressRemoved => {
            lab.gateway.ip("address del 192.0.2.1/24 dev wan0")?;
            wait_without_entries(&lab)?;
            lab.gateway.ip("address add 192.0.2.1/24 dev wan0")?;
        }
    }
    wait_without_entries(&lab)?;
    context.step("the gateway's entry is destroyed");
    let mut expect = Expect::new();
    if how == How::Close {
        connection.tap.send(&old)?;
        context.step("a late copy of one of the server's segments arrives");
        connection.reset_to_server()?;
    } else {
        connection.server.write_all(b"are you still there?")?;
        connection.reset_to_server()?;
        let server_error = Connection::error_of(&mut connection.server)?;
        context.step(format!("the server's next segment is answered: {server_error}"));
        expect.that(server_error == ErrorKind::ConnectionReset, || format!("the server saw {server_error}"));
    }
    let captured = capture.stop()?;

    let report = &captured.report;
    let flows = report["flows"].as_array().map_or(0, Vec::len);
    expect.that(flows == 1, || format!("{flows} flows are named"));
    expect.is(report, "/flows/0/cause", "no-entry");
    expect.is(report, "/flows/0/reason", reason);
    expect.is(report, "/flows/0/reset_by", "gateway-stack");
    expect.is(report, "/flows/0/resets", 1);
    expect.is(report, "/flows/0/netns", lab.gateway.inode()?);
    // A connection that was closed before has nothing left to lose.
    expect.is(report, "/summary/flows_reset", u64::from(how != How::Close));
    if how == How::BeforeStart {
        expect.is(report, "/flows/0/confidence", "inferred");
    } else {
        expect.is(report, "/flows/0/confidence", "proven");
        expect.is(report, "/flows/0/client", connection.client_address.to_string());
        expect.is(report, "/flows/0/nat", connection.nat_address.to_string());
        expect.is(report, "/flows/0/server", connection.server_address.to_string());
        expect.is(report, "/flows/0/service", Value::Null);
        expect.is(report, "/flows/0/chain/0/step", "entry-destroyed");
        expect.is(report, "/flows/0/chain/0/how", reason);
        expect.is(report, "/flows/0/chain/1/step", "nat-skipped");
        expect.is(report, "/flows/0/chain/1/nfct", if loose { "new" } else { "none" });
        let process = match how {
            How::Delete | How::Flush => Value::from("conntrack"),
            _ => Value::Null,
        };
        let named = &report["flows"][0]["chain"][0]["process"];
        expect.that(named.get("name").unwrap_or(&Value::Null) == &process, || format!("deleted by {named}"));
    }
    captured.replay()?;
    expect.verdict()
}

/// The server closes a connection that the gateway has forgotten before whyrst was started: a FIN cannot open one. 5.10 to
/// 6.6 refuse it without a word.
pub(super) fn fin(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let mut connection = Connection::open(&lab, server(443))?;
    lab.gateway.run(&["conntrack", "-F"])?;
    wait_without_entries(&lab)?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    connection.server.shutdown(Shutdown::Write)?;
    connection.reset_to_server()?;
    let error = Connection::error_of(&mut connection.server)?;
    context.step(format!("the server closes: {error}"));
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    expect.that(error == ErrorKind::ConnectionReset, || format!("the server saw {error}"));
    let report = &captured.report;
    expect.is(report, "/flows/0/cause", "invalid-state");
    expect.is(report, "/flows/0/reason", "invalid-new");
    expect.is(report, "/flows/0/reset_by", "gateway-stack");
    expect.is(report, "/summary/resets_sent", 1);
    captured.replay()?;
    expect.verdict()
}

/// With `--new-refused` a silent refusal is seen, not concluded; where the kernel says so too, it is counted once.
pub(super) fn new_refused(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    lab.gateway.sysctl("net.netfilter.nf_conntrack_tcp_loose", "0")?;
    let mut speaker = Connection::open(&lab, server(443))?;
    lab.gateway.run(&["conntrack", "-F"])?;
    wait_without_entries(&lab)?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &["--new-refused"])?;
    speaker.server.write_all(b"who knows me?")?;
    speaker.reset_to_server()?;
    let error = Connection::error_of(&mut speaker.server)?;
    context.step(format!("the server speaks: {error}"));
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    expect.that(error == ErrorKind::ConnectionReset, || format!("the server saw {error}"));
    let report = &captured.report;
    let flows = report["flows"].as_array().map_or(0, Vec::len);
    expect.that(flows == 1, || format!("{flows} flows are named"));
    expect.is(report, "/flows/0/cause", "no-entry");
    expect.is(report, "/flows/0/reason", "never-seen");
    expect.is(report, "/flows/0/confidence", "proven");
    expect.is(report, "/flows/0/reset_by", "gateway-stack");
    expect.is(report, "/flows/0/invalid_packets", 1);
    expect.is(report, "/flows/0/resets", 1);
    expect.is(report, "/flows/0/chain/0/step", "conntrack-invalid");
    expect.is(report, "/flows/0/chain/0/hook", "new-refused");
    captured.replay()?;
    expect.verdict()
}

/// Waits until the gateway has no entry any more. Listing the entries lets the kernel notice which have expired.
pub(super) fn wait_without_entries(lab: &Lab) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        let entries = lab.gateway.run(&["conntrack", "-L", "-p", "tcp"])?;
        if !entries.lines().any(|line| line.starts_with("tcp")) {
            return Ok(());
        }
    }
    bail!("the entry is still there")
}
