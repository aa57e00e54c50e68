//! What wins over what, and what is said of mistakes.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use clap::{CommandFactory as _, FromArgMatches as _};
use proptest::prelude::*;
use rstest::rstest;

use super::file::{parse, trusted};
use super::options::{Place, key, places};
use super::{Configuration, exclude, overrule, typed};
use crate::cli::args::{Arguments, Color, Command, Report, ReportFormat};

/// What comes of a command line, an environment and a file.
fn resolve(words: &str, environment: &[(&str, &str)], file: &str) -> Result<Arguments, String> {
    let words: Vec<OsString> = format!("whyrst {words}").split(' ').map(OsString::from).collect();
    let typed = typed(Arguments::command(), &words);
    let command = Arguments::command();
    let variables = environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect();
    let told = |error: anyhow::Error| error.to_string();
    let (upper, remarks) = super::environment::read(&command, variables).map_err(told)?;
    let lower = parse(file, Path::new("w.toml"), &command).map_err(told)?;
    let settings = overrule(&command, lower, upper);
    exclude(&command, &settings).map_err(told)?;
    if !remarks.is_empty() {
        return Err(remarks.join("\n"));
    }
    let command = Configuration { settings, ..Configuration::default() }.apply(command, typed.as_ref());
    let matches = command.try_get_matches_from(words).map_err(|error| error.to_string())?;
    Arguments::from_arg_matches(&matches).map_err(|error| error.to_string())
}

fn report(words: &str, environment: &[(&str, &str)], file: &str) -> Report {
    match resolve(words, environment, file).unwrap().command {
        Command::Report(report) => report,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_command_line_wins_over_the_environment_and_that_over_the_file() {
    let file = "[report]\nduration = \"1m\"\nformat = \"json\"\nport = [443, 8443]\nverbose = true\n";
    let environment = [("WHYRST_REPORT_DURATION", "2m"), ("WHYRST_REPORT_VERBOSE", "off")];
    let built_in = report("report", &[], "");
    assert_eq!((built_in.source.live.duration, built_in.format, built_in.verbose), (None, ReportFormat::Text, false));
    let of_file = report("report", &[], file);
    assert_eq!(of_file.source.live.duration, Some(Duration::from_mins(1)));
    assert_eq!((of_file.format, of_file.verbose), (ReportFormat::Json, true));
    let of_environment = report("report", &environment, file);
    assert_eq!(of_environment.source.live.duration, Some(Duration::from_mins(2)));
    assert_eq!((of_environment.format, of_environment.verbose), (ReportFormat::Json, false));
    let typed = report("report --duration 3m --format text", &environment, file);
    assert_eq!(typed.source.live.duration, Some(Duration::from_mins(3)));
    assert_eq!(typed.format, ReportFormat::Text);
    assert_eq!(typed.filter.resolve(&[]).unwrap().ports, [443, 8443]);
    let other_ports = report("report --port 80", &[], file);
    assert_eq!(other_ports.filter.resolve(&[]).unwrap().ports, [80], "a list is replaced, not added to");
}

#[test]
fn options_of_every_command() {
    let color = |words, environment: &[(&str, &str)], file| resolve(words, environment, file).unwrap().global.color;
    assert_eq!(color("report", &[], "color = \"never\""), Color::Never);
    assert_eq!(color("schema report", &[("WHYRST_COLOR", "always")], "color = \"never\""), Color::Always);
    assert_eq!(color("report --color auto", &[("WHYRST_COLOR", "always")], "color = \"never\""), Color::Auto);
}

/// A default is no reason to refuse what was typed, although the two exclude each other.
#[test]
fn what_is_typed_overrules_what_it_excludes() {
    let file = "[report]\nduration = \"1m\"\nnew-refused = true\ntap = true\n";
    let recorded = report("report --from x", &[], file);
    assert_eq!(recorded.source.live.duration, None);
    assert!(!recorded.source.live.tap && !recorded.source.live.new_refused);
    let live = report("report --without-kprobes", &[], file).source.live;
    assert!(live.without_kprobes && !live.new_refused && live.tap);
    let live = report("report", &[("WHYRST_REPORT_WITHOUT_KPROBES", "1")], file).source.live;
    assert!(live.without_kprobes && !live.new_refused, "the environment overrules the file in the same way");
    let live = report("report", &[("WHYRST_REPORT_WITHOUT_KPROBES", "0")], file).source.live;
    assert!(!live.without_kprobes && live.new_refused);
    assert!(resolve("report --without-kprobes --new-refused", &[], file).is_err(), "both were typed");
}

#[rstest]
#[case::unknown("tme = 1", "w.toml:1: tme is no option of every command; did you mean time?")]
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
#[case::flag("[report]\ntap = \"yes\"", "w.toml:2: report.tap takes true or false, and this is a string")]
#[case::type_of_value("[report]\nformat = [1]", "w.toml:2: report.format takes a string, and this is an array")]
#[case::value("[report]\nformat = \"jsn\"", "w.toml:2: report.format: `jsn` is none of text, json")]
#[case::number("[report]\nport = 70000", "w.toml:2: report.port: `70000`: 70000 is not in 1..=65535")]
#[case::network("[report]\nserver = [\"::/0\", \"x\"]", "w.toml:2: report.server: `x`: not an address or network")]
#[case::file("[report]\noutput = \"x\"", "w.toml:2: output can be given on the command line only, as --output")]
#[case::config("config = \"x\"", "w.toml:1: config can be given on the command line only, as --config")]
#[case::syntax("[report\n", "w.toml:1: ")]
#[case::twice("[report]\ntap = true\ntap = true", "w.toml:3: ")]
#[case::both(
    "[report]\nnew-refused = true\nwithout-kprobes = true",
    "report.new-refused and report.without-kprobes (w.toml:3) exclude each other"
)]
fn mistakes_in_the_file(#[case] file: &str, #[case] expected: &str) {
    let told = resolve("report", &[], file).unwrap_err();
    assert!(told.contains(expected), "{told}");
}

