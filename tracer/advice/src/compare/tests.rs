//! Comparisons of synthetic captures.

use std::collections::BTreeMap;

use rstest::rstest;

use tracer_common::Hook;
use tracer_engine::session::Session;
use tracer_model::capture::{Counters, HookCounters, HookState, HookStatus, Host, Item, Netns, Origin};
use tracer_model::cause::Cause;
use tracer_model::conntrack::log_format::LogFormat;
use tracer_model::filter::Filter;
use tracer_model::time::Instant;
use tracer_testing::{Build, GATEWAY, REPLY};

use super::rate::Difference;
use super::{Comparison, Row, Side, Verdict};
use crate::report::Report;

const SECOND: u64 = 1_000_000_000;
/// The default hooks of a capture.
const HOOKS: [Hook; 3] = [Hook::CtInvalid, Hook::ResetV4, Hook::RejectV4];

/// A builder of captures.
struct Capture {
    seconds: u64,
    /// Connections that a late retransmission kills.
    killed: u16,
    /// Connections with a refused packet that nobody answers.
    refused: u16,
    lost: u64,
    hooks: Vec<Hook>,
    netns: Vec<Netns>,
}

impl Capture {
    fn new(seconds: u64, killed: u16) -> Self {
        Self { seconds, killed, refused: 0, lost: 0, hooks: HOOKS.to_vec(), netns: vec![netns(GATEWAY, &[])] }
    }

    fn side(self) -> Side {
        let host = Host { log_format: LogFormat::E1, hostname: "gw-1".to_owned(), ..Host::nobody() };
        let mut session = Session::new(host, Filter::default());
        for hook in self.hooks {
            session.item(&Item::Hook(HookStatus { hook, since: Instant(0), state: HookState::Attached }));
        }
        for number in 0..self.killed + self.refused {
            let (skb, at) = (u64::from(number) * 4_096, u64::from(number) * 1_000);
            let late = |hook| Build::from_server(hook, skb, at, 3_270_668_047, 2_102_471_179);
            let refused = late(Hook::CtInvalid).entry(REPLY, 3_271_668_047, 2_102_471_179);
            let words = "SEQ is under the lower bound (already ACKed data retransmitted)";
            session.item(&Item::Record(refused.words("%s", words, 0).connection(1_024 + number).bytes()));
            if number < self.killed {
                session.item(&Item::Record(late(Hook::ResetV4).connection(1_024 + number).bytes()));
            }
        }
        for netns in self.netns {
            session.item(&Item::Netns(netns));
        }
        let mut counters = vec![HookCounters::default(); tracer_common::hook::COUNT];
        counters[Hook::ResetV4.index()].0[tracer_common::counter::LOST] = self.lost;
        let at = Instant(self.seconds.min(1) * SECOND);
        session.item(&Item::Counters(Counters { at, hooks: counters, lost_on: Vec::new(), table_full: Vec::new() }));
        session.item(&Item::Ended(Instant(self.seconds * SECOND)));
        let background = session.background();
        Side { report: Report::new(session.finish(Origin::Live)), background }
    }
}

fn netns(inode: u32, sysctls: &[(&str, i64)]) -> Netns {
    Netns {
        inode,
        name: None,
        at: Instant(2),
        entries: Some(7),
        max: None,
        invalid: None,
        sysctls: sysctls.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
    }
}

fn compared(before: Capture, after: Capture) -> Comparison {
    Comparison::new(before.side(), after.side())
}

