//! The recording format: frames, and what is in them.
//!
//! A recording is [`MAGIC`], a little-endian `u32` [`VERSION`], and frames. A frame is
//!
//! ```text
//! u32  length of kind and payload, little-endian
//! u32  CRC-32 (IEEE) of kind and payload, little-endian
//! u8   kind
//! …    payload
//! ```
//!
//! The first frame is the host's. Record frames hold a `tracer_common::wire::Record` of the capturing host's byte order
//! without its trailing zero bytes, frames of suppressed events an array of numbers; all others hold one JSON object. A reader skips kinds that it does not know
//! and ignores JSON members that it does not know; a change that an old reader would misunderstand changes [`VERSION`].

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use tracer_common::Hook;
use tracer_model::capture::{
    Counters, DestroyedTuples, Gap, GapReason, HookCounters, HookState, HookStatus, Host, Item, LookUp, LookedUp,
    Netns, Outcome, TableFull,
};
use tracer_model::conntrack::log_format::LogFormat;
use tracer_model::conntrack::{Status, TcpState, Tuple};
use tracer_model::host_context::HostContext;
use tracer_model::ruleset::Rules;
use tracer_model::table_usage::{Service, TableUsage};
use tracer_model::time::{ClockOffset, Instant};

use self::host_context::SurroundingsDto;
use self::rules::RulesDto;

mod host_context;
mod rules;
mod suppressed;

/// How a recording starts. The line ends and the 0x1a show a transfer that mangled it, as in PNG.
pub const MAGIC: &[u8; 12] = b"whyrst\r\n\x1a\n\0\0";

/// Version of the format.
pub const VERSION: u32 = 1;

/// Bytes before a frame's payload: length, checksum, kind.
pub const FRAME_HEADER: usize = 9;

/// The largest frame that is believed; a larger length is damage.
pub const FRAME_MAX: u32 = 1 << 20;

/// The largest count that is believed, a million a second for nine years: sums of such counts are no trouble.
const COUNT_MAX: u64 = 1 << 48;

/// Kinds of frames.
pub mod kind {
    /// The host, first in every recording.
    pub const HOST: u8 = 1;
    /// A record of a hook.
    pub const RECORD: u8 = 2;
    /// A hook came or went.
    pub const HOOK: u8 = 3;
    /// Counters.
    pub const COUNTERS: u8 = 4;
    /// Facts about a namespace.
    pub const NETNS: u8 = 5;
    /// The answer to a look-up.
    pub const LOOKED_UP: u8 = 6;
    /// The capture ended in good order.
    pub const ENDED: u8 = 7;
    /// The rules of a namespace that can answer with a RST.
    pub const RULES: u8 = 8;
    /// Who holds the entries of a table.
    pub const CENSUS: u8 = 9;
    /// What there is around a namespace's conntrack.
    pub const HOST_CONTEXTS: u8 = 10;
    /// The counters as they were when this file of several began. What is before it repeats what the reader of the file
    /// before knows.
    pub const BASELINE: u8 = 11;
    /// A stretch of time that is missing.
    pub const GAP: u8 = 12;
    /// Events that were counted and not told. The payload is binary, in the byte order of the records.
    pub const SUPPRESSED: u8 = 13;
}

/// Everything but a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The host.
    Host(Host),
    /// An item of the capture.
    Item(Item),
    /// Everything that is counted in this file is counted from here on.
    Baseline(Counters),
    /// The recording goes on in its next file.
    Continued(Instant),
}

/// Kind and payload of an item.
pub fn encode(item: &Item) -> serde_json::Result<(u8, Vec<u8>)> {
    Ok(match item {
        Item::Record(record) => (kind::RECORD, tracer_model::decode::trimmed(record).to_vec()),
        Item::Hook(status) => (kind::HOOK, serde_json::to_vec(&HookDto::from(status))?),
        Item::Counters(counters) => (kind::COUNTERS, serde_json::to_vec(&CountersDto::from(counters))?),
        Item::Suppressed(suppressed) => (kind::SUPPRESSED, suppressed::encode(suppressed)),
        Item::Netns(netns) => (kind::NETNS, serde_json::to_vec(&NetnsDto::from(netns))?),
        Item::LookedUp(answer) => (kind::LOOKED_UP, serde_json::to_vec(&LookedUpDto::from(&**answer))?),
        Item::Rules(rules) => (kind::RULES, serde_json::to_vec(&RulesDto::from(rules))?),
        Item::TableUsage(table_usage) => (kind::CENSUS, serde_json::to_vec(&CensusDto::from(table_usage))?),
        Item::HostContext(context) => (kind::HOST_CONTEXTS, serde_json::to_vec(&SurroundingsDto::from(&**context))?),
        Item::Gap(gap) => (kind::GAP, serde_json::to_vec(&GapDto::from(gap))?),
        Item::Ended(at) => (kind::ENDED, serde_json::to_vec(&EndedDto { at_ns: at.0, continued: false })?),
    })
}

