//! Mitigations as data: name, commands, side effects and steps. The crate `tracer-advice` selects those for a host, and
//! `tracer-host` applies them.

mod command;
mod id;
mod persist;
mod step;
pub mod watched;

use crate::cause::Reason;

pub use command::{Command, lead};
pub use id::{About, MitigationId, UnknownMitigation};
pub use persist::Persist;
pub use step::{Change, FirewalldRule, IptablesRule, NftBatch, NftChain, NftInsert, NftRule, Probe, Step};

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
    /// The changes that `--apply` makes. The commands print them.
    pub steps: Vec<Step>,
}

impl Mitigation {
    /// Whether whyrst can apply it: it changes something here, and every change can be undone.
    pub fn can_be_applied(&self) -> bool {
        !self.steps.is_empty()
    }
}
