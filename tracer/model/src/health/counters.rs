//! conntrack's own counters (`struct ip_conntrack_stat`): one set per CPU and namespace, 32 bits each, which wrap.

/// A counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Counter {
    /// Packets that conntrack refused.
    Invalid,
    /// Entries that could not be inserted: the tuple was taken meanwhile, or NAT found no free one.
    InsertFailed,
    /// Packets that were dropped because there was no room or no memory for an entry.
    Drop,
    /// Entries that had to make room for others in a full table.
    EarlyDrop,
    /// ICMP packets that were in error, and packets too short for their protocol.
    Error,
    /// Look-ups that had to begin again because the table changed under them.
    SearchRestart,
    /// Entries that two packets of one flow made at the same time, and that were merged.
    ClashResolve,
    /// Entries that were not inserted because their bucket had too many (5.15 and later).
    ChainTooLong,
    /// Entries found by searches for a free tuple.
    Found,
    /// Entries that user space inserted.
    Insert,
}

impl Counter {
    /// All of them, those that count failures first.
    pub const ALL: [Self; 10] = [
        Self::Invalid,
        Self::InsertFailed,
        Self::Drop,
        Self::EarlyDrop,
        Self::Error,
        Self::SearchRestart,
        Self::ClashResolve,
        Self::ChainTooLong,
        Self::Found,
        Self::Insert,
    ];

    /// The word used for it in every output; `conntrack -S` writes `chaintoolong`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::InsertFailed => "insert_failed",
            Self::Drop => "drop",
            Self::EarlyDrop => "early_drop",
            Self::Error => "error",
            Self::SearchRestart => "search_restart",
            Self::ClashResolve => "clash_resolve",
            Self::ChainTooLong => "chain_toolong",
            Self::Found => "found",
            Self::Insert => "insert",
        }
    }

    /// Its attribute, `CTA_STATS_*` (`include/uapi/linux/netfilter/nfnetlink_conntrack.h`).
    pub const fn attribute(self) -> u16 {
        match self {
            Self::Found => 2,
            Self::Invalid => 4,
            Self::Insert => 8,
            Self::InsertFailed => 9,
            Self::Drop => 10,
            Self::EarlyDrop => 11,
            Self::Error => 12,
            Self::SearchRestart => 13,
            Self::ClashResolve => 14,
            Self::ChainTooLong => 15,
        }
    }

    /// Its column of `/proc/net/stat/nf_conntrack` (`nf_conntrack_standalone.c`); the one of [`Self::ChainTooLong`] is
    /// older than the counter.
    pub const fn column(self) -> &'static str {
        match self {
            Self::Error => "icmp_error",
            Self::ClashResolve => "clashres",
            Self::ChainTooLong => "chainlength",
            other => other.name(),
        }
    }

    const fn index(self) -> usize {
        self as usize
    }
}

/// The counters of a CPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PerCpu {
    /// Its number.
    pub cpu: u16,
    values: [Option<u32>; Counter::ALL.len()],
}

impl PerCpu {
    /// Those of a CPU, of which none is known yet.
    pub fn of(cpu: u16) -> Self {
        Self { cpu, ..Self::default() }
    }

    /// Sets a counter.
    pub const fn set(&mut self, counter: Counter, value: u32) {
        self.values[counter.index()] = Some(value);
    }

    /// A counter, where this kernel has it.
    pub const fn get(&self, counter: Counter) -> Option<u32> {
        self.values[counter.index()]
    }
}

/// A counter over all CPUs.
pub fn total(counters: &[PerCpu], counter: Counter) -> Option<u64> {
    let known = counters.iter().filter_map(|of_cpu| of_cpu.get(counter)).map(u64::from);
    known.reduce(|sum, value| sum + value)
}

/// How much a counter has grown between two looks, over all CPUs. The counters wrap at 2³².
pub fn grown(before: &[PerCpu], after: &[PerCpu], counter: Counter) -> Option<u64> {
    let growth = after.iter().filter_map(|now| {
        let then = before.iter().find(|then| then.cpu == now.cpu)?;
        Some(u64::from(now.get(counter)?.wrapping_sub(then.get(counter)?)))
    });
    growth.reduce(|sum, value| sum + value)
}

/// Reads `/proc/net/stat/nf_conntrack`, which needs no privileges but is not in every kernel: a line of names, then one of
/// hexadecimal numbers per CPU.
pub fn from_proc(text: &str) -> Vec<PerCpu> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
    // The lines of CPUs bear no number; these are all possible CPUs, in order.
    let numbered = lines.zip(0u16..);
    numbered
        .map(|(line, cpu)| {
            let mut counters = PerCpu::of(cpu);
            for (name, value) in names.iter().zip(line.split_whitespace()) {
                let counter = Counter::ALL.into_iter().find(|counter| counter.column() == *name);
                if let (Some(counter), Ok(value)) = (counter, u32::from_str_radix(value, 16)) {
                    counters.set(counter, value);
                }
            }
            counters
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Counter, PerCpu, from_proc, grown, total};

    fn one(cpu: u16, invalid: u32) -> PerCpu {
        let mut counters = PerCpu::of(cpu);
        counters.set(Counter::Invalid, invalid);
        counters
    }

    #[test]
    fn growth_survives_a_wrap() {
        let (before, after) = ([one(0, u32::MAX - 1), one(1, 5)], [one(0, 3), one(1, 5), one(2, 9)]);
        assert_eq!(grown(&before, &after, Counter::Invalid), Some(5));
        assert_eq!(total(&after, Counter::Invalid), Some(17));
        assert_eq!(grown(&before, &after, Counter::Drop), None);
        assert_eq!(total(&[], Counter::Invalid), None);
    }

    /// As 6.18 prints it.
    #[test]
    fn columns_of_proc() {
        let text = "entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop \
                    icmp_error  expect_new expect_create expect_delete search_restart\n\
                    0000000a  00000001 00000002 00000000 0000001f 00000000 00000000 00000003 00000000 00000004 00000005 \
                    00000006 00000007  00000000 00000000 00000000 00000008\n";
        let [cpu] = from_proc(text)[..] else { panic!() };
        let values = Counter::ALL.map(|counter| cpu.get(counter).unwrap());
        assert_eq!(values, [0x1f, 4, 5, 6, 7, 8, 1, 3, 2, 0]);
        assert_eq!(from_proc(""), []);
        assert_eq!(from_proc("found\nnonsense\n")[0].get(Counter::Found), None);
    }
}
