//! Findings on the conntrack table: its usage, its top users and its size.

use std::fmt::Display;

use tracer_model::finding::{Finding, Severity};
use tracer_model::health::counters::Counter;
use tracer_model::health::sizing::{PER_BUCKET, Sizing};
use tracer_model::mitigation::MitigationId;

use super::{Builder, One};
use crate::Growth;

/// Percent of the limit that justify a warning, and percent from which the kernel evicts entries (`gc_worker` starts early
/// drop at 95 %).
const MUCH: u64 = 80;
const FULL: u64 = 95;
/// A half-full table that will be full within this many seconds justifies a warning.
const SOON: f64 = 600.0;
/// Per mille of memory that a full table may take without a warning.
const MEMORY: u64 = 250;
/// A limit may be this many times smaller than the rule of thumb without a finding.
const SMALL: u64 = 4;

pub(super) fn findings(one: &One<'_>) -> Vec<Finding> {
    [full(one), filling(one), small(one), large(one), buckets(one), expectations(one)].into_iter().flatten().collect()
}

fn full(one: &One<'_>) -> Option<Finding> {
    let namespace = one.namespace;
    let (entries, max, used) = (namespace.entries()?, namespace.max()?, namespace.used()?);
    let evicting = namespace.grown(Counter::EarlyDrop).unwrap_or(0) > 0;
    let severity = match used {
        _ if evicting => Severity::Critical,
        FULL.. => Severity::Critical,
        MUCH.. => Severity::Warning,
        _ => return None,
    };
    let title = if entries >= max {
        format!("the conntrack table is full: {entries} of {max} entries; conntrack drops packets of new connections")
    } else if evicting {
        format!("the conntrack table holds {entries} of {max} entries; conntrack evicts entries for new ones")
    } else {
        format!("the conntrack table holds {entries} of {max} entries ({used} %)")
    };
    let mut builder = one
        .finding("conntrack-table-full", severity, title)
        .number("entries", entries)
        .number("max", max)
        .number("percent", used)
        .maybe("drop", namespace.total(Counter::Drop))
        .maybe("early_drop", namespace.total(Counter::EarlyDrop));
    builder = backends(one, builder);
    let buckets = namespace.number("nf_conntrack_buckets");
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let Some(growth) = Growth::of(signed(max), buckets.map(signed), one.host.memory) else {
        builder = builder
            .advice("a larger table would take over an eighth of the memory: shorten timeouts, or stop the top users");
        return Some(builder.done());
    };
    // Buckets first: a larger table with the old buckets would be slow meanwhile.
    if let Some(buckets) = growth.buckets {
        builder = builder.advice(one.set_shared("nf_conntrack_buckets", buckets.unsigned_abs(), false));
    }
    let (next, wide) = (growth.max.unsigned_abs(), growth.buckets.map_or(0, i64::unsigned_abs));
    builder = builder.advice(one.set_shared("nf_conntrack_max", next, namespace.own_limit));
    if let Some(sizing) = one.host.memory.map(|memory| Sizing::of(memory, one.host.entry_bytes)) {
        let share = sizing.permille(next, wide);
        builder = builder.advice(format!(
            "{next} entries and {wide} buckets take up to {} MiB, {}.{} % of memory",
            sizing.bytes(next, wide) >> 20,
            share / 10,
            share % 10
        ));
    }
    Some(builder.mitigation(MitigationId::RaiseTableSize).done())
}

/// The top users of the table.
fn backends(one: &One<'_>, builder: Builder) -> Builder {
    fn list<T: Display>(counts: &[(T, u64)]) -> String {
        let counts: Vec<String> = counts.iter().map(|(what, count)| format!("{what} ({count})")).collect();
        counts.join(", ")
    }
    let Some(table) = &one.namespace.table else { return builder };
    let table_usage = &table.table_usage;
    let mut builder = builder
        .number("counted", table_usage.entries)
        .number("top_sources", list(&table_usage.sources))
        .number("top_services", list(&table_usage.services))
        .number("unreplied", table.unreplied)
        .number("assured", table.assured)
        .maybe("count_is_partial", table_usage.problem.as_ref());
    if let (Some((source, of_source)), Some((service, to_service))) =
        (table_usage.sources.first(), table_usage.services.first())
    {
        // With many destinations, the first one means nothing.
        let to = if to_service * 10 >= table_usage.entries {
            format!(", {to_service} to connections with {service}")
        } else {
            String::new()
        };
        builder = builder.advice(format!("{of_source} of {} entries belong to {source}{to}", table_usage.entries));
        builder = builder.advice(one.command(&format!("conntrack -L -s {source}")));
    }
    if table.unreplied * 2 > table_usage.entries {
        builder = builder.advice(format!(
            "{} of them never got a reply: a scan or a flood, or the replies take another path",
            table.unreplied
        ));
    }
    builder
}

