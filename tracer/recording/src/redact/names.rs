//! Pseudonyms of names.

use super::key::{Key, hexadecimal};

/// Pseudonyms of names: of hosts, namespaces and processes whole, of interfaces and in rules letter by letter.
pub(super) struct Names {
    key: Key,
}

impl Names {
    pub(super) fn new(key: &Key) -> Self {
        Self { key: key.clone() }
    }

    /// `KIND-` and some digits.
    pub(super) fn whole(&self, kind: &str, name: &str) -> String {
        if name.is_empty() {
            return String::new();
        }
        format!("{kind}-{}", hexadecimal(&self.key.derive(kind, name.as_bytes())[..4]))
    }

    /// The same as bytes, which end with a zero byte where there is room for one; without the kind where there is not for
    /// that.
    pub(super) fn whole_bytes<const N: usize>(&self, kind: &str, name: &[u8; N]) -> [u8; N] {
        let name = &name[..name.iter().position(|byte| *byte == 0).unwrap_or(N)];
        let mut bytes = [0; N];
        let pseudonym = self.whole(kind, &String::from_utf8_lossy(name));
        for (to, from) in bytes.iter_mut().zip(pseudonym.bytes().take(N - 1)) {
            *to = from;
        }
        bytes
    }

    /// An interface's name, or the beginning of one, up to the first zero byte.
    pub(super) fn interface(&self, name: &[u8]) -> Vec<u8> {
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        let (name, zeros) = name.split_at(end);
        [&self.letters(name), zeros].concat()
    }

    /// A word, letter by letter: what letters and digits become follows from what is before them, so that names that begin
    /// alike still do. A rule that asks for `eth+` still holds for the same interfaces.
    pub(super) fn letters(&self, word: &[u8]) -> Vec<u8> {
        if word == b"lo" {
            return word.to_vec();
        }
        let shifted = |at: usize| {
            let byte = word[at];
            let (first, count): (u8, u64) = match byte {
                b'a'..=b'z' => (b'a', 26),
                b'A'..=b'Z' => (b'A', 26),
                b'0'..=b'9' => (b'0', 10),
                0x80.. => (0x80, 128),
                _ => return byte,
            };
            let by = self.key.derive("letter", &word[..at]);
            let by = u64::from_le_bytes([by[0], by[1], by[2], by[3], by[4], by[5], by[6], by[7]]);
            // Never by nothing: no letter stays.
            let shift = 1 + by % (count - 1);
            first + ((u64::from(byte - first) + shift) % count) as u8
        };
        (0..word.len()).map(shifted).collect()
    }

    /// An address of the kernel's memory, of which only the last bits mean something. Two that are the same stay the same.
    pub(super) fn pointer(&self, address: u64) -> u64 {
        const MEANING: u64 = 7;
        if address & !MEANING == 0 {
            return address;
        }
        let derived = self.key.derive("pointer", &(address & !MEANING).to_le_bytes());
        let bits = u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|at| derived[at]));
        // Not among the small numbers, which mean that there is none.
        (bits | 1 << 63) & !MEANING | address & MEANING
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Key, Names};

    fn names() -> Names {
        Names::new(&Key::new([3; 32]))
    }

    #[test]
    fn interfaces_that_begin_alike_still_do() {
        let names = names();
        let (eth0, eth1, eth) = (names.letters(b"eth0"), names.letters(b"eth1"), names.letters(b"eth"));
        assert!(eth0.starts_with(&eth) && eth1.starts_with(&eth));
        assert_ne!(eth0, eth1);
        assert_eq!(names.letters(b"lo"), b"lo");
        assert_eq!(names.letters(b"a-b.1").iter().filter(|byte| b"-.".contains(byte)).count(), 2);
    }

    #[test]
    fn names_without_room_lose_their_end() {
        let names = names();
        let long = names.whole_bytes("process", b"abcdefghijklmno\0");
        assert_eq!(long[15], 0);
        assert!(long.starts_with(b"process-"));
        assert_eq!(names.whole_bytes("process", &[0; 16]), [0; 16]);
    }

    proptest! {
        /// No letter and no digit stays, and different words stay different.
        #[test]
        fn nothing_stays(one in "[a-z0-9]{1,15}", other in "[a-z0-9]{1,15}") {
            let names = names();
            prop_assume!(one != "lo" && other != "lo");
            let pseudonym = names.letters(one.as_bytes());
            prop_assert!(pseudonym.iter().zip(one.bytes()).all(|(new, old)| *new != old));
            prop_assert_eq!(pseudonym == names.letters(other.as_bytes()), one == other);
        }
    }
}
