//! Rows, columns and line breaks. All text passes through here: it is wrapped, and foreign names in it are escaped.

use std::fmt::{self, Write};

use anstyle::Style;
use jiff::Zoned;
use textwrap::core::display_width;
use textwrap::{Options, WordSplitter};

use tracer_engine::flow::Flow;
use tracer_model::time::Instant;

use super::Text;
use crate::plain::Plain;
use crate::sentences::TIED;
use crate::style::{FAINT, STRONG};

/// Columns of the time of a step.
const TIME: usize = 15;
/// Columns of the actor of a step.
const WHO: usize = 9;
/// Columns before the text of a step: margin, time, gap, actor, gap, symbol, gap.
const INDENT: usize = 2 + TIME + 2 + WHO + 1 + 1 + 1;
/// Text is wrapped to at least this many columns; narrower terminals wrap it themselves.
const NARROW: usize = 20;
/// Between the parts of a heading.
const GAP: &str = "      ";

/// Words that stay on one line.
pub(super) fn tied(text: &str) -> String {
    text.replace(' ', "\u{a0}")
}

impl Text<'_> {
    /// The endpoints of a flow, in the order of a packet from the client.
    pub(super) fn path(&self, flow: &Flow) -> String {
        let key = &flow.key;
        let stations = [Some(key.client()), key.nat(), key.service(), Some(key.server())];
        let stations: Vec<String> = stations.into_iter().flatten().map(|endpoint| endpoint.to_string()).collect();
        stations.join(&format!(" {} ", self.style.arrow()))
    }

    /// The heading of a flow: on one line if it fits, else the path first and the rest below.
    pub(super) fn heading(&mut self, number: usize, path: &str, rest: &[(Style, String)]) -> fmt::Result {
        let rest: Vec<(Style, String)> = rest
            .iter()
            .map(|(style, text)| (*style, Plain(text).to_string()))
            .filter(|(_, text)| !text.is_empty())
            .collect();
        let label = format!("#{number}  ");
        let indent = label.len();
        let columns =
            indent + display_width(path) + rest.iter().map(|(_, text)| GAP.len() + display_width(text)).sum::<usize>();
        let styled: Vec<String> = rest.iter().map(|(style, text)| format!("{style}{text}{style:#}")).collect();
        writeln!(self.to)?;
        if self.style.width.is_none_or(|width| columns <= width) {
            return writeln!(self.to, "{STRONG}{label}{path}{STRONG:#}{GAP}{}", styled.join(GAP));
        }
        let arrow = self.style.arrow();
        let path = path.replace(&format!(" {arrow}"), &format!("{TIED}{arrow}"));
        self.block(&format!("{STRONG}{label}{STRONG:#}"), indent, STRONG, &path)?;
        writeln!(self.to, "{:indent$}{}", "", styled.join("  "))
    }

    /// One step; further lines are indented to its text.
    pub(super) fn row(&mut self, time: &str, who: &str, symbol: &str, text: &str) -> fmt::Result {
        let lead = format!("  {FAINT}{time:>TIME$}{FAINT:#}  {who:<WHO$} {symbol} ");
        self.block(&lead, INDENT, Style::new(), text)
    }

    /// A text with a label.
    pub(super) fn labelled(&mut self, label: &str, text: &str) -> fmt::Result {
        self.block(&format!("  {FAINT}{label}{FAINT:#}"), 2 + label.len(), Style::new(), text)
    }

    pub(super) fn paragraph(&mut self, text: &str) -> fmt::Result {
        self.block("  ", 2, Style::new(), text)
    }

    /// A line without indent.
    pub(super) fn line(&mut self, style: Style, text: &str) -> fmt::Result {
        self.block("", 0, style, text)
    }

    /// Text after `lead`, which takes `indent` columns; further lines are indented.
    pub(super) fn block(&mut self, lead: &str, indent: usize, style: Style, text: &str) -> fmt::Result {
        self.to.write_str(lead)?;
        for (index, line) in self.wrap(text, indent).into_iter().enumerate() {
            if index > 0 {
                write!(self.to, "{:indent$}", "")?;
            }
            writeln!(self.to, "{style}{line}{style:#}")?;
        }
        Ok(())
    }

    /// A point in time, in the time zone of the output.
    pub(super) fn local(&self, at: Instant) -> Zoned {
        self.style.local(self.report.host.clock.wall(at))
    }

    /// The lines of a text, at least one. Words are never broken, so that they can be copied.
    fn wrap(&self, text: &str, indent: usize) -> Vec<String> {
        let text = Plain(text).to_string();
        let lines = match self.style.width.and_then(|width| width.checked_sub(indent)).filter(|width| *width >= NARROW)
        {
            Some(width) => {
                let options = Options::new(width).break_words(false).word_splitter(WordSplitter::NoHyphenation);
                textwrap::wrap(&text, options).into_iter().map(std::borrow::Cow::into_owned).collect()
            }
            None => vec![text],
        };
        lines.into_iter().map(|line| line.replace(TIED, " ")).collect()
    }
}
