//! What leaves its guest unfit for others, or takes minutes: run only where it is asked for by name.

use super::super::Named::Several;
use super::super::{Scenario, faults, flood};
use super::{SEQ_OVER, scenario};

/// In the order in which they are run.
pub(super) const LIST: &[Scenario] = &[
    scenario(
        "fault-suspended",
        "the machine sleeps between two resets",
        faults::clock::suspended,
        Several(&[(2, SEQ_OVER)]),
    ),
    scenario(
        "flood-makes-room",
        "60,000 connections that nobody knows: once they are quiet, others are named",
        flood::makes_room,
        Several(&[(flood::LATE, "no-entry/never-seen by gateway-stack")]),
    ),
];
