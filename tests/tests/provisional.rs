//! `trace` names the causes of the report, or marks a line whose cause the report can replace as provisional.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::Value;

use tracer_advice::report::Report;
use tracer_engine::flow::FlowId;
use tracer_engine::session::replay;
use tracer_model::capture::Origin;
use tracer_model::filter::Filter;
use tracer_recording::Reader;
use tracer_render::{json, trace};

/// The last line of a trace about the cause of a flow.
struct Last {
    cause: Value,
    reason: Value,
    provisional: bool,
}

/// The last line about each flow of a recording, and its report.
fn last_lines(path: &Path) -> (HashMap<FlowId, Last>, Report) {
    let (mut last, drawn) = (HashMap::new(), trace::Lines::default());
    let mut reader = Reader::open(path).unwrap();
    let session = replay(&mut reader, Filter::default(), |_, observed, session| -> io::Result<()> {
        let Some((observed, id)) = observed.and_then(|observed| Some((observed, observed.flow?))) else {
            return Ok(());
        };
        let mut line = Vec::new();
        json::write_observation(observed, session.flow(id), session.host(), &mut line)?;
        let line: Value = serde_json::from_slice(&line).unwrap();
        let provisional = line["provisional"] == true;
        let text = drawn.line(observed, session).unwrap();
        assert_eq!(text.split(' ').any(|word| word == "provisional"), provisional, "{text}");
        if line["cause"].is_string() {
            last.insert(id, Last { cause: line["cause"].clone(), reason: line["reason"].clone(), provisional });
        } else {
            assert!(!provisional, "{line} has no cause");
        }
        Ok(())
    })
    .unwrap();
    (last, Report::new(session.finish(Origin::Live)))
}

#[test]
fn the_last_line_about_a_flow_has_the_cause_of_the_report_or_is_provisional() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let below = |directory: PathBuf| fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let (mut flows, mut marked, mut replaced) = (0, 0, 0);
    for path in below(golden).flat_map(below) {
        let (last, report) = last_lines(&path);
        for flow in report.flows.iter().map(|flow| &flow.flow) {
            let diagnosis = flow.incident.diagnosis;
            let Some(last) = last.get(&flow.id) else {
                assert!(flow.is_only_counted(), "{}: no line about {:?}", path.display(), flow.key);
                continue;
            };
            let reason = diagnosis.reason.map_or(Value::Null, |reason| reason.name().into());
            let same = last.cause == diagnosis.cause.name() && last.reason == reason;
            assert!(
                same || last.provisional,
                "{}: {:?} in the report, {} {} in the trace",
                path.display(),
                diagnosis,
                last.cause,
                last.reason
            );
            flows += 1;
            marked += usize::from(last.provisional);
            replaced += usize::from(!same);
        }
    }
    assert!(flows > 250, "only {flows} flows");
    // A mark on every line would say nothing; without any line whose cause is replaced, the test would.
    assert!(replaced > 0 && marked < flows / 5, "{replaced} of {marked} marked causes were replaced, of {flows} flows");
}
