//! Takes a packet through a ruleset as the kernel does, and says which fates are possible.
//!
//! Pure. A packet is a [`Class`]: some of it is known, some is typical but varies among the packets of the class, some is not
//! known. The ruleset is walked in order, hook by hook, base chain by base chain, with jumps, maps, marks and what exempts from
//! tracking. The result is never a guess: where a rule that is not understood may decide, it is named.

mod class;
mod condition;
mod consequence;
mod outcome;
mod walker;

pub use class::{Class, Interface, Path, Value, state};
pub use consequence::{Consequence, Consequences, Seen};
pub use outcome::{By, Fate, Outcome, Reach, Unclear, Walk};
pub use walker::Walker;

#[cfg(test)]
mod tests;
