//! Excluded causes, each with its evidence.

use tracer_common::Hook;
use tracer_engine::flow::Flow;
use tracer_engine::hook_line::HookLine;
use tracer_model::capture::{HookState, Netns, Outcome};
use tracer_model::cause::{Cause, ResetBy};
use tracer_model::conntrack::entry::CtInfo;
use tracer_model::conntrack::{Nfct, TcpState};

/// A cause that the evidence rules out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exclusion {
    /// The cause.
    pub cause: Cause,
    /// The evidence.
    pub because: String,
}

/// The excluded causes of a flow that this host sent a RST to.
pub fn exclusions(flow: &Flow, hooks: &[HookLine], namespace: Option<&Netns>) -> Vec<Exclusion> {
    let Some(reset) = &flow.incident.reset else { return Vec::new() };
    let itself = flow.incident.diagnosis.cause;
    [
        reject_rule(flow, hooks, reset.event.tuple().is_some_and(|tuple| tuple.src.is_ipv4())),
        (had_an_entry(flow) || flow.incident.destroyed().is_some()).then(|| Exclusion {
            cause: Cause::NoListener,
            because: if flow.incident.destroyed().is_some() {
                "the segment belongs to a connection that conntrack tracked; it does not open one".to_owned()
            } else {
                "the segment belongs to a connection that conntrack tracks; it does not open one".to_owned()
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
            .then(|| Exclusion { cause: Cause::NotTracked, because: "conntrack processed the packet".to_owned() }),
        (reset.by == ResetBy::GatewayStack).then(|| Exclusion {
            cause: Cause::LocalSocket,
            because: [reset.event.hook.spec().symbol, " ran without a socket"].concat(),
        }),
        Some(Exclusion {
            cause: Cause::PeerReset,
            because: [reset.event.hook.spec().symbol, " of this host built the RST"].concat(),
        }),
    ]
    .into_iter()
    .flatten()
    .filter(|exclusion| exclusion.cause != itself)
    .collect()
}

/// Whether the packet belonged to an entry that existed before it.
fn had_an_entry(flow: &Flow) -> bool {
    let Some(event) = flow.incident.trigger() else { return false };
    event.entry.is_some() && event.nfct != Some(Nfct::Entry(CtInfo::New))
}

fn reject_rule(flow: &Flow, hooks: &[HookLine], ipv4: bool) -> Option<Exclusion> {
    let hook = if ipv4 { Hook::RejectV4 } else { Hook::RejectV6 };
    let line = hooks.iter().find(|line| line.hook == hook)?;
    let reset = flow.incident.reset.as_ref()?;
    let because = match &line.state {
        HookState::Attached if line.since <= reset.event.at => [hook.spec().symbol, " did not run for it"].concat(),
        HookState::Waiting { module } if line.since <= reset.event.at => format!("module {module} is not loaded"),
        // The module was loaded or removed later. The state at the time of the RST is unknown.
        HookState::Attached | HookState::Waiting { .. } | HookState::Unavailable { .. } => return None,
    };
    Some(Exclusion { cause: Cause::RejectRule, because })
}

/// The entry's remaining timeout, from a look-up that found it in its state before the RST.
fn time_left(flow: &Flow, before: TcpState) -> String {
    let found = flow.entry_statuses.iter().find_map(|status| match status.outcome {
        Outcome::Found { state: Some(state), timeout_s: Some(seconds), .. } if state == before => Some(seconds),
        _ => None,
    });
    found.map_or_else(String::new, |seconds| format!(", {seconds} s left"))
}

/// The table was not full: no new connection found it full, or it is below the share from which early drop starts.
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
