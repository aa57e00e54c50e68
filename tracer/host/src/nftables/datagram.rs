//! A ruleset out of one datagram that has messages of every dump.

use std::io;
use std::ops::ControlFlow;

use super::super::nfnetlink::{Message, part};
use super::{NFT_MSG_GETCHAIN, NFT_MSG_GETTABLE, Reader, Wanted, bases, sets};

/// Takes messages of tables, chains, sets and rules, told apart by the kind of the question that they would answer.
pub fn take(datagram: &[u8], wanted: Wanted) {
    let mut reader = Reader { wanted, ..Reader::default() };
    let mut elements = Some(Vec::new());
    // What ends the dump, or is wrong with it, is of no interest here.
    let _end = part(datagram, &mut false, &mut |message: Message<'_>| -> io::Result<ControlFlow<()>> {
        match message.kind {
            NFT_MSG_GETTABLE => reader.table(message),
            NFT_MSG_GETCHAIN => {
                let _base = bases::chain(message);
                reader.chain(message);
            }
            sets::NFT_MSG_GETSETELEM => {
                let _verdicts = sets::mapped(message);
                elements = elements.take().and_then(|known| sets::take(known, message));
            }
            _ => reader.rule(message),
        }
        Ok(ControlFlow::Continue(()))
    });
    let bounds = elements.and_then(|elements| sets::bounds(elements, wanted == Wanted::Audit));
    for super::Candidate { rule, read, .. } in &mut reader.rules {
        for lookup in std::mem::take(&mut read.lookups) {
            read.resolve(lookup, bounds.clone(), rule.family);
        }
    }
    drop(reader.finish());
}
