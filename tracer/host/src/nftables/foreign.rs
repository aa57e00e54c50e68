//! Tables whose chains are not walked, because they are entered before conntrack or by bridged packets alone: whether they could
//! drop a packet all the same.

use std::collections::{BTreeMap, BTreeSet};

use super::messages::{ARP, BRIDGE, NETDEV, NFTA_DATA_VERDICT};
use super::statements::decided;
use crate::nfnetlink::{attribute, attributes, number, string};
use tracer_model::ruleset::tables::Action;

/// A table of bridges or devices, or what the family inet has of the same.
#[derive(Debug, Default)]
pub(super) struct Foreign {
    chains: BTreeMap<String, Chain>,
}

#[derive(Debug, Default)]
struct Chain {
    /// The hook that enters it.
    hook: Option<u32>,
    /// Whether its policy or one of its rules could drop.
    drops: bool,
    /// Chains that its rules lead to.
    leads: BTreeSet<String>,
}

impl Foreign {
    pub(super) fn chain(&mut self, name: &str, hook: Option<u32>, drops: bool) {
        let chain = self.chains.entry(name.to_owned()).or_default();
        chain.hook = hook;
        chain.drops |= drops && hook.is_some();
    }

    /// Whether a chain of it is entered; no rule is of interest where none is.
    pub(super) fn is_entered(&self) -> bool {
        self.chains.values().any(|chain| chain.hook.is_some())
    }

    /// Takes `NFTA_RULE_EXPRESSIONS`.
    pub(super) fn rule(&mut self, chain: &str, list: &[u8]) {
        const NFTA_EXPR_NAME: u16 = 1;
        const NFTA_EXPR_DATA: u16 = 2;
        const NFTA_IMMEDIATE_DATA: u16 = 2;
        const NFTA_LOOKUP_DREG: u16 = 3;
        const NFT_REG_VERDICT: u32 = 0;
        let chain = self.chains.entry(chain.to_owned()).or_default();
        for (_, element) in attributes(list) {
            let data = attribute(element, NFTA_EXPR_DATA).unwrap_or_default();
            match attribute(element, NFTA_EXPR_NAME).map(string).as_deref() {
                Some("reject" | "queue" | "fwd" | "target") => chain.drops = true,
                // Where a verdict map leads is not read.
                Some("lookup") => {
                    chain.drops |= attribute(data, NFTA_LOOKUP_DREG).and_then(number) == Some(NFT_REG_VERDICT);
                }
                Some("immediate") => {
                    let verdict =
                        attribute(data, NFTA_IMMEDIATE_DATA).and_then(|data| attribute(data, NFTA_DATA_VERDICT));
                    match verdict.map(decided) {
                        Some(Action::Drop | Action::Queue { .. }) => chain.drops = true,
                        Some(Action::Jump(to) | Action::Goto(to)) => {
                            chain.leads.insert(to);
                        }
                        _ => {}
                    }
                }
                _ => {}
            }
        }
    }

    /// The chains that the kernel enters and that could drop.
    pub(super) fn problems(&self, family: u8, table: &str) -> Vec<String> {
        /// `NF_NETDEV_EGRESS`.
        const EGRESS: u32 = 1;
        let word = match family {
            BRIDGE => "bridge",
            NETDEV => "netdev",
            ARP => return Vec::new(),
            _ => "inet",
        };
        let bases = self.chains.iter().filter_map(|(name, chain)| Some((name, chain.hook?)));
        bases
            .filter(|(name, _)| self.may_drop(name))
            .map(|(name, hook)| {
                let place = if (family, hook) == (NETDEV, EGRESS) { "behind POSTROUTING" } else { "before conntrack" };
                format!("table {word} {table} chain {name} filters {place} and is not walked")
            })
            .collect()
    }

    fn may_drop(&self, base: &str) -> bool {
        let (mut seen, mut next) = (BTreeSet::new(), vec![base]);
        while let Some(name) = next.pop() {
            if let Some(chain) = self.chains.get(name)
                && seen.insert(name)
            {
                if chain.drops {
                    return true;
                }
                next.extend(chain.leads.iter().map(String::as_str));
            }
        }
        false
    }
}