/// JSON of the frame that a further file of a recording begins to count with.
pub(super) fn encode_baseline(counters: &Counters) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&CountersDto::from(counters))
}

/// JSON of the frame that ends a file whose recording goes on in the next.
pub(super) fn encode_continued(at: Instant) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&EndedDto { at_ns: at.0, continued: true })
}

/// JSON of the host frame.
pub fn encode_host(host: &Host) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&HostDto::from(host))
}

/// Decodes a frame that is not a record; `None` for kinds and words that this version does not know.
pub fn decode(kind: u8, payload: &[u8]) -> serde_json::Result<Option<Frame>> {
    Ok(match kind {
        kind::HOST => Some(Frame::Host(serde_json::from_slice::<HostDto>(payload)?.into())),
        kind::HOOK => serde_json::from_slice::<HookDto>(payload)?.into_status().map(Item::Hook).map(Frame::Item),
        kind::COUNTERS => Some(Frame::Item(Item::Counters(serde_json::from_slice::<CountersDto>(payload)?.into()))),
        kind::SUPPRESSED => suppressed::decode(payload).map(Item::Suppressed).map(Frame::Item),
        kind::NETNS => Some(Frame::Item(Item::Netns(serde_json::from_slice::<NetnsDto>(payload)?.into()))),
        kind::LOOKED_UP => {
            let answer = serde_json::from_slice::<LookedUpDto>(payload)?.into();
            Some(Frame::Item(Item::LookedUp(Box::new(answer))))
        }
        kind::RULES => Some(Frame::Item(Item::Rules(Rules::from(serde_json::from_slice::<RulesDto>(payload)?)))),
        kind::CENSUS => Some(Frame::Item(Item::TableUsage(serde_json::from_slice::<CensusDto>(payload)?.into()))),
        kind::HOST_CONTEXTS => {
            let context = HostContext::from(serde_json::from_slice::<SurroundingsDto>(payload)?);
            Some(Frame::Item(Item::HostContext(Box::new(context))))
        }
        kind::BASELINE => Some(Frame::Baseline(serde_json::from_slice::<CountersDto>(payload)?.into())),
        kind::GAP => serde_json::from_slice::<GapDto>(payload)?.into_gap().map(Item::Gap).map(Frame::Item),
        kind::ENDED => Some(match serde_json::from_slice::<EndedDto>(payload)? {
            EndedDto { at_ns, continued: true } => Frame::Continued(Instant(at_ns)),
            EndedDto { at_ns, continued: false } => Frame::Item(Item::Ended(Instant(at_ns))),
        }),
        _ => None,
    })
}

