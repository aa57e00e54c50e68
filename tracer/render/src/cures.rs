//! Cures, as a terminal shows them: what to type first, then what it costs, how it is undone and how it lasts.

use std::fmt::{self, Write};

use textwrap::Options;

use tracer_model::mitigation::Mitigation;

use super::plain::Plain;
use super::style::{FAINT, STRONG, TextStyle};

/// Columns that a label takes, so that all texts begin in one place.
const LABEL: usize = 9;

/// Writes one cure.
pub(super) fn write(to: &mut String, mitigation: &Mitigation, style: TextStyle) -> fmt::Result {
    writeln!(to, "\n{STRONG}{}{STRONG:#}", mitigation.id.name())?;
    text(to, "what", mitigation.title, style)?;
    commands(to, "run", &mitigation.commands)?;
    for note in &mitigation.notes {
        text(to, "note", note, style)?;
    }
    for effect in &mitigation.side_effects {
        text(to, "price", effect, style)?;
    }
    commands(to, "undo", &mitigation.undo)?;
    commands(to, "keep", &mitigation.persist)?;
    commands(to, "unkeep", &mitigation.unpersist)
}

/// Commands are never wrapped: they are there to be copied.
fn commands(to: &mut String, label: &str, lines: &[String]) -> fmt::Result {
    lines.iter().try_for_each(|line| writeln!(to, "  {FAINT}{:LABEL$}{FAINT:#}{}", format!("{label}:"), Plain(line)))
}

fn text(to: &mut String, label: &str, text: &str, style: TextStyle) -> fmt::Result {
    let width = style.width.and_then(|width| width.checked_sub(2 + LABEL)).filter(|width| *width >= 20);
    let text = &Plain(text).to_string();
    let lines = match width {
        Some(width) => textwrap::wrap(text, Options::new(width).break_words(false)),
        None => vec![text.as_str().into()],
    };
    for (index, line) in lines.iter().enumerate() {
        let label = if index == 0 { format!("{label}:") } else { String::new() };
        writeln!(to, "  {FAINT}{label:LABEL$}{FAINT:#}{line}")?;
    }
    Ok(())
}
