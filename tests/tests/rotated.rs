//! Golden recordings, cut into two files at every event: both together give the report of the whole, and the second alone makes
//! up no cause.

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::Value;

use tracer_advice::report::Report;
use tracer_engine::session::replay;
use tracer_model::capture::{Counters, Host, Item, Items, Origin};
use tracer_model::filter::Filter;
use tracer_model::time::Instant;
use tracer_recording::compress::Compression;
use tracer_recording::rotate::{Policy, Rotation};
use tracer_recording::{Reader, Recordings};
use tracer_render::json;

/// Places that a recording is cut at, at most.
const CUTS: usize = 12;

fn report(items: &mut impl Items) -> Value {
    let session = replay(items, Filter::default(), |_, _, _| -> io::Result<()> { Ok(()) }).unwrap();
    let report = Report::new(session.finish(Origin::Recording { path: "a recording".to_owned(), damage: None }));
    let mut bytes = Vec::new();
    json::write(&report, &mut bytes).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

fn read(path: &Path) -> (Host, Vec<Item>) {
    let mut reader = Reader::open(path).unwrap();
    let host = Host { boot: Some("a boot".to_owned()), capture: Some("a capture".to_owned()), ..reader.host().clone() };
    (host, std::iter::from_fn(|| reader.read().unwrap()).collect())
}

/// Writes items to files, of which the second begins before the item with this number.
fn cut(directory: &Path, host: &Host, items: &[Item], place: usize) -> Vec<PathBuf> {
    let policy = Policy { size: None, every: None, keep: 9 };
    let mut rotation = Rotation::create(&directory.join("r.whyrst"), host, policy, Compression::None).unwrap();
    let mut counted = Counters { at: host.started, hooks: Vec::new(), lost_on: Vec::new(), table_full: Vec::new() };
    let mut last = host.started;
    for (number, item) in items.iter().enumerate() {
        if number == place {
            rotation.ask();
            rotation.count(&Counters { at: last, ..counted.clone() }).unwrap();
        }
        if let Item::Counters(counters) = item {
            counted = counters.clone();
        }
        last = last.max(item.at().unwrap_or(Instant(0)));
        rotation.write(item).unwrap();
    }
    rotation.flush().unwrap();
    let mut files: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Cause, reason and author of each flow of a report.
fn causes(report: &Value) -> Vec<[Value; 3]> {
    let flows = report["flows"].as_array().into_iter().flatten();
    flows.map(|flow| ["cause", "reason", "reset_by"].map(|key| flow[key].clone())).collect()
}

#[test]
fn together_as_the_whole_and_alone_no_accusation() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/5.10");
    let mut tried = 0;
    for entry in fs::read_dir(golden).unwrap() {
        let path = entry.unwrap().path();
        let (host, items) = read(&path);
        let whole = report(&mut Reader::open(&path).unwrap());
        let known = causes(&whole);
        let events: Vec<usize> =
            (1..items.len()).filter(|at| matches!(items[*at], Item::Record(_))).take(CUTS).collect();
        for place in events {
            let what = format!("{} cut before item {place}", path.display());
            let directory = tempfile::tempdir().unwrap();
            let files = cut(directory.path(), &host, &items, place);
            assert_eq!(files.len(), 2, "{what}");
            let mut joined = report(&mut Recordings::open(&files).unwrap());
            // That there are no counters before the first ones makes no difference.
            assert_eq!(joined["flows"], whole["flows"], "{what}");
            joined["capture"]["source"] = Value::Null;
            let mut expected = whole.clone();
            expected["capture"]["source"] = Value::Null;
            assert_eq!(joined, expected, "{what}");
            let alone = report(&mut Recordings::open(&files[1..]).unwrap());
            for found in causes(&alone) {
                // What nobody is accused of is what the file itself has: a packet that was refused.
                let [cause, _, by] = &found;
                let honest = known.contains(&found) || cause == "unknown" || by.is_null();
                assert!(honest, "{what}: the second file alone has {found:?}, both together have {known:?}");
            }
            let gap =
                alone["findings"].as_array().into_iter().flatten().any(|finding| finding["id"] == "recording-gap");
            assert!(gap, "{what}: that it goes on with something is not said");
            tried += 1;
        }
    }
    assert!(tried > 100, "only {tried} cuts");
}
