//! Three recordings of the same incidents: in one file, in many, and in as many as a small disk holds.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Signal;
use serde_json::Value;

use super::Context;
use super::connection::Connection;
use crate::expect::Expect;
use crate::topology::{Lab, Nat, server};
use crate::whyrst::{Capture, run as whyrst};

/// Connections that are reset.
pub(super) const VICTIMS: usize = 40;
/// The smallest files that there are.
const SIZE: &str = "16KiB";
/// The small disk.
const DISK: &str = "/tmp/small";

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let parts = context.artifacts.join("parts");
    fs::create_dir_all(&parts).with_context(|| format!("creating {}", parts.display()))?;
    let disk = Disk::mount()?;
    let one = Capture::start(None, &context.artifacts, &[])?;
    let many = Capture::start(None, &parts, &["--rotate", SIZE, "--keep", "99"])?;
    let small = Capture::record(&Path::new(DISK).join("r.whyrst.zst"), &["--rotate", SIZE, "--keep", "999"])?;
    for victim in 0..VICTIMS {
        Connection::open(&lab, server(443))?.is_reset().with_context(|| format!("connection {victim}"))?;
        if victim == VICTIMS / 2 {
            many.signal(Signal::HUP)?;
        }
        small.signal(Signal::HUP)?;
    }
    context.step(format!("{VICTIMS} connections were reset"));
    let said = small.stop_recording()?;
    let mut many = many.stop()?;
    let one = one.stop()?;

    let mut expect = Expect::new();
    let files = recordings(&parts)?;
    context.step(format!("{} files", files.len()));
    expect.that(files.len() >= 5, || format!("only {} files", files.len()));
    // All files together are the capture: the report is the same in every word.
    many.recording.clone_from(&parts);
    many.replay()?;
    one.replay()?;
    same(&mut expect, &one.report, &many.report);
    apart(&mut expect, &many.report, &files)?;
    shrunk(context, &mut expect, &one.report, &said)?;
    drop(disk);
    expect.verdict()
}

/// Two whyrst that ran at the same time counted the same.
fn same(expect: &mut Expect, one: &Value, many: &Value) {
    expect.is(many, "/summary", one["summary"].clone());
    expect.is(many, "/capture/events", one["capture"]["events"].clone());
    expect.is(many, "/capture/events_lost", 0);
    expect.that(counters(one) == counters(many), || format!("{:?} against {:?}", counters(one), counters(many)));
    let (one, many) = (timeless(one), timeless(many));
    expect.that(one == many, || format!("the flows are {one:?} and {many:?}"));
}

/// Each file by itself is a report, and what all count is what was counted.
fn apart(expect: &mut Expect, whole: &Value, files: &[PathBuf]) -> Result<()> {
    let (mut hits, mut events) = (vec![0; counters(whole).len()], 0);
    for (number, file) in files.iter().enumerate() {
        let report = report(file)?;
        for (sum, (_, count)) in hits.iter_mut().zip(counters(&report)) {
            *sum += count;
        }
        events += report["capture"]["events"].as_u64().unwrap_or_default();
        let gap = report["findings"].as_array().into_iter().flatten().any(|finding| finding["id"] == "recording-gap");
        expect.that(gap, || format!("file {number} does not say that it is not all"));
        for flow in report["flows"].as_array().into_iter().flatten() {
            let cause = flow["cause"].as_str().unwrap_or_default();
            let honest = matches!(cause, "out-of-window" | "unknown") || flow["reset_by"].is_null();
            expect.that(honest, || format!("file {number} says {cause} of {}", flow["client"]));
        }
    }
    let counted: Vec<u64> = counters(whole).into_iter().map(|(_, count)| count).collect();
    expect.that(hits == counted, || format!("the files count {hits:?}, together {counted:?}"));
    expect.is(whole, "/capture/events", events);
    Ok(())
}

/// The small disk has the newest files, and they can be read.
fn shrunk(context: &Context<'_>, expect: &mut Expect, whole: &Value, said: &str) -> Result<()> {
    let files = recordings(Path::new(DISK))?;
    context.step(format!("the small disk holds {} files", files.len()));
    expect.that(said.contains("the disk is full"), || said.to_owned());
    expect.that((2..VICTIMS).contains(&files.len()), || format!("{} files are left", files.len()));
    let report = report(Path::new(DISK))?;
    let (left, all) = (timeless(&report), timeless(whole));
    expect
        .that(!left.is_empty() && left.len() < all.len(), || format!("{} of {} flows are left", left.len(), all.len()));
    expect.that(left.last() == all.last(), || format!("the last flow is {:?}, not {:?}", left.last(), all.last()));
    Ok(())
}

fn report(from: &Path) -> Result<Value> {
    let from = from.display().to_string();
    let (status, stdout, stderr) = whyrst(&["report", "--format", "json", "--from", &from])?;
    ensure!(status == Some(0), "report --from {from}: {status:?}: {stderr}");
    serde_json::from_str(&stdout).context("the report is no JSON")
}

/// How often each hook was hit.
fn counters(report: &Value) -> Vec<(String, u64)> {
    let hooks = report["capture"]["hooks"].as_array().into_iter().flatten();
    hooks.map(|hook| (hook["hook"].to_string(), hook["hits"].as_u64().unwrap_or_default())).collect()
}

/// The flows in the order of time, without their times: each whyrst takes its own.
fn timeless(report: &Value) -> Vec<Vec<Value>> {
    let mut flows: Vec<&Value> = report["flows"].as_array().into_iter().flatten().collect();
    flows.sort_by_key(|flow| flow["first"].to_string());
    let of = |flow: &Value| {
        let keys = ["client", "nat", "server", "cause", "reason", "confidence", "reset_by", "reset_effect", "resets"];
        keys.map(|key| flow[key].clone()).to_vec()
    };
    flows.into_iter().map(of).collect()
}

/// The recordings in a directory.
fn recordings(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.contains(".whyrst") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// A disk of 48 KiB.
struct Disk;

impl Disk {
    fn mount() -> Result<Self> {
        fs::create_dir_all(DISK).with_context(|| format!("creating {DISK}"))?;
        let options = c"size=48k";
        mount("small", DISK, "tmpfs", MountFlags::empty(), options).with_context(|| format!("mounting {DISK}"))?;
        Ok(Self)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = unmount(DISK, UnmountFlags::DETACH) {
            eprintln!("unmounting {DISK}: {error}");
        }
    }
}
