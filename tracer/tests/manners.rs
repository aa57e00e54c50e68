//! Conventions of command-line programs: colours, pipes, times, completions, man pages, configuration.

mod common;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rstest::rstest;

use common::{stderr, whyrst};

/// A recording of a namespace named `gateway`.
const RECORDING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/7/ipv6-seq-over.whyrst");
const PROGRAM: &str = env!("CARGO_BIN_EXE_whyrst");

fn stdout(command: &mut assert_cmd::Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[rstest]
#[case::pipe(&[], &[], false)]
#[case::forced(&[("CLICOLOR_FORCE", "1")], &[], true)]
#[case::no_color_wins(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], &[], false)]
#[case::always(&[("NO_COLOR", "1")], &["--color", "always"], true)]
#[case::never(&[("CLICOLOR_FORCE", "1")], &["--color", "never"], false)]
fn colours_into_a_pipe(#[case] environment: &[(&str, &str)], #[case] arguments: &[&str], #[case] coloured: bool) {
    for command in ["report", "trace"] {
        let mut whyrst = whyrst(&[&[command, "--from", RECORDING], arguments].concat());
        whyrst.env_remove("CLICOLOR").env_remove("CLICOLOR_FORCE").envs(environment.iter().copied());
        assert_eq!(stdout(&mut whyrst).contains('\u{1b}'), coloured, "{command}");
    }
}

#[rstest]
#[case::terminal(&[], &[], true)]
#[case::no_color(&[("NO_COLOR", "1")], &[], false)]
#[case::no_color_empty(&[("NO_COLOR", "")], &[], true)]
#[case::clicolor(&[("CLICOLOR", "0")], &[], false)]
#[case::dumb(&[("TERM", "dumb")], &[], false)]
#[case::never(&[], &["--color", "never"], false)]
fn colours_on_a_terminal(#[case] environment: &[(&str, &str)], #[case] arguments: &[&str], #[case] coloured: bool) {
    let words = [&[PROGRAM, "report", "--from", RECORDING], arguments].concat().join(" ");
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &words, "/dev/null"]).stdin(Stdio::null());
    // A build service is taken for a terminal with colours, whatever TERM says (`CI`).
    for inherited in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "CI"] {
        script.env_remove(inherited);
    }
    script.env("TERM", "xterm-256color");
    script.env("WHYRST_CONFIG", "/dev/null").env("LC_ALL", "C.UTF-8").envs(environment.iter().copied());
    let output = script.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("was reset by this gateway"), "{text}");
    assert_eq!(text.contains('\u{1b}'), coloured, "{text}");
}

/// clap prints help and usage errors; `--color` applies to them too.
#[test]
fn help_obeys_the_colour_option() {
    for (color, coloured) in [("always", true), ("never", false), ("auto", false)] {
        let mut help = whyrst(&["--color", color, "report", "--help"]);
        assert_eq!(stdout(help.env_remove("CLICOLOR_FORCE")).contains('\u{1b}'), coloured, "{color}");
        let mut wrong = whyrst(&["--color", color, "report", "--form"]);
        assert_eq!(stderr(wrong.env_remove("CLICOLOR_FORCE"), 2).contains('\u{1b}'), coloured, "{color}");
    }
}

/// A closed pipe is not an error.
#[rstest]
#[case(&["report", "--from", RECORDING])]
#[case(&["trace", "--from", RECORDING])]
#[case(&["report", "--format", "json", "--from", RECORDING])]
#[case(&["trace", "--format", "json", "--from", RECORDING])]
#[case(&["explain", "seq-under"])]
#[case(&["schema", "report"])]
#[case(&["config"])]
#[case(&["man"])]
#[case(&["completions", "bash"])]
#[case(&["--help"])]
#[case(&["--version"])]
fn a_closed_pipe_ends_quietly(#[case] arguments: &[&str]) {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(PROGRAM);
    let output = command.args(arguments).env("WHYRST_CONFIG", "/dev/null").stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

/// A full disk is an error.
#[test]
fn write_errors_are_reported() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(PROGRAM);
    let output = command.args(["report", "--from", RECORDING]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("writing to standard output: No space left on device"), "{text}");
}

