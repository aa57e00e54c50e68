//! Compares the flows of all reports with the flows that the scenarios expect.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;
use whyrst_tests::scenarios::{self, Named, Scenario};

/// Stands for a flow that one of both sides lacks.
const NOTHING: &str = "nothing";

/// Numbers of flows by the expected and the reported label.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Confusion {
    cells: BTreeMap<(String, String), usize>,
}

impl Confusion {
    /// Compares the reports that scenarios left on a kernel with a conntrack log format.
    pub(crate) fn of_artifacts(artifacts: &Path, names: &[String], log_format: &str) -> Result<Self> {
        let mut confusion = Self::default();
        for name in names {
            let scenario = scenarios::find(name).with_context(|| format!("no scenario `{name}`"))?;
            let path = artifacts.join(scenario.name).join("report.json");
            let report: Value = match fs::read(&path) {
                Ok(text) => serde_json::from_slice(&text).with_context(|| format!("{}", path.display()))?,
                // Some scenarios are about getting no report; where a flow must be named, it is missing.
                Err(_) if matches!(scenario.named, Named::Nothing | Named::IfAny(_)) => continue,
                Err(_) => Value::Null,
            };
            confusion.add_scenario(scenario, log_format, &report);
        }
        Ok(confusion)
    }

    fn add_scenario(&mut self, scenario: &Scenario, log_format: &str, report: &Value) {
        let (expected, tolerant): (Vec<(usize, &str)>, bool) = match scenario.named {
            Named::Refusing(label) if matches!(log_format, "e1" | "e2") => (vec![(1, label)], false),
            Named::NotE1(_) if log_format == "e1" => (Vec::new(), false),
            Named::Nothing | Named::Refusing(_) => (Vec::new(), false),
            Named::Each(label) | Named::IfAny(label) | Named::NotE1(label) => (vec![(1, label)], false),
            Named::ByLogFormat { refusing, .. } if matches!(log_format, "e1" | "e2") => (vec![(1, refusing)], false),
            Named::ByLogFormat { lenient, .. } => (vec![(1, lenient)], false),
            Named::Several(labels) => (labels.to_vec(), false),
            Named::AtLeast(least, label) => (vec![(least, label)], true),
        };
        let labels = report["flows"].as_array().into_iter().flatten().map(label);
        let mut others: Vec<String> =
            labels.filter(|reported| !(tolerant && reported.ends_with(" accepted"))).collect();
        let mut missing = Vec::new();
        for (least, label) in &expected {
            let (matching, rest): (Vec<String>, Vec<String>) =
                others.into_iter().partition(|reported| reported == label);
            others = rest;
            let right = if tolerant { matching.len() } else { matching.len().min(*least) };
            self.add(label, label, right);
            self.add(NOTHING, label, matching.len() - right);
            missing.extend(std::iter::repeat_n(*label, least.saturating_sub(right)));
        }
        if expected.is_empty() && others.is_empty() {
            self.add(NOTHING, NOTHING, 1);
        }
        // A flow reported as something else stands for a missing one; the remaining ones are too many.
        let mut missing = missing.into_iter();
        for reported in &others {
            self.add(missing.next().unwrap_or(NOTHING), reported, 1);
        }
        for label in missing {
            self.add(label, NOTHING, 1);
        }
    }

    fn add(&mut self, expected: &str, reported: &str, flows: usize) {
        if flows > 0 {
            *self.cells.entry((expected.to_owned(), reported.to_owned())).or_default() += flows;
        }
    }

    /// Adds another kernel's.
    pub(crate) fn merge(&mut self, other: &Self) {
        for ((expected, reported), flows) in &other.cells {
            self.add(expected, reported, *flows);
        }
    }

    /// Flows with a wrong label, one line each.
    pub(crate) fn mistakes(&self) -> Vec<String> {
        let wrong = self.cells.iter().filter(|((expected, reported), _)| expected != reported);
        wrong
            .map(|((expected, reported), flows)| format!("{flows} × expected {expected}, reported {reported}"))
            .collect()
    }

