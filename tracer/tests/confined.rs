//! The confinement of commands that do not need the host (docs/security.md).

mod common;

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{stderr, whyrst};

fn recording() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/5.10/late-retransmission.whyrst")
}

/// The number of a line of `/proc/PID/status`.
fn field(status: &str, name: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect(name);
    u64::from_str_radix(value.trim(), 16).unwrap()
}

/// The program has printed an event and waits for input, so its confinement is complete.
#[test]
fn no_privilege_remains() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_whyrst"))
        .args(["trace", "--from", "-"])
        .env("WHYRST_CONFIG", "/dev/null")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(&fs::read(recording()).unwrap()).unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("INVALID"), "{line}");
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
        assert_eq!(field(&status, set), 0, "{set}");
    }
    assert_eq!((field(&status, "NoNewPrivs"), field(&status, "Seccomp")), (1, 2));
    drop(input);
    assert!(child.wait().unwrap().success());
}

/// `--log debug` shows the confinement.
#[test]
fn the_confinement_is_logged() {
    let from = recording();
    let log = stderr(&mut whyrst(&["report", "--from", from.to_str().unwrap(), "--log", "debug"]), 0);
    for step in ["capabilities: kept CapabilitySet(0x0)", "Landlock: ", "calls are refused"] {
        assert!(log.contains(step), "{step} is not in {log}");
    }
}

/// Root needs a capability for files of other users. Named files stay accessible.
#[test]
fn files_of_others_can_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let (own, theirs) = (directory.path().join("incident.whyrst"), directory.path().join("theirs"));
    fs::copy(recording(), &own).unwrap();
    fs::create_dir(&theirs).unwrap();
    // Only root can try this: elsewhere the files are the user's own.
    if is_root() {
        for path in [&own, &theirs] {
            chown(path, Some(65_534), Some(65_534)).unwrap();
        }
        fs::set_permissions(&own, Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(&theirs, Permissions::from_mode(0o755)).unwrap();
    }
    let (from, to) = (own.to_str().unwrap(), theirs.join("report.html"));
    whyrst(&["report", "--from", from, "--format", "html", "-o", to.to_str().unwrap()]).assert().success();
    assert!(fs::read_to_string(to).unwrap().starts_with("<!DOCTYPE html>"));
}

/// An export is as confidential as a recording.
#[test]
fn exports_are_readable_by_their_owner_only() {
    let (directory, from) = (tempfile::tempdir().unwrap(), recording());
    for format in ["csv", "jsonl", "pcapng"] {
        let to = directory.path().join(format);
        let arguments = ["export", "--from", from.to_str().unwrap(), "--format", format, "-o", to.to_str().unwrap()];
        whyrst(&arguments).assert().success();
        assert_eq!(fs::metadata(to).unwrap().mode() & 0o777, 0o600, "{format}");
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}
