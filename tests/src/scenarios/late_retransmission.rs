//! The incident that whyrst was made for.
//!
//! A client behind a SNAT gateway downloads a file. A copy of one of the server's segments arrives late: bytes that the
//! client acknowledged long ago. 5.10 and 5.15 find it out of the window, take away its conntrack entry, do not translate
//! it back, and deliver it to the gateway's own stack, which knows no such socket and answers RST. The server's connection
//! dies, and with the client's next acknowledgement the client's. 6.1 and later let the same segment pass.

use std::io::ErrorKind;
use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};

use super::Context;
use super::download::{Download, FILE, keep, lab, old_segment};
use crate::expect::Expect;
use crate::http::Server;
use crate::topology::{CLIENT, Nat, server};
use crate::whyrst::Capture;
use crate::wire::{Segment, Tap, flag};

/// How far the download goes on before the copy is sent: several times the client's window.
const AHEAD: u32 = 300_000;

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let lab = lab(Nat::NftMasquerade)?;
    let web = Server::start(&lab.server, server(80), FILE)?;
    let tap = Tap::open(&lab.server, "s0")?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    context.step("client: wget downloads 2 MB over HTTP through the gateway");
    let started = Instant::now();
    let download = Download::start(&lab, server(80))?;
    let old = old_segment(&tap, server(80), None, AHEAD)?;
    let (received, took) = (lab.client.received("c0")?, started.elapsed());
    let rate = u128::from(received) / took.as_millis().max(1);
    context.step(format!("client: {} kB in {} ms, {rate} kB/s", received / 1000, took.as_millis()));
    let before = highest_end(&tap.segments(), &old);
    tap.send(&old)?;
    context.step(format!("network: a late copy of seq {}..{} arrives at the gateway", old.seq, old.end()));
    let (succeeded, said) = download.end()?;
    let transfer = web.transfer()?;
    context.step(format!("client: wget {}: {said}", if succeeded { "succeeds" } else { "fails" }));
    context.step(match &transfer.error {
        Some(error) => format!("server: {error}, after {} of {} bytes", transfer.sent, FILE.size),
        None => format!("server: sent all {} bytes", transfer.sent),
    });
    keep(&context.artifacts, "wget.txt", &said)?;
    let captured = capture.stop()?;
    let after = highest_end(&tap.segments(), &old);

    let mut expect = Expect::new();
    let report = &captured.report;
    expect.is(report, "/host/log_format", context.log_format);
    let flows = report["flows"].as_array().map_or(0, Vec::len);
    expect.that(flows == 1, || format!("{flows} flows are named"));
    let client = report["flows"][0]["client"].as_str().unwrap_or_default().to_owned();
    expect.that(client.starts_with(&format!("{CLIENT}:")), || format!("the client is {client}"));
    expect.is(report, "/flows/0/nat", old.dst.to_string());
    expect.is(report, "/flows/0/server", old.src.to_string());
    expect.is(report, "/flows/0/cause", "out-of-window");
    expect.is(report, "/flows/0/reason", "seq-under");
    expect.is(report, "/flows/0/confidence", "proven");
    expect.is(report, "/flows/0/chain/0/packet/seq", old.seq);
    expect.is(report, "/flows/0/chain/0/packet/seq_end", old.end());
    expect.is(report, "/flows/0/chain/0/packet/ack", old.ack);
    expect.is(report, "/flows/0/chain/0/packet/payload_len", old.len);
    expect.is(report, "/flows/0/window/failed", "II");
    expect.is(report, "/flows/0/window/value", old.end());
    window(&mut expect, report, &old, [before, after]);
    let resets = resets(&tap.segments(), &old);
    if context.refuses_everything() {
        expect.that(!succeeded && said.contains("reset by peer"), || format!("wget: {said}"));
        let error = transfer.error.as_ref().map(std::io::Error::kind);
        expect.that(error == Some(ErrorKind::ConnectionReset), || format!("the server saw {error:?}"));
        expect.that(resets.first().is_some_and(|reset| reset.seq == old.ack), || {
            format!("the RSTs to the server have seq {:?}", resets.iter().map(|reset| reset.seq).collect::<Vec<_>>())
        });
        reset_proven(&mut expect, report);
    } else {
        expect.that(succeeded, || format!("wget failed: {said}"));
        expect.that(transfer.error.is_none(), || format!("the server saw {:?}", transfer.error));
        expect.that(resets.is_empty(), || format!("{} RSTs were sent to the server", resets.len()));
        accepted(&mut expect, report);
    }
    captured.replay()?;
    expect.verdict()
}

