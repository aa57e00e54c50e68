//! `whyrst report --compare` as text.

use std::fmt::{self, Write as _};

use tracer_advice::compare::rate::{Difference, LEVEL};
use tracer_advice::compare::{Changed, Comparison, Count, Route, Row, Side, Verdict};
use tracer_model::cause::Diagnosis;

use super::plain;
use super::sentences::{counted, grouped};
use super::style::{BAD, FAINT, GOOD, STRONG, TextStyle, WARN};

/// Lines of a table without `--verbose`.
const LISTED: usize = 10;
/// Routes that are listed without `--verbose`.
const NAMED: usize = 5;
/// Columns of the label of a count.
const LABEL: usize = 35;
/// The longest text from a recording, in bytes.
const LIMIT: usize = 256;

/// The comparison.
pub fn render(comparison: &Comparison, style: TextStyle, verbose: bool) -> String {
    let mut writer = Writer { to: String::new(), comparison, style, verbose };
    // Writing to a String does not fail.
    let _infallible = writer.all();
    writer.to
}

struct Writer<'a> {
    to: String,
    comparison: &'a Comparison,
    style: TextStyle,
    verbose: bool,
}

impl Writer<'_> {
    fn all(&mut self) -> fmt::Result {
        let comparison = self.comparison;
        self.side("before", &comparison.before)?;
        self.side("after ", &comparison.after)?;
        self.verdict()?;
        self.totals()?;
        self.table("By cause", &comparison.by_cause, |diagnosis: &Diagnosis| diagnosis.to_string())?;
        self.table("By server", &comparison.by_server, ToString::to_string)?;
        self.routes("Seen only after", |row| empty(row.before) && !empty(row.after), |row| row.after)?;
        self.routes("Seen only before", |row| !empty(row.before) && empty(row.after), |row| row.before)?;
        self.changes("Differences between the hosts", &comparison.changed)?;
        self.changes("Load when the captures ended", &comparison.load)?;
        self.caveats()
    }

    fn side(&mut self, name: &str, side: &Side) -> fmt::Result {
        let (report, dot) = (&side.report, self.style.dot());
        let host = &report.host;
        let start = host.clock.wall(report.started).strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
        writeln!(
            self.to,
            "{FAINT}{name}  {} {dot} Linux {} {dot} {start} {dot} {:.1} s {dot} {}, {} lost{FAINT:#}",
            plain::line(&host.hostname, LIMIT),
            plain::line(&host.kernel, LIMIT),
            report.duration().as_secs_f64(),
            counted(report.events, "event", "events"),
            grouped(report.lost),
        )
    }

    /// The verdict, in one sentence.
    fn verdict(&mut self) -> fmt::Result {
        let total = &self.comparison.total;
        let (before, after) = (total.before.reset, total.after.reset);
        let counts = format!("{} before, {} after", grouped(before), grouped(after));
        writeln!(self.to)?;
        match total.reset {
            Verdict::Tested(Difference::Fewer(p)) => {
                writeln!(
                    self.to,
                    "{GOOD}Fewer connections per minute were reset after ({counts}, {}).{GOOD:#}",
                    chance(p)
                )
            }
            Verdict::Tested(Difference::More(p)) => {
                writeln!(self.to, "{BAD}More connections per minute were reset after ({counts}, {}).{BAD:#}", chance(p))
            }
            Verdict::Tested(Difference::None(p)) => writeln!(
                self.to,
                "{STRONG}The number of reset connections per minute shows no difference ({counts}, {}).{STRONG:#}",
                chance(p)
            ),
            Verdict::Tested(Difference::TooFew) => writeln!(
                self.to,
                "{STRONG}Too few connections were reset for a verdict ({counts}): capture for longer.{STRONG:#}"
            ),
            Verdict::Lost => writeln!(
                self.to,
                "{WARN}Too many events are missing for a verdict ({counts} connections reset).{WARN:#}"
            ),
            Verdict::NotWatched => writeln!(
                self.to,
                "{WARN}The captures had different hooks: their resets cannot be compared ({counts}).{WARN:#}"
            ),
        }
    }

    fn totals(&mut self) -> fmt::Result {
        let Comparison { before, after, total, .. } = self.comparison;
        self.heading("Total")?;
        self.row("connections reset", total.before.reset, total.after.reset, Some(total.reset))?;
        self.row("others refused or answered", total.before.not_reset, total.after.not_reset, Some(total.not_reset))?;
        self.row("packets refused (INVALID)", total.before.invalid, total.after.invalid, None)?;
        self.row("packets logged, but accepted", total.before.ignored, total.after.ignored, None)?;
        self.row("RSTs of this host", total.before.resets, total.after.resets, None)?;
        let dropped = |side: &Side| side.report.summary.table_full_drops;
        if dropped(before) + dropped(after) > 0 {
            self.row("packets dropped, table full", dropped(before), dropped(after), None)?;
        }
        Ok(())
    }

    fn table<K>(&mut self, title: &str, rows: &[Row<K>], name: impl Fn(&K) -> String) -> fmt::Result {
        let rows: Vec<&Row<K>> = rows.iter().filter(|row| !(empty(row.before) && empty(row.after))).collect();
        if rows.is_empty() {
            return Ok(());
        }
        self.heading(title)?;
        let listed = if self.verbose { rows.len() } else { LISTED };
        for row in rows.iter().take(listed) {
            let name = name(&row.of);
            if row.before.reset + row.after.reset > 0 {
                self.row(&format!("{name} reset"), row.before.reset, row.after.reset, Some(row.reset))?;
            }
            if row.before.not_reset + row.after.not_reset > 0 {
                let (before, after) = (row.before.not_reset, row.after.not_reset);
                self.row(&format!("{name} not reset"), before, after, Some(row.not_reset))?;
            }
        }
        self.more(rows.len().saturating_sub(listed))
    }

    fn heading(&mut self, title: &str) -> fmt::Result {
        let [before, after, rate, change] = ["before", "after", "/min", "change"];
        writeln!(
            self.to,
            "\n{STRONG}{title:<LABEL$}{STRONG:#}{FAINT} {before:>8} {rate:>8} {after:>8} {rate:>8} {change:>8}{FAINT:#}"
        )
    }

    /// A line: both counts with their rates, the difference of the rates, and the verdict.
    fn row(&mut self, label: &str, before: u64, after: u64, verdict: Option<Verdict>) -> fmt::Result {
        let Comparison { before: one, after: other, .. } = self.comparison;
        let rates = (one.sample(before).per_minute(), other.sample(after).per_minute());
        let shown = |rate: Option<f64>| rate.map_or_else(|| "?".to_owned(), self::rate);
        let change = match rates {
            (Some(first), Some(second)) if before + after > 0 => signed(second - first),
            _ => String::new(),
        };
        let label = format!("  {label}");
        let [first, second] = [rates.0, rates.1].map(shown);
        let (before, after) = (grouped(before), grouped(after));
        write!(self.to, "{label:<LABEL$} {before:>8} {first:>8} {after:>8} {second:>8} {change:>8}")?;
        if let Some(verdict) = verdict {
            let style = style(verdict);
            write!(self.to, "  {style}{}{style:#}", in_words(verdict))?;
        }
        writeln!(self.to)
    }

    fn routes(
        &mut self,
        title: &str,
        which: impl Fn(&Row<Route>) -> bool,
        count: impl Fn(&Row<Route>) -> Count,
    ) -> fmt::Result {
        let routes: Vec<&Row<Route>> = self.comparison.routes.iter().filter(|row| which(row)).collect();
        if routes.is_empty() {
            return Ok(());
        }
        writeln!(self.to, "\n{STRONG}{title}{STRONG:#}")?;
        let listed = if self.verbose { routes.len() } else { NAMED };
        for row in routes.iter().take(listed) {
            let Route { client, server, diagnosis } = row.of;
            let (arrow, count) = (self.style.arrow(), count(row));
            let connections = counted(count.reset + count.not_reset, "connection", "connections");
            writeln!(
                self.to,
                "  {client} {arrow} {server}  {diagnosis}  {FAINT}{connections}, {} reset{FAINT:#}",
                count.reset
            )?;
        }
        self.more(routes.len().saturating_sub(listed))
    }

    fn changes(&mut self, title: &str, changes: &[Changed]) -> fmt::Result {
        if changes.is_empty() {
            return Ok(());
        }
        writeln!(self.to, "\n{STRONG}{title}{STRONG:#}")?;
        for change in changes {
            let value = |value: &Option<String>| {
                value.as_ref().map_or_else(|| "none".to_owned(), |text| plain::line(text, LIMIT))
            };
            let netns = match &change.netns {
                Some((inode, Some(name))) => format!("  {FAINT}netns {} ({inode}){FAINT:#}", plain::line(name, LIMIT)),
                Some((inode, None)) => format!("  {FAINT}netns {inode}{FAINT:#}"),
                None => String::new(),
            };
            let (what, arrow) = (plain::line(&change.what, LIMIT), self.style.arrow());
            writeln!(self.to, "  {what}: {} {arrow} {}{netns}", value(&change.before), value(&change.after))?;
        }
        Ok(())
    }

    fn caveats(&mut self) -> fmt::Result {
        writeln!(self.to, "\n{STRONG}Limits of this comparison{STRONG:#}")?;
        let test = format!(
            "counted for {} before and {} after; \"fewer\" and \"more\" mean that chance alone makes such a difference less \
             than once in {:.0} comparisons (exact test of two Poisson rates)",
            period(&self.comparison.before),
            period(&self.comparison.after),
            1.0 / LEVEL
        );
        let caveats = self.comparison.caveats.iter().map(String::as_str);
        for caveat in std::iter::once(test.as_str()).chain(caveats) {
            let caveat = plain::line(caveat, 4 * LIMIT);
            let lines = match self.style.width {
                Some(width) => {
                    let options = textwrap::Options::new(width).initial_indent("  - ").subsequent_indent("    ");
                    textwrap::fill(&caveat, options)
                }
                None => format!("  - {caveat}"),
            };
            writeln!(self.to, "{lines}")?;
        }
        Ok(())
    }

    fn more(&mut self, more: usize) -> fmt::Result {
        match more {
            0 => Ok(()),
            more => writeln!(self.to, "  {FAINT}and {more} more; --verbose lists all{FAINT:#}"),
        }
    }
}

