//! The flows of a report as CSV (RFC 4180, lines end as on Unix): a header, then one line per flow.
//!
//! The columns and their order are a contract; new ones are added at the end.

use std::io;

use tracer_advice::report::{FlowReport, Report};
use tracer_engine::flow::Incident;
use tracer_model::conntrack::window::Explanation;

use super::json::rfc3339;
use super::{plain, sentences};

/// The longest text from a recording, in bytes.
const LIMIT: usize = 1_024;

/// The name of a column, and its value for a flow.
type Column = (&'static str, fn(&FlowReport, &Report) -> Option<String>);

/// The columns. Unknown values are empty; text of the recorded host goes through [`harmless`].
const COLUMNS: [Column; 32] = [
    ("client", |report, _| Some(report.flow.key.client().ip().to_string())),
    ("client_port", |report, _| Some(report.flow.key.client().port().to_string())),
    ("nat", |report, _| Some(report.flow.key.nat()?.ip().to_string())),
    ("nat_port", |report, _| Some(report.flow.key.nat()?.port().to_string())),
    ("server", |report, _| Some(report.flow.key.server().ip().to_string())),
    ("server_port", |report, _| Some(report.flow.key.server().port().to_string())),
    ("service", |report, _| Some(report.flow.key.service()?.ip().to_string())),
    ("service_port", |report, _| Some(report.flow.key.service()?.port().to_string())),
    ("netns", |report, _| Some(report.flow.key.netns?.to_string())),
    ("netns_name", |report, _| Some(harmless(report.netns_name.as_deref()?))),
    ("zone", |report, _| Some(report.flow.key.zone.to_string())),
    ("tcp_state", |report, _| Some(report.flow.state?.to_string())),
    ("assured", |report, _| Some(report.flow.assured?.to_string())),
    ("cause", |report, _| Some(report.flow.incident.diagnosis.cause.to_string())),
    ("reason", reason),
    ("confidence", |report, _| Some(report.flow.incident.confidence.to_string())),
    ("reset_by", |report, _| Some(report.flow.reset_by()?.to_string())),
    ("reset_effect", |report, _| Some(report.flow.incident.reset.as_ref()?.effect.name().to_string())),
    ("killed", |report, _| Some(report.flow.was_reset().to_string())),
    ("failed", |report, _| Some(window(&report.flow.incident)?.failure.inequality().to_string())),
    ("bound", |report, _| Some(window(&report.flow.incident)?.bound.to_string())),
    ("value", |report, _| Some(window(&report.flow.incident)?.value.to_string())),
    ("distance_bytes", |report, _| Some(window(&report.flow.incident)?.distance.to_string())),
    ("invalid_packets", |report, _| Some(report.flow.tally().invalid.to_string())),
    ("ignored_packets", |report, _| Some(report.flow.tally().ignored.to_string())),
    ("resets", |report, _| Some(report.flow.tally().resets.to_string())),
    ("peer_resets", |report, _| Some(report.flow.tally().forwarded.to_string())),
    ("first", |report, whole| Some(rfc3339(whole.host.clock, report.flow.first))),
    ("last", |report, whole| Some(rfc3339(whole.host.clock, report.flow.last))),
    ("kernel_text", |report, _| {
        Some(harmless(&report.flow.incident.logged.as_ref()?.event.words.as_ref()?.to_string()))
    }),
    ("rule", |report, _| Some(harmless(&report.candidates.as_ref()?.only()?.to_string()))),
    ("mitigations", |report, _| Some(names(report))),
];

/// Writes the flows.
pub fn write(report: &Report, to: &mut dyn io::Write) -> io::Result<()> {
    let mut writer = csv::Writer::from_writer(to);
    writer.write_record(COLUMNS.iter().map(|(name, _)| name))?;
    for flow in &report.flows {
        writer.write_record(COLUMNS.iter().map(|(_, cell)| cell(flow, report).unwrap_or_default()))?;
    }
    writer.flush()
}

fn reason(report: &FlowReport, whole: &Report) -> Option<String> {
    let word = report.flow.incident.diagnosis.reason.map(|reason| reason.to_string());
    word.or_else(|| sentences::kernel_reason(&report.flow, &whole.host).map(|reason| harmless(&reason)))
}

fn window(incident: &Incident) -> Option<Explanation> {
    incident.logged.as_ref()?.window
}

fn names(report: &FlowReport) -> String {
    report.mitigations.iter().map(|id| id.name()).collect::<Vec<_>>().join(" ")
}

/// Text that no spreadsheet reads as a formula: text that starts like a formula gets a leading apostrophe. Tabs and line
/// ends, which some read as the start of a cell, are already escaped.
fn harmless(text: &str) -> String {
    let text = plain::line(text, LIMIT);
    // East Asian input methods produce the fullwidth forms.
    let formula = text.trim_start().starts_with(['=', '+', '-', '@', '＝', '＋', '－', '＠', '|', '%']);
    if formula { format!("'{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::harmless;

    #[rstest]
    #[case::plain("gw-1", "gw-1")]
    #[case::formula("=HYPERLINK(\"http://192.0.2.1\")", "'=HYPERLINK(\"http://192.0.2.1\")")]
    #[case::plus("+1", "'+1")]
    #[case::minus("-1", "'-1")]
    #[case::at("@SUM(A1)", "'@SUM(A1)")]
    #[case::blank_first("  =1", "'  =1")]
    #[case::tab_first("\t=1", r"\t=1")]
    #[case::carriage_return_first("\r=1", r"\r=1")]
    #[case::line_inside("a\n=1", r"a\n=1")]
    #[case::wide("＝1", "'＝1")]
    fn formulas_are_text(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(harmless(text), expected);
    }
}
