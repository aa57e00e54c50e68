//! The items of a capture: facts about the host, the hooks and the namespaces, records, exact counters, and answers to
//! look-ups.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use tracer_common::{Hook, counter, wire};

use crate::conntrack::log_format::LogFormat;
use crate::conntrack::{Status, TcpState, Tuple};
use crate::hook_number;
use crate::host_context::HostContext;
use crate::ruleset::Rules;
use crate::table_usage::TableUsage;
use crate::time::{ClockOffset, Instant};

/// The host a capture was taken on, fixed when the capture starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Version of the program that captured.
    pub tool: String,
    /// Its name.
    pub hostname: String,
    /// The kernel's release, as `uname -r` prints it.
    pub kernel: String,
    /// The format of conntrack's log messages.
    #[serde(rename = "era")]
    pub log_format: LogFormat,
    /// When the capture started.
    #[serde(rename = "started_ns")]
    pub started: Instant,
    /// How boot time becomes wall-clock time.
    #[serde(rename = "clock_offset_ns")]
    pub clock: ClockOffset,
    /// How the records are laid out, as this program writes them. A recording of another version is read, and copied, in this
    /// layout: versions only append members, and what a record lacks at its end is zero.
    #[serde(flatten, skip_deserializing)]
    pub records: RecordLayout,
    /// `enum sk_rst_reason` of this kernel: value and name, from BTF; empty before 6.10.
    #[serde(default)]
    pub reset_reasons: Vec<(u32, String)>,
    /// The kernel's `boot_id`; absent in older recordings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    /// A random number that all files of one capture share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture: Option<String>,
    /// The number of this file, from 1 on, in a recording of several files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<u32>,
}

/// How the records of a recording are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RecordLayout {
    /// Byte order of the capturing host.
    pub byte_order: ByteOrder,
    /// [`wire::VERSION`].
    #[serde(rename = "record_version")]
    pub version: u16,
}

/// A byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ByteOrder {
    /// The least significant byte first.
    Little,
    /// The most significant byte first.
    Big,
}

impl Default for RecordLayout {
    /// The layout that this program writes on this host.
    fn default() -> Self {
        let byte_order = if cfg!(target_endian = "little") { ByteOrder::Little } else { ByteOrder::Big };
        Self { byte_order, version: wire::VERSION }
    }
}

impl Host {
    /// A host of which nothing is known.
    pub fn nobody() -> Self {
        Self {
            tool: String::new(),
            hostname: String::new(),
            kernel: String::new(),
            log_format: LogFormat::Unknown,
            started: Instant(0),
            clock: ClockOffset(0),
            records: RecordLayout::default(),
            reset_reasons: Vec::new(),
            boot: None,
            capture: None,
            part: None,
        }
    }

    /// The kernel's name for a reset reason, without its prefix: `NO_SOCKET`.
    pub fn reset_reason(&self, value: u32) -> Option<&str> {
        let (_, name) = self.reset_reasons.iter().find(|(known, _)| *known == value)?;
        Some(name.strip_prefix("SK_RST_REASON_").unwrap_or(name))
    }
}

/// Whether and how a hook is attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase", from = "StateWord")]
pub enum HookState {
    /// A kprobe is on the function.
    Attached,
    /// The function's module is not loaded; the hook is attached once the module is.
    Waiting {
        /// The module.
        #[serde(rename = "detail", skip_serializing_if = "String::is_empty")]
        module: String,
    },
    /// It cannot be attached here.
    Unavailable {
        /// Why.
        #[serde(rename = "detail", skip_serializing_if = "String::is_empty")]
        because: String,
    },
}

/// A state as a recording has it. An unknown word of a later version becomes [`HookState::Unavailable`].
#[derive(Deserialize)]
struct StateWord {
    state: String,
    #[serde(default)]
    detail: String,
}

impl From<StateWord> for HookState {
    fn from(StateWord { state, detail }: StateWord) -> Self {
        match state.as_str() {
            "attached" => Self::Attached,
            "waiting" => Self::Waiting { module: detail },
            _ => Self::Unavailable { because: detail },
        }
    }
}

