//! What conntrack's TCP tracker knows and says, restated: entries, states, window arithmetic, log messages and their
//! verdicts.
//!
//! Pure: no clock, no file, no socket, no allocation that depends on the outside.

pub mod destroyed;
pub mod entry;
pub mod log_format;
pub mod message;
pub mod seq;
pub mod window;

pub use destroyed::{DestroyedEntry, End, EndedBy};
pub use entry::{Direction, Entry, Nfct, Seen, Status, TcpState, Tuple};
pub use log_format::LogFormat;
pub use message::{Message, Verdict};
pub use seq::Seq;
