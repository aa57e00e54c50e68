//! Conntrack's lines of a kernel log, counted per verdict, cause and flow.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tracer_model::cause::Diagnosis;
use tracer_model::conntrack::log_format::LogFormat;
use tracer_model::conntrack::window::Failure;
use tracer_model::conntrack::{Message, Verdict};
use tracer_model::kernel_log::{Line, parse};

/// Flows that are counted separately. Packets of further flows are counted without a flow.
const FLOWS: usize = 65_536;
/// Unknown lines whose text is kept.
const STRANGE: usize = 8;

/// A source and a destination, as the packet had them.
pub type Endpoints = (SocketAddr, SocketAddr);

/// The counts of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogReport {
    /// Lines in all.
    pub lines: u64,
    /// Lines that conntrack logged.
    pub of_conntrack: u64,
    /// The conntrack log format of these lines, or the one that the caller named.
    pub log_format: Option<LogFormat>,
    /// Packets that conntrack logged.
    pub groups: Vec<Group>,
    /// RSTs that this host sent: effects, not causes.
    pub own_resets: u64,
    /// Further lines about packets that are counted with another line.
    pub remarks: u64,
    /// Packets of new connections dropped because the table was full, per network namespace if the line names one. A
    /// lower bound: the kernel rate-limits these lines.
    pub table_full: BTreeMap<Option<u32>, u64>,
    /// The same for the table of expectations.
    pub expectation_table_full: u64,
    /// Unknown lines of conntrack.
    pub strange: u64,
    /// The text of the first unknown lines.
    pub strange_words: Vec<String>,
}

/// Packets with the same verdict and diagnosis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The verdict.
    pub verdict: Verdict,
    /// Cause and reason.
    pub diagnosis: Diagnosis,
    /// Number of packets.
    pub packets: u64,
    /// Packets per flow, in descending order.
    pub flows: Vec<(Endpoints, u64)>,
}

/// Reads a log line by line.
#[derive(Debug, Default)]
pub struct LogReader {
    report: LogReport,
    counts: BTreeMap<(Class, Diagnosis), (u64, BTreeMap<Endpoints, u64>)>,
    flows: usize,
    last: Option<Line>,
    saw_new_text: bool,
    saw_old_text: bool,
}

/// A message without its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Window(Failure, bool),
    State(Verdict),
}

impl LogReader {
    /// Reads a line.
    pub fn line(&mut self, text: &str) {
        self.report.lines += 1;
        let Some((line, times)) = parse(text) else {
            self.last = None;
            return;
        };
        if let Line::Repeated(times) = line {
            // "Repeated" refers to the line before. Any other line is unknown.
            if let Some(last) = self.last.take() {
                self.count(&last, times);
            }
            return;
        }
        self.count(&line, times);
        self.last = Some(line);
    }

    fn count(&mut self, line: &Line, times: u64) {
        add(&mut self.report.of_conntrack, times);
        match line {
            Line::TableFull { netns } => add(self.report.table_full.entry(*netns).or_default(), times),
            Line::ExpectationTableFull => add(&mut self.report.expectation_table_full, times),
            Line::Repeated(_) => {}
            Line::Other => add(&mut self.report.strange, times),
            Line::Packet(logged) if logged.own_reset => add(&mut self.report.own_resets, times),
            Line::Packet(logged) if logged.message.is_remark() => {
                self.saw_new_text = true;
                add(&mut self.report.remarks, times);
            }
            Line::Packet(logged) => {
                let class = match logged.message {
                    Message::Other => {
                        add(&mut self.report.strange, times);
                        if self.report.strange_words.len() < STRANGE {
                            self.report.strange_words.push(logged.words.clone());
                        }
                        return;
                    }
                    Message::Window { failure: Failure::Overshot, .. } => Class::Window(Failure::Overshot, true),
                    Message::Window { failure, logged } => {
                        let new = logged.is_some();
                        self.saw_new_text |= new;
                        self.saw_old_text |= !new;
                        Class::Window(failure, new)
                    }
                    other => Class::State(other.verdict(LogFormat::Unknown)),
                };
                let (packets, flows) = self.counts.entry((class, Diagnosis::of_message(logged.message))).or_default();
                add(packets, times);
                let Some(endpoints) = logged.endpoints else { return };
                if let Some(known) = flows.get_mut(&endpoints) {
                    add(known, times);
                } else if self.flows < FLOWS {
                    self.flows += 1;
                    flows.insert(endpoints, times);
                }
            }
        }
    }

    /// The counts. `log_format` overrides the log format derived from the lines.
    pub fn finish(mut self, log_format: Option<LogFormat>) -> LogReport {
        // Linux 6.1 changed both the verdict and the message, which names the bound since then.
        let by_text = match (self.saw_old_text, self.saw_new_text) {
            (false, true) => Some(LogFormat::E4),
            (true, false) => Some(LogFormat::E1),
            _ => None,
        };
        self.report.log_format = log_format.or(by_text);
        let for_overshot = self.report.log_format.unwrap_or(LogFormat::Unknown);
        let mut groups: Vec<Group> = Vec::new();
        for ((class, diagnosis), (packets, flows)) in self.counts {
            let verdict = match class {
                Class::State(verdict) => verdict,
                Class::Window(Failure::Overshot, _) => {
                    // 5.10 does not log this message. With old messages beside it, the kernel is a late 5.15 or 6.0.
                    let log_format = if for_overshot == LogFormat::E1 { LogFormat::E2 } else { for_overshot };
                    Message::Window { failure: Failure::Overshot, logged: Some(0) }.verdict(log_format)
                }
                Class::Window(failure, bound) => {
                    Message::Window { failure, logged: bound.then_some(0) }.verdict(LogFormat::Unknown)
                }
            };
            let mut flows: Vec<(Endpoints, u64)> = flows.into_iter().collect();
            flows.sort_by_key(|(endpoints, count)| (std::cmp::Reverse(*count), *endpoints));
            groups.push(Group { verdict, diagnosis, packets, flows });
        }
        groups.sort_by_key(|group| (group.verdict, std::cmp::Reverse(group.packets), group.diagnosis));
        self.report.groups = groups;
        self.report
    }
}

