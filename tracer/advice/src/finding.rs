//! Findings of a report: limits of its evidence, and problems close to happening.

use std::collections::BTreeMap;
use std::fmt::Display;

use tracer_common::Hook;
use tracer_engine::engine::Totals;
use tracer_engine::flow::{Flow, Tally};
use tracer_model::capture::{Gap, GapReason, HookState, Netns, Origin, TableFull};
use tracer_model::finding::{Finding, Severity};
use tracer_model::shell::word;
use tracer_model::table_usage::TableUsage;
use tracer_model::time::Instant;

use crate::report::Report;

/// All findings, the most urgent first.
///
/// `of_endpoints` are flows that were reset in namespaces that do not track connections.
pub fn findings(
    report: &Report,
    namespaces: &BTreeMap<u32, Netns>,
    table_usages: &BTreeMap<u32, TableUsage>,
    totals: &Totals,
    of_endpoints: &[Box<Flow>],
) -> Vec<Finding> {
    let full = |inode: u32| report.table_full.iter().find(|full| full.netns == inode);
    let mut found: Vec<Finding> =
        namespaces.values().filter(|facts| full(facts.inode).is_none()).filter_map(table).collect();
    found.extend(report.table_full.iter().map(|full| {
        let mut finding = table_was_full(full, namespaces.get(&full.netns));
        if let Some(table_usage) = table_usages.get(&full.netns) {
            backends(table_usage, &mut finding);
        }
        finding
    }));
    found.extend(lost(report));
    found.extend(endpoints(of_endpoints, namespaces));
    found.extend(without_kprobes(report));
    found.extend(damaged(report));
    found.extend(gaps(report));
    found.extend(undecodable(report));
    found.extend(report.hooks.iter().filter_map(|line| match &line.state {
        // A kernel without these functions has no such rules either.
        HookState::Unavailable { .. } if matches!(line.hook, Hook::LinkRejectV4 | Hook::LinkRejectV6) => None,
        HookState::Unavailable { because } => Some(Finding {
            id: "hook-unavailable",
            severity: Severity::Warning,
            title: format!("{} ({}) was not attached: {because}", line.hook.name(), line.hook.spec().symbol),
            evidence: vec![("target".to_owned(), line.hook.spec().symbol.to_owned())],
            advice: vec!["the report lacks the events of this hook".to_owned()],
        }),
        HookState::Attached if line.since > report.started.after(LATE) => Some(Finding {
            id: "hook-attached-late",
            severity: Severity::Info,
            title: format!(
                "{} ({}) was attached when its module was loaded, {:.1} s into the capture",
                line.hook.name(),
                line.hook.spec().symbol,
                (line.since - report.started).as_secs_f64()
            ),
            evidence: vec![("target".to_owned(), line.hook.spec().symbol.to_owned())],
            advice: Vec::new(),
        }),
        HookState::Attached | HookState::Waiting { .. } => None,
    }));
    found.extend((totals.forgotten.flows > 0).then(|| Finding {
        id: "flows-forgotten",
        severity: Severity::Warning,
        title: format!("{} flows are counted but not listed: the flow table was full", totals.forgotten.flows),
        evidence: vec![("reset".to_owned(), totals.forgotten.reset.to_string())],
        advice: vec!["restrict the report with --client, --server, --nat or --port".to_owned()],
    }));
    found.extend(suppressed(report, totals));
    found.sort_by_key(|finding| finding.severity);
    found
}

/// A hook attached later than this was attached with its module.
const LATE: std::time::Duration = std::time::Duration::from_secs(2);

fn table_was_full(full: &TableFull, facts: Option<&Netns>) -> Finding {
    let whose = match facts.and_then(|facts| facts.name.as_ref()) {
        Some(name) => format!("the conntrack table of {name}"),
        None => "the conntrack table".to_owned(),
    };
    let plural = |count: u64, one: &str, many: &str| format!("{count} {}", if count == 1 { one } else { many });
    let mut evidence = vec![
        ("netns".to_owned(), full.netns.to_string()),
        ("dropped".to_owned(), full.dropped.to_string()),
        ("made_room".to_owned(), full.made_room.to_string()),
    ];
    for (name, value) in
        [("entries", facts.and_then(|facts| facts.entries)), ("max", facts.and_then(|facts| facts.max))]
    {
        evidence.extend(value.map(|value| (name.to_owned(), value.to_string())));
    }
    Finding {
        id: "conntrack-table-full",
        severity: Severity::Critical,
        title: format!(
            "{whose} was full: {} dropped, {} another connection's entry",
            plural(full.dropped, "packet of a new connection was", "packets of new connections were"),
            plural(full.made_room, "new connection evicted", "new connections evicted"),
        ),
        evidence,
        advice: vec![
            "the kernel sends no RST for a dropped packet: the client waits and retransmits".to_owned(),
            "raise net.netfilter.nf_conntrack_max together with nf_conntrack_buckets".to_owned(),
        ],
    }
}

