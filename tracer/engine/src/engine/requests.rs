//! What the engine asks the kernel for, when, and what it makes of the answers.

use std::time::Duration;

use tracer_common::Hook;
use tracer_model::capture::{LookUp, LookedUp, Outcome};
use tracer_model::cause::{Cause, Diagnosis};
use tracer_model::conntrack::log_format::LogFormat;
use tracer_model::conntrack::{Status, TcpState, Tuple};
use tracer_model::time::Instant;
use tracer_testing::{Build, GATEWAY};

use super::Request;
use super::tests::{CLIENT_END, OLD, engine, flows, logged, reset};

/// A message that was lost leaves a RST without a cause; the entry's owner is found by asking the kernel.
#[test]
fn the_client_is_named_by_a_look_up() {
    let mut engine = engine(LogFormat::E1);
    engine.event(reset(1_000).event());
    let requests = engine.requests(Instant(1_000));
    let asked = requests.iter().find_map(|request| match request {
        Request::LookUp(look_up) => Some(*look_up),
        Request::Netns(_) | Request::Rules(_) | Request::TableUsage(_) | Request::HostContext(_) => None,
    });
    let look_up = asked.unwrap();
    assert_eq!(look_up.tuple.src.to_string(), "192.0.2.2:443");
    let tuple = |src: &str, dst: &str| Tuple { src: src.parse().unwrap(), dst: dst.parse().unwrap() };
    let outcome = Outcome::Found {
        original: tuple("10.0.0.2:34567", "192.0.2.2:443"),
        reply: tuple("192.0.2.2:443", "192.0.2.1:34567"),
        state: Some(TcpState::Established),
        timeout_s: Some(431_999),
        status: Status(0x1e),
    };
    engine.looked_up(LookedUp { look_up, at: Instant(2_000), outcome });
    let [flow] = flows(engine).try_into().unwrap();
    assert_eq!(flow.key.client().to_string(), "10.0.0.2:34567");
    assert_eq!(flow.key.nat().unwrap().to_string(), "192.0.2.1:34567");
    assert_eq!(flow.incident.diagnosis, Diagnosis::plain(Cause::Unknown));
}

/// The rules of a namespace are asked for when one of them rejects for the first time, and when the capture ends.
#[test]
fn rules_are_asked_for_once_and_at_the_end() {
    let mut engine = engine(LogFormat::E1);
    let rejected = |skb: u64| Build::from_server(Hook::RejectV4, skb, 1_000 + skb, OLD, CLIENT_END).event();
    let asked = |requests: Vec<Request>| requests.iter().filter(|request| **request == Request::Rules(GATEWAY)).count();
    engine.event(reset(1_000).event());
    assert_eq!(asked(engine.requests(Instant(1_000))), 0, "the stack's RST has no rule behind it");
    engine.event(rejected(1));
    assert_eq!(engine.next_request(), Some(Instant(0)));
    assert_eq!(asked(engine.requests(Instant(2_000))), 1);
    engine.event(rejected(2));
    assert_eq!(asked(engine.requests(Instant(3_000))), 0);
    assert_eq!(asked(engine.last_requests()), 1);
}

/// Look-ups go on until the entry's end is known, and only changes are kept.
#[test]
fn an_entry_is_followed_to_its_end() {
    let mut engine = engine(LogFormat::E1);
    engine.event(logged(0).event());
    engine.event(reset(1_000).event());
    let look_up = LookUp {
        netns: GATEWAY,
        zone: 0,
        tuple: Tuple { src: "10.0.0.2:34567".parse().unwrap(), dst: "192.0.2.2:443".parse().unwrap() },
    };
    let found = |state| Outcome::Found {
        original: look_up.tuple,
        reply: look_up.tuple.reversed(),
        state: Some(state),
        timeout_s: Some(10),
        status: Status(0x1e),
    };
    let second = u64::try_from(Duration::from_secs(1).as_nanos()).unwrap();
    for (at, state) in [(0, TcpState::Established), (1, TcpState::Established), (2, TcpState::Close)] {
        let now = Instant(1_000 + at * second);
        assert!(engine.requests(now).contains(&Request::LookUp(look_up)), "at {at} s");
        engine.looked_up(LookedUp { look_up, at: now, outcome: found(state) });
    }
    assert_eq!(engine.next_request(), None, "an entry in CLOSE is not asked for again");
    let [flow] = flows(engine).try_into().unwrap();
    assert_eq!(flow.entry_statuses.len(), 2);
    assert_eq!(flow.entry_statuses[1].not_before, Some(Instant(1_000 + second)));
}
