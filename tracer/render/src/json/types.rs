//! The shapes of the JSON: what the schemas are generated from.
//!
//! The field names and words are a contract: scripts rely on them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use tracer_model::cause;

use super::{EXPLAIN_SCHEMA, SCHEMA, TRACE_SCHEMA};

/// An enumeration of words for the schema, taken from the vocabulary.
macro_rules! word_schema {
    ($name:ident, $doc:literal) => {
        #[doc = $doc]
        #[derive(Debug, Clone, Copy)]
        pub(super) struct $name(pub(super) cause::$name);

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.0.name())
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let words: Vec<&str> = cause::$name::ALL.iter().map(|word| word.name()).collect();
                schemars::json_schema!({ "description": $doc, "type": "string", "enum": words })
            }
        }
    };
}

word_schema!(Cause, "Why a connection was reset, or a packet refused.");
word_schema!(Reason, "What exactly, within a cause.");
word_schema!(ResetBy, "Who sent the RST.");
word_schema!(Confidence, "`proven`: the same packet was seen at every step.");

/// A report of whyrst: who reset TCP connections on this gateway, and why.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(title = "whyrst.report.v1", extend("$id" = SCHEMA))]
pub(super) struct Report<'a> {
    /// Always `whyrst.report.v1`.
    pub(super) schema: &'static str,
    pub(super) tool: Tool,
    pub(super) host: Host<'a>,
    pub(super) capture: Capture<'a>,
    pub(super) summary: Summary,
    /// Flows with an incident, those that were reset first.
    #[schemars(with = "Vec<Flow<'a>>")]
    pub(super) flows: Flows<'a>,
    /// Findings besides the flows, the most urgent first.
    pub(super) findings: Vec<Finding<'a>>,
    /// Every mitigation that some flow names.
    pub(super) mitigations: Vec<Mitigation<'a>>,
}

/// Flows of a report.
#[derive(Debug)]
pub(super) struct Flows<'a> {
    pub(super) shown: Vec<&'a tracer_advice::report::FlowReport>,
    pub(super) report: &'a tracer_advice::report::Report,
}

/// The program that wrote the report.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Tool {
    pub(super) name: &'static str,
    pub(super) version: &'static str,
}

/// The host that was captured on.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Host<'a> {
    pub(super) hostname: &'a str,
    /// The kernel's release.
    pub(super) kernel: &'a str,
    /// conntrack's log format: `e1` (5.10), `e2` (5.15 to 6.0), `e3` (6.1), `e4` (6.1.184, 7.2), `unknown`.
    pub(super) log_format: &'static str,
}

/// How the events were captured.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Capture<'a> {
    /// `live`, or the path of a recording.
    pub(super) source: &'a str,
    /// RFC 3339, UTC.
    #[schemars(extend("format" = "date-time"))]
    pub(super) started: String,
    /// RFC 3339, UTC.
    #[schemars(extend("format" = "date-time"))]
    pub(super) ended: String,
    pub(super) duration_s: f64,
    pub(super) hooks: Vec<HookUse<'a>>,
    /// Events in all.
    pub(super) events: u64,
    /// Events lost because they came faster than they could be read, calls that the kernel ran no program for (counted by 6.7 and
    /// later; some of them may have been no events), and searches of a full table whose namespace was
    /// missed; the finding `events-lost` distinguishes them.
    pub(super) events_lost: u64,
    /// Suppressed events: counted in the kernel, not reported individually.
    pub(super) events_suppressed: u64,
    /// Events of flows that the filter hides; absent without a filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) events_hidden: Option<u64>,
    /// Where events were lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) lost_on: Vec<LostOn>,
}

/// Events lost on one CPU at one hook.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct LostOn {
    pub(super) cpu: u32,
    pub(super) target: &'static str,
    pub(super) lost: u64,
}

/// A hook.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct HookUse<'a> {
    pub(super) hook: &'static str,
    /// The kernel function.
    pub(super) target: &'static str,
    /// `kprobe`; null where the hook is not attached.
    pub(super) method: Option<&'static str>,
    /// Calls of the function.
    pub(super) hits: u64,
    /// Why it is not attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unattached: Option<&'a str>,
}

