//! The report as one JSON object, `whyrst.report.v1`, and the schema that describes it.
//!
//! The field names and words are a contract: scripts rely on them.

use std::collections::BTreeMap;
use std::io;

use schemars::JsonSchema;
use serde::Serialize;

use super::words;
use crate::capture::{HookState, Host, Outcome};
use crate::causality::engine::{Kind, Observed};
use crate::causality::flow::{Flow, Refusal, Reset};
use crate::cause::{Cause, Confidence, Reason, ResetBy};
use crate::conntrack::window::{BoundSource, Explanation};
use crate::conntrack::{Direction, Nfct, Seen, TcpState, Verdict};
use crate::diagnosis::{Finding, Mitigation};
use crate::event::Event;
use crate::packet::Packet;
use crate::report::{FlowReport, HookLine, Origin, Report};
use crate::time::{ClockOffset, Instant};

/// The schema's identifier.
pub const SCHEMA: &str = "whyrst.report.v1";
/// The identifier of the schema of a line of `whyrst trace --format json`.
pub const TRACE_SCHEMA: &str = "whyrst.trace.v1";

/// Writes the report.
pub fn write(report: &Report, to: &mut dyn io::Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *to, &ReportDto::new(report))?;
    writeln!(to)
}

/// Writes the JSON Schema of the report.
pub fn write_schema(to: &mut dyn io::Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *to, &schemars::schema_for!(ReportDto<'_>))?;
    writeln!(to)
}

/// Writes an observation as one line of JSON, described by the schema `whyrst.trace.v1`.
pub fn write_observation(
    observed: &Observed,
    flow: Option<&Flow>,
    host: &Host,
    to: &mut dyn io::Write,
) -> io::Result<()> {
    let Some(line) = TraceDto::new(observed, flow, host) else { return Ok(()) };
    serde_json::to_writer(&mut *to, &line)?;
    writeln!(to)
}

/// Writes the JSON Schema of a line of `whyrst trace --format json`.
pub fn write_trace_schema(to: &mut dyn io::Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *to, &schemars::schema_for!(TraceDto<'_>))?;
    writeln!(to)
}

/// An enumeration of words for the schema, taken from the vocabulary.
macro_rules! word_schema {
    ($name:ident, $words:ty, $doc:literal) => {
        #[doc = $doc]
        #[derive(Debug, Clone, Copy)]
        struct $name($words);

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.0.name())
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($words).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let words: Vec<&str> = <$words>::ALL.iter().map(|word| word.name()).collect();
                schemars::json_schema!({ "description": $doc, "type": "string", "enum": words })
            }
        }
    };
}

word_schema!(CauseDto, Cause, "Why a connection was reset, or a packet refused.");
word_schema!(ReasonDto, Reason, "What exactly, within a cause.");
word_schema!(ResetByDto, ResetBy, "Who sent the RST.");
word_schema!(ConfidenceDto, Confidence, "`proven`: the same packet was seen at every step.");

/// A report of whyrst: who reset TCP connections on this gateway, and why.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(title = "whyrst.report.v1", extend("$id" = SCHEMA))]
struct ReportDto<'a> {
    /// Always `whyrst.report.v1`.
    schema: &'static str,
    tool: ToolDto,
    host: HostDto<'a>,
    capture: CaptureDto<'a>,
    summary: SummaryDto,
    /// Flows that something happened to, those that were reset first.
    flows: Vec<FlowDto<'a>>,
    /// What should be known besides the flows, the most urgent first.
    findings: Vec<FindingDto<'a>>,
    /// Every mitigation that some flow names.
    mitigations: Vec<MitigationDto<'a>>,
}

/// The program that wrote the report.
#[derive(Debug, Serialize, JsonSchema)]
struct ToolDto {
    name: &'static str,
    version: &'static str,
}

/// The host that was captured on.
#[derive(Debug, Serialize, JsonSchema)]
struct HostDto<'a> {
    hostname: &'a str,
    /// The kernel's release.
    kernel: &'a str,
    /// Era of conntrack's logging code: `e1` (5.10), `e2` (5.15 to 6.0), `e3` (6.1), `e4` (6.1.184, 7.2), `unknown`.
    era: &'static str,
}

