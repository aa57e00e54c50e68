//! Findings on NAT addresses that run out of ports towards a destination.

use tracer_model::finding::{Finding, Severity};
use tracer_model::health::ports::{MANY, NEARLY_ALL, PortUse};

use super::One;

/// Destinations that are listed.
const NAMED: usize = 5;

pub(super) fn findings(one: &One<'_>) -> Option<Finding> {
    let table = one.namespace.table.as_ref()?;
    let scarce: Vec<&PortUse> = table.ports.iter().filter(|usage| usage.permille() >= MANY * 10).collect();
    let worst = scarce.first()?;
    let nearly = worst.permille() >= NEARLY_ALL * 10;
    let (used, usable, destination) = (worst.used, worst.usable(), worst.destination);
    let fails = if nearly { "new connections fail" } else { "few are left" };
    let title = format!("NAT address {destination} has {used} of {usable} ports in use: {fails}");
    let severity = if nearly { Severity::Critical } else { Severity::Warning };
    let mut builder = one
        .finding("nat-ports-exhausted", severity, title)
        .number("used", used)
        .number("usable", usable)
        .number("range", format!("{}-{}", worst.range.start(), worst.range.end()))
        .number("destinations", scarce.len());
    for (index, usage) in scarce.iter().take(NAMED).enumerate() {
        let share = usage.permille();
        let text =
            format!("{}: {} of {} ({}.{} %)", usage.destination, usage.used, usage.usable(), share / 10, share % 10);
        builder = builder.number(&format!("towards_{}", index + 1), text);
    }
    if table.ports_rough || table.table_usage.problem.is_some() {
        builder = builder.number("count_is_partial", "the counts are lower bounds");
    }
    builder = builder
        .advice("translate to more addresses: snat to a range, or to one address per group of clients")
        .advice(one.command(&format!(
            "conntrack -L -p {} -q {} --reply-src {} --reply-port-src {}",
            tracer_model::health::ports::protocol(destination.protocol),
            destination.nat,
            destination.address,
            destination.port
        )));
    if worst.usable() < 1_000 {
        builder = builder.advice("the rule translates to few ports: extend its range");
    }
    let time_wait = "nf_conntrack_tcp_timeout_time_wait";
    if destination.protocol == 6 && one.namespace.sysctl(time_wait).is_some_and(|seconds| seconds > 60) {
        let advice = "with a shorter timeout, closed connections release their ports earlier:";
        builder = builder.advice(advice).advice(one.set(time_wait, 60));
    }
    Some(builder.done())
}
