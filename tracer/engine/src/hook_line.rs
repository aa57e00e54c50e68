//! A hook as a report lists it: its last state and its counters.

use tracer_common::Hook;
use tracer_model::capture::{Counters, HookCounters, HookState, HookStatus};
use tracer_model::time::Instant;

/// A hook in the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookLine {
    /// Which hook.
    pub hook: Hook,
    /// How it was at the end.
    pub state: HookState,
    /// Since when.
    pub since: Instant,
    /// Its exact counters.
    pub counters: HookCounters,
}

impl HookLine {
    /// A line for every hook whose state is known.
    pub(crate) fn all(statuses: &[HookStatus], counters: Option<&Counters>) -> Vec<Self> {
        let counted = |hook: Hook| counters.and_then(|counters| counters.hooks.get(hook.index()).copied());
        let line = |status: &HookStatus| Self {
            hook: status.hook,
            state: status.state.clone(),
            since: status.since,
            counters: counted(status.hook).unwrap_or_default(),
        };
        statuses.iter().map(line).collect()
    }
}
