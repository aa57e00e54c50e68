//! The command line.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

use crate::cause::Cause;
use crate::filter::Filter;
use crate::kernel::era::Era;
use crate::kernel::netns::inode_of_name;
use crate::source::rotate::Policy;

/// Says who reset a TCP connection behind this Linux gateway, and why.
///
/// whyrst listens to the few kernel functions where conntrack refuses a packet and where a RST is made, joins what they
/// say about the same packet, and tells the story of each flow: which packet, why it was refused, who answered with a RST,
/// whether that killed the connection, and what would cure it. A packet that conntrack finds valid costs nothing.
#[derive(Debug, Parser)]
#[command(name = "whyrst", version, max_term_width = 100, arg_required_else_help = true, after_help = EXIT_STATUS)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
    #[command(flatten)]
    pub(super) global: Global,
}

const EXIT_STATUS: &str = "\
Exit status: 0 done; 1 a cause of --fail-on was found; 2 usage or run-time error; 3 this host cannot be traced.";

/// Options of every command.
#[derive(Debug, Args)]
pub(super) struct Global {
    /// When to use colours
    #[arg(long, value_enum, default_value_t = Color::Auto, global = true, value_name = "WHEN")]
    pub(super) color: Color,
    /// Say nothing on standard error but errors
    #[arg(short, long, global = true)]
    pub(super) quiet: bool,
    /// Diagnostics on standard error: a level, or `target=level,…` (bpf=debug lets the BPF programs speak)
    #[arg(
        long,
        global = true,
        value_name = "FILTER",
        default_value = "warn",
        env = "WHYRST_LOG",
        hide_env_values = true
    )]
    pub(super) log: String,
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

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Report(Report),
    Trace(Trace),
    Record(Record),
    Explain(Explain),
    /// Print the JSON Schema of an output
    Schema {
        /// Which output
        #[arg(value_enum)]
        name: SchemaName,
    },
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
    #[arg(value_name = "WORD|FILE")]
    pub(super) what: Option<String>,
    /// Format of what a log says
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
    /// Which kernel wrote the log, where its words do not tell: e1 (5.10), e2 (5.15 to 6.0), e3 or e4 (6.1 and later)
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
  whyrst report --server 203.0.113.0/24 --port 443
  whyrst report --record incident.whyrst         and keep the evidence
  whyrst report --from incident.whyrst           on any machine, without root
  whyrst report --from /var/lib/whyrst           all files of a recording that was rotated")]
pub(super) struct Report {
    #[command(flatten)]
    pub(super) source: Source,
    #[command(flatten)]
    pub(super) filter: FilterArgs,
    #[command(flatten)]
    pub(super) redaction: Redaction,
    /// Also write the events to this file, for `--from`
    #[arg(long, value_name = "FILE", conflicts_with = "from")]
    pub(super) record: Option<PathBuf>,
    #[command(flatten)]
    pub(super) keeping: Keeping,
    /// Format of the report
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
    /// Write the report to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    /// Tell every flow, also those that nothing happened to
    #[arg(short, long)]
    pub(super) verbose: bool,
    /// Exit with status 1 if a flow has one of these causes
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
    #[arg(short, long, value_name = "FILE")]
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
    /// Whoever has the key can tell who is who
    #[arg(long, value_name = "FILE")]
    pub(super) redact_key: Option<PathBuf>,
    /// Write a new random key to this file, and redact with it
    #[arg(long, value_name = "FILE", conflicts_with = "redact_key")]
    pub(super) redact_new_key: Option<PathBuf>,
}

/// How a recording is kept.
#[derive(Debug, Args)]
pub(super) struct Keeping {
    /// Compress the recording with zstd; a name that ends in .zst asks for it too
    #[arg(long)]
    pub(super) compress: bool,
    /// Begin another file once one has about this size, e.g. 64MiB
    #[arg(long, value_name = "SIZE", value_parser = size, conflicts_with = "from")]
    pub(super) rotate: Option<u64>,
    /// Begin another file once one has been written to for this long, e.g. 1h
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

/// Where events come from.
#[derive(Debug, Args)]
pub(super) struct Source {
    /// Read recordings instead of the running kernel: files of one boot of one host, or directories with such files; `-` is
    /// standard input
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["duration", "wait", "tap", "new_refused", "without_kprobes"])]
    pub(super) from: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) live: LiveArgs,
}

/// How to capture.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[derive(Debug, Args)]
pub(super) struct LiveArgs {
    /// End after this time, e.g. 60s, 5m, 1h30m [default: at Ctrl-C or SIGTERM]
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

/// Which flows to look at.
#[derive(Debug, Args)]
#[command(next_help_heading = "Filters (each may be given several times; any value matches)")]
pub(super) struct FilterArgs {
    /// The side that opened the connection, before NAT: an address or a network
    #[arg(long, value_name = "CIDR", value_parser = network)]
    client: Vec<IpNet>,
    /// The other side
    #[arg(long, value_name = "CIDR", value_parser = network)]
    server: Vec<IpNet>,
    /// The client's address as the server sees it
    #[arg(long, value_name = "CIDR", value_parser = network)]
    nat: Vec<IpNet>,
    /// A port of any of the endpoints
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Vec<u16>,
    /// A network namespace: its inode number, or its name as `ip netns` knows it
    #[arg(long, value_name = "NETNS")]
    netns: Vec<NetnsArg>,
    /// A cause
    #[arg(long, value_name = "CAUSE", value_delimiter = ',', value_parser = cause_parser())]
    cause: Vec<Cause>,
}

/// A namespace as the user names it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum NetnsArg {
    Inode(u32),
    Name(String),
}

impl FromStr for NetnsArg {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Inode))
    }
}

impl FilterArgs {
    /// Resolves names of namespaces on this host; in a recording of another host they mean nothing.
    pub(super) fn resolve(&self, recorded: bool) -> anyhow::Result<Filter> {
        let mut netns = Vec::new();
        for selector in &self.netns {
            netns.push(match selector {
                NetnsArg::Inode(inode) => *inode,
                NetnsArg::Name(name) if recorded => {
                    bail!("--netns {name}: give the inode number; a recording knows namespaces by number")
                }
                NetnsArg::Name(name) => {
                    inode_of_name(name).with_context(|| format!("--netns {name}: no such network namespace"))?
                }
            });
        }
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

/// Formats of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For eyes
    Text,
    /// For programs, see `whyrst schema`
    Json,
}

fn cause_parser() -> impl TypedValueParser<Value = Cause> {
    PossibleValuesParser::new(Cause::ALL.iter().map(|cause| cause.name())).try_map(|word| word.parse::<Cause>())
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
