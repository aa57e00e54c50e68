//! Safe printing of foreign text: names of interfaces, namespaces, processes, hosts and files, rules, kernel messages. No
//! character in it moves the cursor, changes colours, ends a line or changes the direction of the text that follows.

use std::fmt::{self, Write as _};

/// Prints a text, with escapes for characters that a terminal would obey instead of showing.
#[derive(Debug, Clone, Copy)]
pub struct Plain<'a>(pub &'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if is_obeyed(character) {
                write!(f, "{}", character.escape_default())?;
            } else {
                f.write_char(character)?;
            }
        }
        Ok(())
    }
}

/// Prints the value of a `key=value` pair: unchanged if it is one plain word, else in quotes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Value<'a>(pub(super) &'a str);

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/@+,[]<>()".contains(c);
        if !self.0.is_empty() && self.0.chars().all(plain) {
            return f.write_str(self.0);
        }
        f.write_char('"')?;
        for character in self.0.chars() {
            if matches!(character, '"' | '\\') || is_obeyed(character) {
                write!(f, "{}", character.escape_default())?;
            } else {
                f.write_char(character)?;
            }
        }
        f.write_char('"')
    }
}

/// A text on one line, as [`Plain`] prints it, cut to `limit` bytes.
pub(super) fn line(text: &str, limit: usize) -> String {
    const CUT: &str = "…";
    let mut line = String::with_capacity(text.len().min(limit));
    let mut buffer = [0; 4];
    for character in text.chars() {
        let before = line.len();
        // Writing to a String does not fail.
        let _infallible = write!(line, "{}", Plain(character.encode_utf8(&mut buffer)));
        if line.len() > limit {
            line.truncate(before);
            while line.len() + CUT.len() > limit && line.pop().is_some() {}
            line.push_str(CUT);
            break;
        }
    }
    line
}

/// Whether a terminal obeys a character or does not show it: control characters, line and paragraph
/// separators, marks that turn the direction of text (UAX #9), characters without width and fillers (UTS #39), tags, and
/// noncharacters.
pub fn is_obeyed(character: char) -> bool {
    // The common case.
    if matches!(character, ' '..='~') {
        return false;
    }
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{fffe}' | '\u{ffff}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::{Plain, Value, is_obeyed, line};

    #[rstest]
    #[case::as_it_is("wan0 · gäteway", "wan0 · gäteway", "\"wan0 · gäteway\"")]
    #[case::one_word("wan0.100@bond-1", "wan0.100@bond-1", "wan0.100@bond-1")]
    #[case::nothing("", "", "\"\"")]
    #[case::colour("a\u{1b}[31mb", "a\\u{1b}[31mb", "\"a\\u{1b}[31mb\"")]
    #[case::title("\u{1b}]0;x\u{7}", "\\u{1b}]0;x\\u{7}", "\"\\u{1b}]0;x\\u{7}\"")]
    #[case::one_byte_csi("\u{9b}2J", "\\u{9b}2J", "\"\\u{9b}2J\"")]
    #[case::line_end("a\nb\r", "a\\nb\\r", "\"a\\nb\\r\"")]
    #[case::right_to_left("x\u{202e}gpj", "x\\u{202e}gpj", "\"x\\u{202e}gpj\"")]
    #[case::pairs("a\" cause=\"x", "a\" cause=\"x", r#""a\" cause=\"x""#)]
    #[case::pair("a cause=peer-reset", "a cause=peer-reset", "\"a cause=peer-reset\"")]
    #[case::quotes("a\"b\\", "a\"b\\", "\"a\\\"b\\\\\"")]
    fn shown(#[case] text: &str, #[case] plain: &str, #[case] value: &str) {
        assert_eq!(Plain(text).to_string(), plain);
        assert_eq!(Value(text).to_string(), value);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(line("gw-1\n", 100), r"gw-1\n");
        assert_eq!(line("aäöüaäöü", 8), "aäö…");
        assert_eq!(line(&"\x1b".repeat(9), 14), r"\u{1b}\u{1b…");
        for limit in 3..40 {
            assert!(line(&"ä\n".repeat(99), limit).len() <= limit);
        }
    }

    proptest! {
        /// Any text stays one value that ends at its own end.
        #[test]
        fn nothing_is_obeyed(text in any::<String>()) {
            let (plain, value) = (Plain(&text).to_string(), Value(&text).to_string());
            prop_assert!(!plain.chars().any(is_obeyed));
            prop_assert!(!value.chars().any(is_obeyed));
            if let Some(inner) = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
                prop_assert!(!inner.replace("\\\\", "").replace("\\\"", "").contains('"'));
            } else {
                prop_assert!(!value.contains([' ', '=', '"']));
            }
        }
    }
}
