//! Precedence of the layers, and error messages.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use clap::{ColorChoice, CommandFactory as _, FromArgMatches as _};
use proptest::prelude::*;
use rstest::rstest;

use super::file::{parse, trusted};
use super::options::{all, is_flag, of_words};
use super::{of_text, typed};
use crate::cli::args::{Arguments, Command, Report, ReportFormat};

/// The arguments that a command line and a file make.
fn resolve(words: &str, file: &str) -> Result<Arguments, String> {
    let words: Vec<OsString> = format!("whyrst {words}").split(' ').map(OsString::from).collect();
    let typed = typed(Arguments::command(), &words);
    let configuration = of_text(file, Path::new("w.toml"), &Arguments::command()).map_err(|error| error.to_string())?;
    let command = configuration.apply(Arguments::command(), typed.as_ref());
    let matches = command.try_get_matches_from(words).map_err(|error| error.to_string())?;
    Arguments::from_arg_matches(&matches).map_err(|error| error.to_string())
}

fn report(words: &str, file: &str) -> Report {
    match resolve(words, file).unwrap().command {
        Command::Report(report) => report,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_command_line_wins_over_the_file() {
    let file = "[report]\nduration = \"1m\"\nformat = \"json\"\nport = [443, 8443]\nverbose = true\n";
    let built_in = report("report", "");
    assert_eq!((built_in.source.live.duration, built_in.format, built_in.verbose), (None, ReportFormat::Text, false));
    let of_file = report("report", file);
    assert_eq!(of_file.source.live.duration, Some(Duration::from_mins(1)));
    assert_eq!((of_file.format, of_file.verbose), (ReportFormat::Json, true));
    let typed = report("report --duration 3m --format text", file);
    assert_eq!(typed.source.live.duration, Some(Duration::from_mins(3)));
    assert_eq!(typed.format, ReportFormat::Text);
    assert_eq!(typed.filter.resolve(&[]).unwrap().ports, [443, 8443]);
    let other_ports = report("report --port 80", file);
    assert_eq!(other_ports.filter.resolve(&[]).unwrap().ports, [80], "a list is replaced, not added to");
}

#[test]
fn options_of_every_command() {
    let color = |words, file| resolve(words, file).unwrap().global.color;
    assert_eq!(color("report", "color = \"never\""), ColorChoice::Never);
    assert_eq!(color("schema report --color auto", "color = \"never\""), ColorChoice::Auto);
}

/// A default is no reason to refuse what was typed, although the two exclude each other.
#[test]
fn what_is_typed_overrules_what_it_excludes() {
    let file = "[report]\nduration = \"1m\"\nnew-refused = true\ntap = true\n";
    let recorded = report("report --from x", file);
    assert_eq!(recorded.source.live.duration, None);
    assert!(!recorded.source.live.tap && !recorded.source.live.new_refused);
    let live = report("report --without-kprobes", file).source.live;
    assert!(live.without_kprobes && !live.new_refused && live.tap);
    assert!(resolve("report --without-kprobes --new-refused", file).is_err(), "both were typed");
}

#[rstest]
#[case::unknown("tme = 1", "w.toml:1: tme is not an option of every command; did you mean time?")]
#[case::of_a_command(
    "\nduration = 60",
    "w.toml:2: duration is an option of report, trace, record: put it below [report]"
)]
#[case::of_every_command(
    "[report]\ncolor = \"auto\"",
    "w.toml:2: color is an option of every command: put it at the top"
)]
#[case::spelling(
    "[report]\nnew_refused = true",
    "w.toml:2: report has no option new_refused; did you mean new-refused?"
)]
#[case::command("[reprot]\ntap = true", "w.toml:1: there is no command reprot; did you mean report?")]
#[case::flag("[report]\ntap = \"yes\"", "w.toml:2: report.tap takes true or false; this value is of type string")]
#[case::type_of_value("[report]\nformat = [1]", "w.toml:2: report.format takes a string; this value is of type array")]
#[case::value(
    "[report]\nformat = \"jsn\"",
    "w.toml:2: report.format: invalid value 'jsn' for '--format <FORMAT>'; [possible values: text, json, html]; tip: a similar value exists: 'json'"
)]
#[case::number(
    "[report]\nport = 70000",
    "w.toml:2: report.port: invalid value '70000' for '--port <PORT>': 70000 is not in 1..=65535"
)]
#[case::network(
    "[report]\nserver = [\"::/0\", \"x\"]",
    "w.toml:2: report.server: invalid value 'x' for '--server <CIDR>': not an address or network"
)]
#[case::file("[report]\noutput = \"x\"", "w.toml:2: output can be given on the command line only, as --output")]
#[case::config("config = \"x\"", "w.toml:1: config can be given on the command line only, as --config")]
#[case::syntax("[report\n", "w.toml:1: ")]
#[case::twice("[report]\ntap = true\ntap = true", "w.toml:3: ")]
#[case::both(
    "[report]\nnew-refused = true\nwithout-kprobes = true",
    "report.new-refused and report.without-kprobes (w.toml:3) exclude each other"
)]
fn mistakes_in_the_file(#[case] file: &str, #[case] expected: &str) {
    let message = resolve("report", file).unwrap_err();
    assert!(message.contains(expected), "{message}");
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let message = resolve("report", "tme = 1\n[report]\ntap = 1\nformat = \"x\"").unwrap_err();
    let lines: Vec<&str> = message.lines().map(|line| line.split(' ').next().unwrap_or_default()).collect();
    assert_eq!(lines, ["w.toml:1:", "w.toml:3:", "w.toml:4:"], "{message}");
}

proptest! {
    /// Whatever is in a file, it is understood or refused; what it sets is a key.
    #[test]
    fn any_file_is_understood_or_refused(text in "[\\[\\]a-z= \n\"'0-9{},.#\\\\-]{0,60}|\\[(report|trace)\\]\n(tap|port|format|é) = [^\n]{0,9}\n?") {
        let command = Arguments::command();
        if let Ok(settings) = parse(&text, Path::new("w.toml"), &command) {
            for (key, arg) in all(&command) {
                let Some(setting) = settings.get(&key) else { continue };
                prop_assert!(is_flag(arg) || of_words(arg, &setting.values).is_ok(), "{key} {setting:?}");
            }
        }
    }
}

#[rstest]
#[case::own_file(1000, 1000, 0o664, 1000, true)]
#[case::of_root(0, 0, 0o644, 1000, true)]
#[case::of_somebody(1001, 1001, 0o600, 1000, false)]
#[case::of_nobody_but_root(1000, 1000, 0o600, 0, false)]
#[case::everybody_writes(0, 0, 0o646, 0, false)]
#[case::everybody_writes_own(1000, 1000, 0o666, 1000, false)]
#[case::a_group_writes(0, 1000, 0o664, 0, false)]
#[case::the_group_of_root_writes(0, 0, 0o664, 0, true)]
fn whose_file_is_trusted(
    #[case] owner: u32,
    #[case] group: u32,
    #[case] mode: u32,
    #[case] own: u32,
    #[case] read: bool,
) {
    assert_eq!(trusted(owner, group, 0o100_000 | mode, own).is_ok(), read);
}

/// What changes a host, names a file or leads to another configuration is never a default.
#[test]
fn what_belongs_to_the_command_line() {
    for (key, _) in all(&Arguments::command()) {
        for word in ["apply", "compare", "undo", "yes", "force", "output", "from", "record", "config", "key"] {
            assert!(!key.option.split('-').any(|part| part == word), "{key} must not be configurable");
        }
    }
}
