//! The engine's cases: the name of each is a situation of the network.

use std::time::Duration;

use rstest::rstest;

use tracer_common::Hook;
use tracer_model::cause::{Cause, Confidence, Diagnosis, Reason, ResetBy};
use tracer_model::conntrack::Verdict;
use tracer_model::conntrack::log_format::LogFormat;
use tracer_model::filter::Filter;
use tracer_testing::{Build, GATEWAY, NEW, REPLY};

use super::{Engine, Kind};
use crate::Limits;
use crate::effect::Effect;
use crate::flow::{EvidenceRank, Flow, FlowId, PeerSeen, Tally};

const SEQ_UNDER: &str = "SEQ is under the lower bound (already ACKed data retransmitted)";
const SEQ_OVER: &str = "SEQ is over the upper bound (over the window of the receiver)";
/// What the server had sent, and what it expects next, when the late copy came.
pub(super) const SERVER_END: u32 = 3_271_668_047;
pub(super) const CLIENT_END: u32 = 2_102_471_179;
/// The late copy.
pub(super) const OLD: u32 = 3_270_668_047;
/// States of `enum tcp_conntrack`.
pub(super) const ESTABLISHED: u8 = 3;
pub(super) const TIME_WAIT: u8 = 7;
pub(super) const CLOSE: u8 = 8;
/// `IP_CT_ESTABLISHED`.
const ESTABLISHED_ORIGINAL: u64 = 0;
pub(super) const SKB: u64 = 0xffff_8881_0000_0100;

pub(super) fn engine(log_format: LogFormat) -> Engine {
    Engine::new(log_format, Limits::default(), Filter::default())
}

pub(super) fn segment(hook: Hook, time: u64) -> Build {
    Build::from_server(hook, SKB, time, OLD, CLIENT_END)
}

pub(super) fn logged(time: u64) -> Build {
    segment(Hook::CtInvalid, time).entry(REPLY, SERVER_END, CLIENT_END).words("%s", SEQ_UNDER, 0)
}

pub(super) fn reset(time: u64) -> Build {
    segment(Hook::ResetV4, time)
}

pub(super) fn flows(engine: Engine) -> Vec<Flow> {
    engine.finish().0.into_iter().map(|flow| *flow).collect()
}

pub(super) fn diagnosis(cause: Cause, reason: Reason) -> Diagnosis {
    Diagnosis { cause, reason: Some(reason) }
}

/// The namespace that the end's RST was made in.
fn made_in(flow: &Flow) -> Option<u32> {
    match flow.peer_reset.as_ref()?.seen {
        PeerSeen::Made { netns, answered: Some(_) } => netns,
        PeerSeen::Made { .. } | PeerSeen::Arrived { .. } => None,
    }
}

/// The incident: conntrack refuses the late copy, the stack answers the same buffer.
#[test]
fn the_same_packet_at_both_hooks_is_proof() {
    let mut engine = engine(LogFormat::E1);
    engine.event(logged(1_000).event());
    let observed = engine.event(reset(20_000).event());
    assert!(matches!(observed.kind, Kind::Reset(_, _, Confidence::Proven)));
    let [flow] = flows(engine).try_into().unwrap();
    assert_eq!(flow.key.client().to_string(), "10.0.0.2:34567");
    assert_eq!(flow.key.nat().unwrap().to_string(), "192.0.2.1:34567");
    assert_eq!(flow.key.server().to_string(), "192.0.2.2:443");
    assert_eq!(flow.key.service(), None);
    assert_eq!(flow.incident.diagnosis, diagnosis(Cause::OutOfWindow, Reason::SeqUnder));
    assert_eq!(flow.incident.confidence, Confidence::Proven);
    assert_eq!(flow.incident.rank(), EvidenceRank::Killed);
    let reset = flow.incident.reset.as_ref().unwrap();
    assert_eq!((reset.by, reset.effect), (ResetBy::GatewayStack, Effect::Kills));
    let window = flow.incident.logged.as_ref().unwrap().window.unwrap();
    assert_eq!(window.distance, 966_879);
    let tally = flow.tally();
    assert_eq!((tally.invalid, tally.ignored, tally.resets), (1, 0, 1));
}

