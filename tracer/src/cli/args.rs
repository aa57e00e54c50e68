//! The command line.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use ipnet::IpNet;

use super::netns::{self, NetnsArg};
use crate::cause::{Cause, Reason};
use crate::diagnosis::MitigationId;
use crate::filter::Filter;
use crate::kernel::era::Era;
use crate::mitigate::journal::DIRECTORY;
use crate::source::rotate::Policy;

/// Says who reset a TCP connection behind this Linux gateway, and why.
///
/// whyrst listens to the few kernel functions where conntrack refuses a packet and where a RST is made, joins what they
/// say about the same packet, and tells the story of each flow: which packet, why it was refused, who answered with a RST,
/// whether that killed the connection, and what would cure it. A packet that conntrack finds valid costs nothing.
#[derive(Debug, Parser)]
#[command(name = "whyrst", version, max_term_width = 100, arg_required_else_help = true, after_help = AFTER_HELP)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
    #[command(flatten)]
    pub(super) global: Global,
}

/// In place of a file of the journal.
pub(super) const LATEST: &str = "latest";

const AFTER_HELP: &str = "\
Examples:
  whyrst report --duration 60s                   who reset connections in this minute, and why
  whyrst record -o incident.whyrst               keep the evidence; Ctrl-C ends
  whyrst report --from incident.whyrst           on any machine, without root
  whyrst explain seq-under                       what a word of the report means

Exit status: 0 done; 1 a cause of --fail-on was found; 2 usage or run-time error; 3 this host cannot be traced.";

/// Above the options of every command in `--help`.
const EVERYWHERE: &str = "Options of every command";

/// Options of every command.
#[derive(Debug, Args)]
pub(super) struct Global {
    /// When to use colours
    #[arg(long, value_enum, default_value_t = Color::Auto, global = true, help_heading = EVERYWHERE, value_name = "WHEN")]
    pub(super) color: Color,
    /// Whose time the text outputs tell; JSON is always UTC
    #[arg(long, value_enum, default_value_t = Time::Utc, global = true, help_heading = EVERYWHERE, value_name = "ZONE")]
    pub(super) time: Time,
    /// Say nothing on standard error but errors
    #[arg(short, long, global = true, help_heading = EVERYWHERE)]
    pub(super) quiet: bool,
    /// Diagnostics on standard error: error, warn, info, debug or trace, or `target=level,…` (bpf=debug lets the BPF
    /// programs speak)
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "FILTER", default_value = "warn")]
    pub(super) log: String,
    /// Read defaults of options from this file [default: /etc/whyrst.toml, where it is there]
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "no_config")]
    pub(super) config: Option<PathBuf>,
    /// Read no configuration file
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub(super) no_config: bool,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl From<Color> for clap::ColorChoice {
    fn from(color: Color) -> Self {
        match color {
            Color::Auto => Self::Auto,
            Color::Always => Self::Always,
            Color::Never => Self::Never,
        }
    }
}

/// Whose time is told.
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
    Export(Export),
    Explain(Explain),
    /// Print the defaults in force, and where each comes from
    ///
    /// Options that are not given take their value from the environment (variables such as `WHYRST_REPORT_DURATION`), else
    /// from the configuration file, else what is built in. The output has the form of a configuration file.
    #[command(after_help = "\
Examples:
  whyrst config
  whyrst config --no-config > whyrst.toml        a file to begin with
  whyrst config --config whyrst.toml             is it right?")]
    Config,
    /// Print what completes command lines in a shell
    #[command(after_help = "\
Examples:
  whyrst completions bash > /etc/bash_completion.d/whyrst
  whyrst completions zsh > /usr/local/share/zsh/site-functions/_whyrst
  whyrst completions fish > /etc/fish/completions/whyrst.fish")]
    Completions {
        /// Which shell
        #[arg(value_enum)]
        shell: CompletedShell,
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
    Doctor(Doctor),
    Mitigate(Mitigate),
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
    /// Whether it says the same on every host, whatever is configured.
    pub(super) const fn is_timeless(&self) -> bool {
        matches!(self, Self::Schema { .. } | Self::Completions { .. } | Self::Man { .. })
    }
}

