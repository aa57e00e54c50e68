//! Mitigation plans: ranked for the host, with commands for the host's own tools, side effects and undo commands.

mod command;
mod effect;
mod firewall;
mod rank;
mod sysctl;
mod target;
mod untrack;

use std::collections::{BTreeMap, BTreeSet};

use tracer_model::capture::Netns;
use tracer_model::host_context::{HostContext, NetnsPath};
use tracer_model::mitigation::{Change, Mitigation, MitigationId, Persist, Step};

use crate::report::FlowReport;

pub(crate) use command::prints;
pub use effect::in_force;
pub use rank::{Known, mitigations_for};
pub use sysctl::Growth;
pub use target::{Target, wanted};

/// The sysctl with the timeout of an established connection, in seconds.
const TIMEOUT_ESTABLISHED: &str = "nf_conntrack_tcp_timeout_established";
/// Sysctl: accept segments out of the window.
const LIBERAL: &str = "nf_conntrack_tcp_be_liberal";
/// Sysctl: accept RSTs below the acknowledged sequence number.
const IGNORE_INVALID_RST: &str = "nf_conntrack_tcp_ignore_invalid_rst";

/// The comment on the rules of a mitigation.
fn comment(id: MitigationId) -> String {
    format!("whyrst:{}", id.name())
}

/// A mitigation on a host.
#[derive(Debug, Default)]
struct Plan {
    steps: Vec<Step>,
    /// Lines that only print something.
    shown: Vec<String>,
    persist: Vec<Persist>,
    notes: Vec<String>,
}

impl Plan {
    /// Adds a change; false if it has a word that cannot be printed and typed again.
    fn step(&mut self, netns: &NetnsPath, change: Change) -> bool {
        let step = Step { netns: netns.clone(), change };
        let written = command::enters(netns) && step.words().iter().all(|word| prints(word));
        if written {
            self.steps.push(step);
        }
        written
    }

    /// Adds a note, once.
    fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    fn extend(&mut self, other: Self) {
        self.steps.extend(other.steps);
        self.shown.extend(other.shown);
        for way in other.persist {
            if !self.persist.contains(&way) {
                self.persist.push(way);
            }
        }
        other.notes.into_iter().for_each(|note| self.note(note));
    }
}

/// Every mitigation that a flow names, and a larger table for those that were full, with commands for the interfaces,
/// addresses and namespaces concerned.
pub fn mitigations(
    flows: &[FlowReport],
    full_tables: impl Iterator<Item = u32>,
    namespaces: &BTreeMap<u32, Netns>,
    host_context: &BTreeMap<u32, HostContext>,
) -> Vec<Mitigation> {
    let mut targets: BTreeMap<MitigationId, BTreeMap<Option<u32>, Target<'_>>> = BTreeMap::new();
    let target = |inode: Option<u32>, name: Option<&String>| {
        let of = |inode: u32| (namespaces.get(&inode), host_context.get(&inode));
        let (facts, context) = inode.map_or((None, None), of);
        Target::new(facts, context, name)
    };
    for flow in flows {
        for id in &flow.mitigations {
            let netns = flow.flow.key.netns;
            let of_id = targets.entry(*id).or_default();
            of_id.entry(netns).or_insert_with(|| target(netns, flow.netns_name.as_ref())).wants(flow);
        }
    }
    for netns in full_tables.map(Some) {
        targets.entry(MitigationId::RaiseTableSize).or_default().entry(netns).or_insert_with(|| target(netns, None));
    }
    let described = targets.into_iter().map(|(id, targets)| {
        let targets: Vec<Target<'_>> = targets.into_values().collect();
        describe(id, &targets)
    });
    // A full table cannot always be made larger.
    described
        .filter(|it| it.id != MitigationId::RaiseTableSize || !it.steps.is_empty() || !it.notes.is_empty())
        .collect()
}

/// A mitigation for these targets.
pub fn describe(id: MitigationId, targets: &[Target<'_>]) -> Mitigation {
    let about = id.about();
    let mut plan = Plan::default();
    match id {
        MitigationId::UpgradeKernel => plan.note(
            "Debian 12, Ubuntu 22.04 with linux-generic-hwe-22.04, and later releases of both have such a kernel; \
             distributions patch kernels, so `uname -r` does not prove it: `whyrst doctor` prints the conntrack log \
             format (e3 or e4)",
        ),
        MitigationId::Keepalive => keepalive(&mut plan),
        MitigationId::ReviewRejectRule => review(targets, &mut plan),
        MitigationId::RaiseTableSize => plan.extend(sysctl::table_size(targets)),
        _ => {
            for target in targets {
                plan.extend(match id {
                    MitigationId::DropInvalidInput => firewall::drop_invalid(target),
                    MitigationId::UntrackService => untrack::service(target),
                    MitigationId::BeLiberal => sysctl::set_to_one(id, target, LIBERAL),
                    MitigationId::IgnoreInvalidRst => sysctl::set_to_one(id, target, IGNORE_INVALID_RST),
                    MitigationId::RaiseTimeout => sysctl::timeouts(target),
                    MitigationId::UpgradeKernel
                    | MitigationId::Keepalive
                    | MitigationId::ReviewRejectRule
                    | MitigationId::RaiseTableSize => Plan::default(),
                });
            }
        }
    }
    let Plan { steps, shown, persist, notes } = plan;
    Mitigation {
        id,
        title: about.title,
        commands: steps.iter().map(Step::apply_line).chain(shown).collect(),
        undo: steps.iter().rev().map(Step::undo_line).collect(),
        persist: persist.iter().flat_map(Persist::keep).collect(),
        unpersist: persist.iter().flat_map(Persist::forget).collect(),
        side_effects: about.side_effects.to_vec(),
        notes,
        reasons: about.reasons.to_vec(),
        steps,
    }
}

fn keepalive(plan: &mut Plan) {
    plan.note(
        "an application enables keepalives with SO_KEEPALIVE and sets TCP_KEEPIDLE below the timeout, in seconds",
    );
    plan.note(
        "for applications that set SO_KEEPALIVE only, at the client or the server: sysctl -w \
         net.ipv4.tcp_keepalive_time=300; it applies to IPv6 too, and to sockets opened later",
    );
    plan.note("OpenSSH: ServerAliveInterval 60 at the client; PostgreSQL: tcp_keepalives_idle = 300 at the server");
}

/// Commands that show every candidate rule, and one that deletes it.
fn review(targets: &[Target<'_>], plan: &mut Plan) {
    let mut shown = BTreeSet::new();
    for target in targets {
        for rule in &target.rules {
            let words = shlex::split(&rule.shown_by()).filter(|words| words.iter().all(|word| prints(word)));
            let Some(line) = words.and_then(|words| command::line(&target.way, &words)) else { continue };
            if shown.insert(line.clone()) {
                plan.shown.push(line);
            }
            if let Some(change) = firewall::change_of(rule).and_then(|words| command::line(&target.way, &words)) {
                plan.note(format!("delete {rule} with: {change}"));
            }
        }
    }
}

#[cfg(test)]
mod tests;