/// The allocator hands the same buffer out again: the RST answers another segment, for which it accuses nobody.
#[test]
fn the_same_buffer_with_another_segment_is_no_proof() {
    let mut engine = engine(LogFormat::E1);
    engine.event(logged(1_000).event());
    let other =
        Build::from_server(Hook::ResetV4, SKB, 2_000, 77, 88).between(([203, 0, 113, 9], 9), ([192, 0, 2, 1], 99));
    engine.event(other.event());
    let [victim, other] = flows(engine).try_into().unwrap();
    assert_eq!(victim.incident.rank(), EvidenceRank::Refused);
    assert_eq!(victim.reset_by(), None);
    assert_eq!(other.incident.diagnosis, Diagnosis::plain(Cause::Unknown));
    assert_eq!(other.incident.confidence, Confidence::Inferred);
}

/// A RST long after a refusal in the same buffer answers a retransmission that was not refused.
#[test]
fn a_refusal_grows_old() {
    let mut engine = engine(LogFormat::E1);
    engine.event(logged(0).event());
    let late = u64::try_from(Duration::from_secs(3).as_nanos()).unwrap();
    engine.event(reset(late).event());
    let [flow] = flows(engine).try_into().unwrap();
    assert_eq!(flow.incident.diagnosis, Diagnosis::plain(Cause::Unknown));
}

/// Something between the two hooks has copied the buffer: the segment is the same, the proof is not.
#[test]
fn the_same_segment_in_another_buffer_is_inferred() {
    let mut engine = engine(LogFormat::E1);
    engine.event(logged(1_000).event());
    let mut copy = reset(20_000);
    copy.record.skb += 0x100;
    engine.event(copy.event());
    let [flow] = flows(engine).try_into().unwrap();
    assert_eq!(flow.incident.diagnosis, diagnosis(Cause::OutOfWindow, Reason::SeqUnder));
    assert_eq!(flow.incident.confidence, Confidence::Inferred);
}

/// List receive: all refusals of a batch come before the first RST.
#[test]
fn batches_are_distinguished() {
    let mut engine = engine(LogFormat::E1);
    for index in 0..8 {
        let port = 40_000 + u16::try_from(index).unwrap();
        let mut refused = logged(1_000 + index).connection(port);
        refused.record.skb += index;
        engine.event(refused.event());
    }
    for index in (0..8).rev() {
        let port = 40_000 + u16::try_from(index).unwrap();
        let mut answered = reset(2_000 + index).connection(port);
        answered.record.skb += index;
        engine.event(answered.event());
    }
    let flows = flows(engine);
    assert_eq!(flows.len(), 8);
    for flow in flows {
        assert_eq!(flow.incident.confidence, Confidence::Proven);
        let (refused, answered) = (flow.incident.logged.unwrap(), flow.incident.reset.unwrap());
        assert_eq!(refused.event.skb, answered.event.skb);
        assert_eq!(refused.event.packet, answered.event.packet);
    }
}

/// 6.1 and later: the message about the late copy is no refusal.
#[test]
fn what_was_let_pass_names_no_victim() {
    let mut engine = engine(LogFormat::E4);
    let format = "SEQ is under lower bound %u (already ACKed data retransmitted)";
    let remarked = segment(Hook::CtInvalid, 1_000).entry(REPLY, SERVER_END, CLIENT_END);
    engine.event(remarked.words(format, "", SERVER_END - 32_121 - 1).event());
    let [flow] = flows(engine).try_into().unwrap();
    assert_eq!(flow.incident.rank(), EvidenceRank::Ignored);
    assert_eq!((flow.tally().invalid, flow.tally().ignored), (0, 1));
    assert_eq!(flow.reset_by(), None);
}

/// If the log format was detected wrongly, the packet that comes to the stack without its entry shows the verdict.
#[test]
fn a_missing_entry_overrules_the_words() {
    let mut engine = engine(LogFormat::E4);
    let format = "SEQ is under lower bound %u (already ACKed data retransmitted)";
    let remarked = segment(Hook::CtInvalid, 1_000).entry(REPLY, SERVER_END, CLIENT_END);
    engine.event(remarked.words(format, "", SERVER_END - 32_121 - 1).event());
    engine.event(reset(2_000).event());
    let [flow] = flows(engine).try_into().unwrap();
    assert_eq!((flow.tally().invalid, flow.tally().ignored, flow.tally().resets), (1, 0, 1));
    assert_eq!(flow.incident.logged.as_ref().unwrap().verdict, Verdict::Invalid);
    assert_eq!(flow.incident.confidence, Confidence::Proven);
}

