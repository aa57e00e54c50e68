//! Escapes foreign text for a page: markup, and characters that do not show.
//!
//! Names of hosts, interfaces, processes and rules may contain anything. A character that hides, or changes the direction of
//! the text around it, is written as `\u{202e}`.

use std::fmt::{self, Write};

use askama::filters::Escaper;

use crate::plain::is_obeyed;

/// The escaper of the templates.
#[derive(Debug, Clone, Copy)]
pub(super) struct Escape;

impl Escaper for Escape {
    fn write_escaped_str<W: Write>(&self, dest: W, string: &str) -> fmt::Result {
        escape(dest, string)
    }
}

/// Writes text for an element's content or a quoted attribute, of HTML or SVG.
pub(super) fn escape<W: Write>(mut to: W, text: &str) -> fmt::Result {
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| entity(c).is_some() || is_obeyed(c)) {
        let (plain, special) = rest.split_at(at);
        to.write_str(plain)?;
        let mut chars = special.chars();
        let Some(c) = chars.next() else { return Ok(()) };
        match entity(c) {
            Some(entity) => to.write_str(entity)?,
            None => write!(to, "{}", c.escape_unicode())?,
        }
        rest = chars.as_str();
    }
    to.write_str(rest)
}

const fn entity(c: char) -> Option<&'static str> {
    match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        '"' => Some("&quot;"),
        '\'' => Some("&#39;"),
        _ => None,
    }
}

/// Text with escapes for characters that do not show.
pub(super) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_obeyed(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// JSON for a `<script type="application/json">`: the same document, without characters that end the element or do not show.
/// Such characters occur only in strings, where JSON has escapes for them.
pub(super) fn json(document: &str) -> String {
    let mut safe = String::with_capacity(document.len() + document.len() / 16);
    for c in document.chars() {
        // Outside strings, JSON has no such characters but line breaks.
        if matches!(c, '<' | '>' | '&') || (is_obeyed(c) && c != '\n') {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a String does not fail.
                let _infallible = write!(safe, "\\u{unit:04x}");
            }
        } else {
            safe.push(c);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::{escape, is_obeyed, json, visible};

    fn escaped(text: &str) -> String {
        let mut to = String::new();
        escape(&mut to, text).unwrap();
        to
    }

    #[rstest]
    #[case("eth0", "eth0")]
    #[case("<img src=x onerror=alert(1)>", "&lt;img src=x onerror=alert(1)&gt;")]
    #[case("\"' &", "&quot;&#39; &amp;")]
    #[case("a\u{202e}b", "a\\u{202e}b")]
    #[case("\u{1b}[31m\n", "\\u{1b}[31m\\u{a}")]
    #[case("", "")]
    fn text_is_escaped(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(escaped(text), expected);
    }

    proptest! {
        #[test]
        fn no_text_makes_markup_or_hides(text in any::<String>()) {
            let escaped = escaped(&text);
            prop_assert!(!escaped.contains(['<', '>', '"', '\'']));
            prop_assert!(!escaped.contains(is_obeyed));
            prop_assert!(!visible(&text).contains(is_obeyed));
        }

        #[test]
        fn embedded_json_is_the_same_document(strings in prop::collection::vec(any::<String>(), 0..4)) {
            let document = serde_json::to_string_pretty(&strings).unwrap();
            let safe = json(&document);
            prop_assert!(!safe.contains(['<', '>', '&']));
            let back: Vec<String> = serde_json::from_str(&safe).unwrap();
            prop_assert_eq!(back, strings);
        }
    }
}
