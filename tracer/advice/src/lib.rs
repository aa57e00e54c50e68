//! Advice on concluded flows: excluded causes, findings, and plans of mitigations.
//!
//! Pure: no clock, no IO. Nothing is guessed: an exclusion names its evidence, and without evidence there is no exclusion.
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
pub use mitigation::{Growth, Known, Target, describe, in_force, mitigations, mitigations_for, wanted};
