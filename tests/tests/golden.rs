//! Recordings of the VM scenarios, replayed without a kernel: a report changes only where somebody means it to.
//!
//! `snapshots/golden__facts@<kernel>.snap` has the facts of every recording, a line for each flow: a change that is not meant to
//! change a conclusion leaves these files as they are. Some recordings are kept in full, as text, JSON and page. Of all others the
//! schema is checked here, and in `agreement.rs` that all formats agree.
//!
//! `cargo xtask vm --bless` takes new recordings, `INSTA_UPDATE=always cargo test` takes new reports.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::Value;

use tracer_advice::report::Report;
use tracer_engine::session::replay;
use tracer_model::capture::Origin;
use tracer_model::filter::Filter;
use tracer_recording::Reader;
use tracer_render::style::TextStyle;
use tracer_render::{html, json, text, trace};

/// Recordings whose reports are kept in full: together they have every cause, author and kind of step that any recording has.
const IN_FULL: [&str; 15] = [
    "5.10/late-retransmission",
    "5.10/truncated",
    "5.10/twin-gateways-both",
    "6.1-e3/ipv6-seq-over",
    "7/mitigate-untrack",
    "7/entry-expired",
    "7/invalid-rst",
    "7/no-listener",
    "7/not-tracked",
    "7/overshot",
    "7/overshot-then-data",
    "7/service-lingers",
    "7/table-drops",
    "7/tap-server-aborts",
    "7/without-kprobes",
];

/// The report of a recording, and its trace.
fn replayed(path: &Path) -> (Report, Vec<String>) {
    let mut reader = Reader::open(path).unwrap();
    let (drawn, mut lines) = (trace::Lines::default(), Vec::new());
    let session = replay(&mut reader, Filter::default(), |_, observed, session| -> io::Result<()> {
        lines.extend(observed.and_then(|observed| drawn.line(observed, session)));
        Ok(())
    })
    .unwrap();
    assert_eq!(reader.verdict(), None, "{}", path.display());
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    (Report::new(session.finish(Origin::Recording { path: name, damage: None })), lines)
}

/// The path of a recording that is named by kernel and scenario.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("golden/{name}.whyrst"))
}

/// Everything that is written here is without colours, as on a terminal of 100 columns.
fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

/// The report of a recording as a JSON document.
fn document(report: &Report) -> Value {
    let mut bytes = Vec::new();
    json::write(report, &mut bytes).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// Every recording, by kernel and name.
fn recordings() -> BTreeMap<String, Vec<PathBuf>> {
    let below = |directory: PathBuf| {
        let mut paths: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    };
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let found: BTreeMap<String, Vec<PathBuf>> =
        below(golden).into_iter().map(|kernel| (name(&kernel), below(kernel))).collect();
    let count: usize = found.values().map(Vec::len).sum();
    assert!(count >= 300, "only {count} recordings were found");
    found
}

/// A word or a number of a document; `-` stands for null.
fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(word) => word.clone(),
        other => other.to_string(),
    }
}

/// What `select` takes of each element, in one line.
fn list(array: &Value, between: &str, select: impl Fn(&Value) -> String) -> String {
    let words: Vec<String> = array.as_array().unwrap().iter().map(select).collect();
    if words.is_empty() { "-".to_owned() } else { words.join(between) }
}

/// The facts of a recording: a line with its counts, then a line per flow. All of it comes from the JSON.
fn facts(name: &str, report: &Value) -> String {
    let mut lines = format!("{name}: events={}", report["capture"]["events"]);
    let mut add = |text: std::fmt::Arguments<'_>| lines.write_fmt(text).unwrap();
    let counts = report["summary"].as_object().unwrap().iter();
    for (member, count) in counts.filter(|(_, count)| count.as_u64().is_some_and(|count| count > 0)) {
        add(format_args!(" {member}={count}"));
    }
    for member in ["findings", "mitigations"] {
        let ids = list(&report[member], ",", |item| word(&item["id"]));
        add(format_args!(" {member}={ids}"));
    }
    add(format_args!("\n"));
    for (index, flow) in report["flows"].as_array().unwrap().iter().enumerate() {
        let stations = ["client", "nat", "service", "server"].map(|end| &flow[end]);
        let path: Vec<String> = stations.into_iter().filter(|end| !end.is_null()).map(word).collect();
        add(format_args!("  #{} {}", index + 1, path.join(" > ")));
        for member in ["cause", "reason", "reset_by", "reset_effect", "confidence"] {
            add(format_args!(" {member}={}", word(&flow[member])));
        }
        if let Some(window) = flow["window"].as_object() {
            add(format_args!(" window={}:{}", word(&window["failed"]), window["distance_bytes"]));
        }
        if let Some(rule) = flow["rule"].as_object() {
            let place = ["backend", "table", "chain", "handle", "number"].map(|member| word(&rule[member]));
            add(format_args!(" rule={}/{}:{}", rule["candidate_count"], rule["of"], place.join("/")));
        }
        add(format_args!(" mitigations={}", list(&flow["mitigations"], ",", word)));
        add(format_args!(" chain={}\n", list(&flow["chain"], ",", |step| word(&step["step"]))));
    }
    lines
}

