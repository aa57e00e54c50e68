//! Arguments of `report`, `trace` and `record`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use clap::{Args, ValueEnum, ValueHint};
use ipnet::IpNet;

use tracer_model::cause::Cause;
use tracer_model::filter::Filter;
use tracer_recording::rotate::Policy;

use super::Format;
use super::values::{cause_parser, duration, network, size};
use crate::cli::netns;
use crate::cli::netns::NetnsArg;

/// Report per flow who sent the RST, and why
///
/// Captures until `--duration` has passed or Ctrl-C (SIGINT, SIGTERM, SIGHUP), then prints the report. Needs root, but not
/// with `--from`.
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
pub(in crate::cli) struct Report {
    #[command(flatten)]
    pub(in crate::cli) source: Source,
    #[command(flatten)]
    pub(in crate::cli) filter: FilterArgs,
    #[command(flatten)]
    pub(in crate::cli) redaction: Redaction,
    #[command(flatten)]
    pub(in crate::cli) keeping: Keeping,
    /// Also record the events in this file, for `--from` [default: none]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "from")]
    pub(in crate::cli) record: Option<PathBuf>,
    /// Compare two recordings, before and after a change: rates per minute, and whether they differ. --fail-on applies to the
    /// second [default: none]
    #[arg(
        long,
        num_args = 2,
        value_names = ["BEFORE", "AFTER"],
        conflicts_with_all = ["from", "record", "duration", "wait", "tap", "new_refused", "without_kprobes"]
    )]
    pub(in crate::cli) compare: Vec<PathBuf>,
    /// Format of the report
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    pub(in crate::cli) format: ReportFormat,
    /// Write the report to this file [default: standard output]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(in crate::cli) output: Option<PathBuf>,
    /// Report every flow, including those that were not reset
    #[arg(short, long)]
    pub(in crate::cli) verbose: bool,
    /// Exit with status 1 if a flow has one of these causes [default: none]
    #[arg(long, value_name = "CAUSE", value_delimiter = ',', value_parser = cause_parser())]
    pub(in crate::cli) fail_on: Vec<Cause>,
}

/// Print one line per event as it happens
///
/// Each line is self-contained: time, hook, verdict, cause/reason, the segment as tcpdump prints it, key=value pairs.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  whyrst trace
  whyrst trace --client 10.0.0.0/8 --cause out-of-window
  whyrst trace --from incident.whyrst --format json | jq .cause")]
pub(in crate::cli) struct Trace {
    #[command(flatten)]
    pub(in crate::cli) source: Source,
    #[command(flatten)]
    pub(in crate::cli) filter: FilterArgs,
    #[command(flatten)]
    pub(in crate::cli) redaction: Redaction,
    /// Format of a line
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(in crate::cli) format: Format,
}

/// Record the raw events in a file for --from
///
/// The file names its host and kernel. Only its owner can read it.
///
/// --rotate and --rotate-every make a flight recorder: a series of files, named after FILE with the time and a number. Each
/// can be read alone or together with the others. SIGHUP starts the next file at once. If the disk is full, the oldest files
/// are deleted first. SIGHUP ends a recording in a single file, as Ctrl-C does.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  whyrst record -o incident.whyrst --duration 10m
  whyrst record -o /var/lib/whyrst/gw.whyrst.zst --rotate 64MiB --keep 8
  ssh gateway whyrst record -o - | whyrst report --from -
  whyrst record --from incident.whyrst -o one-client.whyrst.zst --client 10.0.0.2
  whyrst record --from incident.whyrst -o for-others.whyrst --redact")]
pub(in crate::cli) struct Record {
    /// The file; `-` is standard output
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(in crate::cli) output: PathBuf,
    #[command(flatten)]
    pub(in crate::cli) source: Source,
    #[command(flatten)]
    pub(in crate::cli) keeping: Keeping,
    #[command(flatten)]
    pub(in crate::cli) filter: FilterArgs,
    #[command(flatten)]
    pub(in crate::cli) redaction: Redaction,
}

/// Redaction of addresses and names.
#[derive(Debug, Args)]
#[command(next_help_heading = "Redaction (see docs/recordings.md for what it does not hide)")]
pub(in crate::cli) struct Redaction {
    /// Replace addresses and names of hosts, interfaces, namespaces and processes by pseudonyms in all output. Addresses of
    /// one network stay in one network, private addresses stay private, ports and the diagnosis do not change. The key is
    /// random and not kept
    #[arg(long)]
    pub(in crate::cli) redact: bool,
    /// Redact with the key in this file (64 hexadecimal digits): a host gets the same pseudonym in every output. The key
    /// reveals the real addresses and names [default: none]
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) redact_key: Option<PathBuf>,
    /// Write a new random key to this file and redact with it [default: none]
    #[arg(long, value_name = "FILE", conflicts_with = "redact_key")]
    pub(in crate::cli) redact_new_key: Option<PathBuf>,
}