/// How the events were captured.
#[derive(Debug, Serialize, JsonSchema)]
struct CaptureDto<'a> {
    /// `live`, or the path of a recording.
    source: &'a str,
    /// RFC 3339, UTC.
    #[schemars(extend("format" = "date-time"))]
    started: String,
    /// RFC 3339, UTC.
    #[schemars(extend("format" = "date-time"))]
    ended: String,
    duration_s: f64,
    hooks: Vec<HookDto<'a>>,
    /// Events in all.
    events: u64,
    /// Events lost because they came faster than they could be read.
    events_lost: u64,
    /// Events that were counted without being described one by one.
    events_suppressed: u64,
    /// Events of flows that the filter hides; absent without a filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    events_hidden: Option<u64>,
    /// Where events were lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    lost_on: Vec<LostDto>,
}

/// Events lost on one CPU at one hook.
#[derive(Debug, Serialize, JsonSchema)]
struct LostDto {
    cpu: u32,
    target: &'static str,
    lost: u64,
}

/// A hook.
#[derive(Debug, Serialize, JsonSchema)]
struct HookDto<'a> {
    hook: &'static str,
    /// The kernel function.
    target: &'static str,
    /// `kprobe`; null where the hook is not attached.
    method: Option<&'static str>,
    /// Calls of the function.
    hits: u64,
    /// Why it is not attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unattached: Option<&'a str>,
}

/// Counts over all flows of the report.
#[derive(Debug, Serialize, JsonSchema)]
struct SummaryDto {
    /// Packets that conntrack refused.
    invalid_packets: u64,
    /// Packets that conntrack remarked on and let pass.
    ignored_packets: u64,
    /// RSTs that this host sent.
    resets_sent: u64,
    /// Flows that may have died of a RST of this host.
    flows_reset: u64,
    /// Flows per cause, of those that a packet was refused of or a RST was sent to.
    by_cause: BTreeMap<&'static str, u64>,
}

/// A flow.
#[derive(Debug, Serialize, JsonSchema)]
struct FlowDto<'a> {
    /// The side that opened the connection: `address:port`, or `[address]:port`.
    client: String,
    /// The client as the server sees it, where that differs.
    nat: Option<String>,
    /// The other side, behind any destination NAT.
    server: String,
    /// The server as the client sees it, where that differs.
    service: Option<String>,
    /// Inode number of the network namespace.
    netns: Option<u32>,
    /// Its name under /run/netns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    netns_name: Option<&'a str>,
    /// Conntrack zone.
    zone: u16,
    /// State of conntrack's TCP tracker when the flow was last seen.
    tcp_state: Option<String>,
    /// Whether the handshake was completed.
    assured: Option<bool>,
    cause: CauseDto,
    reason: Option<ReasonDto>,
    confidence: ConfidenceDto,
    /// Null where this host sent no RST.
    reset_by: Option<ResetByDto>,
    /// What the RST does to the peer that it was sent to: `kills`, `may-kill`, `challenge-ack`, `dropped`, `unknown`.
    reset_effect: Option<&'static str>,
    invalid_packets: u64,
    ignored_packets: u64,
    resets: u64,
    /// RFC 3339, UTC.
    #[schemars(extend("format" = "date-time"))]
    first: String,
    /// RFC 3339, UTC.
    #[schemars(extend("format" = "date-time"))]
    last: String,
    /// Counts per cause, where there is more than one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    causes: Vec<CountDto>,
    /// What happened, step by step.
    chain: Vec<StepDto<'a>>,
    /// The window check that failed.
    window: Option<WindowDto>,
    /// The kernel's own words.
    kernel_text: Option<String>,
    /// What it was not, and why.
    excluded: Vec<ExcludedDto<'a>>,
    /// Names of the mitigations that would cure it, the most thorough first.
    mitigations: Vec<&'static str>,
}

/// Counts under one cause.
#[derive(Debug, Serialize, JsonSchema)]
struct CountDto {
    cause: CauseDto,
    reason: Option<ReasonDto>,
    invalid_packets: u64,
    ignored_packets: u64,
    resets: u64,
}