#[test]
fn facts_of_all_recordings() {
    for (kernel, paths) in recordings() {
        let of = |path: &PathBuf| {
            let (report, _) = replayed(path);
            facts(&path.file_stem().unwrap().to_string_lossy(), &document(&report))
        };
        let lines: String = paths.iter().map(of).collect();
        insta::with_settings!({ snapshot_suffix => kernel, omit_expression => true }, {
            insta::assert_snapshot!("facts", lines);
        });
    }
}

#[test]
fn reports_fit_their_schema() {
    let mut schema = Vec::new();
    json::write_schema(&mut schema).unwrap();
    let schema: Value = serde_json::from_slice(&schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for path in recordings().values().flatten() {
        let (report, _) = replayed(path);
        let errors: Vec<String> = validator.iter_errors(&document(&report)).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{} does not fit the schema: {errors:?}", path.display());
    }
}

/// The words that a page shows: its body without scripts. Of a drawing the labels are kept, a line each; how it is drawn has
/// snapshots beside the module that draws.
fn body(page: &str) -> String {
    let (_, body) = page.split_once("<body>").unwrap();
    let (body, _) = body.split_once("<script").unwrap();
    let (mut words, mut rest) = (String::new(), body);
    while let Some((before, drawing)) = rest.split_once("<svg") {
        let (drawing, after) = drawing.split_once("</svg>").unwrap();
        let labels =
            drawing.split('>').skip(1).filter_map(|part| part.split('<').next()).filter(|label| !label.is_empty());
        words.push_str(before);
        words.extend(labels.map(|label| format!("\n{label}")));
        rest = after;
    }
    words + rest
}

#[test]
fn reports_in_full() {
    for name in IN_FULL {
        let (report, lines) = replayed(&golden(name));
        let (mut bytes, mut page) = (Vec::new(), Vec::new());
        json::write(&report, &mut bytes).unwrap();
        html::write(&report, &mut page).unwrap();
        let style = TextStyle { width: Some(100), ..TextStyle::default() };
        let text = text::render(&report, style, true);
        insta::with_settings!({ snapshot_suffix => name.replace('/', "-"), omit_expression => true }, {
            insta::assert_snapshot!("json", String::from_utf8(bytes).unwrap());
            insta::assert_snapshot!("text", plain(&format!("{text}\n{}", lines.join("\n"))));
            insta::assert_snapshot!("page", body(&String::from_utf8(page).unwrap()));
        });
    }
}

/// What a reader can meet in a report, by name.
fn vocabulary(report: &Value) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    for flow in report["flows"].as_array().unwrap() {
        for member in ["cause", "reset_by", "confidence"] {
            words.insert(format!("{member} {}", word(&flow[member])));
        }
        words.extend(flow["chain"].as_array().unwrap().iter().map(|step| format!("step {}", word(&step["step"]))));
    }
    let severities = report["findings"].as_array().unwrap().iter().map(|finding| word(&finding["severity"]));
    words.extend(severities.map(|severity| format!("severity {severity}")));
    words
}

#[test]
fn reports_in_full_have_everything() {
    let of = |path: &Path| vocabulary(&document(&replayed(path).0));
    let all: BTreeSet<String> = recordings().values().flatten().flat_map(|path| of(path)).collect();
    let kept: BTreeSet<String> = IN_FULL.iter().flat_map(|name| of(&golden(name))).collect();
    let missing: Vec<&String> = all.difference(&kept).collect();
    assert!(missing.is_empty(), "no report that is kept in full has {missing:?}: add a recording that has it");
    assert!(all.len() > 20, "{all:?}");
}

/// Lines of `trace --format json` fit their schema too.
#[test]
fn trace_lines_fit_their_schema() {
    let mut schema = Vec::new();
    json::write_trace_schema(&mut schema).unwrap();
    let schema: Value = serde_json::from_slice(&schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    insta::glob!("../golden", "**/*.whyrst", |path| {
        let mut reader = Reader::open(path).unwrap();
        replay(&mut reader, Filter::default(), |_, observed, session| -> io::Result<()> {
            let Some(observed) = observed else { return Ok(()) };
            let mut line = Vec::new();
            let flow = observed.flow.and_then(|id| session.flow(id));
            json::write_observation(observed, flow, session.host(), &mut line)?;
            assert_eq!(str::from_utf8(&line).unwrap().lines().count(), 1, "one line per event");
            let document: Value = serde_json::from_slice(&line).unwrap();
            let errors: Vec<String> = validator.iter_errors(&document).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{}: {errors:?}", path.display());
            Ok(())
        })
        .unwrap();
    });
}

/// What somebody sees who has not asked for everything.
#[test]
fn folded() {
    let (report, _) = replayed(&golden("7/many-flows"));
    let style = TextStyle { width: Some(80), ..TextStyle::default() };
    insta::assert_snapshot!(plain(&text::render(&report, style, false)));
}

/// A terminal without UTF-8 and a narrow one get the same report in other clothes.
#[test]
fn narrow_and_ascii() {
    let (report, _) = replayed(&golden("5.10/late-retransmission"));
    let style = TextStyle { width: Some(60), symbols: false, ..TextStyle::default() };
    let narrow = plain(&text::render(&report, style, false));
    assert!(narrow.is_ascii(), "{narrow}");
    let commands = |line: &&str| line.contains("nft ") || line.contains("sysctl ");
    let too_long: Vec<&str> = narrow.lines().filter(|line| line.len() > 60 && !commands(line)).collect();
    assert!(too_long.len() <= 6, "headings may be longer, text may not: {too_long:?}");
    insta::assert_snapshot!(narrow);
}
