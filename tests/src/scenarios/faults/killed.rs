//! SIGKILL at every stage of whyrst's life: the kernel takes everything back.

use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;

use super::super::Context;
use super::super::connection::Connection;
use super::leftovers::Leftovers;
use super::{hits, report};
use crate::expect::Expect;
use crate::topology::{Lab, Nat, server};
use crate::whyrst::Capture;
use crate::wire::PATIENCE;

/// `--log debug` prints a line for each program that is loaded and attached; it is killed after so many of them.
const LINES: [usize; 3] = [1, 4, 8];

pub(in super::super) fn run(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let before = Leftovers::now(&lab.gateway)?;
    let start = |arguments: &[&str]| Capture::spawn(Some(&lab.gateway), &context.artifacts, arguments);
    let no_leftovers = |what: &str| Leftovers::come_back_to(&before, &lab.gateway).with_context(|| what.to_owned());

    start(&["--tap"])?.kill()?;
    no_leftovers("killed as soon as it was started")?;
    for lines in LINES {
        let mut capture = start(&["--tap", "--new-refused", "--log", "debug"])?;
        for _ in 0..lines {
            capture.wait_for("instructions verified")?;
        }
        let said = capture.kill()?;
        let attached = said.matches("instructions verified").count();
        context.step(format!("killed with {attached} programs attached"));
        no_leftovers("killed while it attached")?;
    }
    // While it captures and records. What it has been given is in the recording, up to the last second.
    let mut capture = start(&["--tap"])?;
    capture.wait_for("listening to")?;
    let mut connection = Connection::open(&lab, server(443))?;
    connection.is_reset()?;
    let recording = context.artifacts.join("incident.whyrst").display().to_string();
    recorded(&recording)?;
    capture.kill()?;
    no_leftovers("killed while it captured")?;
    let (replayed, said) = report(&recording)?;
    let mut expect = Expect::new();
    expect.is(&replayed, "/flows/0/client", connection.client_address.to_string());
    expect.is(&replayed, "/findings/0/id", "recording-damaged");
    expect.that(said.contains("the recorder was killed"), || said.clone());

    // While it asks what became of the connection: its programs are unloaded by then, and it still runs.
    let mut capture = start(&[])?;
    capture.wait_for("listening to")?;
    Connection::open(&lab, server(443))?.is_reset()?;
    capture.signal(Signal::INT)?;
    let began = Instant::now();
    while !Leftovers::has_programs_of(&before)? {
        if began.elapsed() > PATIENCE {
            bail!("the programs stay after SIGINT");
        }
    }
    capture.kill()?;
    no_leftovers("killed while it asked its last questions")?;
    context.step("killed at the end");
    expect.verdict()
}

/// Waits until the recording has the reset.
fn recorded(path: &str) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        let (report, _) = report(path)?;
        if report["flows"][0]["resets"] == 1 && hits(&report, "tcp_v4_send_reset") > 0 {
            return Ok(());
        }
    }
    bail!("the reset never came into the recording")
}