/// One step of what happened.
#[derive(Debug, Serialize, JsonSchema)]
struct StepDto<'a> {
    /// When it was seen; RFC 3339, UTC.
    #[schemars(extend("format" = "date-time"))]
    at: String,
    /// Microseconds after the first step.
    after_us: u64,
    #[serde(flatten)]
    step: Step<'a>,
}

/// What a step was.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "step", rename_all = "kebab-case")]
enum Step<'a> {
    /// conntrack refused the packet.
    ConntrackInvalid(Box<ConntrackDto>),
    /// conntrack remarked on the packet and let it pass, translated as usual.
    ConntrackIgnored(Box<ConntrackDto>),
    /// conntrack remarked on the packet, and this kernel's words do not say what it did with it.
    ConntrackUndecided(Box<ConntrackDto>),
    /// A further message of conntrack about a packet that it has spoken of before.
    ConntrackRemark { text: Option<String> },
    /// The packet had no conntrack entry when the RST was made, so its destination was not translated back.
    NatSkipped {
        /// `skb->_nfct` at the function that made the RST: `none`, `untracked`, `new`.
        nfct: &'static str,
        /// Where the packet went instead of to the client.
        destination: String,
    },
    /// This host sent a RST.
    ResetSent(Box<ResetDto<'a>>),
    /// The RST was seen leaving, untranslated.
    ResetLeft {
        #[serde(rename = "out")]
        output: Option<String>,
    },
    /// The end that the gateway's RST killed answers the next segment with a RST of its own. It lives in another network
    /// namespace of this host; of an end that lives elsewhere the entry's fate alone tells.
    PeerResetSent { netns: Option<u32>, answered: PacketDto },
    /// The flow's conntrack entry was looked up.
    EntryState(EntryDto),
    /// The entry is CLOSE: a RST from one end passed through to the other.
    PeerResetForwarded(EntryDto),
    /// The entry is no longer there.
    EntryGone {
        /// The last time it was there, or was not looked for.
        not_before: Option<String>,
    },
    /// The entry could not be looked up.
    EntryUnknown { because: &'a str },
}

/// An entry as ctnetlink shows it.
#[derive(Debug, Serialize, JsonSchema)]
struct EntryDto {
    state: Option<String>,
    /// Seconds before it expires.
    timeout_s: Option<u32>,
    /// The last time it was seen in another state; RFC 3339, UTC.
    not_before: Option<String>,
}

/// What conntrack said of a packet.
#[derive(Debug, Serialize, JsonSchema)]
struct ConntrackDto {
    hook: &'static str,
    cpu: u32,
    #[serde(rename = "in")]
    input: Option<String>,
    #[serde(rename = "out")]
    output: Option<String>,
    /// The netfilter hook, as iptables names it.
    nf_hook: Option<String>,
    /// `original` or `reply`.
    direction: Option<&'static str>,
    packet: Option<PacketDto>,
    text: Option<String>,
    /// A further message about the same packet.
    remark: Option<String>,
}

/// A TCP segment.
#[derive(Debug, Serialize, JsonSchema)]
struct PacketDto {
    src: String,
    dst: String,
    seq: u32,
    /// Sequence number after the last byte.
    seq_end: u32,
    ack: u32,
    /// As tcpdump writes them.
    flags: String,
    /// Unscaled.
    window: u16,
    payload_len: u32,
    ttl: u8,
    tos: u8,
    ip_id: Option<u16>,
    mark: u32,
    /// Left and right edges.
    sack: Vec<[u32; 2]>,
    /// TCP options as captured, hexadecimal.
    options: String,
    /// `linear`, or `fragment` where the headers were in a page fragment of the buffer.
    headers_from: &'static str,
}

/// A RST that this host sent.
#[derive(Debug, Serialize, JsonSchema)]
struct ResetDto<'a> {
    hook: &'static str,
    /// The kernel function that made it.
    function: &'static str,
    by: ResetByDto,
    /// Whom it was sent to.
    to: Option<String>,
    seq: Option<u32>,
    ack: Option<u32>,
    /// What it does to the peer: `kills`, `may-kill`, `challenge-ack`, `dropped`, `unknown`.
    effect: &'static str,
    /// The effect in words.
    meaning: String,
    /// The packet that it answers, where no earlier step shows it.
    packet: Option<PacketDto>,
    /// State of the socket that sent it.
    socket_state: Option<String>,
    /// The kernel's own reason (6.10 and later).
    kernel_reason: Option<&'a str>,
    /// The segment is signed (TCP-MD5, TCP-AO): the kernel sends the RST only if it finds the key. It is not counted.
    doubtful: bool,
}