/// And the other way round: a packet that still has its entry was not refused, whatever was said about it.
#[test]
fn an_entry_that_is_there_overrules_the_words() {
    let mut engine = engine(LogFormat::E1);
    engine.event(logged(1_000).event());
    engine.event(reset(2_000).entry(REPLY, SERVER_END, CLIENT_END).event());
    let [flow] = flows(engine).try_into().unwrap();
    assert_eq!(flow.incident.diagnosis, Diagnosis::plain(Cause::Unknown));
}

/// From 6.9 on conntrack speaks of the gateway's own RST too. It is an effect, and counts for nothing.
#[test]
fn the_gateway_s_own_rst_is_no_cause() {
    let mut engine = engine(LogFormat::E4);
    let format = "SEQ is over upper bound %u (over the window of the receiver)";
    let refused = segment(Hook::CtInvalid, 1_000).entry(REPLY, OLD - 500_000, CLIENT_END);
    engine.event(refused.words(format, "", OLD - 500_000 + 32_121 + 1).event());
    engine.event(reset(2_000).event());
    let own = Build::from_server(Hook::CtMalformed, 5, 3_000, CLIENT_END, 0)
        .between(([192, 0, 2, 1], 34567), ([192, 0, 2, 2], 443))
        .flags(0x04)
        .words("%s", "invalid new", 0)
        .at(3);
    let observed = engine.event(own.event());
    assert!(matches!(observed.kind, Kind::ResetOutput(_)));
    let (flows, totals) = engine.finish();
    let [flow] = flows.try_into().unwrap();
    assert_eq!((flow.tally().invalid, flow.tally().resets), (1, 1));
    assert!(flow.incident.reset_output.is_some());
    assert_eq!(totals.resets_output, 1);
}

/// The same message about a RST from outside is a refusal.
#[test]
fn a_rst_from_outside_is_refused() {
    let mut engine = engine(LogFormat::E4);
    let stray = segment(Hook::CtMalformed, 3_000).flags(0x04).words("%s", "invalid new", 0).at(0);
    engine.event(stray.event());
    let [flow] = flows(engine).try_into().unwrap();
    assert_eq!(flow.incident.diagnosis, diagnosis(Cause::InvalidState, Reason::InvalidNew));
    assert_eq!(flow.tally().invalid, 1);
}

/// 6.1 says two things about an out-of-window FIN: it is one packet.
#[test]
fn a_remark_is_not_counted() {
    let mut engine = engine(LogFormat::E3);
    let format = "SEQ is over upper bound %u (over the window of the receiver)";
    let fin = || segment(Hook::CtInvalid, 1_000).flags(0x11).entry(REPLY, OLD - 500_000, CLIENT_END);
    engine.event(fin().words(format, "", OLD - 500_000 + 32_121 + 1).event());
    let remark = "packet (index %d, dir %d) response for index %d lower timeout to %u";
    let observed = engine.event(fin().words(remark, "", 3).event());
    assert!(matches!(observed.kind, Kind::Remark(_)));
    let [flow] = flows(engine).try_into().unwrap();
    assert_eq!(flow.tally().invalid, 1);
    assert!(flow.incident.remark.is_some());
}

/// The RST carries the segment's acknowledgement: beyond what the server expects it kills nothing.
#[test]
fn a_rst_that_is_not_exact_does_not_kill() {
    let text = "ACK is over the upper bound (ACKed data not seen yet)";
    let mut engine = engine(LogFormat::E1);
    let far = CLIENT_END + 100_000;
    let refused = Build::from_server(Hook::CtInvalid, SKB, 1_000, SERVER_END, far);
    engine.event(refused.entry(REPLY, SERVER_END, CLIENT_END).words("%s", text, 0).event());
    engine.event(Build::from_server(Hook::ResetV4, SKB, 2_000, SERVER_END, far).event());
    let [flow] = flows(engine).try_into().unwrap();
    assert_eq!(flow.incident.diagnosis, diagnosis(Cause::OutOfWindow, Reason::AckOver));
    assert_eq!(flow.incident.reset.as_ref().unwrap().effect, Effect::Challenged);
    assert_eq!(flow.incident.rank(), EvidenceRank::Answered);
    assert!(!flow.was_reset());
}

