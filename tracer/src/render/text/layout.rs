//! Rows, columns and line ends.

use std::fmt::{self, Write};

use textwrap::Options;

use super::Text;
use crate::causality::flow::Flow;
use crate::render::style::FAINT;

/// Columns of the time of a step.
const TIME: usize = 15;
/// Columns of who takes a step.
const WHO: usize = 9;
/// Columns before the text of a step: margin, time, gap, who, gap, symbol, gap.
const INDENT: usize = 2 + TIME + 2 + WHO + 1 + 1 + 1;

impl Text<'_> {
    /// The endpoints of a flow, as a packet of the client's meets them.
    pub(super) fn path(&self, flow: &Flow) -> String {
        let key = &flow.key;
        let stations = [Some(key.client()), key.nat(), key.service(), Some(key.server())];
        let stations: Vec<String> = stations.into_iter().flatten().map(|endpoint| endpoint.to_string()).collect();
        stations.join(&format!(" {} ", self.look.arrow()))
    }
    /// One step, wrapped below its own text.
    pub(super) fn row(&mut self, time: &str, who: &str, symbol: &str, text: &str) -> fmt::Result {
        let first = format!("  {FAINT}{time:>TIME$}{FAINT:#}  {who:<WHO$} {symbol} ");
        let mut lines = self.wrap(text, INDENT).into_iter();
        writeln!(self.to, "{first}{}", lines.next().unwrap_or_default())?;
        lines.try_for_each(|line| writeln!(self.to, "{:INDENT$}{line}", ""))
    }

    pub(super) fn labelled(&mut self, label: &str, text: &str) -> fmt::Result {
        let indent = 2 + label.len();
        let mut lines = self.wrap(text, indent).into_iter();
        writeln!(self.to, "  {FAINT}{label}{FAINT:#}{}", lines.next().unwrap_or_default())?;
        lines.try_for_each(|line| writeln!(self.to, "{:indent$}{line}", ""))
    }

    pub(super) fn paragraph(&mut self, text: &str) -> fmt::Result {
        self.wrap(text, 2).into_iter().try_for_each(|line| writeln!(self.to, "  {line}"))
    }

    pub(super) fn wrap(&self, text: &str, indent: usize) -> Vec<String> {
        match self.look.width.and_then(|width| width.checked_sub(indent)).filter(|width| *width >= 20) {
            Some(width) => {
                let options = Options::new(width).break_words(false);
                textwrap::wrap(text, options).into_iter().map(std::borrow::Cow::into_owned).collect()
            }
            None => vec![text.to_owned()],
        }
    }
}
