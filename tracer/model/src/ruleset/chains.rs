//! Which netfilter hooks lead to which chain.

use std::collections::{BTreeMap, BTreeSet};

use super::Hooks;

/// The chains of a table.
#[derive(Debug, Clone, Default)]
pub struct Chains {
    hooks: BTreeMap<String, Hooks>,
    jumps: BTreeMap<String, BTreeSet<String>>,
    /// Chains with a verdict map: where it leads is in its elements, which are not read.
    anywhere: BTreeSet<String>,
}

impl Chains {
    /// A chain; only base chains have a hook.
    pub fn chain(&mut self, name: &str, hook: Option<u32>) {
        self.hooks.insert(name.to_owned(), hook.map(Hooks::only).unwrap_or_default());
    }

    /// A rule in `from` jumps or goes to `to`.
    pub fn jump(&mut self, from: &str, to: &str) {
        self.jumps.entry(from.to_owned()).or_default().insert(to.to_owned());
    }

    /// A rule in `from` may go to any chain.
    pub fn anywhere(&mut self, from: &str) {
        self.anywhere.insert(from.to_owned());
    }

    /// The hooks that lead to each chain.
    pub fn reached(&self) -> BTreeMap<String, Hooks> {
        let mut reached = self.hooks.clone();
        // Base chains cannot be jumped to.
        let regular: Vec<&String> =
            self.hooks.iter().filter(|(_, hooks)| **hooks == Hooks::default()).map(|(name, _)| name).collect();
        let mut waiting: Vec<String> = self.hooks.keys().cloned().collect();
        while let Some(from) = waiting.pop() {
            let hooks = reached.get(&from).copied().unwrap_or_default();
            let known = self.jumps.get(&from).into_iter().flatten();
            let any = if self.anywhere.contains(&from) { &regular[..] } else { &[] };
            for to in known.chain(any.iter().copied()) {
                let Some(there) = reached.get_mut(to) else { continue };
                let both = Hooks(there.0 | hooks.0);
                if both != *there {
                    *there = both;
                    waiting.push(to.clone());
                }
            }
        }
        reached
    }
}

#[cfg(test)]
mod tests {
    use super::{Chains, Hooks};

    fn chains() -> Chains {
        let mut chains = Chains::default();
        chains.chain("input", Some(1));
        chains.chain("forward", Some(2));
        for name in ["a", "b", "c", "unused"] {
            chains.chain(name, None);
        }
        chains
    }

    #[test]
    fn hooks_follow_jumps() {
        let mut chains = chains();
        chains.jump("forward", "a");
        chains.jump("a", "b");
        chains.jump("input", "b");
        let reached = chains.reached();
        assert_eq!(reached["forward"], Hooks(1 << 2));
        assert_eq!(reached["a"], Hooks(1 << 2));
        assert_eq!(reached["b"], Hooks(1 << 1 | 1 << 2));
        assert_eq!(reached["c"], Hooks(0));
        assert_eq!(reached["unused"], Hooks(0));
    }

    /// The kernel refuses loops, but what was read while the ruleset changed may have one.
    #[test]
    fn loops_end() {
        let mut chains = chains();
        chains.jump("forward", "a");
        chains.jump("a", "b");
        chains.jump("b", "a");
        chains.jump("b", "nowhere");
        assert_eq!(chains.reached()["b"], Hooks(1 << 2));
    }

    #[test]
    fn a_verdict_map_may_lead_anywhere() {
        let mut chains = chains();
        chains.jump("input", "a");
        chains.anywhere("a");
        chains.jump("forward", "c");
        let reached = chains.reached();
        assert_eq!(reached["b"], Hooks(1 << 1));
        assert_eq!(reached["c"], Hooks(1 << 1 | 1 << 2));
        assert_eq!(reached["forward"], Hooks(1 << 2));
    }
}