/// Shells whose command lines can be completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum CompletedShell {
    /// GNU Bash, with the package bash-completion or without
    Bash,
    /// Z shell
    Zsh,
    /// fish
    Fish,
}

impl From<CompletedShell> for Shell {
    fn from(shell: CompletedShell) -> Self {
        match shell {
            CompletedShell::Bash => Self::Bash,
            CompletedShell::Zsh => Self::Zsh,
            CompletedShell::Fish => Self::Fish,
        }
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

/// Tell whether this host can be traced, and whether its conntrack is healthy
///
/// Looks at the table, its counters (twice, to know how fast they grow), the sysctls, the rules and the NAT ports, and says
/// what is wrong, the most urgent first, with the numbers behind it and the commands that help. It changes nothing. As root
/// it sees everything; without privileges it says what it could not read. docs/doctor.md explains each finding.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  whyrst doctor                                  the network namespace that whyrst runs in
  whyrst doctor --netns gateway                  another one, by its name or inode number
  whyrst doctor --all-netns --interval 10s       all that can be found; rates over ten seconds
  whyrst doctor --fail-on critical -o /dev/null    for monitoring: exit status 1
  whyrst doctor --format json | jq '.findings[].id'")]
pub(super) struct Doctor {
    /// Format of the result
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
    /// A network namespace: its inode number, its name as `ip netns` knows it, or a path; may be given several times
    /// [default: the one that whyrst runs in]
    #[arg(long, value_name = "NETNS", conflicts_with = "all_netns")]
    pub(super) netns: Vec<NetnsArg>,
    /// Every network namespace that has a name or a process
    #[arg(long)]
    pub(super) all_netns: bool,
    /// Exit with status 1 if there is a finding of this severity or above [default: never]
    #[arg(long, value_name = "SEVERITY", value_enum)]
    pub(super) fail_on: Option<Urgency>,
    /// Time between the two looks at the counters, e.g. 1s, 500ms, 1m
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1s")]
    pub(super) interval: Duration,
    /// Write the result to this file [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    /// List every hook, sysctl and rule
    #[arg(short, long)]
    pub(super) verbose: bool,
}

/// Severities that a check can fail on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Urgency {
    /// Connections fail, or are about to, or whyrst cannot see why.
    Warning,
    /// Connections fail.
    Critical,
}

/// Explain a cause, a reason, or the kernel's own log lines
///
/// A word of the report (out-of-window, seq-under, expired, …) prints what the network did, what the kernel did, how whyrst
/// knows, how to confirm it by hand, and what cures it at what price. A file, or standard input, is read as a kernel log:
/// packets are counted per cause, reason and flow, and lines that do not mean INVALID are called so. Needs no privileges.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  whyrst explain seq-under
  dmesg | whyrst explain
  journalctl -k --since -1h | whyrst explain --format json
  whyrst explain /var/log/kern.log")]
pub(super) struct Explain {
    /// A cause or reason, or a file; `-` is standard input
    #[arg(value_name = "WORD|FILE", value_hint = ValueHint::AnyPath)]
    pub(super) what: Option<String>,
    /// Format of what a log says
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
    /// Which kernel wrote the log, where its words do not tell: e1 (5.10), e2 (5.15 to 6.0), e3 or e4 (6.1 and later) [default: what its
    /// words tell]
    #[arg(long, value_name = "ERA", value_parser = PossibleValuesParser::new(["e1", "e2", "e3", "e4"]).map(|word| Era::from_name(&word).unwrap_or(Era::Unknown)))]
    pub(super) era: Option<Era>,
    /// List every flow
    #[arg(short, long)]
    pub(super) verbose: bool,
}

/// Tell, per flow, who sent the RST and why
///
/// Captures until `--duration` has passed or Ctrl-C, then prints the report. Needs root; with `--from` it needs nothing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  whyrst report                                  until Ctrl-C
  whyrst report --duration 60s --format json -o report.json
  whyrst report --from incident.whyrst --format html -o incident.html
  whyrst report --server 203.0.113.0/24 --port 443
  whyrst report --record incident.whyrst         and keep the evidence
  whyrst report --from incident.whyrst           on any machine, without root
  whyrst report --from /var/lib/whyrst           all files of a recording that was rotated
  whyrst report --compare before.whyrst after.whyrst   did the change help?")]
pub(super) struct Report {
    #[command(flatten)]
    pub(super) source: Source,
    #[command(flatten)]
    pub(super) filter: FilterArgs,
    #[command(flatten)]
    pub(super) redaction: Redaction,
    #[command(flatten)]
    pub(super) keeping: Keeping,
    /// Also write the events to this file, for `--from` [default: none]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "from")]
    pub(super) record: Option<PathBuf>,
    /// Put two recordings side by side, as before and after a change: rates per minute and whether they differ. --fail-on
    /// looks at the second [default: none]
    #[arg(
        long,
        num_args = 2,
        value_names = ["BEFORE", "AFTER"],
        conflicts_with_all = ["from", "record", "duration", "wait", "tap", "new_refused", "without_kprobes"]
    )]
    pub(super) compare: Vec<PathBuf>,
    /// Format of the report
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    pub(super) format: ReportFormat,
    /// Write the report to this file [default: standard output]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) output: Option<PathBuf>,
    /// Tell every flow, also those that nothing happened to
    #[arg(short, long)]
    pub(super) verbose: bool,
    /// Exit with status 1 if a flow has one of these causes [default: none]
    #[arg(long, value_name = "CAUSE", value_delimiter = ',', value_parser = cause_parser())]
    pub(super) fail_on: Vec<Cause>,
}

