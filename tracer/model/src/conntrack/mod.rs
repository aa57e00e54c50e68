//! conntrack's TCP tracker as data and arithmetic: entries, states, the window check, log messages and their verdicts.
//!
//! Pure: no clock, no file, no socket.

pub mod destroyed;
pub mod entry;
pub mod log_format;
pub mod message;
pub mod seq;
pub mod window;

pub use destroyed::{DestroyReason, DestroyedBy, DestroyedEntry};
pub use entry::{Direction, Entry, Nfct, Seen, Status, TcpState, Tuple};
pub use log_format::LogFormat;
pub use message::{Message, Verdict};
pub use seq::Seq;
