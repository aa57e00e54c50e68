//! From flows to advice: why other causes are excluded, what else should be known, and what would cure it.
//!
//! Pure. Nothing here is guessed: an exclusion names the evidence, and without evidence there is none.
#![forbid(unsafe_code)]

pub mod compare;
pub mod doctor;
mod exclusion;
pub mod explain;
mod finding;
mod mitigation;
pub mod report;

pub use exclusion::{Exclusion, exclusions};
pub use finding::findings;
pub use mitigation::{Growth, Known, Place, describe, mitigations, mitigations_for, wanted};