#[test]
fn all_mistakes_are_told_at_once() {
    let told = resolve("report", &[], "tme = 1\n[report]\ntap = 1\nformat = \"x\"").unwrap_err();
    let lines: Vec<&str> = told.lines().map(|line| line.split(' ').next().unwrap_or_default()).collect();
    assert_eq!(lines, ["w.toml:1:", "w.toml:3:", "w.toml:4:"], "{told}");
}

proptest! {
    /// Whatever is in a file, it is understood or refused; what it sets is a key.
    #[test]
    fn any_file_is_understood_or_refused(text in "[\\[\\]a-z= \n\"'0-9{},.#\\\\-]{0,60}|\\[(report|trace)\\]\n(tap|port|format|é) = [^\n]{0,9}\n?") {
        let command = Arguments::command();
        if let Ok(settings) = parse(&text, Path::new("w.toml"), &command) {
            for (key, setting) in settings {
                prop_assert!(super::check(&command, &key, &setting).is_ok(), "{key} {setting:?}");
            }
        }
    }
}

#[rstest]
#[case::unknown("WHYRST_REPORT_DURATOIN", "1m", "names no option; did you mean WHYRST_REPORT_DURATION?")]
#[case::value("WHYRST_REPORT_FORMAT", "jsn", "WHYRST_REPORT_FORMAT: report.format: `jsn` is none of text, json")]
#[case::flag("WHYRST_REPORT_TAP", "maybe", "WHYRST_REPORT_TAP: `maybe` is neither true nor false")]
#[case::list("WHYRST_REPORT_SERVER", "10.0.0.1, x", "WHYRST_REPORT_SERVER: report.server: `x`: not an address")]
#[case::file("WHYRST_RECORD_OUTPUT", "x", "WHYRST_RECORD_OUTPUT names no option")]
fn mistakes_in_the_environment(#[case] name: &str, #[case] value: &str, #[case] expected: &str) {
    let told = resolve("report", &[(name, value)], "").unwrap_err();
    assert!(told.contains(expected), "{told}");
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
    let command = Arguments::command();
    for place in places(&command) {
        let name = if let Place::Command(name) = &place { name } else { "whyrst" };
        for arg in super::options::arguments(&command, &place).filter(|arg| key(arg, &place).is_some()) {
            let option = arg.get_long().unwrap();
            for word in ["apply", "undo", "yes", "force", "output", "from", "record", "config", "key"] {
                assert!(!option.split('-').any(|part| part == word), "{name} --{option} must not be configurable");
            }
        }
    }
}
