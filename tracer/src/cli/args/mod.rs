//! The arguments of the command line.

mod capture;
mod commands;
mod values;

use std::path::PathBuf;

use clap::{Args, ColorChoice, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

use tracer_host::version::{LONG, SHORT};

pub(super) use capture::{FilterArgs, Keeping, LiveArgs, Record, Redaction, Report, ReportFormat, Source, Trace};
pub(super) use commands::{Doctor, Explain, Export, ExportFormat, LATEST, Mitigate, Urgency};

/// Finds out who reset a TCP connection behind this Linux gateway, and why.
///
/// whyrst traces the kernel functions where conntrack refuses a packet and where a RST is built, joins their events on the
/// same packet, and reports each flow: which packet was refused and why, who answered with a RST, whether the RST killed the
/// connection, and the mitigations. A packet that conntrack accepts costs nothing.
#[derive(Debug, Parser)]
#[command(name = "whyrst", version = SHORT, long_version = LONG, max_term_width = 100, arg_required_else_help = true, after_help = AFTER_HELP)]
pub struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
    #[command(flatten)]
    pub(super) global: Global,
}

const AFTER_HELP: &str = "\
Examples:
  whyrst report --duration 60s                   who reset connections in this minute, and why
  whyrst record -o incident.whyrst               keep the evidence; Ctrl-C ends
  whyrst report --from incident.whyrst           on any machine, without root
  whyrst report --from incident.whyrst --format html -o incident.html
  whyrst explain seq-under                       what a word of the report means
  whyrst doctor                                  is conntrack healthy here?
  whyrst mitigate drop-invalid-input             its commands on this host, cost and undo

Exit status: 0 done; 1 a cause of --fail-on was found; 2 usage or run-time error; 3 this host cannot be traced.";

/// Above the options of every command in `--help`.
const EVERYWHERE: &str = "Options of every command";

/// Options of every command.
#[derive(Debug, Args)]
pub(super) struct Global {
    /// When to use colours; auto: on a terminal, unless NO_COLOR is set
    #[arg(long, value_enum, default_value_t = ColorChoice::Auto, global = true, help_heading = EVERYWHERE, value_name = "WHEN")]
    pub(super) color: ColorChoice,
    /// Time zone of text output; JSON is always UTC
    #[arg(long, value_enum, default_value_t = Time::Utc, global = true, help_heading = EVERYWHERE, value_name = "ZONE")]
    pub(super) time: Time,
    /// Print only errors on standard error
    #[arg(short, long, global = true, help_heading = EVERYWHERE)]
    pub(super) quiet: bool,
    /// Diagnostics on standard error: error, warn, info, debug or trace, or `target=level,…` (bpf=debug shows
    /// the messages of the BPF programs)
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "FILTER", default_value = "warn")]
    pub(super) log: String,
    /// Read defaults of options from this file [default: /etc/whyrst.toml, if it exists]
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "no_config")]
    pub(super) config: Option<PathBuf>,
    /// Read no configuration file
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub(super) no_config: bool,
}

/// The time zone of text output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Time {
    /// UTC
    Utc,
    /// This machine's (TZ, /etc/localtime), with its offset
    Local,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Report(Report),
    Trace(Trace),
    Record(Record),
    Doctor(Doctor),
    Mitigate(Mitigate),
    Explain(Explain),
    Export(Export),
    /// Print the current defaults and their origin
    ///
    /// The default of an option comes from the environment (variables such as `WHYRST_REPORT_DURATION`), else from the
    /// configuration file, else from the program. The output has the format of a configuration file.
    #[command(after_help = "\
Examples:
  whyrst config
  whyrst config --no-config > whyrst.toml        a file to start from
  whyrst config --config whyrst.toml             is it right?")]
    Config,
    /// Print the completion script for a shell
    #[command(after_help = "\
Examples:
  whyrst completions bash > /etc/bash_completion.d/whyrst
  whyrst completions zsh > /usr/local/share/zsh/site-functions/_whyrst
  whyrst completions fish > /etc/fish/completions/whyrst.fish")]
    Completions {
        /// Which shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Print a man page, or write all of them
    #[command(after_help = "\
Examples:
  whyrst man report | man -l -
  whyrst man -o /usr/local/share/man/man1")]
    Man {
        /// Of which command [default: of whyrst itself]
        #[arg(conflicts_with = "output")]
        command: Option<String>,
        /// Write the pages of all commands into this directory [default: print one page]
        #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        output: Option<PathBuf>,
    },
    /// Print the JSON Schema of an output
    #[command(after_help = "\
Examples:
  whyrst schema report > whyrst.report.v1.json")]
    Schema {
        /// Which output
        #[arg(value_enum)]
        name: SchemaName,
    },
}

impl Command {
    /// Whether its output is independent of host and configuration.
    pub(super) const fn is_constant(&self) -> bool {
        matches!(self, Self::Schema { .. } | Self::Completions { .. } | Self::Man { .. })
    }
}

/// Outputs that have a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum SchemaName {
    /// `whyrst report --format json`
    Report,
    /// A line of `whyrst trace --format json`
    Trace,
    /// `whyrst explain --format json`
    Explain,
    /// `whyrst doctor --format json`
    Doctor,
    /// `whyrst mitigate --format json`
    Mitigate,
    /// A line of `whyrst export --format jsonl`
    Export,
    /// `whyrst report --compare --format json`
    Compare,
}

/// Formats of everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Text, for a terminal
    Text,
    /// JSON, see `whyrst schema`
    Json,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::CommandFactory as _;
    use rstest::rstest;

    use super::Arguments;
    use super::values::{duration, network};

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[rstest]
    #[case("60s", Some(60_000))]
    #[case("60", Some(60_000))]
    #[case("500ms", Some(500))]
    #[case("1h30m", Some(5_400_000))]
    #[case("0s", None)]
    #[case("-5s", None)]
    #[case("soon", None)]
    #[case("", None)]
    fn durations(#[case] text: &str, #[case] millis: Option<u64>) {
        assert_eq!(duration(text).ok(), millis.map(Duration::from_millis));
    }

    #[rstest]
    #[case("10.0.0.2", Some("10.0.0.2/32"))]
    #[case("10.0.0.0/8", Some("10.0.0.0/8"))]
    #[case("2001:db8::1", Some("2001:db8::1/128"))]
    #[case("10.0.0.0/33", None)]
    #[case("gateway", None)]
    fn networks(#[case] text: &str, #[case] expected: Option<&str>) {
        assert_eq!(network(text).ok().map(|net| net.to_string()).as_deref(), expected);
    }
}