#[derive(Debug, Serialize, Deserialize)]
struct HostDto {
    tool: String,
    hostname: String,
    kernel: String,
    #[serde(rename = "era")]
    log_format: String,
    /// Nanoseconds of `CLOCK_BOOTTIME`.
    started_ns: u64,
    /// Unix time minus boot time, nanoseconds.
    clock_offset_ns: i64,
    /// Byte order of the records.
    byte_order: String,
    record_version: u16,
    #[serde(default)]
    reset_reasons: Vec<(u32, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    boot: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    capture: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    part: Option<u32>,
}

const BYTE_ORDER: &str = if cfg!(target_endian = "little") { "little" } else { "big" };

impl From<&Host> for HostDto {
    fn from(host: &Host) -> Self {
        Self {
            tool: host.tool.clone(),
            hostname: host.hostname.clone(),
            kernel: host.kernel.clone(),
            log_format: host.log_format.name().to_owned(),
            started_ns: host.started.0,
            clock_offset_ns: host.clock.0,
            byte_order: BYTE_ORDER.to_owned(),
            record_version: tracer_common::wire::VERSION,
            reset_reasons: host.reset_reasons.clone(),
            boot: host.boot.clone(),
            capture: host.capture.clone(),
            part: host.part,
        }
    }
}

impl From<HostDto> for Host {
    fn from(dto: HostDto) -> Self {
        Self {
            tool: dto.tool,
            hostname: dto.hostname,
            kernel: dto.kernel,
            log_format: LogFormat::from_name(&dto.log_format).unwrap_or(LogFormat::Unknown),
            clock: ClockOffset(dto.clock_offset_ns),
            started: Instant(dto.started_ns),
            reset_reasons: dto.reset_reasons,
            boot: dto.boot,
            capture: dto.capture,
            part: dto.part,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct HookDto {
    hook: u16,
    target: String,
    since_ns: u64,
    state: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    detail: String,
}

impl From<&HookStatus> for HookDto {
    fn from(status: &HookStatus) -> Self {
        let (state, detail) = match &status.state {
            HookState::Attached => ("attached", String::new()),
            HookState::Waiting { module } => ("waiting", module.clone()),
            HookState::Unavailable { because } => ("unavailable", because.clone()),
        };
        Self {
            hook: status.hook as u16,
            target: status.hook.spec().symbol.to_owned(),
            since_ns: status.since.0,
            state: state.to_owned(),
            detail,
        }
    }
}

impl HookDto {
    fn into_status(self) -> Option<HookStatus> {
        let state = match self.state.as_str() {
            "attached" => HookState::Attached,
            "waiting" => HookState::Waiting { module: self.detail },
            _ => HookState::Unavailable { because: self.detail },
        };
        Some(HookStatus { hook: Hook::from_number(self.hook)?, since: Instant(self.since_ns), state })
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct CountersDto {
    at_ns: u64,
    /// Per hook number: hits, passed, emitted, lost, incomplete, suppressed; the last is missing in recordings of before.
    hooks: Vec<Vec<u64>>,
    /// CPU, hook number, records lost.
    #[serde(default)]
    lost_on: Vec<(u32, u16, u64)>,
    #[serde(default)]
    table_full: Vec<TableFullDto>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct TableFullDto {
    netns: u32,
    dropped: u64,
    made_room: u64,
    first_ns: u64,
    last_ns: u64,
}

impl From<&TableFull> for TableFullDto {
    fn from(full: &TableFull) -> Self {
        Self {
            netns: full.netns,
            dropped: full.dropped,
            made_room: full.made_room,
            first_ns: full.first.0,
            last_ns: full.last.0,
        }
    }
}

impl From<TableFullDto> for TableFull {
    fn from(dto: TableFullDto) -> Self {
        Self {
            netns: dto.netns,
            dropped: dto.dropped.min(COUNT_MAX),
            made_room: dto.made_room.min(COUNT_MAX),
            first: Instant(dto.first_ns),
            last: Instant(dto.last_ns),
        }
    }
}

impl From<&Counters> for CountersDto {
    fn from(counters: &Counters) -> Self {
        Self {
            at_ns: counters.at.0,
            hooks: counters.hooks.iter().map(|hook| hook.0.to_vec()).collect(),
            lost_on: counters.lost_on.iter().map(|(cpu, hook, lost)| (*cpu, *hook as u16, *lost)).collect(),
            table_full: counters.table_full.iter().map(Into::into).collect(),
        }
    }
}

fn believed(counters: HookCounters) -> HookCounters {
    HookCounters(counters.0.map(|count| count.min(COUNT_MAX)))
}

impl From<CountersDto> for Counters {
    fn from(dto: CountersDto) -> Self {
        Self {
            at: Instant(dto.at_ns),
            hooks: dto.hooks.iter().map(|counts| believed(HookCounters::of(counts))).collect(),
            lost_on: dto
                .lost_on
                .into_iter()
                .filter_map(|(cpu, hook, lost)| Some((cpu, Hook::from_number(hook)?, lost.min(COUNT_MAX))))
                .collect(),
            table_full: dto.table_full.into_iter().map(Into::into).collect(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct NetnsDto {
    inode: u32,
    #[serde(default)]
    name: Option<String>,
    at_ns: u64,
    #[serde(default)]
    entries: Option<u32>,
    #[serde(default)]
    max: Option<u32>,
    #[serde(default)]
    invalid: Option<u64>,
    #[serde(default)]
    sysctls: Vec<(String, i64)>,
}

impl From<&Netns> for NetnsDto {
    fn from(netns: &Netns) -> Self {
        Self {
            inode: netns.inode,
            name: netns.name.clone(),
            at_ns: netns.at.0,
            entries: netns.entries,
            max: netns.max,
            invalid: netns.invalid,
            sysctls: netns.sysctls.clone(),
        }
    }
}

impl From<NetnsDto> for Netns {
    fn from(dto: NetnsDto) -> Self {
        Self {
            inode: dto.inode,
            name: dto.name,
            at: Instant(dto.at_ns),
            entries: dto.entries,
            max: dto.max,
            invalid: dto.invalid,
            sysctls: dto.sysctls,
        }
    }
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct TupleDto {
    src: SocketAddr,
    dst: SocketAddr,
}

impl From<Tuple> for TupleDto {
    fn from(tuple: Tuple) -> Self {
        Self { src: tuple.src, dst: tuple.dst }
    }
}

impl From<TupleDto> for Tuple {
    fn from(dto: TupleDto) -> Self {
        Self { src: dto.src, dst: dto.dst }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct LookedUpDto {
    netns: u32,
    #[serde(default)]
    zone: u16,
    tuple: TupleDto,
    at_ns: u64,
    #[serde(flatten)]
    outcome: OutcomeDto,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
enum OutcomeDto {
    Found {
        original: TupleDto,
        reply: TupleDto,
        state: Option<u8>,
        timeout_s: Option<u32>,
        status: u32,
    },
    #[serde(rename = "gone")]
    NotFound {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        was: Option<WasDto>,
    },
    Failed {
        because: String,
    },
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct WasDto {
    ended_ns: u64,
    original: TupleDto,
    reply: TupleDto,
}

impl From<DestroyedTuples> for WasDto {
    fn from(was: DestroyedTuples) -> Self {
        Self { ended_ns: was.ended.0, original: was.original.into(), reply: was.reply.into() }
    }
}

impl From<WasDto> for DestroyedTuples {
    fn from(dto: WasDto) -> Self {
        Self { ended: Instant(dto.ended_ns), original: dto.original.into(), reply: dto.reply.into() }
    }
}

impl From<&LookedUp> for LookedUpDto {
    fn from(answer: &LookedUp) -> Self {
        Self {
            netns: answer.look_up.netns,
            zone: answer.look_up.zone,
            tuple: answer.look_up.tuple.into(),
            at_ns: answer.at.0,
            outcome: match &answer.outcome {
                Outcome::Found { original, reply, state, timeout_s, status } => OutcomeDto::Found {
                    original: (*original).into(),
                    reply: (*reply).into(),
                    state: state.map(TcpState::raw),
                    timeout_s: *timeout_s,
                    status: status.0,
                },
                Outcome::NotFound { was } => OutcomeDto::NotFound { was: was.map(Into::into) },
                Outcome::Failed { because } => OutcomeDto::Failed { because: because.clone() },
            },
        }
    }
}

impl From<LookedUpDto> for LookedUp {
    fn from(dto: LookedUpDto) -> Self {
        Self {
            look_up: LookUp { netns: dto.netns, zone: dto.zone, tuple: dto.tuple.into() },
            at: Instant(dto.at_ns),
            outcome: match dto.outcome {
                OutcomeDto::Found { original, reply, state, timeout_s, status } => Outcome::Found {
                    original: original.into(),
                    reply: reply.into(),
                    state: state.map(TcpState::from_raw),
                    timeout_s,
                    status: Status(status),
                },
                OutcomeDto::NotFound { was } => Outcome::NotFound { was: was.map(Into::into) },
                OutcomeDto::Failed { because } => Outcome::Failed { because },
            },
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct CensusDto {
    netns: u32,
    at_ns: u64,
    entries: u64,
    #[serde(default)]
    problem: Option<String>,
    sources: Vec<(IpAddr, u64)>,
    services: Vec<(ServiceDto, u64)>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct ServiceDto {
    protocol: u8,
    address: IpAddr,
    #[serde(default)]
    port: Option<u16>,
}

impl From<&TableUsage> for CensusDto {
    fn from(table_usage: &TableUsage) -> Self {
        let service =
            |service: Service| ServiceDto { protocol: service.protocol, address: service.address, port: service.port };
        Self {
            netns: table_usage.netns,
            at_ns: table_usage.at.0,
            entries: table_usage.entries,
            problem: table_usage.problem.clone(),
            sources: table_usage.sources.clone(),
            services: table_usage.services.iter().map(|(of, count)| (service(*of), *count)).collect(),
        }
    }
}

impl From<CensusDto> for TableUsage {
    fn from(dto: CensusDto) -> Self {
        let service = |dto: ServiceDto| Service { protocol: dto.protocol, address: dto.address, port: dto.port };
        Self {
            netns: dto.netns,
            at: Instant(dto.at_ns),
            entries: dto.entries,
            problem: dto.problem,
            sources: dto.sources,
            services: dto.services.into_iter().map(|(of, count)| (service(of), count)).collect(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct EndedDto {
    at_ns: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    continued: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct GapDto {
    #[serde(default)]
    from_ns: Option<u64>,
    #[serde(default)]
    until_ns: Option<u64>,
    why: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    detail: String,
}

impl From<&Gap> for GapDto {
    fn from(gap: &Gap) -> Self {
        let (why, detail) = match &gap.why {
            GapReason::OtherFile => ("other-file", String::new()),
            GapReason::NotCaptured => ("not-captured", String::new()),
            GapReason::Damaged { what } => ("damaged", what.clone()),
        };
        let nanoseconds = |at: Option<Instant>| at.map(|at| at.0);
        Self { from_ns: nanoseconds(gap.from), until_ns: nanoseconds(gap.until), why: why.to_owned(), detail }
    }
}

impl GapDto {
    fn into_gap(self) -> Option<Gap> {
        let why = match self.why.as_str() {
            "other-file" => GapReason::OtherFile,
            "not-captured" => GapReason::NotCaptured,
            "damaged" => GapReason::Damaged { what: self.detail },
            _ => return None,
        };
        Some(Gap { from: self.from_ns.map(Instant), until: self.until_ns.map(Instant), why })
    }
}
