//! Every golden recording as JSON lines and as CSV: what scripts and spreadsheets get.

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::Value;

use tracer::annotate;
use tracer_advice::report::Report;
use tracer_engine::session::{Session, replay};
use tracer_model::capture::{Host, Origin};
use tracer_model::filter::Filter;
use tracer_recording::{Reader, Writer};
use tracer_render::annotated::AnnotatedEvent;
use tracer_render::json::JsonLines;
use tracer_render::pcapng::PcapNg;
use tracer_render::{csv as table, json};

fn read(path: &Path) -> (Session, Reader) {
    let mut reader = Reader::open(path).unwrap();
    let session = replay(&mut reader, Filter::default(), |_, _, _| -> io::Result<()> { Ok(()) }).unwrap();
    (session, reader)
}

fn report(path: &Path) -> Report {
    let (session, _) = read(path);
    Report::new(session.finish(Origin::Recording { path: path.display().to_string(), damage: None }))
}

/// Passes on every event of a recording with the conclusion on its flow.
fn events(path: &Path, report: &Report, each: impl FnMut(AnnotatedEvent<'_>) -> io::Result<()>) {
    annotate::events(&mut Reader::open(path).unwrap(), report, u64::MAX, &Filter::default(), each).unwrap();
}

fn lines(path: &Path, report: &Report) -> String {
    let mut bytes = Vec::new();
    let mut lines = JsonLines::start(&mut bytes, report).unwrap();
    events(path, report, |event| lines.event(event));
    lines.finish().unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn lines_fit_their_schema() {
    let mut schema = Vec::new();
    json::write_export_schema(&mut schema).unwrap();
    let schema: Value = serde_json::from_slice(&schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    insta::glob!("../golden", "**/*.whyrst", |path| {
        let report = report(path);
        let text = lines(path, &report);
        let kinds: Vec<String> = text
            .lines()
            .map(|line| {
                let document: Value = serde_json::from_str(line).unwrap();
                let errors: Vec<String> = validator.iter_errors(&document).map(|error| error.to_string()).collect();
                assert!(errors.is_empty(), "{}: {errors:?}\n{line}", path.display());
                document["line"].as_str().unwrap().to_owned()
            })
            .collect();
        let count = |kind: &str| kinds.iter().filter(|known| *known == kind).count();
        assert_eq!(
            (kinds.first().map(String::as_str), kinds.last().map(String::as_str)),
            (Some("capture"), Some("end"))
        );
        assert_eq!((count("flow"), count("event") as u64), (report.flows.len(), report.events), "{}", path.display());
    });
}

#[test]
fn tables_say_what_the_report_says() {
    let mut rows = 0;
    insta::glob!("../golden", "5.10/*.whyrst", |path| {
        let report = report(path);
        let (mut bytes, mut document) = (Vec::new(), Vec::new());
        table::write(&report, &mut bytes).unwrap();
        json::write(&report, &mut document).unwrap();
        let document: Value = serde_json::from_slice(&document).unwrap();
        let mut reader = csv::Reader::from_reader(&bytes[..]);
        let columns = reader.headers().unwrap().clone();
        let flows = document["flows"].as_array().unwrap();
        let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        assert_eq!(records.len(), flows.len());
        for (record, flow) in records.iter().zip(flows) {
            let cell = |name: &str| &record[columns.iter().position(|column| column == name).unwrap()];
            let text = |value: &Value| match value {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            for name in
                ["cause", "reason", "confidence", "reset_by", "netns", "netns_name", "kernel_text", "first", "last"]
            {
                assert_eq!(cell(name), text(&flow[name]), "{name} in {}", path.display());
            }
            for name in ["invalid_packets", "ignored_packets", "resets", "peer_resets", "tcp_state", "assured", "zone"]
            {
                assert_eq!(cell(name), text(&flow[name]), "{name} in {}", path.display());
            }
            assert_eq!(cell("distance_bytes"), text(&flow["window"]["distance_bytes"]));
            for end in ["client", "nat", "server", "service"] {
                let (address, port) = (cell(end), cell(&format!("{end}_port")));
                let bracketed = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
                let joined = if address.is_empty() { String::new() } else { format!("{bracketed}:{port}") };
                assert_eq!(joined, text(&flow[end]), "{end} in {}", path.display());
            }
            rows += 1;
        }
    });
    assert!(rows > 80, "only {rows} flows were found");
}

/// A recording whose host has a name, a kernel and namespaces that somebody thought up.
fn hostile(to: &Path) {
    const NAME: &str = "=cmd|' /C calc'!A0\u{1b}[31m\r\n\u{202e}gw,\"x\"\u{9b}1m";
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/5.10/late-retransmission.whyrst");
    let mut reader = Reader::open(&from).unwrap();
    let host = Host { hostname: NAME.to_owned(), kernel: NAME.to_owned(), ..reader.host().clone() };
    let mut writer = Writer::create(to, &host, tracer_recording::compress::Compression::None).unwrap();
    while let Some(mut item) = reader.read().unwrap() {
        if let tracer_model::capture::Item::Netns(netns) = &mut item {
            netns.name = Some(NAME.to_owned());
            netns.sysctls.push((NAME.to_owned(), 1));
        }
        writer.write(&item).unwrap();
    }
    writer.flush().unwrap();
}

#[test]
fn names_from_outside_do_no_harm() {
    let path: PathBuf = std::env::temp_dir().join(format!("whyrst-hostile-{}.whyrst", std::process::id()));
    hostile(&path);
    let report = report(&path);
    let harmless = |text: &str, what: &str| {
        let control = |character: char| character.is_control() && character != '\n';
        assert!(!text.contains(control) && !text.contains('\u{202e}'), "{what}: {text:?}");
    };
    harmless(&lines(&path, &report), "jsonl");
    let mut bytes = Vec::new();
    table::write(&report, &mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    harmless(&text, "csv");
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let cells: Vec<String> =
        reader.records().flat_map(|record| record.unwrap().iter().map(str::to_owned).collect::<Vec<_>>()).collect();
    assert!(cells.iter().any(|cell| cell.starts_with("'=cmd|")), "{cells:?}");
    assert!(!cells.iter().any(|cell| cell.starts_with(['=', '@', '+', '-', '\t', '\r'])), "{cells:?}");

    let mut file = Vec::new();
    let mut packets = PcapNg::start(&mut file, &report, false).unwrap();
    events(&path, &report, |event| packets.event(event));
    packets.finish().unwrap();
    let text = String::from_utf8_lossy(&file).into_owned();
    assert!(text.contains(r"\u{1b}[31m\r\n\u{202e}gw") && !text.contains("\u{1b}[31m"), "{text}");

    let side = || {
        let (session, _) = read(&path);
        let background = session.background();
        tracer_advice::compare::Side { report: Report::new(session.finish(Origin::Live)), background }
    };
    let mut other = side();
    other.report.host.hostname = "gw-1".to_owned();
    other.background.namespaces.values_mut().for_each(|netns| netns.sysctls.clear());
    let comparison = tracer_advice::compare::Comparison::new(side(), other);
    let text = tracer_render::compare::render(&comparison, tracer_render::style::TextStyle::default(), true);
    // Its own colours are all that there is of escapes.
    let coloured = text.matches('\u{1b}').count();
    let plain = anstream::adapter::strip_str(&text).to_string();
    assert!(plain.contains(r"=cmd|' /C calc'!A0\u{1b}[31m"), "{plain}");
    assert!(coloured > 0 && coloured.is_multiple_of(2), "{text:?}");
    harmless(&plain, "compare");
    let mut bytes = Vec::new();
    json::write_comparison(&comparison, &mut bytes).unwrap();
    harmless(&String::from_utf8(bytes).unwrap(), "compare.json");
    fs::remove_file(&path).unwrap();
}
