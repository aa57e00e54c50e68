//! How large a table should be, with the arithmetic shown.

use std::fmt::Write as _;

/// Bits of a word of the kernels that whyrst runs on.
const WORD: u64 = 64;
/// Bytes of an entry where BTF does not have it: `struct nf_conn` is about 250 bytes in 5.10 to 7.3, and with what
/// NAT, accounting and labels append about 300.
pub const ABOUT: u64 = 300;
/// Bytes of a bucket: one pointer (`struct hlist_nulls_head`).
const BUCKET: u64 = 8;
/// Entries per bucket up to which the kernel itself goes (`nf_conntrack_init_start`: one where it chooses the number of
/// buckets, eight where that was set by hand).
pub const PER_BUCKET: u64 = 8;

/// How many entries and buckets suit a memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizing {
    /// Bytes of memory.
    pub memory: u64,
    /// Entries by the rule in use among administrators: bytes / 16384 / (bits of a word / 32).
    pub by_rule: u64,
    /// Buckets, and with them entries, that the kernel takes by itself (`nf_conntrack_init_start`).
    pub by_kernel: u64,
    /// Bytes of an entry.
    pub entry: u64,
    /// Whether this kernel's BTF has that size.
    pub entry_known: bool,
}

impl Sizing {
    /// For a host with so many bytes of memory.
    pub fn of(memory: u64, entry: Option<u64>) -> Self {
        const GIB: u64 = 1 << 30;
        let by_kernel = match memory {
            more if more > 4 * GIB => 262_144,
            more if more > GIB => 65_536,
            // It rounds up to whole pages (`nf_ct_alloc_hashtable`).
            less => (less / 16_384 / BUCKET).max(1_024).next_multiple_of(4_096 / BUCKET),
        };
        Self {
            memory,
            by_rule: memory / 16_384 / (WORD / 32),
            by_kernel,
            entry: entry.unwrap_or(ABOUT),
            entry_known: entry.is_some(),
        }
    }

    /// Bytes that so many entries and buckets take.
    pub const fn bytes(&self, entries: u64, buckets: u64) -> u64 {
        entries.saturating_mul(self.entry).saturating_add(buckets.saturating_mul(BUCKET))
    }

    /// Per mille of the memory that so many entries and buckets take.
    pub fn permille(&self, entries: u64, buckets: u64) -> u64 {
        self.bytes(entries, buckets).saturating_mul(1_000).checked_div(self.memory).unwrap_or(0)
    }

    /// The arithmetic in words.
    pub fn shown(&self, max: u64, buckets: Option<u64>) -> Vec<String> {
        let mebibytes = |bytes: u64| bytes >> 20;
        let mut lines = vec![
            format!(
                "rule of thumb: {} bytes of memory / 16384 / ({WORD} / 32) = {} entries",
                self.memory, self.by_rule
            ),
            format!("what this kernel chooses by itself with this memory: {} buckets, as many entries", self.by_kernel),
        ];
        let source = if self.entry_known { "this kernel's" } else { "about" };
        let mut line = format!("{max} entries × {source} {} bytes", self.entry);
        if let Some(buckets) = buckets {
            // A String takes any write.
            let _infallible = write!(line, " + {buckets} buckets × {BUCKET} bytes");
        }
        let bytes = self.bytes(max, buckets.unwrap_or(0));
        let permille = self.permille(max, buckets.unwrap_or(0));
        let _infallible =
            write!(line, " = {} MiB when full, {}.{} % of memory", mebibytes(bytes), permille / 10, permille % 10);
        lines.push(line);
        if let Some(buckets) = buckets.filter(|buckets| *buckets > 0) {
            // Each entry is in the table twice, once per direction.
            let tenths = max.saturating_mul(20) / buckets;
            lines.push(format!(
                "2 × {max} / {buckets} buckets = {}.{} tuples to compare per bucket when full",
                tenths / 10,
                tenths % 10
            ));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::Sizing;

    const GIB: u64 = 1 << 30;

    #[rstest]
    #[case(8 * GIB, 262_144, 262_144)]
    #[case(2 * GIB, 65_536, 65_536)]
    #[case(256 << 20, 8_192, 2_048)]
    #[case(1_007_980_544, 30_761, 8_192)]
    #[case(64 << 20, 2_048, 1_024)]
    fn rules(#[case] memory: u64, #[case] by_rule: u64, #[case] by_kernel: u64) {
        let sizing = Sizing::of(memory, None);
        assert_eq!((sizing.by_rule, sizing.by_kernel), (by_rule, by_kernel));
    }

    #[test]
    fn the_arithmetic_is_shown() {
        let lines = Sizing::of(8 * GIB, Some(256)).shown(262_144, Some(65_536));
        assert_eq!(lines[0], "rule of thumb: 8589934592 bytes of memory / 16384 / (64 / 32) = 262144 entries");
        assert_eq!(
            lines[2],
            "262144 entries × this kernel's 256 bytes + 65536 buckets × 8 bytes = 64 MiB when full, 0.7 % of memory"
        );
        assert_eq!(lines[3], "2 × 262144 / 65536 buckets = 8.0 tuples to compare per bucket when full");
    }
}
