//! What can become of the files that whyrst writes while it writes them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Signal;
use serde_json::Value;

use super::super::Context;
use super::super::connection::Connection;
use super::report;
use crate::command;
use crate::expect::Expect;
use crate::protocol::DISK;
use crate::topology::{Lab, Nat, server};
use crate::whyrst::{BINARY, Capture};
use crate::wire::PATIENCE;

/// A file system that is taken away again.
struct Disk(&'static str);

impl Disk {
    fn mount(source: &str, at: &'static str, kind: &str, options: Option<&std::ffi::CStr>) -> Result<Self> {
        fs::create_dir_all(at).with_context(|| format!("creating {at}"))?;
        mount(source, at, kind, MountFlags::empty(), options).with_context(|| format!("mounting {at}"))?;
        Ok(Self(at))
    }

    fn file(&self, name: &str) -> PathBuf {
        Path::new(self.0).join(name)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = unmount(self.0, UnmountFlags::empty()) {
            eprintln!("unmounting {}: {error}", self.0);
        }
    }
}

/// The number of flows in the report of a recording.
fn flows(path: &Path) -> Result<usize> {
    let (report, _) = report(&path.display().to_string())?;
    Ok(report["flows"].as_array().map_or(0, Vec::len))
}

/// A capture has failed, and says so with these words.
fn failed(expect: &mut Expect, what: &str, (status, said): &(Option<i32>, String), words: &[&str]) {
    expect.that(*status == Some(2), || format!("{what}: status {status:?}: {said}"));
    for word in words {
        expect.that(said.contains(word), || format!("{what}: `{word}` is not in:\n{said}"));
    }
}

/// One recording in a file that is removed, one in several of which the current one is: the first ends with an error, the
/// second with a gap.
pub(in super::super) fn file_removed(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let several = context.artifacts.join("several");
    fs::create_dir_all(&several)?;
    let moved = context.artifacts.join("moved.whyrst");
    let file = context.artifacts.join("removed.whyrst");
    let one = Capture::record(&file, &[])?;
    let renamed = Capture::record(&context.artifacts.join("before.whyrst"), &[])?;
    let mut many = Capture::record(&several.join("r.whyrst"), &["--rotate", "1MiB"])?;
    let mut before = Connection::open(&lab, server(443))?;
    before.is_reset()?;
    let first = only_file(&several)?;
    fs::remove_file(&file)?;
    fs::remove_file(&first)?;
    fs::rename(context.artifacts.join("before.whyrst"), &moved)?;
    let mut expect = Expect::new();
    let ended = one.fails()?;
    failed(&mut expect, "one file", &ended, &["removed.whyrst", "was removed while it was written"]);
    many.wait_for("another file begins")?;
    // The new file has its name once it can be read.
    let start = Instant::now();
    while fs::read_dir(&several)?.next().is_none() {
        ensure!(start.elapsed() < PATIENCE, "no other file has begun");
    }
    let mut after = Connection::open(&lab, server(443))?;
    after.is_reset()?;
    many.stop_recording()?;
    renamed.stop_recording()?;
    context.step("removed, and another begun");
    let (joined, _) = report(&several.display().to_string())?;
    expect.is(&joined, "/flows/0/client", after.client_address.to_string());
    expect.is(&joined, "/flows/0/cause", "out-of-window");
    let gap = joined["findings"].as_array().into_iter().flatten().any(|finding| finding["id"] == "recording-gap");
    expect.that(gap, || "nothing says that a file is missing".to_owned());
    let all = flows(&moved)?;
    expect.that(all == 2, || format!("the file that was moved has {all} flows"));
    expect.verdict()
}

fn only_file(directory: &Path) -> Result<PathBuf> {
    let mut files = fs::read_dir(directory)?;
    let first = files.next().context("no file")??.path();
    ensure!(files.next().is_none(), "more than one file in {}", directory.display());
    Ok(first)
}

/// The directory goes, with what is in it: nothing can be written there any more. A report that was beside it is made.
pub(in super::super) fn directory_removed(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let directory = context.artifacts.join("directory");
    fs::create_dir_all(&directory)?;
    let many = Capture::record(&directory.join("r.whyrst"), &["--rotate", "1MiB"])?;
    let recording = directory.join("beside.whyrst").display().to_string();
    let (mut beside, output) = beside_a_report(&context.artifacts, &recording)?;
    let mut connection = Connection::open(&lab, server(443))?;
    connection.is_reset()?;
    fs::remove_dir_all(&directory)?;
    let mut expect = Expect::new();
    failed(&mut expect, "several files", &many.fails()?, &["No such file or directory", "directory/r-"]);
    beside.wait_for("continues without its recording")?;
    beside.signal(Signal::INT)?;
    let ended = beside.fails()?;
    failed(&mut expect, "beside a report", &ended, &["beside.whyrst", "was removed while it was written"]);
    let report: Value = serde_json::from_slice(&fs::read(output)?)?;
    expect.is(&report, "/flows/0/client", connection.client_address.to_string());
    context.step("the report is there, the recording is not");
    expect.verdict()
}

/// A report with a recording beside it, and where the report goes.
fn beside_a_report(artifacts: &Path, recording: &str) -> Result<(Capture, PathBuf)> {
    let output = artifacts.join("beside.json");
    let mut command = Command::new(BINARY);
    command.args(["report", "--format", "json", "--record", recording, "-o"]).arg(&output);
    let capture = Capture::listening(&mut command, output.clone(), recording.into())?;
    Ok((capture, output))
}

/// The disk is full in the middle of recordings, plain and compressed: what was written before is there.
pub(in super::super) fn full(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let disk = Disk::mount("small", "/tmp/full", "tmpfs", Some(c"size=64k"))?;
    let mut expect = Expect::new();
    for name in ["plain.whyrst", "compressed.whyrst.zst"] {
        let path = disk.file(name);
        let mut capture = Capture::record(&path, &[])?;
        let mut connection = Connection::open(&lab, server(443))?;
        connection.is_reset()?;
        written(&path)?;
        let filler = disk.file("filler");
        let filled = fs::write(&filler, vec![0; 1 << 20]);
        expect.that(filled.is_err(), || "the disk takes more than it has".to_owned());
        // The file's last page has some room left.
        let mut more = 0;
        while !capture.has_ended()? {
            ensure!(more < 100, "{name}: it goes on, on a full disk");
            Connection::open(&lab, server(443))?.is_reset()?;
            more += 1;
        }
        let ended = capture.fails()?;
        context.step(format!("{name}: {}", ended.1.lines().last().unwrap_or_default()));
        failed(&mut expect, name, &ended, &[name, "No space left on device"]);
        let found = flows(&path)?;
        expect.that(found >= 1, || format!("{name}: nothing is left of what was written"));
        fs::remove_file(filler)?;
        fs::remove_file(path)?;
    }
    expect.verdict()
}

/// Waits until a recording has a flow.
fn written(path: &Path) -> Result<()> {
    let start = Instant::now();
    while flows(path).unwrap_or_default() == 0 {
        ensure!(start.elapsed() < PATIENCE, "nothing comes into {}", path.display());
    }
    Ok(())
}

/// The kernel makes a file system read-only under open files, as it does after an error of the disk (here by `SysRq`). The
/// recordings end with an error; the report, which could only be written at the end, goes to standard output.
pub(in super::super) fn read_only(context: &Context<'_>) -> Result<()> {
    // In the end this disk takes the archive of what the scenarios left, whatever is on it.
    command::run("/bin/mke2fs", &["-F", DISK, "8192"])?;
    let lab = Lab::build(Nat::NftMasquerade)?;
    // The driver for ext4 reads ext2 too.
    let disk = Disk::mount(DISK, "/tmp/disk", "ext2", None)?;
    let one = Capture::record(&disk.file("one.whyrst"), &[])?;
    fs::create_dir_all(disk.file("several"))?;
    let many = Capture::record(&disk.file("several").join("r.whyrst"), &["--rotate", "1MiB"])?;
    let output = disk.file("report.json");
    let kept = context.artifacts.join("stdout.json");
    let child = Command::new(BINARY)
        .args(["report", "--format", "json", "-o"])
        .arg(&output)
        .stdin(Stdio::null())
        .stdout(fs::File::create(&kept)?)
        .stderr(Stdio::piped())
        .spawn()
        .context("starting whyrst")?;
    let mut reporting = Capture::adopt(child, output.clone(), PathBuf::new())?;
    reporting.wait_for("listening to")?;
    let mut connection = Connection::open(&lab, server(443))?;
    connection.is_reset()?;
    written(&disk.file("one.whyrst"))?;
    written(&disk.file("several"))?;
    fs::write("/proc/sysrq-trigger", "u").context("sysrq-trigger")?;
    let start = Instant::now();
    while fs::write(disk.file("probe"), "x").is_ok() {
        ensure!(start.elapsed() < PATIENCE, "the disk stays writable");
    }
    context.step("the disk is read-only");
    Connection::open(&lab, server(443))?.is_reset()?;
    let mut expect = Expect::new();
    let words = ["Read-only file system", "/tmp/disk/"];
    failed(&mut expect, "one file", &one.fails()?, &words);
    failed(&mut expect, "several files", &many.fails()?, &words);
    reporting.signal(Signal::INT)?;
    failed(&mut expect, "report", &reporting.fails()?, &["writing it to standard output", "report.json", words[0]]);
    for path in [disk.file("one.whyrst"), disk.file("several")] {
        let (replayed, _) = report(&path.display().to_string())?;
        expect.is(&replayed, "/flows/0/client", connection.client_address.to_string());
    }
    let live: Value = serde_json::from_slice(&fs::read(kept)?).context("standard output is no report")?;
    expect.is(&live, "/summary/flows_reset", 2);
    expect.verdict()
}
