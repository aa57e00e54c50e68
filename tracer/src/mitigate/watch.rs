//! Did it help? The kernel's own counters before and after, without BPF.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use crate::kernel::ctnetlink::Ctnetlink;
use crate::kernel::netns::enter;

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

/// A moment of counting.
#[derive(Debug, Clone)]
pub struct Mark {
    at: Instant,
    counts: Vec<Counts>,
}

impl Mark {
    /// Reads the counters of these namespaces.
    pub fn now(places: &[u32]) -> io::Result<Self> {
        let counts = places.iter().map(|netns| enter(*netns, read_here)).collect::<io::Result<Vec<Counts>>>()?;
        Ok(Self { at: Instant::now(), counts })
    }

    /// What was counted since an earlier moment, in all the namespaces together.
    pub fn since(&self, earlier: &Self) -> Window {
        let sum = |of: fn(&Counts) -> Option<u64>| -> Option<u64> {
            let pairs = self.counts.iter().zip(&earlier.counts);
            pairs.map(|(now, then)| Some(of(now)?.saturating_sub(of(then)?))).sum()
        };
        let counts = Counts {
            invalid: sum(|counts| counts.invalid),
            out_rsts: sum(|counts| counts.out_rsts),
            estab_resets: sum(|counts| counts.estab_resets),
        };
        Window { time: self.at - earlier.at, counts }
    }
}

/// Reads the counters of the namespace that the calling thread is in.
fn read_here() -> Counts {
    let invalid = Ctnetlink::open().and_then(|ctnetlink| ctnetlink.invalid()).ok();
    // /proc/net is the namespace of the process, not of the thread.
    let snmp = fs::read_to_string("/proc/thread-self/net/snmp").unwrap_or_default();
    Counts { invalid, out_rsts: of_snmp(&snmp, "OutRsts"), estab_resets: of_snmp(&snmp, "EstabResets") }
}

/// A number of the lines `Tcp: NAME …` and `Tcp: VALUE …`.
fn of_snmp(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    pairs.find(|(known, _)| *known == name)?.1.parse().ok()
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

    use super::{Mark, Verdict, compare, of_snmp};
    use crate::kernel::netns::home;

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

    #[test]
    fn counters_are_found_by_name() {
        let text = "Ip: Forwarding\nIp: 1\nTcp: RtoMin EstabResets OutRsts\nTcp: 200 3 7\n";
        assert_eq!((of_snmp(text, "OutRsts"), of_snmp(text, "EstabResets")), (Some(7), Some(3)));
        assert_eq!((of_snmp(text, "Nothing"), of_snmp("Tcp: a\n", "a")), (None, None));
    }

    #[test]
    fn the_kernel_counts() {
        let mark = Mark::now(&[home().unwrap()]).unwrap();
        assert!(Mark::now(&[home().unwrap()]).unwrap().since(&mark).counts.out_rsts.is_some());
    }
}