/// Data that conntrack does not know of may have reached the server all the same, as much as its window had room for: then the
/// server's acknowledgement of it is exactly what the server expects.
#[test]
fn a_rst_for_what_the_window_has_room_for_may_kill() {
    let text = "ACK is over the upper bound (ACKed data not seen yet)";
    let mut engine = engine(LogFormat::E1);
    let near = CLIENT_END + 400;
    let refused = Build::from_server(Hook::CtInvalid, SKB, 1_000, SERVER_END, near);
    engine.event(refused.entry(REPLY, SERVER_END, CLIENT_END).words("%s", text, 0).event());
    engine.event(Build::from_server(Hook::ResetV4, SKB, 2_000, SERVER_END, near).event());
    let [flow] = flows(engine).try_into().unwrap();
    assert_eq!(flow.incident.reset.as_ref().unwrap().effect, Effect::MayKill);
    assert!(flow.was_reset());
}

/// The overshot's end becomes the server's `td_end`; the client's next data acknowledges too little for that, and is let pass
/// without being recorded; the server's acknowledgement of it is refused.
#[rstest]
#[case::the_overshot_moved_td_end(66_001, &[SERVER_END + 66_001, CLIENT_END + 1_000])]
#[case::something_else_had(66_777, &[CLIENT_END + 1_000])]
fn a_refusal_follows_from_what_was_let_pass(#[case] overshot: u32, #[case] ends: &[u32]) {
    const CLIENT: ([u8; 4], u16) = ([10, 0, 0, 2], 34_567);
    const SERVER: ([u8; 4], u16) = ([192, 0, 2, 2], 443);
    const ORIGINAL: u64 = 0;
    let mut engine = engine(LogFormat::E4);
    let moved = SERVER_END + 66_001;
    let seq = SERVER_END + overshot - 1_000;
    let over = Build::from_server(Hook::CtInvalid, SKB, 1_000, seq, CLIENT_END).entry(REPLY, SERVER_END, CLIENT_END);
    engine.event(over.words("%u bytes more than expected", "", 1_000 + seq - SERVER_END - 32_121 + 1).event());
    let data = Build::from_server(Hook::CtInvalid, SKB + 0x100, 2_000, CLIENT_END, SERVER_END).between(CLIENT, SERVER);
    let old = "ignored ACK under lower bound %u (possible overly delayed)";
    engine.event(data.entry(ORIGINAL, moved, CLIENT_END).words(old, "", SERVER_END).event());
    let answer = |hook| Build::from_server(hook, SKB + 0x200, 3_000, SERVER_END, CLIENT_END + 1_000);
    let unseen = "ACK is over upper bound %u (ACKed data not seen yet)";
    let refused = answer(Hook::CtInvalid).entry(REPLY, moved, CLIENT_END).words(unseen, "", CLIENT_END + 1);
    engine.event(refused.event());
    engine.event(answer(Hook::ResetV4).event());
    let [flow] = flows(engine).try_into().unwrap();
    assert_eq!(flow.incident.diagnosis, diagnosis(Cause::OutOfWindow, Reason::AckOver));
    let follows = flow.incident.follows.iter().map(|logged| logged.event.packet.unwrap().end().0);
    assert_eq!(follows.collect::<Vec<_>>(), ends);
}

/// The RST that answers a SYN has sequence number 0. To a server in the middle of a connection that is nothing; where the entry's
/// connection is over, the server opens a new one, and that fails.
#[rstest]
#[case::established(ESTABLISHED, Effect::Dropped)]
#[case::closed(CLOSE, Effect::Kills)]
fn a_refused_syn_of_the_server(#[case] state: u8, #[case] effect: Effect) {
    const SYN: u8 = 0x02;
    let mut engine = engine(LogFormat::E1);
    let syn = |hook| Build::from_server(hook, SKB, 1_000, SERVER_END + 100_000, 0).flags(SYN);
    let mut refused = syn(Hook::CtInvalid).entry(REPLY, SERVER_END, CLIENT_END);
    refused.record.ct.state = state;
    engine.event(refused.words("invalid state", "", 0).event());
    engine.event(syn(Hook::ResetV4).event());
    let [flow] = flows(engine).try_into().unwrap();
    assert_eq!(flow.incident.diagnosis, diagnosis(Cause::InvalidState, Reason::InvalidState));
    assert_eq!(flow.incident.reset.as_ref().unwrap().effect, effect);
}

