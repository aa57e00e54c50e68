//! The report on small and large screens, for few and many flows, and with hostile names.

use jiff::tz::TimeZone;
use rstest::rstest;
use textwrap::core::display_width;

use tracer_advice::report::Report;
use tracer_common::Hook;
use tracer_engine::session::Session;
use tracer_model::capture::{Host, Item, Netns, Origin};
use tracer_model::conntrack::log_format::LogFormat;
use tracer_model::filter::Filter;
use tracer_model::time::{ClockOffset, Instant};
use tracer_testing::{Build, GATEWAY, REPLY};

use super::render;
use crate::plain::is_obeyed;
use crate::style::TextStyle;
use crate::trace::Lines;

/// 2026-11-20 23:59:59 UTC, in nanoseconds.
const LATE: u64 = 1_795_219_199_000_000_000;
const OLD: u32 = 3_270_668_047;
const SERVER_END: u32 = 3_271_668_047;
const CLIENT_END: u32 = 2_102_471_179;
const SECOND: u64 = 1_000_000_000;

fn host() -> Host {
    Host {
        hostname: "gw-1".to_owned(),
        kernel: "5.10.0".to_owned(),
        tool: "0.1.0".to_owned(),
        log_format: LogFormat::E1,
        started: Instant(LATE),
        clock: ClockOffset(0),
        ..Host::nobody()
    }
}

/// The refusal and the RST of connection number `n`, a microsecond after each other.
fn incident(n: u32, time: u64) -> [Build; 2] {
    let (port, skb) = (10_000 + (n % 50_000) as u16, u64::from(n) + 1);
    let text = "SEQ is under the lower bound (already ACKed data retransmitted)";
    let build = |hook, time| Build::from_server(hook, skb, time, OLD, CLIENT_END);
    let logged = build(Hook::CtInvalid, time).entry(REPLY, SERVER_END, CLIENT_END).words("%s", text, 0);
    [logged.connection(port), build(Hook::ResetV4, time + 1_000).connection(port)]
}

/// A session of these incidents.
fn session(host: Host, builds: impl IntoIterator<Item = Build>) -> Session {
    let mut session = Session::new(host, Filter::default());
    for build in builds {
        session.item(&Item::Record(build.bytes()));
    }
    session
}

fn report(count: u32, spread: u64) -> Report {
    let builds = (0..count).flat_map(|n| incident(n, LATE + u64::from(n) * spread));
    Report::new(session(host(), builds).finish(Origin::Live))
}

/// The report as it is seen: without colours.
fn seen(report: &Report, style: TextStyle, all: bool) -> String {
    anstream::adapter::strip_str(&render(report, style, all)).to_string()
}

fn wide(width: usize) -> TextStyle {
    TextStyle { width: Some(width), ..TextStyle::default() }
}

#[rstest]
#[case::few(5, 5)]
#[case::many(6, 1)]
#[case::very_many(10_000, 1)]
fn of_many_flows_of_a_kind_one_is_shown(#[case] count: u32, #[case] shown: usize) {
    let report = report(count, 1_000_000);
    let text = seen(&report, wide(100), false);
    let numbered = |text: &str| text.lines().filter(|line| line.starts_with('#')).count();
    assert_eq!(numbered(&text), shown, "{text}");
    assert!(text.lines().count() < 150, "{text}");
    assert_eq!(text.contains("like #1; --verbose shows all"), shown == 1, "{text}");
    if count == 10_000 {
        assert!(text.contains("10,000 connections were reset by this gateway"), "{text}");
        assert!(text.contains("10,000  reset  out-of-window · seq-under  192.0.2.2:443  23:59:59 #1"), "{text}");
        assert!(text.contains("… and 9,999 more flows like #1"), "{text}");
    }
    if count < 100 {
        assert_eq!(numbered(&seen(&report, wide(100), true)), count as usize);
    }
}

