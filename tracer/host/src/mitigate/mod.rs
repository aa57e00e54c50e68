//! Applying a mitigation and undoing it: run its commands one by one, check each, keep a journal that the undo works from,
//! and measure what it changed.
//!
//! What is run is what is printed: a printed line is split into words as a shell does, and executed without one.

pub mod apply;
pub mod journal;
pub mod live;
mod run;
pub mod watch;
