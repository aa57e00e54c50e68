//! Suppressed events: counted in the kernel, not emitted.

use tracer_common::Hook;
use tracer_model::capture::{Suppressed, SuppressedEvents};
use tracer_model::cause::{Cause, Confidence, Diagnosis};
use tracer_model::conntrack::Tuple;
use tracer_model::conntrack::log_format::LogFormat;
use tracer_model::filter::Filter;
use tracer_model::time::Instant;
use tracer_testing::{Build, GATEWAY};

use super::Engine;
use super::tests::{SKB, engine, flows, logged, reset, segment};
use crate::Limits;
use crate::flow::{EvidenceRank, Tally};

const MESSAGE: u32 = 0xc0de;

/// So many refusals of the server's segments, and so many RSTs that answered them.
fn refused(count: u64, answered: u64) -> SuppressedEvents {
    SuppressedEvents {
        hook: Hook::CtInvalid,
        class: MESSAGE,
        netns: Some(GATEWAY),
        tuple: Some(wire()),
        count,
        answered,
        last: Instant(9_000),
    }
}

fn wire() -> Tuple {
    segment(Hook::CtInvalid, 0).event().packet.unwrap().tuple()
}

fn of_class(mut build: Build) -> Build {
    build.record.class = MESSAGE;
    build
}

fn counts(engine: &mut Engine, at: u64, events: impl IntoIterator<Item = SuppressedEvents>) {
    engine.suppressed(&Suppressed { at: Instant(at), events: events.into_iter().collect() });
}

#[test]
fn they_add_to_the_flow_of_the_emitted_event() {
    let mut engine = engine(LogFormat::E1);
    engine.event(of_class(logged(1_000)).event());
    engine.event(reset(2_000).event());
    counts(&mut engine, 10_000, [refused(100, 99)]);
    counts(&mut engine, 20_000, [refused(1_000, 1_000)]);
    let [flow] = flows(engine).try_into().unwrap();
    assert_eq!(flow.tally(), Tally { invalid: 1_101, resets: 1_100, ..Tally::default() });
    assert_eq!(flow.causes.len(), 1, "{:?}", flow.causes);
    assert_eq!((flow.incident.rank(), flow.incident.confidence), (EvidenceRank::Killed, Confidence::Proven));
    assert_eq!(flow.last, Instant(9_000));
}

/// A suppressed event is of the kind of the emitted one: here accepted, as its message shows.
#[test]
fn they_are_of_the_kind_of_the_emitted_event() {
    let mut engine = engine(LogFormat::E3);
    let message = "SEQ is under lower bound %u (already ACKed data retransmitted)";
    let build = logged(1_000).words(message, "", 7);
    engine.event(of_class(build).event());
    counts(&mut engine, 10_000, [refused(5, 0)]);
    let [flow] = flows(engine).try_into().unwrap();
    assert_eq!(flow.tally(), Tally { ignored: 6, ..Tally::default() });
}

/// The counters are read while records are still on their way.
#[test]
fn they_may_be_read_before_the_record() {
    let mut engine = engine(LogFormat::E1);
    counts(&mut engine, 10_000, [refused(100, 100)]);
    engine.event(of_class(logged(1_000)).event());
    engine.event(reset(2_000).event());
    counts(&mut engine, 20_000, []);
    let [flow] = flows(engine).try_into().unwrap();
    assert_eq!(flow.tally(), Tally { invalid: 101, resets: 101, ..Tally::default() });
    assert_eq!(flow.causes.len(), 1, "{:?}", flow.causes);
}

/// A victim is named even if the ring buffer was full whenever something happened to it.
#[test]
fn a_flow_may_be_known_by_its_counts_alone() {
    let mut engine = engine(LogFormat::E1);
    // Another connection has an emitted event of the same kind.
    engine.event(of_class(logged(1_000)).connection(40_000).event());
    counts(&mut engine, 10_000, [refused(3, 2)]);
    let [emitted, flow] = flows(engine).try_into().unwrap();
    assert!(!emitted.is_only_counted());
    assert!(flow.is_only_counted());
    assert_eq!(flow.key.original, wire());
    assert_eq!(flow.tally(), Tally { invalid: 3, resets: 2, ..Tally::default() });
    assert_eq!(flow.incident.diagnosis, emitted.incident.diagnosis);
    assert_eq!((flow.incident.rank(), flow.incident.confidence), (EvidenceRank::Counted, Confidence::Inferred));
    assert!(!flow.was_reset());
}

/// A RST says why only together with what was known of its own packet.
#[test]
fn the_reason_for_a_reset_is_not_taken_from_another_flow() {
    let mut engine = engine(LogFormat::E1);
    let syn = |time: u64| segment(Hook::ResetV4, time).flags(0x02);
    engine.event(of_class(syn(1_000)).connection(40_000).event());
    let resets = SuppressedEvents { hook: Hook::ResetV4, ..refused(7, 0) };
    counts(&mut engine, 10_000, [resets]);
    let [emitted, flow] = flows(engine).try_into().unwrap();
    assert_eq!(emitted.incident.diagnosis.cause, Cause::NoListener);
    assert_eq!(flow.incident.diagnosis, Diagnosis::plain(Cause::Unknown));
    assert_eq!(flow.tally().resets, 7);
}

/// A second sign of something that has been counted: a RST of an end that lives on this host, for instance.
#[test]
fn what_was_not_counted_is_not_counted_later() {
    let mut engine = engine(LogFormat::E4);
    engine.event(logged(1_000).event());
    engine.event(reset(2_000).event());
    let mut peer = segment(Hook::ResetV4, 3_000).netns(GATEWAY + 1).socket(1);
    (peer.record.class, peer.record.skb) = (MESSAGE, SKB + 256);
    engine.event(peer.event());
    let before = engine.flow(crate::flow::FlowId(0)).unwrap().tally();
    let again = SuppressedEvents { hook: Hook::ResetV4, netns: Some(GATEWAY + 1), ..refused(9, 0) };
    counts(&mut engine, 10_000, [again]);
    let all = flows(engine);
    assert_eq!(all[0].tally(), before);
}

#[test]
fn what_has_no_flow_is_in_the_totals() {
    let nobody = SuppressedEvents { tuple: None, ..refused(4, 3) };
    let mut wanted = engine(LogFormat::E1);
    wanted.event(of_class(logged(1_000)).event());
    counts(&mut wanted, 10_000, [nobody]);
    let (flows, totals) = wanted.finish();
    assert_eq!(flows[0].tally().invalid, 1);
    assert_eq!(totals.unattributed, Tally { invalid: 4, resets: 3, ..Tally::default() });

    let filter = Filter { ports: vec![9], ..Filter::default() };
    let mut filtered = Engine::new(LogFormat::E1, Limits::default(), filter);
    counts(&mut filtered, 10_000, [nobody, refused(1, 1)]);
    let (flows, totals) = filtered.finish();
    assert_eq!((flows.len(), totals.unattributed), (0, Tally::default()));
}
