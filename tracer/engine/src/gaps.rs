//! Events that come right after a stretch of time that is missing from the capture.

use tracer_model::capture::Gap;
use tracer_model::time::Instant;

use crate::Limits;

/// Whether the refusal that leads to an event, or what an end answers with it, can lie in a gap.
///
/// Records that were on their way when a file ended are in the next one, and older than its beginning.
pub(crate) fn is_after_gap(at: Instant, gaps: &[Gap]) -> bool {
    let patience = Limits::default().patience;
    gaps.iter().any(|gap| {
        gap.until.is_some_and(|until| at - until <= patience) && gap.from.is_none_or(|from| from - at <= patience)
    })
}
