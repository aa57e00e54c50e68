//! `whyrst doctor --format json`: one JSON object, `whyrst.doctor.v1`, and its schema.

use std::collections::BTreeMap;
use std::io;

use schemars::JsonSchema;
use serde::Serialize;

use tracer_advice::doctor::{Row, decider, walks};
use tracer_model::capture::HookState;
use tracer_model::finding::Finding;
use tracer_model::health;
use tracer_model::health::Facts;
use tracer_model::health::counters::Counter;
use tracer_model::health::ports::{PortUse, protocol};
use tracer_model::health::sizing::Sizing;
use tracer_model::health::sysctls::ALL;
use tracer_model::health::table::Table;
use tracer_model::ruleset::audit::{Does, Noted};
use tracer_model::table_usage::TableUsage;

use super::{finding, types, writing};

/// The schema's identifier.
pub const SCHEMA: &str = "whyrst.doctor.v1";

/// Writes facts and findings.
pub fn write(facts: &Facts, findings: &[Finding], to: &mut dyn io::Write) -> io::Result<()> {
    writing::document(&Doctor::new(facts, findings), to)
}

/// Writes its JSON Schema.
pub fn write_schema(to: &mut dyn io::Write) -> io::Result<()> {
    writing::document(&schemars::schema_for!(Doctor<'_>), to)
}

/// Whether a host can be traced, and whether its conntrack is healthy.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(title = "whyrst.doctor.v1", extend("$id" = SCHEMA))]
struct Doctor<'a> {
    /// Always `whyrst.doctor.v1`.
    schema: &'static str,
    tool: types::Tool,
    host: Host<'a>,
    tracing: Tracing<'a>,
    namespaces: Vec<Namespace<'a>>,
    /// The most urgent first.
    findings: Vec<types::Finding<'a>>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Host<'a> {
    hostname: &'a str,
    kernel: &'a str,
    /// The conntrack log format; absent if conntrack is not loaded.
    log_format: Option<&'static str>,
    memory_bytes: Option<u64>,
    /// Bytes of a conntrack entry without its extensions, if the kernel reports them.
    entry_bytes: Option<u64>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Tracing<'a> {
    /// Whether a capture would start.
    possible: bool,
    obstacles: Vec<Obstacle<'a>>,
    hooks: Vec<Hook<'a>>,
    /// Fields of other kernels that this kernel's BTF lacks.
    missing_fields: &'a [&'static str],
}

#[derive(Debug, Serialize, JsonSchema)]
struct Obstacle<'a> {
    id: &'static str,
    what: &'a str,
    fix: &'a str,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Hook<'a> {
    #[serde(rename = "hook")]
    name: &'static str,
    target: &'static str,
    method: &'static str,
    /// `available`, `waiting` for a module, or `unavailable`. Obstacles prevent all hooks, whatever this value is.
    state: &'static str,
    /// The module, or why the hook is unavailable.
    because: Option<&'a str>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Namespace<'a> {
    netns: u32,
    name: Option<&'a str>,
    /// The words that run a command there; null if no command can enter the namespace.
    prefix: Option<String>,
    entries: Option<u64>,
    max: Option<u64>,
    buckets: Option<u64>,
    /// Growth of the table between the two samples; negative if it shrank.
    entries_per_s: Option<f64>,
    /// Time between the two samples.
    interval_s: f64,
    expectations: Option<u64>,
    /// conntrack's counters, as far as this kernel has them.
    counters: BTreeMap<&'static str, Count>,
    table: Option<Holders<'a>>,
    /// Usage of NAT ports per NAT address and destination, the highest first.
    nat_ports: Vec<Ports>,
    sysctls: Vec<Sysctl<'a>>,
    sizing: Option<Size>,
    /// Rules that concern conntrack.
    rules: Vec<Rule<'a>>,
    /// Classes of packets that conntrack has marked INVALID, taken through the rules.
    walks: Vec<Walk>,
    /// How the ruleset of a file was loaded, and what of it was not; empty for a namespace of this host.
    loaded: Vec<&'a str>,
    /// Facts that could not be read or decoded.
    unread: Vec<&'a str>,
}

/// What the packets of a class come to.
#[derive(Debug, Serialize, JsonSchema)]
struct Walk {
    /// A server's late segment to an address of this host, a client's segment, or a segment of this host's own:
    /// `server-segment`, `client-segment`, `own-segment`.
    class: &'static str,
    /// The netfilter hook that decides: `input`, `forward`, `output`.
    hook: &'static str,
    /// `ip` or `ip6`.
    family: &'static str,
    /// The interface that they come in by, or leave by if they are this host's own; null for any that no rule names.
    interface: Option<String>,
    /// The interface that they are forwarded to.
    towards: Option<String>,
    /// The address of this host: the destination, or the source of its own segments; null where it is not known.
    address: Option<String>,
    /// The fates that are possible, those of a typical packet first: `stack-rst`, `rule-rst`, `icmp`, `dropped`, `accepted`,
    /// `forwarded-untranslated`, `unknown`.
    fates: Vec<&'static str>,
    /// The fate of a typical packet; null where it is not certain. Packets of the class differ in address, port and rate.
    typical: Option<&'static str>,
    /// What decides each of the fates: a rule, a policy, or `no rule`.
    decided_by: Vec<String>,
    /// The rules on the way that are not understood and may change the fate.
    not_understood: Vec<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Count {
    /// Since the namespace was created, summed over the CPUs.
    total: u64,
    /// Between the two samples.
    per_s: Option<f64>,
    /// The totals per CPU, where there are any.
    by_cpu: BTreeMap<u16, u32>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Holders<'a> {
    counted: u64,
    /// Why the counts are incomplete; null if they are complete.
    partial: Option<&'a str>,
    top_sources: Vec<Holder>,
    top_services: Vec<Holder>,
    protocols: BTreeMap<String, u64>,
    tcp_states: BTreeMap<String, u64>,
    unreplied: u64,
    assured: u64,
    translated: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Holder {
    what: String,
    entries: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Ports {
    nat: String,
    destination: String,
    port: u16,
    protocol: String,
    zone: u16,
    used: u64,
    usable: u64,
    first: u16,
    last: u16,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Sysctl<'a> {
    name: &'a str,
    value: i64,
    /// The effect of this value.
    meaning: String,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Size {
    /// Bytes of memory / 16384 / (word bits / 32).
    max_by_rule: u64,
    /// The kernel's default numbers of buckets and entries.
    max_by_kernel: u64,
    /// Bytes of a full table.
    bytes_when_full: u64,
    arithmetic: Vec<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Rule<'a> {
    /// `drops-invalid`, `rejects-invalid`, `accepts-invalid`, `sends-invalid`, `untracks`, `source-nat`, `masquerades` or
    /// `destination-nat`.
    does: &'static str,
    backend: &'static str,
    family: &'static str,
    table: &'a str,
    chain: &'a str,
    handle: Option<u64>,
    number: Option<u32>,
    /// The netfilter hooks that it is reached from.
    hooks: Vec<&'static str>,
    /// The address that it translates to, or the chain that it sends packets to.
    to: Option<String>,
    output: Option<&'a str>,
    packets: Option<u64>,
    /// Whether whyrst understands all its matches.
    complete: bool,
    text: &'a str,
    /// The command that shows it in its chain.
    shown_by: String,
}

impl<'a> Doctor<'a> {
    fn new(facts: &'a Facts, findings: &'a [Finding]) -> Self {
        let Facts { host, tracing, namespaces } = facts;
        Self {
            schema: SCHEMA,
            tool: types::Tool { name: "whyrst", version: env!("CARGO_PKG_VERSION") },
            host: Host {
                hostname: &host.hostname,
                kernel: &host.kernel,
                log_format: host.log_format.map(tracer_model::conntrack::log_format::LogFormat::name),
                memory_bytes: host.memory,
                entry_bytes: host.entry_bytes,
            },
            tracing: Tracing {
                possible: tracing.possible(),
                obstacles: tracing
                    .obstacles
                    .iter()
                    .map(|obstacle| Obstacle { id: obstacle.id, what: &obstacle.what, fix: &obstacle.fix })
                    .collect(),
                hooks: tracing.hooks.iter().map(|(hook, state)| planned(*hook, state)).collect(),
                missing_fields: &tracing.missing_fields,
            },
            namespaces: namespaces.iter().map(|namespace| Namespace::new(namespace, facts)).collect(),
            findings: findings.iter().map(finding).collect(),
        }
    }
}

fn planned(hook: tracer_common::Hook, state: &HookState) -> Hook<'_> {
    let spec = hook.spec();
    let (state, because) = match state {
        HookState::Attached => ("available", None),
        HookState::Waiting { module } => ("waiting", Some(module.as_str())),
        HookState::Unavailable { because } => ("unavailable", Some(because.as_str())),
    };
    Hook { name: spec.name, target: spec.symbol, method: spec.method.name(), state, because }
}

impl<'a> Namespace<'a> {
    fn new(namespace: &'a health::Namespace, facts: &'a Facts) -> Self {
        let max = namespace.max();
        let buckets = namespace.number("nf_conntrack_buckets");
        let sizing = facts.host.memory.zip(max).map(|(memory, max)| {
            let sizing = Sizing::of(memory, facts.host.entry_bytes);
            Size {
                max_by_rule: sizing.by_rule,
                max_by_kernel: sizing.by_kernel,
                bytes_when_full: sizing.bytes(max, buckets.unwrap_or(0)),
                arithmetic: sizing.shown(max, buckets),
            }
        });
        let audit = namespace.audit.as_ref();
        let problems = audit.into_iter().flat_map(|audit| &audit.problems);
        Self {
            netns: namespace.inode,
            name: namespace.place.name.as_deref(),
            prefix: namespace.place.prefix(),
            entries: namespace.entries(),
            max,
            buckets,
            entries_per_s: namespace.trend(),
            interval_s: namespace.seconds(),
            expectations: namespace.after.expectations,
            counters: Counter::ALL.into_iter().filter_map(|counter| count(namespace, counter)).collect(),
            table: namespace.table.as_ref().map(backends),
            nat_ports: namespace.table.iter().flat_map(|table| &table.ports).map(ports).collect(),
            sysctls: ALL
                .iter()
                .filter_map(|sysctl| {
                    let value = namespace.sysctl(sysctl.name)?;
                    Some(Sysctl { name: sysctl.name, value, meaning: sysctl.says(value) })
                })
                .collect(),
            sizing,
            rules: audit
                .into_iter()
                .flat_map(|audit| &audit.noted)
                .map(|noted| rule(noted, namespace, facts))
                .collect(),
            walks: walks(namespace).iter().map(walk).collect(),
            loaded: namespace.loaded.iter().map(String::as_str).collect(),
            unread: namespace.unread.iter().chain(problems).map(String::as_str).collect(),
        }
    }
}

fn walk(row: &Row) -> Walk {
    let consequences = &row.consequences;
    let mut fates: Vec<(&'static str, String)> = Vec::new();
    for one in &consequences.all {
        if !fates.iter().any(|(fate, _)| *fate == one.seen.name()) {
            fates.push((one.seen.name(), decider(&one.by)));
        }
    }
    let (fates, decided_by) = fates.into_iter().unzip();
    Walk {
        class: row.kind.name(),
        hook: row.kind.hook(),
        family: if row.ipv4 { "ip" } else { "ip6" },
        interface: row.interface.clone(),
        towards: row.towards.clone(),
        address: row.address.map(|address| address.to_string()),
        fates,
        typical: consequences.typical().map(tracer_walk::Seen::name),
        decided_by,
        not_understood: consequences.unclear.iter().map(|one| format!("{}: {}", one.rule, one.what)).collect(),
    }
}

fn count(namespace: &health::Namespace, counter: Counter) -> Option<(&'static str, Count)> {
    let total = namespace.total(counter)?;
    let of_cpu = |cpu: &health::counters::PerCpu| Some((cpu.cpu, cpu.get(counter).filter(|count| *count > 0)?));
    let by_cpu = namespace.after.counters.iter().filter_map(of_cpu).collect();
    Some((counter.name(), Count { total, per_s: namespace.rate(counter), by_cpu }))
}

fn backends(table: &Table) -> Holders<'_> {
    fn list<T: ToString>(counts: &[(T, u64)]) -> Vec<Holder> {
        counts.iter().map(|(what, entries)| Holder { what: what.to_string(), entries: *entries }).collect()
    }
    let TableUsage { entries, problem, sources, services, .. } = &table.table_usage;
    Holders {
        counted: *entries,
        partial: problem.as_deref(),
        top_sources: list(sources),
        top_services: list(services),
        protocols: table.protocols.iter().map(|(number, count)| (protocol(*number), *count)).collect(),
        tcp_states: table.states.iter().map(|(state, count)| (state.to_string(), *count)).collect(),
        unreplied: table.unreplied,
        assured: table.assured,
        translated: table.translated,
    }
}

fn ports(usage: &PortUse) -> Ports {
    let destination = usage.destination;
    Ports {
        nat: destination.nat.to_string(),
        destination: destination.address.to_string(),
        port: destination.port,
        protocol: protocol(destination.protocol),
        zone: destination.zone,
        used: usage.used,
        usable: usage.usable(),
        first: *usage.range.start(),
        last: *usage.range.end(),
    }
}

fn rule<'a>(noted: &'a Noted, namespace: &health::Namespace, facts: &Facts) -> Rule<'a> {
    let rule = &noted.rule;
    let translation = noted.does.translation();
    Rule {
        does: noted.does.name(),
        backend: rule.backend.name(),
        family: rule.family.name(),
        table: &rule.table,
        chain: &rule.chain,
        handle: rule.handle,
        number: rule.number,
        hooks: rule.hooks.names(),
        to: match &noted.does {
            Does::SendsInvalid { to } => Some(to.clone()),
            _ => translation.map(ToString::to_string).filter(|to| !to.is_empty()),
        },
        output: translation.and_then(|translation| translation.output.as_deref()),
        packets: rule.packets,
        complete: rule.complete,
        text: &rule.text,
        shown_by: namespace.place.command(&facts.host.shows(rule)),
    }
}
