//! The engine's cases of RSTs that the ends and the gateway's own sockets send.

use zerocopy::FromZeros;

use tracer_common::Hook;
use tracer_model::capture::{DestroyedTuples, LookUp, LookedUp, Outcome};
use tracer_model::cause::{Cause, Confidence, Diagnosis, Reason, ResetBy};
use tracer_model::conntrack::log_format::LogFormat;
use tracer_model::conntrack::{Status, TcpState, Tuple};
use tracer_model::filter::Filter;
use tracer_model::time::Instant;
use tracer_testing::{Build, GATEWAY, REPLY};

use super::{Engine, Kind, Request};
use crate::Limits;
use crate::flow::{EvidenceRank, Flow};

const SKB: u64 = 0xffff_8881_0000_0200;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
const SERVER_SEQ: u32 = 3_271_668_047;
const CLIENT_END: u32 = 2_102_471_179;

fn engine() -> Engine {
    Engine::new(LogFormat::E4, Limits::default(), Filter::default())
}

/// A RST of the server's arrives.
fn received(time: u64) -> Build {
    let mut build = Build::from_server(Hook::TcxTap, SKB, time, SERVER_SEQ, CLIENT_END).flags(RST);
    build.record.payload_len = 0;
    build.record.present &= !tracer_common::wire::present::NFCT;
    build
}

fn tuples() -> [Tuple; 2] {
    let tuple = |src: &str, dst: &str| Tuple { src: src.parse().unwrap(), dst: dst.parse().unwrap() };
    [tuple("10.0.0.2:34567", "192.0.2.2:443"), tuple("192.0.2.2:443", "192.0.2.1:34567")]
}

fn only(engine: Engine) -> Flow {
    let [flow]: [Box<Flow>; 1] = engine.finish().0.try_into().unwrap();
    *flow
}

fn look_up(engine: &mut Engine, now: u64) -> LookUp {
    let of_flow = |request: Request| match request {
        Request::LookUp(look_up) => Some(look_up),
        _ => None,
    };
    engine.requests(Instant(now)).into_iter().find_map(of_flow).unwrap()
}

/// The tap sees a RST, and a look-up that conntrack knows the connection: it was forwarded.
#[test]
fn a_rst_that_arrives_is_an_ends() {
    let mut engine = engine();
    let observed = engine.event(received(1_000).event());
    assert!(matches!(observed.kind, Kind::ResetReceived(_)));
    let look_up = look_up(&mut engine, 2_000);
    let [original, reply] = tuples();
    assert_eq!((look_up.netns, look_up.tuple), (GATEWAY, reply), "by the packet's own endpoints");
    let outcome =
        Outcome::Found { original, reply, state: Some(TcpState::Close), timeout_s: Some(10), status: Status(0x1e) };
    engine.looked_up(LookedUp { look_up, at: Instant(3_000), outcome });
    let flow = only(engine);
    assert_eq!(flow.key.client().to_string(), "10.0.0.2:34567");
    assert_eq!(flow.incident.diagnosis, Diagnosis::plain(Cause::PeerReset));
    assert_eq!((flow.reset_by(), flow.incident.confidence), (Some(ResetBy::Peer), Confidence::Proven));
    assert_eq!(flow.end(flow.peer_reset.as_ref().unwrap().tuple.src), Some("server"));
    assert_eq!((flow.tally().forwarded, flow.tally().resets, flow.was_reset()), (1, 0, false));
}

/// A RST that answers a SYN ends the entry at once: what a hook has seen end stands in for it. One that ended before does not.
#[test]
fn a_refused_connection_is_known_by_its_destroyed_entry() {
    for (ended, expected) in [(1_500, Confidence::Proven), (500, Confidence::Inferred)] {
        let mut engine = engine();
        let mut refuses = received(1_000).flags(RST | ACK);
        refuses.record.l4[4..8].fill(0);
        engine.event(refuses.event());
        let look_up = look_up(&mut engine, 2_000);
        let [original, reply] = tuples();
        let was = Some(DestroyedTuples { ended: Instant(ended), original, reply });
        engine.looked_up(LookedUp { look_up, at: Instant(3_000), outcome: Outcome::NotFound { was } });
        let flow = only(engine);
        assert_eq!(flow.incident.confidence, expected);
        // Either way the one who refuses is the server.
        assert_eq!(flow.key.server().to_string(), "192.0.2.2:443");
    }
}

/// conntrack refuses the RST that has arrived: it does not reach the client, and nothing was reset.
#[test]
fn a_rst_that_is_refused_is_not_forwarded() {
    let mut engine = engine();
    engine.event(received(1_000).event());
    let mut logged = Build::from_server(Hook::CtInvalid, SKB, 1_010, SERVER_SEQ, CLIENT_END).flags(RST);
    logged.record.payload_len = 0;
    let logged = logged.entry(REPLY, SERVER_SEQ, CLIENT_END).words("invalid rst", "", 0);
    engine.event(logged.event());
    let (flows, _) = engine.finish();
    let flow = flows.iter().find(|flow| flow.known).unwrap();
    let expected = Diagnosis { cause: Cause::InvalidState, reason: Some(Reason::InvalidRst) };
    assert_eq!(flow.incident.diagnosis, expected);
    assert_eq!((flow.reset_by(), flow.incident.rank()), (None, EvidenceRank::Refused));
    assert!(flows.iter().all(|flow| flow.reset_by().is_none()), "{flows:?}");
}

/// A bridge shows again what came in by its port: one RST, by the first interface.
#[test]
fn what_two_interfaces_show_is_counted_once() {
    let mut engine = engine();
    engine.event(received(1_000).event());
    let mut again = received(1_100);
    again.record.in_index = 9;
    let observed = engine.event(again.event());
    assert!(matches!(observed.kind, Kind::Remark(_)));
    assert_eq!(only(engine).tally().forwarded, 1);
}

/// A service of the gateway's closes with data unread: nothing is answered, and the process is known.
#[test]
fn a_socket_resets_of_its_own_accord() {
    let mut record = tracer_common::wire::Record::new_zeroed();
    let answered = Build::from_server(Hook::ActiveReset, 0, 1_000, 0, 0).socket(7);
    (record.version, record.hook, record.time_ns) = (3, Hook::ActiveReset as u16, 1_000);
    (record.netns, record.sk, record.sk_state) = (GATEWAY, answered.record.sk, 7);
    record.present =
        tracer_common::wire::present::NETNS | tracer_common::wire::present::SOCKET | tracer_common::wire::present::OWN;
    let own = &mut record.own;
    (own.tuple.l3num, own.tuple.protonum, own.pid) = (10, 6, 4_711);
    // ::ffff:10.0.0.1, the address of a socket that takes both families.
    own.tuple.src = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1];
    own.tuple.dst = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 2];
    (own.tuple.sport, own.tuple.dport) = (8_080_u16.to_be_bytes(), 34_567_u16.to_be_bytes());
    own.comm[..5].copy_from_slice(b"nginx");
    let mut engine = engine();
    engine.event(Build { record }.event());
    let flow = only(engine);
    assert_eq!(flow.incident.diagnosis, Diagnosis::plain(Cause::LocalSocket));
    assert_eq!((flow.reset_by(), flow.was_reset()), (Some(ResetBy::GatewaySocket), true));
    assert_eq!(flow.key.client().to_string(), "10.0.0.2:34567");
    assert_eq!(flow.key.server().to_string(), "10.0.0.1:8080");
    let reset = flow.incident.reset.unwrap();
    let own = reset.event.own_socket().unwrap();
    assert_eq!(own.process.unwrap().to_string(), "nginx (process 4711)");
}