#[test]
fn times_are_utc_by_default() {
    let output = |command: &str, arguments: &[&str]| {
        stdout(whyrst(&[&[command, "--from", RECORDING], arguments].concat()).env("TZ", "NST3:30"))
    };
    assert!(output("report", &[]).contains("2026-11-21 09:40:52 UTC"));
    assert!(output("report", &["--time", "local"]).contains("2026-11-21 06:10:52 -03:30"));
    assert!(output("trace", &[]).starts_with("09:40:52.755251 ct-invalid"));
    assert!(output("trace", &["--time", "local"]).starts_with("06:10:52.755251-03:30 ct-invalid"));
    let json = output("report", &["--time", "local", "--format", "json"]);
    assert!(json.contains("2026-11-21T09:40:52") && !json.contains("03:30"), "JSON is always UTC");
    let text = stderr(whyrst(&["report", "--time", "local", "--from", RECORDING]).env("TZ", "Nowhere/City"), 2);
    assert!(text.contains("--time local: TZ and /etc/localtime name no known time zone"), "{text}");
}

#[test]
fn namespaces_have_names_in_recordings() {
    let trace = |netns: &str| stdout(&mut whyrst(&["trace", "--from", RECORDING, "--netns", netns]));
    let (by_name, by_number) = (trace("gateway"), trace("4026532184"));
    assert_eq!(by_name, by_number);
    let named = |line: &&str| line.contains("netns=4026532184 netns_name=gateway");
    assert_eq!(by_name.lines().filter(named).count(), 3, "from the first line on: {by_name}");
    assert_eq!(stdout(&mut whyrst(&["trace", "--from", RECORDING, "--netns", "4026531992"])), "");
}

#[rstest]
#[case::name(&["--from", RECORDING, "--netns", "gatewya"], "no network namespace has this name; did you mean gateway? (the recording has gateway (4026532184)")]
#[case::path(&["--from", RECORDING, "--netns", "/proc/1/ns/net"], "a path names a namespace of this host")]
#[case::stream(&["--from", "-", "--netns", "gateway"], "use the inode number, or a file")]
#[case::no_such_name(&["--netns", "no such namespace"], "no network namespace has this name (this host has ")]
#[case::no_such_path(&["--netns", "/run/netns/none"], "--netns /run/netns/none: No such file or directory")]
#[case::no_namespace(&["--netns", "/etc/passwd"], "--netns /etc/passwd: this file is not a network namespace")]
#[case::another_kind(&["--netns", "/proc/self/ns/mnt"], "this file is not a network namespace")]
#[case::hostile(&["--from", RECORDING, "--netns", "a\u{1b}[31m\u{202e}"], "--netns a\\u{1b}[31m\\u{202e}: no network")]
fn unknown_namespaces(#[case] arguments: &[&str], #[case] expected: &str) {
    let text = stderr(whyrst(&[&["trace"], arguments].concat()).write_stdin(""), 2);
    assert!(text.contains(expected), "{text}");
    assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text:?}");
}

#[test]
fn a_reason_is_no_cause() {
    let text = stderr(&mut whyrst(&["report", "--cause", "seq-under"]), 2);
    assert!(text.contains("'seq-under' is a reason, not a cause: its cause is out-of-window"), "{text}");
}

#[rstest]
#[case("seq-unter", "; did you mean seq-under?")]
#[case("evictd", "; did you mean evicted?")]
fn similar_words_are_suggested(#[case] word: &str, #[case] expected: &str) {
    let text = stderr(&mut whyrst(&["explain", word]), 2);
    assert!(text.contains(expected), "{text}");
}

#[test]
fn a_kernel_log_is_explained_not_read_as_a_recording() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("kern.log");
    fs::write(&log, "Nov 21 08:00:06 gw-1 kernel: eth0: link up\n").unwrap();
    let text = stderr(&mut whyrst(&["report", "--from", log.to_str().unwrap()]), 2);
    assert!(
        text.ends_with("is not a whyrst recording: it looks like a kernel log; `whyrst explain` reads those\n"),
        "{text}"
    );
}

