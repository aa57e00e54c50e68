//! What the kernel counted before and after a mitigation, and whether a rate has changed.

use std::time::Duration;

/// Fewer than so many events in a window say nothing about a rate.
const FEW: u64 = 5;

/// What the kernel has counted in a network namespace, since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets that conntrack refused, of ctnetlink.
    pub invalid: Option<u64>,
    /// RSTs that the TCP stack sent (`TcpOutRsts`); those of REJECT rules are not among them.
    pub out_rsts: Option<u64>,
    /// Connections of the host's own sockets that were reset (`TcpEstabResets`).
    pub estab_resets: Option<u64>,
}

/// What was counted in some time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    /// For how long.
    pub time: Duration,
    /// How much more there was at the end.
    pub counts: Counts,
}

/// What two windows say of a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: there was too little of it.
    TooLittle,
    /// It became less.
    Fell,
    /// It became more.
    Rose,
    /// It may have stayed as it was.
    Unclear,
}

impl Verdict {
    /// The word used for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TooLittle => "too-little-traffic",
            Self::Fell => "fell",
            Self::Rose => "rose",
            Self::Unclear => "no-clear-change",
        }
    }
}

/// Compares two counts as rates. Events that come on their own vary by the square root of their number; a difference counts
/// from twice of that on.
#[expect(clippy::cast_precision_loss, reason = "a count of packets in some seconds")]
pub fn compare(before: (u64, Duration), after: (u64, Duration)) -> Verdict {
    let rate = |(count, time): (u64, Duration)| count as f64 / time.as_secs_f64().max(f64::MIN_POSITIVE);
    let variance = |(count, time): (u64, Duration)| count as f64 / time.as_secs_f64().powi(2).max(f64::MIN_POSITIVE);
    if before.0 + after.0 < FEW {
        return Verdict::TooLittle;
    }
    let (difference, noise) = (rate(after) - rate(before), (variance(before) + variance(after)).sqrt());
    if difference.abs() < 2.0 * noise {
        Verdict::Unclear
    } else if difference < 0.0 {
        Verdict::Fell
    } else {
        Verdict::Rose
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Verdict, compare};

    #[test]
    fn rates_are_compared_with_their_noise() {
        for (before, after, verdict) in [
            ((0, 10), (0, 10), Verdict::TooLittle),
            ((2, 10), (1, 10), Verdict::TooLittle),
            ((40, 10), (0, 10), Verdict::Fell),
            ((5, 10), (0, 10), Verdict::Fell),
            ((0, 10), (9, 10), Verdict::Rose),
            ((40, 10), (45, 10), Verdict::Unclear),
            ((40, 10), (4, 1), Verdict::Unclear),
            ((400, 10), (200, 10), Verdict::Fell),
        ] {
            let (seconds, of) = (Duration::from_secs, |(count, time): (u64, u64)| (count, time));
            let (a, b) = (of(before), of(after));
            assert_eq!(compare((a.0, seconds(a.1)), (b.0, seconds(b.1))), verdict, "{before:?} {after:?}");
        }
    }
}
