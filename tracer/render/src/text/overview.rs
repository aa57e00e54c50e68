//! The overview of many flows on one screen: counts by outcome, cause and server.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::net::SocketAddr;

use anstyle::Style;
use textwrap::core::display_width;

use tracer_advice::report::FlowReport;
use tracer_engine::flow::{EvidenceRank, Flow};
use tracer_model::capture::Host;
use tracer_model::cause::{Cause, Reason};
use tracer_model::time::Instant;

use super::Text;
use crate::plain::Plain;
use crate::sentences::{counted, grouped, kernel_reason};
use crate::style::{BAD, FAINT, GOOD, STRONG, TextStyle, WARN};

/// Rows that are printed without `--verbose`.
const ROWS: usize = 14;
/// Servers of a kind that get a separate row.
const SERVERS: usize = 3;
/// Columns between columns.
const GAP: usize = 2;

/// The properties that flows of one kind share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    rank: Reverse<EvidenceRank>,
    cause: Cause,
    reason: Option<Reason>,
    /// The kernel's own reason.
    kernel: Option<String>,
}

impl Kind {
    pub(super) fn of(flow: &Flow, host: &Host) -> Self {
        let diagnosis = flow.incident.diagnosis;
        Self {
            rank: Reverse(flow.incident.rank()),
            cause: diagnosis.cause,
            reason: diagnosis.reason,
            kernel: kernel_reason(flow, host),
        }
    }

    /// The outcome of the flows, in a word.
    const fn outcome(&self) -> (Style, &'static str) {
        match self.rank.0 {
            EvidenceRank::Killed => (BAD, "reset"),
            EvidenceRank::Forwarded => (WARN, "reset by end"),
            EvidenceRank::Answered => (WARN, "survived RST"),
            EvidenceRank::Refused => (WARN, "refused"),
            EvidenceRank::Counted => (WARN, "only counted"),
            EvidenceRank::Undecided => (FAINT, "unclear"),
            EvidenceRank::Ignored => (GOOD, "accepted"),
        }
    }

    fn why(&self, style: TextStyle) -> String {
        let reason = self.reason.map(Reason::name).or(self.kernel.as_deref());
        reason.map_or_else(|| self.cause.to_string(), |reason| format!("{} {} {reason}", self.cause, style.dot()))
    }
}

/// Flows of a kind towards one server.
#[derive(Debug, Clone, Copy)]
struct Count {
    flows: u64,
    first: Instant,
    /// Number of the first one.
    number: usize,
}

impl Count {
    fn and(self, other: Self) -> Self {
        Self {
            flows: self.flows + other.flows,
            first: self.first.min(other.first),
            number: self.number.min(other.number),
        }
    }
}

/// A line of the table.
struct Row {
    outcome: (Style, &'static str),
    count: Count,
    why: String,
    server: String,
}

impl Text<'_> {
    /// The table of kinds and servers.
    pub(super) fn overview(&mut self, flows: &[&FlowReport]) -> fmt::Result {
        let rows = self.rows(flows);
        let most = if self.all { usize::MAX } else { ROWS };
        let (shown, folded) = rows.split_at(rows.len().min(most));
        let columns = |select: fn(&Row) -> usize, heading: &str| {
            shown.iter().map(select).chain([heading.len()]).max().unwrap_or_default()
        };
        let outcome = columns(|row| row.outcome.1.len(), "");
        let why = columns(|row| display_width(&row.why), "cause");
        let server = columns(|row| row.server.len(), "server");
        let flows = columns(|row| grouped(row.count.flows).len(), "flows");
        // If the columns do not fit side by side, the server gets a separate line.
        let before = flows + GAP + outcome + GAP + why + GAP;
        let width = self.style.width.unwrap_or(usize::MAX);
        let stacked = before + server > width;
        let timed = !stacked && before + server + GAP + "first (#)".len() + 12 <= width;
        let mut heading = format!("{:>flows$}  {:outcome$}  {:why$}", "flows", "", "cause");
        if !stacked {
            write!(heading, "  {:server$}", "server")?;
        }
        if timed {
            heading.push_str("  first");
        }
        writeln!(self.to, "\n{FAINT}{}{FAINT:#}", heading.trim_end())?;
        for row in shown {
            let (style, word) = row.outcome;
            let number = grouped(row.count.flows);
            write!(self.to, "{STRONG}{number:>flows$}{STRONG:#}  {style}{word:outcome$}{style:#}  {}", row.why)?;
            let pad = why - display_width(&row.why);
            if stacked {
                write!(self.to, "\n{:before$}{}", "", row.server, before = flows + GAP + outcome + GAP)?;
            } else {
                write!(self.to, "{:pad$}  {}", "", row.server)?;
            }
            if timed {
                let time = self.local(row.count.first).strftime("%H:%M:%S").to_string();
                let pad = server - row.server.len();
                write!(self.to, "{:pad$}  {FAINT}{time} #{}{FAINT:#}", "", row.count.number)?;
            }
            writeln!(self.to)?;
        }
        if folded.is_empty() {
            return Ok(());
        }
        let flows = counted(folded.iter().map(|row| row.count.flows).sum(), "flow", "flows");
        let rows = counted(folded.len() as u64, "row", "rows");
        self.line(FAINT, &format!("and {flows} in {rows} more; --verbose lists all"))
    }

    /// The rows by outcome, the worst first, then by count.
    fn rows(&self, flows: &[&FlowReport]) -> Vec<Row> {
        let mut kinds: BTreeMap<Kind, BTreeMap<SocketAddr, Count>> = BTreeMap::new();
        for (index, report) in flows.iter().enumerate() {
            let flow = &report.flow;
            let one = Count { flows: 1, first: flow.incident.began().unwrap_or(flow.first), number: index + 1 };
            let servers = kinds.entry(Kind::of(flow, &self.report.host)).or_default();
            servers.entry(flow.key.server()).and_modify(|count| *count = count.and(one)).or_insert(one);
        }
        let sum = |servers: &[(SocketAddr, Count)]| servers.iter().map(|(_, count)| *count).reduce(Count::and);
        let mut kinds: Vec<(Kind, Vec<(SocketAddr, Count)>)> =
            kinds.into_iter().map(|(kind, servers)| (kind, servers.into_iter().collect())).collect();
        kinds.sort_by_key(|(kind, servers)| (kind.rank, Reverse(sum(servers).map(|count| count.flows))));
        let mut rows = Vec::new();
        for (kind, mut servers) in kinds {
            servers.sort_by_key(|(server, count)| (Reverse(count.flows), *server));
            let most = if self.all { usize::MAX } else { SERVERS };
            // A row for "other servers" saves nothing if it stands for one server.
            let most = if servers.len() == SERVERS + 1 { servers.len() } else { most.min(servers.len()) };
            let (named, others) = servers.split_at(most);
            let why = Plain(&kind.why(self.style)).to_string();
            let row = |server: String, count: Count| Row { outcome: kind.outcome(), count, why: why.clone(), server };
            rows.extend(named.iter().map(|(server, count)| row(server.to_string(), *count)));
            rows.extend(sum(others).map(|count| row(format!("{} other servers", grouped(others.len() as u64)), count)));
        }
        rows
    }
}
