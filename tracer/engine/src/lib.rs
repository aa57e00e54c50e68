//! From events to flows with causes: a sans-IO state machine.
//!
//! It reads no clock, no file and no socket: time comes in with the events, and what it wants to know of the kernel it
//! asks for ([`engine::Engine::requests`]). Memory is bounded by [`Limits`]; the order of everything it gives out follows
//! from the order of what it was given.
#![forbid(unsafe_code)]

pub mod conclusion;
pub mod effect;
pub mod engine;
mod evicted;
pub mod flow;
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
    /// Flows whose stories are remembered. When there are more, that of the one that was idle longest is forgotten; flows
    /// that were not reset go first.
    pub flows: usize,
    /// Flows of which it is still remembered afterwards who they were and what they came to, so that each is counted once.
    /// Of more than that the counts alone are kept, and one that is heard of again counts as another.
    pub past: usize,
    /// Refused packets and sent RSTs that wait for what belongs to them.
    pub waiting: usize,
    /// For how long they wait. The stack deals with a packet within microseconds; a busy backlog may take longer.
    pub patience: Duration,
    /// Flows whose entry is followed at the same time.
    pub followed: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { flows: 65_536, past: 1 << 21, waiting: 8_192, patience: Duration::from_secs(2), followed: 1_024 }
    }
}
