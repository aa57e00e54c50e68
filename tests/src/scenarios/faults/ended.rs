//! Signals that end a recording: whichever it is, the file is whole.

use std::process::Command;

use anyhow::Result;
use rustix::process::Signal;

use super::super::Context;
use super::super::connection::Connection;
use super::report;
use crate::expect::Expect;
use crate::topology::{Lab, Nat, server};
use crate::whyrst::{BINARY, Capture};

pub(in super::super) fn run(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let mut expect = Expect::new();
    for (name, signal) in [("int", Signal::INT), ("term", Signal::TERM), ("hup", Signal::HUP)] {
        let path = context.artifacts.join(format!("{name}.whyrst"));
        let capture = Capture::record(&path, &[])?;
        // A closed pipe is nothing that whyrst would notice before it writes to one.
        capture.signal(Signal::PIPE)?;
        let mut connection = Connection::open(&lab, server(443))?;
        connection.is_reset()?;
        capture.signal(signal)?;
        let (status, said) = capture.fails()?;
        context.step(format!("SIG{}: {status:?}", name.to_uppercase()));
        expect.that(status == Some(0), || format!("{name}: status {status:?}: {said}"));
        whole(&mut expect, &path.display().to_string(), &connection)?;
    }

    // Somebody who has it ignore SIGHUP, as `nohup` does, wants it to go on.
    let path = context.artifacts.join("nohup.whyrst");
    let line = format!("trap '' HUP; exec {BINARY} record -o {}", path.display());
    let capture = Capture::listening(Command::new("/bin/sh").args(["-c", &line]), path.clone(), path.clone())?;
    capture.signal(Signal::HUP)?;
    let mut connection = Connection::open(&lab, server(443))?;
    connection.is_reset()?;
    capture.stop_recording()?;
    whole(&mut expect, &path.display().to_string(), &connection)?;
    context.step("ignored, SIGHUP changes nothing");
    expect.verdict()
}

/// The recording was closed, and has the connection.
fn whole(expect: &mut Expect, path: &str, connection: &Connection) -> Result<()> {
    let (report, said) = report(path)?;
    expect.is(&report, "/flows/0/client", connection.client_address.to_string());
    expect.is(&report, "/flows/0/cause", "out-of-window");
    expect.that(!said.contains("only"), || format!("{path}: {said}"));
    let findings = report["findings"].as_array().into_iter().flatten();
    let damaged =
        findings.filter(|finding| finding["id"].as_str().is_some_and(|id| id.starts_with("recording"))).count();
    expect.that(damaged == 0, || format!("{path} is not whole"));
    Ok(())
}
