//! Arguments of `doctor`, `explain`, `mitigate` and `export`.

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

/// Check whether this host can be traced, and whether its conntrack is healthy
///
/// Reads the table, its counters (twice, to compute rates), the sysctls, the rules and the NAT ports. Prints findings, the
/// most urgent first, with their evidence and commands that help. It changes nothing. Root can read everything; without
/// privileges the output names what could not be read. docs/doctor.md explains each finding.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  whyrst doctor                                  the network namespace that whyrst runs in
  whyrst doctor --netns gateway                  another one, by its name or inode number
  whyrst doctor --all-netns --interval 10s       all namespaces; rates over ten seconds
  whyrst doctor --ruleset rules.save             the rules of another host, from a file
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
    /// Only the rules of this file, as iptables-save, ip6tables-save, `nft list ruleset` or `nft -j list ruleset` printed them;
    /// `-` is standard input. They are loaded into an empty network namespace [default: those of this host]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["netns", "all_netns"])]
    pub(in crate::cli) ruleset: Option<PathBuf>,
    /// Exit with status 1 if there is a finding of this severity or above [default: never]
    #[arg(long, value_name = "SEVERITY", value_enum)]
    pub(in crate::cli) fail_on: Option<Urgency>,
    /// Time between the two samples of the counters, e.g. 1s, 500ms, 1m
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
/// For a cause or reason (out-of-window, seq-under, expired, …) it prints what the network did, what the kernel did, how
/// whyrst knows, how to confirm it by hand, and the mitigations with their cost. It reads a file, or standard input, as a
/// kernel log: it counts packets per cause, reason and flow, and marks lines that do not mean INVALID. Needs no privileges.
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
    /// Format of the output for a log
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(in crate::cli) format: Format,
    /// The conntrack log format, if the log is ambiguous: e1 (5.10), e2 (5.15 to 6.0), e3 or e4 (6.1 and later) [default:
    /// derived from the log]
    #[arg(long, value_name = "FORMAT", value_parser = PossibleValuesParser::new(["e1", "e2", "e3", "e4"]).map(|word| LogFormat::from_name(&word).unwrap_or(LogFormat::Unknown)))]
    pub(in crate::cli) log_format: Option<LogFormat>,
    /// List every flow
    #[arg(short, long)]
    pub(in crate::cli) verbose: bool,
}

/// Stands for the latest application in the journal.
pub(in crate::cli) const LATEST: &str = "latest";

/// Print the mitigations for this host, apply one, or undo it
///
/// Without ID it lists all mitigations and which ones apply here. With ID it prints the commands for this host's own tools,
/// their side effects, the undo commands, and the commands that make the change persistent. They are for the connections of a
/// recording (`--from`), else for the addresses that this host translates to.
///
/// `--apply` prints the commands, asks, records the previous state, runs the commands one by one, rolls back if one fails,
/// and compares the kernel's counters of refused packets and RSTs before and after. With `--verify` it waits until the rule
/// meets a packet. `--undo` restores the previous state.
/// whyrst prints the commands that make a change persistent, but never runs them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  whyrst mitigate                                         all mitigations, and which apply here
  whyrst mitigate drop-invalid-input --from incident.whyrst
  whyrst mitigate drop-invalid-input --address 192.0.2.1 --interface wan0
  whyrst mitigate be-liberal --apply                      asks, applies, counts for 10 s before and after
  whyrst mitigate be-liberal --apply --yes --watch 60s    for scripts
  whyrst mitigate drop-invalid-input --apply --verify     waits for the next packet that the rule drops
  whyrst mitigate be-liberal --undo
  whyrst mitigate untrack-service --service 198.51.100.7:443 --netns gateway")]
pub(in crate::cli) struct Mitigate {
    /// The id of the mitigation, as in reports
    #[arg(value_name = "ID", value_parser = mitigation_parser())]
    pub(in crate::cli) id: Option<MitigationId>,
    /// Plan for the connections of this recording; `-` is standard input [default: the state of this host]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["address", "interface", "service", "netns", "undo"])]
    pub(in crate::cli) from: Option<PathBuf>,
    /// An address that connections are translated to [default: the addresses of this host's NAT rules]
    #[arg(long, value_name = "ADDRESS")]
    pub(in crate::cli) address: Vec<std::net::IpAddr>,
    /// The ingress interface of replies [default: the interface of these rules]
    #[arg(long, value_name = "NAME", value_parser = interface)]
    pub(in crate::cli) interface: Option<String>,
    /// A service to exempt from tracking, e.g. 198.51.100.7:443; IPv6 addresses in brackets [default: none]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = service)]
    pub(in crate::cli) service: Vec<std::net::SocketAddr>,
    /// The network namespace: its inode number, or its name as `ip netns` knows it [default: the one that whyrst runs in]
    #[arg(long, value_name = "NETNS")]
    netns: Option<NetnsArg>,
    /// Apply it; needs root
    #[arg(long, requires = "id")]
    pub(in crate::cli) apply: bool,
    /// Undo the mitigation: the application in this file of the journal [default: the latest one]
    #[arg(long, requires = "id", conflicts_with = "apply", num_args = 0..=1, require_equals = true, value_name = "ENTRY", default_missing_value = LATEST)]
    pub(in crate::cli) undo: Option<String>,
    /// Do not ask for confirmation
    #[arg(short, long)]
    pub(in crate::cli) yes: bool,
    /// Undo it even if it has been changed since
    #[arg(long, requires = "undo")]
    pub(in crate::cli) force: bool,
    /// With --apply: count refused packets and RSTs for this time, before and after; 0 disables it
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration_or_none)]
    pub(in crate::cli) watch: Duration,
    /// With --apply: wait for the next packet that meets a rule of the mitigation, at most for this time [default: 60s]
    #[arg(long, requires = "apply", num_args = 0..=1, value_name = "TIME", default_missing_value = "60s", value_parser = duration)]
    pub(in crate::cli) verify: Option<Duration>,
    /// The directory of the journal
    #[arg(long, value_name = "DIR", default_value = DIRECTORY)]
    pub(in crate::cli) state_dir: PathBuf,
    /// Format of the output
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(in crate::cli) format: Format,
    /// Write the output to this file [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(in crate::cli) output: Option<PathBuf>,
}

impl Mitigate {
    /// The inode number of the namespace in `--netns`.
    pub(in crate::cli) fn netns(&self) -> anyhow::Result<Option<u32>> {
        Ok(netns::on_this_host(self.netns.as_slice())?.pop())
    }
}

/// Export a recording for other tools
///
/// pcapng: the packets that the hooks saw, as far as their headers were read, and the RSTs that answered them, each with the
/// cause as a comment. jsonl: the capture, its flows and every event in full, one object per line. csv: one flow per line. The
/// recording is read twice, so that each packet can carry the final cause of its flow; piped input is kept in a temporary
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
    /// The format to write
    #[arg(long, value_enum)]
    pub(in crate::cli) format: ExportFormat,
    /// Write to this file; `-` is standard output [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(in crate::cli) output: Option<PathBuf>,
    /// pcapng: omit the RSTs, which are computed and not captured
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
