//! The whole table of a namespace and its counters, over ctnetlink: what `whyrst doctor` asks, outside of captures.

use std::io;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::time::Instant;

use tracer_model::conntrack::{Status, TcpState};
use tracer_model::health::counters::{Counter, PerCpu};
use tracer_model::health::ports::Ranges;
use tracer_model::health::table::{Entry, Tally};

use super::ctnetlink::{ENTRIES, Ends, NEW, STATISTICS, ends};
use super::nfnetlink::{End, Message, Nfnetlink, attribute, attributes, dump_of, number};

/// Most entries of a table that are counted.
const MOST: u64 = 8_000_000;
/// Subsystem `NFNL_SUBSYS_CTNETLINK_EXP`, message `IPCTNL_MSG_EXP_GET_STATS_CPU`.
const EXPECTED: u16 = 2 << 8 | 3;

/// conntrack's counters of the calling thread's namespace, per CPU.
pub(super) fn counters() -> io::Result<Vec<PerCpu>> {
    let mut all = Vec::new();
    Nfnetlink::open()?.dump(&dump_of(STATISTICS), None, |message| {
        all.push(of_cpu(message));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(all)
}

/// The counters of one CPU, from the answer to `IPCTNL_MSG_CT_GET_STATS_CPU`.
pub fn of_cpu(message: Message<'_>) -> PerCpu {
    let mut counters = PerCpu::of(message.resource);
    for (kind, value) in attributes(message.attributes) {
        let counter = Counter::ALL.into_iter().find(|counter| counter.attribute() == kind);
        if let (Some(counter), Some(value)) = (counter, number(value)) {
            counters.set(counter, value);
        }
    }
    counters
}

/// Connections that helpers wait for in the calling thread's namespace: what was created less what was deleted.
pub(super) fn expectations() -> io::Result<u64> {
    const CTA_STATS_EXP_CREATE: u16 = 2;
    const CTA_STATS_EXP_DELETE: u16 = 3;
    // Each CPU counts for itself, and may delete what another created.
    let mut count = 0u32;
    Nfnetlink::open()?.dump(&dump_of(EXPECTED), None, |message| {
        let field = |kind| attribute(message.attributes, kind).and_then(number).unwrap_or(0);
        count = count.wrapping_add(field(CTA_STATS_EXP_CREATE)).wrapping_sub(field(CTA_STATS_EXP_DELETE));
        Ok(ControlFlow::Continue(()))
    })?;
    // Counters that are read one after the other may be one off.
    Ok(u64::try_from(count.cast_signed()).unwrap_or(0))
}

/// Counts the entries of the calling thread's namespace, as many as can be read before the deadline; and why that is not
/// all of them.
pub(super) fn count(ranges: Ranges, deadline: Instant) -> io::Result<(Tally, Option<String>)> {
    let began = Instant::now();
    let mut tally = Tally::new(ranges);
    let end = Nfnetlink::open()?.dump(&dump_of(ENTRIES), Some(deadline), |message| {
        if message.kind == NEW {
            tally.add(&entry(message.attributes));
        }
        Ok(if tally.entries() < MOST { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    let cut = || {
        let read = tally.entries();
        format!("the table was not read to its end: {read} entries in {:.1} s", began.elapsed().as_secs_f64())
    };
    let problem = (end == End::Cut).then(cut);
    Ok((tally, problem))
}

/// An entry of a dump, from its attributes.
pub fn entry(entry: &[u8]) -> Entry {
    const CTA_TUPLE_ORIG: u16 = 1;
    const CTA_TUPLE_REPLY: u16 = 2;
    const CTA_STATUS: u16 = 3;
    const CTA_PROTOINFO: u16 = 4;
    const CTA_ZONE: u16 = 18;
    const CTA_PROTOINFO_TCP: u16 = 1;
    const CTA_PROTOINFO_TCP_STATE: u16 = 1;
    let mut counted = Entry::default();
    for (kind, value) in attributes(entry) {
        match kind {
            CTA_TUPLE_ORIG => {
                let tuple = ends(value);
                (counted.source, counted.protocol, counted.service) = (tuple.source, tuple.protocol, tuple.service());
            }
            CTA_TUPLE_REPLY => {
                let Ends { source, destination, source_port, destination_port, .. } = ends(value);
                let with = |address: Option<IpAddr>, port: Option<u16>| address.zip(port);
                counted.reply_source = with(source, source_port);
                counted.reply_destination = with(destination, destination_port);
            }
            CTA_STATUS => counted.status = Status(number(value).unwrap_or(0)),
            CTA_PROTOINFO => {
                let tcp = attribute(value, CTA_PROTOINFO_TCP).and_then(|tcp| attribute(tcp, CTA_PROTOINFO_TCP_STATE));
                counted.state = tcp.and_then(|state| state.first().copied()).map(TcpState::from_raw);
            }
            CTA_ZONE => counted.zone = value.first_chunk().map_or(0, |bytes| u16::from_be_bytes(*bytes)),
            _ => {}
        }
    }
    counted
}

#[cfg(test)]
mod tests {
    use tracer_model::conntrack::{Status, TcpState};
    use tracer_model::health::counters::Counter;

    use super::super::nfnetlink::Message;
    use super::super::nfnetlink::tests::attribute;
    use super::{entry, of_cpu};

    fn tuple(kind: u16, source: [u8; 4], destination: [u8; 4], ports: [u16; 2]) -> Vec<u8> {
        let ip = [attribute(1, &source), attribute(2, &destination)].concat();
        let [from, to] = ports.map(u16::to_be_bytes);
        let protocol = [attribute(1, &[6]), attribute(2, &from), attribute(3, &to)].concat();
        attribute(kind | 0x8000, &[attribute(1 | 0x8000, &ip), attribute(2 | 0x8000, &protocol)].concat())
    }

    #[test]
    fn reads_an_entry() {
        let whole = [
            tuple(1, [10, 0, 0, 2], [192, 0, 2, 2], [34_567, 443]),
            tuple(2, [192, 0, 2, 2], [192, 0, 2, 1], [443, 40_000]),
            attribute(3, &0x1eu32.to_be_bytes()),
            attribute(4 | 0x8000, &attribute(1 | 0x8000, &attribute(1, &[3]))),
            attribute(18, &7u16.to_be_bytes()),
        ]
        .concat();
        let read = entry(&whole);
        assert_eq!(read.source.unwrap().to_string(), "10.0.0.2");
        assert_eq!(read.service.unwrap().to_string(), "tcp 192.0.2.2:443");
        assert_eq!(read.reply_source, Some(([192, 0, 2, 2].into(), 443)));
        assert_eq!(read.reply_destination, Some(([192, 0, 2, 1].into(), 40_000)));
        assert_eq!((read.status, read.state, read.zone), (Status(0x1e), Some(TcpState::Established), 7));
        // The last two bytes are padding.
        for cut in 0..whole.len() - 2 {
            assert!(entry(&whole[..cut]).zone == 0, "cut at {cut}");
        }
    }

    #[test]
    fn reads_the_counters_of_a_cpu() {
        let attributes = [attribute(4, &7u32.to_be_bytes()), attribute(10, &[1]), attribute(99, &[0; 4])].concat();
        let counters = of_cpu(Message { resource: 3, attributes: &attributes, ..Message::default() });
        assert_eq!((counters.cpu, counters.get(Counter::Invalid), counters.get(Counter::Drop)), (3, Some(7), None));
    }
}
