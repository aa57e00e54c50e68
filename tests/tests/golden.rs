//! Recordings of the VM scenarios, told again without a kernel: the reports must not change unless somebody means it.
//!
//! `cargo xtask vm --bless` takes new recordings, `INSTA_UPDATE=always cargo test` takes new reports.

use std::io;
use std::path::Path;

use serde_json::Value;
use tracer::filter::Filter;
use tracer::render::style::Look;
use tracer::render::{json, text, trace};
use tracer::report::{Origin, Report};
use tracer::session::replay;
use tracer::source::recording::Reader;

/// Kernels whose JSON is kept.
const JSON_OF: [&str; 2] = ["5.10", "7"];

/// The report of a recording, and its trace.
fn tell(path: &Path) -> (Report, Vec<String>) {
    let mut reader = Reader::open(path).unwrap();
    let (drawn, mut lines) = (trace::Lines::default(), Vec::new());
    let session = replay(&mut reader, Filter::default(), |_, observed, session| -> io::Result<()> {
        lines.extend(observed.and_then(|observed| drawn.line(observed, session)));
        Ok(())
    })
    .unwrap();
    assert_eq!(reader.verdict(), None, "{}", path.display());
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    (session.finish(Origin::Recording { path: name, damage: None }), lines)
}

/// Everything that is written here is without colours, as on a terminal of 100 columns.
fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

#[test]
fn reports_of_all_recordings() {
    let mut schema = Vec::new();
    json::write_schema(&mut schema).unwrap();
    let schema: Value = serde_json::from_slice(&schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let mut seen = 0;
    insta::glob!("../golden", "**/*.whyrst", |path| {
        let (report, lines) = tell(path);
        let mut bytes = Vec::new();
        json::write(&report, &mut bytes).unwrap();
        let document: Value = serde_json::from_slice(&bytes).unwrap();
        let errors: Vec<String> = validator.iter_errors(&document).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{} does not fit the schema: {errors:?}", path.display());
        // All are compared with the schema; the oldest and the newest kernel's in every word.
        if JSON_OF.iter().any(|kernel| path.parent().is_some_and(|parent| parent.ends_with(kernel))) {
            insta::assert_snapshot!("json", String::from_utf8(bytes).unwrap());
        }
        let look = Look { width: Some(100), ..Look::default() };
        let text = text::render(&report, look, true);
        insta::assert_snapshot!("text", plain(&format!("{text}\n{}", lines.join("\n"))));
        seen += 1;
    });
    assert!(seen >= 100, "only {seen} recordings were found");
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
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/7/many-flows.whyrst");
    let (report, _) = tell(&path);
    let look = Look { width: Some(80), ..Look::default() };
    insta::assert_snapshot!(plain(&text::render(&report, look, false)));
}

/// A terminal without UTF-8 and a narrow one get the same report in other clothes.
#[test]
fn narrow_and_ascii() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/5.10/late-retransmission.whyrst");
    let (report, _) = tell(&path);
    let look = Look { width: Some(60), symbols: false, ..Look::default() };
    let narrow = plain(&text::render(&report, look, false));
    assert!(narrow.is_ascii(), "{narrow}");
    let commands = |line: &&str| line.contains("nft ") || line.contains("sysctl ");
    let too_long: Vec<&str> = narrow.lines().filter(|line| line.len() > 60 && !commands(line)).collect();
    assert!(too_long.len() <= 6, "headings may be longer, text may not: {too_long:?}");
    insta::assert_snapshot!(narrow);
}
