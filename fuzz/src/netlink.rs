//! Answers of nfnetlink.

use std::io;
use std::ops::ControlFlow;

use tracer_host::ctnetlink::entry::Entry;
use tracer_host::nfnetlink::{Message, part};
use tracer_host::{ctnetlink, nftables};

/// Datagrams of nfnetlink; the first byte says what was asked for.
pub(crate) fn netlink(data: &[u8]) {
    let Some((what, data)) = data.split_first() else { return };
    match what % 4 {
        0 => drop(ctnetlink::interpret(data)),
        1 => {
            // What ends the dump, or is wrong with it, is of no interest here.
            let _end = part(data, &mut false, &mut |message: Message<'_>| -> io::Result<ControlFlow<()>> {
                let _entry = Entry::read(message.attributes).counted();
                let _counters = ctnetlink::of_cpu(message);
                Ok(ControlFlow::Continue(()))
            });
        }
        _ => nftables::take_datagram(data),
    }
}
