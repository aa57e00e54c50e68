//! Checks of text and JSON that several targets write.

use tracer_render::plain::is_obeyed;

/// Checks text for a terminal: colours are its only control sequences. Returns the text without them.
pub(crate) fn text(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        let end = after.find(|c: char| !c.is_ascii_digit() && c != ';').unwrap_or(after.len());
        assert!(after[end..].starts_with('m'), "not a colour: {after:?}");
        rest = &after[end + 1..];
    }
    plain.push_str(rest);
    let obeyed = plain.chars().find(|c| *c != '\n' && is_obeyed(*c));
    assert_eq!(obeyed, None, "{plain:?}");
    plain
}

/// Checks that a JSON document is readable and has no control character.
pub(crate) fn json(bytes: &[u8]) -> serde_json::Value {
    let text = str::from_utf8(bytes).expect("JSON is UTF-8");
    let obeyed = text.chars().find(|c| *c != '\n' && is_obeyed(*c));
    assert_eq!(obeyed, None, "{text}");
    serde_json::from_str(text).expect("JSON")
}
