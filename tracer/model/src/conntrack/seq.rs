//! TCP sequence numbers.

use std::fmt;

/// A sequence number: a point on a circle of 2³². Two numbers are ordered by the signed 32-bit difference, as
/// `before()` and `after()` of the kernel do (include/net/tcp.h); the order is meaningful within 2³¹.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Seq(pub u32);

impl Seq {
    /// How far `self` is behind `other`: positive where `self` comes later, in bytes.
    pub const fn since(self, other: Self) -> i32 {
        self.0.wrapping_sub(other.0).cast_signed()
    }

    /// Whether `self` comes earlier than `other`.
    pub const fn before(self, other: Self) -> bool {
        self.since(other) < 0
    }

    /// Whether `self` comes later than `other`.
    pub const fn after(self, other: Self) -> bool {
        other.before(self)
    }

    /// The number this many bytes later.
    #[must_use]
    pub const fn plus(self, bytes: u32) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// The number this many bytes earlier.
    #[must_use]
    pub const fn minus(self, bytes: u32) -> Self {
        Self(self.0.wrapping_sub(bytes))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::Seq;

    #[test]
    fn order_survives_the_wrap() {
        let before_wrap = Seq(u32::MAX - 10);
        let after_wrap = before_wrap.plus(20);
        assert_eq!(after_wrap, Seq(9));
        assert!(before_wrap.before(after_wrap));
        assert!(after_wrap.after(before_wrap));
        assert_eq!(after_wrap.since(before_wrap), 20);
        assert_eq!(before_wrap.since(after_wrap), -20);
        assert!(!before_wrap.before(before_wrap));
    }
}