/// Counts over all flows of the report.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Summary {
    /// Packets that conntrack refused.
    pub(super) invalid_packets: u64,
    /// Packets that conntrack logged and accepted.
    pub(super) ignored_packets: u64,
    /// RSTs that this host sent.
    pub(super) resets_sent: u64,
    /// Flows that may have died of a RST of this host.
    pub(super) flows_reset: u64,
    /// Flows per cause, of those with a refused packet or a RST.
    pub(super) by_cause: BTreeMap<&'static str, u64>,
    /// Packets of new connections that were dropped because the table was full: no RST is sent for them.
    pub(super) table_full_drops: u64,
}

/// A flow.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Flow<'a> {
    /// The side that opened the connection: `address:port`, or `[address]:port`.
    pub(super) client: String,
    /// The client as the server sees it, where that differs.
    pub(super) nat: Option<String>,
    /// The other side, behind any destination NAT.
    pub(super) server: String,
    /// The server as the client sees it, where that differs.
    pub(super) service: Option<String>,
    /// Inode number of the network namespace.
    pub(super) netns: Option<u32>,
    /// Its name under /run/netns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) netns_name: Option<&'a str>,
    /// Conntrack zone.
    pub(super) zone: u16,
    /// State of conntrack's TCP tracker when the flow was last seen.
    pub(super) tcp_state: Option<String>,
    /// Whether the handshake was completed.
    pub(super) assured: Option<bool>,
    pub(super) cause: Cause,
    pub(super) reason: Option<FlowReason<'a>>,
    pub(super) confidence: Confidence,
    /// Null where nobody was seen to send a RST.
    pub(super) reset_by: Option<ResetBy>,
    /// The rule that rejected, where one did; absent where the ruleset was not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rule: Option<RejectRule<'a>>,
    /// The effect of the RST at its receiver: `kills`, `may-kill`, `challenge-ack`, `dropped`,
    /// `closed` (the connection had been closed before), `unknown`.
    pub(super) reset_effect: Option<&'static str>,
    pub(super) invalid_packets: u64,
    pub(super) ignored_packets: u64,
    pub(super) resets: u64,
    /// RSTs of the ends that arrived (`--tap`).
    pub(super) peer_resets: u64,
    /// RFC 3339, UTC.
    #[schemars(extend("format" = "date-time"))]
    pub(super) first: String,
    /// RFC 3339, UTC.
    #[schemars(extend("format" = "date-time"))]
    pub(super) last: String,
    /// Counts per cause, where there is more than one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) causes: Vec<Count>,
    /// What happened, step by step.
    pub(super) chain: Vec<ChainStep<'a>>,
    /// The window check that failed.
    pub(super) window: Option<Window>,
    /// The kernel's message.
    pub(super) kernel_text: Option<String>,
    /// Excluded causes, and why.
    pub(super) excluded: Vec<Excluded<'a>>,
    /// Names of the mitigations that prevent it, the most thorough first.
    pub(super) mitigations: Vec<&'static str>,
}

/// What exactly, within a flow's cause.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum FlowReason<'a> {
    /// A word of the vocabulary.
    Word(Reason),
    /// With `local-socket`: the kernel's own reason, `enum sk_rst_reason` without its prefix, in kebab-case (6.10 and later).
    Kernel(std::borrow::Cow<'a, str>),
}

/// The rule that rejected: found by matching the ruleset with the packet, because the kernel does not report the rule.
///
/// The members that name a rule are null where there are several candidates, or none.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct RejectRule<'a> {
    #[serde(flatten)]
    pub(super) named: NamedRule<'a>,
    /// Always `inferred`.
    pub(super) certainty: &'static str,
    /// The candidate rules, at most eight.
    pub(super) candidates: Vec<NamedRule<'a>>,
    /// The number of candidate rules.
    pub(super) candidate_count: usize,
    /// The number of rules of the namespace that answer with a RST.
    pub(super) of: usize,
    /// Why there may be others: what could not be read, or changed.
    pub(super) problems: &'a [String],
    /// The rule in a sentence.
    pub(super) meaning: String,
}

