//! A ruleset out of one datagram that has messages of every dump.

use std::io;
use std::ops::ControlFlow;

use super::messages::{NFT_MSG_GETCHAIN, NFT_MSG_GETSETELEM, NFT_MSG_GETTABLE};
use super::reader::{Candidate, Reader, Wanted};
use super::{bases, sets};
use crate::nfnetlink::{Message, part};

/// Takes messages of tables, chains, sets and rules, each by the kind of the request that it would answer.
pub fn take(datagram: &[u8], wanted: Wanted) {
    let mut reader = Reader::new(wanted);
    let mut elements = Some(Vec::new());
    // What ends the dump, or is wrong with it, is of no interest here.
    let _end = part(datagram, &mut false, &mut |message: Message<'_>| -> io::Result<ControlFlow<()>> {
        match message.kind {
            NFT_MSG_GETTABLE => reader.table(message),
            NFT_MSG_GETCHAIN => {
                let _base = bases::chain(message);
                reader.chain(message);
            }
            NFT_MSG_GETSETELEM => {
                let _verdicts = sets::mapped(message);
                elements = elements.take().and_then(|known| sets::take(known, message));
            }
            _ => reader.rule(message),
        }
        Ok(ControlFlow::Continue(()))
    });
    let bounds = elements.and_then(|elements| sets::bounds(elements, wanted == Wanted::Audit));
    for Candidate { rule, read, .. } in &mut reader.rules {
        for lookup in std::mem::take(&mut read.lookups) {
            read.resolve(lookup, bounds.clone(), rule.family);
        }
    }
    drop(reader.finish());
}