/// Whether a count has no connection.
const fn empty(count: Count) -> bool {
    count.reset + count.not_reset == 0
}

const fn style(verdict: Verdict) -> anstyle::Style {
    match verdict {
        Verdict::Tested(Difference::Fewer(_)) => GOOD,
        Verdict::Tested(Difference::More(_)) => BAD,
        Verdict::Tested(Difference::None(_) | Difference::TooFew) => FAINT,
        Verdict::Lost | Verdict::NotWatched => WARN,
    }
}

/// A verdict, in words.
fn in_words(verdict: Verdict) -> String {
    match verdict {
        Verdict::Tested(Difference::Fewer(p)) => format!("fewer, {}", chance(p)),
        Verdict::Tested(Difference::More(p)) => format!("more, {}", chance(p)),
        Verdict::Tested(Difference::None(p)) => format!("may be chance, {}", chance(p)),
        Verdict::Tested(Difference::TooFew) => "too few for a verdict".to_owned(),
        Verdict::Lost => "too many missing events".to_owned(),
        Verdict::NotWatched => "the hooks differ".to_owned(),
    }
}

/// A probability, rounded, but never down to certainty.
fn chance(p: f64) -> String {
    if p < 0.001 { "p < 0.001".to_owned() } else { format!("p = {p:.3}") }
}

