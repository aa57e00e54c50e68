//! The report as one HTML file, which loads nothing.
//!
//! `page` says what is in it, `templates/` how it looks; `sequence` and `window` draw. A policy in the page's head lets no script
//! run and no style apply but the page's own, and nothing be fetched.

mod canvas;
mod escape;
mod page;
mod scale;
mod sequence;
mod window;

use std::io;

use tracer_advice::report::Report;

/// Writes the report.
pub fn write(report: &Report, to: &mut dyn io::Write) -> io::Result<()> {
    askama::Template::write_into(&page::Page::new(report)?, to)?;
    writeln!(to)
}

#[cfg(test)]
mod tests;
