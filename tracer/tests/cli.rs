//! The command line: exit statuses, messages, and outputs.

mod common;

use std::fs;
use std::path::Path;

use rstest::rstest;

use common::{stderr, whyrst};

#[rstest]
#[case::no_command(&[], "Usage: whyrst")]
#[case::unknown_command(&["tarce"], "a similar subcommand exists: 'trace'")]
#[case::unknown_cause(&["report", "--cause", "out-of-windows"], "a similar value exists: 'out-of-window'")]
#[case::unknown_fail_on(&["report", "--fail-on", "everything"], "possible values: out-of-window")]
#[case::bad_network(&["trace", "--client", "10.0.0.0/99"], "not an address or network like 192.0.2.1")]
#[case::bad_port(&["trace", "--port", "0"], "0 is not in 1..=65535")]
#[case::bad_duration(&["report", "--duration", "soon"], "not a time like 60s, 5m or 1h30m")]
#[case::no_output(&["record"], "--output <FILE>")]
#[case::live_and_recorded(&["report", "--from", "x", "--duration", "1s"], "cannot be used with '--duration")]
#[case::record_of_recorded(&["report", "--from", "x", "--record", "y"], "cannot be used with '--record")]
#[case::unknown_schema(&["schema", "resport"], "possible values: report, trace, explain, doctor")]
#[case::ruleset_and_netns(&["doctor", "--ruleset", "x", "--netns", "gw"], "cannot be used with '--netns")]
#[case::ruleset_and_all(&["doctor", "--ruleset", "x", "--all-netns"], "cannot be used with '--all-netns")]
#[case::export_of_nothing(&["export", "--format", "csv"], "--from <FILE>")]
#[case::unknown_export(&["export", "--from", "x", "--format", "pcap"], "a similar value exists: 'pcapng'")]
#[case::captured_only_csv(&["export", "--from", "x", "--format", "csv", "--captured-only"], "goes with --format pcapng")]
#[case::compare_one(&["report", "--compare", "x"], "2 values required")]
#[case::compare_and_from(&["report", "--compare", "x", "y", "--from", "z"], "cannot be used with '--from")]
#[case::compare_live(&["report", "--compare", "x", "y", "--duration", "1s"], "cannot be used with '--duration")]
#[case::compare_pipes(&["report", "--compare", "-", "-"], "standard input can be read once")]
fn wrong_usage_is_status_2(#[case] arguments: &[&str], #[case] expected: &str) {
    let text = stderr(&mut whyrst(arguments), 2);
    assert!(text.contains(expected), "{text}");
}

#[rstest]
#[case(&["--help"], "Exit status: 0 done")]
#[case(&["report", "--help"], "whyrst report --from incident.whyrst")]
#[case(&["-V"], concat!("whyrst ", env!("CARGO_PKG_VERSION"), " (commit "))]
#[case(&["--version"], "\nBPF object    sha256:")]
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