/// The output is checked before the capture, so that no capture is lost.
#[rstest]
#[case("/nonexistent/report", "No such file or directory")]
#[case("/tmp", "is a directory")]
fn the_output_is_checked_before_the_capture(#[case] path: &str, #[case] expected: &str) {
    let text = stderr(&mut whyrst(&["report", "--duration", "1ms", "-o", path]), 2);
    assert!(text.starts_with(&format!("whyrst: writing {path}: {expected}")), "{text}");
}

/// Completes a command line as bash does: by the function that the script registers.
fn completed(words: &[&str]) -> Vec<String> {
    const COMPLETE: &str = r#"
        source <("$0" completions bash) || exit 1
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
        function=$(complete -p whyrst | sed 's/.*-F \([^ ]*\).*/\1/')
        "$function" whyrst "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", COMPLETE, PROGRAM]).args(words).env("WHYRST_CONFIG", "/dev/null");
    let output = bash.output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[rstest]
#[case::command(&["whyrst", "rep"], &["report"])]
#[case::option(&["whyrst", "report", "--dur"], &["--duration"])]
#[case::cause(&["whyrst", "report", "--cause", "in"], &["invalid-state"])]
#[case::reason(&["whyrst", "explain", "seq-"], &["seq-over", "seq-under"])]
#[case::page(&["whyrst", "man", "rec"], &["record"])]
#[case::value(&["whyrst", "trace", "--format", "j"], &["json"])]
fn bash_completes(#[case] words: &[&str], #[case] expected: &[&str]) {
    assert_eq!(completed(words), expected);
}

#[test]
fn every_shell_has_a_script() {
    for (shell, mark) in [
        ("bash", "complete -F"),
        ("elvish", "edit:completion:arg-completer[whyrst]"),
        ("fish", "complete -c whyrst"),
        ("powershell", "-CommandName 'whyrst'"),
        ("zsh", "#compdef whyrst"),
    ] {
        let script = stdout(&mut whyrst(&["completions", shell]));
        assert!(script.contains(mark) && script.contains("without-kprobes"), "{shell}");
    }
}

#[test]
fn every_command_has_a_man_page() {
    const SECTIONS: [&str; 9] =
        ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "ENVIRONMENT", "FILES", "EXAMPLES", "SEE ALSO"];
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man/man1");
    let mut man = whyrst(&["man", "--quiet", "-o", pages.to_str().unwrap()]);
    assert_eq!(stdout(&mut man), "");
    let help = stdout(&mut whyrst(&["--help"]));
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands = commands.filter_map(|line| line.split_whitespace().next()).filter(|command| *command != "help");
    let mut names: Vec<String> = commands.map(|command| format!("whyrst-{command}.1")).collect();
    names.push("whyrst.1".to_owned());
    assert!(names.len() > 5, "{names:?}");
    assert_eq!(fs::read_dir(&pages).unwrap().count(), names.len());
    for name in names {
        let page = fs::read_to_string(pages.join(&name)).unwrap();
        assert!(page.is_ascii(), "{name}");
        for section in SECTIONS {
            let there =
                page.lines().any(|line| line.strip_prefix(".SH ").is_some_and(|it| it.trim_matches('"') == section));
            assert!(there, "{name} has no {section}");
        }
        // One page alone is the same page.
        let words: Vec<&str> = name.trim_end_matches(".1").splitn(2, '-').skip(1).collect();
        let alone = stdout(&mut whyrst(&[&["man"], words.as_slice()].concat()));
        assert_eq!(alone, page, "{name}");
    }
    let text = stderr(&mut whyrst(&["man", "reprot"]), 2);
    assert!(text.contains("there is no command reprot; did you mean report?"), "{text}");
}

