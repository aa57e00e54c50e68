//! A kernel log.

use tracer_advice::explain::LogReader;
use tracer_render::style::TextStyle;
use tracer_render::{json, log};

use crate::checks;

/// A kernel log.
pub(crate) fn kernel_log(data: &[u8]) {
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
    checks::text(&log::render(&report, TextStyle { width: Some(100), ..TextStyle::default() }, true));
    let mut bytes = Vec::new();
    json::write_log(&report, &mut bytes).expect("a Vec takes any write");
    checks::json(&bytes);
}
