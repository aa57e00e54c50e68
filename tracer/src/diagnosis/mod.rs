//! From flows to advice: why other causes are excluded, what else should be known, and what would cure it.
//!
//! Pure. Nothing here is guessed: an exclusion names the evidence, and without evidence there is none.

mod exclusion;
mod finding;
mod mitigation;
mod silence;

pub use exclusion::{Exclusion, exclusions};
pub use finding::{Finding, Severity, findings};
pub use mitigation::{
    Growth, Known, Mitigation, MitigationId, Place, Probe, Shows, Step, UnknownMitigation, describe, mitigations,
    mitigations_for, wanted,
};
pub use silence::explain_silence;