/// Print one line per event as it happens
///
/// Every line stands for itself: time, hook, verdict, cause/reason, the segment as tcpdump prints it, key=value pairs.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  whyrst trace
  whyrst trace --client 10.0.0.0/8 --cause out-of-window
  whyrst trace --from incident.whyrst --format json | jq .cause")]
pub(super) struct Trace {
    #[command(flatten)]
    pub(super) source: Source,
    #[command(flatten)]
    pub(super) filter: FilterArgs,
    #[command(flatten)]
    pub(super) redaction: Redaction,
    /// Format of a line
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
}

/// Write the raw events to a file that every --from reads
///
/// The file tells what host and kernel it comes from. It is created readable by its owner alone.
///
/// With --rotate, --rotate-every or both it is a flight recorder: FILE becomes a row of files, named after it with the time
/// and a number, each of which can be read by itself or with the others. SIGHUP begins the next file at once. When the disk
/// is full the oldest files are given up first.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  whyrst record -o incident.whyrst --duration 10m
  whyrst record -o /var/lib/whyrst/gw.whyrst.zst --rotate 64MiB --keep 8
  ssh gateway whyrst record -o - | whyrst report --from -
  whyrst record --from incident.whyrst -o one-client.whyrst.zst --client 10.0.0.2
  whyrst record --from incident.whyrst -o for-others.whyrst --redact")]
pub(super) struct Record {
    /// The file; `-` is standard output
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) output: PathBuf,
    #[command(flatten)]
    pub(super) source: Source,
    #[command(flatten)]
    pub(super) keeping: Keeping,
    #[command(flatten)]
    pub(super) filter: FilterArgs,
    #[command(flatten)]
    pub(super) redaction: Redaction,
}

