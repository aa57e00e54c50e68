//! Applying a mitigation and undoing it: run its commands one by one, check each, keep a journal that the undo works from,
//! and measure what it changed.
//!
//! What is run does what the printed line does: the same program with the same words, without a shell, in a network namespace
//! that is entered by a descriptor.

pub mod apply;
pub mod journal;
pub mod live;
pub mod places;
mod probe;
mod run;
pub mod undo;
pub mod verify;
pub mod watch;

pub use probe::Unknown;