/// The duration of a capture.
fn period(side: &Side) -> String {
    match side.report.duration().as_secs_f64() {
        seconds if seconds < 120.0 => format!("{seconds:.1} s"),
        seconds if seconds < 7_200.0 => format!("{:.1} minutes", seconds / 60.0),
        seconds => format!("{:.1} hours", seconds / 3_600.0),
    }
}

/// A rate with about three digits. A positive rate is never printed as 0.
fn rate(per_minute: f64) -> String {
    match per_minute {
        0.0 => "0".to_owned(),
        rate if rate < 0.001 => "<0.001".to_owned(),
        rate if rate < 1.0 => format!("{rate:.3}"),
        rate if rate < 100.0 => format!("{rate:.1}"),
        rate => format!("{rate:.0}"),
    }
}

fn signed(difference: f64) -> String {
    let sign = match difference {
        0.0 => "",
        less if less < 0.0 => "-",
        _ => "+",
    };
    format!("{sign}{}", rate(difference.abs()))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::{chance, rate, signed};

    #[rstest]
    #[case(0.0, "0")]
    #[case(0.000_2, "<0.001")]
    #[case(0.016_7, "0.017")]
    #[case(12.34, "12.3")]
    #[case(98_765.4, "98765")]
    fn rates(#[case] per_minute: f64, #[case] text: &str) {
        assert_eq!(rate(per_minute), text);
    }

    #[test]
    fn changes() {
        assert_eq!([signed(0.0), signed(-2.5), signed(120.0)], ["0", "-2.5", "+120"]);
        assert_eq!([chance(0.000_4), chance(0.009_6)], ["p < 0.001", "p = 0.010"]);
    }
}