/// A hook's state from a point in time on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookStatus {
    /// Which hook.
    #[serde(flatten, with = "hook_number::with_target")]
    pub hook: Hook,
    /// Since when.
    #[serde(rename = "since_ns")]
    pub since: Instant,
    /// Its state.
    #[serde(flatten)]
    pub state: HookState,
}

/// A hook's exact counters, summed over the CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Vec<u64>")]
pub struct HookCounters(pub [u64; counter::COUNT]);

impl From<Vec<u64>> for HookCounters {
    /// Older recordings have fewer counters, later ones may have more.
    fn from(counts: Vec<u64>) -> Self {
        Self(std::array::from_fn(|at| counts.get(at).copied().unwrap_or_default()))
    }
}

impl HookCounters {
    /// Calls of the hooked function.
    pub const fn hits(self) -> u64 {
        self.0[counter::HITS]
    }

    /// Events that were neither emitted nor counted with a flow.
    pub const fn lost(self) -> u64 {
        self.0[counter::LOST]
    }

    /// Events that were counted with their flow instead of being emitted.
    pub const fn suppressed(self) -> u64 {
        self.0[counter::SUPPRESSED]
    }
}

/// All hooks' counters at a point in time, in the order of [`Hook::ALL`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// When they were read.
    #[serde(rename = "at_ns")]
    pub at: Instant,
    /// The counters, one per hook.
    pub hooks: Vec<HookCounters>,
    /// Records lost per CPU and hook, those that are not zero: `(cpu, hook, lost)`.
    #[serde(default, with = "hook_number::per_cpu")]
    pub lost_on: Vec<(u32, Hook, u64)>,
    /// How often new connections found the table full, for each network namespace where one did.
    #[serde(default)]
    pub table_full: Vec<TableFull>,
}

impl Counters {
    /// The counts since `baseline`.
    #[must_use]
    pub fn since(&self, baseline: &Self) -> Self {
        let hooks = self.hooks.iter().enumerate().map(|(hook, counts)| {
            let before = baseline.hooks.get(hook).copied().unwrap_or_default();
            HookCounters(std::array::from_fn(|at| counts.0[at].saturating_sub(before.0[at])))
        });
        let lost_before = |cpu: u32, hook: Hook| {
            let found = baseline.lost_on.iter().find(|(known, of, _)| (*known, *of) == (cpu, hook));
            found.map_or(0, |(_, _, lost)| *lost)
        };
        let lost_on =
            self.lost_on.iter().map(|(cpu, hook, lost)| (*cpu, *hook, lost.saturating_sub(lost_before(*cpu, *hook))));
        let table_full = self.table_full.iter().map(|full| {
            let Some(before) = baseline.table_full.iter().find(|before| before.netns == full.netns) else {
                return *full;
            };
            TableFull {
                dropped: full.dropped.saturating_sub(before.dropped),
                made_room: full.made_room.saturating_sub(before.made_room),
                first: full.first.max(baseline.at),
                ..*full
            }
        });
        Self {
            at: self.at,
            hooks: hooks.collect(),
            lost_on: lost_on.filter(|(_, _, lost)| *lost > 0).collect(),
            table_full: table_full.filter(|full| full.dropped != 0 || full.made_room != 0).collect(),
        }
    }

    /// The sum of these and those of an earlier period.
    #[must_use]
    pub fn and(&self, earlier: &Self) -> Self {
        let mut sum = self.clone();
        sum.hooks.resize(self.hooks.len().max(earlier.hooks.len()), HookCounters::default());
        for (hook, before) in sum.hooks.iter_mut().zip(&earlier.hooks) {
            hook.0.iter_mut().zip(before.0).for_each(|(count, before)| *count = count.saturating_add(before));
        }
        for (cpu, hook, before) in &earlier.lost_on {
            match sum.lost_on.iter_mut().find(|(known, of, _)| (*known, *of) == (*cpu, *hook)) {
                Some((_, _, lost)) => *lost = lost.saturating_add(*before),
                None => sum.lost_on.push((*cpu, *hook, *before)),
            }
        }
        sum.lost_on.sort_unstable_by_key(|(cpu, hook, _)| (hook.index(), *cpu));
        for before in &earlier.table_full {
            match sum.table_full.iter_mut().find(|full| full.netns == before.netns) {
                Some(full) => {
                    full.dropped = full.dropped.saturating_add(before.dropped);
                    full.made_room = full.made_room.saturating_add(before.made_room);
                    full.first = full.first.min(before.first);
                    full.last = full.last.max(before.last);
                }
                None => sum.table_full.push(*before),
            }
        }
        sum.table_full.sort_unstable_by_key(|full| full.netns);
        sum
    }
}

