//! From a report to bytes: the only place that knows a format.

pub mod compare;
pub mod csv;
pub mod json;
pub mod log;
pub mod pcapng;
mod plain;
pub mod step;
pub mod style;
pub mod text;
pub mod trace;
mod words;