/// A rule of nftables or iptables.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(super) struct NamedRule<'a> {
    /// `nftables`, `iptables-nft` or `iptables-legacy`.
    pub(super) backend: Option<&'static str>,
    /// `ip`, `ip6` or `inet`.
    pub(super) family: Option<&'static str>,
    pub(super) table: Option<&'a str>,
    pub(super) chain: Option<&'a str>,
    /// As `nft -a` shows it.
    pub(super) handle: Option<u64>,
    /// As `iptables -L --line-numbers` shows it.
    pub(super) number: Option<u32>,
    /// The rule in short.
    pub(super) text: Option<&'a str>,
}

/// Counts under one cause.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Count {
    pub(super) cause: Cause,
    pub(super) reason: Option<Reason>,
    pub(super) invalid_packets: u64,
    pub(super) ignored_packets: u64,
    pub(super) resets: u64,
}

/// One step of what happened.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ChainStep<'a> {
    /// When it was seen; RFC 3339, UTC.
    #[schemars(extend("format" = "date-time"))]
    pub(super) at: String,
    /// Microseconds after the first step.
    pub(super) after_us: u64,
    #[serde(flatten)]
    pub(super) step: Step<'a>,
}

/// What a step was.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub(super) enum Step<'a> {
    /// conntrack refused the packet.
    ConntrackInvalid(Box<Conntrack>),
    /// conntrack logged the packet and accepted it, translated as usual.
    ConntrackIgnored(Box<Conntrack>),
    /// conntrack logged the packet, and this kernel's message does not show the verdict.
    ConntrackUndecided(Box<Conntrack>),
    /// A further message of conntrack about the same packet.
    ConntrackRemark { text: Option<String> },
    /// The connection's entry was destroyed before the packet came, at `at`.
    EntryDestroyed {
        /// `expired`, `closed`, `evicted`, `deleted` or `unknown`.
        how: &'static str,
        /// How long before the packet it was destroyed.
        before_us: u64,
        /// Its state then.
        tcp_state: String,
        assured: bool,
        /// The process that deleted it, where one did.
        process: Option<Process>,
    },
    /// The packet had no conntrack entry when the RST was made, so its destination was not translated back.
    NatSkipped {
        /// `skb->_nfct` at the function that made the RST: `none`, `untracked`, `new`.
        nfct: &'static str,
        /// Where the packet went instead of to the client.
        destination: String,
    },
    /// This host sent a RST.
    ResetSent(Box<Reset<'a>>),
    /// The RST was seen at `LOCAL_OUT`, untranslated.
    ResetOutput {
        #[serde(rename = "out")]
        output: Option<String>,
    },
    /// One of the ends, in another network namespace of this host, sent a RST. For an end elsewhere there is `--tap`, or else only
    /// the entry's state.
    PeerResetSent {
        /// Absent in a line of `whyrst trace` or `whyrst export`, which has one of its own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        netns: Option<u32>,
        /// `client` or `server`, where that is known.
        from: Option<&'static str>,
        /// The segment that it answers, where it answers one.
        answered: Option<Packet>,
    },
    /// A RST of one of the ends was received (`--tap`).
    PeerResetReceived {
        #[serde(rename = "in")]
        input: Option<String>,
        /// `client` or `server`, where that is known.
        from: Option<&'static str>,
        /// It answers a SYN: nothing listens there. Not known where the packet could not be read.
        refuses: Option<bool>,
        packet: Option<Packet>,
    },
    /// The flow's conntrack entry was looked up.
    EntryState(Entry),
    /// The entry is CLOSE: a RST from one end passed through to the other.
    PeerResetForwarded(Entry),
    /// The entry is no longer there.
    EntryNotFound {
        /// The last time it was there, or was not looked for.
        not_before: Option<String>,
    },
    /// The entry could not be looked up.
    EntryUnknown { because: &'a str },
}

/// A process of the host.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) name: String,
}