/// What is hidden of whose connections they are.
#[derive(Debug, Args)]
#[command(next_help_heading = "Redaction (see docs/recordings.md for what it does not hide)")]
pub(super) struct Redaction {
    /// Replace addresses and names of hosts, interfaces, namespaces and processes by pseudonyms in everything that is
    /// written. Networks stay together, private addresses private, ports and the diagnosis what they are. With a new random
    /// key, which nobody keeps
    #[arg(long)]
    pub(super) redact: bool,
    /// Redact with the key in this file (64 hexadecimal digits), so that the same host has the same pseudonym everywhere.
    /// Whoever has the key can tell who is who [default: none]
    #[arg(long, value_name = "FILE")]
    pub(super) redact_key: Option<PathBuf>,
    /// Write a new random key to this file, and redact with it [default: none]
    #[arg(long, value_name = "FILE", conflicts_with = "redact_key")]
    pub(super) redact_new_key: Option<PathBuf>,
}

/// How a recording is kept.
#[derive(Debug, Args)]
pub(super) struct Keeping {
    /// Compress the recording with zstd; a name that ends in .zst asks for it too
    #[arg(long)]
    pub(super) compress: bool,
    /// Begin another file once one has about this size, e.g. 64MiB [default: never]
    #[arg(long, value_name = "SIZE", value_parser = size, conflicts_with = "from")]
    pub(super) rotate: Option<u64>,
    /// Begin another file once one has been written to for this long, e.g. 1h [default: never]
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "from")]
    pub(super) rotate_every: Option<Duration>,
    /// Files that --rotate keeps besides the one that is written; those of earlier runs count [default: 8]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..), conflicts_with = "from")]
    pub(super) keep: Option<u16>,
}

/// Files that are kept where the user does not say how many.
const KEEP: u16 = 8;

impl Keeping {
    /// When files of this recording are to change; none where they are not.
    pub(super) fn policy(&self, file: &Path) -> anyhow::Result<Option<Policy>> {
        if self.rotate.is_none() && self.rotate_every.is_none() {
            if self.keep.is_some() {
                bail!("--keep says how many files --rotate keeps; give --rotate SIZE or --rotate-every TIME");
            }
            return Ok(None);
        }
        if file == Path::new("-") {
            bail!("--rotate needs files to rotate: give -o a file's name instead of `-`");
        }
        let keep = usize::from(self.keep.unwrap_or(KEEP));
        Ok(Some(Policy { size: self.rotate, every: self.rotate_every, keep }))
    }

    /// Whether anything was asked for.
    pub(super) const fn is_asked(&self) -> bool {
        self.compress || self.rotate.is_some() || self.rotate_every.is_some() || self.keep.is_some()
    }
}

/// Print what cures a reason on this host, apply it, and take it back
///
/// Without ID: all cures, and which apply here. With ID: its commands in this host's own tools, what they cost, how they are
/// undone and how they outlive a reboot. They are for the connections of a recording (`--from`), else for the addresses that
/// this host translates to.
///
/// `--apply` shows the commands, asks, writes down what there was before, runs them one by one, takes everything back if one
/// fails, and compares the kernel's counters of refused packets and RSTs before and after. `--undo` restores what there was
/// before. What outlives a reboot is printed, never done.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  whyrst mitigate                                         which cures are there, and which apply here?
  whyrst mitigate drop-invalid-input --from incident.whyrst
  whyrst mitigate drop-invalid-input --address 192.0.2.1 --interface wan0
  whyrst mitigate be-liberal --apply                      shows, asks, applies, measures for 10 s before and after
  whyrst mitigate be-liberal --apply --yes --watch 60s    for scripts
  whyrst mitigate be-liberal --undo
  whyrst mitigate untrack-service --service 198.51.100.7:443 --netns gateway")]
