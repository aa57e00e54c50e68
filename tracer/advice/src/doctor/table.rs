//! The table: how full it is, who fills it, and whether it has the right size.

use std::fmt::Display;

use tracer_model::finding::{Finding, Severity};
use tracer_model::health::counters::Counter;
use tracer_model::health::sizing::{PER_BUCKET, Sizing};
use tracer_model::mitigation::MitigationId;

use super::{Builder, One};
use crate::Growth;

/// Percent of the limit from which on it is worth a warning, and from which on the kernel begins to take entries away
/// (`gc_worker` counts from 95 % on as early).
const MUCH: u64 = 80;
const FULL: u64 = 95;
/// A table that will be full sooner than in this many seconds, and is half full, is worth a warning.
const SOON: f64 = 600.0;
/// Per mille of memory that a full table may take before that is worth a warning.
const MEMORY: u64 = 250;
/// How many times smaller than the rule of thumb a limit may be without a word.
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
        format!("the conntrack table is full: {entries} of {max} entries; packets of new connections are dropped")
    } else if evicting {
        format!("the conntrack table holds {entries} of {max} entries, and entries are being evicted for new ones")
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
            .advice("a larger table would take over an eighth of the memory: shorten timeouts, or stop who fills it");
        return Some(builder.done());
    };
    // Buckets first: a table that has grown before them is slow meanwhile.
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
    Some(builder.remedy(MitigationId::RaiseTableSize).done())
}

/// Who holds the entries.
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
        // Where they go everywhere, the first of many says nothing.
        let to = if to_service * 10 >= table_usage.entries {
            format!(", and {to_service} go to {service}")
        } else {
            String::new()
        };
        builder = builder.advice(format!("of {} entries {of_source} are of {source}{to}", table_usage.entries));
        builder = builder.advice(one.command(&format!("conntrack -L -s {source}")));
    }
    if table.unreplied * 2 > table_usage.entries {
        builder = builder.advice(format!(
            "{} of them were never answered: a scan or a flood, or answers that take another way",
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
        let title = format!("the conntrack table will be full in {seconds:.0} s if it goes on growing like this");
        let builder = one
            .finding("conntrack-table-filling", Severity::Warning, title)
            .number("entries", entries)
            .number("max", max)
            .number("entries_per_s", format!("{trend:.1}"));
        backends(one, builder).remedy(MitigationId::RaiseTableSize).done()
    })
}

fn small(one: &One<'_>) -> Option<Finding> {
    let (max, memory) = (one.namespace.max()?, one.host.memory?);
    let sizing = Sizing::of(memory, one.host.entry_bytes);
    let buckets = one.namespace.number("nf_conntrack_buckets");
    // What the kernel chose by itself is no finding.
    (max * SMALL < sizing.by_rule && max < sizing.by_kernel).then(|| {
        let title = format!("the table has room for {max} entries; this host's memory allows for {}", sizing.by_rule);
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
        let title = format!("a full table would take {}.{} % of this host's memory", share / 10, share % 10);
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
            format!("{toolong} entries were refused because their bucket was too long: the table has too few buckets")
        } else {
            format!("the table has few buckets: {buckets} for up to {max} entries, more than {PER_BUCKET} each")
        };
        let set = one.set_shared("nf_conntrack_buckets", max.next_power_of_two(), false);
        one.finding("conntrack-buckets-few", Severity::Warning, title)
            .number("buckets", buckets)
            .number("max", max)
            .number("chain_toolong", toolong)
            .advice("every packet is compared with all tuples of its bucket, and each entry is in two")
            .advice(set)
            .done()
    })
}

fn expectations(one: &One<'_>) -> Option<Finding> {
    let (count, max) = (one.namespace.after.expectations?, one.namespace.number("nf_conntrack_expect_max")?);
    (max > 0 && count * 100 >= max * MUCH).then(|| {
        let title = format!("the table of expected connections holds {count} of {max}: helpers (FTP, SIP) will fail");
        one.finding("expectation-table-full", Severity::Warning, title)
            .number("expectations", count)
            .number("max", max)
            .advice(one.set_shared("nf_conntrack_expect_max", max * 2, false))
            .done()
    })
}