/// The top users of the table when the capture ended.
fn backends(table_usage: &TableUsage, finding: &mut Finding) {
    fn list<T: Display>(counts: &[(T, u64)]) -> String {
        let counts: Vec<String> = counts.iter().map(|(what, count)| format!("{what} ({count})")).collect();
        counts.join(", ")
    }
    finding.evidence.push(("counted".to_owned(), table_usage.entries.to_string()));
    if let (Some((source, of_source)), Some((service, to_service))) =
        (table_usage.sources.first(), table_usage.services.first())
    {
        finding.evidence.push(("top_sources".to_owned(), list(&table_usage.sources)));
        finding.evidence.push(("top_services".to_owned(), list(&table_usage.services)));
        let advice = format!(
            "{of_source} of {} entries at the end of the capture belonged to {source}; {to_service} went to {service}",
            table_usage.entries
        );
        finding.advice.insert(0, advice);
    }
    if let Some(problem) = &table_usage.problem {
        finding.evidence.push(("count_is_partial".to_owned(), problem.clone()));
    }
}

fn table(namespace: &Netns) -> Option<Finding> {
    let (entries, max) = (u64::from(namespace.entries?), u64::from(namespace.max?));
    let severity = match entries * 100 {
        _ if max == 0 => return None,
        used if used >= max * 95 => Severity::Critical,
        used if used >= max * 80 => Severity::Warning,
        _ => return None,
    };
    Some(Finding {
        id: "conntrack-table-full",
        severity,
        title: format!("the conntrack table holds {entries} of {max} entries"),
        evidence: vec![
            ("netns".to_owned(), namespace.inode.to_string()),
            ("entries".to_owned(), entries.to_string()),
            ("max".to_owned(), max.to_string()),
        ],
        advice: vec!["raise net.netfilter.nf_conntrack_max together with nf_conntrack_buckets".to_owned()],
    })
}

/// RSTs of namespaces without connection tracking: endpoints on the same host as the gateway.
fn endpoints(flows: &[Box<Flow>], namespaces: &BTreeMap<u32, Netns>) -> Option<Finding> {
    let mut per_namespace: BTreeMap<String, u64> = BTreeMap::new();
    for flow in flows {
        let inode = flow.key.netns.unwrap_or(0);
        let name = namespaces.get(&inode).and_then(|facts| facts.name.clone()).unwrap_or_else(|| inode.to_string());
        *per_namespace.entry(name).or_default() += flow.tally().resets;
    }
    let (first, _) = per_namespace.first_key_value()?;
    let were = match per_namespace.values().sum::<u64>() {
        1 => "1 RST was".to_owned(),
        more => format!("{more} RSTs were"),
    };
    Some(Finding {
        id: "endpoint-resets",
        severity: Severity::Info,
        title: format!(
            "{were} sent in network namespaces of this host without connection tracking: endpoints, not gateways"
        ),
        advice: vec![format!("`--netns {}` reports their flows", word(first))],
        evidence: per_namespace.into_iter().map(|(name, resets)| (name, resets.to_string())).collect(),
    })
}

fn lost(report: &Report) -> Option<Finding> {
    if report.lost == 0 {
        return None;
    }
    let on = |(cpu, hook, lost): &(u32, Hook, u64)| (format!("cpu {cpu} {}", hook.spec().symbol), lost.to_string());
    // This hook emits no records. It counts; a loss means that the namespace is unknown.
    let searches: u64 =
        report.hooks.iter().filter(|line| line.hook == Hook::TableFull).map(|line| line.counters.lost()).sum();
    let events = report.lost - searches;
    let (mut titles, mut advice) = (Vec::new(), Vec::new());
    if events > 0 {
        titles.push(format!("{events} events were lost: the ring buffer was full, or the hook did not run"));
        advice.push(
            "flows may be missing; a RST has cause unknown if the event of its refused packet was lost".to_owned(),
        );
    }
    if searches > 0 {
        let times = if searches == 1 { "once".to_owned() } else { format!("{searches} times") };
        titles.push(format!("the table was full {times}, but not counted per namespace"));
        advice.push("a full table may be missing from the report, or its count may be too low".to_owned());
    }
    Some(Finding {
        id: "events-lost",
        severity: Severity::Warning,
        title: titles.join("; "),
        evidence: report.lost_on.iter().map(on).collect(),
        advice,
    })
}

