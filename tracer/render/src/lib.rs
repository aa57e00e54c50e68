//! Renderers: a report, a comparison, findings or a log as text, JSON, HTML, pcapng or CSV. Only this crate knows the formats.
#![forbid(unsafe_code)]

pub mod annotated;
pub mod compare;
pub mod csv;
pub mod doctor;
pub mod html;
pub mod json;
pub mod log;
pub mod mitigate;
mod mitigations;
pub mod pcapng;
pub mod plain;
mod sentences;
pub mod style;
pub mod text;
pub mod topics;
pub mod trace;