#[rstest]
#[case::mitigated(Capture::new(600, 40), Capture::new(600, 0), "fewer")]
#[case::worse(Capture::new(600, 4), Capture::new(600, 40), "more")]
#[case::same(Capture::new(600, 40), Capture::new(600, 38), "no-difference-shown")]
#[case::same_rate(Capture::new(600, 100), Capture::new(60, 10), "no-difference-shown")]
#[case::too_short(Capture::new(600, 40), Capture::new(1, 0), "too-few")]
#[case::too_few(Capture::new(600, 2), Capture::new(600, 0), "too-few")]
#[case::nothing(Capture::new(600, 0), Capture::new(600, 0), "too-few")]
#[case::no_time(Capture::new(600, 40), Capture::new(0, 0), "too-few")]
#[case::lost_on_the_side_with_less(
    Capture::new(600, 40),
    Capture { lost: 30, ..Capture::new(600, 0) },
    "lost-events"
)]
#[case::lost_on_the_side_with_more(Capture { lost: 30, ..Capture::new(600, 40) }, Capture::new(600, 0), "fewer")]
#[case::few_lost(Capture::new(600, 40), Capture { lost: 3, ..Capture::new(600, 0) }, "fewer")]
#[case::rejects_not_watched(
    Capture::new(600, 40),
    Capture { hooks: vec![Hook::CtInvalid, Hook::ResetV4], ..Capture::new(600, 0) },
    "not-watched"
)]
#[case::taps_do_not_show_own_resets(
    Capture::new(600, 40),
    Capture { hooks: [&HOOKS[..], &[Hook::TcxTap]].concat(), ..Capture::new(600, 0) },
    "fewer"
)]
fn resets(#[case] before: Capture, #[case] after: Capture, #[case] verdict: &str) {
    assert_eq!(compared(before, after).total.reset.name(), verdict);
}

/// A rule that drops INVALID packets prevents resets. Conntrack refuses as many packets as before.
#[test]
fn a_drop_rule_leaves_the_refusals() {
    let Comparison { total, by_cause, by_server, routes, .. } =
        compared(Capture::new(600, 40), Capture { refused: 42, ..Capture::new(600, 0) });
    assert_eq!((total.before.invalid, total.after.invalid), (40, 42));
    assert_eq!((total.reset.name(), total.not_reset.name()), ("fewer", "more"));
    assert_eq!((by_cause.len(), by_server.len(), routes.len()), (1, 1, 1));
    assert_eq!(by_cause[0].of.to_string(), "out-of-window/seq-under");
    assert_eq!(by_server[0].of.to_string(), "192.0.2.2:443");
    assert_eq!(routes[0].of.client.to_string(), "10.0.0.2");
    let rows = [by_cause[0].before, by_server[0].before, routes[0].before];
    assert!(rows.iter().all(|count| *count == total.before));
}

/// Only causes that both captures can see are compared.
#[test]
fn causes_are_watched_each_for_itself() {
    let without = Capture { hooks: vec![Hook::ResetV4], killed: 30, ..Capture::new(600, 0) };
    let comparison = compared(without, Capture::new(600, 1));
    let row = |cause: Cause| {
        let found: Vec<&Row<_>> = comparison.by_cause.iter().filter(|row| row.of.cause == cause).collect();
        found[0].reset
    };
    assert_eq!(row(Cause::OutOfWindow), Verdict::NotWatched);
    assert!(
        comparison.caveats.iter().any(|caveat| caveat.starts_with("attached only after: nf_ct_l4proto_log_invalid"))
    );
}

#[test]
fn settings_are_compared_by_namespace() {
    let before = Capture {
        netns: vec![netns(1, &[("nf_conntrack_tcp_be_liberal", 0)]), netns(2, &[("nf_conntrack_max", 8)])],
        ..Capture::new(60, 0)
    };
    let after = Capture {
        netns: vec![
            netns(1, &[("nf_conntrack_tcp_be_liberal", 1), ("nf_conntrack_count", 9)]),
            Netns { entries: Some(70), ..netns(2, &[("nf_conntrack_max", 8)]) },
            netns(3, &[("nf_conntrack_max", 1)]),
        ],
        ..Capture::new(60, 0)
    };
    let Comparison { changed, load, .. } = compared(before, after);
    let shown = |changes: &[super::Changed]| -> BTreeMap<String, String> {
        let value = |value: &Option<String>| value.clone().unwrap_or_default();
        changes.iter().map(|it| (it.what.clone(), value(&it.before) + "→" + &value(&it.after))).collect()
    };
    assert_eq!(shown(&changed), [("nf_conntrack_tcp_be_liberal".to_owned(), "0→1".to_owned())].into());
    assert_eq!(shown(&load), [("conntrack entries".to_owned(), "7→70".to_owned())].into());
}

#[test]
fn the_same_capture_twice_is_called_so() {
    let comparison = compared(Capture::new(60, 9), Capture::new(60, 9));
    assert_eq!(comparison.total.reset, Verdict::Tested(Difference::None(1.0)));
    assert!(comparison.caveats.contains(&"both recordings are the same capture".to_owned()));
}
