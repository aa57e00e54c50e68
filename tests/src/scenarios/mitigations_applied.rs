//! `whyrst mitigate --apply` and `--undo` on an incident: what it does, what it refuses, and what it rolls back by itself.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Context;
use super::mitigations::{incident, state, survives, unchanged};
use crate::expect::Expect;
use crate::topology::{Lab, Nat};
use crate::whyrst::BINARY;

/// An nft that runs a transaction and reports that it failed.
const BROKEN_NFT: &str = "#!/bin/sh\n/usr/sbin/nft \"$@\" || exit\n[ \"$*\" = '-f -' ] && { rm /tmp/fake/nft; echo 'no rules today' >&2; exit 1; }\nexit 0\n";
/// Where the programs of the system are.
pub(super) const SYSTEM: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs `whyrst mitigate`; gives its exit status, and what it printed on standard output and standard error.
pub(super) fn mitigate(path: &str, arguments: &[&str]) -> Result<(Option<i32>, String, String)> {
    let output = Command::new(BINARY)
        .arg("mitigate")
        .args(arguments)
        .env("PATH", path)
        .stdin(Stdio::null())
        .output()
        .context("starting whyrst")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.code(), text(&output.stdout), text(&output.stderr)))
}

fn refuses(
    context: &Context<'_>,
    expect: &mut Expect,
    what: &str,
    (status, _, said): (Option<i32>, String, String),
    words: &str,
) {
    context.step(format!("{what}: {}", said.trim()));
    expect.that(status == Some(2) && said.contains(words), || format!("{what}: status {status:?}, {said}"));
}

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let captured = incident(context, &lab)?;
    let before = state(&lab.gateway)?;
    let recording = captured.recording.display().to_string();
    let journal = context.artifacts.join("journal").display().to_string();
    let path = SYSTEM;
    let mut expect = Expect::new();
    let drop_it = ["drop-invalid-input", "--state-dir", &journal, "--from", &recording];
    let undo_it = ["drop-invalid-input", "--state-dir", &journal, "--undo"];
    let apply = |extra: &[&str]| mitigate(path, &[&drop_it, ["--apply", "--yes"].as_slice(), extra].concat());
    let undo = |extra: &[&str]| mitigate(path, &[&undo_it, ["--yes"].as_slice(), extra].concat());

    refuses(
        context,
        &mut expect,
        "nobody to ask",
        mitigate(path, &[&drop_it, ["--apply"].as_slice()].concat())?,
        "--yes",
    );
    refuses(context, &mut expect, "no undo", mitigate(path, &["keepalive", "--apply", "--yes"])?, "cannot be applied");
    refuses(context, &mut expect, "nothing to undo", undo(&[])?, "nothing to undo");
    let fake = Path::new("/tmp/fake");
    fs::create_dir_all(fake)?;
    fs::write(fake.join("nft"), BROKEN_NFT)?;
    fs::set_permissions(fake.join("nft"), Permissions::from_mode(0o755))?;
    let broken = [&drop_it, ["--apply", "--yes", "--watch", "0"].as_slice()].concat();
    refuses(
        context,
        &mut expect,
        "a command fails",
        mitigate(&format!("/tmp/fake:{path}"), &broken)?,
        "was rolled back",
    );
    unchanged(&mut expect, &before, &state(&lab.gateway)?);

    let (status, text, said) = apply(&["--watch", "1s", "--format", "json"])?;
    expect.that(status == Some(0), || format!("--apply: status {status:?}, {said}"));
    let document: Value = serde_json::from_str(&text).context("the answer is no JSON")?;
    expect.is(&document, "/schema", "whyrst.mitigate.v1");
    expect.is(&document, "/outcome/state", "applied");
    expect.is(&document, "/outcome/watched/0/counter", "invalid");
    expect.is(&document, "/outcome/watched/0/verdict", "too-little-traffic");
    expect.that(state(&lab.gateway)? != before, || "nothing has changed".to_owned());
    survives(&lab, 8443)?;
    context.step("applied; the same incident does no harm");
    refuses(context, &mut expect, "twice", apply(&["--watch", "0"])?, "is already covered by");
    lab.gateway.run(&["nft", "add rule inet whyrst input counter"])?;
    refuses(context, &mut expect, "somebody changed it", undo(&[])?, "changed it since");
    let (status, _, said) = undo(&["--force"])?;
    expect.that(status == Some(0), || format!("--undo --force: status {status:?}, {said}"));
    unchanged(&mut expect, &before, &state(&lab.gateway)?);
    let (status, _, said) = undo(&[])?;
    expect
        .that(status == Some(2) && said.contains(" is undone"), || format!("--undo twice: status {status:?}, {said}"));

    // What was no default value before is restored all the same, by a process that knows of it from the journal alone.
    let timeout = "net.netfilter.nf_conntrack_tcp_timeout_established";
    lab.gateway.sysctl(timeout, "100")?;
    let common = ["raise-timeout", "--state-dir", &journal, "--yes"];
    let raise = [common.as_slice(), &["--netns", "gateway", "--watch", "0", "--apply"]].concat();
    let value = || lab.gateway.run(&["sysctl", "-n", timeout]);
    let (status, _, said) = mitigate(path, &raise)?;
    let now = value()?;
    expect.that(status == Some(0) && now.trim() == "7440", || format!("raise-timeout: status {status:?}, {said}"));
    let (status, _, said) = mitigate(path, &[common.as_slice(), &["--undo"]].concat())?;
    let now = value()?;
    expect.that(status == Some(0) && now.trim() == "100", || format!("its undo: status {status:?}, {said}"));
    lab.gateway.sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", "1")?;
    let liberal = ["be-liberal", "--netns", "gateway", "--state-dir", &journal, "--yes", "--apply"];
    refuses(context, &mut expect, "in force", mitigate(path, &liberal)?, "is already 1 on namespace gateway");
    captured.replay()?;
    expect.verdict()
}