/// Compression and rotation of a recording.
#[derive(Debug, Args)]
pub(in crate::cli) struct Keeping {
    /// Compress the recording with zstd; a file name that ends in .zst does too
    #[arg(long)]
    pub(in crate::cli) compress: bool,
    /// Start the next file at about this size, e.g. 64MiB [default: never]
    #[arg(long, value_name = "SIZE", value_parser = size, conflicts_with = "from")]
    pub(in crate::cli) rotate: Option<u64>,
    /// Start the next file after this time, e.g. 1h [default: never]
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "from")]
    pub(in crate::cli) rotate_every: Option<Duration>,
    /// Files that --rotate keeps besides the current one, including those of earlier runs [default: 8]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..), conflicts_with = "from")]
    pub(in crate::cli) keep: Option<u16>,
}

/// Default of `--keep`.
const KEEP: u16 = 8;

impl Keeping {
    /// When to start the next file; none without rotation.
    pub(in crate::cli) fn policy(&self, file: &Path) -> anyhow::Result<Option<Policy>> {
        if self.rotate.is_none() && self.rotate_every.is_none() {
            if self.keep.is_some() {
                bail!("--keep needs --rotate SIZE or --rotate-every TIME");
            }
            return Ok(None);
        }
        if file == Path::new("-") {
            bail!("--rotate cannot write to standard output: name a file with -o");
        }
        let keep = usize::from(self.keep.unwrap_or(KEEP));
        Ok(Some(Policy { size: self.rotate, every: self.rotate_every, keep }))
    }

    /// Whether any of these options was given.
    pub(in crate::cli) const fn is_asked(&self) -> bool {
        self.compress || self.rotate.is_some() || self.rotate_every.is_some() || self.keep.is_some()
    }
}

/// The source of events.
#[derive(Debug, Args)]
pub(in crate::cli) struct Source {
    /// Read recordings: files of one boot of one host, or directories with such files; `-` is standard input [default: the
    /// running kernel]
    #[arg(long, value_name = "FILE", num_args = 1.., value_hint = ValueHint::AnyPath,
        conflicts_with_all = ["duration", "wait", "tap", "new_refused", "without_kprobes"])]
    pub(in crate::cli) from: Vec<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) live: LiveArgs,
}

/// Options of a capture.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[derive(Debug, Args)]
pub(in crate::cli) struct LiveArgs {
    /// End after this time, e.g. 60s, 5m, 1h30m; a number without a unit is seconds [default: at Ctrl-C or SIGTERM]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(in crate::cli) duration: Option<Duration>,
    /// Wait until nf_conntrack is loaded
    #[arg(long)]
    pub(in crate::cli) wait: bool,
    /// Also capture every RST at ingress, which proves the RSTs of the endpoints. Cost: a BPF program reads a few bytes of
    /// every incoming packet, in this namespace or in those of --netns
    #[arg(long)]
    pub(in crate::cli) tap: bool,
    /// Also trace conntrack's verdict on the first packet of each connection, which proves a silent refusal (up to 6.6, and
    /// with `tcp_loose=0`). Cost: a kretprobe per new connection
    #[arg(long)]
    pub(in crate::cli) new_refused: bool,
    /// Use no kprobes, for kernels without them: the tracepoint `tcp:tcp_send_reset` (6.10 and later) shows who sent a RST
    /// and whether conntrack had refused the segment, but not why; every cause is inferred
    #[arg(long, conflicts_with = "new_refused")]
    pub(in crate::cli) without_kprobes: bool,
}

/// Above the filters in `--help`.
const FILTERS: &str = "Filters (each may be given several times; any value matches)";

/// The filter for flows.
#[derive(Debug, Args)]
pub(in crate::cli) struct FilterArgs {
    /// The endpoint that opened the connection, before NAT: an address or a network [default: any]
    #[arg(long, help_heading = FILTERS, value_name = "CIDR", value_parser = network)]
    client: Vec<IpNet>,
    /// The other endpoint, after destination NAT: an address or a network [default: any]
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
    /// Builds the filter. Resolves names of namespaces on this host, or in a recording.
    pub(in crate::cli) fn resolve(&self, recordings: &[PathBuf]) -> anyhow::Result<Filter> {
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
pub(in crate::cli) enum ReportFormat {
    /// Text, for a terminal
    Text,
    /// JSON, see `whyrst schema`
    Json,
    /// One HTML file with diagrams, for a browser
    Html,
}
