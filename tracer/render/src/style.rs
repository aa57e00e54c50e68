//! Colours, symbols and time zone of text output, with ASCII substitutes for the symbols.

use anstyle::{AnsiColor, Style};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// UTC.
pub static UTC: TimeZone = TimeZone::UTC;

/// How text is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextStyle {
    /// Columns to wrap at; `None` does not wrap.
    pub width: Option<usize>,
    /// Symbols beyond ASCII.
    pub symbols: bool,
    /// The time zone of printed times.
    pub zone: &'static TimeZone,
}

impl Default for TextStyle {
    fn default() -> Self {
        Self { width: None, symbols: true, zone: &UTC }
    }
}

impl TextStyle {
    /// The symbol, or its ASCII stand-in.
    pub(super) const fn pick<'a>(self, symbol: &'a str, ascii: &'a str) -> &'a str {
        if self.symbols { symbol } else { ascii }
    }

    /// A point in time, in the time zone of the output.
    pub(super) fn local(self, at: Timestamp) -> Zoned {
        at.to_zoned(self.zone.clone())
    }

    /// The suffix of a time of day: the offset from UTC, or nothing for UTC.
    pub(super) fn offset(self, at: Timestamp) -> String {
        if *self.zone == UTC { String::new() } else { self.local(at).strftime("%:z").to_string() }
    }

    /// Between endpoints of a path.
    pub(super) const fn arrow(self) -> &'static str {
        self.pick("→", "->")
    }

    /// Between items of a line.
    pub(super) const fn dot(self) -> &'static str {
        self.pick("·", "|")
    }
}

/// A failure.
pub(super) const BAD: Style = AnsiColor::Red.on_default();
/// A good result.
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
/// A warning.
pub(super) const WARN: Style = AnsiColor::Yellow.on_default();
/// Emphasis.
pub(super) const STRONG: Style = Style::new().bold();
/// Details.
pub(super) const FAINT: Style = Style::new().dimmed();
