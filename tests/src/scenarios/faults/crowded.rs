//! Two whyrst at once: neither takes anything from the other.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::super::Context;
use super::super::connection::Connection;
use super::super::mitigations::{incident, state, unchanged};
use super::super::reported::{SEQ_OVER, Who};
use super::leftovers::Leftovers;
use crate::expect::Expect;
use crate::topology::{Lab, Nat, server};
use crate::whyrst::{BINARY, Capture, run as whyrst};

/// One begins and ends while the other captures; each reports what happened during its own capture.
pub(in super::super) fn two(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let other = context.artifacts.join("other");
    fs::create_dir_all(&other)?;
    let before = Leftovers::now(&lab.gateway)?;
    let long = Capture::start(Some(&lab.gateway), &context.artifacts, &["--tap", "--new-refused"])?;
    let mut first = Connection::open(&lab, server(443))?;
    first.is_reset()?;
    let short = Capture::start(Some(&lab.gateway), &other, &["--tap", "--new-refused"])?;
    let mut second = Connection::open(&lab, server(443))?;
    second.is_reset()?;
    let short = short.stop()?;
    let mut third = Connection::open(&lab, server(443))?;
    third.is_reset()?;
    let long = long.stop()?;
    let mut expect = Expect::new();
    for (captured, expected, count) in [(&long, [&first, &second, &third].as_slice(), 3), (&short, &[&second], 1)] {
        expect.is(&captured.report, "/summary/flows_reset", count);
        expect.is(&captured.report, "/capture/events_lost", 0);
        for connection in expected {
            Who::of(connection, &lab.gateway)?.is_reported(&mut expect, &captured.report, &SEQ_OVER);
        }
        captured.replay()?;
    }
    context.step("one reports three connections, the other one");
    Leftovers::come_back_to(&before, &lab.gateway)?;
    expect.verdict()
}

/// Two processes apply the same mitigation at once: one succeeds, and one undo reverts it.
pub(in super::super) fn two_mitigations(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let captured = incident(context, &lab)?;
    let before = state(&lab.gateway)?;
    let recording = captured.recording.display().to_string();
    let journal = context.artifacts.join("journal").display().to_string();
    let arguments = ["mitigate", "drop-invalid-input", "--state-dir", &journal, "--from", &recording];
    let apply = || {
        Command::new(BINARY)
            .args(arguments)
            .args(["--apply", "--yes", "--watch", "0", "--format", "json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting whyrst")
    };
    let both = [apply()?, apply()?];
    let mut expect = Expect::new();
    let (mut applied, mut refused) = (0, 0);
    for child in both {
        let output = child.wait_with_output().context("waiting for whyrst")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            Some(0) => {
                applied += 1;
                let document: Value = serde_json::from_slice(&output.stdout).context("the answer is no JSON")?;
                expect.is(&document, "/outcome/state", "applied");
            }
            Some(2) => {
                refused += 1;
                context.step(said.trim().to_owned());
            }
            status => expect.that(false, || format!("status {status:?}: {said}")),
        }
    }
    expect.that((applied, refused) == (1, 1), || format!("{applied} applied it, {refused} did not"));
    let rules = lab.gateway.run(&["nft", "list", "ruleset"])?;
    let times = rules.matches("ct state invalid").count();
    expect.that(times == 1, || format!("the rule is there {times} times:\n{rules}"));
    let undo = ["mitigate", "drop-invalid-input", "--state-dir", &journal, "--undo", "--yes"];
    let (status, _, said) = whyrst(&undo)?;
    expect.that(status == Some(0), || format!("--undo: {status:?}: {said}"));
    unchanged(&mut expect, &before, &state(&lab.gateway)?);
    expect.verdict()
}