/// Events that were counted in the kernel but not emitted.
fn suppressed(report: &Report, totals: &Totals) -> Option<Finding> {
    if report.suppressed == 0 {
        return None;
    }
    let Tally { invalid, ignored, undecided, resets, forwarded } = totals.unattributed;
    let unattributed = invalid + ignored + undecided + resets + forwarded;
    let only_counted = report.flows.iter().filter(|report| report.flow.is_only_counted()).count();
    let mut evidence = vec![("suppressed".to_owned(), report.suppressed.to_string())];
    let mut advice =
        vec!["all counts include them; the timelines show the first events of each flow and reason".to_owned()];
    if only_counted > 0 {
        evidence.push(("flows_only_counted".to_owned(), only_counted.to_string()));
        advice.push(format!("the cause of {only_counted} flows is unknown: all their events were rate-limited"));
    }
    if unattributed > 0 {
        evidence.push(("without_flow".to_owned(), unattributed.to_string()));
        advice.push(format!(
            "{unattributed} of them are in the totals but in no flow: there were more flows than the BPF programs can count separately"
        ));
    }
    Some(Finding {
        id: "events-suppressed",
        severity: Severity::Info,
        title: format!("{} events were rate-limited: counted, but not reported individually", report.suppressed),
        evidence,
        advice,
    })
}

fn without_kprobes(report: &Report) -> Option<Finding> {
    let line = report.hooks.iter().find(|line| line.hook == Hook::ResetTracepoint)?;
    Some(Finding {
        id: "without-kprobes",
        severity: Severity::Warning,
        title: format!("without kprobes only {} was attached; all causes are inferred", line.hook.spec().symbol),
        evidence: vec![("target".to_owned(), line.hook.spec().symbol.to_owned())],
        advice: vec![
            "not visible: why conntrack refuses a packet, RSTs of REJECT rules, why an entry is destroyed, a full table"
                .to_owned(),
            "visible: whether the answered segment had a conntrack entry, created one, or was untracked"
                .to_owned(),
        ],
    })
}

fn damaged(report: &Report) -> Option<Finding> {
    let Origin::Recording { path, damage: Some(damage) } = &report.origin else { return None };
    Some(Finding {
        id: "recording-damaged",
        severity: Severity::Warning,
        title: format!("{path} is damaged at byte {}: {}", damage.offset, damage.what),
        evidence: vec![("offset".to_owned(), damage.offset.to_string())],
        advice: vec!["this report contains everything before that byte".to_owned()],
    })
}

/// Gaps that are listed.
const GAPS_NAMED: usize = 8;

/// Gaps in the recording.
fn gaps(report: &Report) -> Option<Finding> {
    let first = report.gaps.first()?;
    let wall = |at: Option<Instant>, open: &str| {
        at.map_or_else(|| open.to_owned(), |at| format!("{:.3}", report.host.clock.wall(at)))
    };
    let stretch = |gap: &Gap| format!("{} to {}", wall(gap.from, "the beginning"), wall(gap.until, "the end"));
    let why = |gap: &Gap| match &gap.why {
        GapReason::OtherFile => "it is in a file of this recording that was not read".to_owned(),
        GapReason::NotCaptured => "no capture was running".to_owned(),
        GapReason::Damaged { what } => what.clone(),
    };
    let missing =
        report.gaps.iter().any(|gap| gap.why != GapReason::OtherFile || gap.from.is_some() && gap.until.is_some());
    let mut advice = Vec::new();
    if report.gaps.len() > 1 {
        advice.extend(report.gaps.iter().take(GAPS_NAMED).map(|gap| format!("{}: {}", stretch(gap), why(gap))));
    }
    if report.gaps.iter().any(|gap| gap.why == GapReason::OtherFile) {
        advice.push("pass all files of the recording to --from".to_owned());
    }
    advice.push("a RST shortly after a gap has cause unknown if the gap may contain the refused packet".to_owned());
    Some(Finding {
        id: "recording-gap",
        severity: if missing { Severity::Warning } else { Severity::Info },
        title: match report.gaps.len() {
            1 => format!("the report lacks {}: {}", stretch(first), why(first)),
            more => format!("the report has {more} gaps"),
        },
        evidence: report.gaps.iter().map(|gap| (stretch(gap), why(gap))).collect(),
        advice,
    })
}

