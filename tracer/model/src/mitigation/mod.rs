//! Mitigations as data: what each is called, what it does and costs, and its steps. What is advised on a host is decided by
//! the crate `tracer-advice`, and applied by `tracer-host`.

mod id;
pub mod watched;

use crate::cause::Reason;

pub use id::{About, MitigationId, UnknownMitigation};

/// A cure, with commands for this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mitigation {
    /// Its name.
    pub id: MitigationId,
    /// It in one line.
    pub title: &'static str,
    /// Commands that apply it.
    pub commands: Vec<String>,
    /// Commands that undo it.
    pub undo: Vec<String>,
    /// Commands that make it outlive a reboot, after the others.
    pub persist: Vec<String>,
    /// Commands that undo those.
    pub unpersist: Vec<String>,
    /// What else it does.
    pub side_effects: Vec<&'static str>,
    /// What there is to say of it on this host, and what is to be done elsewhere.
    pub notes: Vec<String>,
    /// The reasons it cures.
    pub cures: Vec<Reason>,
    /// The commands once more, one by one with what undoes and what shows each.
    pub steps: Vec<Step>,
}

impl Mitigation {
    /// Whether whyrst can apply it: it changes something here, and every change can be taken back.
    pub fn can_be_applied(&self) -> bool {
        !self.steps.is_empty() && !self.undo.is_empty() && self.steps.iter().any(|step| step.probe.is_some())
    }
}

/// One change, with what takes it back and what shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The command.
    pub run: String,
    /// The commands that take it back, in their order; none where another step's do.
    pub undo: Vec<String>,
    /// What shows whether it is in force.
    pub probe: Option<Probe>,
}

/// What shows whether a change is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// A command that changes nothing.
    pub command: String,
    /// How its result is read.
    pub shows: Shows,
}

/// How the result of a probe is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shows {
    /// It prints a value: this one before, that one after the change.
    Value {
        /// Before.
        before: String,
        /// After.
        after: String,
    },
    /// It fails before the change and succeeds after it.
    Presence,
}
