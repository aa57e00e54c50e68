//! What leaves its guest unfit for others: run only where it is asked for by name.

use super::super::Named::Several;
use super::super::{Scenario, faults};
use super::{SEQ_OVER, scenario};

/// In the order in which they are run.
pub(super) const LIST: &[Scenario] = &[scenario(
    "fault-suspended",
    "the machine sleeps between two resets",
    faults::clock::suspended,
    Several(&[(2, SEQ_OVER)]),
)];
