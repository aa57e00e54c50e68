//! Events in, flows with a cause and a timeline out: a sans-IO state machine.
//!
//! The contract: it reads no clock, no file and no socket. Time comes with the events. It returns its questions to the kernel as
//! requests ([`engine::Engine::requests`]), and the answers are items. [`Limits`] bound its memory. The same items in the same order
//! give the same result.
//!
//! A [`session::Session`] takes the items of a capture. [`conclusion`] decides the cause of every flow once, at the end;
//! [`timeline`] has the steps of an incident in order.
#![forbid(unsafe_code)]

pub mod conclusion;
pub mod effect;
pub mod engine;
mod evicted;
pub mod flow;
mod gaps;
pub mod hook_line;
mod index;
mod pending;
mod poller;
pub mod session;
pub mod silence;
mod table;
pub mod timeline;

use std::time::Duration;

/// What bounds the engine's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Flows that are kept with their incidents. Beyond that the flow that was idle longest is evicted; flows that were not reset
    /// go first.
    pub flows: usize,
    /// Evicted flows that are kept with their endpoints, cause and counts, so that each is counted once. Beyond that only the counts
    /// are kept, and a flow with further events counts as another.
    pub past: usize,
    /// Refused packets that wait for their RST, and RSTs that wait to be seen at `LOCAL_OUT`.
    pub waiting: usize,
    /// How long they wait. The stack handles a packet within microseconds; a busy backlog can take longer.
    pub patience: Duration,
    /// Flows whose entry is looked up repeatedly at the same time.
    pub followed: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { flows: 65_536, past: 1 << 21, waiting: 8_192, patience: Duration::from_secs(2), followed: 1_024 }
    }
}
