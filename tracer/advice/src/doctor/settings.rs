//! Sysctls that are not as a gateway should have them, or that change what is to be expected of it.

use tracer_model::finding::{Finding, Severity};
use tracer_model::health::sysctls::{ALL, Kind, RFC_ESTABLISHED, time};
use tracer_model::mitigation::MitigationId;

use super::{Builder, One};

/// Switches, the value they have in most places, and the finding where they have another.
const SWITCHES: [(&str, bool, &str, &str); 5] = [
    ("nf_conntrack_tcp_be_liberal", false, "be-liberal-on", "window checks are off"),
    ("nf_conntrack_tcp_loose", true, "loose-off", "connections that conntrack does not know are refused"),
    ("nf_conntrack_tcp_ignore_invalid_rst", false, "ignore-invalid-rst-on", "RSTs below the window pass"),
    ("nf_conntrack_checksum", true, "checksum-off", "damaged packets are tracked"),
    ("nf_conntrack_log_invalid", false, "log-invalid-on", "refused packets are logged"),
];

pub(super) fn findings(one: &One<'_>) -> Vec<Finding> {
    let switched = SWITCHES.iter().filter_map(|(name, usual, id, title)| {
        let value = one.namespace.sysctl(name)?;
        let sysctl = ALL.iter().find(|sysctl| sysctl.name == *name)?;
        ((value != 0) != *usual).then(|| {
            one.finding(id, Severity::Info, format!("{title}: {name} is {value}"))
                .number(name, value)
                .advice(sysctl.says(value))
                .done()
        })
    });
    switched.chain(established(one)).chain(timeouts(one)).collect()
}

fn established(one: &One<'_>) -> Option<Finding> {
    const NAME: &str = "nf_conntrack_tcp_timeout_established";
    let seconds = one.namespace.sysctl(NAME)?;
    if seconds < RFC_ESTABLISHED {
        let title = format!(
            "idle connections are forgotten after {}; RFC 5382 asks a NAT to keep them for {}",
            time(seconds),
            time(RFC_ESTABLISHED)
        );
        return Some(
            one.finding("timeout-established-short", Severity::Warning, title)
                .number(NAME, seconds)
                .number("rfc_5382", RFC_ESTABLISHED)
                .advice("a segment that comes later has no entry: it is answered with a RST, or opens a new one")
                .advice(one.set(NAME, RFC_ESTABLISHED))
                .remedy(MitigationId::RaiseTimeout)
                .done(),
        );
    }
    // What is kept for days fills a table.
    let crowded = one.namespace.used().is_some_and(|used| used >= 50);
    (crowded && seconds > 10 * RFC_ESTABLISHED).then(|| {
        let title = format!("idle connections are kept for {} in a table that is more than half full", time(seconds));
        one.finding("timeout-established-long", Severity::Info, title)
            .number(NAME, seconds)
            .advice("connections whose ends have vanished hold an entry, and a NAT port, for as long")
            .advice(one.set(NAME, RFC_ESTABLISHED))
            .done()
    })
}

/// Timeouts that somebody made shorter than the kernel's own, which are below what RFC 5382 asks for already.
fn timeouts(one: &One<'_>) -> Option<Finding> {
    let shorter: Vec<(&str, i64, i64)> = ALL
        .iter()
        .filter_map(|sysctl| {
            let Kind::Timeout { default, least: Some(least) } = sysctl.kind else { return None };
            let value = one.namespace.sysctl(sysctl.name)?;
            (value < default && value < least && default < RFC_ESTABLISHED).then_some((sysctl.name, value, default))
        })
        .collect();
    let named: Vec<&str> = shorter.iter().map(|(name, ..)| name.trim_start_matches("nf_conntrack_")).collect();
    if shorter.is_empty() {
        return None;
    }
    let title = format!("shorter than the kernel's defaults and than the RFCs ask for: {}", named.join(", "));
    let mut builder: Builder = one.finding("timeout-below-default", Severity::Warning, title);
    for (name, value, default) in &shorter {
        builder = builder.number(name, format!("{value} (default {default})"));
    }
    builder = builder.advice("what is answered late finds no entry: it is refused, or answered with a RST");
    for (name, _, default) in &shorter {
        builder = builder.advice(one.set(name, *default));
    }
    Some(builder.done())
}