pub(super) struct Mitigate {
    /// The cure, as reports name it
    #[arg(value_name = "ID", value_parser = mitigation_parser())]
    pub(super) id: Option<MitigationId>,
    /// Take the connections to be cured from this recording; `-` is standard input [default: what this host shows]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["address", "interface", "service", "netns", "undo"])]
    pub(super) from: Option<PathBuf>,
    /// An address that connections are translated to [default: those that rules of this host translate to]
    #[arg(long, value_name = "ADDRESS")]
    pub(super) address: Vec<std::net::IpAddr>,
    /// The interface that answers come in by [default: the one that those rules name]
    #[arg(long, value_name = "NAME", value_parser = interface)]
    pub(super) interface: Option<String>,
    /// A service that is to be exempt from tracking, e.g. 198.51.100.7:443; IPv6 addresses in brackets [default: none]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = service)]
    pub(super) service: Vec<std::net::SocketAddr>,
    /// The network namespace: its inode number, or its name as `ip netns` knows it [default: the one that whyrst runs in]
    #[arg(long, value_name = "NETNS")]
    netns: Option<NetnsArg>,
    /// Apply it; needs root
    #[arg(long, requires = "id")]
    pub(super) apply: bool,
    /// Take it back: the one of this file of the journal [default: the latest application]
    #[arg(long, requires = "id", conflicts_with = "apply", num_args = 0..=1, require_equals = true, value_name = "ENTRY", default_missing_value = LATEST)]
    pub(super) undo: Option<String>,
    /// Do not ask
    #[arg(short, long)]
    pub(super) yes: bool,
    /// Take it back although somebody has changed it since
    #[arg(long, requires = "undo")]
    pub(super) force: bool,
    /// With --apply: count refused packets and RSTs for so long, before and after; 0 does not
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration_or_none)]
    pub(super) watch: Duration,
    /// Where the journal is kept
    #[arg(long, value_name = "DIR", default_value = DIRECTORY)]
    pub(super) state_dir: PathBuf,
    /// Format of what is printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
    /// Write it to this file [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
}

impl Mitigate {
    /// The inode number of the namespace that was asked for.
    pub(super) fn netns(&self) -> anyhow::Result<Option<u32>> {
        Ok(netns::on_this_host(self.netns.as_slice())?.pop())
    }
}

/// Hand the evidence of a recording to other tools
///
/// pcapng: the packets that the hooks saw, as far as their headers were read, and the RSTs that answered them, with the cause
/// as a comment on each. jsonl: the capture, its flows and every event in full, one object a line. csv: the flows, one a line.
/// The recording is read twice, so that every packet can carry what its flow came to; what is piped in is kept in a temporary
/// file meanwhile.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  whyrst export --from incident.whyrst --format pcapng -o incident.pcapng
  whyrst export --from incident.whyrst --format pcapng --server 203.0.113.0/24 | wireshark -k -i -
  whyrst export --from incident.whyrst --format jsonl | jq 'select(.line == \"event\")'
  whyrst export --from incident.whyrst --format csv -o flows.csv
  ssh gateway whyrst record -o - --duration 60s | whyrst export --from - --format csv")]
pub(super) struct Export {
    /// The recordings: files of one boot of one host, or directories with such files; `-` is standard input
    #[arg(long, value_name = "FILE", num_args = 1.., required = true, value_hint = ValueHint::AnyPath)]
    pub(super) from: Vec<PathBuf>,
    /// What to write
    #[arg(long, value_enum)]
    pub(super) format: ExportFormat,
    /// Write to this file; `-` is standard output [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    /// pcapng: leave out the RSTs, which are computed from what they answer and not captured
    #[arg(long)]
    pub(super) captured_only: bool,
    #[command(flatten)]
    pub(super) filter: FilterArgs,
    #[command(flatten)]
    pub(super) redaction: Redaction,
}

/// Formats of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ExportFormat {
    /// Packets, for Wireshark and tshark
    Pcapng,
    /// Events in full, for programs, see `whyrst schema export`
    Jsonl,
    /// Flows, for spreadsheets
    Csv,
}

