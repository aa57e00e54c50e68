//! Matches and targets of xtables as they are in the processor's memory, which is how iptables-nft writes them into rules of
//! nftables (`nft_compat`).

mod info;
mod matches;
mod targets;

use tracer_model::ruleset::tables::{Action, Condition, Step};
use tracer_model::ruleset::{Family, Hooks};

use self::info::Info;

/// What a match asks of a packet.
pub(crate) fn condition(name: &str, revision: u32, info: &[u8], family: Family) -> Condition {
    matches::condition(name, revision, Info(info), family)
}

/// What a target does, and asks before: `CONNMARK --restore-mark` changes nothing without an entry. The hooks are those that
/// lead to the rule; NETMAP depends on them.
pub(crate) fn steps(name: &str, revision: u32, info: &[u8], family: Family, hooks: Hooks) -> Vec<Step> {
    targets::steps(name, revision, Info(info), family, hooks)
}

/// What a target does, whatever it asks before and whichever hooks lead to it.
#[cfg_attr(not(test), expect(dead_code, reason = "the reader of nftables will read it"))]
pub(crate) fn action(name: &str, revision: u32, info: &[u8], family: Family) -> Action {
    let does = |step| if let Step::Do(action) = step { Some(action) } else { None };
    let steps = steps(name, revision, info, family, Hooks::default());
    steps.into_iter().find_map(does).unwrap_or_else(|| Action::NotUnderstood(format!("-j {name}")))
}

#[cfg(test)]
mod tests;
