//! What conntrack's counters say: now, and since the namespace was made.

use tracer_model::finding::{Finding, Severity};
use tracer_model::health::counters::Counter;

use super::One;

/// Refused packets per second from which on it is worth a warning. Some are always refused on a gateway to the Internet:
/// scans, and segments of connections that are over.
const MANY_INVALID: f64 = 10.0;

pub(super) fn findings(one: &One<'_>) -> Vec<Finding> {
    [dropped(one), insert_failed(one), invalid(one), errors(one), restarts(one)].into_iter().flatten().collect()
}

/// How often, now and in all.
fn shown(one: &One<'_>, counter: Counter) -> Option<(u64, f64, u64)> {
    let namespace = one.namespace;
    Some((namespace.grown(counter)?, namespace.rate(counter)?, namespace.total(counter)?))
}

fn dropped(one: &One<'_>) -> Option<Finding> {
    let (grown, rate, total) = shown(one, Counter::Drop)?;
    if total == 0 {
        return None;
    }
    let (severity, title) = if grown > 0 {
        (Severity::Critical, format!("conntrack drops {rate:.1} packets a second: their entries could not be made"))
    } else {
        (Severity::Info, format!("conntrack has dropped {total} packets so far, none just now"))
    };
    let builder = one
        .finding("packets-dropped", severity, title)
        .number("per_s", format!("{rate:.1}"))
        .number("total", total)
        .maybe("early_drop", one.namespace.total(Counter::EarlyDrop));
    Some(
        builder
            .advice("these were first packets of connections: nobody is told, the client waits and tries again")
            .advice("either the table is full, or NAT finds no free port (see nat-ports-exhausted)")
            .advice("the kernel's log has `table full, dropping packet` where the table was the reason:")
            .advice("dmesg | whyrst explain")
            .done(),
    )
}

fn insert_failed(one: &One<'_>) -> Option<Finding> {
    let (grown, rate, total) = shown(one, Counter::InsertFailed)?;
    if total == 0 {
        return None;
    }
    let (severity, title) = if grown > 0 {
        (Severity::Warning, format!("{rate:.1} new connections a second lose their first packet: their tuple is taken"))
    } else {
        (Severity::Info, format!("{total} new connections lost their first packet so far, none just now"))
    };
    Some(
        one.finding("insert-failed", severity, title)
            .number("per_s", format!("{rate:.1}"))
            .number("total", total)
            .maybe("clash_resolve", one.namespace.total(Counter::ClashResolve))
            .advice("either NAT finds no free port (see nat-ports-exhausted), or two packets of a new UDP flow race, as DNS does")
            .done(),
    )
}

fn invalid(one: &One<'_>) -> Option<Finding> {
    let (_, rate, total) = shown(one, Counter::Invalid)?;
    if total == 0 {
        return None;
    }
    let severity = if rate >= MANY_INVALID { Severity::Warning } else { Severity::Info };
    let title = format!("conntrack refuses {rate:.1} packets a second; {total} so far");
    Some(
        one.finding("packets-invalid", severity, title)
            .number("per_s", format!("{rate:.1}"))
            .number("total", total)
            .advice("which packets, why, and whether somebody was reset for it:")
            .advice(one.command("whyrst report --duration 60s"))
            .done(),
    )
}

fn errors(one: &One<'_>) -> Option<Finding> {
    let (grown, rate, total) = shown(one, Counter::Error)?;
    (grown > 0).then(|| {
        one.finding(
            "packets-in-error",
            Severity::Info,
            format!("{rate:.1} packets a second are too damaged to be tracked"),
        )
        .number("per_s", format!("{rate:.1}"))
        .number("total", total)
        .done()
    })
}

fn restarts(one: &One<'_>) -> Option<Finding> {
    /// Per second; each costs a look-up, microseconds.
    const MANY: f64 = 1_000.0;
    let (_, rate, total) = shown(one, Counter::SearchRestart)?;
    (rate >= MANY).then(|| {
        let title = format!("{rate:.0} look-ups a second begin again: entries come and go in the same buckets");
        one.finding("lookups-restarted", Severity::Info, title)
            .number("per_s", format!("{rate:.1}"))
            .number("total", total)
            .advice("more buckets make it rarer")
            .done()
    })
}
