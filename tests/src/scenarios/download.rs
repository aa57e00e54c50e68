//! Downloads with wget through the gateway.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::Context;
use crate::expect::Expect;
use crate::http::{File, Server};
use crate::netns::IP;
use crate::topology::{CLIENT, Lab, NAT, Nat, server};
use crate::whyrst::Capture;
use crate::wire::{Segment, Tap, flag};

/// Two megabytes as fast as the client takes them. With a client that is [`DISTANCE`] away and has a small window that is
/// about two seconds: long enough to be disturbed, short enough for an emulated machine.
pub(super) const FILE: File = File { size: 2_000_000, chunk: 10_000, pause: Duration::ZERO };
/// How far away the client is, in milliseconds.
pub(super) const DISTANCE: u32 = 20;

/// A lab for downloads that take a while.
pub(super) fn lab(nat: Nat) -> Result<Lab> {
    let lab = Lab::build(nat)?;
    lab.small_client_window()?;
    lab.distant_client(DISTANCE)?;
    Ok(lab)
}

/// A download in progress.
pub(super) struct Download {
    child: Child,
}

impl Download {
    /// Starts wget in the client's namespace.
    pub(super) fn start(lab: &Lab, from: SocketAddr) -> Result<Self> {
        let child = Command::new(IP)
            .args(["netns", "exec", lab.client.name(), "/bin/busybox"])
            // A download that hangs is a failure, not a reason to wait.
            .args(["timeout", "20", "/bin/busybox", "wget", "-O", "/dev/null"])
            .arg(format!("http://{from}/file"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting wget")?;
        Ok(Self { child })
    }

    /// Waits for its end: whether it succeeded, and the last line that it printed.
    pub(super) fn end(self) -> Result<(bool, String)> {
        let output = self.child.wait_with_output().context("waiting for wget")?;
        let text = String::from_utf8_lossy(&output.stderr).replace('\r', "\n");
        Ok((output.status.success(), text.lines().next_back().unwrap_or_default().trim().to_owned()))
    }
}

/// Waits for a data segment of the download to `client` and then until `ahead` more bytes have followed it.
pub(super) fn old_segment(tap: &Tap, from: SocketAddr, client: Option<SocketAddr>, ahead: u32) -> Result<Segment> {
    let data = |segment: &&Segment| {
        segment.src == from && segment.len >= 500 && client.is_none_or(|client| segment.dst == client)
    };
    let old = tap.wait("a data segment", |segments| segments.iter().find(data).cloned())?;
    tap.wait("the download to go on", |segments| {
        let later = |segment: &Segment| segment.seq.wrapping_sub(old.end()).cast_signed() > ahead.cast_signed();
        segments.iter().any(|segment| segment.dst == old.dst && data(&segment) && later(segment)).then_some(())
    })?;
    Ok(old)
}

/// A download that nothing happens to: no flow is named, and not one event was needed to know it.
pub(super) fn clean(context: &Context<'_>) -> Result<()> {
    let lab = lab(Nat::NftMasquerade)?;
    let web = Server::start(&lab.server, server(80), FILE)?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &["--fail-on", "out-of-window,unknown"])?;
    let (succeeded, said) = Download::start(&lab, server(80))?.end()?;
    let transfer = web.transfer()?;
    let captured = capture.stop()?;
    context.step(format!("wget: {said}; the server sent {} bytes", transfer.sent));

    let mut expect = Expect::new();
    expect.that(succeeded, || format!("wget failed: {said}"));
    expect.that(transfer.error.is_none(), || format!("the server saw {:?}", transfer.error));
    let report = &captured.report;
    expect.is(report, "/flows", Value::Array(Vec::new()));
    expect.is(report, "/capture/events", 0);
    expect.is(report, "/summary/flows_reset", 0);
    // A destroyed entry is no packet: its hook runs once per connection, here for one of an earlier lab.
    let of_packets = |hook: &&Value| hook["hook"] != "entry-destroyed";
    let hits: Vec<&Value> = report["capture"]["hooks"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(of_packets)
        .map(|hook| &hook["hits"])
        .collect();
    expect.that(hits.iter().all(|hits| **hits == 0), || format!("BPF programs ran for valid packets: {hits:?}"));
    captured.replay()?;
    expect.verdict()
}

/// Two downloads at once, of which one is disturbed.
pub(super) fn two_flows(context: &Context<'_>) -> Result<()> {
    let lab = lab(Nat::IptablesSnat)?;
    let web = Server::start(&lab.server, server(80), FILE)?;
    let tap = Tap::open(&lab.server, "s0")?;
    let capture = Capture::start(None, &context.artifacts, &[])?;
    let downloads = [Download::start(&lab, server(80))?, Download::start(&lab, server(80))?];
    // The victim is the first that sends data; both must be under way.
    let clients = tap.wait("two downloads", |segments| {
        let mut clients: Vec<SocketAddr> =
            segments.iter().filter(|segment| segment.src == server(80) && segment.len > 0).map(|s| s.dst).collect();
        clients.dedup();
        clients.sort_unstable();
        clients.dedup();
        (clients.len() == 2).then_some(clients)
    })?;
    let victim = clients[0];
    let seen = tap.segments();
    let last = seen.iter().rfind(|segment| segment.src == server(80) && segment.dst == victim && segment.len > 0);
    let last = last.context("the victim has no data segment")?;
    let far = last.forge(last.end().wrapping_add(30_000_000), last.ack, flag::ACK, &[b'!'; 100])?;
    tap.send(&far)?;
    context.step(format!("a segment far beyond the window is sent to {victim}"));

    let ends = downloads.into_iter().map(Download::end).collect::<Result<Vec<_>>>()?;
    let transfers = [web.transfer()?, web.transfer()?];
    let captured = capture.stop()?;
    for (succeeded, said) in &ends {
        context.step(format!("wget {}: {said}", if *succeeded { "succeeded" } else { "failed" }));
    }

    let mut expect = Expect::new();
    let failed = ends.iter().filter(|(succeeded, _)| !succeeded).count();
    expect.that(failed == 1, || format!("{failed} downloads failed"));
    let errors: BTreeMap<SocketAddr, Option<std::io::ErrorKind>> =
        transfers.iter().map(|transfer| (transfer.client, transfer.error.as_ref().map(std::io::Error::kind))).collect();
    for (client, error) in &errors {
        let expected = (*client == victim).then_some(std::io::ErrorKind::ConnectionReset);
        expect.that(*error == expected, || format!("the server saw {error:?} from {client}"));
    }
    let report = &captured.report;
    let named = report["flows"].as_array().map_or(0, Vec::len);
    expect.that(named == 1, || format!("{named} flows are named"));
    expect.is(report, "/flows/0/nat", victim.to_string());
    expect.is(report, "/flows/0/cause", "out-of-window");
    expect.is(report, "/flows/0/reason", "seq-over");
    expect.is(report, "/flows/0/reset_by", "gateway-stack");
    expect.is(report, "/summary/flows_reset", 1);
    let client = report["flows"][0]["client"].as_str().unwrap_or_default();
    expect.that(client.starts_with(&format!("{CLIENT}:")), || format!("the client is {client}"));
    expect.that(victim.ip() == NAT, || format!("the server saw {victim}, untranslated"));
    captured.replay()?;
    expect.verdict()
}

/// Writes what wget printed where people look for it.
pub(super) fn keep(artifacts: &Path, name: &str, text: &str) -> Result<()> {
    let path = artifacts.join(name);
    if let Err(error) = std::fs::write(&path, text) {
        bail!("writing {}: {error}", path.display());
    }
    Ok(())
}