/// The most important part comes first: it fits on a screen of 80 columns and 24 lines.
#[test]
fn the_first_screen() {
    let mut builds: Vec<Build> = (0..40).flat_map(|n| incident(n, LATE + u64::from(n))).collect();
    for (n, build) in builds.iter_mut().enumerate() {
        // Twenty servers.
        let server = [198, 51, 100, (n / 4) as u8];
        build.record.ct.tuples[0].dst[..4].copy_from_slice(&server);
        build.record.ct.tuples[1].src[..4].copy_from_slice(&server);
        build.record.l3[12..16].copy_from_slice(&server);
    }
    let report = Report::new(session(host(), builds).finish(Origin::Live));
    let text = seen(&report, wide(80), false);
    let screen: Vec<&str> = text.lines().take_while(|line| !line.starts_with('#')).collect();
    insta::assert_snapshot!(screen.join("\n"), @"
    whyrst 0.1.0 · gw-1 · Linux 5.10.0 · 2026-11-20 23:59:59 UTC · 0.0 s · 0 hooks ·
    80 events, 0 lost

    40 connections were reset by this gateway, not by either end.
      conntrack classified a late retransmission as INVALID, so it was not
      reverse-NATed; the local TCP stack got it and answered RST.

    flows         cause                      server            first
        2  reset  out-of-window · seq-under  198.51.100.0:443  23:59:59 #1
        2  reset  out-of-window · seq-under  198.51.100.1:443  23:59:59 #3
        2  reset  out-of-window · seq-under  198.51.100.2:443  23:59:59 #5
       34  reset  out-of-window · seq-under  17 other servers  23:59:59 #7
    ");
}

#[rstest]
#[case(60)]
#[case(80)]
#[case(100)]
#[case(140)]
fn lines_fit_the_terminal(#[case] width: usize) {
    let long = "2001:db8:ffff:ffff:ffff:ffff:ffff:fff1".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let mut builds: Vec<Build> = (0..8).flat_map(|n| incident(n, LATE)).collect();
    for build in &mut builds {
        for tuple in &mut build.record.ct.tuples {
            (tuple.src, tuple.dst, tuple.l3num) = (long, long, 10);
        }
        build.record.ct.tuples[1].dst[15] = 2;
    }
    let report = Report::new(session(host(), builds).finish(Origin::Live));
    let text = seen(&report, wide(width), false);
    // Addresses and commands are not broken: they are to be copied.
    let whole = |line: &&str| !line.trim().contains(' ') || line.contains("nft ") || line.contains("sysctl ");
    let long: Vec<&str> = text.lines().filter(|line| display_width(line) > width && !whole(line)).collect();
    let titles = ["upgrade-kernel  ", "drop-invalid-input  ", "be-liberal  "];
    let long: Vec<&str> = long.into_iter().filter(|line| !titles.iter().any(|title| line.starts_with(title))).collect();
    assert_eq!(long, [""; 0], "{text}");
}

#[test]
fn a_terminal_without_symbols_gets_ascii() {
    for count in [1, 20] {
        let text = seen(&report(count, 1), TextStyle { symbols: false, ..wide(100) }, false);
        assert!(text.is_ascii(), "{text}");
    }
}

/// A clear, a title, a colour, the C1 form of it, a line end, and text that runs from right to left.
const HOSTILE: &str = "a\u{1b}[2J\u{1b}]0;x\u{7}\u{9b}31m\r\nb\u{202e}c\u{2066}\u{200b}";

#[test]
fn names_are_shown_and_never_obeyed() {
    let mut host = host();
    for text in [&mut host.hostname, &mut host.kernel, &mut host.tool] {
        HOSTILE.clone_into(text);
    }
    host.reset_reasons = vec![(1, HOSTILE.to_owned())];
    let mut builds: Vec<Build> = (0..7).flat_map(|n| incident(n, LATE)).collect();
    for build in &mut builds {
        build.record.in_name[..HOSTILE.len().min(15)].copy_from_slice(&HOSTILE.as_bytes()[..15]);
        build.record.format = [0; 96];
        build.record.text = [0; 80];
        *build = build.words("%s", HOSTILE, 0).socket(1);
        build.record.reset_reason = 1;
        build.record.present |= tracer_common::wire::present::RESET_REASON;
    }
    builds.push(incident(8, LATE)[0].netns(7));
    let mut session = session(host, builds.clone());
    let facts = Netns {
        inode: GATEWAY,
        name: Some(HOSTILE.to_owned()),
        at: Instant(LATE),
        entries: Some(1),
        max: Some(1),
        invalid: Some(1),
        sysctls: vec![(HOSTILE.to_owned(), 1)],
    };
    session.item(&Item::Netns(facts));
    let lines = Lines::default();
    for build in builds {
        let observed = session.item(&Item::Record(build.bytes())).unwrap();
        let line = anstream::adapter::strip_str(&lines.line(&observed, &session).unwrap()).to_string();
        assert!(!line.chars().any(is_obeyed), "{line:?}");
        assert_eq!(line.lines().count(), 1);
    }
    let report = Report::new(session.finish(Origin::Recording { path: HOSTILE.to_owned(), damage: None }));
    for all in [false, true] {
        let styled = render(&report, wide(100), all);
        let colours = ["\u{1b}[0m", "\u{1b}[1m", "\u{1b}[2m", "\u{1b}[31m", "\u{1b}[32m", "\u{1b}[33m"];
        let text = colours.iter().fold(styled, |text, colour| text.replace(colour, ""));
        let obeyed: Vec<char> = text.chars().filter(|c| is_obeyed(*c) && *c != '\n').collect();
        assert_eq!(obeyed, [], "{text:?}");
        assert!(text.contains("a\\u{1b}[2J"), "{text}");
        assert!(!text.lines().any(|line| line.starts_with("b\\u{202e}")), "{text}");
    }
}

#[test]
fn times_are_in_the_requested_zone() {
    let zone: &'static TimeZone = Box::leak(Box::new(TimeZone::posix("NST3:30").unwrap()));
    let report = report(2, 2 * SECOND);
    let utc = seen(&report, wide(100), true);
    assert!(utc.contains("2026-11-20 23:59:59 UTC"), "{utc}");
    assert!(utc.contains("  23:59:59.000000 "), "{utc}");
    assert!(utc.contains("       2026-11-21"), "the second is of another day: {utc}");
    let local = seen(&report, TextStyle { zone, ..wide(100) }, true);
    assert!(local.contains("2026-11-20 20:29:59 -03:30"), "{local}");
    assert!(local.contains("  20:29:59.000000 "), "{local}");
    assert!(!local.contains("2026-11-21"), "{local}");
}

/// If the clock is put forward during a capture, the offset distinguishes times before and after.
#[test]
fn an_offset_that_changes_is_shown() {
    let zone: &'static TimeZone = Box::leak(Box::new(TimeZone::posix("AAA0BBB,M11.3.6/0,M12.1.0").unwrap()));
    let text = seen(&report(2, 2 * SECOND), TextStyle { zone, ..wide(100) }, true);
    assert!(text.contains("2026-11-20 23:59:59 +00:00"), "{text}");
    assert!(text.contains("01:00:01.000000+01:00"), "{text}");
}
