//! `/proc/kallsyms`: which functions this kernel has, in which module, and where.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
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
    pub fn read(text: impl io::Read, names: &[&str]) -> io::Result<Self> {
        let mut found = BTreeMap::new();
        let mut code = Vec::new();
        let mut reader = BufReader::with_capacity(1 << 16, text);
        let mut line = String::new();
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(Self { found, code });
            }
            let mut words = line.split_ascii_whitespace();
            let (Some(address), Some(kind), Some(name)) = (words.next(), words.next(), words.next()) else { continue };
            let address = u64::from_str_radix(address, 16).unwrap_or(0);
            if matches!(kind, "t" | "T") {
                code.push(address);
            }
            if !names.contains(&name) {
                continue;
            }
            let module = words.next().map(|word| word.trim_matches(['[', ']']).to_owned());
            found.insert(name.to_owned(), Symbol { address, module });
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

#[cfg(test)]
mod tests {
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
}
