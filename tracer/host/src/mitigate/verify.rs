//! Whether the rules of a mitigation have met a packet, by their own counters.

use super::Unknown;
use super::journal::{Done, Entry};
use super::places::Places;
use super::probe::packets;

/// The packets that the rules of an applied mitigation have counted; none if none of its steps is a rule with a counter.
pub fn counted(entry: &Entry, places: &Places) -> Result<Option<u64>, Unknown> {
    let mut sum = None;
    for Done { step, .. } in &entry.steps {
        if let Some(packets) = packets(step, places)? {
            sum = Some(sum.unwrap_or(0) + packets);
        }
    }
    Ok(sum)
}
