//! From a report to bytes: the only place that knows a format.
#![forbid(unsafe_code)]

pub mod annotated;
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
mod sentences;
pub mod style;
pub mod text;
pub mod topics;
pub mod trace;
