//! Cures that are a value of conntrack's own.

use tracer_model::host_context::{Limits, NetnsPath};
use tracer_model::mitigation::{MitigationId, Probe, Shows, Step};

use super::command::line;
use super::rank::least;
use super::{Place, Plan};

/// The sysctl that says for how long an idle connection is kept, in seconds.
pub(super) const TIMEOUT_ESTABLISHED: &str = "nf_conntrack_tcp_timeout_established";

/// Bytes of a table per entry: the slab object of a 64-bit kernel, and its share of the buckets.
const BYTES_PER_ENTRY: i64 = 320;
/// The table may take so much of the memory.
const SHARE: i64 = 8;
/// The rule of thumb: one entry for so many bytes of memory, on 64-bit kernels.
const BYTES_OF_MEMORY: i64 = 32_768;
/// Pointers in a page of memory.
const BUCKETS_OF_A_PAGE: i128 = 512;
/// Makes the modules there when systemd-sysctl.service runs: of a module that is loaded later, no sysctl is set.
const MODULES: &str = "/etc/modules-load.d/whyrst";

/// Changes one value, from what it is.
fn change(way: &NetnsPath, name: &str, before: i64, after: i64) -> Option<Step> {
    let set = |value: i64| line(way, &["sysctl", "-w", &format!("net.netfilter.{name}={value}")]);
    let probe = line(way, &["sysctl", "-n", &format!("net.netfilter.{name}")])?;
    Some(Step {
        run: set(after)?,
        undo: vec![set(before)?],
        probe: Some(Probe {
            command: probe,
            shows: Shows::Value { before: before.to_string(), after: after.to_string() },
        }),
    })
}

/// Several values of one place, from what they are, and what makes them outlive a reboot.
fn changes(id: MitigationId, place: &Place<'_>, wanted: &[(&str, i64)]) -> Plan {
    let mut plan = Plan::default();
    let mut lasting = Vec::new();
    for (name, after) in wanted {
        let Some(before) = place.sysctl(name) else {
            plan.note(format!("net.netfilter.{name} could not be read on {}: no command is given", place.title()));
            continue;
        };
        if before == *after {
            plan.note(format!("net.netfilter.{name} is {after} on {} already", place.title()));
            continue;
        }
        match change(&place.way, name, before, *after) {
            Some(step) => plan.steps.push(step),
            None => plan.note(format!("no command can be written for {}", place.title())),
        }
        lasting.push((*name, *after));
    }
    keep(id, &place.way, &lasting, &mut plan);
    plan
}

/// Values of the host's own namespace are set at boot; those of others by whoever makes the namespace.
fn keep(id: MitigationId, way: &NetnsPath, values: &[(&str, i64)], plan: &mut Plan) {
    if plan.steps.is_empty() {
        return;
    }
    if *way != NetnsPath::Here {
        plan.note("sysctl.d is for the host's own namespace: have whoever makes this one run the commands too");
        return;
    }
    let file = format!("/etc/sysctl.d/90-whyrst-{}.conf", id.name());
    let lines = values.iter().map(|(name, value)| format!("'net.netfilter.{name} = {value}'"));
    let lines: Vec<String> = lines.collect();
    plan.persist.push(format!("printf '%s\\n' {} > {file}", lines.join(" ")));
    plan.persist.push(format!("printf '%s\\n' nf_conntrack > {MODULES}-{}.conf", id.name()));
    plan.unpersist.push(format!("rm {file} {MODULES}-{}.conf", id.name()));
}

/// Switches something on.
pub(super) fn set_to_one(id: MitigationId, place: &Place<'_>, name: &str) -> Plan {
    changes(id, place, &[(name, 1)])
}

/// Raises timeouts to what RFC 5382 asks for.
pub(super) fn timeouts(place: &Place<'_>) -> Plan {
    let short = |name: &&&str| place.sysctl(name).is_none_or(|value| value < least(name));
    let wanted: Vec<(&str, i64)> = place.timeouts.iter().filter(short).map(|name| (*name, least(name))).collect();
    let mut plan = changes(MitigationId::RaiseTimeout, place, &wanted);
    if wanted.is_empty() {
        plan.note(format!("the timeouts on {} are as long as RFC 5382 asks for, or longer", place.title()));
    }
    plan
}

/// How large a table may become in this memory, and how large it should.
fn room(max: i64, memory: Option<u64>) -> i64 {
    let doubled = max.saturating_mul(2);
    let Some(memory) = memory.and_then(|bytes| i64::try_from(bytes).ok()) else { return doubled };
    doubled.max(memory / BYTES_OF_MEMORY).min(memory / SHARE / BYTES_PER_ENTRY)
}

/// How a table is to grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Growth {
    /// Entries that it may then hold.
    pub max: i64,
    /// Its buckets, by as much; none where their number is not known.
    pub buckets: Option<i64>,
}

impl Growth {
    /// How a table grows that may hold `max` entries, on a host with so many bytes of memory; none where it may not.
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

/// Makes the table larger, in the initial namespace, whose limit holds for all, and in those that have one of their own.
pub(super) fn table_size(places: &[Place<'_>]) -> Plan {
    let mut plan = Plan::default();
    let Some(first) = places.first() else { return plan };
    let seen = |place: &Place<'_>| Limits {
        max: place.sysctl("nf_conntrack_max"),
        buckets: place.sysctl("nf_conntrack_buckets"),
        own: None,
    };
    let limits = first.context.map_or_else(|| seen(first), |context| context.limits);
    let initial = first.context.map_or(&NetnsPath::Here, |context| &context.initial);
    let Some(max) = limits.max.filter(|max| *max > 0) else {
        plan.note("nf_conntrack_max could not be read: no command is given");
        return plan;
    };
    let memory = first.context.and_then(|context| context.memory);
    let growth = Growth::of(max, limits.buckets, memory);
    let mut lasting = Vec::new();
    if let Some(growth) = growth {
        // Buckets first: a table that has grown before them is slow meanwhile.
        let buckets = limits.buckets.zip(growth.buckets).map(|(before, after)| ("nf_conntrack_buckets", before, after));
        for (name, before, after) in buckets.into_iter().chain([("nf_conntrack_max", max, growth.max)]) {
            plan.steps.extend(change(initial, name, before, after));
            lasting.push((name, after));
        }
    }
    let to = growth.map_or_else(|| room(max, memory), |growth| growth.max);
    for place in places {
        let own = place.context.and_then(|context| context.limits.own).filter(|own| *own < to);
        plan.steps.extend(own.and_then(|own| change(&place.way, "nf_conntrack_max", own, to)));
    }
    if plan.steps.is_empty() {
        plan.note(format!(
            "the table may hold {max} entries; more would take over an eighth of the memory: shorten timeouts, or find who \
             fills it (`whyrst doctor`)"
        ));
    } else {
        plan.note(format!("{to} entries take {} MiB at most", to.saturating_mul(BYTES_PER_ENTRY) >> 20));
    }
    // Where whyrst runs in another namespace than the host's own, the files are still the host's.
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