/// A host that cannot be traced gives the reasons and status 3. Else a short capture succeeds.
#[test]
fn this_host_is_traced_or_obstacles_are_printed() {
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

/// Lines of three kernels, in the formats of three loggers.
const LOG: &str = "\
[12345.678901] nf_ct_proto_6: SEQ is under the lower bound (already ACKed data retransmitted) IN= OUT= SRC=192.0.2.2 DST=192.0.2.1 LEN=1052 PROTO=TCP SPT=443 DPT=34567 SEQ=1 ACK=2 WINDOW=502 RES=0x00 ACK PSH URGP=0
Nov 21 08:00:01 gw-1 kernel: nf_ct_proto_6: invalid packet ignored in state ESTABLISHED  IN= OUT= SRC=192.0.2.2 DST=192.0.2.1 LEN=60 PROTO=TCP SPT=443 DPT=34568 SEQ=1 ACK=2 WINDOW=502 RES=0x00 ACK SYN URGP=0
Nov 21 08:00:02 gw-1 kernel: nf_conntrack: nf_conntrack: table full, dropping packet
Nov 21 08:00:04 gw-1 last message repeated 9 times
Nov 21 08:00:05 gw-1 kernel: nf_conntrack: expectation table full
Nov 21 08:00:06 gw-1 kernel: eth0: link up
";

#[test]
fn explain_reads_a_kernel_log() {
    let output = whyrst(&["explain", "--color", "never"]).write_stdin(LOG).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    for expected in [
        "6 lines · 13 of conntrack · log format of Linux up to 6.0",
        "INVALID  1 packet  out-of-window · seq-under",
        "accepted  1 packet  invalid-state · invalid-state",
        "these lines do not mean INVALID",
        "table full  at least 10 packets of new connections dropped",
        "expectation table full  1 time",
        "192.0.2.2:443 → 192.0.2.1:34567  1 packet",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
}

#[test]
fn explain_as_json_fits_its_schema() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kern.log");
    fs::write(&path, [LOG.as_bytes(), b"\xff\xfe nf_ct_proto_6: \x1b[31m IN= OUT="].concat()).unwrap();
    let output = whyrst(&["explain", "--format", "json", path.to_str().unwrap()]).output().unwrap();
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["schema"], "whyrst.explain.v1");
    assert_eq!(document["groups"][0]["verdict"], "invalid");
    assert_eq!(document["table_full"][0]["dropped"], 10);
    assert_eq!(document["not_understood"], 1);
    let schema = whyrst(&["schema", "explain"]).output().unwrap();
    let schema: serde_json::Value = serde_json::from_slice(&schema.stdout).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> = validator.iter_errors(&document).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn explain_knows_causes_and_reasons() {
    let output = whyrst(&["explain", "seq-under"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("# seq-under: "), "{text}");
    let text = stderr(&mut whyrst(&["explain", "seq-unter"]), 2);
    assert!(text.contains("`seq-unter` is neither a file nor one of out-of-window"), "{text}");
    let text = stderr(&mut whyrst(&["explain", "/nonexistent/kern.log"]), 2);
    assert!(text.contains("/nonexistent/kern.log: No such file"), "{text}");
}

fn doctor(arguments: &[&str]) -> std::process::Output {
    whyrst(&[&["doctor", "--interval", "50ms"], arguments].concat()).output().unwrap()
}

/// With any privileges and on any host, the output fits the schema.
#[test]
fn the_doctors_json_fits_its_schema() {
    let schema = whyrst(&["schema", "doctor"]).output().unwrap().stdout;
    let schema = jsonschema::validator_for(&serde_json::from_slice(&schema).unwrap()).unwrap();
    for arguments in [&["--format", "json"][..], &["--format", "json", "--all-netns"]] {
        let output = doctor(arguments);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let wrong: Vec<String> = schema.iter_errors(&found).map(|error| error.to_string()).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert_eq!(found["schema"], "whyrst.doctor.v1");
    }
}

/// What is refused before a tool or a namespace is needed; the file names the line, and escapes what it says.
#[rstest]
#[case::no_file(None, "No such file")]
#[case::empty(Some("# nothing\n"), "there is no ruleset in it")]
#[case::a_prompt(
    Some("gw# iptables-save\x1b[2J\n*filter\nCOMMIT\n"),
    "line 1: `gw# iptables-save\\u{1b}[2J` is no line of a ruleset"
)]
#[case::a_listing(Some("Chain INPUT (policy ACCEPT)\n"), "line 1: this is the output of iptables -L")]
#[case::cut(Some("*filter\n:INPUT ACCEPT [0:0]\n"), "line 2: the last table is not committed")]
#[case::a_program(
    Some("*filter\n-A INPUT --modprobe=/tmp/x -j DROP\nCOMMIT\n"),
    "line 2: `--modprobe=/tmp/x` names a program"
)]
#[case::another_file(Some("table ip t {\n\tinclude \"/etc/shadow\"\n}\n"), "line 2: it includes another file")]
#[case::no_json(Some("{\"nftables\": [\n"), "line 2: EOF while parsing")]
fn rulesets_that_are_not_loaded(#[case] text: Option<&str>, #[case] error: &str) {
    let directory = tempfile::tempdir().unwrap();
    let (file, out) = (directory.path().join("rules"), directory.path().join("out"));
    if let Some(text) = text {
        fs::write(&file, text).unwrap();
    }
    let [from, to] = [&file, &out].map(|path| path.to_str().unwrap());
    let said = stderr(&mut whyrst(&["doctor", "--ruleset", from, "-o", to]), 2);
    assert!(said.contains(from) && said.contains(error), "{said}");
    assert!(!out.exists(), "an output without a result");
}

#[test]
fn rulesets_are_bounded() {
    let huge = vec![b'#'; (16 << 20) + 1];
    let said = stderr(whyrst(&["doctor", "--ruleset", "-"]).write_stdin(huge), 2);
    assert!(said.contains("the file has more than 16 MiB"), "{said}");
}

