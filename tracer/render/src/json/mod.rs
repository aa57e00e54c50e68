//! The report as one JSON object, `whyrst.report.v1`, and the schema that describes it.

mod compare;
pub mod doctor;
mod export;
mod mitigate;
mod types;
mod writing;

use std::io;
use std::time::Duration;

use serde::{Serialize, Serializer};

use tracer_advice::explain::{Group, LogReport};
use tracer_advice::report::{FlowReport, Report};
use tracer_engine::engine::{Kind, Observed};
use tracer_engine::flow::{ConntrackVerdict, Flow, Reset, Tally};
use tracer_engine::hook_line::HookLine;
use tracer_engine::timeline::{EntryFound, Segment, Step, StepKind, Timeline};
use tracer_model::capture::{HookState, Host, Origin};
use tracer_model::cause::{Confidence, Diagnosis};
use tracer_model::conntrack::log_format::LogFormat;
use tracer_model::conntrack::window::{BoundSource, Explanation};
use tracer_model::conntrack::{DestroyedBy, DestroyedEntry, Direction, Nfct, Seen, Verdict};
use tracer_model::event::LogMessage;
use tracer_model::finding::Finding;
use tracer_model::mitigation::Mitigation;
use tracer_model::packet::Packet;
use tracer_model::ruleset::{Candidates, Rule};
use tracer_model::time::{ClockOffset, Instant};

use super::sentences;

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

/// Writes the report of a kernel log.
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

/// Writes the JSON Schema of the report of a kernel log.
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
    fn new(observed: &'a Observed, flow: Option<&'a Flow>, host: &'a Host) -> Option<Self> {
        let (event, Step { at, kind }) = (observed.event()?, observed.step()?);
        let diagnosis = observed.diagnosis();
        let (confidence, explained) = match &observed.kind {
            Kind::Reset(_, _, confidence) => (Some(*confidence), None),
            Kind::ConntrackVerdict(logged, _) => (None, logged.window),
            Kind::Unwanted | Kind::Remark(_) | Kind::ResetOutput(_) | Kind::PeerReset(_) | Kind::ResetReceived(_) => {
                (None, None)
            }
        };
        Some(Self {
            at: rfc3339(host.clock, at),
            step: step(&kind, at, flow, host),
            cause: diagnosis.map(|diagnosis| types::Cause(diagnosis.cause)),
            reason: diagnosis.and_then(|diagnosis| diagnosis.reason).map(types::Reason),
            confidence: confidence.map(types::Confidence),
            provisional: observed.provisional,
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
    fn new(report: &'a Report, shown: Vec<&'a FlowReport>) -> Self {
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
            flows: types::Flows { shown, report },
            findings: report.findings.iter().map(finding).collect(),
            mitigations: report.mitigations.iter().map(mitigation).collect(),
        }
    }
}

/// Flows take their shape one after the other: all shapes together are much larger than the flows.
impl Serialize for types::Flows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.shown.iter().map(|flow| types::Flow::new(flow, self.report)))
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
                sentences::kernel_reason(flow, &whole.host).map(|reason| types::FlowReason::Kernel(reason.into()))
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
            chain: chain(flow, &whole.host),
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

fn chain<'a>(flow: &'a Flow, host: &'a Host) -> Vec<types::ChainStep<'a>> {
    let Timeline { origin, steps } = Timeline::of(flow);
    let shape = |Step { at, kind }: &Step<'a>| types::ChainStep {
        at: rfc3339(host.clock, *at),
        after_us: micros(*at - origin),
        step: step(kind, origin, Some(flow), host),
    };
    steps.iter().map(shape).collect()
}