    /// As a table in Markdown.
    pub(crate) fn table(&self) -> String {
        let mut text = String::from("| expected | reported | flows |\n|---|---|---:|\n");
        for ((expected, reported), flows) in &self.cells {
            let mark = if expected == reported { "same".to_owned() } else { format!("**{reported}**") };
            // A String takes any write.
            let _infallible = writeln!(text, "| {expected} | {mark} | {flows} |");
        }
        text
    }
}

/// A flow of a report, in the words of [`Named`].
fn label(flow: &Value) -> String {
    let mut text = flow["cause"].as_str().unwrap_or("?").to_owned();
    // With a socket it is the kernel's own word, which differs from kernel to kernel.
    if let Some(reason) = flow["reason"].as_str().filter(|_| text != "local-socket") {
        text = format!("{text}/{reason}");
    }
    match flow["reset_by"].as_str() {
        Some(by) => format!("{text} by {by}"),
        None if flow["invalid_packets"] == 0 && flow["ignored_packets"] != 0 => format!("{text} accepted"),
        None => format!("{text} by nobody"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use whyrst_tests::scenarios;

    use super::Confusion;

    fn compare(scenario: &str, log_format: &str, flows: &Value) -> Vec<String> {
        let scenario = scenarios::find(scenario).unwrap();
        let mut confusion = Confusion::default();
        confusion.add_scenario(scenario, log_format, &json!({ "flows": flows }));
        confusion.mistakes()
    }

    fn flow(cause: &str, reason: &str, by: Option<&str>) -> Value {
        let invalid = u64::from(by.is_some());
        json!({ "cause": cause, "reason": reason, "reset_by": by, "invalid_packets": invalid, "ignored_packets": 1 - invalid })
    }

    #[test]
    fn what_is_right_is_on_the_diagonal() {
        let under = |by| json!([flow("out-of-window", "seq-under", by)]);
        assert!(compare("late-retransmission", "e1", &under(Some("gateway-stack"))).is_empty());
        assert!(compare("late-retransmission", "e4", &under(None)).is_empty());
        assert!(compare("clean-download", "e1", &json!([])).is_empty());
    }

    #[test]
    fn what_is_wrong_is_not() {
        let over = flow("out-of-window", "seq-over", Some("gateway-stack"));
        let wrong = |flows: Value, count: usize| {
            let mistakes = compare("seq-over", "e1", &flows);
            assert_eq!(mistakes.len(), count, "{flows}: {mistakes:?}");
        };
        wrong(json!([]), 1);
        wrong(Value::Null, 1);
        wrong(json!([flow("out-of-window", "seq-under", Some("gateway-stack"))]), 1);
        wrong(json!([over, over]), 1);
        wrong(json!([over, flow("unknown", "x", Some("gateway-stack"))]), 1);
        assert_eq!(compare("clean-download", "e1", &json!([over])).len(), 1);
        let evicted = flow("no-entry", "evicted", Some("gateway-stack"));
        assert!(compare("table-evicts", "e1", &Value::from(vec![evicted.clone(); 60])).is_empty());
        assert_eq!(compare("table-evicts", "e1", &Value::from(vec![evicted; 49])).len(), 1);
        assert_eq!(compare("late-retransmission", "e4", &json!([over])).len(), 1);
    }

    #[test]
    fn flows_of_several_kinds_are_counted_by_kind() {
        let over = flow("out-of-window", "seq-over", Some("gateway-stack"));
        let deleted = flow("no-entry", "deleted", Some("gateway-stack"));
        let both = |flows: Value| compare("twin-gateways-both", "e4", &flows).len();
        assert_eq!(both(json!([deleted, over])), 0);
        assert_eq!(both(json!([over, over])), 2, "one too many of this kind, one missing of that");
        assert_eq!(both(json!([over])), 1);
        assert_eq!(both(json!([over, flow("no-entry", "expired", Some("gateway-stack"))])), 1);
    }
}
