//! Segments that come after their connection's entry was destroyed.

use rstest::rstest;

use tracer_common::Hook;
use tracer_common::wire::caller;
use tracer_model::cause::{Cause, Confidence, Diagnosis, Reason};
use tracer_model::conntrack::log_format::LogFormat;
use tracer_testing::{Build, NEW};

use super::tests::{
    CLIENT_END, CLOSE, ESTABLISHED, OLD, SERVER_END, SKB, TIME_WAIT, diagnosis, engine, flows, segment,
};
use crate::effect::Effect;

/// The server sends again after the entry was destroyed: the segment finds none, or makes a new one, and is answered. The reason is
/// why the entry was destroyed.
#[rstest]
#[case::idle(ESTABLISHED, -1, caller::GC_WORKER, 0, Some(Reason::Expired), Effect::Kills)]
#[case::found_expired_by_a_look_up(ESTABLISHED, 0, caller::OTHER, 0, Some(Reason::Expired), Effect::Kills)]
#[case::closed(TIME_WAIT, -1, caller::GC_WORKER, 0, Some(Reason::Closed), Effect::Closed)]
#[case::reset(CLOSE, 0, caller::GC_WORKER, 0, Some(Reason::Closed), Effect::Closed)]
#[case::reopened(TIME_WAIT, 900, caller::TRACKER, 0, Some(Reason::Closed), Effect::Closed)]
#[case::full_table(ESTABLISHED, 900, caller::EARLY_DROP, 0, Some(Reason::Evicted), Effect::Kills)]
#[case::nearly_full_table(ESTABLISHED, 900, caller::GC_WORKER, 0, Some(Reason::Evicted), Effect::Kills)]
#[case::user_space(ESTABLISHED, 900, caller::OTHER, 77, Some(Reason::Deleted), Effect::Kills)]
#[case::flushed_although_expired(ESTABLISHED, -1, caller::CLEANUP, 77, Some(Reason::Deleted), Effect::Kills)]
#[case::address_removed(ESTABLISHED, 900, caller::CLEANUP, 0, Some(Reason::Deleted), Effect::Kills)]
#[case::by_nobody_known(ESTABLISHED, 900, caller::OTHER, 0, None, Effect::Kills)]
fn a_destroyed_entry_is_the_reason(
    #[case] state: u8,
    #[case] left: i32,
    #[case] by: u32,
    #[case] portid: u32,
    #[case] reason: Option<Reason>,
    #[case] effect: Effect,
) {
    for picked_up in [false, true] {
        let mut engine = engine(LogFormat::E1);
        let mut late = Build::from_server(Hook::ResetV4, SKB, 9_000, SERVER_END, CLIENT_END);
        if picked_up {
            late = late.entry(NEW, 0, 0);
            let ct = &mut late.record.ct;
            ct.tuples[0] = ct.tuples[1];
            (ct.tuples[1].src, ct.tuples[1].dst) = (ct.tuples[0].dst, ct.tuples[0].src);
            (ct.tuples[1].sport, ct.tuples[1].dport) = (ct.tuples[0].dport, ct.tuples[0].sport);
        }
        engine.event(late.destroyed(1_000, state, left, by, portid).event());
        let [flow] = flows(engine).try_into().unwrap();
        assert_eq!(flow.incident.diagnosis, Diagnosis { cause: Cause::NoEntry, reason });
        assert_eq!(flow.incident.confidence, Confidence::Proven);
        assert_eq!(flow.incident.reset.as_ref().unwrap().effect, effect);
        assert_eq!(flow.was_reset(), effect == Effect::Kills, "a closed connection has nothing left to lose");
        assert_eq!(flow.key.client().to_string(), "10.0.0.2:34567");
        assert_eq!(flow.key.nat().unwrap().to_string(), "192.0.2.1:34567");
        assert_eq!(flow.key.server().to_string(), "192.0.2.2:443");
        assert!(flow.known);
    }
}

/// A SYN to the gateway's own port is that, whatever entry the same addresses and ports once had.
#[test]
fn a_syn_to_a_closed_port_is_no_late_segment() {
    let mut engine = engine(LogFormat::E1);
    let syn = Build::from_server(Hook::ResetV4, SKB, 9_000, OLD, 0).flags(0x02).entry(NEW, 0, 0);
    engine.event(syn.destroyed(1_000, ESTABLISHED, -1, caller::GC_WORKER, 0).event());
    let [flow] = flows(engine).try_into().unwrap();
    assert_eq!(flow.incident.diagnosis, Diagnosis::plain(Cause::NoListener));
    assert_eq!(flow.incident.destroyed(), None);
}

/// 6.9 and later log "invalid new" for a FIN without an entry. The destroyed entry shows more.
#[test]
fn invalid_new_of_a_connection_that_expired() {
    let mut engine = engine(LogFormat::E4);
    let late = |hook, time| segment(hook, time).flags(0x11).destroyed(500, ESTABLISHED, -1, caller::GC_WORKER, 0);
    engine.event(late(Hook::CtMalformed, 1_000).words("%s", "invalid new", 0).event());
    engine.event(late(Hook::ResetV4, 20_000).event());
    let [flow] = flows(engine).try_into().unwrap();
    assert_eq!(flow.incident.diagnosis, diagnosis(Cause::NoEntry, Reason::Expired));
    assert_eq!(flow.tally().resets, 1);
    assert_eq!(flow.key.client().to_string(), "10.0.0.2:34567");
}
