//! Items of a source in any order: through the engine and into every output, as they are and redacted.

use tracer_recording::redact::{Key, Redacted, Redactor};

use crate::outputs;
use crate::script::Script;

/// Items of a source in any order: through the engine and into every output, as they are and redacted.
pub(crate) fn correlate(data: &[u8]) {
    let redacted = || Redacted::new(Script::new(data), Redactor::new(&Key::new([0x5a; 32])));
    // Each input writes one of the two in every format, which takes its time.
    if data.len().is_multiple_of(2) {
        outputs::compare(outputs::side(|| Script::new(data)), outputs::write(redacted));
    } else {
        outputs::compare(outputs::write(|| Script::new(data)), outputs::side(redacted));
    }
}