/// A configuration file with this text and mode.
fn configured(directory: &Path, text: &str, mode: u32) -> String {
    let path = directory.join("whyrst.toml");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_configuration_file_sets_defaults() {
    let directory = tempfile::tempdir().unwrap();
    let file = configured(directory.path(), "[report]\nformat = \"json\"\nduration = 60\n", 0o600);
    let json = |command: &mut assert_cmd::Command| stdout(command).starts_with('{');
    let report = ["report", "--from", RECORDING];
    assert!(json(&mut whyrst(&[&report[..], &["--config", &file]].concat())));
    assert!(json(whyrst(&report).env("WHYRST_CONFIG", &file)));
    assert!(!json(whyrst(&[&report[..], &["--no-config"]].concat()).env("WHYRST_CONFIG", &file)));
    assert!(!json(whyrst(&report).env("WHYRST_CONFIG", &file).env("WHYRST_REPORT_FORMAT", "text")));
    assert!(json(whyrst(&[&report[..], &["--format", "json"]].concat()).env("WHYRST_REPORT_FORMAT", "text")));
    let help = stdout(&mut whyrst(&["report", "--config", &file, "--help"]));
    assert!(help.contains("[default: json]"), "{help}");
    let printed = stdout(&mut whyrst(&["config", "--config", &file]));
    assert!(printed.contains(&format!("format = \"json\"                       # {file}:2")), "{printed}");
    // The output is a valid configuration file with the same settings.
    let again = configured(directory.path(), &printed, 0o600);
    let settings = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.split("  #").next().unwrap().trim_end().to_owned()).collect()
    };
    assert_eq!(settings(&stdout(&mut whyrst(&["config", "--config", &again]))), settings(&printed));
}

#[test]
fn a_broken_configuration_is_an_error_but_help_works() {
    let directory = tempfile::tempdir().unwrap();
    let file = configured(directory.path(), "[report]\nformt = \"json\"\n", 0o600);
    let expected = format!("whyrst: {file}:2: report has no option formt; did you mean format?\n");
    assert_eq!(stderr(&mut whyrst(&["report", "--config", &file, "--from", RECORDING]), 2), expected);
    let output = whyrst(&["report", "--config", &file, "--help"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("Usage: whyrst report"));
    assert_eq!(String::from_utf8_lossy(&output.stderr), expected);
    assert!(stdout(&mut whyrst(&["completions", "bash", "--config", &file])).contains("complete -F"));
    let value = configured(directory.path(), "color = \"\\u001b[31m\"\n", 0o600);
    let text = stderr(&mut whyrst(&["config", "--config", &value]), 2);
    assert!(
        text.contains(
            "color: invalid value '\\u{1b}[31m' for '--color <WHEN>'; [possible values: auto, always, never]"
        ),
        "{text:?}"
    );
}

#[rstest]
#[case::writable(0o602, "is not read: everybody may write it (mode 0602; chmod go-w it)")]
fn a_configuration_that_others_write_is_not_read(#[case] mode: u32, #[case] expected: &str) {
    let directory = tempfile::tempdir().unwrap();
    let file = configured(directory.path(), "", mode);
    let text = stderr(&mut whyrst(&["config", "--config", &file]), 2);
    assert!(text.contains(expected), "{text}");
}

#[rstest]
#[case::nothing("/nonexistent.toml", "No such file or directory")]
#[case::directory("/tmp", "is not a regular file")]
#[case::device("/dev/zero", "is not a regular file")]
fn configurations_that_are_no_files(#[case] path: &str, #[case] expected: &str) {
    let text = stderr(&mut whyrst(&["config", "--config", path]), 2);
    assert!(text.starts_with(&format!("whyrst: configuration file {path}")) && text.contains(expected), "{text}");
}

/// The current settings, with the origin of each.
fn in_force(environment: &[(&str, &str)], file: &str) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let file = configured(directory.path(), file, 0o600);
    let shown = stdout(whyrst(&["config", "--config", &file]).envs(environment.iter().copied()));
    let lines = shown.lines().filter(|line| !line.starts_with('#') && line.contains("  # "));
    lines.map(|line| line.replace(&file, "FILE").split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[rstest]
#[case::over_the_file("REPORT_DURATION", "2m", "duration = 60", &["duration = \"2m\" # WHYRST_REPORT_DURATION"])]
#[case::empty("REPORT_DURATION", "", "duration = 60", &["duration = \"60\" # FILE:2"])]
#[case::flag_on("REPORT_VERBOSE", "1", "", &["verbose = true # WHYRST_REPORT_VERBOSE"])]
#[case::flag_off("REPORT_VERBOSE", "off", "verbose = true", &["verbose = false # WHYRST_REPORT_VERBOSE"])]
#[case::list("REPORT_PORT", "443,8443", "port = 80", &["port = [\"443\", \"8443\"] # WHYRST_REPORT_PORT"])]
#[case::every_command("COLOR", "never", "", &["color = \"never\" # WHYRST_COLOR"])]
#[case::excludes_the_file("REPORT_WITHOUT_KPROBES", "yes", "new-refused = true", &["without-kprobes = true # WHYRST_REPORT_WITHOUT_KPROBES"])]
#[case::off_excludes_nothing("REPORT_WITHOUT_KPROBES", "no", "new-refused = true", &["new-refused = true # FILE:2", "without-kprobes = false # WHYRST_REPORT_WITHOUT_KPROBES"])]
fn the_environment_sets_defaults(
    #[case] name: &str,
    #[case] value: &str,
    #[case] file: &str,
    #[case] expected: &[&str],
) {
    assert_eq!(in_force(&[(&format!("WHYRST_{name}"), value)], &format!("[report]\n{file}\n")), expected);
}

#[rstest]
#[case::value(
    "FORMAT",
    "jsn",
    "WHYRST_REPORT_FORMAT: report.format: invalid value 'jsn' for '--format <FORMAT>'; [possible values: text, json, html]; tip: a similar value exists: 'json'"
)]
#[case::flag(
    "TAP",
    "maybe",
    "WHYRST_REPORT_TAP: report.tap: invalid value 'maybe' for '--tap': value was not a boolean"
)]
#[case::list(
    "SERVER",
    "10.0.0.1,x",
    "WHYRST_REPORT_SERVER: report.server: invalid value 'x' for '--server <CIDR>': not an address"
)]
fn wrong_values_in_the_environment(#[case] name: &str, #[case] value: &str, #[case] expected: &str) {
    let text = stderr(whyrst(&["report", "--from", RECORDING]).env(format!("WHYRST_REPORT_{name}"), value), 2);
    assert!(text.starts_with(&format!("whyrst: {expected}")), "{text}");
}

