//! What the fuzz targets of `fuzz/` do with bytes, and what must hold whatever they are.
//!
//! Here and not there, so that `cargo test` runs the same over the inputs that are kept (`tests/tests/fuzzed.rs`).

mod outputs;
mod recording;
mod script;

use bytes::Bytes;

pub use self::recording::{joined, recording};
pub use self::script::{Script, script};

use crate::capture::Item;
use crate::causality::engine::{Kind, Observed};
use crate::decode::{decode, trimmed};
use crate::evidence;
use crate::explain::LogReader;
use crate::redact::{Key, Redacted, Redactor};
use crate::render::style::Look;
use crate::render::{json, log};

/// Takes any bytes, and panics where something does not hold.
pub type Target = fn(&[u8]);

/// The targets by name, which is also that of the directory of their inputs.
pub const TARGETS: [(&str, Target); 8] = [
    ("recording", recording),
    ("joined", joined),
    ("record", record),
    ("kernel_log", kernel_log),
    ("correlate", correlate),
    ("config", config),
    ("netlink", netlink),
    ("text", text),
];

/// A configuration file, an environment, a command line, or a name in a printed command.
pub fn config(data: &[u8]) {
    crate::cli::fuzzing::config(data);
}

/// Answers of nfnetlink.
pub fn netlink(data: &[u8]) {
    crate::kernel::fuzzing::netlink(data);
}

/// Text of the kernel and of its tools.
pub fn text(data: &[u8]) {
    crate::kernel::fuzzing::text(data);
}

/// A record of a hook, of any version.
pub fn record(data: &[u8]) {
    let raw = Bytes::copy_from_slice(data);
    let Ok(event) = decode(&raw) else { return };
    let short = decode(&Bytes::copy_from_slice(trimmed(&raw))).expect("zeros at the end may be left out");
    assert_eq!((&event.packet, &event.entry, &event.gone), (&short.packet, &short.entry, &short.gone));
    if let Some(frame) = evidence::captured(&raw) {
        assert!(frame.bytes.len() <= 2 * tracer_common::wire::HEADER_SIZE, "more than a hook reads");
    }
    let Item::Record(redacted) = Redactor::new(&key()).item(Item::Record(raw)) else { panic!("a record stays one") };
    decode(&redacted).expect("a redacted record is one too");
}

/// A kernel log.
pub fn kernel_log(data: &[u8]) {
    let mut reader = LogReader::default();
    for line in data.split(|byte| *byte == b'\n') {
        reader.line(String::from_utf8_lossy(line).trim_end());
    }
    let report = reader.finish(None);
    for group in &report.groups {
        let flows = group.flows.iter().fold(0u64, |sum, (_, packets)| sum.saturating_add(*packets));
        assert!(flows <= group.packets, "{flows} packets of flows, {} in all", group.packets);
        assert!(group.packets <= report.of_conntrack);
    }
    outputs::text(&log::render(&report, Look { width: Some(100), ..Look::default() }, true));
    let mut bytes = Vec::new();
    json::write_log(&report, &mut bytes).expect("a Vec takes any write");
    outputs::json(&bytes);
}

/// What a source may deliver in any order: through the engine and into every output, as it is and redacted.
pub fn correlate(data: &[u8]) {
    let redacted = || Redacted::new(Script::new(data), Redactor::new(&key()));
    // One in two of either kind: telling everything takes its time.
    if data.len().is_multiple_of(2) {
        outputs::compare(outputs::side(|| Script::new(data)), outputs::tell(redacted));
    } else {
        outputs::compare(outputs::tell(|| Script::new(data)), outputs::side(redacted));
    }
}

const fn key() -> Key {
    Key::new([0x5a; 32])
}

/// Whether an observation is one that outputs tell of.
const fn is_told(observed: &Observed) -> bool {
    !matches!(observed.kind, Kind::Unwanted)
}
