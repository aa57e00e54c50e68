//! The schedule of look-ups of a flow's entry.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tracer_model::time::Instant;

use super::flow::FlowId;

/// The look-ups of an entry after a reset: at once, often while the RSTs of both ends are expected, then more and more rarely.
const SCHEDULE: [Duration; 16] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(350),
    Duration::from_millis(500),
    Duration::from_millis(750),
    Duration::from_secs(1),
    Duration::from_millis(1_500),
    Duration::from_secs(2),
    Duration::from_secs(3),
    Duration::from_secs(5),
    Duration::from_secs(8),
    Duration::from_secs(13),
    Duration::from_secs(21),
    Duration::from_secs(34),
    Duration::from_mins(1),
];

/// The look-ups that are due, in order of time.
#[derive(Debug, Default)]
pub(super) struct EntryPoller {
    due: BTreeSet<(Instant, FlowId)>,
    flows: BTreeMap<FlowId, Position>,
}

#[derive(Debug, Clone, Copy)]
struct Position {
    start: Instant,
    next: usize,
    /// When it is due, as in [`EntryPoller::due`].
    due: Option<Instant>,
}

impl EntryPoller {
    /// Schedules look-ups for a flow from `now` on, unless it has them or there is no room.
    pub(super) fn start(&mut self, flow: FlowId, now: Instant, room: usize) {
        if self.flows.len() < room && !self.flows.contains_key(&flow) {
            self.flows.insert(flow, Position { start: now, next: 1, due: Some(now) });
            self.due.insert((now, flow));
        }
    }

    /// The flows to look up now; each moves on in its schedule.
    pub(super) fn due(&mut self, now: Instant) -> Vec<FlowId> {
        let mut found = Vec::new();
        while let Some(&(at, flow)) = self.due.first() {
            if at > now {
                break;
            }
            self.due.pop_first();
            found.push(flow);
            let Some(position) = self.flows.get_mut(&flow) else { continue };
            // A late caller skips what it has missed.
            let next = SCHEDULE.iter().skip(position.next).position(|delay| position.start.after(*delay) > now);
            position.due = next.map(|ahead| {
                position.next += ahead;
                let at = position.start.after(SCHEDULE[position.next]);
                position.next += 1;
                at
            });
            self.due.extend(position.due.map(|at| (at, flow)));
        }
        found
    }

    /// When the next look-up is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Ends a flow's schedule.
    pub(super) fn stop(&mut self, flow: FlowId) {
        if let Some(at) = self.flows.remove(&flow).and_then(|position| position.due) {
            self.due.remove(&(at, flow));
        }
    }

    /// The flows with a schedule, whether or not a look-up is due.
    pub(super) fn flows(&self) -> impl Iterator<Item = FlowId> {
        self.flows.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use tracer_model::time::Instant;

    use super::{EntryPoller, SCHEDULE};
    use crate::flow::FlowId;

    #[test]
    fn follows_the_schedule_and_ends() {
        let mut poller = EntryPoller::default();
        let start = Instant(1_000);
        poller.start(FlowId(7), start, 1);
        poller.start(FlowId(8), start, 1);
        let mut asked = 0;
        while let Some(at) = poller.next() {
            assert_eq!(poller.due(at), [FlowId(7)]);
            asked += 1;
        }
        assert_eq!(asked, SCHEDULE.len());
        assert_eq!(poller.flows().collect::<Vec<_>>(), [FlowId(7)], "it is still looked up when the capture ends");
    }

    #[test]
    fn a_late_caller_asks_once() {
        let mut poller = EntryPoller::default();
        poller.start(FlowId(1), Instant(0), 1);
        let late = Instant(0).after(SCHEDULE[9]);
        assert_eq!(poller.due(late), [FlowId(1)]);
        assert_eq!(poller.next(), Some(Instant(0).after(SCHEDULE[10])));
    }
}