/// A variable is a default: a conflicting option overrides it, but two conflicting variables are an error.
#[test]
fn variables_that_conflict_with_options() {
    let report = || whyrst(&["report", "--from", RECORDING]);
    assert_eq!(stderr(report().env("WHYRST_REPORT_DURATION", "1m").env("WHYRST_REPORT_TAP", "true"), 0), "");
    let both = |off: &str| {
        let mut report = report();
        report.env("WHYRST_REPORT_NEW_REFUSED", off).env("WHYRST_REPORT_WITHOUT_KPROBES", "1");
        report
    };
    assert_eq!(stderr(&mut both("0"), 0), "");
    let text = stderr(&mut both("1"), 2);
    let expected = "WHYRST_REPORT_NEW_REFUSED: report.new-refused and report.without-kprobes \
                    (WHYRST_REPORT_WITHOUT_KPROBES) exclude each other";
    assert_eq!(text, format!("whyrst: {expected}\n"));
}

#[test]
fn a_file_is_named_on_the_command_line_only() {
    let text = stderr(whyrst(&["report", "--from", RECORDING]).env("WHYRST_RECORD_OUTPUT", "x"), 0);
    assert!(text.contains("the environment variable WHYRST_RECORD_OUTPUT names no option"), "{text}");
}

#[test]
fn a_variable_that_names_no_option_is_shown() {
    let mut command = whyrst(&["report", "--from", RECORDING]);
    let text = stderr(command.env("WHYRST_REPORT_FROMAT", "json"), 0);
    let expected = "the environment variable WHYRST_REPORT_FROMAT names no option; did you mean WHYRST_REPORT_FORMAT?";
    assert_eq!(text, format!("whyrst: {expected}\n"));
    let mut quiet = whyrst(&["report", "--quiet", "--from", RECORDING]);
    assert_eq!(stderr(quiet.env("WHYRST_REPORT_FROMAT", "json"), 0), "");
}