/// The count in a line of syslog can be any number.
const fn add(sum: &mut u64, times: u64) {
    *sum = sum.saturating_add(times);
}

#[cfg(test)]
mod tests {
    use tracer_model::cause::Reason;
    use tracer_model::conntrack::Verdict;
    use tracer_model::conntrack::log_format::LogFormat;

    use super::{LogReader, LogReport};

    const PACKET: &str = "IN= OUT= SRC=192.0.2.2 DST=192.0.2.1 LEN=1052 PROTO=TCP SPT=443 DPT=34567 SEQ=1 ACK=2";
    const OLD: &str = "nf_ct_proto_6: SEQ is under the lower bound (already ACKed data retransmitted) ";
    const NEW: &str = "nf_ct_proto_6: SEQ is under lower bound 77 (already ACKed data retransmitted) ";
    const OVERSHOT: &str = "nf_ct_proto_6: 99 bytes more than expected ";

    fn read(lines: &[&str], log_format: Option<LogFormat>) -> LogReport {
        let mut reader = LogReader::default();
        for line in lines {
            reader.line(&if line.contains("nf_ct_proto_6") { format!("{line}{PACKET}") } else { (*line).to_owned() });
        }
        reader.finish(log_format)
    }

    fn verdicts(lines: &[&str], log_format: Option<LogFormat>) -> Vec<(Verdict, Option<Reason>, u64)> {
        let report = read(lines, log_format);
        report.groups.iter().map(|group| (group.verdict, group.diagnosis.reason, group.packets)).collect()
    }

    /// The same event is INVALID in one log format, and accepted in another.
    #[test]
    fn the_text_decides_the_verdict() {
        assert_eq!(verdicts(&[OLD, OLD], None), [(Verdict::Invalid, Some(Reason::SeqUnder), 2)]);
        assert_eq!(verdicts(&[NEW], None), [(Verdict::Ignored, Some(Reason::SeqUnder), 1)]);
        let ignored = "nf_ct_proto_6: invalid packet ignored in state ESTABLISHED ";
        assert_eq!(verdicts(&[ignored], None), [(Verdict::Ignored, Some(Reason::InvalidState), 1)]);
    }

    /// Linux 6.0 refuses the packet and 6.1 accepts it; both log the same text.
    #[test]
    fn text_of_two_log_formats() {
        let overshot = |verdict| [(verdict, Some(Reason::Overshot), 1)];
        assert_eq!(verdicts(&[OVERSHOT], None), overshot(Verdict::Unknown));
        assert_eq!(verdicts(&[OVERSHOT], Some(LogFormat::E2)), overshot(Verdict::Invalid));
        assert_eq!(verdicts(&[OVERSHOT], Some(LogFormat::E3)), overshot(Verdict::Ignored));
        assert_eq!(verdicts(&[OVERSHOT, OLD], None)[0], (Verdict::Invalid, Some(Reason::SeqUnder), 1));
        assert_eq!(verdicts(&[OVERSHOT, OLD], None)[1], overshot(Verdict::Invalid)[0]);
        assert_eq!(verdicts(&[OVERSHOT, NEW], None).len(), 2);
        assert!(verdicts(&[OVERSHOT, NEW], None).iter().all(|(verdict, ..)| *verdict == Verdict::Ignored));
    }

    #[test]
    fn repeated_lines_count() {
        let lines = [
            "Dec  6 21:37:47 vm kernel: ip_conntrack: table full, dropping packet.",
            "Dec  6 21:37:49 vm last message repeated 9 times",
            "Dec  6 21:37:50 vm kernel: something else",
            "Dec  6 21:37:51 vm last message repeated 4 times",
        ];
        let report = read(&lines, None);
        assert_eq!(report.table_full.get(&None), Some(&10));
        assert_eq!((report.lines, report.of_conntrack), (4, 10));
    }

    /// A repeat count can be any number.
    #[test]
    fn counts_do_not_overflow() {
        let most = format!("message repeated {} times: [ nf_conntrack: table full, dropping packet]", u64::MAX);
        assert_eq!(read(&[&most, &most], None).of_conntrack, u64::MAX);
    }

    #[test]
    fn flows_are_counted_separately() {
        let mut reader = LogReader::default();
        for port in [1, 2, 2] {
            reader.line(&format!("{OLD}IN= OUT= SRC=192.0.2.2 DST=192.0.2.1 SPT=443 DPT={port}"));
        }
        let report = reader.finish(None);
        let flows: Vec<(u16, u64)> =
            report.groups[0].flows.iter().map(|((_, dst), count)| (dst.port(), *count)).collect();
        assert_eq!(flows, [(2, 2), (1, 1)]);
    }
}