/// Its SYN took another way: nothing is known of the connection but that its server is who sends the SYN-ACK.
#[rstest]
#[case::said_so(true)]
#[case::silent(false)]
fn whoever_sends_a_syn_ack_is_the_server(#[case] said_so: bool) {
    const SYN_ACK: u8 = 0x12;
    let mut engine = engine(LogFormat::E4);
    let syn_ack = |hook| Build::from_server(hook, SKB, 1_000, 5, 6).flags(SYN_ACK);
    if said_so {
        // The entry that tcp_new was to fill: its tuples are the packet's own.
        let mut refused = syn_ack(Hook::CtMalformed).entry(NEW, 0, 0);
        let ct = &mut refused.record.ct;
        let server = ct.tuples[1];
        ct.tuples[0] = server;
        (ct.tuples[1].src, ct.tuples[1].dst) = (server.dst, server.src);
        (ct.tuples[1].sport, ct.tuples[1].dport) = (server.dport, server.sport);
        ct.state = 0;
        engine.event(refused.words("%s", "invalid new", 0).event());
    }
    engine.event(syn_ack(Hook::ResetV4).event());
    let [flow] = flows(engine).try_into().unwrap();
    assert_eq!(flow.key.client().to_string(), "192.0.2.1:34567");
    assert_eq!(flow.key.server().to_string(), "192.0.2.2:443");
    assert_eq!(flow.incident.logged.and_then(|logged| logged.direction), None);
}

/// A copy from before the client's last request acknowledges too little: the RST is dropped.
#[test]
fn a_rst_below_the_window_does_not_kill() {
    let mut engine = engine(LogFormat::E1);
    let refused = segment(Hook::CtInvalid, 1_000).entry(REPLY, SERVER_END, CLIENT_END + 400);
    engine.event(refused.words("%s", SEQ_UNDER, 0).event());
    engine.event(reset(2_000).event());
    let [flow] = flows(engine).try_into().unwrap();
    assert_eq!(flow.incident.reset.as_ref().unwrap().effect, Effect::Dropped);
    assert!(!flow.was_reset());
}

#[test]
fn causes_without_a_refusal() {
    let cases = [
        ("a closed port", reset(1).flags(0x02).entry(NEW, 0, 0), Cause::NoListener, ResetBy::GatewayStack),
        ("a closed port, untracked", reset(1).flags(0x02), Cause::NoListener, ResetBy::GatewayStack),
        ("no entry", reset(1).entry(NEW, 0, 0), Cause::NoEntry, ResetBy::GatewayStack),
        ("a socket", reset(1).entry(REPLY, 0, 0).socket(1), Cause::LocalSocket, ResetBy::GatewaySocket),
        ("a rule", segment(Hook::RejectV4, 1).entry(REPLY, 0, 0), Cause::RejectRule, ResetBy::GatewayRejectRule),
        ("nothing known", reset(1), Cause::Unknown, ResetBy::GatewayStack),
    ];
    for (name, build, cause, by) in cases {
        let mut engine = engine(LogFormat::E1);
        engine.event(build.event());
        let [flow] = flows(engine).try_into().unwrap();
        assert_eq!(flow.incident.diagnosis.cause, cause, "{name}");
        assert_eq!(flow.reset_by(), Some(by), "{name}");
    }
    let mut engine = engine(LogFormat::E1);
    let mut untracked = reset(1);
    untracked.record.nfct = 7;
    engine.event(untracked.event());
    assert_eq!(flows(engine)[0].incident.diagnosis.cause, Cause::NotTracked);
}

