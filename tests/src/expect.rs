//! Compares a report with expectations and names every difference, not only the first.

use serde_json::Value;

/// Differences between a JSON document and what was expected of it.
#[derive(Debug, Default)]
pub struct Expect {
    wrong: Vec<String>,
}

impl Expect {
    /// No difference so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value at a JSON pointer.
    pub fn is(&mut self, document: &Value, pointer: &str, expected: impl Into<Value>) {
        let expected = expected.into();
        let found = document.pointer(pointer).unwrap_or(&Value::Null);
        if *found != expected {
            self.wrong.push(format!("{pointer} is {found}, expected {expected}"));
        }
    }

    /// The names of the steps of the first flow's chain, in order.
    pub fn steps(&mut self, report: &Value, expected: &[&str]) {
        let steps: Vec<&str> = report
            .pointer("/flows/0/chain")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|step| step.get("step")?.as_str())
            .collect();
        if steps != expected {
            self.wrong.push(format!("the chain is {steps:?}, expected {expected:?}"));
        }
    }

    /// Anything else that must hold.
    pub fn that(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.wrong.push(otherwise());
        }
    }

    /// An error that names every difference, if there are any.
    pub fn verdict(self) -> anyhow::Result<()> {
        if self.wrong.is_empty() { Ok(()) } else { anyhow::bail!("{}", self.wrong.join("\n")) }
    }
}
