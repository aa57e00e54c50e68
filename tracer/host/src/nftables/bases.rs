//! Base chains and the names of tables, without rules: where the kernel enters the rulesets of a namespace.

use std::io;
use std::ops::ControlFlow;
use std::time::Instant;

use tracer_model::host_context::FilterChain;
use tracer_model::ruleset::{Family, Hooks};

use super::messages::{NFT_MSG_GETCHAIN, NFT_MSG_GETTABLE, family};
use crate::nfnetlink::{Message, Nfnetlink, attribute, dump_of, number, string};

/// A base chain of nftables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Base {
    /// Family, table, name and hook.
    pub(crate) shape: FilterChain,
    /// Its type is `filter`.
    pub(crate) filters: bool,
}

impl Base {
    /// Whether iptables made it: it alone writes these names in capitals into tables of these names.
    pub(crate) fn of_iptables(&self) -> bool {
        self.shape.family != Family::Inet
            && ["filter", "nat", "mangle", "raw", "security"].contains(&self.shape.table.as_str())
            && ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"].contains(&self.shape.name.as_str())
    }
}

/// Reads the base chains of the calling thread's network namespace.
pub(crate) fn read(deadline: Instant) -> io::Result<Vec<Base>> {
    let mut found = Vec::new();
    Nfnetlink::open()?.dump(&dump_of(NFT_MSG_GETCHAIN), Some(deadline), |message| {
        found.extend(chain(message));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// Reads the names of the tables there.
pub(crate) fn tables(deadline: Instant) -> io::Result<Vec<(Family, String)>> {
    const NFTA_TABLE_NAME: u16 = 1;
    let mut found = Vec::new();
    Nfnetlink::open()?.dump(&dump_of(NFT_MSG_GETTABLE), Some(deadline), |message| {
        let name = attribute(message.attributes, NFTA_TABLE_NAME).map(string);
        found.extend(family(message.family).zip(name));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

pub(super) fn chain(message: Message<'_>) -> Option<Base> {
    const NFTA_CHAIN_TABLE: u16 = 1;
    const NFTA_CHAIN_NAME: u16 = 3;
    const NFTA_CHAIN_HOOK: u16 = 4;
    const NFTA_CHAIN_TYPE: u16 = 7;
    const NFTA_HOOK_HOOKNUM: u16 = 1;
    let found = |kind| attribute(message.attributes, kind);
    let hook = number(attribute(found(NFTA_CHAIN_HOOK)?, NFTA_HOOK_HOOKNUM)?)?;
    let filters = found(NFTA_CHAIN_TYPE).is_some_and(|kind| string(kind) == "filter");
    let shape = FilterChain {
        family: family(message.family)?,
        table: string(found(NFTA_CHAIN_TABLE)?),
        name: string(found(NFTA_CHAIN_NAME)?),
        hooks: Hooks::only(hook),
    };
    Some(Base { shape, filters })
}