/// Events that the kernel side counted instead of emitting, since the last such item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suppressed {
    /// When the counts were read. One reading may be delivered in several parts.
    pub at: Instant,
    /// The events.
    pub events: Vec<SuppressedEvents>,
}

/// Events of one kind and one flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuppressedEvents {
    /// The hook.
    pub hook: Hook,
    /// The `class` of the records of their kind, which separates them from others of the hook.
    pub class: u32,
    /// Inode number of the network namespace, where it could be read.
    pub netns: Option<u32>,
    /// Endpoints of the packets; absent where there were too many flows to count each.
    pub tuple: Option<Tuple>,
    /// How many.
    pub count: u64,
    /// RSTs of the TCP stack that answered packets of this kind and were suppressed too.
    pub answered: u64,
    /// The last one.
    pub last: Instant,
}

/// How often new connections of a network namespace found the conntrack table full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableFull {
    /// Its inode number.
    pub netns: u32,
    /// Packets that would have opened a connection and were dropped.
    pub dropped: u64,
    /// New connections for which another entry was evicted.
    pub made_room: u64,
    /// The first time.
    #[serde(rename = "first_ns")]
    pub first: Instant,
    /// The last time.
    #[serde(rename = "last_ns")]
    pub last: Instant,
}

/// Facts about a network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Netns {
    /// Its inode number.
    pub inode: u32,
    /// Its name under `/run/netns`, where it has one.
    pub name: Option<String>,
    /// When they were read.
    #[serde(rename = "at_ns")]
    pub at: Instant,
    /// Conntrack entries in its table.
    pub entries: Option<u32>,
    /// The limit of entries in its table.
    pub max: Option<u32>,
    /// Packets that conntrack classified as INVALID in it, since it was created.
    pub invalid: Option<u64>,
    /// Sysctls of conntrack, by name without `net.netfilter.`.
    #[serde(default)]
    pub sysctls: Vec<(String, i64)>,
}

impl Netns {
    /// Whether conntrack is known to track this namespace: it has entries, or has classified packets as INVALID.
    pub fn tracks(&self) -> bool {
        self.entries.is_some_and(|entries| entries > 0) || self.invalid.is_some_and(|invalid| invalid > 0)
    }

    /// A sysctl's value.
    pub fn sysctl(&self, name: &str) -> Option<i64> {
        self.sysctls.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }
}

/// A look-up of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LookUp {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Conntrack zone.
    #[serde(default)]
    pub zone: u16,
    /// A tuple of the entry, of either direction.
    pub tuple: Tuple,
}

/// The answer to a look-up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookedUp {
    /// The look-up.
    #[serde(flatten)]
    pub look_up: LookUp,
    /// When the kernel answered.
    #[serde(rename = "at_ns")]
    pub at: Instant,
    /// The answer.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// The kernel's answer to a look-up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// The entry is in the table.
    Found {
        /// The tuple of the direction that opened the connection.
        original: Tuple,
        /// The tuple of the other direction.
        reply: Tuple,
        /// State of the TCP tracker.
        state: Option<TcpState>,
        /// Seconds before it expires.
        timeout_s: Option<u32>,
        /// Status bits.
        status: Status,
    },
    /// The table has no such entry.
    #[serde(rename = "gone")]
    NotFound {
        /// The destroyed entry, where a hook saw its destruction.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        was: Option<DestroyedTuples>,
    },
    /// The kernel could not be asked.
    Failed {
        /// Why.
        because: String,
    },
}

/// When an entry was destroyed, and its tuples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestroyedTuples {
    /// When it was destroyed.
    #[serde(rename = "ended_ns")]
    pub ended: Instant,
    /// The tuple of the direction that opened the connection.
    pub original: Tuple,
    /// The tuple of the other direction.
    pub reply: Tuple,
}

