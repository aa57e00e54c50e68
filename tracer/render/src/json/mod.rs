//! The report as one JSON object, `whyrst.report.v1`, and the schema that describes it.

mod compare;
pub mod doctor;
mod export;
mod mitigate;
mod types;
mod writing;

use std::io;

use serde::{Serialize, Serializer};

use tracer_advice::explain::{Group, LogReport};
use tracer_advice::report::{FlowReport, Report};
use tracer_engine::conclusion::HookLine;
use tracer_engine::engine::{Kind, Observed};
use tracer_engine::flow::{ConntrackVerdict, Flow, PeerSeen, Reset, Tally};
use tracer_model::capture::{HookState, Host, Origin, Outcome};
use tracer_model::cause::{Cause, Confidence, Diagnosis, ResetBy};
use tracer_model::conntrack::log_format::LogFormat;
use tracer_model::conntrack::window::{BoundSource, Explanation};
use tracer_model::conntrack::{DestroyedBy, DestroyedEntry, Direction, Nfct, Seen, TcpState, Verdict};
use tracer_model::event::{Event, Interface};
use tracer_model::finding::Finding;
use tracer_model::mitigation::Mitigation;
use tracer_model::packet::Packet;
use tracer_model::ruleset::{Candidates, Rule};
use tracer_model::time::{ClockOffset, Instant};

use super::words;

pub use compare::{COMPARE_SCHEMA, write as write_comparison, write_schema as write_comparison_schema};
pub use export::{EXPORT_SCHEMA, JsonLines, write_schema as write_export_schema};
pub use mitigate::{MITIGATE_SCHEMA, write_mitigate, write_mitigate_schema};

/// The schema's identifier.
pub const SCHEMA: &str = "whyrst.report.v1";
/// The identifier of the schema of a line of `whyrst trace --format json`.
pub const TRACE_SCHEMA: &str = "whyrst.trace.v1";

/// The identifier of the schema of `whyrst explain --format json`.
pub const EXPLAIN_SCHEMA: &str = "whyrst.explain.v1";

/// Writes the report.
pub fn write(report: &Report, to: &mut dyn io::Write) -> io::Result<()> {
    writing::document(&types::Report::new(report, report.flows.iter().collect()), to)
}

/// Writes the report with these of its flows alone, in one line.
pub(super) fn write_of<'a>(
    report: &'a Report,
    flows: impl Iterator<Item = &'a FlowReport>,
    to: &mut dyn io::Write,
) -> io::Result<()> {
    Ok(serde_json::to_writer(to, &types::Report::new(report, flows.collect()))?)
}

