//! The state that each further file of a recording repeats, so that it can be read by itself.

use std::collections::BTreeMap;

use tracer_model::capture::{HookStatus, Item, Netns};
use tracer_model::ruleset::Rules;

/// The last item of each kind that describes lasting state.
#[derive(Debug, Default)]
pub(super) struct Known {
    hooks: Vec<HookStatus>,
    namespaces: BTreeMap<u32, Netns>,
    /// The first snapshot of a ruleset and the last.
    rules: BTreeMap<u32, (Rules, Option<Rules>)>,
}

impl Known {
    /// Keeps an item that describes lasting state.
    pub(super) fn note(&mut self, item: &Item) {
        match item {
            Item::Hook(status) => match self.hooks.iter_mut().find(|known| known.hook == status.hook) {
                Some(known) => *known = status.clone(),
                None => self.hooks.push(status.clone()),
            },
            Item::Netns(netns) => drop(self.namespaces.insert(netns.inode, netns.clone())),
            Item::Rules(rules) => {
                let snapshots = self.rules.entry(rules.netns).or_insert_with(|| (rules.clone(), None));
                if snapshots.0 != *rules {
                    snapshots.1 = Some(rules.clone());
                }
            }
            // These describe a moment.
            Item::Record(_)
            | Item::Counters(_)
            | Item::Suppressed(_)
            | Item::LookedUp(_)
            | Item::TableUsage(_)
            | Item::HostContext(_)
            | Item::Gap(_)
            | Item::Ended(_) => {}
        }
    }

    /// The items that repeat the state.
    pub(super) fn items(&self) -> impl Iterator<Item = Item> {
        let rules = self.rules.values().flat_map(|(first, last)| std::iter::once(first).chain(last));
        let hooks = self.hooks.iter().cloned().map(Item::Hook);
        hooks.chain(self.namespaces.values().cloned().map(Item::Netns)).chain(rules.cloned().map(Item::Rules))
    }
}
