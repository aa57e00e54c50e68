//! Mitigations that set sysctls of conntrack.

use tracer_model::host_context::{Limits, NetnsPath};
use tracer_model::mitigation::{Change, MitigationId, Persist};

use super::rank::least;
use super::{Plan, Target};

/// Bytes of a table per entry: the slab object of a 64-bit kernel, and its share of the buckets.
const BYTES_PER_ENTRY: i64 = 320;
/// The table may take this fraction of the memory: one eighth.
const SHARE: i64 = 8;
/// The rule of thumb: one entry per this many bytes of memory, on 64-bit kernels.
const BYTES_OF_MEMORY: i64 = 32_768;
/// Pointers in a page of memory.
const BUCKETS_OF_A_PAGE: i128 = 512;

/// Changes one value of conntrack; the undo command restores `before`.
fn change(name: &str, before: i64, after: i64) -> Change {
    Change::Sysctl { name: format!("net.netfilter.{name}"), before, after }
}

/// Changes several values of one target, and makes them persistent.
fn changes(id: MitigationId, target: &Target<'_>, wanted: &[(&str, i64)]) -> Plan {
    let mut plan = Plan::default();
    let mut lasting = Vec::new();
    for (name, after) in wanted {
        let Some(before) = target.sysctl(name) else {
            plan.note(format!("net.netfilter.{name} could not be read on {}: there is no command", target.title()));
            continue;
        };
        if before == *after {
            plan.note(format!("net.netfilter.{name} is already {after} on {}", target.title()));
            continue;
        }
        if !plan.step(&target.way, change(name, before, *after)) {
            plan.note(format!("no command can be written for {}", target.title()));
        }
        lasting.push((*name, *after));
    }
    keep(id, &target.way, &lasting, &mut plan);
    plan
}

/// Persists values. sysctl.d applies to the host's own namespace only.
fn keep(id: MitigationId, way: &NetnsPath, values: &[(&str, i64)], plan: &mut Plan) {
    if plan.steps.is_empty() {
        return;
    }
    if *way != NetnsPath::Here {
        plan.note("sysctl.d applies to the host's own namespace only: add the commands to what creates this one");
        return;
    }
    let values = values.iter().map(|(name, value)| (format!("net.netfilter.{name}"), *value)).collect();
    plan.persist.push(Persist::Sysctls { name: id.name().to_owned(), values });
}

/// Sets a sysctl to 1.
pub(super) fn set_to_one(id: MitigationId, target: &Target<'_>, name: &str) -> Plan {
    changes(id, target, &[(name, 1)])
}

/// Raises timeouts to the minimum of RFC 5382.
pub(super) fn timeouts(target: &Target<'_>) -> Plan {
    let short = |name: &&&str| target.sysctl(name).is_none_or(|value| value < least(name));
    let wanted: Vec<(&str, i64)> = target.timeouts.iter().filter(short).map(|name| (*name, least(name))).collect();
    let mut plan = changes(MitigationId::RaiseTimeout, target, &wanted);
    if wanted.is_empty() {
        plan.note(format!("the timeouts on {} already meet RFC 5382", target.title()));
    }
    plan
}

/// The new size of a table: at least double, at most its share of the memory.
fn room(max: i64, memory: Option<u64>) -> i64 {
    let doubled = max.saturating_mul(2);
    let Some(memory) = memory.and_then(|bytes| i64::try_from(bytes).ok()) else { return doubled };
    doubled.max(memory / BYTES_OF_MEMORY).min(memory / SHARE / BYTES_PER_ENTRY)
}

/// The new size of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Growth {
    /// Its new limit of entries.
    pub max: i64,
    /// Its new number of buckets, in proportion; none if the number is unknown.
    pub buckets: Option<i64>,
}

impl Growth {
    /// The new size of a table with the limit `max`, on a host with this much memory in bytes; none if it cannot grow.
    pub fn of(max: i64, buckets: Option<i64>, memory: Option<u64>) -> Option<Self> {
        let to = room(max, memory);
        let buckets = buckets.filter(|buckets| *buckets > 0).map(|before| {
            let after = i128::from(before) * i128::from(to) / i128::from(max.max(1));
            // The kernel rounds up to whole pages of pointers (nf_ct_alloc_hashtable).
            let after = (after / BUCKETS_OF_A_PAGE + 1) * BUCKETS_OF_A_PAGE;
            i64::try_from(after).unwrap_or(before)
        });
        (to > max).then_some(Self { max: to, buckets })
    }
}

/// Enlarges the table: in the initial namespace, whose limit applies to all, and in namespaces with a lower limit.
pub(super) fn table_size(targets: &[Target<'_>]) -> Plan {
    let mut plan = Plan::default();
    let Some(first) = targets.first() else { return plan };
    let from_sysctls = |target: &Target<'_>| Limits {
        max: target.sysctl("nf_conntrack_max"),
        buckets: target.sysctl("nf_conntrack_buckets"),
        own: None,
    };
    let limits = first.context.map_or_else(|| from_sysctls(first), |context| context.limits);
    let initial = first.context.map_or(&NetnsPath::Here, |context| &context.initial);
    let Some(max) = limits.max.filter(|max| *max > 0) else {
        plan.note("nf_conntrack_max could not be read: there is no command");
        return plan;
    };
    let memory = first.context.and_then(|context| context.memory);
    let growth = Growth::of(max, limits.buckets, memory);
    let mut lasting = Vec::new();
    if let Some(growth) = growth {
        // Buckets first: a larger table with the old buckets would be slow meanwhile.
        let buckets = limits.buckets.zip(growth.buckets).map(|(before, after)| ("nf_conntrack_buckets", before, after));
        for (name, before, after) in buckets.into_iter().chain([("nf_conntrack_max", max, growth.max)]) {
            if plan.step(initial, change(name, before, after)) {
                lasting.push((name, after));
            }
        }
    }
    let to = growth.map_or_else(|| room(max, memory), |growth| growth.max);
    for target in targets {
        let own = target.context.and_then(|context| context.limits.own).filter(|own| *own < to);
        if let Some(own) = own
            && !plan.step(&target.way, change("nf_conntrack_max", own, to))
        {
            plan.note(format!("no command can be written for {}", target.title()));
        }
    }
    if plan.steps.is_empty() {
        plan.note(format!(
            "the table may hold {max} entries; more would take over an eighth of the memory: shorten timeouts, or find \
             the top users of the table (`whyrst doctor`)"
        ));
    } else {
        plan.note(format!("{to} entries take {} MiB at most", to.saturating_mul(BYTES_PER_ENTRY) >> 20));
    }
    // The files belong to the host, also if whyrst runs in another namespace.
    if !lasting.is_empty() {
        keep(MitigationId::RaiseTableSize, &NetnsPath::Here, &lasting, &mut plan);
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::room;

    #[test]
    fn a_table_grows_within_the_memory() {
        let gib = |number: u64| Some(number << 30);
        for (max, memory, to) in [
            (16_000, gib(8), 262_144),
            (262_144, gib(8), 524_288),
            (300, None, 600),
            (262_144, Some(512 << 20), 209_715),
            (65_536, Some(512 << 20), 131_072),
            (i64::MAX, None, i64::MAX),
        ] {
            assert_eq!(room(max, memory), to, "{max} entries in {memory:?} bytes");
        }
    }
}
