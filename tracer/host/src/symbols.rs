//! `/proc/kallsyms`: which functions this kernel has, in which module, and where.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Where the kernel lists its symbols.
pub const PATH: &str = "/proc/kallsyms";

/// A symbol of the running kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    /// Its address; 0 where the kernel hides addresses (`kernel.kptr_restrict`).
    pub address: u64,
    /// The module it belongs to, unless it is built in.
    pub module: Option<String>,
}

/// The symbols that were asked for and exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Symbols {
    found: BTreeMap<String, Symbol>,
    /// Where code begins: addresses of all functions, in the order of the file.
    code: Vec<u64>,
}

impl Symbols {
    /// Looks for `names` in the running kernel.
    pub fn of_running_kernel(names: &[&str]) -> io::Result<Self> {
        Self::read(File::open(Path::new(PATH))?, names)
    }

    /// Looks for `names` in text of the form of `/proc/kallsyms`: `address type name [module]`.
    pub fn read(mut text: impl Read, names: &[&str]) -> io::Result<Self> {
        let mut symbols = Self::default();
        let wanted = Wanted::new(names);
        let mut buffer = vec![0; 1 << 16];
        let mut filled = 0;
        loop {
            if filled == buffer.len() {
                buffer.resize(2 * filled, 0);
            }
            let read = match text.read(&mut buffer[filled..]) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let new = filled..filled + read;
            filled = new.end;
            let whole = match buffer[new.clone()].iter().rposition(|byte| *byte == b'\n') {
                Some(last) => new.start + last + 1,
                // The last line may lack its end.
                None if read == 0 => filled,
                None => continue,
            };
            for line in buffer[..whole].split(|byte| *byte == b'\n') {
                symbols.line(line, &wanted);
            }
            buffer.copy_within(whole..filled, 0);
            filled -= whole;
            if read == 0 && filled == 0 {
                return Ok(symbols);
            }
        }
    }

    /// Takes one line. There are 200,000 of them: nothing is made of those that nobody asked for.
    fn line(&mut self, line: &[u8], wanted: &Wanted<'_>) {
        let mut words = line.splitn(3, |byte| *byte == b' ');
        let (Some(address), Some(kind), Some(rest)) = (words.next(), words.next(), words.next()) else { return };
        let address = address.iter().try_fold(0_u64, |sum, digit| Some(sum << 4 | u64::from(hexadecimal(*digit)?)));
        let address = address.unwrap_or(0);
        if matches!(kind, b"t" | b"T") {
            self.code.push(address);
        }
        let length = rest.iter().position(|byte| matches!(byte, b'\t' | b' ')).unwrap_or(rest.len());
        let (name, module) = rest.split_at(length);
        if let Some(name) = wanted.find(name) {
            let module = std::str::from_utf8(module).unwrap_or_default().trim();
            let module = (!module.is_empty()).then(|| module.trim_matches(['[', ']']).to_owned());
            self.found.insert(name.to_owned(), Symbol { address, module });
        }
    }

    /// The symbol with this name.
    pub fn get(&self, name: &str) -> Option<&Symbol> {
        self.found.get(name)
    }

    /// Where the function that begins at `start` ends: where the next one begins. `None` where addresses are hidden.
    pub fn end(&self, start: u64) -> Option<u64> {
        self.code.iter().copied().filter(|address| *address > start && start != 0).min()
    }

    /// Whether there is a symbol with this name.
    pub fn has(&self, name: &str) -> bool {
        self.found.contains_key(name)
    }
}

/// The names that are looked for. Most others differ from all of them in length or first letter.
struct Wanted<'a> {
    names: &'a [&'a str],
    /// A bit for each length, and one for each first byte.
    lengths: u64,
    firsts: [u64; 4],
}

impl<'a> Wanted<'a> {
    fn new(names: &'a [&'a str]) -> Self {
        let mut wanted = Self { names, lengths: 0, firsts: [0; 4] };
        for name in names {
            wanted.lengths |= bit(name.len());
            if let Some(first) = name.bytes().next() {
                wanted.firsts[usize::from(first / 64)] |= bit(usize::from(first));
            }
        }
        wanted
    }

    fn find(&self, name: &[u8]) -> Option<&'a str> {
        let first = *name.first()?;
        let possible =
            self.lengths & bit(name.len()) != 0 && self.firsts[usize::from(first / 64)] & bit(usize::from(first)) != 0;
        if !possible {
            return None;
        }
        self.names.iter().copied().find(|wanted| wanted.as_bytes() == name)
    }
}

const fn bit(number: usize) -> u64 {
    1 << (number % 64)
}

const fn hexadecimal(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::{Symbol, Symbols};

    #[test]
    fn finds_what_was_asked_for() {
        let text = "ffffffff81000000 T _text\n\
                    ffffffffc0401400 t nf_send_unreach\t[nf_reject_ipv4]\n\
                    ffffffffc0401000 t nf_send_reset\t[nf_reject_ipv4]\n\
                    ffffffffc0401200 d behind_nothing\t[nf_reject_ipv4]\n\
                    0000000000000000 d vmemmap_base\n\
                    garbage\n";
        let symbols = Symbols::read(text.as_bytes(), &["nf_send_reset", "vmemmap_base", "absent"]).unwrap();
        let module = Some("nf_reject_ipv4".to_owned());
        assert_eq!(symbols.get("nf_send_reset"), Some(&Symbol { address: 0xffff_ffff_c040_1000, module }));
        assert_eq!(symbols.get("vmemmap_base"), Some(&Symbol { address: 0, module: None }));
        assert_eq!(symbols.end(0xffff_ffff_c040_1000), Some(0xffff_ffff_c040_1400));
        assert_eq!(symbols.end(0xffff_ffff_c040_1400), None);
        assert_eq!(symbols.end(0), None);
        assert!(!symbols.has("absent"));
        assert!(!symbols.has("_text"));
    }

    /// Gives a few bytes at a time, as the kernel does, and is interrupted now and then.
    struct Trickle<'a>(&'a [u8], usize, bool);

    impl io::Read for Trickle<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            self.2 = !self.2;
            if self.2 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let length = self.1.min(self.0.len()).min(to.len());
            let (now, later) = self.0.split_at(length);
            to[..length].copy_from_slice(now);
            self.0 = later;
            Ok(length)
        }
    }

    #[test]
    fn lines_may_come_in_pieces_of_any_size() {
        let long = format!("ffffffff81000020 T {}\n", "x".repeat(70_000));
        let text = format!("ffffffff81000000 T first\n{long}ffffffff81000040 t second\t[m]\nffffffff81000060 T third");
        let names = ["first", "second", "third"];
        let whole = Symbols::read(text.as_bytes(), &names).unwrap();
        assert_eq!(whole.end(0xffff_ffff_8100_0040), Some(0xffff_ffff_8100_0060));
        assert!(names.iter().all(|name| whole.has(name)));
        for size in [1, 7, 4096, 1 << 20] {
            assert_eq!(Symbols::read(Trickle(text.as_bytes(), size, false), &names).unwrap(), whole, "{size}");
        }
    }
}
