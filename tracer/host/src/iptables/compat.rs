//! Matches and targets of xtables as they are in the processor's memory, which is how iptables-nft writes them into rules of
//! nftables (`nft_compat`).

mod info;
mod matches;
mod targets;

use tracer_model::ruleset::tables::{Condition, Step};
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

#[cfg(test)]
mod tests;