/// A window check explained.
#[derive(Debug, Serialize, JsonSchema)]
struct WindowDto {
    /// I, II, III or IV, as in docs/window.md.
    failed: &'static str,
    /// The inequality that should have held.
    inequality: String,
    /// The last value that would have passed.
    bound: u32,
    /// The segment's own value.
    value: u32,
    /// How far the value is on the wrong side of the bound.
    distance_bytes: u32,
    sender: SideDto,
    receiver: SideDto,
    /// `entry`: computed from the entry; `entry-and-kernel`: and the kernel's message gives the same; `kernel`: the
    /// kernel's message alone, the entry had moved on when it was read.
    source: &'static str,
    /// Whether testing all inequalities against the entry as it was read finds the same one.
    agrees: bool,
}

/// What conntrack knows of one side.
#[derive(Debug, Serialize, JsonSchema)]
struct SideDto {
    /// `client` or `server`.
    end: &'static str,
    td_end: u32,
    td_maxend: u32,
    td_maxwin: u32,
    td_maxack: u32,
    td_scale: u8,
    flags: u8,
}

/// A cause that it was not.
#[derive(Debug, Serialize, JsonSchema)]
struct ExcludedDto<'a> {
    cause: CauseDto,
    because: &'a str,
}

/// Something that should be known.
#[derive(Debug, Serialize, JsonSchema)]
struct FindingDto<'a> {
    id: &'static str,
    /// `critical`, `warning` or `info`.
    severity: &'static str,
    title: &'a str,
    evidence: BTreeMap<&'a str, &'a str>,
    advice: &'a [String],
}

/// One event, as `whyrst trace --format json` prints it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(title = "whyrst.trace.v1", extend("$id" = TRACE_SCHEMA))]
struct TraceDto<'a> {
    /// When; RFC 3339, UTC.
    #[schemars(extend("format" = "date-time"))]
    at: String,
    #[serde(flatten)]
    step: Step<'a>,
    /// Absent where the event is no cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cause: Option<CauseDto>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<ReasonDto>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    confidence: Option<ConfidenceDto>,
    netns: Option<u32>,
    /// The endpoints, where the flow is known.
    client: Option<String>,
    nat: Option<String>,
    server: Option<String>,
    service: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    window: Option<WindowDto>,
}

impl<'a> TraceDto<'a> {
    fn new(observed: &Observed, flow: Option<&Flow>, host: &'a Host) -> Option<Self> {
        let (event, step, diagnosis, confidence, explained) = match &observed.kind {
            Kind::Unwanted => return None,
            Kind::Refusal(refusal, diagnosis) => {
                let dto = Box::new(conntrack(refusal, None));
                let step = match refusal.verdict {
                    Verdict::Invalid => Step::ConntrackInvalid(dto),
                    Verdict::Ignored => Step::ConntrackIgnored(dto),
                    Verdict::Unknown => Step::ConntrackUndecided(dto),
                };
                (&refusal.event, step, Some(*diagnosis), None, refusal.window)
            }
            Kind::Remark(event) => {
                let text = event.words.map(|words| words.to_string());
                (event, Step::ConntrackRemark { text }, None, None, None)
            }
            Kind::Reset(reset, diagnosis, confidence) => {
                let dto = Box::new(reset_dto(reset, false, host, flow));
                (&reset.event, Step::ResetSent(dto), Some(*diagnosis), Some(*confidence), None)
            }
            Kind::Departure(event) => {
                let output = event.output.map(|output| output.to_string());
                (event, Step::ResetLeft { output }, None, None, None)
            }
            Kind::PeerReset(event) => {
                let answered = packet_of(event)?;
                (event, Step::PeerResetSent { netns: event.netns, answered }, None, None, None)
            }
        };
        Some(Self {
            at: rfc3339(host.clock, event.at),
            step,
            cause: diagnosis.map(|diagnosis| CauseDto(diagnosis.cause)),
            reason: diagnosis.and_then(|diagnosis| diagnosis.reason).map(ReasonDto),
            confidence: confidence.map(ConfidenceDto),
            netns: event.netns,
            client: flow.map(|flow| flow.key.client().to_string()),
            nat: flow.and_then(|flow| flow.key.nat()).map(|nat| nat.to_string()),
            server: flow.map(|flow| flow.key.server().to_string()),
            service: flow.and_then(|flow| flow.key.service()).map(|service| service.to_string()),
            window: explained.map(|explained| window(&explained)),
        })
    }
}

