//! Whether a mitigation helped: the kernel's own counters before and after, without BPF.

use std::time::Instant;
use std::{fs, io};

use tracer_model::mitigation::watched::{Counts, Window};

use super::places::Places;
use crate::ctnetlink;

/// A moment of counting.
#[derive(Debug, Clone)]
pub struct Mark {
    at: Instant,
    counts: Vec<Counts>,
}

impl Mark {
    /// Reads the counters of these namespaces.
    pub fn now(places: &Places, inodes: &[u32]) -> io::Result<Self> {
        let counts = inodes.iter().map(|inode| places.inside_inode(*inode, read_here));
        let counts = counts.collect::<io::Result<Vec<Counts>>>()?;
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
    let invalid = ctnetlink::invalid().ok();
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

#[cfg(test)]
mod tests {
    use tracer_model::host_context::NetnsPath;

    use super::{Mark, of_snmp};
    use crate::mitigate::places::Places;
    use crate::netns::home;

    #[test]
    fn counters_are_found_by_name() {
        let text = "Ip: Forwarding\nIp: 1\nTcp: RtoMin EstabResets OutRsts\nTcp: 200 3 7\n";
        assert_eq!((of_snmp(text, "OutRsts"), of_snmp(text, "EstabResets")), (Some(7), Some(3)));
        assert_eq!((of_snmp(text, "Nothing"), of_snmp("Tcp: a\n", "a")), (None, None));
    }

    #[test]
    fn the_kernel_counts() {
        let here = home().unwrap();
        let places = Places::of(&[(here, NetnsPath::Here)], &[]).unwrap();
        let mark = Mark::now(&places, &[here]).unwrap();
        assert!(Mark::now(&places, &[here]).unwrap().since(&mark).counts.out_rsts.is_some());
    }
}