/// Where events come from.
#[derive(Debug, Args)]
pub(super) struct Source {
    /// Read recordings: files of one boot of one host, or directories with such files; `-` is standard input [default: the
    /// running kernel]
    #[arg(long, value_name = "FILE", num_args = 1.., value_hint = ValueHint::AnyPath,
        conflicts_with_all = ["duration", "wait", "tap", "new_refused", "without_kprobes"])]
    pub(super) from: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) live: LiveArgs,
}

/// How to capture.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[derive(Debug, Args)]
pub(super) struct LiveArgs {
    /// End after this time, e.g. 60s, 5m, 1h30m; a bare number is seconds [default: at Ctrl-C or SIGTERM]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(super) duration: Option<Duration>,
    /// Wait for nf_conntrack to be loaded, if it is not
    #[arg(long)]
    pub(super) wait: bool,
    /// Also watch every RST that arrives, so that those of the ends are proven. Price: a BPF program that looks at a few
    /// bytes of every packet that arrives, in this namespace or in those of --netns
    #[arg(long)]
    pub(super) tap: bool,
    /// Also watch conntrack judge the first packet of each connection, so that a silent refusal is proven (up to 6.6, and
    /// with `tcp_loose=0`). Price: a kretprobe per new connection
    #[arg(long)]
    pub(super) new_refused: bool,
    /// Do without kprobes, for kernels that have none: the tracepoint `tcp:tcp_send_reset` (6.10 and later) tells who sent
    /// a RST and whether conntrack had refused the segment, but not why; every cause is inferred
    #[arg(long, conflicts_with = "new_refused")]
    pub(super) without_kprobes: bool,
}

/// Above the filters in `--help`.
const FILTERS: &str = "Filters (each may be given several times; any value matches)";

/// Which flows to look at.
#[derive(Debug, Args)]
pub(super) struct FilterArgs {
    /// The side that opened the connection, before NAT: an address or a network [default: any]
    #[arg(long, help_heading = FILTERS, value_name = "CIDR", value_parser = network)]
    client: Vec<IpNet>,
    /// The other side, behind any destination NAT: an address or a network [default: any]
    #[arg(long, help_heading = FILTERS, value_name = "CIDR", value_parser = network)]
    server: Vec<IpNet>,
    /// The client's address as the server sees it: an address or a network [default: any]
    #[arg(long, help_heading = FILTERS, value_name = "CIDR", value_parser = network)]
    nat: Vec<IpNet>,
    /// A port of any of the endpoints [default: any]
    #[arg(long, help_heading = FILTERS, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Vec<u16>,
    /// A network namespace: its inode number, its name as `ip netns` knows it (or as the recording does), or a path such
    /// as /proc/PID/ns/net [default: any]
    #[arg(long, help_heading = FILTERS, value_name = "NETNS")]
    netns: Vec<NetnsArg>,
    /// A cause [default: any]
    #[arg(long, help_heading = FILTERS, value_name = "CAUSE", value_delimiter = ',', value_parser = cause_parser())]
    cause: Vec<Cause>,
}

impl FilterArgs {
    /// Resolves names of namespaces: on this host, or in a recording.
    pub(super) fn resolve(&self, recordings: &[PathBuf]) -> anyhow::Result<Filter> {
        let netns = if recordings.is_empty() {
            netns::on_this_host(&self.netns)?
        } else {
            netns::in_recording(&self.netns, recordings)?
        };
        Ok(Filter {
            client: self.client.clone(),
            server: self.server.clone(),
            nat: self.nat.clone(),
            ports: self.port.clone(),
            netns,
            causes: self.cause.clone(),
        })
    }
}

/// Formats of `whyrst report`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ReportFormat {
    /// For eyes
    Text,
    /// For programs, see `whyrst schema`
    Json,
    /// A page with pictures, in one file, for a browser and for others
    Html,
}

/// Formats of everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For eyes
    Text,
    /// For programs, see `whyrst schema`
    Json,
}

