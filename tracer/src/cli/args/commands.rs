//! Commands that look, explain, cure and hand on.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum, ValueHint};

use tracer_host::mitigate::journal::DIRECTORY;
use tracer_model::conntrack::log_format::LogFormat;
use tracer_model::mitigation::MitigationId;

use super::values::{duration, duration_or_none, interface, mitigation_parser, service};
use super::{FilterArgs, Format, Redaction};
use crate::cli::netns;
use crate::cli::netns::NetnsArg;

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
pub(in crate::cli) struct Doctor {
    /// Format of the result
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(in crate::cli) format: Format,
    /// A network namespace: its inode number, its name as `ip netns` knows it, or a path; may be given several times
    /// [default: the one that whyrst runs in]
    #[arg(long, value_name = "NETNS", conflicts_with = "all_netns")]
    pub(in crate::cli) netns: Vec<NetnsArg>,
    /// Every network namespace that has a name or a process
    #[arg(long)]
    pub(in crate::cli) all_netns: bool,
    /// Exit with status 1 if there is a finding of this severity or above [default: never]
    #[arg(long, value_name = "SEVERITY", value_enum)]
    pub(in crate::cli) fail_on: Option<Urgency>,
    /// Time between the two looks at the counters, e.g. 1s, 500ms, 1m
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1s")]
    pub(in crate::cli) interval: Duration,
    /// Write the result to this file [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(in crate::cli) output: Option<PathBuf>,
    /// List every hook, sysctl and rule
    #[arg(short, long)]
    pub(in crate::cli) verbose: bool,
}

/// Severities that a check can fail on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Urgency {
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
pub(in crate::cli) struct Explain {
    /// A cause or reason, or a file; `-` is standard input
    #[arg(value_name = "WORD|FILE", value_hint = ValueHint::AnyPath)]
    pub(in crate::cli) what: Option<String>,
    /// Format of what a log says
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(in crate::cli) format: Format,
    /// Which kernel wrote the log, where its words do not tell: e1 (5.10), e2 (5.15 to 6.0), e3 or e4 (6.1 and later) [default: what its
    /// words tell]
    #[arg(long, value_name = "ERA", value_parser = PossibleValuesParser::new(["e1", "e2", "e3", "e4"]).map(|word| LogFormat::from_name(&word).unwrap_or(LogFormat::Unknown)))]
    pub(in crate::cli) log_format: Option<LogFormat>,
    /// List every flow
    #[arg(short, long)]
    pub(in crate::cli) verbose: bool,
}

/// In place of a file of the journal.
pub(in crate::cli) const LATEST: &str = "latest";

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
pub(in crate::cli) struct Mitigate {
    /// The cure, as reports name it
    #[arg(value_name = "ID", value_parser = mitigation_parser())]
    pub(in crate::cli) id: Option<MitigationId>,
    /// Take the connections to be cured from this recording; `-` is standard input [default: what this host shows]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["address", "interface", "service", "netns", "undo"])]
    pub(in crate::cli) from: Option<PathBuf>,
    /// An address that connections are translated to [default: those that rules of this host translate to]
    #[arg(long, value_name = "ADDRESS")]
    pub(in crate::cli) address: Vec<std::net::IpAddr>,
    /// The interface that answers come in by [default: the one that those rules name]
    #[arg(long, value_name = "NAME", value_parser = interface)]
    pub(in crate::cli) interface: Option<String>,
    /// A service that is to be exempt from tracking, e.g. 198.51.100.7:443; IPv6 addresses in brackets [default: none]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = service)]
    pub(in crate::cli) service: Vec<std::net::SocketAddr>,
    /// The network namespace: its inode number, or its name as `ip netns` knows it [default: the one that whyrst runs in]
    #[arg(long, value_name = "NETNS")]
    netns: Option<NetnsArg>,
    /// Apply it; needs root
    #[arg(long, requires = "id")]
    pub(in crate::cli) apply: bool,
    /// Take it back: the one of this file of the journal [default: the latest application]
    #[arg(long, requires = "id", conflicts_with = "apply", num_args = 0..=1, require_equals = true, value_name = "ENTRY", default_missing_value = LATEST)]
    pub(in crate::cli) undo: Option<String>,
    /// Do not ask
    #[arg(short, long)]
    pub(in crate::cli) yes: bool,
    /// Take it back although somebody has changed it since
    #[arg(long, requires = "undo")]
    pub(in crate::cli) force: bool,
    /// With --apply: count refused packets and RSTs for so long, before and after; 0 does not
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration_or_none)]
    pub(in crate::cli) watch: Duration,
    /// Where the journal is kept
    #[arg(long, value_name = "DIR", default_value = DIRECTORY)]
    pub(in crate::cli) state_dir: PathBuf,
    /// Format of what is printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(in crate::cli) format: Format,
    /// Write it to this file [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(in crate::cli) output: Option<PathBuf>,
}

impl Mitigate {
    /// The inode number of the namespace that was asked for.
    pub(in crate::cli) fn netns(&self) -> anyhow::Result<Option<u32>> {
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
pub(in crate::cli) struct Export {
    /// The recordings: files of one boot of one host, or directories with such files; `-` is standard input
    #[arg(long, value_name = "FILE", num_args = 1.., required = true, value_hint = ValueHint::AnyPath)]
    pub(in crate::cli) from: Vec<PathBuf>,
    /// What to write
    #[arg(long, value_enum)]
    pub(in crate::cli) format: ExportFormat,
    /// Write to this file; `-` is standard output [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(in crate::cli) output: Option<PathBuf>,
    /// pcapng: leave out the RSTs, which are computed from what they answer and not captured
    #[arg(long)]
    pub(in crate::cli) captured_only: bool,
    #[command(flatten)]
    pub(in crate::cli) filter: FilterArgs,
    #[command(flatten)]
    pub(in crate::cli) redaction: Redaction,
}

/// Formats of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum ExportFormat {
    /// Packets, for Wireshark and tshark
    Pcapng,
    /// Events in full, for programs, see `whyrst schema export`
    Jsonl,
    /// Flows, for spreadsheets
    Csv,
}