/// Writes the JSON Schema of the report.
pub fn write_schema(to: &mut dyn io::Write) -> io::Result<()> {
    writing::document(&schemars::schema_for!(types::Report<'_>), to)
}

/// Writes an observation as one line of JSON, described by the schema `whyrst.trace.v1`.
pub fn write_observation(
    observed: &Observed,
    flow: Option<&Flow>,
    host: &Host,
    to: &mut dyn io::Write,
) -> io::Result<()> {
    let Some(line) = types::Trace::new(observed, flow, host) else { return Ok(()) };
    writing::line(&line, to)
}

/// Writes what a kernel log says.
pub fn write_log(report: &LogReport, to: &mut dyn io::Write) -> io::Result<()> {
    let shape = types::LogReport {
        schema: EXPLAIN_SCHEMA,
        lines: report.lines,
        of_conntrack: report.of_conntrack,
        log_format: report.log_format.map(LogFormat::name),
        groups: report.groups.iter().map(log_group).collect(),
        own_resets: report.own_resets,
        remarks: report.remarks,
        table_full: report
            .table_full
            .iter()
            .map(|(netns, dropped)| types::LogTableFull { netns: *netns, dropped: *dropped })
            .collect(),
        expectation_table_full: report.expectation_table_full,
        not_understood: report.strange,
        not_understood_words: &report.strange_words,
    };
    writing::document(&shape, to)
}

/// Writes the JSON Schema of what a kernel log says.
pub fn write_log_schema(to: &mut dyn io::Write) -> io::Result<()> {
    writing::document(&schemars::schema_for!(types::LogReport<'_>), to)
}

fn log_group(group: &Group) -> types::LogGroup {
    types::LogGroup {
        verdict: group.verdict.name(),
        cause: types::Cause(group.diagnosis.cause),
        reason: group.diagnosis.reason.map(types::Reason),
        packets: group.packets,
        flows: group
            .flows
            .iter()
            .map(|((src, dst), packets)| types::LogFlow {
                src: src.to_string(),
                dst: dst.to_string(),
                packets: *packets,
            })
            .collect(),
    }
}

/// Writes the JSON Schema of a line of `whyrst trace --format json`.
pub fn write_trace_schema(to: &mut dyn io::Write) -> io::Result<()> {
    writing::document(&schemars::schema_for!(types::Trace<'_>), to)
}

impl<'a> types::Trace<'a> {
    fn new(observed: &Observed, flow: Option<&Flow>, host: &'a Host) -> Option<Self> {
        let (event, step, diagnosis, confidence, explained) = match &observed.kind {
            Kind::Unwanted => return None,
            Kind::ConntrackVerdict(logged, diagnosis) => {
                let shape = Box::new(conntrack(logged, None));
                let step = match logged.verdict {
                    Verdict::Invalid => types::Step::ConntrackInvalid(shape),
                    Verdict::Ignored => types::Step::ConntrackIgnored(shape),
                    Verdict::Unknown => types::Step::ConntrackUndecided(shape),
                };
                (&logged.event, step, Some(*diagnosis), None, logged.window)
            }
            Kind::Remark(event) => {
                let text = event.words.as_ref().map(ToString::to_string);
                (event, types::Step::ConntrackRemark { text }, None, None, None)
            }
            Kind::Reset(reset, diagnosis, confidence) => {
                let shape = Box::new(reset_sent(reset, false, host, flow));
                (&reset.event, types::Step::ResetSent(shape), Some(*diagnosis), Some(*confidence), None)
            }
            Kind::ResetOutput(event) => {
                let output = event.output.map(|output| output.to_string());
                (event, types::Step::ResetOutput { output }, None, None, None)
            }
            Kind::PeerReset(event) => {
                let from = event.tuple().and_then(|tuple| flow?.end(tuple.dst));
                let step = types::Step::PeerResetSent { netns: None, from, answered: packet_of(event) };
                (event, step, None, None, None)
            }
            Kind::ResetReceived(event) => {
                let step = arrived(flow, event.input, event.packet.as_ref());
                (event, step, Some(Diagnosis::plain(Cause::PeerReset)), None, None)
            }
        };
        Some(Self {
            at: rfc3339(host.clock, event.at),
            step,
            cause: diagnosis.map(|diagnosis| types::Cause(diagnosis.cause)),
            reason: diagnosis.and_then(|diagnosis| diagnosis.reason).map(types::Reason),
            confidence: confidence.map(types::Confidence),
            netns: event.netns,
            client: flow.map(|flow| flow.key.client().to_string()),
            nat: flow.and_then(|flow| flow.key.nat()).map(|nat| nat.to_string()),
            server: flow.map(|flow| flow.key.server().to_string()),
            service: flow.and_then(|flow| flow.key.service()).map(|service| service.to_string()),
            window: explained.map(|explained| window(&explained)),
        })
    }
}

impl<'a> types::Report<'a> {
    fn new(report: &'a Report, told: Vec<&'a FlowReport>) -> Self {
        let clock = report.host.clock;
        Self {
            schema: SCHEMA,
            tool: types::Tool { name: "whyrst", version: env!("CARGO_PKG_VERSION") },
            host: types::Host {
                hostname: &report.host.hostname,
                kernel: &report.host.kernel,
                log_format: report.host.log_format.name(),
            },
            capture: types::Capture {
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
                events_suppressed: report.suppressed,
                events_hidden: report.filtered,
                lost_on: report
                    .lost_on
                    .iter()
                    .map(|(cpu, hook, lost)| types::LostOn { cpu: *cpu, target: hook.spec().symbol, lost: *lost })
                    .collect(),
            },
            summary: types::Summary {
                invalid_packets: report.summary.tally.invalid,
                ignored_packets: report.summary.tally.ignored,
                resets_sent: report.summary.tally.resets,
                flows_reset: report.summary.flows_reset,
                by_cause: report.summary.by_cause.iter().map(|(cause, flows)| (cause.name(), *flows)).collect(),
                table_full_drops: report.summary.table_full_drops,
            },
            flows: types::Flows { told, report },
            findings: report.findings.iter().map(finding).collect(),
            mitigations: report.mitigations.iter().map(mitigation).collect(),
        }
    }
}

/// Flows take their shape one after the other: that of all of them is much larger than they are.
impl Serialize for types::Flows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.told.iter().map(|flow| types::Flow::new(flow, self.report)))
    }
}

impl<'a> types::Flow<'a> {
    fn new(report: &'a FlowReport, whole: &'a Report) -> Self {
        let flow = &report.flow;
        let (incident, tally, clock) = (&flow.incident, flow.tally(), whole.host.clock);
        let words = incident.logged.as_ref().and_then(|logged| logged.event.words.as_ref());
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
            cause: types::Cause(incident.diagnosis.cause),
            reason: incident.diagnosis.reason.map(types::Reason).map(types::FlowReason::Word).or_else(|| {
                words::kernel_reason(flow, &whole.host).map(|reason| types::FlowReason::Kernel(reason.into()))
            }),
            confidence: types::Confidence(incident.confidence),
            reset_by: flow.reset_by().map(types::ResetBy),
            rule: report.candidates.as_ref().map(reject_rule),
            reset_effect: incident.reset.as_ref().map(|reset| reset.effect.name()),
            invalid_packets: tally.invalid,
            ignored_packets: tally.ignored,
            resets: tally.resets,
            peer_resets: tally.forwarded,
            first: rfc3339(clock, flow.first),
            last: rfc3339(clock, flow.last),
            causes: if flow.causes.len() > 1 { flow.causes.iter().map(count).collect() } else { Vec::new() },
            chain: chain(flow, whole),
            window: incident.logged.as_ref().and_then(|logged| logged.window).map(|explained| window(&explained)),
            kernel_text: words.map(ToString::to_string),
            excluded: report
                .excluded
                .iter()
                .map(|exclusion| types::Excluded { cause: types::Cause(exclusion.cause), because: &exclusion.because })
                .collect(),
            mitigations: report.mitigations.iter().map(|id| id.name()).collect(),
        }
    }
}

fn chain<'a>(flow: &'a Flow, report: &'a Report) -> Vec<types::ChainStep<'a>> {
    let incident = &flow.incident;
    let began = incident.began().unwrap_or(flow.first);
    let clock = report.host.clock;
    let step = |at: Instant, step: types::Step<'a>| types::ChainStep {
        at: rfc3339(clock, at),
        after_us: u64::try_from((at - began).as_micros()).unwrap_or(u64::MAX),
        step,
    };
    let mut steps = Vec::new();
    if let Some(gone) = incident.gone() {
        steps.push(step(gone.at, entry_ended(gone, began)));
    }
    for logged in &incident.follows {
        steps.push(step(logged.event.at, types::Step::ConntrackIgnored(Box::new(conntrack(logged, None)))));
    }
    if let Some(logged) = &incident.logged {
        let shape = Box::new(conntrack(logged, incident.remark.as_ref().map(ToString::to_string)));
        steps.push(step(
            logged.event.at,
            match logged.verdict {
                Verdict::Invalid => types::Step::ConntrackInvalid(shape),
                Verdict::Ignored => types::Step::ConntrackIgnored(shape),
                Verdict::Unknown => types::Step::ConntrackUndecided(shape),
            },
        ));
    }
    if let Some(reset) = &incident.reset {
        if let Some((nfct, destination)) = nat_skipped(flow, reset) {
            steps.push(step(reset.event.at, types::Step::NatSkipped { nfct, destination }));
        }
        let shown = incident.logged.is_some();
        steps.push(step(
            reset.event.at,
            types::Step::ResetSent(Box::new(reset_sent(reset, shown, &report.host, Some(flow)))),
        ));
    }
    if let Some(reset_output) = incident.reset_output {
        let output = reset_output.output.map(|output| output.to_string());
        steps.push(step(reset_output.at, types::Step::ResetOutput { output }));
    }
    if let Some(reset) = flow.peer_reset.as_deref() {
        let what = match reset.seen {
            PeerSeen::Made { netns, answered } => types::Step::PeerResetSent {
                netns,
                from: flow.end(reset.tuple.src),
                answered: answered.map(|answered| packet(&answered, 0, false)),
            },
            PeerSeen::Arrived { input, packet } => arrived(Some(flow), input, Some(&packet)),
        };
        steps.push(step(reset.at, what));
    }
    for fate in &flow.entry_statuses {
        let not_before = fate.not_before.map(|at| rfc3339(clock, at));
        let what = match &fate.outcome {
            Outcome::Found { state, timeout_s, .. } => {
                let entry =
                    types::Entry { state: state.map(|state| state.to_string()), timeout_s: *timeout_s, not_before };
                if *state == Some(TcpState::Close) && reset_passed_through(flow) {
                    types::Step::PeerResetForwarded(entry)
                } else {
                    types::Step::EntryState(entry)
                }
            }
            Outcome::NotFound { .. } => types::Step::EntryNotFound { not_before },
            Outcome::Failed { because } => types::Step::EntryUnknown { because },
        };
        steps.push(step(fate.at, what));
    }
    steps.sort_by_key(|step| step.after_us);
    steps
}

fn arrived<'a>(flow: Option<&Flow>, input: Option<Interface>, segment: Option<&Packet>) -> types::Step<'a> {
    types::Step::PeerResetReceived {
        input: input.map(|interface| interface.to_string()),
        from: flow.and_then(|flow| flow.end(segment?.src)),
        refuses: segment.map(Packet::refuses),
        packet: segment.map(|segment| packet(segment, 0, false)),
    }
}

fn entry_ended<'a>(gone: &DestroyedEntry, began: Instant) -> types::Step<'a> {
    types::Step::EntryDestroyed {
        how: gone.reason().name(),
        before_us: u64::try_from((began - gone.at).as_micros()).unwrap_or(u64::MAX),
        tcp_state: gone.entry.state.to_string(),
        assured: gone.entry.status.assured(),
        process: match gone.by {
            DestroyedBy::UserSpace { pid, comm } => Some(types::Process { pid, name: comm.to_string() }),
            _ => None,
        },
    }
}

/// Whether an entry found in CLOSE got there by a RST that passed through: it was in another state when this host's own
/// RST, which conntrack does not count to the flow, was sent.
pub(super) fn reset_passed_through(flow: &Flow) -> bool {
    let by_end_or_unseen = matches!(flow.reset_by(), Some(ResetBy::GatewayStack | ResetBy::Peer));
    by_end_or_unseen && flow.state != Some(TcpState::Close)
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

fn conntrack(logged: &ConntrackVerdict, remark: Option<String>) -> types::Conntrack {
    let event = &logged.event;
    types::Conntrack {
        hook: event.hook.name(),
        cpu: event.cpu,
        input: event.input.map(|interface| interface.to_string()),
        output: event.output.map(|interface| interface.to_string()),
        nf_hook: event.nf_hook.map(|hook| hook.to_string()),
        direction: logged.direction.map(|direction| match direction {
            Direction::Original => "original",
            Direction::Reply => "reply",
        }),
        packet: packet_of(event),
        text: event.words.as_ref().map(ToString::to_string),
        remark,
    }
}

fn packet_of(event: &Event) -> Option<types::Packet> {
    event.packet.map(|segment| packet(&segment, event.mark, event.flags.from_fragment))
}

fn packet(packet: &Packet, mark: u32, from_fragment: bool) -> types::Packet {
    types::Packet {
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

fn reset_sent<'a>(reset: &Reset, packet_shown: bool, host: &'a Host, flow: Option<&Flow>) -> types::Reset<'a> {
    let event = &reset.event;
    types::Reset {
        hook: event.hook.name(),
        function: event.hook.spec().symbol,
        by: types::ResetBy(reset.by),
        to: event.tuple().map(|tuple| tuple.src.to_string()),
        seq: reset.answer.map(|answer| answer.seq.0),
        ack: reset.answer.and_then(|answer| answer.ack).map(|ack| ack.0),
        effect: reset.effect.name(),
        meaning: words::effect(reset, words::peer(flow, reset)),
        packet: packet_of(event).filter(|_| !packet_shown),
        socket_state: event.socket.as_ref().map(|socket| socket.state.to_string()),
        process: event.process().map(|process| types::Process { pid: process.pid, name: process.comm.to_string() }),
        kernel_reason: event.reset_reason.and_then(|value| host.reset_reason(value)),
        doubtful: reset.doubtful,
    }
}

fn reject_rule(candidates: &Candidates) -> types::RejectRule<'_> {
    types::RejectRule {
        named: candidates.only().map(named_rule).unwrap_or_default(),
        certainty: Confidence::Inferred.name(),
        candidates: candidates.rules.iter().map(named_rule).collect(),
        candidate_count: candidates.count,
        of: candidates.of,
        problems: &candidates.problems,
        meaning: words::candidates(candidates),
    }
}

fn named_rule(rule: &Rule) -> types::NamedRule<'_> {
    types::NamedRule {
        backend: Some(rule.backend.name()),
        family: Some(rule.family.name()),
        table: Some(&rule.table),
        chain: Some(&rule.chain),
        handle: rule.handle,
        number: rule.number,
        text: Some(&rule.text),
    }
}

