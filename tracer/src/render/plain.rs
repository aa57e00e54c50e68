//! Text of the outside for formats that other programs show: one line, nothing that moves a cursor or turns the reading
//! direction.

use std::fmt::Write as _;

/// The text with its control and formatting characters written as escapes, cut to `limit` bytes.
pub(super) fn line(text: &str, limit: usize) -> String {
    const CUT: &str = "…";
    let mut line = String::with_capacity(text.len().min(limit));
    for character in text.chars() {
        let before = line.len();
        if unsafe_to_show(character) {
            // Writing to a String does not fail.
            let _infallible = write!(line, "{}", character.escape_unicode());
        } else {
            line.push(character);
        }
        if line.len() > limit {
            line.truncate(before);
            while line.len() + CUT.len() > limit && line.pop().is_some() {}
            line.push_str(CUT);
            break;
        }
    }
    line
}

/// Whether a character does something else than being seen.
pub(super) fn unsafe_to_show(character: char) -> bool {
    character.is_control() || reorders_or_hides(character)
}

/// Line and paragraph separators, marks and overrides of the writing direction, characters without width, and those that
/// are of no character set (noncharacters and tags).
const fn reorders_or_hides(character: char) -> bool {
    matches!(character,
        '\u{00ad}' | '\u{034f}' | '\u{061c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}' | '\u{fffe}' | '\u{ffff}'
        | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::line;
    use rstest::rstest;

    #[rstest]
    #[case::nothing("", "")]
    #[case::plain("gw-1", "gw-1")]
    #[case::letters("Gerät №1", "Gerät №1")]
    #[case::lines("a\nb\r\tc", r"a\u{a}b\u{d}\u{9}c")]
    #[case::colour("\x1b[31mred", r"\u{1b}[31mred")]
    #[case::c1("\u{9b}31m", r"\u{9b}31m")]
    #[case::bidi("gw\u{202e}1-wg", r"gw\u{202e}1-wg")]
    #[case::zero_width("g\u{200b}w", r"g\u{200b}w")]
    fn nothing_moves_the_cursor(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(line(text, 100), expected);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(line("aäöüaäöü", 8), "aäö…");
        assert_eq!(line(&"\x1b".repeat(9), 14), r"\u{1b}\u{1b…");
        for limit in 3..40 {
            assert!(line(&"ä\n".repeat(99), limit).len() <= limit);
        }
    }
}