/// The socket gets the segment without its entry, although that was accepted: `tcp_v4_rcv` has called `nf_reset_ct`. It
/// answers with a RST, which is for the older connection, and its own attempt goes on. A socket in `TIME_WAIT` is no
/// full one: it gets the segment with what conntrack has left on it, and 0 proves that it was refused.
#[rstest]
#[case::opening(2, (0, 1), Effect::OtherConnection)]
#[case::closing(9, (0, 1), Effect::Unknown)]
#[case::listening(10, (0, 1), Effect::Unknown)]
#[case::time_wait(6, (1, 0), Effect::Unknown)]
#[case::request(12, (1, 0), Effect::Unknown)]
fn what_a_full_socket_answers_was_not_refused_for_having_no_entry(
    #[case] state: u8,
    #[case] counted: (u64, u64),
    #[case] effect: Effect,
    #[values(false, true)] another_buffer: bool,
) {
    let mut engine = engine(LogFormat::E3);
    engine.event(Build::ignored_old_ack(1_000).event());
    let mut answered = Build::old_ack(Hook::ResetV4, 2_000).socket(state);
    answered.record.skb += u64::from(another_buffer);
    engine.event(answered.event());
    let [flow] = flows(engine).try_into().unwrap();
    let tally = flow.tally();
    assert_eq!((tally.invalid, tally.ignored, tally.resets), (counted.0, counted.1, 1));
    let believed = if counted.0 == 1 { Verdict::Invalid } else { Verdict::Ignored };
    assert_eq!(flow.incident.logged.as_ref().unwrap().verdict, believed);
    assert_eq!(flow.incident.diagnosis, Diagnosis::plain(Cause::LocalSocket));
    assert_eq!(flow.incident.reset.as_ref().unwrap().effect, effect);
    assert_eq!(flow.was_reset(), effect == Effect::Unknown);
}

/// Addresses and ports are used again. What became of the entry of an older connection is not the story of a segment that
/// a full socket gets: that it has no entry shows nothing.
#[test]
fn an_older_entry_is_not_that_of_a_full_socket() {
    let answered = |socket: u8| {
        let mut build = reset(9_000).destroyed(1_000, TIME_WAIT, 0, 0, 0).socket(socket);
        build.record.nfct = 0;
        let mut engine = engine(LogFormat::E3);
        engine.event(build.event());
        let [flow] = flows(engine).try_into().unwrap();
        (flow.incident.destroyed().is_some(), flow.incident.reset.unwrap().effect == Effect::Closed)
    };
    assert_eq!(answered(1), (false, false));
    assert_eq!(answered(6), (true, true), "one in TIME_WAIT");
}

/// A rule that rejects INVALID sends the RST; conntrack's refusal is a step of the incident, not its cause.
#[test]
fn a_rule_that_rejects_invalid() {
    let mut engine = engine(LogFormat::E1);
    engine.event(logged(1_000).event());
    engine.event(segment(Hook::RejectV4, 2_000).event());
    let [flow] = flows(engine).try_into().unwrap();
    assert_eq!(flow.incident.diagnosis, Diagnosis::plain(Cause::RejectRule));
    assert_eq!(flow.reset_by(), Some(ResetBy::GatewayRejectRule));
    assert!(flow.incident.logged.is_some());
    assert_eq!((flow.tally().invalid, flow.tally().resets), (1, 1));
}

