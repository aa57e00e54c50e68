//! What would cure it, what that costs, and how to undo it: ranked for the host, with commands in the host's own tools.

mod command;
mod firewall;
mod place;
mod rank;
mod sysctl;
mod untrack;

use std::collections::{BTreeMap, BTreeSet};

use tracer_model::capture::Netns;
use tracer_model::host_context::HostContext;
use tracer_model::mitigation::{Mitigation, MitigationId, Step};

use crate::report::FlowReport;

pub(crate) use command::prints;
pub use place::{Place, wanted};
pub use rank::{Known, mitigations_for};
pub use sysctl::Growth;

/// Whether segments out of the window are let pass.
const LIBERAL: &str = "nf_conntrack_tcp_be_liberal";
/// Whether RSTs below what is acknowledged are let pass.
const IGNORE_INVALID_RST: &str = "nf_conntrack_tcp_ignore_invalid_rst";

/// What a cure comes to on a host.
#[derive(Debug, Default)]
struct Plan {
    steps: Vec<Step>,
    persist: Vec<String>,
    unpersist: Vec<String>,
    notes: Vec<String>,
}

impl Plan {
    /// Adds a remark, once.
    fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    fn extend(&mut self, other: Self) {
        self.steps.extend(other.steps);
        for (all, new) in [(&mut self.persist, other.persist), (&mut self.unpersist, other.unpersist)] {
            for line in new {
                if !all.contains(&line) {
                    all.push(line);
                }
            }
        }
        other.notes.into_iter().for_each(|note| self.note(note));
    }
}

/// Every cure that some flow names, and room for tables that were full, with commands for the interfaces, addresses and
/// namespaces that they are about.
pub fn mitigations(
    flows: &[FlowReport],
    full_tables: impl Iterator<Item = u32>,
    namespaces: &BTreeMap<u32, Netns>,
    host_context: &BTreeMap<u32, HostContext>,
) -> Vec<Mitigation> {
    let mut places: BTreeMap<MitigationId, BTreeMap<Option<u32>, Place<'_>>> = BTreeMap::new();
    let place = |inode: Option<u32>, name: Option<&String>| {
        let of = |inode: u32| (namespaces.get(&inode), host_context.get(&inode));
        let (facts, context) = inode.map_or((None, None), of);
        Place::new(facts, context, name)
    };
    for flow in flows {
        for id in &flow.mitigations {
            let netns = flow.flow.key.netns;
            let of_id = places.entry(*id).or_default();
            of_id.entry(netns).or_insert_with(|| place(netns, flow.netns_name.as_ref())).wants(flow);
        }
    }
    for netns in full_tables.map(Some) {
        places.entry(MitigationId::RaiseTableSize).or_default().entry(netns).or_insert_with(|| place(netns, None));
    }
    let described = places.into_iter().map(|(id, places)| {
        let places: Vec<Place<'_>> = places.into_values().collect();
        describe(id, &places)
    });
    // A full table alone does not say that it can be made larger.
    described
        .filter(|it| it.id != MitigationId::RaiseTableSize || !it.steps.is_empty() || !it.notes.is_empty())
        .collect()
}

/// A cure in these places.
pub fn describe(id: MitigationId, places: &[Place<'_>]) -> Mitigation {
    let about = id.about();
    let mut plan = Plan::default();
    match id {
        MitigationId::UpgradeKernel => plan.note(
            "the kernels of Debian 12, Ubuntu 22.04 with linux-generic-hwe-22.04, and later ones of both do; `uname -r` \
             alone does not say so of kernels that their makers change: `whyrst doctor` names the era (e3 or e4)",
        ),
        MitigationId::Keepalive => keepalive(&mut plan),
        MitigationId::ReviewRejectRule => review(places, &mut plan),
        MitigationId::RaiseTableSize => plan.extend(sysctl::table_size(places)),
        _ => {
            for place in places {
                plan.extend(match id {
                    MitigationId::DropInvalidInput => firewall::drop_invalid(place),
                    MitigationId::UntrackService => untrack::service(place),
                    MitigationId::BeLiberal => sysctl::set_to_one(id, place, LIBERAL),
                    MitigationId::IgnoreInvalidRst => sysctl::set_to_one(id, place, IGNORE_INVALID_RST),
                    MitigationId::RaiseTimeout => sysctl::timeouts(place),
                    MitigationId::UpgradeKernel
                    | MitigationId::Keepalive
                    | MitigationId::ReviewRejectRule
                    | MitigationId::RaiseTableSize => Plan::default(),
                });
            }
        }
    }
    let Plan { steps, persist, unpersist, notes } = plan;
    Mitigation {
        id,
        title: about.title,
        commands: steps.iter().map(|step| step.run.clone()).collect(),
        undo: steps.iter().rev().flat_map(|step| step.undo.iter().cloned()).collect(),
        persist,
        unpersist,
        side_effects: about.side_effects.to_vec(),
        notes,
        cures: about.reasons.to_vec(),
        steps,
    }
}

fn keepalive(plan: &mut Plan) {
    plan.note("an application switches them on: SO_KEEPALIVE, and TCP_KEEPIDLE with less than the timeout, in seconds");
    plan.note(
        "for applications that only switch them on, at the client or the server: sysctl -w net.ipv4.tcp_keepalive_time=300; \
         it holds for IPv6 too, and for sockets that are opened later",
    );
    plan.note("OpenSSH: ServerAliveInterval 60 at the client; PostgreSQL: tcp_keepalives_idle = 300 at the server");
}

/// Commands that show every rule that is suspected, and how one is taken away or replaced.
fn review(places: &[Place<'_>], plan: &mut Plan) {
    let mut shown = BTreeSet::new();
    for place in places {
        for rule in &place.rules {
            let words = shlex::split(&rule.shown_by()).filter(|words| words.iter().all(|word| prints(word)));
            let Some(line) = words.and_then(|words| command::line(&place.way, &words)) else { continue };
            if shown.insert(line.clone()) {
                plan.steps.push(Step { run: line, undo: Vec::new(), probe: None });
            }
            if let Some(change) = firewall::change_of(rule).and_then(|words| command::line(&place.way, &words)) {
                plan.note(format!("{rule} is taken away by: {change}"));
            }
        }
    }
}

#[cfg(test)]
mod tests;