/// An entry as ctnetlink shows it.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Entry {
    pub(super) state: Option<String>,
    /// Seconds before it expires.
    pub(super) timeout_s: Option<u32>,
    /// The last time it was seen in another state; RFC 3339, UTC.
    pub(super) not_before: Option<String>,
}

/// A packet that conntrack logged.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Conntrack {
    pub(super) hook: &'static str,
    pub(super) cpu: u32,
    #[serde(rename = "in")]
    pub(super) input: Option<String>,
    #[serde(rename = "out")]
    pub(super) output: Option<String>,
    /// The netfilter hook, as iptables names it.
    pub(super) nf_hook: Option<String>,
    /// `original` or `reply`.
    pub(super) direction: Option<&'static str>,
    pub(super) packet: Option<Packet>,
    pub(super) text: Option<String>,
    /// A further message about the same packet.
    pub(super) remark: Option<String>,
}

/// A TCP segment.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Packet {
    pub(super) src: String,
    pub(super) dst: String,
    pub(super) seq: u32,
    /// Sequence number after the last byte.
    pub(super) seq_end: u32,
    pub(super) ack: u32,
    /// As tcpdump writes them.
    pub(super) flags: String,
    /// Unscaled.
    pub(super) window: u16,
    pub(super) payload_len: u32,
    pub(super) ttl: u8,
    pub(super) tos: u8,
    pub(super) ip_id: Option<u16>,
    pub(super) mark: u32,
    /// Left and right edges.
    pub(super) sack: Vec<[u32; 2]>,
    /// TCP options as captured, hexadecimal.
    pub(super) options: String,
    /// `linear`, or `fragment` where the headers were in a page fragment of the buffer.
    pub(super) headers_from: &'static str,
}

/// A RST that this host sent.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Reset<'a> {
    pub(super) hook: &'static str,
    /// The kernel function that made it.
    pub(super) function: &'static str,
    pub(super) by: ResetBy,
    /// Whom it was sent to.
    pub(super) to: Option<String>,
    pub(super) seq: Option<u32>,
    pub(super) ack: Option<u32>,
    /// What it does to the peer: `kills`, `may-kill`, `challenge-ack`, `dropped`, `unknown`.
    pub(super) effect: &'static str,
    /// The effect in words.
    pub(super) meaning: String,
    /// The packet that it answers, where no earlier step shows it.
    pub(super) packet: Option<Packet>,
    /// State of the socket that sent it.
    pub(super) socket_state: Option<String>,
    /// The process that made the socket send it, where one did.
    pub(super) process: Option<Process>,
    /// The kernel's own reason (6.10 and later).
    pub(super) kernel_reason: Option<&'a str>,
    /// The segment is signed (TCP-MD5, TCP-AO): the kernel sends the RST only if it finds the key. It is not counted.
    pub(super) doubtful: bool,
}

/// A window check explained.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Window {
    /// I, II, III or IV, as in docs/window.md.
    pub(super) failed: &'static str,
    /// The inequality that should have held.
    pub(super) inequality: String,
    /// The last value that would have passed.
    pub(super) bound: u32,
    /// The segment's own value.
    pub(super) value: u32,
    /// How far the value is on the wrong side of the bound.
    pub(super) distance_bytes: u32,
    pub(super) sender: Side,
    pub(super) receiver: Side,
    /// `entry`: computed from the entry; `entry-and-kernel`: and the kernel's message gives the same; `kernel`: the
    /// kernel's message alone, the entry had moved on when it was read.
    pub(super) source: &'static str,
    /// Whether testing all inequalities against the entry as it was read finds the same one.
    pub(super) agrees: bool,
}

/// What conntrack knows of one side.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Side {
    /// `client` or `server`.
    pub(super) end: &'static str,
    pub(super) td_end: u32,
    pub(super) td_maxend: u32,
    pub(super) td_maxwin: u32,
    pub(super) td_maxack: u32,
    pub(super) td_scale: u8,
    pub(super) flags: u8,
}

