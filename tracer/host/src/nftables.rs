//! The nftables ruleset of a namespace over netlink (`net/netfilter/nf_tables_api.c`): the rules that can answer a packet with
//! a RST, and those that an audit notes. It takes no `nft`, which many hosts of containers do not have.
//!
//! Rules of iptables-nft are here too: they are nftables rules whose matches and targets are those of xtables
//! (`nft_compat`), which [`crate::iptables`] reads.

mod bases;
mod datagram;
mod expressions;
mod messages;
mod reader;
mod registers;
mod sets;
mod statements;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::OnceLock;
use std::time::Instant;
use std::{fs, io};

use tracer_model::ruleset::Rule;
use tracer_model::ruleset::audit::Found;

use self::messages::NFT_MSG_GETGEN;
use self::reader::Reader;
use crate::nfnetlink::{End, Nfnetlink, attribute, message, number, request};
use crate::symbols::Symbols;

pub(super) use bases::{read as base_chains, tables};
pub use datagram::take as take_datagram;
pub use reader::Wanted;

/// How often it is read again when it changed meanwhile.
const ATTEMPTS: usize = 3;

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Ruleset {
    /// The number of the ruleset; it grows with each change.
    pub(super) generation: Option<u32>,
    /// The rules that can answer with a RST.
    pub(super) rules: Vec<Rule>,
    /// What an audit notes, where one was asked for.
    pub(super) found: Found,
    /// Why there may be others.
    pub(super) problems: Vec<String>,
}

/// Whether nftables is there. Asking it anything where it is not would make the kernel load it.
pub(super) fn is_there() -> bool {
    // What is built in does not come and go: one look at the symbols, which takes long, is enough.
    static BUILT_IN: OnceLock<bool> = OnceLock::new();
    // Only modules with parameters have a directory when they are built in.
    let built_in = || {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let list = fs::read_to_string(Path::new("/lib/modules").join(release).join("modules.builtin"));
        list.is_ok_and(|list| list.lines().any(|module| module.ends_with("/nf_tables.ko")))
    };
    let listed = || {
        let symbols = Symbols::of_running_kernel(&["nf_tables_newrule"]);
        symbols.is_ok_and(|found| found.get("nf_tables_newrule").is_some_and(|symbol| symbol.module.is_none()))
    };
    Path::new("/sys/module/nf_tables").exists() || *BUILT_IN.get_or_init(|| built_in() || listed())
}

/// Reads the ruleset of the calling thread's network namespace, as much of it as can be read before the deadline.
pub(super) fn read(wanted: Wanted, deadline: Instant) -> io::Result<Ruleset> {
    let mut attempts = ATTEMPTS;
    loop {
        attempts -= 1;
        let before = generation()?;
        let mut reader = Reader::new(wanted);
        let end = reader.dump(deadline)?;
        reader.sets(deadline);
        let changed = end == End::Changed || generation()? != before;
        if changed && attempts > 0 && Instant::now() < deadline {
            continue;
        }
        let mut problems = Vec::new();
        if end == End::Cut {
            problems.push("the ruleset is too large to be read whole".to_owned());
        } else if changed {
            problems.push("the ruleset changed while it was read".to_owned());
        }
        let (rules, found) = reader.finish();
        return Ok(Ruleset { generation: before, rules, found, problems });
    }
}

fn generation() -> io::Result<Option<u32>> {
    const NFTA_GEN_ID: u16 = 1;
    let answer = Nfnetlink::open()?.exchange(&request(NFT_MSG_GETGEN, 0, 0, &[]))?;
    Ok(attribute(message(&answer)?.attributes, NFTA_GEN_ID).and_then(number))
}
