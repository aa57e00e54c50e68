//! An axis that is to scale as far as possible, and marks where it is not.

/// The drawing of a distance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap {
    /// Its length, in units of the picture.
    pub(super) length: i32,
    /// Whether it is to scale.
    pub(super) to_scale: bool,
}

/// The lengths of gaps: the shortest gets `least`, the others are to the same scale, up to `most`. A longer gap is drawn as a
/// break of length `cut`.
pub(super) fn gaps(distances: &[u64], least: i32, most: i32, cut: i32) -> Vec<Gap> {
    let shortest = distances.iter().copied().filter(|distance| *distance > 0).min().unwrap_or(1);
    let length = |distance: u64| {
        let scaled = u128::from(distance) * u128::from(least.unsigned_abs()) / u128::from(shortest);
        match i32::try_from(scaled) {
            Ok(length) if length <= most => Gap { length, to_scale: true },
            _ => Gap { length: cut, to_scale: false },
        }
    };
    distances.iter().copied().map(length).collect()
}

#[cfg(test)]
mod tests {
    use super::{Gap, gaps};

    #[test]
    fn what_is_too_long_is_a_break() {
        let scaled = |length| Gap { length, to_scale: true };
        let broken = Gap { length: 40, to_scale: false };
        assert_eq!(gaps(&[4_357, 12_643, 247_000], 24, 120, 40), [scaled(24), scaled(69), broken]);
        assert_eq!(gaps(&[u64::MAX, 1], 24, 120, 40), [broken, scaled(24)]);
        assert_eq!(gaps(&[0, 7], 24, 120, 40), [scaled(0), scaled(24)]);
        assert_eq!(gaps(&[], 24, 120, 40), []);
    }
}
