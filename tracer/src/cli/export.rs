//! `whyrst export`: a recording for other tools.
//!
//! The recording is read twice: what its flows came to is known at its end, and every packet is to carry it. Neither pass
//! keeps events.

use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal as _, Seek as _, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};

use super::args::{Export, ExportFormat, Global};
use super::capture::{refuse_overwriting, warn_of_damage};
use super::{Stop, output};
use crate::filter::Filter;
use crate::render::csv;
use crate::render::json::JsonLines;
use crate::render::pcapng::PcapNg;
use crate::render::step::Told;
use crate::report::{Origin, Report};
use crate::source::recording::Reader;
use crate::{retell, session};

/// Bytes that are written at once.
const CHUNK: usize = 1 << 16;

pub(super) fn run(arguments: &Export, global: &Global) -> Result<ExitCode, Stop> {
    let path = arguments.output.as_deref().filter(|path| *path != Path::new("-"));
    refuse_overwriting(&arguments.from, path)?;
    if arguments.format == ExportFormat::Pcapng && path.is_none() && io::stdout().is_terminal() {
        return Err(anyhow!("pcapng is not for a terminal: give -o FILE, or pipe it to a program").into());
    }
    if arguments.captured_only && arguments.format != ExportFormat::Pcapng {
        return Err(
            anyhow!("--captured-only goes with --format pcapng: the other formats hold no computed packets").into()
        );
    }
    let filter = arguments.filter.resolve(Some(&arguments.from))?;
    let recording = Recording::open(&arguments.from)?;
    let (report, items) = recording.report(&filter)?;
    warn_of_damage(&report.origin, global);
    let what =
        || path.map_or_else(|| "writing to standard output".to_owned(), |path| format!("writing {}", path.display()));
    let to: Box<dyn Write> = match path {
        Some(path) => Box::new(File::create(path).with_context(what)?),
        None => Box::new(io::stdout().lock()),
    };
    let mut to = BufWriter::with_capacity(CHUNK, to);
    let said = match arguments.format {
        ExportFormat::Csv => {
            csv::write(&report, &mut to).with_context(what)?;
            counted(report.flows.len() as u64, "flow")
        }
        ExportFormat::Jsonl => {
            let mut lines = JsonLines::start(&mut to, &report).with_context(what)?;
            recording.events(&report, items, &filter, |told| lines.event(told).with_context(what))?;
            let events = lines.finish().with_context(what)?;
            format!("{}, {}", counted(report.flows.len() as u64, "flow"), counted(events, "event"))
        }
        ExportFormat::Pcapng => {
            let mut file = PcapNg::start(&mut to, &report, arguments.captured_only).with_context(what)?;
            recording.events(&report, items, &filter, |told| file.event(told).with_context(what))?;
            let written = file.finish().with_context(what)?;
            let mut said = format!(
                "{} as captured, {} reconstructed",
                counted(written.captured, "packet"),
                counted(written.computed, "RST")
            );
            if written.without_headers > 0 {
                said.push_str("; no headers of ");
                said.push_str(&counted(written.without_headers, "event"));
            }
            said
        }
    };
    to.flush().with_context(what)?;
    if let Some(path) = path {
        output::say(global, &format!("{said} in {}", path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn counted(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// A recording that can be read twice.
struct Recording<'a> {
    path: &'a Path,
    /// What came through a pipe.
    kept: Option<File>,
}

impl<'a> Recording<'a> {
    fn open(path: &'a Path) -> anyhow::Result<Self> {
        // What is no regular file can be read once.
        if path != Path::new("-") && fs::metadata(path).is_ok_and(|metadata| metadata.is_file() || metadata.is_dir()) {
            return Ok(Self { path, kept: None });
        }
        let mut pipe: Box<dyn io::Read> = if path == Path::new("-") {
            Box::new(io::stdin().lock())
        } else {
            Box::new(File::open(path).with_context(|| format!("reading {}", path.display()))?)
        };
        let mut kept = tempfile::tempfile().context("making a temporary file")?;
        io::copy(&mut pipe, &mut kept).with_context(|| format!("keeping {} in a temporary file", path.display()))?;
        Ok(Self { path, kept: Some(kept) })
    }

    fn reader(&self) -> anyhow::Result<Reader> {
        let Some(kept) = &self.kept else { return Ok(Reader::open(self.path)?) };
        let mut again = kept.try_clone().context("the temporary file")?;
        again.rewind().context("the temporary file")?;
        Ok(Reader::new(Box::new(again), self.path)?)
    }

    /// The report, and how many items it was made of.
    fn report(&self, filter: &Filter) -> anyhow::Result<(Report, u64)> {
        let mut reader = self.reader()?;
        let mut items = 0;
        let session = session::replay(&mut reader, filter.clone(), |_, _, _| -> io::Result<()> {
            items += 1;
            Ok(())
        })
        .with_context(|| self.reading())?;
        let origin = Origin::Recording { path: self.path.display().to_string(), damage: reader.verdict() };
        Ok((session.finish(origin), items))
    }

    /// Hands out the events again, with what their flows came to.
    fn events(
        &self,
        report: &Report,
        items: u64,
        filter: &Filter,
        each: impl FnMut(Told<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        retell::events(&mut self.reader()?, report, items, filter, each).with_context(|| self.reading())
    }

    fn reading(&self) -> String {
        format!("reading {}", self.path.display())
    }
}