fn filling(one: &One<'_>) -> Option<Finding> {
    let namespace = one.namespace;
    let (entries, max, used, trend) = (namespace.entries()?, namespace.max()?, namespace.used()?, namespace.trend()?);
    if !(50..MUCH).contains(&used) || trend <= 0.0 {
        return None;
    }
    #[expect(clippy::cast_precision_loss, reason = "a time that is rounded to seconds")]
    let seconds = max.saturating_sub(entries) as f64 / trend;
    (seconds < SOON).then(|| {
        let title = format!("the conntrack table will be full in {seconds:.0} s at its current growth");
        let builder = one
            .finding("conntrack-table-filling", Severity::Warning, title)
            .number("entries", entries)
            .number("max", max)
            .number("entries_per_s", format!("{trend:.1}"));
        backends(one, builder).mitigation(MitigationId::RaiseTableSize).done()
    })
}

fn small(one: &One<'_>) -> Option<Finding> {
    let (max, memory) = (one.namespace.max()?, one.host.memory?);
    let sizing = Sizing::of(memory, one.host.entry_bytes);
    let buckets = one.namespace.number("nf_conntrack_buckets");
    // The kernel's own choice is not a finding.
    (max * SMALL < sizing.by_rule && max < sizing.by_kernel).then(|| {
        let title =
            format!("the table has room for {max} entries; the memory of this host allows for {}", sizing.by_rule);
        sizing
            .shown(max, buckets)
            .into_iter()
            .fold(
                one.finding("conntrack-table-small", Severity::Info, title)
                    .number("max", max)
                    .number("by_rule", sizing.by_rule),
                Builder::advice,
            )
            .done()
    })
}

fn large(one: &One<'_>) -> Option<Finding> {
    let (max, memory) = (one.namespace.max()?, one.host.memory?);
    let sizing = Sizing::of(memory, one.host.entry_bytes);
    let buckets = one.namespace.number("nf_conntrack_buckets");
    let share = sizing.permille(max, buckets.unwrap_or(0));
    (share > MEMORY).then(|| {
        let title = format!("a full table would take {}.{} % of the memory of this host", share / 10, share % 10);
        sizing
            .shown(max, buckets)
            .into_iter()
            .fold(one.finding("conntrack-table-large", Severity::Warning, title).number("max", max), Builder::advice)
            .advice(one.set_shared("nf_conntrack_max", sizing.by_rule.max(1_024), one.namespace.own_limit))
            .done()
    })
}

fn buckets(one: &One<'_>) -> Option<Finding> {
    let (max, buckets) = (one.namespace.max()?, one.namespace.number("nf_conntrack_buckets")?);
    let toolong = one.namespace.total(Counter::ChainTooLong).unwrap_or(0);
    let few = buckets > 0 && max > buckets.saturating_mul(PER_BUCKET);
    (few || toolong > 0).then(|| {
        let title = if toolong > 0 {
            format!(
                "conntrack refused {toolong} entries because their bucket was too long: the table has too few buckets"
            )
        } else {
            format!("the table has few buckets: {buckets} for up to {max} entries, more than {PER_BUCKET} each")
        };
        let set = one.set_shared("nf_conntrack_buckets", max.next_power_of_two(), false);
        one.finding("conntrack-buckets-few", Severity::Warning, title)
            .number("buckets", buckets)
            .number("max", max)
            .number("chain_toolong", toolong)
            .advice("conntrack compares a packet with all tuples of its bucket, and each entry is in two buckets")
            .advice(set)
            .done()
    })
}

fn expectations(one: &One<'_>) -> Option<Finding> {
    let (count, max) = (one.namespace.after.expectations?, one.namespace.number("nf_conntrack_expect_max")?);
    (max > 0 && count * 100 >= max * MUCH).then(|| {
        let title = format!("the expectation table holds {count} of {max} entries: helpers (FTP, SIP) will fail");
        one.finding("expectation-table-full", Severity::Warning, title)
            .number("expectations", count)
            .number("max", max)
            .advice(one.set_shared("nf_conntrack_expect_max", max * 2, false))
            .done()
    })
}
