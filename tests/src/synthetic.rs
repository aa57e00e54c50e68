//! Synthetic recordings of any size for benchmarks, with the events of a busy gateway.
//!
//! The same numbers give the same bytes. Connections begin evenly over the time of the recording. Each has events for some
//! seconds, at growing intervals, as a sender that retransmits. One in fifty has another event long after. Some send so much
//! that most of their events are suppressed.

mod records;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use tracer_common::{Hook, counter, hook};
use tracer_model::capture::{
    Counters, HookCounters, HookState, HookStatus, Host, Item, LookUp, LookedUp, Netns, Outcome, RecordLayout,
    Suppressed, SuppressedEvents,
};
use tracer_model::conntrack::log_format::LogFormat;
use tracer_model::conntrack::{Status, TcpState};
use tracer_model::time::{ClockOffset, Instant};
use tracer_recording::Writer;
use tracer_recording::compress::Compression;

use records::{Connection, GATEWAY};

/// What a recording is to hold.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Records of hooks.
    pub events: u64,
    /// Connections that they are about; at least one event each.
    pub flows: u64,
}

/// When the first thing happens, in nanoseconds since the boot.
const START: u64 = 1_000_000_000_000;
const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MILLISECOND;
/// Events in a second. A gateway that refuses this many packets is in trouble.
const RATE: u64 = 16_000;
/// How often the counters are recorded.
const COUNTED_EVERY: u64 = SECOND;
/// How often the suppressed events are recorded.
const SUPPRESSED_EVERY: u64 = 10 * SECOND;
/// What a connection does the second time comes this much later than the first, then twice as much, and so on.
const BACK_OFF: u64 = 200 * MILLISECOND;
/// Doubling ends here.
const LONGEST: u64 = 4 * SECOND;

/// One connection's next incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: u64,
    flow: u64,
    /// How often something has happened to it.
    incident: u32,
    /// Records that it has left.
    left: u64,
}

/// Writes a recording.
pub fn write(path: &Path, plan: Plan, compression: Compression) -> Result<()> {
    ensure!(plan.flows > 0 && plan.events >= plan.flows, "every connection needs an event");
    let span = (plan.events / RATE + 1) * SECOND;
    let mut out = Output::create(path, compression)?;
    let mut started = 0;
    let mut due = BinaryHeap::new();
    loop {
        // Connections begin as they are reached, so that this takes no more memory than there are at a time.
        let next = START + (u128::from(started) * u128::from(span) / u128::from(plan.flows)) as u64;
        if started < plan.flows && due.peek().is_none_or(|Reverse(Due { at, .. })| *at >= next) {
            due.push(Reverse(Due { at: next, flow: started, incident: 0, left: share(plan, started) }));
            started += 1;
            continue;
        }
        let Some(Reverse(now)) = due.pop() else { break };
        out.counters_until(now.at)?;
        let connection = Connection::new(now.flow);
        let records = connection.incident(now.at, now.incident);
        let taken = records.len().min(usize::try_from(now.left).unwrap_or(usize::MAX));
        for record in &records[..taken] {
            out.record(record)?;
        }
        if let Some((events, answer)) = connection.suppressed(now.at) {
            out.suppressed(events, answer);
        }
        if now.incident == 0 && mix(now.flow).is_multiple_of(8) && connection.is_answered() {
            out.looked_up(&connection, now.at + 3 * MILLISECOND)?;
        }
        let left = now.left - taken as u64;
        if left > 0 {
            let late = left <= records.len() as u64 && mix(now.flow ^ 1).is_multiple_of(50);
            let wait = if late { span / 2 } else { (BACK_OFF << now.incident.min(8)).min(LONGEST) };
            due.push(Reverse(Due { at: now.at + wait, flow: now.flow, incident: now.incident + 1, left }));
        }
    }
    out.finish()
}

/// How many records of the whole a connection has: neighbours have more and fewer, and the sum is what was asked for.
fn share(plan: Plan, flow: u64) -> u64 {
    let (mean, rest) = (plan.events / plan.flows, plan.events % plan.flows);
    let pair = flow / 2;
    let whole_pair = pair * 2 + 1 < plan.flows;
    let spread = if whole_pair && mean > 1 { mix(pair) % mean } else { 0 };
    let own = if flow.is_multiple_of(2) { mean + spread } else { mean - spread };
    own + u64::from(flow < rest)
}

/// A number that looks like chance and is none (the finalizer of `SplitMix64`).
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The recording, and what was counted.
struct Output {
    writer: Writer,
    counts: [HookCounters; hook::COUNT],
    counted: u64,
    suppressed: Vec<SuppressedEvents>,
    suppressed_until: u64,
    last: u64,
}