/// A cause that it was not.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Excluded<'a> {
    pub(super) cause: Cause,
    pub(super) because: &'a str,
}

/// A fact that needs attention.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Finding<'a> {
    pub(super) id: &'static str,
    /// `critical`, `warning` or `info`.
    pub(super) severity: &'static str,
    pub(super) title: &'a str,
    pub(super) evidence: BTreeMap<&'a str, &'a str>,
    pub(super) advice: &'a [String],
}

/// One event, as `whyrst trace --format json` prints it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(title = "whyrst.trace.v1", extend("$id" = TRACE_SCHEMA))]
pub(super) struct Trace<'a> {
    /// When; RFC 3339, UTC.
    #[schemars(extend("format" = "date-time"))]
    pub(super) at: String,
    #[serde(flatten)]
    pub(super) step: Step<'a>,
    /// Absent where the event is no cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cause: Option<Cause>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<Reason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) confidence: Option<Confidence>,
    /// The report can name another cause for this flow: another event of the flow decides it, or a fact that is not known yet.
    /// Absent where it is false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) provisional: bool,
    pub(super) netns: Option<u32>,
    /// The endpoints, where the flow is known.
    pub(super) client: Option<String>,
    pub(super) nat: Option<String>,
    pub(super) server: Option<String>,
    pub(super) service: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) window: Option<Window>,
}

/// The lines of conntrack in a kernel log.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(title = "whyrst.explain.v1", extend("$id" = EXPLAIN_SCHEMA))]
pub(super) struct LogReport<'a> {
    /// Always `whyrst.explain.v1`.
    pub(super) schema: &'static str,
    /// Lines in all.
    pub(super) lines: u64,
    /// Lines of conntrack.
    pub(super) of_conntrack: u64,
    /// The log format of the lines: `e1` stands for all up to 6.0, `e4` for all from 6.1 on. Null where the lines do not show it.
    pub(super) log_format: Option<&'static str>,
    /// Packets that conntrack logged.
    pub(super) groups: Vec<LogGroup>,
    /// RSTs of this host at `LOCAL_OUT`: effects, not causes.
    pub(super) own_resets: u64,
    /// Further lines about packets that another line is about.
    pub(super) remarks: u64,
    /// Packets of new connections dropped because the table was full; at least, the kernel limits these lines.
    pub(super) table_full: Vec<LogTableFull>,
    /// The same of the table of expected connections (FTP, SIP).
    pub(super) expectation_table_full: u64,
    /// Lines that were not understood.
    pub(super) not_understood: u64,
    pub(super) not_understood_words: &'a [String],
}

/// Packets with the same verdict and cause.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct LogGroup {
    /// `invalid`, `ignored` (the kernel let the packets pass) or `unknown`.
    pub(super) verdict: &'static str,
    pub(super) cause: Cause,
    pub(super) reason: Option<Reason>,
    pub(super) packets: u64,
    pub(super) flows: Vec<LogFlow>,
}

/// A flow of a kernel log, as its packets had it.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct LogFlow {
    pub(super) src: String,
    pub(super) dst: String,
    pub(super) packets: u64,
}

/// A full table.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct LogTableFull {
    /// Where the line names one.
    pub(super) netns: Option<u32>,
    pub(super) dropped: u64,
}

/// A mitigation.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Mitigation<'a> {
    pub(super) id: &'static str,
    pub(super) title: &'a str,
    pub(super) commands: &'a [String],
    pub(super) undo: &'a [String],
    /// Commands that keep it across reboots, after the others.
    pub(super) persist: &'a [String],
    /// Commands that undo those.
    pub(super) unpersist: &'a [String],
    pub(super) side_effects: &'a [&'static str],
    /// Notes for this host, and actions elsewhere.
    pub(super) notes: &'a [String],
    pub(super) cures: Vec<Reason>,
}
