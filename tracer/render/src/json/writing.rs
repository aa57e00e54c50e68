//! Writes JSON. It escapes characters that JSON allows in strings but that control a terminal; the document stays the same.

use std::io::{self, BufWriter, Write};

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter, Serializer};

use crate::plain::is_obeyed;

/// Bytes that are gathered before a write: a document consists of pieces of a few bytes.
const GATHERED: usize = 1 << 16;

/// Writes a value as a document of many lines.
pub(super) fn document(value: &impl Serialize, to: &mut dyn Write) -> io::Result<()> {
    let mut gathered = BufWriter::with_capacity(GATHERED, to);
    value.serialize(&mut Serializer::with_formatter(&mut gathered, Plain(PrettyFormatter::new())))?;
    gathered.write_all(b"\n")?;
    gathered.flush()
}

/// Writes a value as one line, all at once.
pub(super) fn line(value: &impl Serialize, to: &mut dyn Write) -> io::Result<()> {
    let mut line = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut line, Plain(CompactFormatter)))?;
    line.push(b'\n');
    to.write_all(&line)
}

/// A layout that escapes characters that control a terminal.
struct Plain<F>(F);

/// Methods that the inner layout has.
macro_rules! as_the_other {
    ($($name:ident($($first:ident)?))+) => {
        $(fn $name<W: Write + ?Sized>(&mut self, to: &mut W $(, $first: bool)?) -> io::Result<()> {
            self.0.$name(to $(, $first)?)
        })+
    };
}

impl<F: Formatter> Formatter for Plain<F> {
    as_the_other! {
        begin_array() end_array() begin_array_value(first) end_array_value()
        begin_object() end_object() begin_object_key(first) end_object_key() begin_object_value() end_object_value()
    }

    /// Writes a part of a string in which JSON itself has nothing to escape.
    fn write_string_fragment<W: Write + ?Sized>(&mut self, to: &mut W, fragment: &str) -> io::Result<()> {
        // Nearly all of them.
        if fragment.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return to.write_all(fragment.as_bytes());
        }
        let mut shown = 0;
        for (at, character) in fragment.char_indices().filter(|(_, character)| is_obeyed(*character)) {
            to.write_all(&fragment.as_bytes()[shown..at])?;
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(to, "\\u{unit:04x}")?;
            }
            shown = at + character.len_utf8();
        }
        to.write_all(&fragment.as_bytes()[shown..])
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};

    use proptest::prelude::*;

    use super::{GATHERED, document, line};
    use crate::plain::is_obeyed;

    /// Counts what it is given.
    #[derive(Default)]
    struct Counting {
        writes: usize,
        bytes: usize,
    }

    impl Write for Counting {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            (self.writes, self.bytes) = (self.writes + 1, self.bytes + bytes.len());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The writer behind it can inspect every byte, or make a system call for every write.
    #[test]
    fn pieces_are_gathered() {
        let value = vec![[("client", "10.0.0.2:34567"), ("server", "192.0.2.2:443")]; 10_000];
        let mut whole = Counting::default();
        document(&value, &mut whole).unwrap();
        assert!(whole.bytes > 10 * GATHERED && whole.writes <= 2 * whole.bytes / GATHERED, "{} writes", whole.writes);
        let mut at_once = Counting::default();
        line(&value, &mut at_once).unwrap();
        assert_eq!(at_once.writes, 1);
    }

    proptest! {
        /// JSON stays what it says, and none of it is obeyed.
        #[test]
        fn json_says_the_same(text in any::<String>()) {
            let value = serde_json::json!({ &text: [&text, "\u{7f}\u{9b}\u{202e}\u{e0001}"], "": [] });
            for write in [document, line] {
                let mut written = Vec::new();
                write(&value, &mut written).unwrap();
                let written = String::from_utf8(written).unwrap();
                prop_assert!(!written.chars().any(|c| c != '\n' && is_obeyed(c)), "{written:?}");
                prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&written).unwrap(), value.clone());
            }
        }
    }
}
