//! The time–sequence diagram of a flow: who sent what to whom, when, and where it went wrong.
//!
//! Solid is what a hook of this host saw, dashed is what follows from it. Each row has a band of its own, so that no label can
//! cover another; the axis is true to scale, with breaks.

mod draw;
mod lanes;
mod rows;

pub(super) use draw::draw;

#[cfg(test)]
mod tests;
