//! A record of a hook, of any version.

use bytes::Bytes;

use tracer_model::capture::Item;
use tracer_model::decode::{decode, trimmed};
use tracer_model::evidence;
use tracer_recording::redact::{Key, Redactor};

/// A record of a hook, of any version.
pub(crate) fn record(data: &[u8]) {
    let raw = Bytes::copy_from_slice(data);
    let Ok(event) = decode(&raw) else { return };
    let short = decode(&Bytes::copy_from_slice(trimmed(&raw))).expect("zeros at the end may be left out");
    assert_eq!((&event.packet, &event.entry, &event.destroyed), (&short.packet, &short.entry, &short.destroyed));
    if let Some(frame) = evidence::captured(&raw) {
        assert!(frame.bytes.len() <= 2 * tracer_common::wire::HEADER_SIZE, "more than a hook reads");
    }
    let Item::Record(redacted) = Redactor::new(&Key::new([0x5a; 32])).item(Item::Record(raw)) else {
        panic!("a record stays one")
    };
    decode(&redacted).expect("a redacted record is one too");
}