/// Client and server may live in namespaces of the same host. The server's own RST, after the gateway's has killed it,
/// is an effect, also where the server tracks its connections; the same RST for a connection that the gateway has not
/// touched is the server's business.
#[rstest]
#[case::untracked(false)]
#[case::tracked(true)]
fn the_server_s_own_rst_is_an_effect(#[case] tracked: bool) {
    let server = GATEWAY + 1;
    let answer = || {
        let segment = Build::from_server(Hook::ResetV4, 9, 3_000, CLIENT_END, SERVER_END);
        let segment = segment.between(([192, 0, 2, 1], 34567), ([192, 0, 2, 2], 443)).netns(server);
        if !tracked {
            return segment;
        }
        let mut known = segment.entry(ESTABLISHED_ORIGINAL, SERVER_END, CLIENT_END);
        known.record.ct.tuples[0].src[..4].copy_from_slice(&[192, 0, 2, 1]);
        known
    };
    let mut with_gateway = engine(LogFormat::E1);
    with_gateway.event(logged(1_000).event());
    with_gateway.event(reset(2_000).event());
    let observed = with_gateway.event(answer().event());
    assert!(matches!(observed.kind, Kind::PeerReset(_)));
    let [flow] = flows(with_gateway).try_into().unwrap();
    assert_eq!(flow.tally().resets, 1);
    assert_eq!(made_in(&flow), Some(server));

    // A remark on one of its segments is no reason for the server's RST.
    let mut beside = engine(LogFormat::E3);
    beside
        .event(segment(Hook::CtInvalid, 1_000).entry(REPLY, SERVER_END, CLIENT_END).words("%s", SEQ_UNDER, 0).event());
    beside.event(answer().event());
    assert_eq!(flows(beside).len(), 1 + usize::from(tracked));

    let mut alone = engine(LogFormat::E1);
    alone.event(answer().event());
    let [flow] = flows(alone).try_into().unwrap();
    assert_eq!(flow.is_untracked_here(), !tracked);
}

/// Two gateways of one host have a connection each between the same addresses and ports, and reset both. The servers' own
/// RSTs come in the other order: which gateway each belongs to follows from the sequence numbers, also where those are near.
#[rstest]
#[case::opened_a_minute_apart(1_000_000_000)]
#[case::opened_a_millisecond_apart(15_625)]
fn the_ends_of_twins_are_distinguished(#[case] apart: u32) {
    let (twin, server, other_server) = (GATEWAY + 7, GATEWAY + 1, GATEWAY + 8);
    let mut engine = engine(LogFormat::E1);
    let of_twin = |hook, time| {
        let (server_end, client_end) = (SERVER_END.wrapping_add(apart), CLIENT_END.wrapping_add(apart));
        let segment = Build::from_server(hook, SKB + 0x100, time, OLD.wrapping_add(apart), client_end).netns(twin);
        segment.entry(REPLY, server_end, client_end)
    };
    engine.event(logged(1_000).event());
    engine.event(reset(2_000).event());
    engine.event(of_twin(Hook::CtInvalid, 3_000).words("%s", SEQ_UNDER, 0).event());
    let mut answered = of_twin(Hook::ResetV4, 4_000);
    answered.record.nfct = 0;
    answered.record.present &= !tracer_common::wire::present::CONNTRACK;
    engine.event(answered.event());
    let of_server = |netns, seq: u32, time| {
        let segment = Build::from_server(Hook::ResetV4, 9, time, seq, 1);
        segment.between(([192, 0, 2, 1], 34567), ([192, 0, 2, 2], 443)).netns(netns).event()
    };
    engine.event(of_server(other_server, CLIENT_END.wrapping_add(apart), 5_000));
    engine.event(of_server(server, CLIENT_END.wrapping_add(20), 6_000));
    // A third connection between the same addresses and ports, that no gateway has touched.
    let other = engine.event(of_server(server, CLIENT_END.wrapping_sub(100_000), 7_000));
    assert!(matches!(other.kind, Kind::Reset(..)));
    let [one, other, rest] = flows(engine).try_into().unwrap();
    assert_eq!(made_in(&one), Some(server));
    assert_eq!((other.key.netns, made_in(&other)), (Some(twin), Some(other_server)));
    assert!(rest.is_untracked_here());
}

/// Two gateways with the same addresses, in two namespaces of one host.
#[test]
fn namespaces_are_distinguished() {
    let mut engine = engine(LogFormat::E1);
    engine.event(logged(1_000).event());
    engine.event(logged(1_100).netns(GATEWAY + 7).event());
    engine.event(reset(2_000).netns(GATEWAY + 7).event());
    let [one, other] = flows(engine).try_into().unwrap();
    assert_eq!(one.incident.rank(), EvidenceRank::Refused);
    assert_eq!(other.key.netns, Some(GATEWAY + 7));
    assert_eq!(other.incident.rank(), EvidenceRank::Killed);
}

