//! `whyrst explain` of a kernel log, as text.

use std::fmt::{self, Write as _};

use tracer_advice::explain::{Group, LogReport};
use tracer_model::cause::{Diagnosis, Reason};
use tracer_model::conntrack::Verdict;
use tracer_model::conntrack::log_format::LogFormat;

use super::plain::Plain;
use super::sentences::{counted, grouped};
use super::style::{BAD, FAINT, GOOD, STRONG, TextStyle, WARN};

/// Flows of a group that are listed without `--verbose`.
const LISTED: usize = 10;

/// Renders the counts of a log.
pub fn render(report: &LogReport, style: TextStyle, verbose: bool) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _infallible = write(&mut text, report, style, verbose);
    text
}

fn write(to: &mut String, report: &LogReport, style: TextStyle, verbose: bool) -> fmt::Result {
    let dot = style.dot();
    writeln!(
        to,
        "{FAINT}kernel log {dot} {} {dot} {} of conntrack {dot} {}{FAINT:#}",
        counted(report.lines, "line", "lines"),
        grouped(report.of_conntrack),
        linux_of(report.log_format)
    )?;
    if report.of_conntrack == 0 {
        writeln!(to, "\n{GOOD}The log has no line of conntrack.{GOOD:#}")?;
        return writeln!(
            to,
            "  conntrack logs refused packets only if net.netfilter.nf_conntrack_log_invalid is 6 or 255."
        );
    }
    for group in &report.groups {
        self::group(to, group, style, verbose)?;
    }
    for (netns, dropped) in &report.table_full {
        let whose = netns.map_or_else(String::new, |netns| format!(" in network namespace {netns}"));
        let packets = counted(*dropped, "packet of a new connection", "packets of new connections");
        writeln!(
            to,
            "\n{BAD}table full{BAD:#}  at least {packets} dropped{whose}: the kernel rate-limits these lines"
        )?;
        writeln!(to, "  the kernel sends no RST: the client waits and retransmits. More: whyrst explain table-full")?;
    }
    if report.expectation_table_full > 0 {
        let times = counted(report.expectation_table_full, "time", "times");
        writeln!(to, "\n{WARN}expectation table full{WARN:#}  {times}")?;
        writeln!(
            to,
            "  this is the table of helpers (FTP, SIP), not that of connections: their data connections fail"
        )?;
    }
    if report.own_resets > 0 {
        let resets = counted(report.own_resets, "RST", "RSTs");
        writeln!(to, "\n{FAINT}{resets} that this host sent, logged as invalid: effects, not causes{FAINT:#}")?;
    }
    if report.remarks > 0 {
        let remarks = counted(report.remarks, "further line", "further lines");
        writeln!(to, "\n{FAINT}{remarks} about packets that are counted above{FAINT:#}")?;
    }
    if report.strange > 0 {
        let lines = counted(report.strange, "line of conntrack was", "lines of conntrack were");
        writeln!(to, "\n{WARN}{lines} not decoded{WARN:#}")?;
        for words in &report.strange_words {
            writeln!(to, "  {}", Plain(words))?;
        }
    }
    Ok(())
}

fn linux_of(log_format: Option<LogFormat>) -> &'static str {
    match log_format {
        Some(LogFormat::E1 | LogFormat::E2) => "log format of Linux up to 6.0",
        Some(LogFormat::E3 | LogFormat::E4) => "log format of Linux 6.1 or later",
        Some(LogFormat::Unknown) | None => "log format of any Linux",
    }
}

fn group(to: &mut String, group: &Group, style: TextStyle, verbose: bool) -> fmt::Result {
    let (color, verdict) = match group.verdict {
        Verdict::Invalid => (BAD, "INVALID"),
        Verdict::Ignored => (GOOD, "accepted"),
        Verdict::Unknown => (WARN, "unclear"),
    };
    let packets = counted(group.packets, "packet", "packets");
    let Diagnosis { cause, reason } = group.diagnosis;
    let what = reason.map_or_else(|| cause.to_string(), |reason| format!("{cause} {} {reason}", style.dot()));
    writeln!(to, "\n{color}{verdict}{color:#}  {STRONG}{packets}{STRONG:#}  {what}")?;
    let meaning = match (group.verdict, reason) {
        (Verdict::Invalid, _) => {
            "refused and not translated; the TCP stack answers with a RST if the destination is an address of this host"
        }
        (Verdict::Ignored, _) => {
            "these lines do not mean INVALID: the kernel accepted and translated the packets, and reset nothing"
        }
        (Verdict::Unknown, Some(Reason::Overshot)) => {
            "late 5.15 and 6.0 refuse such a packet, 6.1 and later accept it: name the kernel with --log-format"
        }
        (Verdict::Unknown, _) => "the text does not show whether the kernel accepted the packets",
    };
    writeln!(to, "  {meaning}")?;
    let listed = if verbose { group.flows.len() } else { LISTED };
    for ((src, dst), count) in group.flows.iter().take(listed) {
        writeln!(to, "  {src} {} {dst}  {FAINT}{}{FAINT:#}", style.arrow(), counted(*count, "packet", "packets"))?;
    }
    if let more @ 1.. = group.flows.len().saturating_sub(listed) {
        writeln!(to, "  {FAINT}and {more} more flows; --verbose lists all{FAINT:#}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tracer_advice::explain::LogReader;

    use super::{TextStyle, render};

    #[test]
    fn accepted_packets_are_named() {
        let mut reader = LogReader::default();
        let packet = "IN= OUT= SRC=192.0.2.2 DST=192.0.2.1 SPT=443 DPT=34567";
        for words in [
            "SEQ is under lower bound 7 (already ACKed data retransmitted) ",
            "SEQ is over upper bound 7 (over the window of the receiver) ",
            "a message from the future\u{1b}[31m ",
        ] {
            reader.line(&format!("gw kernel: nf_ct_proto_6: {words}{packet}"));
        }
        reader.line("kernel: nf_conntrack: nf_conntrack: table full, dropping packet");
        let text = anstream::adapter::strip_str(&render(&reader.finish(None), TextStyle::default(), false)).to_string();
        insta::assert_snapshot!(text, @r#"
        kernel log · 4 lines · 4 of conntrack · log format of Linux 6.1 or later

        INVALID  1 packet  out-of-window · seq-over
          refused and not translated; the TCP stack answers with a RST if the destination is an address of this host
          192.0.2.2:443 → 192.0.2.1:34567  1 packet

        accepted  1 packet  out-of-window · seq-under
          these lines do not mean INVALID: the kernel accepted and translated the packets, and reset nothing
          192.0.2.2:443 → 192.0.2.1:34567  1 packet

        table full  at least 1 packet of a new connection dropped: the kernel rate-limits these lines
          the kernel sends no RST: the client waits and retransmits. More: whyrst explain table-full

        1 line of conntrack was not decoded
          a message from the future [31m
        "#);
    }
}