#[test]
fn the_doctor_fails_on_the_named_severity() {
    let json = doctor(&["--format", "json"]).stdout;
    let found: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let has = |severities: &[&str]| {
        let findings = found["findings"].as_array().unwrap();
        findings.iter().any(|finding| severities.contains(&finding["severity"].as_str().unwrap()))
    };
    for (level, severities) in [("critical", &["critical"][..]), ("warning", &["critical", "warning"])] {
        let status = doctor(&["--fail-on", level]).status.code();
        assert_eq!(status, Some(i32::from(has(severities))), "--fail-on {level}");
    }
}

#[rstest]
#[case::no_such_netns(&["--netns", "no such"], "--netns no such: no network namespace has this name")]
#[case::no_such_inode(&["--netns", "7"], "--netns 7: no name and no process leads to it")]
#[case::both(&["--netns", "7", "--all-netns"], "cannot be used with '--all-netns'")]
#[case::info(&["--fail-on", "info"], "possible values: warning, critical")]
#[case::unwritable(&["-o", "/nonexistent/file"], "writing /nonexistent/file")]
fn wrong_usage_of_the_doctor(#[case] arguments: &[&str], #[case] expected: &str) {
    let output = doctor(arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains(expected), "{text}");
}

/// The recording of a late retransmission.
const INCIDENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/5.10/late-retransmission.whyrst");

fn schema(name: &str) -> jsonschema::Validator {
    let output = whyrst(&["schema", name]).output().unwrap();
    jsonschema::validator_for(&serde_json::from_slice(&output.stdout).unwrap()).unwrap()
}

#[test]
fn export_writes_files_and_prints_a_summary() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("evidence.pcapng");
    let name = path.to_str().unwrap();
    let text = stderr(&mut whyrst(&["export", "--from", INCIDENT, "--format", "pcapng", "-o", name]), 0);
    assert_eq!(text, format!("whyrst: 3 packets as captured, 2 RSTs reconstructed in {name}\n"));
    let whole = fs::read(&path).unwrap();
    assert!(whole.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]));
    let text =
        stderr(&mut whyrst(&["export", "--from", INCIDENT, "--format", "pcapng", "--captured-only", "-o", name]), 0);
    assert!(text.contains("3 packets as captured, 0 RSTs reconstructed"), "{text}");
    assert!(fs::read(&path).unwrap().len() < whole.len());
    let text = stderr(&mut whyrst(&["export", "--from", name, "--format", "csv"]), 2);
    assert!(text.contains("is not a whyrst recording: it looks like a pcapng file"), "{text}");
    let text = stderr(&mut whyrst(&["export", "--from", INCIDENT, "--format", "csv", "-o", "/nonexistent/x.csv"]), 2);
    assert!(text.contains("writing /nonexistent/x.csv"), "{text}");
}

/// Piped input gives the same export as a file, also if it is truncated.
#[rstest]
#[case("pcapng", 0)]
#[case("jsonl", 0)]
#[case("csv", 0)]
#[case("jsonl", 300)]
fn export_reads_a_pipe(#[case] format: &str, #[case] cut: usize) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("-");
    let recording = fs::read(INCIDENT).unwrap();
    fs::write(&path, &recording[..recording.len() - cut]).unwrap();
    let from = |path: &str| whyrst(&["export", "--from", path, "--format", format]);
    // The recording's name is in the output.
    let of_file = from("./-").current_dir(directory.path()).output().unwrap();
    let of_pipe = from("-").write_stdin(&recording[..recording.len() - cut]).output().unwrap();
    assert_eq!((of_file.status.code(), of_pipe.status.code()), (Some(0), Some(0)));
    assert!(!of_pipe.stdout.is_empty());
    let plain = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace("./-", "-");
    assert_eq!(plain(&of_file.stdout), plain(&of_pipe.stdout));
    assert_eq!(!of_pipe.stderr.is_empty(), cut > 0, "{}", String::from_utf8_lossy(&of_pipe.stderr));
}

