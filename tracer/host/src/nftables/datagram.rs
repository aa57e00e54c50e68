//! A ruleset out of one datagram that has messages of every dump.

use std::io;
use std::ops::ControlFlow;

use super::bases;
use super::messages::{NFT_MSG_GETCHAIN, NFT_MSG_GETSET, NFT_MSG_GETSETELEM, NFT_MSG_GETTABLE};
use super::whole::Reader;
use crate::nfnetlink::{Message, part};

/// Takes messages of tables, chains, sets, elements and rules, each by the kind of the request that it would answer.
pub fn take(datagram: &[u8]) {
    let mut reader = Reader::default();
    // What ends the dump, or is wrong with it, is of no interest here.
    let _end = part(datagram, &mut false, &mut |message: Message<'_>| -> io::Result<ControlFlow<()>> {
        match message.kind {
            NFT_MSG_GETTABLE => reader.table(message),
            NFT_MSG_GETCHAIN => {
                let _base = bases::chain(message);
                reader.chain(message);
            }
            NFT_MSG_GETSET => reader.set(message),
            NFT_MSG_GETSETELEM => reader.take(message),
            _ => reader.rule(message),
        }
        Ok(ControlFlow::Continue(()))
    });
    drop(reader.finish());
}
