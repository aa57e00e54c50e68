//! Which capabilities whyrst needs, and which it keeps (docs/security.md).

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::Context;
use super::connection::Connection;
use crate::expect::Expect;
use crate::topology::{Lab, Nat, server};
use crate::whyrst::{Capture, Captured};

const NET_ADMIN: u64 = 1 << 12;
const SYS_ADMIN: u64 = 1 << 21;
const SYSLOG: u64 = 1 << 34;
const PERFMON: u64 = 1 << 38;
const BPF: u64 = 1 << 39;
/// What the thread that asks the kernel keeps: `CAP_DAC_READ_SEARCH`, `CAP_NET_ADMIN`, `CAP_NET_RAW`, `CAP_SYS_PTRACE` and
/// `CAP_SYS_ADMIN`.
const ASKING: u64 = 1 << 2 | NET_ADMIN | 1 << 13 | 1 << 19 | SYS_ADMIN;

/// User nobody with the three capabilities for tracing: the report has the incident, and the entry afterwards.
pub(super) fn few(context: &Context<'_>) -> Result<()> {
    let captured = incident(context, &["cap_39", "cap_38", "cap_12"], BPF | PERFMON | NET_ADMIN)?;
    let mut expect = proven(&captured);
    expect.that(!captured.said.contains("without CAP_NET_ADMIN"), || captured.said.clone());
    let asked = captured.said.contains("without CAP_SYS_ADMIN");
    expect.that(asked, || format!("the missing capability is not named:\n{}", captured.said));
    captured.replay()?;
    expect.verdict()
}

/// User nobody with the two capabilities for hooks: the report still has author and cause, and whyrst names what is missing.
pub(super) fn fewest(context: &Context<'_>) -> Result<()> {
    let captured = incident(context, &["cap_39", "cap_38"], BPF | PERFMON)?;
    let mut expect = proven(&captured);
    expect.that(captured.said.contains("without CAP_NET_ADMIN conntrack's entries"), || captured.said.clone());
    captured.replay()?;
    expect.verdict()
}

/// root: whyrst drops its capabilities once the hooks are attached.
pub(super) fn given_up(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    kept(context, &capture, u64::MAX)?;
    let captured = through(&lab, capture)?;
    let mut expect = proven(&captured);
    expect.that(!captured.said.contains("without CAP_"), || captured.said.clone());
    captured.replay()?;
    expect.verdict()
}

/// An incident, captured by user nobody with these capabilities.
fn incident(context: &Context<'_>, capabilities: &[&str], given: u64) -> Result<Captured> {
    // Before 5.11 maps are charged to this limit, and raising it takes another capability.
    let unlimited = Rlimit { current: None, maximum: None };
    setrlimit(Resource::Memlock, unlimited).context("raising the limit of locked memory")?;
    // 3 is Debian's own: it leaves kprobes to CAP_SYS_ADMIN.
    fs::write("/proc/sys/kernel/perf_event_paranoid", "2").context("letting CAP_PERFMON attach kprobes")?;
    let lab = Lab::build(Nat::NftMasquerade)?;
    fs::set_permissions(&context.artifacts, Permissions::from_mode(0o777)).context("letting nobody write")?;
    let capture = Capture::start_with(&lab.gateway, capabilities, &context.artifacts)?;
    kept(context, &capture, given)?;
    let captured = through(&lab, capture)?;
    private(&captured.recording)?;
    Ok(captured)
}

fn through(lab: &Lab, capture: Capture) -> Result<Captured> {
    let connection = Connection::open(lab, server(443))?;
    connection.tap.send(&connection.far_ahead()?)?;
    connection.reset_to_server()?;
    capture.stop()
}

fn proven(captured: &Captured) -> Expect {
    let mut expect = Expect::new();
    expect.is(&captured.report, "/flows/0/cause", "out-of-window");
    expect.is(&captured.report, "/flows/0/reason", "seq-over");
    expect.is(&captured.report, "/flows/0/confidence", "proven");
    expect.is(&captured.report, "/flows/0/reset_by", "gateway-stack");
    expect
}

/// What the threads still have of what was given: nothing has an effect but in the thread that asks. A kernel before 5.19
/// lets nobody read maps without `CAP_BPF`, where unprivileged BPF is switched off as it is in Debian.
fn kept(context: &Context<'_>, capture: &Capture, given: u64) -> Result<()> {
    let reading = if context.log_format == "e1" { BPF } else { 0 };
    let mut expect = Expect::new();
    let threads = capture.capabilities("CapEff")?;
    context.step(format!("in effect: {threads:x?}"));
    for (name, effective) in threads {
        let expected = match name.as_str() {
            "netns-worker" => ASKING & given,
            "whyrst" => reading,
            _ => 0,
        };
        expect.that(effective == expected, || format!("{name}: {effective:x} is in effect, not {expected:x}"));
    }
    // Where Debian's kernels leave kprobes to the administrator.
    let level = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").context("perf_event_paranoid")?;
    let paranoid = if level.trim().parse::<i32>()? > 2 { SYS_ADMIN } else { 0 };
    let threads = capture.capabilities("CapPrm")?;
    context.step(format!("permitted: {threads:x?}"));
    for (name, permitted) in threads {
        // For hooks whose modules may come.
        let most = match name.as_str() {
            "netns-worker" => ASKING & given,
            "whyrst" => (BPF | PERFMON | SYSLOG | paranoid) & given,
            _ => 0,
        };
        expect.that(permitted & !most == 0, || format!("{name}: {permitted:x} is permitted, {most:x} at most"));
    }
    expect.verdict()
}

/// A recording is for its owner's eyes.
fn private(recording: &Path) -> Result<()> {
    let mode = fs::metadata(recording).context("the recording")?.permissions().mode() & 0o777;
    let mut expect = Expect::new();
    expect.that(mode == 0o600, || format!("the recording has mode {mode:o}"));
    expect.verdict()
}