/// A period that the items do not cover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// When it begins; absent before the first item.
    #[serde(rename = "from_ns")]
    pub from: Option<Instant>,
    /// When it ends; absent after the last item.
    #[serde(rename = "until_ns")]
    pub until: Option<Instant>,
    /// Why it is missing.
    #[serde(flatten)]
    pub why: GapReason,
}

/// Why a period is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "kebab-case")]
pub enum GapReason {
    /// Another file of the same recording has it.
    OtherFile,
    /// One capture had ended and the next had not begun.
    NotCaptured,
    /// The file that has it is damaged.
    Damaged {
        /// Which file, and what is wrong with it.
        #[serde(rename = "detail", default, skip_serializing_if = "String::is_empty")]
        what: String,
    },
}

/// One item of a capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A record of a hook, not decoded yet.
    Record(Bytes),
    /// The state of a hook changed.
    Hook(HookStatus),
    /// The exact counters; later ones replace earlier ones.
    Counters(Counters),
    /// Suppressed events; they add to those of earlier items.
    Suppressed(Suppressed),
    /// Facts about a namespace; later ones replace earlier ones.
    Netns(Netns),
    /// The answer to a look-up.
    LookedUp(Box<LookedUp>),
    /// The rules of a namespace that can answer with a RST: read soon after the first such RST, and when the capture ends.
    Rules(Rules),
    /// The use of a table that was full, read when the capture ends.
    TableUsage(TableUsage),
    /// The host context of a namespace, read when the capture ends.
    HostContext(Box<HostContext>),
    /// Something is missing.
    Gap(Gap),
    /// The capture was closed here.
    Ended(Instant),
}

impl Item {
    /// The time of the item, where that is known.
    pub fn at(&self) -> Option<Instant> {
        match self {
            Self::Record(raw) => raw.first_chunk().map(|time| Instant(u64::from_ne_bytes(*time))),
            Self::Hook(status) => Some(status.since),
            Self::Counters(counters) => Some(counters.at),
            Self::Suppressed(suppressed) => Some(suppressed.at),
            Self::Netns(netns) => Some(netns.at),
            Self::LookedUp(answer) => Some(answer.at),
            Self::Rules(rules) => Some(rules.at),
            Self::TableUsage(table_usage) => Some(table_usage.at),
            Self::HostContext(context) => Some(context.at),
            Self::Gap(gap) => gap.until.or(gap.from),
            Self::Ended(at) => Some(*at),
        }
    }
}

/// Items of a capture that has been recorded, one by one.
pub trait Items {
    /// The host that it was taken on.
    fn host(&self) -> &Host;

    /// The next item; `None` at the end.
    fn read(&mut self) -> io::Result<Option<Item>>;
}

/// A question of the engine to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Look up this entry.
    LookUp(LookUp),
    /// The facts about the namespace with this inode number.
    Netns(u32),
    /// The rules of this namespace that can answer with a RST.
    Rules(u32),
    /// The use of this namespace's table. Reading it takes a while: it is never read while packets are captured.
    TableUsage(u32),
    /// The host context of this namespace, which mitigations depend on.
    HostContext(u32),
}

impl Request {
    /// The inode number of the namespace that it is about.
    pub const fn netns(&self) -> u32 {
        match self {
            Self::LookUp(look_up) => look_up.netns,
            Self::Netns(netns) | Self::Rules(netns) | Self::TableUsage(netns) | Self::HostContext(netns) => *netns,
        }
    }

    /// How long the answer may take beyond the time that every answer may take.
    pub const fn patience(self) -> Duration {
        match self {
            Self::LookUp(_) | Self::Netns(_) => Duration::ZERO,
            Self::Rules(_) | Self::HostContext(_) => Duration::from_secs(2),
            Self::TableUsage(_) => Duration::from_secs(5),
        }
    }
}

/// Where the events came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The running kernel.
    Live,
    /// A recording.
    Recording {
        /// Its path.
        path: String,
        /// Where it is damaged, if it is.
        damage: Option<Damage>,
    },
}

/// Where and why reading stopped before the end of a capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Offset of the first byte that cannot be read.
    pub offset: u64,
    /// What is wrong there.
    pub what: String,
}
