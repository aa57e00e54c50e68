//! Competing causes, and the evidence that excludes them.

use tracer_common::Hook;
use tracer_engine::conclusion::HookLine;
use tracer_engine::flow::Flow;
use tracer_model::capture::{HookState, Netns, Outcome};
use tracer_model::cause::{Cause, ResetBy};
use tracer_model::conntrack::entry::CtInfo;
use tracer_model::conntrack::{Nfct, TcpState};

/// A cause that it was not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exclusion {
    /// The cause.
    pub cause: Cause,
    /// The evidence.
    pub because: String,
}

/// The causes that are excluded for a flow that this host sent a RST to.
pub fn exclusions(flow: &Flow, hooks: &[HookLine], namespace: Option<&Netns>) -> Vec<Exclusion> {
    let Some(reset) = &flow.incident.reset else { return Vec::new() };
    let itself = flow.incident.diagnosis.cause;
    [
        reject_rule(flow, hooks, reset.event.tuple().is_some_and(|tuple| tuple.src.is_ipv4())),
        (had_an_entry(flow) || flow.incident.destroyed().is_some()).then(|| Exclusion {
            cause: Cause::NoListener,
            because: if flow.incident.destroyed().is_some() {
                "the segment belongs to a connection that conntrack knew; it opens none".to_owned()
            } else {
                "the segment belongs to a connection that conntrack knows; it opens none".to_owned()
            },
        }),
        flow.incident.entry().filter(|_| had_an_entry(flow)).map(|entry| Exclusion {
            cause: Cause::NoEntry,
            because: format!(
                "the packet had an entry: {}{}",
                entry.state,
                if entry.status.assured() { ", ASSURED" } else { "" }
            ) + &time_left(flow, entry.state),
        }),
        table_full(hooks, namespace),
        (reset.event.nfct != Some(Nfct::Untracked) && had_an_entry(flow))
            .then(|| Exclusion { cause: Cause::NotTracked, because: "conntrack looked at the packet".to_owned() }),
        (reset.by == ResetBy::GatewayStack).then(|| Exclusion {
            cause: Cause::LocalSocket,
            because: [reset.event.hook.spec().symbol, " was called without a socket"].concat(),
        }),
        Some(Exclusion {
            cause: Cause::PeerReset,
            because: [reset.event.hook.spec().symbol, " of this host made the RST"].concat(),
        }),
    ]
    .into_iter()
    .flatten()
    .filter(|exclusion| exclusion.cause != itself)
    .collect()
}

/// Whether the packet belonged to an entry that was there before it.
fn had_an_entry(flow: &Flow) -> bool {
    let Some(event) = flow.incident.trigger() else { return false };
    event.entry.is_some() && event.nfct != Some(Nfct::Entry(CtInfo::New))
}

fn reject_rule(flow: &Flow, hooks: &[HookLine], ipv4: bool) -> Option<Exclusion> {
    let hook = if ipv4 { Hook::RejectV4 } else { Hook::RejectV6 };
    let line = hooks.iter().find(|line| line.hook == hook)?;
    let reset = flow.incident.reset.as_ref()?;
    let because = match &line.state {
        HookState::Attached if line.since <= reset.event.at => [hook.spec().symbol, " was not called for it"].concat(),
        HookState::Waiting { module } if line.since <= reset.event.at => format!("module {module} is not loaded"),
        // It came or went later: what there was when the RST was sent is not known any more.
        HookState::Attached | HookState::Waiting { .. } | HookState::Unavailable { .. } => return None,
    };
    Some(Exclusion { cause: Cause::RejectRule, because })
}

/// How long the entry would have lived, from a look-up that found it as it was before the RST.
fn time_left(flow: &Flow, before: TcpState) -> String {
    let found = flow.entry_statuses.iter().find_map(|fate| match fate.outcome {
        Outcome::Found { state: Some(state), timeout_s: Some(seconds), .. } if state == before => Some(seconds),
        _ => None,
    });
    found.map_or_else(String::new, |seconds| format!(", {seconds} s left"))
}

/// Nobody found the table full, or it holds less than the share above which early drop begins.
fn table_full(hooks: &[HookLine], namespace: Option<&Netns>) -> Option<Exclusion> {
    let line = hooks.iter().find(|line| line.hook == Hook::TableFull);
    if line.is_some_and(|line| line.state == HookState::Attached && line.counters.hits() > 0) {
        return None;
    }
    let namespace = namespace?;
    let (entries, max) = (namespace.entries?, namespace.max?);
    let full = u64::from(entries) * 100 >= u64::from(max) * 95;
    (max != 0 && !full)
        .then(|| Exclusion { cause: Cause::TableFull, because: format!("the table holds {entries} of {max} entries") })
}
