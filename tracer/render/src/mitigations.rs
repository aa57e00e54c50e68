//! Mitigations as text: commands, then side effects, undo commands, and commands that make them persistent.

use std::fmt::{self, Write};

use textwrap::Options;

use tracer_model::mitigation::Mitigation;

use super::plain::Plain;
use super::style::{FAINT, STRONG, TextStyle};

/// Columns of a label.
const LABEL: usize = 9;

/// Writes one mitigation.
pub(super) fn write(to: &mut String, mitigation: &Mitigation, style: TextStyle) -> fmt::Result {
    writeln!(to, "\n{STRONG}{}{STRONG:#}", mitigation.id.name())?;
    text(to, "what", mitigation.title, style)?;
    commands(to, "run", &mitigation.commands)?;
    for note in &mitigation.notes {
        text(to, "note", note, style)?;
    }
    for effect in &mitigation.side_effects {
        text(to, "cost", effect, style)?;
    }
    commands(to, "undo", &mitigation.undo)?;
    commands(to, "keep", &mitigation.persist)?;
    commands(to, "unkeep", &mitigation.unpersist)
}

/// Commands are never wrapped, so that they can be copied.
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