fn window(explained: &Explanation) -> types::Window {
    types::Window {
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

fn side(seen: &Seen, direction: Direction) -> types::Side {
    types::Side {
        end: words::end_of(direction),
        td_end: seen.td_end.0,
        td_maxend: seen.td_maxend.0,
        td_maxwin: seen.td_maxwin,
        td_maxack: seen.td_maxack.0,
        td_scale: seen.td_scale,
        flags: seen.flags,
    }
}

fn hook(line: &HookLine) -> types::HookUse<'_> {
    let spec = line.hook.spec();
    types::HookUse {
        hook: spec.name,
        target: spec.symbol,
        method: (line.state == HookState::Attached).then_some(spec.method.name()),
        hits: line.counters.hits(),
        unattached: match &line.state {
            HookState::Attached => None,
            HookState::Waiting { module } => Some(module),
            HookState::Unavailable { because } => Some(because),
        },
    }
}

fn count((diagnosis, tally): &(Diagnosis, Tally)) -> types::Count {
    types::Count {
        cause: types::Cause(diagnosis.cause),
        reason: diagnosis.reason.map(types::Reason),
        invalid_packets: tally.invalid,
        ignored_packets: tally.ignored,
        resets: tally.resets,
    }
}

fn finding(finding: &Finding) -> types::Finding<'_> {
    types::Finding {
        id: finding.id,
        severity: finding.severity.name(),
        title: &finding.title,
        evidence: finding.evidence.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
        advice: &finding.advice,
    }
}

fn mitigation(mitigation: &Mitigation) -> types::Mitigation<'_> {
    types::Mitigation {
        id: mitigation.id.name(),
        title: mitigation.title,
        commands: &mitigation.commands,
        undo: &mitigation.undo,
        persist: &mitigation.persist,
        unpersist: &mitigation.unpersist,
        notes: &mitigation.notes,
        side_effects: &mitigation.side_effects,
        cures: mitigation.cures.iter().copied().map(types::Reason).collect(),
    }
}

/// RFC 3339 in UTC with microseconds.
pub(super) fn rfc3339(clock: ClockOffset, at: Instant) -> String {
    format!("{:.6}", clock.wall(at))
}
