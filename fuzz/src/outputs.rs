//! Writes every output of a capture and checks its invariants: complete, right counts, no control character or code of others.

use std::io;

use pcap_file::pcapng::PcapNgReader;

use tracer::annotate;
use tracer_advice::compare::{Comparison, Side};
use tracer_advice::report::Report;
use tracer_engine::engine::{Kind, Observed};
use tracer_engine::flow::Tally;
use tracer_engine::session::{Session, replay};
use tracer_model::capture::{Item, Items, Origin};
use tracer_model::decode::decode;
use tracer_model::filter::Filter;
use tracer_render::json::JsonLines;
use tracer_render::pcapng::PcapNg;
use tracer_render::plain::is_obeyed;
use tracer_render::style::TextStyle;
use tracer_render::{compare as comparisons, csv as tables, html, json, text as texts, trace};

use crate::checks;

const STYLE: TextStyle = TextStyle { width: Some(100), symbols: true, zone: &tracer_render::style::UTC };

/// Writes a capture in every format. `items` gives the same items each time.
pub(crate) fn write<I: Items>(items: impl Fn() -> I) -> Side {
    let mut first = items();
    let mut session = Session::new(first.host().clone(), Filter::default());
    let lines = trace::Lines { style: STYLE, ..trace::Lines::default() };
    let (mut count, mut events, mut shown, mut counted) = (0, 0, 0, false);
    while let Some(item) = first.read().expect("items in memory can be read") {
        count += 1;
        counted |= matches!(&item, Item::Suppressed(_));
        events += u64::from(matches!(&item, Item::Record(raw) if decode(raw).is_ok()));
        let observed = session.item(&item);
        if let Some(observed) = &observed {
            shown += u64::from(is_shown(observed));
            if let Some(line) = lines.line(observed, &session) {
                assert!(!line.contains('\n'), "a line is one line: {line:?}");
                checks::text(&line);
            }
            let mut line = Vec::new();
            let flow = observed.flow.and_then(|id| session.flow(id));
            json::write_observation(observed, flow, session.host(), &mut line).expect("a Vec");
            // The filter leaves out the others.
            if is_shown(observed) {
                checks::json(&line);
            }
        }
        let _asked = session.requests(item.at().unwrap_or_default());
    }
    let _asked = session.last_requests();
    let background = session.background();
    let report = Report::new(session.finish(Origin::Recording { path: "fuzzed".to_owned(), damage: None }));
    // The sums include suppressed events.
    if !counted {
        counts(&report, events);
    }
    let all_at_once = checks::text(&texts::render(&report, STYLE, true));
    let mut bytes = Vec::new();
    json::write(&report, &mut bytes).expect("a Vec takes any write");
    let document = checks::json(&bytes);
    let flows = document["flows"].as_array().map_or(0, Vec::len);
    assert_eq!(flows, report.flows.len());
    assert_eq!(document["capture"]["events"].as_u64(), Some(report.events));
    page(&report);
    table(&report);
    packets(&items, &report, count, shown);
    commands(&report);
    assert!(!all_at_once.is_empty());
    Side { report, background }
}

/// A capture that is compared with another one.
pub(crate) fn side<I: Items>(items: impl Fn() -> I) -> Side {
    let mut items = items();
    let session = replay(&mut items, Filter::default(), |_, _, _| -> io::Result<()> { Ok(()) });
    let session = session.expect("items in memory can be read");
    let background = session.background();
    Side {
        report: Report::new(session.finish(Origin::Recording { path: "fuzzed".to_owned(), damage: None })),
        background,
    }
}

/// Compares two captures.
pub(crate) fn compare(before: Side, after: Side) {
    let comparison = Comparison::new(before, after);
    checks::text(&comparisons::render(&comparison, STYLE, true));
    let mut bytes = Vec::new();
    json::write_comparison(&comparison, &mut bytes).expect("a Vec takes any write");
    checks::json(&bytes);
}

/// Every packet is counted once.
fn counts(report: &Report, events: u64) {
    assert_eq!(report.events, events);
    let mut tally = Tally::default();
    for flow in &report.flows {
        tally.add(flow.flow.tally());
    }
    assert_eq!(report.summary.tally, tally, "a script has too few items for flows to be forgotten");
    assert!(tally.invalid + tally.ignored + tally.undecided + tally.resets <= events);
    let reset = report.flows.iter().filter(|flow| flow.flow.was_reset()).count() as u64;
    assert_eq!(report.summary.flows_reset, reset);
    let by_cause: u64 = report.summary.by_cause.values().sum();
    assert!(by_cause <= report.flows.len() as u64);
}