/// A cure.
#[derive(Debug, Serialize, JsonSchema)]
struct MitigationDto<'a> {
    id: &'static str,
    title: &'a str,
    commands: &'a [String],
    undo: &'a [String],
    side_effects: &'a [&'static str],
    cures: Vec<ReasonDto>,
}

impl<'a> ReportDto<'a> {
    fn new(report: &'a Report) -> Self {
        let clock = report.host.clock;
        Self {
            schema: SCHEMA,
            tool: ToolDto { name: "whyrst", version: env!("CARGO_PKG_VERSION") },
            host: HostDto { hostname: &report.host.hostname, kernel: &report.host.kernel, era: report.host.era.name() },
            capture: CaptureDto {
                source: match &report.origin {
                    Origin::Live => "live",
                    Origin::Recording { path, .. } => path,
                },
                started: rfc3339(clock, report.started),
                ended: rfc3339(clock, report.ended),
                duration_s: report.duration().as_secs_f64(),
                hooks: report.hooks.iter().map(hook).collect(),
                events: report.events,
                events_lost: report.lost,
                events_suppressed: 0,
                events_hidden: report.filtered,
                lost_on: report
                    .lost_on
                    .iter()
                    .map(|(cpu, hook, lost)| LostDto { cpu: *cpu, target: hook.spec().symbol, lost: *lost })
                    .collect(),
            },
            summary: SummaryDto {
                invalid_packets: report.summary.tally.invalid,
                ignored_packets: report.summary.tally.ignored,
                resets_sent: report.summary.tally.resets,
                flows_reset: report.summary.flows_reset,
                by_cause: report.summary.by_cause.iter().map(|(cause, flows)| (cause.name(), *flows)).collect(),
            },
            flows: report.flows.iter().map(|flow| FlowDto::new(flow, report)).collect(),
            findings: report.findings.iter().map(finding).collect(),
            mitigations: report.mitigations.iter().map(mitigation).collect(),
        }
    }
}

impl<'a> FlowDto<'a> {
    fn new(report: &'a FlowReport, whole: &'a Report) -> Self {
        let flow = &report.flow;
        let (story, tally, clock) = (&flow.story, flow.tally(), whole.host.clock);
        let words = story.refusal.as_ref().and_then(|refusal| refusal.event.words);
        Self {
            client: flow.key.client().to_string(),
            nat: flow.key.nat().map(|nat| nat.to_string()),
            server: flow.key.server().to_string(),
            service: flow.key.service().map(|service| service.to_string()),
            netns: flow.key.netns,
            netns_name: report.netns_name.as_deref(),
            zone: flow.key.zone,
            tcp_state: flow.state.map(|state| state.to_string()),
            assured: flow.assured,
            cause: CauseDto(story.diagnosis.cause),
            reason: story.diagnosis.reason.map(ReasonDto),
            confidence: ConfidenceDto(story.confidence),
            reset_by: flow.reset_by().map(ResetByDto),
            reset_effect: story.reset.as_ref().map(|reset| reset.effect.name()),
            invalid_packets: tally.invalid,
            ignored_packets: tally.ignored,
            resets: tally.resets,
            first: rfc3339(clock, flow.first),
            last: rfc3339(clock, flow.last),
            causes: if flow.causes.len() > 1 { flow.causes.iter().map(count).collect() } else { Vec::new() },
            chain: chain(flow, whole),
            window: story.refusal.as_ref().and_then(|refusal| refusal.window).map(|explained| window(&explained)),
            kernel_text: words.map(|words| words.to_string()),
            excluded: report
                .excluded
                .iter()
                .map(|exclusion| ExcludedDto { cause: CauseDto(exclusion.cause), because: &exclusion.because })
                .collect(),
            mitigations: report.mitigations.iter().map(|id| id.name()).collect(),
        }
    }
}

