//! A flow, step by step.

use std::fmt;

use anstyle::Style;

use tracer_advice::report::FlowReport;
use tracer_model::cause::Confidence;

use super::Text;
use crate::sentences::{Mark, TIED, kernel_reason, lines};
use crate::style::{BAD, GOOD, WARN};

impl Text<'_> {
    pub(super) fn flow(&mut self, number: usize, report: &FlowReport) -> fmt::Result {
        let flow = &report.flow;
        let path = self.path(flow);
        let diagnosis = flow.incident.diagnosis;
        let dot = self.style.dot();
        let reason = diagnosis.reason.map(|reason| reason.name().to_owned());
        let what = match reason.or_else(|| kernel_reason(flow, &self.report.host)) {
            Some(reason) => format!("{} {dot} {reason}", diagnosis.cause),
            None => diagnosis.cause.to_string(),
        };
        let sure = match flow.incident.confidence {
            Confidence::Proven => GOOD,
            Confidence::Inferred => WARN,
        };
        let sure = (sure, flow.incident.confidence.to_string());
        self.heading(number, &path, &[(Style::new(), what), sure, (Style::new(), self.place(report))])?;
        for line in lines(report, &self.report.host, self.style) {
            self.row(&line.time, line.who, &self.symbol(line.mark), &line.text)?;
        }
        self.below(report)
    }

    /// The flow's namespace, where the report covers several: addresses do not show which.
    fn place(&self, report: &FlowReport) -> String {
        match (&report.netns_name, report.flow.key.netns) {
            _ if !self.several => String::new(),
            (Some(name), _) => format!("in {name}"),
            (None, Some(inode)) => format!("in netns {inode}"),
            (None, None) => String::new(),
        }
    }

    /// The symbol of a line.
    fn symbol(&self, mark: Mark) -> String {
        let style = self.style;
        let (style, symbol) = match mark {
            Mark::More => return " ".to_owned(),
            Mark::Segment => return style.pick("▸", ">").to_owned(),
            Mark::Back => return style.pick("←", "<").to_owned(),
            Mark::Entry => return style.pick("·", "-").to_owned(),
            Mark::Unknown => return "?".to_owned(),
            Mark::Bad => (BAD, style.pick("✗", "x")),
            Mark::Good => (GOOD, style.pick("✓", "ok")),
            Mark::Unsure => (WARN, "?"),
        };
        format!("{style}{symbol}{style:#}")
    }

    /// The excluded causes and the mitigations.
    fn below(&mut self, report: &FlowReport) -> fmt::Result {
        let dot = self.style.dot();
        if !report.excluded.is_empty() {
            let parts: Vec<String> = report
                .excluded
                .iter()
                .map(|exclusion| format!("{} ({})", exclusion.cause, exclusion.because))
                .collect();
            self.labelled("not the cause: ", &parts.join(&format!("{TIED}{dot} ")))?;
        }
        if !report.mitigations.is_empty() {
            let names: Vec<&str> = report.mitigations.iter().map(|id| id.name()).collect();
            self.labelled("mitigations: ", &names.join(&format!("{TIED}{dot} ")))?;
        }
        Ok(())
    }
}