/// A page has the elements that its templates have.
fn page(report: &Report) {
    /// Elements of the templates and drawings.
    const ELEMENTS: &str = "html head meta title style script body header main footer nav section article aside details \
                            summary div span p h1 h2 h3 h4 h5 ul ol li dl dt dd table caption colgroup col thead tbody \
                            tfoot tr th td a b i em strong small code pre kbd button input label select option form \
                            fieldset legend noscript output template br hr figure figcaption time mark abbr var sup sub \
                            svg g path line rect circle text tspan polygon polyline defs marker use symbol desc pattern";
    let mut bytes = Vec::new();
    html::write(report, &mut bytes).expect("a Vec takes any write");
    let page = String::from_utf8(bytes).expect("HTML is UTF-8");
    assert_eq!(page.chars().find(|c| *c != '\n' && is_obeyed(*c)), None);
    let mut rest = page.as_str();
    let mut scripts = 0;
    while let Some((_, after)) = rest.split_once('<') {
        let name = after.trim_start_matches('/').split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        if after.starts_with('!') {
            rest = after;
            continue;
        }
        assert!(ELEMENTS.split_whitespace().any(|known| known == name), "<{name}> is not of the page: {after:.60}");
        rest = after;
        if after.starts_with("script") || after.starts_with("style") {
            scripts += u32::from(after.starts_with("script"));
            let end = format!("</{name}>");
            rest = after.split_once(end.as_str()).expect("it ends").1;
        } else if let Some((tag, after)) = after.split_once('>') {
            let handler = tag.split_whitespace().skip(1).any(|attribute| attribute.starts_with("on"));
            assert!(!handler, "{tag}");
            rest = after;
        }
    }
    assert_eq!(scripts, page_scripts());
}

/// Scripts of a page: the theme's, the data, the page's.
const fn page_scripts() -> u32 {
    3
}

/// A command is one line of words that a shell takes apart as they were put together.
fn commands(report: &Report) {
    for mitigation in &report.mitigations {
        for line in
            mitigation.commands.iter().chain(&mitigation.undo).chain(&mitigation.persist).chain(&mitigation.unpersist)
        {
            assert_eq!(line.chars().find(|c| is_obeyed(*c)), None, "{line:?}");
            assert!(shlex::split(line).is_some_and(|words| !words.is_empty()), "{line:?}");
        }
    }
}

/// A table whose cells are no formulas.
fn table(report: &Report) {
    let mut bytes = Vec::new();
    tables::write(report, &mut bytes).expect("a Vec takes any write");
    let mut reader = csv::Reader::from_reader(&bytes[..]);
    let mut rows = 0;
    for row in reader.records() {
        // Rows of unequal length are an error.
        for cell in &row.expect("a row as long as the first") {
            assert_eq!(cell.chars().find(|c| is_obeyed(*c)), None, "{cell:?}");
            let formula = cell.trim_start().starts_with(['=', '+', '-', '@', '|', '%']);
            assert!(!formula || cell.parse::<i64>().is_ok(), "a formula: {cell:?}");
        }
        rows += 1;
    }
    assert_eq!(rows, report.flows.len());
}

/// Exports of events.
fn packets<I: Items>(items: &impl Fn() -> I, report: &Report, count: u64, shown: u64) {
    let mut lines = Vec::new();
    let mut writer = JsonLines::start(&mut lines, report).expect("a Vec takes any write");
    annotate::events(&mut items(), report, count, &Filter::default(), |event| writer.event(event)).expect("a Vec");
    assert_eq!(writer.finish().expect("a Vec takes any write"), shown);
    let text = String::from_utf8(lines).expect("JSON is UTF-8");
    assert_eq!(
        text.lines().inspect(|line| drop(checks::json(line.as_bytes()))).count() as u64,
        shown + report.flows.len() as u64 + 2
    );

    let mut bytes = Vec::new();
    let mut file = PcapNg::start(&mut bytes, report, false).expect("a Vec takes any write");
    annotate::events(&mut items(), report, count, &Filter::default(), |event| -> io::Result<()> { file.event(event) })
        .expect("a Vec takes any write");
    let written = file.finish().expect("a Vec takes any write");
    assert!(written.captured + written.without_headers >= shown.saturating_sub(written.computed));
    let mut reader = PcapNgReader::new(&bytes[..]).expect("a pcapng file");
    while let Some(block) = reader.next_block() {
        block.expect("a block");
    }
}

/// Whether the outputs show an observation.
const fn is_shown(observed: &Observed) -> bool {
    !matches!(observed.kind, Kind::Unwanted)
}