fn chain<'a>(flow: &'a Flow, report: &'a Report) -> Vec<StepDto<'a>> {
    let story = &flow.story;
    let began = story.began().unwrap_or(flow.first);
    let clock = report.host.clock;
    let step = |at: Instant, step: Step<'a>| StepDto {
        at: rfc3339(clock, at),
        after_us: u64::try_from((at - began).as_micros()).unwrap_or(u64::MAX),
        step,
    };
    let mut steps = Vec::new();
    if let Some(refusal) = &story.refusal {
        let dto = Box::new(conntrack(refusal, story.remark.map(|remark| remark.to_string())));
        steps.push(step(
            refusal.event.at,
            match refusal.verdict {
                Verdict::Invalid => Step::ConntrackInvalid(dto),
                Verdict::Ignored => Step::ConntrackIgnored(dto),
                Verdict::Unknown => Step::ConntrackUndecided(dto),
            },
        ));
    }
    if let Some(reset) = &story.reset {
        if let Some((nfct, destination)) = nat_skipped(flow, reset) {
            steps.push(step(reset.event.at, Step::NatSkipped { nfct, destination }));
        }
        let shown = story.refusal.is_some();
        steps.push(step(reset.event.at, Step::ResetSent(Box::new(reset_dto(reset, shown, &report.host, Some(flow))))));
    }
    if let Some(departure) = story.departure {
        let output = departure.output.map(|output| output.to_string());
        steps.push(step(departure.at, Step::ResetLeft { output }));
    }
    if let Some(reset) = flow.peer_reset {
        let answered = packet(&reset.answered, 0, false);
        steps.push(step(reset.at, Step::PeerResetSent { netns: reset.netns, answered }));
    }
    for fate in &flow.fates {
        let not_before = fate.not_before.map(|at| rfc3339(clock, at));
        let what = match &fate.outcome {
            Outcome::Found { state, timeout_s, .. } => {
                let entry = EntryDto { state: state.map(|state| state.to_string()), timeout_s: *timeout_s, not_before };
                if *state == Some(TcpState::Close) && reset_passed_through(flow) {
                    Step::PeerResetForwarded(entry)
                } else {
                    Step::EntryState(entry)
                }
            }
            Outcome::Gone => Step::EntryGone { not_before },
            Outcome::Failed { because } => Step::EntryUnknown { because },
        };
        steps.push(step(fate.at, what));
    }
    steps.sort_by_key(|step| step.after_us);
    steps
}

/// Whether an entry found in CLOSE got there by a RST that passed through: it was in another state when this host's own
/// RST, which conntrack does not count to the flow, was sent.
pub(super) fn reset_passed_through(flow: &Flow) -> bool {
    flow.reset_by() == Some(ResetBy::GatewayStack) && flow.state != Some(TcpState::Close)
}

/// Proof that the packet was not translated back: what the function that made the RST saw, and where it was going.
pub(super) fn nat_skipped(flow: &Flow, reset: &Reset) -> Option<(&'static str, String)> {
    let destination = reset.event.packet?.dst;
    if reset.by != ResetBy::GatewayStack || flow.key.nat() != Some(destination) {
        return None;
    }
    let nfct = match reset.event.nfct? {
        Nfct::None => "none",
        Nfct::Untracked => "untracked",
        Nfct::Entry(_) => "new",
    };
    Some((nfct, destination.to_string()))
}

fn conntrack(refusal: &Refusal, remark: Option<String>) -> ConntrackDto {
    let event = &refusal.event;
    ConntrackDto {
        hook: event.hook.name(),
        cpu: event.cpu,
        input: event.input.map(|interface| interface.to_string()),
        output: event.output.map(|interface| interface.to_string()),
        nf_hook: event.nf_hook.map(|hook| hook.to_string()),
        direction: refusal.direction.map(|direction| match direction {
            Direction::Original => "original",
            Direction::Reply => "reply",
        }),
        packet: packet_of(event),
        text: event.words.map(|words| words.to_string()),
        remark,
    }
}

fn packet_of(event: &Event) -> Option<PacketDto> {
    event.packet.map(|segment| packet(&segment, event.mark, event.notes.from_fragment))
}