/// A redacted export has no address and no name, in any format, but the same causes.
#[rstest]
#[case("pcapng")]
#[case("jsonl")]
#[case("csv")]
fn export_redacts(#[case] format: &str) {
    let output = whyrst(&["export", "--from", INCIDENT, "--format", format, "--redact"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8_lossy(&output.stdout);
    for whose in ["10.0.0.2:", "192.0.2.1:", "192.0.2.2:", "gateway\"", "late-retransmission"] {
        assert!(!text.contains(whose), "{whose}: {text}");
    }
    // 192.0.2.2 as it is in a header.
    assert!(!output.stdout.windows(4).any(|bytes| bytes == [192, 0, 2, 2]), "{text}");
    assert!(text.contains("seq-under"), "{text}");
}

#[test]
fn export_filters() {
    let lines = |arguments: &[&str]| {
        let output =
            whyrst(&[&["export", "--from", INCIDENT, "--format", "jsonl"], arguments].concat()).output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().count()
    };
    // The capture, a flow, its events, the end.
    assert_eq!(lines(&[]), 6);
    assert_eq!(lines(&["--cause", "out-of-window"]), 6);
    for none in [["--cause", "no-entry"], ["--server", "203.0.113.0/24"], ["--port", "9"]] {
        assert_eq!(lines(&none), 2, "{none:?}");
    }
}

#[test]
fn two_recordings_are_compared() {
    let liberal = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/5.10/be-liberal.whyrst");
    let output = whyrst(&["report", "--compare", INCIDENT, liberal, "--color", "never"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("Too few connections were reset for a verdict (1 before, 0 after)"), "{text}");
    assert!(text.contains("\n  out-of-window/seq-under reset "), "{text}");
    let json = |before: &str, after: &str| {
        let output = whyrst(&["report", "--compare", before, after, "--format", "json"]).output().unwrap();
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let document = json(INCIDENT, liberal);
    let errors: Vec<String> = schema("compare").iter_errors(&document).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(document["by_cause"][0]["reset"]["verdict"], "too-few");
    assert_eq!(document["by_route"][0]["seen"], "before");
    // --fail-on looks at the second.
    for (recordings, status) in [([INCIDENT, liberal], 0), ([liberal, INCIDENT], 1)] {
        let [before, after] = recordings;
        stderr(&mut whyrst(&["report", "--compare", before, after, "--fail-on", "out-of-window"]), status);
    }
    let text = stderr(&mut whyrst(&["report", "--compare", INCIDENT, "/nonexistent"]), 2);
    assert_eq!(text, "whyrst: reading /nonexistent: No such file or directory (os error 2)\n");
}

/// The HTML page is the same on standard output and in a file.
#[test]
fn a_report_as_a_page() {
    let recording = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/5.10/late-retransmission.whyrst");
    let from = recording.to_str().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("report.html");
    let arguments = ["report", "--from", from, "--format", "html"];
    let output = whyrst(&arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let page = String::from_utf8(output.stdout).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
    whyrst(&arguments).args(["-o", file.to_str().unwrap()]).assert().success();
    assert_eq!(fs::read_to_string(&file).unwrap(), page);
    let text = stderr(&mut whyrst(&["report", "--from", from, "--format", "htm"]), 2);
    assert!(text.contains("a similar value exists: 'html'"), "{text}");
    let text = stderr(whyrst(&arguments).args(["-o", from]), 2);
    assert!(text.contains("would overwrite the recording"), "{text}");
}

/// A recording of the lab.
fn golden(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/7").join(name).display().to_string()
}

#[rstest]
#[case::rotation_of_a_pipe(&["record", "-o", "-", "--rotate", "1MiB"], "--rotate cannot write to standard output")]
#[case::keep_of_nothing(&["record", "-o", "x", "--keep", "3"], "--keep needs --rotate SIZE or --rotate-every TIME")]
#[case::tiny(&["record", "-o", "x", "--rotate", "5"], "less than 16 KiB")]
#[case::no_size(&["record", "-o", "x", "--rotate", "64 potatoes"], "not a size like 64MiB")]
#[case::report_without_recording(&["report", "--rotate", "1MiB"], "need --record FILE")]
#[case::rotation_of_a_copy(&["record", "--from", "x", "-o", "y", "--rotate", "1MiB"], "cannot be used with")]
#[case::two_keys(&["trace", "--redact-key", "a", "--redact-new-key", "b"], "cannot be used with")]
fn wrong_usage_of_recordings_is_status_2(#[case] arguments: &[&str], #[case] expected: &str) {
    let text = stderr(&mut whyrst(arguments), 2);
    assert!(text.contains(expected), "{text}");
}

#[test]
fn a_copy_is_filtered_and_compressed() {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("copy.whyrst.zst");
    let name = copy.to_str().unwrap();
    let from = golden("many-flows.whyrst");
    let filter = ["--port", "443", "--cause", "no-entry"];
    stderr(whyrst(&["record", "--from", &from, "-o", name]).args(filter), 0);
    assert_eq!(fs::read(&copy).unwrap()[..4], [0x28, 0xb5, 0x2f, 0xfd]);
    let flows = |command: &mut assert_cmd::Command| {
        let output = command.output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        report["flows"].clone()
    };
    let of_copy = flows(&mut whyrst(&["report", "--format", "json", "--from", name]));
    assert_eq!(of_copy.as_array().unwrap().len(), 2);
    assert_eq!(of_copy, flows(whyrst(&["report", "--format", "json", "--from", &from]).args(filter)));
    // A truncated recording on standard input: the report covers the complete part, and a message names the damage.
    let bytes = fs::read(&copy).unwrap();
    let mut command = whyrst(&["report", "--from", "-"]);
    let output = command.write_stdin(&bytes[..bytes.len() - 1]).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("the file ends inside a compressed frame"), "{text}");
    let text = stderr(&mut whyrst(&["record", "--from", name, "-o", name]), 2);
    assert!(text.contains("would overwrite the recording that is read"), "{text}");
}

#[test]
fn a_key_gives_the_same_pseudonyms_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (key, one, other) = (path("key"), path("one.whyrst"), path("other.whyrst"));
    let from = golden("late-retransmission.whyrst");
    stderr(&mut whyrst(&["record", "--from", &from, "-o", &one, "--redact-new-key", &key]), 0);
    stderr(&mut whyrst(&["record", "--from", &from, "-o", &other, "--redact-key", &key]), 0);
    assert_eq!(fs::read(&one).unwrap(), fs::read(&other).unwrap());
    let random = path("random.whyrst");
    let text = stderr(&mut whyrst(&["record", "--from", &from, "-o", &random, "--redact"]), 0);
    assert!(text.contains("a random key that is not kept"), "{text}");
    assert_ne!(fs::read(&one).unwrap(), fs::read(&random).unwrap());
    let text = stderr(&mut whyrst(&["report", "--from", &from, "--redact-new-key", &key]), 2);
    assert!(text.contains("File exists"), "{text}");
    fs::write(&key, "not a key").unwrap();
    let text = stderr(&mut whyrst(&["report", "--from", &from, "--redact-key", &key]), 2);
    assert!(text.contains("a key is 64 hexadecimal digits"), "{text}");
    // A report of the original says the same as one of the redacted file, if the key is the same.
    let report = |arguments: &[&str]| String::from_utf8(whyrst(arguments).output().unwrap().stdout).unwrap();
    let key = path("another key");
    stderr(&mut whyrst(&["record", "--from", &from, "-o", &one, "--redact-new-key", &key]), 0);
    assert_eq!(report(&["trace", "--from", &from, "--redact-key", &key]), report(&["trace", "--from", &one]));
    assert!(!report(&["report", "--from", &from, "--redact"]).contains("late-retransmission"), "the file's name");
}

#[test]
fn recordings_that_do_not_belong_together_are_refused() {
    let (one, other) = (golden("seq-over.whyrst"), golden("ack-over.whyrst"));
    let text = stderr(&mut whyrst(&["report", "--from", &one, &other]), 2);
    assert!(text.contains("does not say which boot of which host it is of"), "{text}");
    let text = stderr(&mut whyrst(&["report", "--from", "-", &one]), 2);
    assert!(text.contains("`-` cannot be read together with others"), "{text}");
    let directory = tempfile::tempdir().unwrap();
    let text = stderr(&mut whyrst(&["report", "--from", directory.path().to_str().unwrap()]), 2);
    assert!(text.contains("has no recordings in it"), "{text}");
}

/// The command line and the environment of the packaged service are valid.
#[test]
fn the_packaged_service_is_valid() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/whyrst-record.service");
    let unit = fs::read_to_string(unit).unwrap();
    let settings = |key: &str| unit.lines().filter_map(|line| line.strip_prefix(key)).collect::<Vec<_>>();
    let environment: Vec<(&str, &str)> =
        settings("Environment=").into_iter().map(|setting| setting.split_once('=').unwrap()).collect();
    assert!(!environment.is_empty());
    let output = whyrst(&["config"]).envs(environment.iter().copied()).output().unwrap();
    let (shown, errors) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!((output.status.code(), errors.as_str()), (Some(0), ""));
    for (variable, value) in &environment {
        let printed = shown.lines().any(|line| line.contains(value) && line.ends_with(&format!("# {variable}")));
        assert!(printed, "{variable}: {shown}");
    }
    let [line] = settings("ExecStart=")[..] else { panic!("one program is to be run") };
    let mut words: Vec<&str> = line.split(' ').collect();
    assert_eq!(words.remove(0), "/usr/bin/whyrst");
    words.push("--help");
    let output = whyrst(&words).envs(environment).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}
