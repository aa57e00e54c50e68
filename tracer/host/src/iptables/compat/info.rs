//! Fields of a structure of xtables.

/// The structure of a match or a target. Numbers are in the byte order of the host.
#[derive(Clone, Copy)]
pub(super) struct Info<'a>(pub(super) &'a [u8]);

impl<'a> Info<'a> {
    /// Bytes of it.
    pub(super) fn bytes(self, at: usize, length: usize) -> Option<&'a [u8]> {
        self.0.get(at..at.checked_add(length)?)
    }

    fn array<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        self.bytes(at, N)?.try_into().ok()
    }

    /// A `__u8`.
    pub(super) fn byte(self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }

    /// A `__u16`.
    pub(super) fn short(self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_ne_bytes)
    }

    /// A `__u32`.
    pub(super) fn word(self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_ne_bytes)
    }
}
