//! `whyrst explain`: explains a cause or reason, or a kernel log.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal as _};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};

use tracer_advice::explain::LogReader;
use tracer_model::cause::words;
use tracer_render::topics::topic;
use tracer_render::{json, log};

use super::args::{Explain, Format, Global};
use super::suggest::did_you_mean;
use super::{Stop, output};

/// The longest line; the kernel logs none that is longer.
const LINE: u64 = 1 << 16;

pub(super) fn run(arguments: &Explain, global: &Global) -> Result<ExitCode, Stop> {
    let what = arguments.what.as_deref();
    if let Some(text) = what.and_then(topic) {
        output::deliver(None, global, |to| to.write_all(text.as_bytes()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut reader = LogReader::default();
    match what {
        None | Some("-") => {
            if what.is_none() && io::stdin().is_terminal() {
                return Err(
                    anyhow!("nothing to explain: name one of {}, or pipe in a kernel log", words().join(", ")).into()
                );
            }
            lines(&mut io::stdin().lock(), &mut reader).context("reading standard input")?;
        }
        Some(path) => {
            let file = File::open(path).with_context(|| {
                if path.contains(['/', '.']) {
                    path.to_owned()
                } else {
                    let words = words();
                    let meant = did_you_mean(path, words.iter().copied());
                    format!("`{path}` is neither a file nor one of {}{meant}", words.join(", "))
                }
            })?;
            lines(&mut BufReader::new(file), &mut reader).with_context(|| format!("reading {path}"))?;
        }
    }
    let report = reader.finish(arguments.log_format);
    let style = output::style(false, global)?;
    match arguments.format {
        Format::Json => output::deliver_document(None, |to| json::write_log(&report, to)),
        Format::Text => {
            output::deliver(None, global, |to| to.write_all(log::render(&report, style, arguments.verbose).as_bytes()))
        }
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Reads line by line; the bytes need not be UTF-8.
fn lines(from: &mut dyn BufRead, reader: &mut LogReader) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        if io::Read::take(&mut *from, LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        reader.line(String::from_utf8_lossy(&line).trim_end());
    }
}