fn packet(packet: &Packet, mark: u32, from_fragment: bool) -> PacketDto {
    PacketDto {
        src: packet.src.to_string(),
        dst: packet.dst.to_string(),
        seq: packet.seq.0,
        seq_end: packet.end().0,
        ack: packet.ack.0,
        flags: packet.flags.to_string(),
        window: packet.window,
        payload_len: packet.payload_len,
        ttl: packet.ttl,
        tos: packet.tos,
        ip_id: packet.ip_id,
        mark,
        sack: packet.options.sack_blocks().map(|(left, right)| [left.0, right.0]).collect(),
        options: hexadecimal(packet.options.as_bytes()),
        headers_from: if from_fragment { "fragment" } else { "linear" },
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect()
}

fn reset_dto<'a>(reset: &Reset, packet_shown: bool, host: &'a Host, flow: Option<&Flow>) -> ResetDto<'a> {
    let event = &reset.event;
    ResetDto {
        hook: event.hook.name(),
        function: event.hook.spec().symbol,
        by: ResetByDto(reset.by),
        to: event.packet.map(|packet| packet.src.to_string()),
        seq: reset.answer.map(|answer| answer.seq.0),
        ack: reset.answer.and_then(|answer| answer.ack).map(|ack| ack.0),
        effect: reset.effect.name(),
        meaning: words::effect(reset, words::peer(flow, reset)),
        packet: packet_of(event).filter(|_| !packet_shown),
        socket_state: event.socket.map(|socket| socket.state.to_string()),
        kernel_reason: event.reset_reason.and_then(|value| host.reset_reason(value)),
        doubtful: reset.doubtful,
    }
}

fn window(explained: &Explanation) -> WindowDto {
    let side = |seen: &Seen, direction: Direction| SideDto {
        end: words::end_of(direction),
        td_end: seen.td_end.0,
        td_maxend: seen.td_maxend.0,
        td_maxwin: seen.td_maxwin,
        td_maxack: seen.td_maxack.0,
        td_scale: seen.td_scale,
        flags: seen.flags,
    };
    WindowDto {
        failed: explained.failure.inequality(),
        inequality: words::inequality(explained),
        bound: explained.bound.0,
        value: explained.value.0,
        distance_bytes: explained.distance,
        sender: side(&explained.sender, explained.direction),
        receiver: side(&explained.receiver, explained.direction.other()),
        source: match explained.source {
            BoundSource::Entry => "entry",
            BoundSource::EntryAndKernel => "entry-and-kernel",
            BoundSource::Kernel => "kernel",
        },
        agrees: explained.agrees,
    }
}

fn hook(line: &HookLine) -> HookDto<'_> {
    let spec = line.hook.spec();
    HookDto {
        hook: spec.name,
        target: spec.symbol,
        method: (line.state == HookState::Attached).then_some("kprobe"),
        hits: line.counters.hits(),
        unattached: match &line.state {
            HookState::Attached => None,
            HookState::Waiting { module } => Some(module),
            HookState::Unavailable { because } => Some(because),
        },
    }
}

fn count((diagnosis, tally): &(crate::cause::Diagnosis, crate::causality::flow::Tally)) -> CountDto {
    CountDto {
        cause: CauseDto(diagnosis.cause),
        reason: diagnosis.reason.map(ReasonDto),
        invalid_packets: tally.invalid,
        ignored_packets: tally.ignored,
        resets: tally.resets,
    }
}

fn finding(finding: &Finding) -> FindingDto<'_> {
    FindingDto {
        id: finding.id,
        severity: finding.severity.name(),
        title: &finding.title,
        evidence: finding.evidence.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
        advice: &finding.advice,
    }
}

fn mitigation(mitigation: &Mitigation) -> MitigationDto<'_> {
    MitigationDto {
        id: mitigation.id.name(),
        title: mitigation.title,
        commands: &mitigation.commands,
        undo: &mitigation.undo,
        side_effects: &mitigation.side_effects,
        cures: mitigation.cures.iter().copied().map(ReasonDto).collect(),
    }
}

/// RFC 3339 in UTC with microseconds.
fn rfc3339(clock: ClockOffset, at: Instant) -> String {
    format!("{:.6}", clock.wall(at))
}
