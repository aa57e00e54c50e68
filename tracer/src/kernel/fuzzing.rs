//! What the fuzz targets for the kernel's answers do: netlink messages, and files and tools that print text.

use std::io;
use std::ops::ControlFlow;

use super::nfnetlink::{Message, part};
use super::symbols::Symbols;
use super::{ctnetlink, nftables, table};
use crate::health::counters;
use crate::ruleset::{Family, parse_saved};

/// Datagrams of nfnetlink; the first byte says what was asked for.
pub(crate) fn netlink(data: &[u8]) {
    let Some((what, data)) = data.split_first() else { return };
    match what % 4 {
        0 => drop(ctnetlink::interpret(data)),
        1 => {
            // What ends the dump, or is wrong with it, is of no interest here.
            let _end = part(data, &mut false, &mut |message: Message<'_>| -> io::Result<ControlFlow<()>> {
                let (_source, _service) = ctnetlink::whose(message.attributes);
                let _entry = table::entry(message.attributes);
                let _counters = table::of_cpu(message);
                Ok(ControlFlow::Continue(()))
            });
        }
        2 => nftables::fuzzed(data, nftables::Wanted::Rejecting),
        _ => nftables::fuzzed(data, nftables::Wanted::Audit),
    }
}

/// Text of the kernel and of its tools; the first byte says whose.
pub(crate) fn text(data: &[u8]) {
    let Some((what, data)) = data.split_first() else { return };
    let text = || String::from_utf8_lossy(data);
    match what % 4 {
        0 => {
            if let Ok(symbols) = Symbols::read(data, &["nf_conntrack_in", "nf_ct_delete"]) {
                let _end = symbols.get("nf_ct_delete").and_then(|symbol| symbols.end(symbol.address));
            }
        }
        1 => drop(parse_saved(&text(), Family::Ip)),
        2 => drop(parse_saved(&text(), Family::Ip6)),
        _ => {
            let read = counters::from_proc(&text());
            let _total = counters::total(&read, counters::Counter::Invalid);
        }
    }
}