/// The incident with the highest rank is reported, the first of several; everything is counted.
#[test]
fn the_first_deadly_incident_is_reported() {
    let mut engine = engine(LogFormat::E1);
    let over = |time: u64, skb: u64| {
        let mut build = Build::from_server(Hook::CtInvalid, skb, time, OLD + 9_000_000, CLIENT_END);
        build = build.entry(REPLY, SERVER_END, CLIENT_END).words("%s", SEQ_OVER, 0);
        build
    };
    engine.event(over(1_000, 1).event());
    engine.event(logged(2_000).event());
    engine.event(reset(2_500).event());
    engine.event(over(3_000, 3).event());
    engine.event(Build::from_server(Hook::ResetV4, 3, 3_500, OLD + 9_000_000, CLIENT_END).event());
    let [flow] = flows(engine).try_into().unwrap();
    assert_eq!(flow.incident.diagnosis, diagnosis(Cause::OutOfWindow, Reason::SeqUnder));
    assert_eq!((flow.tally().invalid, flow.tally().resets), (3, 2));
    assert_eq!(flow.causes.len(), 2);
}

/// With more flows than fit, those that were not reset go first, and nothing is missing from the counts.
#[test]
fn forgotten_flows_stay_counted() {
    let limits = Limits { flows: 10, ..Limits::default() };
    let mut engine = Engine::new(LogFormat::E1, limits, Filter::default());
    engine.event(logged(1).event());
    engine.event(reset(2).event());
    for index in 0..100 {
        let mut build = logged(10 + index).connection(40_000 + u16::try_from(index).unwrap());
        build.record.skb += 1 + index;
        engine.event(build.event());
    }
    assert_eq!(engine.load().0, 10);
    let (flows, totals) = engine.finish();
    assert!(flows.iter().any(|flow| flow.was_reset()), "the victim is kept");
    let kept: u64 = flows.iter().map(|flow| flow.tally().invalid).sum();
    let forgotten: u64 = totals.forgotten.causes.values().map(|(_, tally)| tally.invalid).sum();
    assert_eq!(kept + forgotten, 101);
    assert_eq!(totals.forgotten.flows, 91);
    assert_eq!(totals.forgotten.reset, 0);
}

/// An evicted flow with further events is the same flow, whether the event has its entry or only its packet.
#[test]
fn forgotten_flows_are_known_again() {
    let limits = Limits { flows: 2, ..Limits::default() };
    let mut engine = Engine::new(LogFormat::E1, limits, Filter::default());
    for round in 0..3_u64 {
        for port in 40_000..40_010 {
            let at = round * 10_000_000_000 + u64::from(port);
            let mut refused = logged(at).connection(port);
            refused.record.skb += u64::from(port);
            let first = engine.event(refused.event()).flow.unwrap();
            let mut answered = reset(at + 5).connection(port);
            answered.record.skb += u64::from(port);
            assert_eq!(engine.event(answered.event()).flow, Some(first));
            let later = Build::from_server(Hook::ResetV4, 9, at + 7, OLD, CLIENT_END).connection(port);
            assert_eq!(engine.event(later.event()).flow, Some(first), "port {port} in round {round}");
        }
    }
    let (flows, totals) = engine.finish();
    assert_eq!((flows.len() as u64 + totals.forgotten.flows, totals.events), (10, 90));
    assert_eq!(flows.iter().filter(|flow| flow.was_reset()).count() as u64 + totals.forgotten.reset, 10);
    let mut tally = Tally::default();
    for flow in &flows {
        tally.add(flow.tally());
    }
    for (_, forgotten) in totals.forgotten.causes.values() {
        tally.add(*forgotten);
    }
    assert_eq!((tally.invalid, tally.resets), (30, 60));
}

/// A filter keeps flows out from the start; their events are counted as such.
#[test]
fn unwanted_flows_take_no_room() {
    let filter = Filter { ports: vec![40_000], ..Filter::default() };
    let mut engine = Engine::new(LogFormat::E1, Limits::default(), filter);
    assert!(matches!(engine.event(logged(1).event()).kind, Kind::Unwanted));
    assert!(matches!(engine.event(reset(2).event()).kind, Kind::Unwanted));
    let wanted = engine.event(logged(3).connection(40_000).event());
    assert_eq!(wanted.flow, Some(FlowId(0)));
    let (flows, totals) = engine.finish();
    assert_eq!((flows.len(), totals.unwanted, totals.events), (1, 2, 3));
}
