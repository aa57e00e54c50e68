//! From a report to bytes: the only place that knows a format.

mod cures;
pub mod json;
pub mod log;
pub mod mitigate;
pub mod style;
pub mod text;
pub mod trace;
mod words;