fn cause_parser() -> impl TypedValueParser<Value = Cause> {
    CauseParser
}

/// Takes causes; of reasons it says what they are reasons of.
#[derive(Clone)]
struct CauseParser;

impl CauseParser {
    fn words() -> PossibleValuesParser {
        PossibleValuesParser::new(Cause::ALL.iter().map(|cause| cause.name()))
    }
}

impl TypedValueParser for CauseParser {
    type Value = Cause;

    fn parse_ref(&self, command: &clap::Command, arg: Option<&Arg>, value: &OsStr) -> Result<Cause, clap::Error> {
        let word = value.to_str().unwrap_or_default();
        if let Ok(cause) = word.parse() {
            return Ok(cause);
        }
        if let Ok(reason) = word.parse::<Reason>() {
            let text = format!("'{word}' is a reason, not a cause: its cause is {}", reason.cause());
            return Err(clap::Error::raw(ErrorKind::ValueValidation, text).with_cmd(command));
        }
        // Says which there are, and which may have been meant.
        Self::words().parse_ref(command, arg, value)?;
        Err(clap::Error::new(ErrorKind::InvalidValue).with_cmd(command))
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let words: Vec<PossibleValue> = Cause::ALL.iter().map(|cause| PossibleValue::new(cause.name())).collect();
        Some(Box::new(words.into_iter()))
    }
}

fn mitigation_parser() -> impl TypedValueParser<Value = MitigationId> {
    let names = MitigationId::ALL.iter().map(|id| id.name());
    PossibleValuesParser::new(names).try_map(|word| word.parse::<MitigationId>())
}

/// A name that an interface can have (`dev_valid_name`).
fn interface(text: &str) -> Result<String, String> {
    let valid = (1..16).contains(&text.len()) && text != "." && text != "..";
    let odd = |it: char| it == '/' || it == ':' || it.is_whitespace() || it.is_control();
    if valid && !text.contains(odd) { Ok(text.to_owned()) } else { Err("no interface can have that name".to_owned()) }
}

fn service(text: &str) -> Result<std::net::SocketAddr, String> {
    let parsed = text.parse::<std::net::SocketAddr>().ok().filter(|service| service.port() != 0);
    parsed.ok_or_else(|| "not an address with a port like 198.51.100.7:443 or [2001:db8::7]:443".to_owned())
}

fn duration_or_none(text: &str) -> Result<Duration, String> {
    if ["0", "0s"].contains(&text) { Ok(Duration::ZERO) } else { duration(text) }
}

fn network(text: &str) -> Result<IpNet, String> {
    let parsed = text.parse::<IpNet>().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from));
    parsed.ok_or_else(|| "not an address or network like 192.0.2.1, 192.0.2.0/24 or 2001:db8::/32".to_owned())
}

/// The smallest file that --rotate makes: what every file begins with fits several times.
const SMALLEST: u64 = 16 << 10;

fn size(text: &str) -> Result<u64, String> {
    let Ok(size) = text.parse::<bytesize::ByteSize>() else {
        return Err("not a size like 64MiB, 500MB or 1GiB".to_owned());
    };
    if size.0 < SMALLEST { Err(format!("less than {} KiB", SMALLEST >> 10)) } else { Ok(size.0) }
}

fn duration(text: &str) -> Result<Duration, String> {
    // A bare number is seconds, as with sleep(1).
    let text = if text.bytes().all(|byte| byte.is_ascii_digit()) { format!("{text}s") } else { text.to_owned() };
    let Ok(parsed) = text.parse::<jiff::SignedDuration>() else {
        return Err("not a time like 60s, 5m or 1h30m".to_owned());
    };
    match Duration::try_from(parsed) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("must be longer than nothing".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Arguments, duration, network};
    use clap::CommandFactory as _;
    use rstest::rstest;
    use std::time::Duration;

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