impl Output {
    fn create(path: &Path, compression: Compression) -> Result<Self> {
        let host = Host {
            hostname: "gateway".to_owned(),
            kernel: "7.2.0-synthetic".to_owned(),
            log_format: LogFormat::E4,
            clock: ClockOffset(1_700_000_000_000_000_000),
            started: Instant(START),
            records: RecordLayout::default(),
            reset_reasons: vec![(2, "SK_RST_REASON_NO_SOCKET".to_owned())],
            tool: env!("CARGO_PKG_VERSION").to_owned(),
            boot: Some("00000000-0000-4000-8000-000000000000".to_owned()),
            capture: None,
            part: None,
        };
        let mut writer = Writer::create(path, &host, compression)?;
        let attached = [
            Hook::CtInvalid,
            Hook::CtMalformed,
            Hook::ResetV4,
            Hook::ResetV6,
            Hook::RejectV4,
            Hook::RejectV6,
            Hook::EntryDestroyed,
            Hook::TableFull,
            Hook::ActiveReset,
        ];
        for hook in attached {
            let status = HookStatus { hook, since: Instant(START), state: HookState::Attached };
            writer.write(&Item::Hook(status))?;
        }
        writer.write(&Item::Netns(Netns {
            inode: GATEWAY,
            name: None,
            at: Instant(START),
            entries: Some(120_000),
            max: Some(262_144),
            invalid: Some(1),
            sysctls: vec![("nf_conntrack_tcp_loose".to_owned(), 1), ("nf_conntrack_tcp_be_liberal".to_owned(), 0)],
        }))?;
        Ok(Self {
            writer,
            counts: [HookCounters::default(); hook::COUNT],
            counted: START,
            suppressed: Vec::new(),
            suppressed_until: START,
            last: START,
        })
    }

    fn record(&mut self, record: &records::Made) -> Result<()> {
        let counts = &mut self.counts[record.hook().index()].0;
        counts[counter::HITS] += 1;
        counts[counter::EMITTED] += 1;
        self.last = self.last.max(record.at());
        self.writer.write(&record.item()).context("a record")
    }

    /// The counters of every second that has passed.
    fn counters_until(&mut self, now: u64) -> Result<()> {
        while now >= self.counted + COUNTED_EVERY {
            self.counted += COUNTED_EVERY;
            self.counters(self.counted)?;
            if self.counted >= self.suppressed_until + SUPPRESSED_EVERY {
                self.suppressed_until = self.counted;
                self.write_suppressed(self.counted)?;
            }
        }
        Ok(())
    }

    /// Counts suppressed events, and the RSTs that answer them.
    fn suppressed(&mut self, events: SuppressedEvents, answer: Hook) {
        for (hook, count) in [(events.hook, events.count), (answer, events.answered)] {
            let counts = &mut self.counts[hook.index()].0;
            counts[counter::HITS] += count;
            counts[counter::SUPPRESSED] += count;
        }
        self.suppressed.push(events);
    }

    fn write_suppressed(&mut self, at: u64) -> Result<()> {
        let events = std::mem::take(&mut self.suppressed);
        self.writer.write(&Item::Suppressed(Suppressed { at: Instant(at), events })).context("suppressed events")
    }

    fn counters(&mut self, at: u64) -> Result<()> {
        let (hooks, at) = (self.counts.to_vec(), Instant(at));
        let counters = Counters { at, hooks, lost_on: Vec::new(), table_full: Vec::new() };
        self.writer.write(&Item::Counters(counters)).context("counters")
    }

    /// What became of a connection's entry.
    fn looked_up(&mut self, connection: &Connection, at: u64) -> Result<()> {
        let (original, reply) = connection.tuples();
        let outcome = Outcome::Found {
            original,
            reply,
            state: Some(TcpState::Established),
            timeout_s: Some(431_990),
            status: Status(0x1e),
        };
        let look_up = LookUp { netns: GATEWAY, zone: 0, tuple: original };
        let answer = LookedUp { look_up, at: Instant(at), outcome };
        self.writer.write(&Item::LookedUp(Box::new(answer))).context("a look-up")
    }

    fn finish(mut self) -> Result<()> {
        let end = self.last + MILLISECOND;
        self.counters(end)?;
        self.write_suppressed(end)?;
        self.writer.write(&Item::Ended(Instant(end)))?;
        self.writer.flush()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tracer_advice::report::Report;
    use tracer_engine::session::replay;
    use tracer_model::capture::Origin;
    use tracer_model::filter::Filter;
    use tracer_recording::Recordings;
    use tracer_recording::compress::Compression;

    use super::{Plan, share, write};

    #[test]
    fn shares_add_up() {
        for (events, flows) in [(10, 10), (1_000, 7), (12_345, 1_000), (11, 10)] {
            let plan = Plan { events, flows };
            let shares: Vec<u64> = (0..flows).map(|flow| share(plan, flow)).collect();
            assert!(shares.iter().all(|share| *share > 0), "{plan:?}");
            assert_eq!(shares.iter().sum::<u64>(), events, "{plan:?}");
        }
    }

    /// The report finds as many events and connections as were put in, and the causes that they were made of.
    #[test]
    fn what_is_written_is_what_is_reported() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("small.whyrst");
        write(&path, Plan { events: 5_000, flows: 500 }, Compression::None).unwrap();
        let mut recordings = Recordings::open(&[path]).unwrap();
        let session = replay(&mut recordings, Filter::default(), |_, _, _| Ok::<_, std::io::Error>(())).unwrap();
        assert_eq!(recordings.verdict(), None);
        let report = Report::new(session.finish(Origin::Live));
        assert_eq!((report.events, report.undecodable, report.lost), (5_000, 0, 0));
        let tally = report.summary.tally;
        assert!(report.suppressed > 0);
        assert!(tally.invalid + tally.resets > report.suppressed, "suppressed events are missing: {tally:?}");
        assert_eq!(report.flows.len(), 500);
        let causes: Vec<&str> = report.summary.by_cause.keys().map(|cause| cause.name()).collect();
        assert_eq!(causes, ["out-of-window", "no-entry", "reject-rule", "no-listener"]);
        assert!(report.summary.tally.ignored > 0);
    }
}
