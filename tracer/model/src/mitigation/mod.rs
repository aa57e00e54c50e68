//! Mitigations as data: name, commands, side effects and steps. The crate `tracer-advice` selects those for a host, and
//! `tracer-host` applies them.

mod id;
pub mod watched;

use crate::cause::Reason;

pub use id::{About, MitigationId, UnknownMitigation};

/// A mitigation, with commands for this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mitigation {
    /// Its name.
    pub id: MitigationId,
    /// Its title, one line.
    pub title: &'static str,
    /// Commands that apply it.
    pub commands: Vec<String>,
    /// Commands that undo it.
    pub undo: Vec<String>,
    /// Further commands that keep it over a reboot.
    pub persist: Vec<String>,
    /// Commands that undo those.
    pub unpersist: Vec<String>,
    /// Its side effects.
    pub side_effects: Vec<&'static str>,
    /// Notes for this host, and steps on other hosts.
    pub notes: Vec<String>,
    /// The reasons that it mitigates.
    pub reasons: Vec<Reason>,
    /// The commands as steps, each with its undo and its probe.
    pub steps: Vec<Step>,
}

impl Mitigation {
    /// Whether whyrst can apply it: it changes something here, and every change can be undone.
    pub fn can_be_applied(&self) -> bool {
        !self.steps.is_empty() && !self.undo.is_empty() && self.steps.iter().any(|step| step.probe.is_some())
    }
}

/// One change, with its undo and its probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The command.
    pub run: String,
    /// The commands that undo it, in order; none where those of another step do.
    pub undo: Vec<String>,
    /// The probe of whether it is in force.
    pub probe: Option<Probe>,
}

/// A probe of whether a change is in force.
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
