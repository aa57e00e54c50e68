//! The window picture: places and labels, wherever on the circle of sequence numbers.

use proptest::prelude::*;

use tracer_common::Hook;
use tracer_engine::flow::ConntrackVerdict;
use tracer_model::conntrack::window::{BoundSource, Explanation, Failure};
use tracer_model::conntrack::{Direction, Seen, Seq, Verdict};
use tracer_testing::Build;

use super::{draw, picture, plan};
use crate::html::canvas::tests::labels_are_readable;
use crate::html::tests::{golden, recordings, report_of};

fn logged(seq: u32, ack: u32) -> ConntrackVerdict {
    ConntrackVerdict {
        event: Box::new(Build::from_server(Hook::CtInvalid, 1, 1, seq, ack).event()),
        verdict: Verdict::Invalid,
        direction: Some(Direction::Reply),
        window: None,
    }
}

#[test]
fn every_recording() {
    let mut seen = 0;
    for path in recordings() {
        for flow in report_of(&path).flows {
            let incident = flow.flow.incident;
            for logged in incident.follows.iter().chain(&incident.logged) {
                let Some(window) = &logged.window else { continue };
                let (canvas, height) = picture(logged, window);
                labels_are_readable(&canvas, super::WIDTH, height);
                seen += 1;
            }
        }
    }
    assert!(seen > 50, "{seen} windows");
}

/// The labels of the incident in the documentation, in drawing order.
#[test]
fn the_late_retransmission() {
    let sender =
        Seen { td_end: Seq(3_271_668_047), td_maxend: Seq(3_271_700_168), td_maxwin: 64_000, ..Seen::default() };
    let receiver = Seen { td_end: Seq(2_102_471_179), td_maxwin: 32_121, ..Seen::default() };
    let window = Explanation {
        failure: Failure::SeqUnder,
        bound: Seq(3_271_635_926),
        value: Seq(3_270_669_047),
        distance: 966_879,
        sender,
        receiver,
        direction: Direction::Reply,
        source: BoundSource::Entry,
        agrees: true,
    };
    let plan = plan(&logged(3_270_668_047, 2_102_471_179), &window);
    assert!(!plan.above);
    assert_eq!(plan.missed, 0);
    let places: Vec<i64> = plan.segment.iter().chain(&plan.window).map(|point| point.at).collect();
    assert_eq!(places, [-967_879, -966_879, 0, 32_121, 64_242]);
}

#[test]
fn the_picture_of_the_late_retransmission() {
    let report = golden("5.10/late-retransmission");
    let logged = report.flows[0].flow.incident.logged.as_ref().unwrap();
    let svg = draw(logged, logged.window.as_ref().unwrap(), "w1", "title");
    insta::assert_snapshot!(svg.replace("><", ">\n<"));
}

prop_compose! {
    /// An explanation whose numbers need not make sense: a recording may say anything.
    fn explanation()(
        failure in prop::sample::select(
            &[Failure::SeqOver, Failure::Overshot, Failure::SeqUnder, Failure::AckOver, Failure::AckUnder][..]
        ),
        source in prop::sample::select(&[BoundSource::Entry, BoundSource::EntryAndKernel, BoundSource::Kernel][..]),
        value in any::<u32>(),
        distance in prop_oneof![1u32..4, 1u32..100_000, 1u32..=0x7fff_ffff],
        ends in any::<[u32; 4]>(),
        near in any::<bool>(),
        windows in any::<[u32; 2]>(),
        agrees in any::<bool>(),
    ) -> Explanation {
        let above = matches!(failure, Failure::SeqOver | Failure::Overshot | Failure::AckOver);
        let bound = if above { Seq(value).minus(distance) } else { Seq(value).plus(distance) };
        let ends = ends.map(|end| if near { bound.plus(end % 200_000) } else { Seq(end) });
        let seen = |at: usize| Seen {
            td_end: ends[at],
            td_maxend: ends[at + 1],
            td_maxwin: if near { windows[at] % 3_000_000 } else { windows[at] },
            ..Seen::default()
        };
        let (sender, receiver) = (seen(0), seen(1));
        Explanation {
            failure, bound, value: Seq(value), distance, sender, receiver, direction: Direction::Reply, source, agrees,
        }
    }
}

proptest! {
    #[test]
    fn every_label_of_any_window_is_readable(window in explanation(), seq in any::<u32>(), near in any::<bool>()) {
        let logged = logged(if near { window.value.0 } else { seq }, window.value.0);
        let (canvas, height) = picture(&logged, &window);
        labels_are_readable(&canvas, super::WIDTH, height);
        let plan = plan(&logged, &window);
        prop_assert_eq!(plan.window[plan.missed].at, 0);
        let inside = plan.window.iter().all(|point| point.at == 0 || (point.at < 0) == plan.above);
        prop_assert!(inside, "{plan:?}");
    }

    /// The same window anywhere on the circle gives the same places.
    #[test]
    fn the_wrap_is_nowhere(window in explanation(), shift in any::<u32>()) {
        let moved = |seen: Seen| Seen { td_end: seen.td_end.plus(shift), td_maxend: seen.td_maxend.plus(shift), ..seen };
        let shifted = Explanation {
            bound: window.bound.plus(shift),
            value: window.value.plus(shift),
            sender: moved(window.sender),
            receiver: moved(window.receiver),
            ..window
        };
        let places = |logged: &ConntrackVerdict, window: &Explanation| -> Vec<i64> {
            let plan = plan(logged, window);
            plan.segment.iter().chain(&plan.window).map(|point| point.at).collect()
        };
        let here = logged(window.value.0, window.value.0);
        let there = logged(shifted.value.0, shifted.value.0);
        prop_assert_eq!(places(&here, &window), places(&there, &shifted));
    }
}
