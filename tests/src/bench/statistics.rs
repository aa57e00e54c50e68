//! Medians and spreads of a few measurements.

/// A measurement that was made several times.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample(Vec<f64>);

impl Sample {
    pub(super) fn push(&mut self, value: f64) {
        let at = self.0.partition_point(|known| *known < value);
        self.0.insert(at, value);
    }

    /// The middle one, or the mean of the two in the middle; 0 where there is none.
    pub(super) fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        match self.0.len() {
            0 => 0.0,
            odd if odd % 2 == 1 => self.0[middle],
            _ => f64::midpoint(self.0[middle - 1], self.0[middle]),
        }
    }

    /// The smallest and the largest.
    pub(super) fn spread(&self) -> [f64; 2] {
        [self.0.first(), self.0.last()].map(|end| end.copied().unwrap_or_default())
    }
}

/// Rounded to what is worth reading of a ratio or a share.
pub(super) fn rounded(value: f64) -> f64 {
    // Without the zero a sum of nothing would be -0.
    (value * 10_000.0).round() / 10_000.0 + 0.0
}

/// A count to calculate with. Those of a bench are far below 2⁵³.
#[expect(clippy::cast_precision_loss, reason = "no count of a bench is that large")]
pub(super) const fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::Sample;

    fn check(values: &[f64], median: f64, spread: [f64; 2]) {
        let mut sample = Sample::default();
        for value in values {
            sample.push(*value);
        }
        assert!((sample.median() - median).abs() < 1e-9, "{values:?}: {}", sample.median());
        assert_eq!(sample.spread().map(f64::to_bits), spread.map(f64::to_bits), "{values:?}");
    }

    #[test]
    fn medians_and_spreads() {
        check(&[], 0.0, [0.0, 0.0]);
        check(&[3.0, 1.0, 2.0], 2.0, [1.0, 3.0]);
        check(&[4.0, 1.0, 2.0, 3.0], 2.5, [1.0, 4.0]);
    }
}
