//! Tests whether two rates differ, or whether there are too few events to decide.
//!
//! Independent events at a constant rate are Poisson distributed. Given the total over both periods, the count of the second
//! period is binomially distributed; if the rates are equal, the probability is its share of the time. The test is exact and
//! needs no large counts. Bursts make it overconfident, and it does not know how traffic changes over the day.

use std::time::Duration;

/// The significance level: with equal rates, one comparison in a hundred shows a difference.
pub const LEVEL: f64 = 0.01;

/// No capture has more events. The logarithms of such factorials are exact to a hundredth.
const MOST: u64 = 1 << 40;

/// Events in a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Number of events.
    pub events: u64,
    /// Length of the period.
    pub time: Duration,
}

impl Sample {
    /// Events per minute; `None` if the period is empty.
    #[expect(clippy::cast_precision_loss, reason = "a rate with 15 digits is exact enough")]
    pub fn per_minute(self) -> Option<f64> {
        (!self.time.is_zero()).then(|| self.events as f64 * 60.0 / self.time.as_secs_f64())
    }

    /// The sample with more events.
    #[must_use]
    pub const fn and(self, more: u64) -> Self {
        Self { events: self.events.saturating_add(more), ..self }
    }
}

/// The difference between the rates of two samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Difference {
    /// The second rate is lower; with the probability of such a difference, or a larger one, by chance.
    Fewer(f64),
    /// The second rate is higher; with that probability.
    More(f64),
    /// Chance may explain the difference; with that probability.
    None(f64),
    /// So few events could not show a difference, however they were distributed over the two periods.
    TooFew,
}

/// Compares two rates.
pub fn compare(before: Sample, after: Sample) -> Difference {
    let total = before.time.as_secs_f64() + after.time.as_secs_f64();
    let share = after.time.as_secs_f64() / total;
    // Also false for NaN: both periods are empty.
    if !(share > 0.0 && share < 1.0) {
        return Difference::TooFew;
    }
    let [before, after] = [before, after].map(|sample| sample.events.min(MOST));
    let events = before + after;
    let (lower, upper) = tails(events, after, share);
    let p = (2.0 * lower.min(upper)).min(1.0);
    // The largest difference in this direction that so many events could show.
    let best = if lower < upper { tails(events, 0, share).0 } else { tails(events, events, share).1 };
    match (p < LEVEL, lower < upper) {
        (true, true) => Difference::Fewer(p),
        (true, false) => Difference::More(p),
        _ if 2.0 * best >= LEVEL => Difference::TooFew,
        _ => Difference::None(p),
    }
}

/// The probabilities of at most, and of at least, `k` successes in `n` trials.
#[expect(clippy::cast_precision_loss, reason = "probabilities need no more than 15 digits")]
fn tails(n: u64, k: u64, probability: f64) -> (f64, f64) {
    let (trials, successes) = (n as f64, k as f64);
    let odds = probability / (1.0 - probability);
    let at = (ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k)
        + successes * probability.ln()
        + (trials - successes) * (-probability).ln_1p())
    .exp();
    // Terms decrease away from the middle, so the sum can stop when they no longer count.
    if successes <= trials * probability {
        let lower = sum(at, (1..=k).rev().map(|k| k as f64 / (trials - k as f64 + 1.0) / odds));
        (lower.min(1.0), (1.0 - lower + at).clamp(at, 1.0))
    } else {
        let upper = sum(at, (k..n).map(|k| (trials - k as f64) / (k as f64 + 1.0) * odds));
        ((1.0 - upper + at).clamp(at, 1.0), upper.min(1.0))
    }
}

/// The sum of a term and its successors, each given as the ratio to its predecessor.
fn sum(first: f64, ratios: impl Iterator<Item = f64>) -> f64 {
    let (mut term, mut sum) = (first, first);
    for ratio in ratios {
        term *= ratio;
        sum += term;
        // Also true for a term that underflows to 0.
        if term <= sum * f64::EPSILON / 16.0 {
            break;
        }
    }
    sum
}

