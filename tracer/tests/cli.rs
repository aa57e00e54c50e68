//! The command line as a user meets it: exit statuses, messages, and what goes where.

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use rstest::rstest;

fn whyrst(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_whyrst"));
    command.args(arguments).env_remove("WHYRST_LOG").env_remove("NO_COLOR").env("LC_ALL", "C.UTF-8");
    command
}

fn stderr(command: &mut Command, status: i32) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{text}");
    text
}

#[rstest]
#[case::no_command(&[], "Usage: whyrst")]
#[case::unknown_command(&["reprot"], "a similar subcommand exists: 'report'")]
#[case::unknown_cause(&["report", "--cause", "out-of-windows"], "a similar value exists: 'out-of-window'")]
#[case::unknown_fail_on(&["report", "--fail-on", "everything"], "possible values: out-of-window")]
#[case::bad_network(&["trace", "--client", "10.0.0.0/99"], "not an address or network like 192.0.2.1")]
#[case::bad_port(&["trace", "--port", "0"], "0 is not in 1..=65535")]
#[case::bad_duration(&["report", "--duration", "soon"], "not a time like 60s, 5m or 1h30m")]
#[case::no_output(&["record"], "--output <FILE>")]
#[case::live_and_recorded(&["report", "--from", "x", "--duration", "1s"], "cannot be used with '--duration")]
#[case::record_of_recorded(&["report", "--from", "x", "--record", "y"], "cannot be used with '--record")]
#[case::unknown_schema(&["schema", "resport"], "possible values: report, trace")]
fn wrong_usage_is_status_2(#[case] arguments: &[&str], #[case] expected: &str) {
    let text = stderr(&mut whyrst(arguments), 2);
    assert!(text.contains(expected), "{text}");
}

#[rstest]
#[case(&["--help"], "Exit status: 0 done")]
#[case(&["report", "--help"], "whyrst report --from incident.whyrst")]
#[case(&["--version"], concat!("whyrst ", env!("CARGO_PKG_VERSION")))]
fn help_is_status_0(#[case] arguments: &[&str], #[case] expected: &str) {
    let output = whyrst(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8(output.stdout).unwrap().contains(expected));
    assert!(output.stderr.is_empty());
}

#[test]
fn files_that_are_no_recordings_are_status_2() {
    let directory = tempfile::tempdir().unwrap();
    let foreign = directory.path().join("notes.txt");
    fs::write(&foreign, "not a recording").unwrap();
    let name = foreign.to_str().unwrap();
    for command in ["report", "trace"] {
        let text = stderr(&mut whyrst(&[command, "--from", name]), 2);
        assert_eq!(text, format!("whyrst: {name} is not a whyrst recording\n"));
    }
    let text = stderr(&mut whyrst(&["report", "--from", "/nonexistent"]), 2);
    assert_eq!(text, "whyrst: reading /nonexistent: No such file or directory (os error 2)\n");
}

/// A host that cannot be traced says why and ends with status 3; one that can is not traced by this test for long.
#[test]
fn this_host_is_traced_or_says_why_not() {
    let output = whyrst(&["report", "--duration", "100ms"]).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    match output.status.code() {
        Some(0) => assert!(text.contains("listening to nf_ct_l4proto_log_invalid"), "{text}"),
        Some(3) => {
            assert!(output.stdout.is_empty());
            assert!(text.starts_with("whyrst: this host cannot be traced:\n  - "), "{text}");
            let kprobes = Path::new("/sys/bus/event_source/devices/kprobe").exists();
            assert_eq!(text.contains("this kernel has no kprobes"), !kprobes, "{text}");
        }
        other => panic!("exit status {other:?}: {text}"),
    }
}

#[test]
fn a_recording_is_not_overwritten_by_its_report() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("incident.whyrst");
    fs::write(&path, "precious").unwrap();
    let name = path.to_str().unwrap();
    let text = stderr(&mut whyrst(&["report", "--from", name, "-o", name]), 2);
    assert!(text.contains("would overwrite the recording that is read"), "{text}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}
