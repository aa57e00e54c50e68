//! Findings on sysctls: unsuitable values for a gateway, and values that change conntrack's behaviour.

use tracer_model::finding::{Finding, Severity};
use tracer_model::health::sysctls::{ALL, Kind, RFC_ESTABLISHED, time};
use tracer_model::mitigation::MitigationId;

use super::{Builder, One};

/// Switches, their usual values, and the findings on other values.
const SWITCHES: [(&str, bool, &str, &str); 5] = [
    ("nf_conntrack_tcp_be_liberal", false, "be-liberal-on", "window checks are off"),
    ("nf_conntrack_tcp_loose", true, "loose-off", "conntrack does not pick up open connections"),
    ("nf_conntrack_tcp_ignore_invalid_rst", false, "ignore-invalid-rst-on", "conntrack accepts RSTs below the window"),
    ("nf_conntrack_checksum", true, "checksum-off", "conntrack does not verify checksums"),
    ("nf_conntrack_log_invalid", false, "log-invalid-on", "conntrack logs refused packets"),
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
            "idle connections expire after {}; RFC 5382 requires a NAT to keep them for {}",
            time(seconds),
            time(RFC_ESTABLISHED)
        );
        return Some(
            one.finding("timeout-established-short", Severity::Warning, title)
                .number(NAME, seconds)
                .number("rfc_5382", RFC_ESTABLISHED)
                .advice("a later segment has no entry: the host answers it with a RST, or it creates a new entry")
                .advice(one.set(NAME, RFC_ESTABLISHED))
                .mitigation(MitigationId::RaiseTimeout)
                .done(),
        );
    }
    // Entries that are kept for days fill the table.
    let crowded = one.namespace.used().is_some_and(|used| used >= 50);
    (crowded && seconds > 10 * RFC_ESTABLISHED).then(|| {
        let title = format!("idle connections are kept for {} in a table that is more than half full", time(seconds));
        one.finding("timeout-established-long", Severity::Info, title)
            .number(NAME, seconds)
            .advice("connections whose endpoints have vanished keep an entry and a NAT port until then")
            .advice(one.set(NAME, RFC_ESTABLISHED))
            .done()
    })
}

/// Timeouts below the kernel's defaults, which are already below the minimum of RFC 5382.
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
    let title = format!("timeouts below the kernel's defaults and the RFCs' minimum: {}", named.join(", "));
    let mut builder: Builder = one.finding("timeout-below-default", Severity::Warning, title);
    for (name, value, default) in &shorter {
        builder = builder.number(name, format!("{value} (default {default})"));
    }
    builder = builder.advice("a late reply finds no entry: conntrack refuses it, or the host answers it with a RST");
    for (name, _, default) in &shorter {
        builder = builder.advice(one.set(name, *default));
    }
    Some(builder.done())
}
