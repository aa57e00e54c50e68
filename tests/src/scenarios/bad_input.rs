//! Where whyrst cannot do what it is asked to: each has its message and its exit status.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Signal;

use super::Context;
use super::connection::Connection;
use crate::command;
use crate::expect::Expect;
use crate::topology::{Lab, Nat, server};
use crate::whyrst::{BINARY, Capture, run};

/// Hides a directory behind an empty one.
pub(super) struct Hidden<'a>(&'a str);

impl<'a> Hidden<'a> {
    pub(super) fn new(path: &'a str) -> Result<Self> {
        mount("tmpfs", path, "tmpfs", MountFlags::empty(), None).with_context(|| format!("hiding {path}"))?;
        Ok(Self(path))
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        if let Err(error) = unmount(self.0, UnmountFlags::empty()) {
            eprintln!("{} stays hidden: {error}", self.0);
        }
    }
}

fn untraceable(arguments: &[&str], expected: &[&str]) -> Result<()> {
    let (status, stdout, stderr) = run(arguments)?;
    let mut expect = Expect::new();
    expect.that(status == Some(3), || format!("exit status {status:?}"));
    expect.that(stdout.is_empty(), || format!("on standard output: {stdout}"));
    for text in expected {
        expect.that(stderr.contains(text), || format!("`{text}` is not in:\n{stderr}"));
    }
    expect.verdict()
}

pub(super) fn no_conntrack(context: &Context<'_>) -> Result<()> {
    if Path::new("/sys/module/nf_conntrack").exists() {
        bail!("nf_conntrack is loaded already; this scenario has to be the first");
    }
    untraceable(&["report", "--duration", "1s"], &["nf_conntrack is not loaded", "--wait"])?;
    context.step("status 3, and --wait is offered");
    let mut capture = Capture::spawn(None, &context.artifacts, &["--wait"])?;
    capture.wait_for("waiting until nf_conntrack is loaded")?;
    command::run("/sbin/modprobe", &["nf_conntrack"])?;
    capture.wait_for("listening to")?;
    let captured = capture.stop()?;
    let mut expect = Expect::new();
    expect.is(&captured.report, "/host/log_format", context.log_format);
    expect.verdict()
}

pub(super) fn not_root(_: &Context<'_>) -> Result<()> {
    let line = format!("{BINARY} report --duration 1s");
    let output = command::output("/bin/busybox", &["su", "nobody", "-s", "/bin/sh", "-c", &line])?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let mut expect = Expect::new();
    expect.that(output.status.code() == Some(3), || format!("{}", output.status));
    for text in ["CAP_BPF, CAP_PERFMON", "run whyrst as root"] {
        expect.that(stderr.contains(text), || format!("`{text}` is not in:\n{stderr}"));
    }
    expect.verdict()
}

pub(super) fn no_btf(_: &Context<'_>) -> Result<()> {
    let _hidden = Hidden::new("/sys/kernel/btf")?;
    untraceable(&["trace"], &["/sys/kernel/btf/vmlinux is missing", "CONFIG_DEBUG_INFO_BTF"])
}

pub(super) fn no_kprobes(_: &Context<'_>) -> Result<()> {
    let _hidden = Hidden::new("/sys/bus/event_source/devices")?;
    untraceable(&["record", "-o", "/tmp/never"], &["this kernel has no kprobes", "--without-kprobes"])?;
    if Path::new("/tmp/never").exists() {
        bail!("a recording was created although nothing can be recorded");
    }
    Ok(())
}

/// A tracepoint has to do, if the kernel has one with enough arguments (6.10 and later).
pub(super) fn without_kprobes(context: &Context<'_>) -> Result<()> {
    let _hidden = Hidden::new("/sys/bus/event_source/devices")?;
    if !context.names_reset_reasons() {
        return untraceable(&["report", "--without-kprobes"], &["it reports all RSTs from Linux 6.10 on"]);
    }
    let lab = Lab::build(Nat::NftMasquerade)?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &["--without-kprobes"])?;
    let connection = Connection::open(&lab, server(443))?;
    connection.tap.send(&connection.far_ahead()?)?;
    connection.reset_to_server()?;
    context.step("a segment far ahead is refused and answered");
    let captured = capture.stop()?;
    let mut expect = Expect::new();
    let report = &captured.report;
    expect.is(report, "/capture/hooks/0/target", "tcp:tcp_send_reset");
    expect.is(report, "/capture/hooks/0/method", "raw-tracepoint");
    expect.is(report, "/findings/0/id", "without-kprobes");
    // The client's namespace and the server's are endpoints that mind their own business.
    let flows = report["flows"].as_array().map_or(0, Vec::len);
    expect.that(flows == 1, || format!("{flows} flows are named"));
    expect.is(report, "/flows/0/cause", "unknown");
    expect.is(report, "/flows/0/confidence", "inferred");
    expect.is(report, "/flows/0/reset_by", "gateway-stack");
    expect.is(report, "/flows/0/client", connection.client_address.to_string());
    expect.is(report, "/flows/0/nat", connection.nat_address.to_string());
    captured.replay()?;
    expect.verdict()
}

/// `/dev/full` takes nothing, as a full disk does.
pub(super) fn full_disk(context: &Context<'_>) -> Result<()> {
    let mut expect = Expect::new();
    for arguments in [
        ["report", "--duration", "1s", "-o", "/dev/full"],
        ["record", "--duration", "1s", "-o", "/dev/full"],
        ["report", "--duration", "1s", "--record", "/dev/full"],
    ] {
        let (status, _, stderr) = run(&arguments)?;
        context.step(format!("{}: {}", arguments.join(" "), stderr.trim()));
        expect.that(status == Some(2), || format!("{}: exit status {status:?}", arguments.join(" ")));
        for text in ["/dev/full", "No space left on device"] {
            expect.that(stderr.contains(text), || format!("`{text}` is not in:\n{stderr}"));
        }
    }
    expect.verdict()
}

pub(super) fn signals(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let captured = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?.stop_by(Signal::TERM)?;
    let mut expect = Expect::new();
    expect.is(&captured.report, "/schema", "whyrst.report.v1");
    expect.is(&captured.report, "/capture/source", "live");
    context.step("SIGTERM: the report is there");

    // A pipe that nobody reads is closed at the first write.
    let mut child = Command::new(BINARY)
        .args(["report", "--duration", "1s"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("starting whyrst")?;
    drop(child.stdout.take());
    let status = child.wait().context("waiting for whyrst")?;
    expect.that(status.code() == Some(0), || format!("with a closed pipe: {status}"));

    let (status, stdout, _) = run(&["report", "--duration", "1s", "--quiet"])?;
    expect.that(status == Some(0), || format!("exit status {status:?}"));
    expect.that(stdout.contains("Nothing was reset"), || stdout.clone());
    expect.verdict()
}

pub(super) fn lockdown(context: &Context<'_>) -> Result<()> {
    let path = "/sys/kernel/security/lockdown";
    fs::write(path, "confidentiality").with_context(|| format!("writing {path}"))?;
    context.step("the kernel is locked down");
    untraceable(&["report"], &["confidentiality mode"])
}
