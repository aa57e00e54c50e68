//! The nftables ruleset of a namespace over netlink (`net/netfilter/nf_tables_api.c`), whole. It takes no `nft`, which many
//! hosts of containers do not have.
//!
//! Rules of iptables-nft are here too: they are nftables rules whose matches and targets are those of xtables
//! (`nft_compat`), which [`crate::iptables`] reads.

mod bases;
mod datagram;
mod elements;
mod foreign;
mod loads;
mod machine;
mod messages;
mod program;
mod statements;
#[cfg(test)]
mod tests;
mod whole;
mod words;

use std::path::Path;
use std::sync::OnceLock;
use std::{fs, io};

use self::messages::NFT_MSG_GETGEN;
use crate::nfnetlink::{Nfnetlink, attribute, message, number, request};
use crate::symbols::Symbols;

pub(super) use bases::{read as base_chains, tables};
pub use datagram::take as take_datagram;
pub use whole::whole;

/// How often it is read again when it changed meanwhile.
const ATTEMPTS: usize = 3;

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

fn generation() -> io::Result<Option<u32>> {
    const NFTA_GEN_ID: u16 = 1;
    let answer = Nfnetlink::open()?.exchange(&request(NFT_MSG_GETGEN, 0, 0, &[]))?;
    Ok(attribute(message(&answer)?.attributes, NFTA_GEN_ID).and_then(number))
}
