//! `whyrst export --format jsonl`: the capture, its flows, its events in full, one object a line.

use std::io::{self, Write};

use schemars::JsonSchema;
use serde::Serialize;

use tracer_advice::report::{FlowReport, Report};
use tracer_common::wire::present;
use tracer_model::conntrack::{Direction, Entry, Tuple};
use tracer_model::decode::padded;
use tracer_model::evidence;

use super::{hexadecimal, side, types, writing};
use crate::annotated::AnnotatedEvent;

/// The identifier of the schema of a line of `whyrst export --format jsonl`.
pub const EXPORT_SCHEMA: &str = "whyrst.export.v1";

/// A line of `whyrst export --format jsonl`: first one `capture`, then every `flow`, then every `event` in the order in which
/// they came, then one `end`, without which the file was cut.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "line", rename_all = "kebab-case")]
#[schemars(title = "whyrst.export.v1", extend("$id" = EXPORT_SCHEMA))]
enum Line<'a> {
    /// What was captured, where and how.
    Capture(Box<Whole<'a>>),
    /// A flow, as in `whyrst report --format json`.
    Flow(Box<FlowLine<'a>>),
    /// An event.
    Event(Box<EventLine<'a>>),
    /// The last line.
    End(End),
}

/// The capture.
#[derive(Debug, Serialize, JsonSchema)]
struct Whole<'a> {
    /// Always `whyrst.export.v1`.
    schema: &'static str,
    tool: types::Tool,
    host: types::Host<'a>,
    capture: types::Capture<'a>,
    summary: types::Summary,
    /// Findings besides the flows, the most urgent first.
    findings: Vec<types::Finding<'a>>,
}

/// A flow.
#[derive(Debug, Serialize, JsonSchema)]
struct FlowLine<'a> {
    /// Its number, which its events have too.
    flow: u64,
    #[serde(flatten)]
    shape: types::Flow<'a>,
}

/// An event: a line of `whyrst trace --format json`, and the hook's further data.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(transform = inside)]
struct EventLine<'a> {
    #[serde(flatten)]
    trace: types::Trace<'a>,
    /// `at` with nanoseconds.
    #[schemars(extend("format" = "date-time"))]
    at_nanoseconds: String,
    /// Number of the flow; null where the event belongs to none. It has a line unless it was evicted for want of
    /// room, or belongs to an endpoint of the same host.
    flow: Option<u64>,
    /// The hook.
    seen_by: &'static str,
    /// The kernel function.
    target: &'static str,
    on_cpu: u32,
    /// The headers of the packet; null where they were out of reach.
    headers: Option<Headers>,
    /// The packet's conntrack entry.
    entry: Option<EntryShape>,
    /// The destroyed entry that the packet would have belonged to.
    destroyed_entry: Option<EntryShape>,
    /// A field that the hook needs could not be read.
    incomplete: bool,
}

/// Bytes of a packet, hexadecimal.
#[derive(Debug, Serialize, JsonSchema)]
struct Headers {
    /// The IP header, without IPv6 extension headers.
    network: String,
    /// The TCP header; shorter than it says where not all of it was in reach.
    transport: String,
    /// The packet's length on the wire in bytes, payload included.
    length: Option<u32>,
}

/// An entry of conntrack.
#[derive(Debug, Serialize, JsonSchema)]
struct EntryShape {
    original: Ends,
    reply: Ends,
    zone: u16,
    tcp_state: String,
    /// `IPS_*` bits.
    status: u32,
    /// The client's side, then the server's.
    sides: [types::Side; 2],
}

/// Endpoints of one direction.
#[derive(Debug, Serialize, JsonSchema)]
struct Ends {
    src: String,
    dst: String,
}

/// The last line.
#[derive(Debug, Serialize, JsonSchema)]
struct End {
    /// `flow` lines.
    flows: u64,
    /// `event` lines.
    events: u64,
}

/// Writes the lines of a capture.
pub struct JsonLines<'r, W: Write> {
    to: W,
    report: &'r Report,
    events: u64,
}

impl<'r, W: Write> JsonLines<'r, W> {
    /// Starts with the capture and its flows.
    pub fn start(to: W, report: &'r Report) -> io::Result<Self> {
        let mut lines = Self { to, report, events: 0 };
        let types::Report { tool, host, capture, summary, findings, .. } = types::Report::new(report, Vec::new());
        let whole = Whole { schema: EXPORT_SCHEMA, tool, host, capture, summary, findings };
        lines.line(&Line::Capture(Box::new(whole)))?;
        for flow in &report.flows {
            lines.flow(flow)?;
        }
        Ok(lines)
    }

    /// Adds an event.
    pub fn event(&mut self, annotated: AnnotatedEvent<'_>) -> io::Result<()> {
        let Some(trace) = types::Trace::new(annotated.observed, annotated.flow, annotated.host) else { return Ok(()) };
        let event = annotated.event;
        self.events += 1;
        self.line(&Line::Event(Box::new(EventLine {
            trace,
            at_nanoseconds: format!("{:.9}", annotated.host.clock.wall(event.at)),
            flow: annotated.observed.flow.map(|id| id.0),
            seen_by: event.hook.name(),
            target: event.hook.spec().symbol,
            on_cpu: event.cpu,
            headers: headers(annotated.record),
            entry: event.entry.as_ref().map(entry),
            destroyed_entry: event.destroyed.as_ref().map(|destroyed| entry(&destroyed.entry)),
            incomplete: event.flags.incomplete,
        })))
    }

    /// Writes the last line.
    pub fn finish(mut self) -> io::Result<u64> {
        let (flows, events) = (self.report.flows.len() as u64, self.events);
        self.line(&Line::End(End { flows, events }))?;
        self.to.flush()?;
        Ok(events)
    }

    fn flow(&mut self, report: &FlowReport) -> io::Result<()> {
        let shape = types::Flow::new(report, self.report);
        self.line(&Line::Flow(Box::new(FlowLine { flow: report.flow.id.0, shape })))
    }

    fn line(&mut self, line: &Line<'_>) -> io::Result<()> {
        writing::line(line, &mut self.to)
    }
}

/// Writes the JSON Schema of a line of `whyrst export --format jsonl`.
pub fn write_schema(to: &mut dyn Write) -> io::Result<()> {
    writing::document(&schemars::schema_for!(Line<'_>), to)
}

/// The schema of a part has no identifier: references inside would be relative to it.
fn inside(schema: &mut schemars::Schema) {
    schema.remove("$id");
    schema.remove("title");
}

fn headers(raw: &[u8]) -> Option<Headers> {
    let record = padded(raw)?;
    let part = |bit: u32, bytes: &[u8], len: u8| {
        let bytes = bytes.get(..usize::from(len)).filter(|_| record.present & bit != 0);
        hexadecimal(bytes.unwrap_or_default())
    };
    let network = part(present::L3, &record.l3, record.l3_len);
    let transport = part(present::L4, &record.l4, record.l4_len);
    let length = evidence::captured(raw).map(|frame| frame.length + frame.extensions_left_out);
    (!network.is_empty() || !transport.is_empty()).then_some(Headers { network, transport, length })
}

fn entry(entry: &Entry) -> EntryShape {
    let ends = |tuple: Tuple| Ends { src: tuple.src.to_string(), dst: tuple.dst.to_string() };
    let [client, server] = &entry.seen;
    EntryShape {
        original: ends(entry.original),
        reply: ends(entry.reply),
        zone: entry.zone,
        tcp_state: entry.state.to_string(),
        status: entry.status.0,
        sides: [side(client, Direction::Original), side(server, Direction::Reply)],
    }
}
