//! Findings from conntrack's counters: current rates, and totals since the namespace was created.

use tracer_model::finding::{Finding, Severity};
use tracer_model::health::counters::Counter;

use super::One;

/// Refused packets per second that justify a warning. Some are normal on a gateway to the Internet: scans, and segments of
/// closed connections.
const MANY_INVALID: f64 = 10.0;

pub(super) fn findings(one: &One<'_>) -> Vec<Finding> {
    [dropped(one), insert_failed(one), invalid(one), errors(one), restarts(one)].into_iter().flatten().collect()
}

/// A counter's growth between the samples, its rate per second, and its total.
fn counts(one: &One<'_>, counter: Counter) -> Option<(u64, f64, u64)> {
    let namespace = one.namespace;
    Some((namespace.grown(counter)?, namespace.rate(counter)?, namespace.total(counter)?))
}

fn dropped(one: &One<'_>) -> Option<Finding> {
    let (grown, rate, total) = counts(one, Counter::Drop)?;
    if total == 0 {
        return None;
    }
    let (severity, title) = if grown > 0 {
        (Severity::Critical, format!("conntrack drops {rate:.1} packets per second: it cannot create their entries"))
    } else {
        (Severity::Info, format!("conntrack has dropped {total} packets so far, none at present"))
    };
    let builder = one
        .finding("packets-dropped", severity, title)
        .number("per_s", format!("{rate:.1}"))
        .number("total", total)
        .maybe("early_drop", one.namespace.total(Counter::EarlyDrop));
    Some(
        builder
            .advice("these were first packets of connections: the client gets no answer, waits and retransmits")
            .advice("either the table is full, or NAT finds no free port (see nat-ports-exhausted)")
            .advice("the kernel logs `table full, dropping packet` if the table is the reason:")
            .advice("dmesg | whyrst explain")
            .done(),
    )
}

fn insert_failed(one: &One<'_>) -> Option<Finding> {
    let (grown, rate, total) = counts(one, Counter::InsertFailed)?;
    if total == 0 {
        return None;
    }
    let (severity, title) = if grown > 0 {
        (
            Severity::Warning,
            format!("{rate:.1} new connections per second lose their first packet: their tuple is in use"),
        )
    } else {
        (Severity::Info, format!("{total} new connections have lost their first packet so far, none at present"))
    };
    Some(
        one.finding("insert-failed", severity, title)
            .number("per_s", format!("{rate:.1}"))
            .number("total", total)
            .maybe("clash_resolve", one.namespace.total(Counter::ClashResolve))
            .advice("either NAT finds no free port (see nat-ports-exhausted), or two packets of a new UDP flow race (common with DNS)")
            .done(),
    )
}

fn invalid(one: &One<'_>) -> Option<Finding> {
    let (_, rate, total) = counts(one, Counter::Invalid)?;
    if total == 0 {
        return None;
    }
    let severity = if rate >= MANY_INVALID { Severity::Warning } else { Severity::Info };
    let title = format!("conntrack refuses {rate:.1} packets per second; {total} so far");
    Some(
        one.finding("packets-invalid", severity, title)
            .number("per_s", format!("{rate:.1}"))
            .number("total", total)
            .advice("to see which packets, why, and which connections are reset for it:")
            .advice(one.command("whyrst report --duration 60s"))
            .done(),
    )
}

fn errors(one: &One<'_>) -> Option<Finding> {
    let (grown, rate, total) = counts(one, Counter::Error)?;
    (grown > 0).then(|| {
        one.finding(
            "packets-in-error",
            Severity::Info,
            format!("conntrack cannot track {rate:.1} packets per second because they are malformed"),
        )
        .number("per_s", format!("{rate:.1}"))
        .number("total", total)
        .done()
    })
}

fn restarts(one: &One<'_>) -> Option<Finding> {
    /// Per second. Each costs another look-up, which takes microseconds.
    const MANY: f64 = 1_000.0;
    let (_, rate, total) = counts(one, Counter::SearchRestart)?;
    (rate >= MANY).then(|| {
        let title =
            format!("conntrack restarts {rate:.0} look-ups per second: entries of the same buckets come and go");
        one.finding("lookups-restarted", Severity::Info, title)
            .number("per_s", format!("{rate:.1}"))
            .number("total", total)
            .advice("more buckets reduce this")
            .done()
    })
}
