//! Random rulesets, of rules that the walk claims to understand. The same seed and number give the same ruleset.

mod nft;
mod save;

use self::save::Save;
use super::gateway::Interfaces;
use super::rulesets::{Case, Notation, Part};

/// A generator of numbers (splitmix64).
#[derive(Debug, Clone)]
struct Dice {
    state: u64,
}

impl Dice {
    fn new(seed: u64, number: usize) -> Self {
        // Both are mixed: the generator itself only counts.
        let mut numbers = Self { state: number as u64 };
        let mut seeds = Self { state: seed };
        Self { state: numbers.next() ^ seeds.next().rotate_left(32) }
    }

    const fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than this.
    fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap_or(0) % most.max(1)
    }

    /// So often of a hundred times.
    fn percent(&mut self, share: usize) -> bool {
        self.below(100) < share
    }

    fn pick<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }

    /// Some of these, at least one, joined.
    fn some(&mut self, all: &[&str], separator: &str) -> String {
        let mut chosen: Vec<&str> = all.iter().filter(|_| self.percent(40)).copied().collect();
        if chosen.is_empty() {
            chosen.push(self.pick(all));
        }
        chosen.join(separator)
    }
}

const ADDRESSES: [&str; 12] = [
    "10.0.0.2",
    "192.0.2.1",
    "192.0.2.2",
    "10.0.0.0/24",
    "10.0.0.0/8",
    "192.0.2.0/30",
    "192.0.2.2/31",
    "192.0.2.128/25",
    "198.51.100.0/24",
    "10.0.0.1-10.0.0.9",
    "192.0.2.2-192.0.2.200",
    "0.0.0.0/1",
];
const ADDRESSES6: [&str; 7] =
    ["fd00:1::2", "2001:db8::2", "2001:db8::/64", "fd00::/8", "2001:db8:7::/48", "2001:db8::1-2001:db8::ff", "::/1"];
const PORTS: [&str; 12] = [
    "22",
    "80",
    "443",
    "8080",
    "40000",
    "40001",
    "1-1023",
    "400-500",
    "10000-19999",
    "20000-29999",
    "32768-65535",
    "1024-65535",
];
const STATES: [&str; 5] = ["invalid", "established", "related", "new", "untracked"];
const FLAGS: [&str; 6] = ["fin", "syn", "rst", "psh", "ack", "urg"];
const MARKS: [&str; 7] = ["0x0", "0x1", "0x2", "0x3", "0x10", "0x11", "0xff00"];

/// A random ruleset.
pub fn case(seed: u64, number: usize) -> Case {
    let mut dice = Dice::new(seed, number);
    let kind = number % 3;
    let (notation, text) = match kind {
        0 | 1 => (Notation::Nft, nft::ruleset(&mut dice)),
        _ if dice.percent(25) => (Notation::Save6, Save { six: true }.ruleset(&mut dice)),
        _ => (Notation::Save, Save { six: false }.ruleset(&mut dice)),
    };
    Case {
        name: format!("random-{number}"),
        about: format!("random, of the seed {seed}"),
        interfaces: Interfaces::default(),
        parts: vec![Part { notation, text }],
    }
}

#[cfg(test)]
mod tests {
    use super::case;

    #[test]
    fn a_seed_and_a_number_give_one_ruleset() {
        let text = |seed, number| case(seed, number).parts[0].text.clone();
        for number in 0..30 {
            assert_eq!(text(7, number), text(7, number));
            assert_ne!(text(7, number), text(8, number));
        }
    }
}
