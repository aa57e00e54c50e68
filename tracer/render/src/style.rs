//! Colours, symbols and times of the terminal output, and what to use where a terminal has none.

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
    /// The zone in which times are told.
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

    /// A point in time in the zone in which times are told.
    pub(super) fn local(self, at: Timestamp) -> Zoned {
        at.to_zoned(self.zone.clone())
    }

    /// What follows a time of the day, so that it is known whose: nothing for UTC, else the offset from it.
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

/// Something went wrong here.
pub(super) const BAD: Style = AnsiColor::Red.on_default();
/// Something is fine here.
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
/// Worth attention.
pub(super) const WARN: Style = AnsiColor::Yellow.on_default();
/// The words that matter most.
pub(super) const STRONG: Style = Style::new().bold();
/// Background.
pub(super) const FAINT: Style = Style::new().dimmed();