fn undecodable(report: &Report) -> Option<Finding> {
    (report.undecodable > 0).then(|| Finding {
        id: "records-not-understood",
        severity: Severity::Warning,
        title: format!("{} records could not be decoded: another version of whyrst wrote them", report.undecodable),
        evidence: Vec::new(),
        advice: vec!["read the recording with the version that wrote it or a later one".to_owned()],
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rstest::rstest;

    use tracer_common::{Hook, counter};
    use tracer_engine::Limits;
    use tracer_engine::engine::Engine;
    use tracer_engine::session::Session;
    use tracer_model::capture::{Counters, HookCounters, HookState, HookStatus, Host, Item, Netns, Origin, TableFull};
    use tracer_model::conntrack::LogFormat;
    use tracer_model::filter::Filter;
    use tracer_model::table_usage::{Counting, Service};
    use tracer_model::time::Instant;
    use tracer_testing::{Build, GATEWAY};

    use super::{Finding, endpoints};
    use crate::report::Report;

    /// Counters with so many records lost at each of these hooks.
    fn lost(lost: &[(Hook, u64)]) -> Counters {
        let mut hooks = vec![HookCounters::default(); Hook::ALL.len()];
        for (hook, count) in lost {
            hooks[hook.index()].0[counter::LOST] = *count;
        }
        Counters { at: Instant(1), hooks, lost_on: Vec::new(), table_full: Vec::new() }
    }

    fn findings(items: impl IntoIterator<Item = Item>) -> BTreeMap<&'static str, Finding> {
        let mut session = Session::new(Host::nobody(), Filter::default());
        for hook in Hook::ALL {
            session.item(&Item::Hook(HookStatus { hook, since: Instant(0), state: HookState::Attached }));
        }
        for item in items {
            session.item(&item);
        }
        Report::new(session.finish(Origin::Live)).findings.into_iter().map(|finding| (finding.id, finding)).collect()
    }

    #[rstest]
    #[case(&[], None)]
    #[case(&[(Hook::CtInvalid, 3), (Hook::ResetV4, 1)],
        Some("4 events were lost: the ring buffer was full, or the hook did not run"))]
    #[case(&[(Hook::TableFull, 2)], Some("the table was full 2 times, but not counted per namespace"))]
    #[case(&[(Hook::TableFull, 1), (Hook::ResetV6, 5)], Some("5 events were lost: the ring buffer was full, or the \
        hook did not run; the table was full once, but not counted per namespace"))]
    fn lost_events_and_uncounted_full_tables(#[case] counts: &[(Hook, u64)], #[case] title: Option<&str>) {
        let findings = findings([Item::Counters(lost(counts))]);
        assert_eq!(findings.get("events-lost").map(|finding| finding.title.as_str()), title);
    }

    #[test]
    fn the_name_of_a_namespace_is_quoted_in_advice() {
        let mut engine = Engine::new(LogFormat::E1, Limits::default(), Filter::default());
        engine.event(Build::from_server(Hook::ResetV4, 1, 1, 1_000, 2_000).event());
        let name = Some("$(reboot)".to_owned());
        let facts = Netns {
            inode: GATEWAY,
            name,
            at: Instant(1),
            entries: None,
            max: None,
            invalid: None,
            sysctls: Vec::new(),
        };
        let found = endpoints(&engine.finish().0, &BTreeMap::from([(GATEWAY, facts)])).unwrap();
        assert_eq!(found.advice, ["`--netns '$(reboot)'` reports their flows"]);
    }

    #[test]
    fn a_full_table_names_its_top_users() {
        let full = TableFull { netns: GATEWAY, dropped: 1, made_room: 0, first: Instant(1), last: Instant(1) };
        let mut counting = Counting::default();
        let service = |port| Service { protocol: 6, address: "192.0.2.2".parse().unwrap(), port: Some(port) };
        for (source, port) in [("10.0.0.3", 80), ("10.0.0.2", 443), ("10.0.0.2", 80)] {
            counting.add(Some(source.parse().unwrap()), Some(service(port)));
        }
        let table_usage = counting.finish(GATEWAY, Instant(2), Some("cut".to_owned()));
        let counters = Counters { table_full: vec![full], ..lost(&[]) };
        let findings = findings([Item::Counters(counters), Item::TableUsage(table_usage)]);
        let finding = &findings["conntrack-table-full"];
        let evidence: BTreeMap<&str, &str> = finding.evidence.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(evidence["top_sources"], "10.0.0.2 (2), 10.0.0.3 (1)");
        assert_eq!(evidence["top_services"], "tcp 192.0.2.2:80 (2), tcp 192.0.2.2:443 (1)");
        assert_eq!(evidence["count_is_partial"], "cut");
        assert!(finding.advice[0].contains("2 of 3 entries at the end of the capture belonged to 10.0.0.2"));
    }
}
