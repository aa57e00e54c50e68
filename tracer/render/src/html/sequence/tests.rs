//! The diagram: of every recording, and of what no recording has.

use proptest::prelude::*;
use rstest::rstest;

use tracer_advice::report::Report;
use tracer_common::Hook;
use tracer_engine::session::Session;
use tracer_model::capture::{Host, Item, Origin};
use tracer_model::filter::Filter;
use tracer_testing::{Build, NEW, REPLY};

use super::draw::{draw, picture};
use super::rows::{Known, Shown, Sign, rows};
use crate::html::canvas::tests::labels_are_readable;
use crate::html::tests::{golden, recordings, report_of};

#[test]
fn every_label_of_every_recording_is_readable() {
    let mut flows = 0;
    for path in recordings() {
        let report = report_of(&path);
        for flow in &report.flows {
            let (canvas, width, height) = picture(flow, &report.host);
            labels_are_readable(&canvas, width, height);
            flows += 1;
        }
    }
    assert!(flows > 200, "{flows} flows");
}

/// The rows of a diagram in short: `=` was seen, `-` is concluded.
fn drawn(report: &Report) -> Vec<String> {
    let rows = rows(&report.flows[0]);
    let brief = |row: &super::rows::Row| {
        let how = match row.known {
            Known::Seen => "=",
            Known::SeenInside => "=-",
            Known::SeenOutside => "-=",
            Known::Concluded => "-",
        };
        let what = match row.shown {
            Shown::Arrow(from, to) => format!("{from:?} {how}> {to:?}"),
            Shown::Sign(at, sign) => format!("{sign:?} {how} {at:?}"),
        };
        what.replace("Inside(", "(").replace("End(", "(").replace('"', "")
    };
    rows.iter().map(brief).collect()
}

#[rstest]
#[case::out_of_window("5.10/late-retransmission")]
#[case::let_pass("7/late-retransmission")]
#[case::follows("7/overshot-then-data")]
#[case::expired("7/entry-expired")]
#[case::never_seen("7/entry-older")]
#[case::rule("7/reject-forward")]
#[case::no_listener("7/no-listener")]
#[case::own_socket("7/service-lingers")]
#[case::client_resets("7/tap-client-aborts")]
#[case::server_refuses("7/tap-server-refuses")]
#[case::not_tracked("7/not-tracked")]
#[case::dropped("7/invalid-dropped")]
#[case::without_kprobes("7/without-kprobes")]
fn what_is_drawn(#[case] name: &str) {
    let report = golden(name);
    insta::with_settings!({ snapshot_suffix => name.replace('/', "-"), omit_expression => true }, {
        insta::assert_snapshot!(drawn(&report).join("\n"));
    });
}

#[test]
fn the_picture_of_the_late_retransmission() {
    let report = golden("5.10/late-retransmission");
    insta::assert_snapshot!(draw(&report.flows[0], &report.host, "s1", "title", "text").replace("><", ">\n<"));
}

/// Only what a hook saw is drawn solid: nothing that happens at an end is, unless the end lives on this host.
#[test]
fn what_happens_elsewhere_is_dashed() {
    for path in recordings() {
        for flow in &report_of(&path).flows {
            for row in rows(flow) {
                if let Shown::Sign(super::rows::Anchor::End(_), sign) = row.shown {
                    assert_eq!(row.known, Known::Concluded, "{}: {sign:?}", path.display());
                    assert!(sign != Sign::Check);
                }
            }
        }
    }
}

/// Messages of conntrack, by number.
fn words(which: u8) -> (&'static str, &'static str) {
    match which {
        0 => ("%s", "SEQ is under the lower bound (already ACKed data retransmitted)"),
        1 => ("SEQ is over upper bound %u (over the window of the receiver)", ""),
        2 => ("ACK is over upper bound %u (ACKed data not seen yet)", ""),
        3 => ("invalid state", ""),
        _ => ("no such words %u %s %d", "of the kernel's"),
    }
}

prop_compose! {
    /// Some events of one connection, at any distance of time.
    fn incident()(
        which in 0u8..5,
        seq in any::<u32>(),
        ack in any::<u32>(),
        flags in any::<u8>(),
        refused in any::<bool>(),
        destroyed in prop::option::of((0u64..1 << 62, any::<i32>())),
        hook in prop::sample::select(&[Hook::ResetV4, Hook::RejectV4][..]),
        nfct in prop::sample::select(&[REPLY, NEW][..]),
        times in prop::collection::vec(prop_oneof![0u64..10, 0u64..1 << 40, 0u64..1 << 62], 3),
        end in any::<u32>(),
        kernel in "\\PC{0,60}",
    ) -> Report {
        let mut times = times;
        times.sort_unstable();
        let host = Host { hostname: kernel, ..Host::nobody() };
        let mut session = Session::new(host, Filter::default());
        if refused {
            let (format, text) = words(which);
            let logged = Build::from_server(Hook::CtInvalid, 1, times[0], seq, ack).flags(flags);
            session.item(&Item::Record(logged.entry(nfct, end, ack).words(format, text, seq).bytes()));
        }
        let mut reset = Build::from_server(hook, 1, times[1], seq, ack).flags(flags);
        if let Some((at, left)) = destroyed {
            reset = reset.destroyed(at.min(times[1]), 3, left, 0, 0);
        }
        session.item(&Item::Record(reset.bytes()));
        Report::new(session.finish(Origin::Live))
    }
}

proptest! {
    #[test]
    fn every_label_of_any_incident_is_readable(report in incident()) {
        for flow in &report.flows {
            let (canvas, width, height) = picture(flow, &report.host);
            labels_are_readable(&canvas, width, height);
            prop_assert!(height < 4_000, "{height} units high");
        }
    }
}
