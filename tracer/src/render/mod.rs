//! From a report to bytes: the only place that knows a format.

mod cures;
pub mod doctor;
pub mod html;
pub mod json;
pub mod log;
pub mod mitigate;
pub mod plain;
pub mod style;
pub mod text;
pub mod trace;
mod words;
