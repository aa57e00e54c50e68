//! From a report to bytes: the only place that knows a format.

pub mod compare;
pub mod csv;
mod cures;
pub mod doctor;
pub mod html;
pub mod json;
pub mod log;
pub mod mitigate;
pub mod pcapng;
pub mod plain;
pub mod step;
pub mod style;
pub mod text;
pub mod trace;
mod words;