/// On 5.10: the copy was refused, not translated, answered with RST, and both ends died of it.
fn reset_proven(expect: &mut Expect, report: &Value) {
    expect.is(report, "/flows/0/reset_by", "gateway-stack");
    expect.is(report, "/flows/0/reset_effect", "kills");
    expect.is(report, "/flows/0/invalid_packets", 1);
    expect.is(report, "/flows/0/ignored_packets", 0);
    expect.is(report, "/flows/0/resets", 1);
    expect.is(report, "/summary/flows_reset", 1);
    expect.is(report, "/summary/by_cause", json!({ "out-of-window": 1 }));
    expect.is(report, "/flows/0/mitigations", json!(["upgrade-kernel", "drop-invalid-input", "be-liberal"]));
    let steps: Vec<&str> =
        report["flows"][0]["chain"].as_array().into_iter().flatten().filter_map(|step| step["step"].as_str()).collect();
    let expected = ["conntrack-invalid", "nat-skipped", "reset-sent"];
    expect.that(steps.starts_with(&expected), || format!("the chain is {steps:?}"));
    expect.that(steps.last() == Some(&"peer-reset-forwarded"), || format!("the chain is {steps:?}"));
    let excluded: Vec<&str> = report["flows"][0]["excluded"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|excluded| excluded["cause"].as_str())
        .collect();
    for cause in ["reject-rule", "local-socket", "no-entry", "no-listener", "table-full", "peer-reset"] {
        expect.that(excluded.contains(&cause), || format!("{cause} is not excluded: {excluded:?}"));
    }
}

/// On 6.1 and later: the copy was remarked on and let pass, and nothing else happened.
fn accepted(expect: &mut Expect, report: &Value) {
    expect.is(report, "/flows/0/reset_by", Value::Null);
    expect.is(report, "/flows/0/invalid_packets", 0);
    expect.is(report, "/flows/0/ignored_packets", 1);
    expect.is(report, "/flows/0/resets", 0);
    expect.is(report, "/summary/flows_reset", 0);
    expect.is(report, "/summary/resets_sent", 0);
    expect.is(report, "/summary/ignored_packets", 1);
    expect.is(report, "/capture/events", 1);
    expect.steps(report, &["conntrack-ignored"]);
    // The kernel gives the bound, and it is the one that follows from the entry.
    expect.is(report, "/flows/0/window/source", "entry-and-kernel");
}

/// The window as the tap saw it: what the server had sent when the copy arrived lies between `sent`, and the client's
/// largest window is known.
fn window(expect: &mut Expect, report: &Value, old: &Segment, sent: [u32; 2]) {
    let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    let (Some(bound), Some(distance), Some(td_end), Some(td_maxwin)) = (
        number("/flows/0/window/bound"),
        number("/flows/0/window/distance_bytes"),
        number("/flows/0/window/sender/td_end"),
        number("/flows/0/window/receiver/td_maxwin"),
    ) else {
        expect.that(false, || "the window is not explained".to_owned());
        return;
    };
    expect.that(bound == td_end.wrapping_sub(td_maxwin), || format!("{bound} is not {td_end} - {td_maxwin}"));
    expect.that(distance == bound.wrapping_sub(old.end()), || format!("{distance} is not {bound} - {}", old.end()));
    let within = td_end.wrapping_sub(sent[0]).cast_signed() >= 0 && sent[1].wrapping_sub(td_end).cast_signed() >= 0;
    expect.that(within, || format!("server.td_end {td_end} is not between {} and {}", sent[0], sent[1]));
}

fn highest_end(segments: &[Segment], old: &Segment) -> u32 {
    let of_server = segments.iter().filter(|segment| segment.src == old.src && segment.dst == old.dst);
    of_server.map(Segment::end).fold(
        old.end(),
        |highest, end| {
            if end.wrapping_sub(highest).cast_signed() > 0 { end } else { highest }
        },
    )
}

fn resets(segments: &[Segment], old: &Segment) -> Vec<Segment> {
    let to_server = |segment: &&Segment| segment.dst == old.src && segment.src == old.dst && segment.has(flag::RST);
    segments.iter().filter(to_server).cloned().collect()
}