/// ln n!; Stirling's series for large n.
#[expect(clippy::cast_precision_loss, reason = "its logarithm needs no more than 15 digits")]
fn ln_factorial(n: u64) -> f64 {
    const SMALL: u64 = 20;
    if n <= SMALL {
        return (1..=n).map(|factor| factor as f64).product::<f64>().ln();
    }
    let n = n as f64;
    let series = 1.0 / (12.0 * n) - 1.0 / (360.0 * n.powi(3)) + 1.0 / (1_260.0 * n.powi(5));
    n * n.ln() - n + 0.5 * (std::f64::consts::TAU * n).ln() + series
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use rstest::rstest;

    use super::{Difference, Sample, compare, ln_factorial, tails};

    const fn sample(events: u64, seconds: u64) -> Sample {
        Sample { events, time: Duration::from_secs(seconds) }
    }

    /// Sums of binomial coefficients, by hand: 2 · (1 + 12 + 66) / 2¹² and so on.
    #[rstest]
    #[case::nothing_at_all(sample(0, 60), sample(0, 60), Difference::TooFew)]
    #[case::one(sample(1, 60), sample(0, 60), Difference::TooFew)]
    #[case::seven_to_none(sample(7, 60), sample(0, 60), Difference::TooFew)]
    #[case::eight_to_none(sample(8, 60), sample(0, 60), Difference::Fewer(2.0 / 256.0))]
    #[case::none_to_eight(sample(0, 60), sample(8, 60), Difference::More(2.0 / 256.0))]
    #[case::ten_to_two(sample(10, 60), sample(2, 60), Difference::None(2.0 * 79.0 / 4_096.0))]
    #[case::equal(sample(20, 60), sample(20, 60), Difference::None(1.0))]
    #[case::equal_rates(sample(600, 600), sample(1, 1), Difference::None(1.0))]
    #[case::a_second_of_silence(sample(600, 600), sample(0, 1), Difference::TooFew)]
    #[case::a_second_of_noise(sample(600, 600), sample(2, 1), Difference::None(0.529_7))]
    #[case::no_time(sample(9, 60), sample(0, 0), Difference::TooFew)]
    #[case::no_time_at_all(sample(0, 0), sample(0, 0), Difference::TooFew)]
    fn differences(#[case] before: Sample, #[case] after: Sample, #[case] expected: Difference) {
        let found = compare(before, after);
        let p = |difference| match difference {
            Difference::Fewer(p) | Difference::More(p) | Difference::None(p) => p,
            Difference::TooFew => 0.0,
        };
        assert_eq!(std::mem::discriminant(&found), std::mem::discriminant(&expected), "{found:?}");
        assert!((p(found) - p(expected)).abs() < 1e-4, "{found:?}");
    }

    /// Large counts neither overflow nor take long.
    #[test]
    fn millions() {
        assert!(matches!(compare(sample(3_000_000, 60), sample(3_000_500, 60)), Difference::None(_)));
        assert!(matches!(compare(sample(3_000_000, 60), sample(2_900_000, 60)), Difference::Fewer(_)));
        assert!(matches!(compare(sample(u64::MAX, 60), sample(1 << 39, 60)), Difference::Fewer(_)));
    }

    #[test]
    fn factorials() {
        let by_hand: f64 = (1..=50).map(|factor| f64::from(factor).ln()).sum();
        assert!((ln_factorial(50) - by_hand).abs() < 1e-9);
        assert!(ln_factorial(0).abs() < 1e-12);
    }

    proptest! {
        /// Against the plain sum of all terms.
        #[test]
        fn tails_are_sums(n in 0i32..60, k in 0i32..60, share in 0.01f64..0.99) {
            let k = k.min(n);
            let term = |i: i32| {
                let choose = (0..i).fold(1.0, |product, j| product * f64::from(n - j) / f64::from(j + 1));
                choose * share.powi(i) * (1.0 - share).powi(n - i)
            };
            let (lower, upper) = tails(n.unsigned_abs().into(), k.unsigned_abs().into(), share);
            prop_assert!((lower - (0..=k).map(term).sum::<f64>()).abs() < 1e-9);
            prop_assert!((upper - (k..=n).map(term).sum::<f64>()).abs() < 1e-9);
        }

        /// Swapping the periods swaps the result.
        #[test]
        fn symmetric(a in 0u64..200, b in 0u64..200, s in 1u64..1_000, t in 1u64..1_000) {
            match (compare(sample(a, s), sample(b, t)), compare(sample(b, t), sample(a, s))) {
                (Difference::Fewer(p), Difference::More(q)) | (Difference::More(p), Difference::Fewer(q))
                | (Difference::None(p), Difference::None(q)) => prop_assert!((p - q).abs() < 1e-9),
                (Difference::TooFew, Difference::TooFew) => {}
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
