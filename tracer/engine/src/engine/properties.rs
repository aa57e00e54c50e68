//! What holds of the engine whatever comes in: events in any order, lost, doubled, in buffers that are used again.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use tracer_common::Hook;
use tracer_common::wire::caller;
use tracer_model::cause::{Cause, Confidence, ResetBy};
use tracer_model::conntrack::log_format::LogFormat;
use tracer_model::event::Event;
use tracer_model::filter::Filter;
use tracer_testing::{Build, NEW, REPLY};

use super::Engine;
use crate::Limits;

const LIMITS: Limits = Limits { flows: 4, past: 2, waiting: 3, patience: Duration::from_secs(2), followed: 2 };

/// One call of a hooked function, in few enough variants that they meet each other.
#[derive(Debug, Clone, Copy)]
struct Call {
    what: What,
    /// Which connection, which buffer, which segment of the connection.
    connection: u16,
    buffer: u8,
    segment: u32,
    /// Nanoseconds since the call before; time never runs backwards on one CPU, but does across CPUs.
    later: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// conntrack refuses the packet: out of the window.
    ConntrackVerdict,
    /// The stack answers a packet without an entry.
    Reset,
    /// The stack answers a packet that was taken for the first of a new connection.
    ResetOfNew,
    /// The stack answers a packet whose connection's entry has ended.
    ResetAfterEnd,
    /// A REJECT rule answers a packet.
    Reject,
    /// A RST of this host leaves.
    ResetOutput,
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let what = prop_oneof![
        Just(What::ConntrackVerdict),
        Just(What::Reset),
        Just(What::ResetOfNew),
        Just(What::ResetAfterEnd),
        Just(What::Reject),
        Just(What::ResetOutput),
    ];
    let call = (what, 0..8_u16, 0..4_u8, 0..3_u32, -1_000_000_i64..3_000_000_000)
        .prop_map(|(what, connection, buffer, segment, later)| Call { what, connection, buffer, segment, later });
    prop::collection::vec(call, 0..80)
}

fn event(call: Call, time: u64) -> Event {
    let (seq, ack) = (5_000 + call.segment * 1_000, 700);
    let hook = match call.what {
        What::ConntrackVerdict => Hook::CtInvalid,
        What::ResetOutput => Hook::CtMalformed,
        What::Reset | What::ResetOfNew | What::ResetAfterEnd => Hook::ResetV4,
        What::Reject => Hook::RejectV4,
    };
    let skb = 0xffff_8880_0000_0000 + u64::from(call.buffer) * 0x100;
    let build = Build::from_server(hook, skb, time, seq, ack);
    let port = 40_000 + call.connection;
    match call.what {
        What::ConntrackVerdict => build.entry(REPLY, 900_000, ack).connection(port).words(
            "%s",
            "SEQ is under the lower bound (already ACKed data retransmitted)",
            0,
        ),
        What::Reset | What::Reject => build.connection(port),
        What::ResetOfNew => build.entry(NEW, 900_000, ack).connection(port),
        What::ResetAfterEnd => {
            let mut build = build.connection(port).destroyed(time.saturating_sub(5), 3, -1, caller::GC_WORKER, 0);
            build.record.destroyed.ct.tuples[0].sport = port.to_be_bytes();
            build.record.destroyed.ct.tuples[1].dport = port.to_be_bytes();
            build
        }
        What::ResetOutput => build.connection(port).flags(0x04).words("%s", "invalid new", 0).at(3),
    }
    .event()
}

proptest! {
    /// No panic, no accusation without proof, no flow out of nothing, no packet counted twice, no growth.
    #[test]
    fn whatever_comes_in(calls in calls()) {
        let mut engine = Engine::new(LogFormat::E1, LIMITS, Filter::default());
        let mut time = 10_000_000_000_u64;
        let mut seen = Vec::new();
        for call in &calls {
            time = time.saturating_add_signed(call.later);
            let event = event(*call, time);
            seen.push((*call, event.clone()));
            engine.event(event);
            let (flows, waiting) = engine.load();
            prop_assert!(flows <= LIMITS.flows, "{flows} flows are remembered");
            prop_assert!(waiting <= LIMITS.waiting, "{waiting} refused packets wait");
        }
        let (flows, totals) = engine.finish();
        prop_assert_eq!(totals.events, calls.len() as u64);

        let ports: BTreeSet<u16> = calls.iter().map(|call| 40_000 + call.connection).collect();
        for flow in &flows {
            let client = [flow.key.client().port(), flow.key.server().port()];
            prop_assert!(client.iter().any(|port| ports.contains(port)), "{} is named", flow.key.client());
            let incident = &flow.incident;
            let Some(reset) = &incident.reset else { continue };
            let windowed = incident.diagnosis.cause == Cause::OutOfWindow && reset.by == ResetBy::GatewayStack;
            if !windowed {
                continue;
            }
            // It was said that a refused packet was answered: that packet was refused before.
            let refused = seen.iter().any(|(call, event)| {
                let same_segment = event.packet == reset.event.packet;
                let same_buffer = event.skb == reset.event.skb;
                call.what == What::ConntrackVerdict && same_segment && (same_buffer || incident.confidence == Confidence::Inferred)
            });
            prop_assert!(refused, "{:?} by {:?}", incident.diagnosis, incident.confidence);
        }

        // What was refused and what was sent is counted once, in the flows that are remembered and those that are not.
        let mut tally = crate::flow::Tally::default();
        for flow in &flows {
            tally.add(flow.tally());
        }
        for (_, forgotten) in totals.forgotten.causes.values() {
            tally.add(*forgotten);
        }
        let count = |wanted: &[What]| calls.iter().filter(|call| wanted.contains(&call.what)).count() as u64;
        prop_assert_eq!(tally.invalid, count(&[What::ConntrackVerdict]));
        prop_assert_eq!(tally.resets, count(&[What::Reset, What::ResetOfNew, What::ResetAfterEnd, What::Reject]));
        prop_assert_eq!(totals.resets_output, count(&[What::ResetOutput]));
    }
}