/// A step of a timeline that began at `origin`, or of an event.
fn step<'a>(kind: &StepKind<'a>, origin: Instant, flow: Option<&Flow>, host: &'a Host) -> types::Step<'a> {
    let time = |at: Option<Instant>| at.map(|at| rfc3339(host.clock, at));
    let entry = |found: &EntryFound| types::Entry {
        state: found.state.map(|state| state.to_string()),
        timeout_s: found.timeout_s,
        not_before: time(found.not_before),
    };
    match *kind {
        StepKind::EntryDestroyed(destroyed) => entry_destroyed(destroyed, origin),
        StepKind::AcceptedBefore(logged) => conntrack(logged, None),
        StepKind::Logged { logged, remark } => conntrack(logged, remark),
        StepKind::Remark(event) => types::Step::ConntrackRemark { text: event.words.as_ref().map(ToString::to_string) },
        StepKind::NatSkipped { nfct, destination, .. } => types::Step::NatSkipped {
            nfct: match nfct {
                Nfct::None => "none",
                Nfct::Untracked => "untracked",
                Nfct::Entry(_) => "new",
            },
            destination: destination.to_string(),
        },
        StepKind::ResetSent { reset, segment_shown } => {
            types::Step::ResetSent(Box::new(reset_sent(reset, segment_shown, host, flow)))
        }
        StepKind::ResetOutput { output } => {
            types::Step::ResetOutput { output: output.map(|output| output.to_string()) }
        }
        StepKind::PeerResetSent { tuple, netns, answered } => types::Step::PeerResetSent {
            netns,
            from: tuple.and_then(|tuple| flow?.end(tuple.src)),
            answered: answered.map(packet),
        },
        StepKind::PeerResetReceived { input, packet: segment } => types::Step::PeerResetReceived {
            input: input.map(|interface| interface.to_string()),
            from: segment.and_then(|segment| flow?.end(segment.src)),
            refuses: segment.map(Packet::refuses),
            packet: segment.map(|segment| packet(segment.into())),
        },
        StepKind::EntryState(found) => types::Step::EntryState(entry(&found)),
        StepKind::PeerResetForwarded(found) => types::Step::PeerResetForwarded(entry(&found)),
        StepKind::EntryNotFound { not_before } => types::Step::EntryNotFound { not_before: time(not_before) },
        StepKind::EntryUnknown { because } => types::Step::EntryUnknown { because },
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn entry_destroyed<'a>(destroyed: &DestroyedEntry, origin: Instant) -> types::Step<'a> {
    types::Step::EntryDestroyed {
        how: destroyed.reason().name(),
        before_us: micros(origin - destroyed.at),
        tcp_state: destroyed.entry.state.to_string(),
        assured: destroyed.entry.status.assured(),
        process: match destroyed.by {
            DestroyedBy::UserSpace { pid, comm } => Some(types::Process { pid, name: comm.to_string() }),
            _ => None,
        },
    }
}

fn conntrack<'a>(logged: &ConntrackVerdict, remark: Option<&LogMessage>) -> types::Step<'a> {
    let event = &logged.event;
    let shape = Box::new(types::Conntrack {
        hook: event.hook.name(),
        cpu: event.cpu,
        input: event.input.map(|interface| interface.to_string()),
        output: event.output.map(|interface| interface.to_string()),
        nf_hook: event.nf_hook.map(|hook| hook.to_string()),
        direction: logged.direction.map(|direction| match direction {
            Direction::Original => "original",
            Direction::Reply => "reply",
        }),
        packet: Segment::of(event).map(packet),
        text: event.words.as_ref().map(ToString::to_string),
        remark: remark.map(ToString::to_string),
    });
    match logged.verdict {
        Verdict::Invalid => types::Step::ConntrackInvalid(shape),
        Verdict::Ignored => types::Step::ConntrackIgnored(shape),
        Verdict::Unknown => types::Step::ConntrackUndecided(shape),
    }
}

fn packet(Segment { packet, mark, from_fragment }: Segment<'_>) -> types::Packet {
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

fn reset_sent<'a>(reset: &Reset, segment_shown: bool, host: &'a Host, flow: Option<&Flow>) -> types::Reset<'a> {
    let event = &reset.event;
    types::Reset {
        hook: event.hook.name(),
        function: event.hook.spec().symbol,
        by: types::ResetBy(reset.by),
        to: event.tuple().map(|tuple| tuple.src.to_string()),
        seq: reset.answer.map(|answer| answer.seq.0),
        ack: reset.answer.and_then(|answer| answer.ack).map(|ack| ack.0),
        effect: reset.effect.name(),
        meaning: sentences::effect(reset, sentences::peer(flow, reset)),
        packet: Segment::of(event).filter(|_| !segment_shown).map(packet),
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
        meaning: sentences::candidates(candidates),
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
        inequality: sentences::inequality(explained),
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
        end: sentences::end_of(direction),
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
        cures: mitigation.reasons.iter().copied().map(types::Reason).collect(),
    }
}

/// RFC 3339 in UTC with microseconds.
pub(super) fn rfc3339(clock: ClockOffset, at: Instant) -> String {
    format!("{:.6}", clock.wall(at))
}
