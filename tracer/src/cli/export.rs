//! `whyrst export`: a recording for other tools.
//!
//! It reads the recording twice: every packet carries the final cause of its flow, which is known only at the end. Neither
//! pass keeps events.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal as _, Seek as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};

use tracer_advice::report::Report;
use tracer_engine::session;
use tracer_engine::session::Session;
use tracer_model::capture::{Items, Origin};
use tracer_model::filter::Filter;
use tracer_recording::redact::{Key, Redacted, Redactor};
use tracer_recording::{Reader, Recordings};
use tracer_render::annotated::AnnotatedEvent;
use tracer_render::csv;
use tracer_render::json::JsonLines;
use tracer_render::pcapng::PcapNg;

use super::args::{Export, ExportFormat, Global};
use super::{Stop, output};
use crate::annotate;

/// Bytes per write.
const CHUNK: usize = 1 << 16;

pub(super) fn run(arguments: &Export, global: &Global) -> Result<ExitCode, Stop> {
    let path = arguments.output.as_deref().filter(|path| *path != Path::new("-"));
    output::refuse_overwriting(&arguments.from, path)?;
    if arguments.format == ExportFormat::Pcapng && path.is_none() && io::stdout().is_terminal() {
        return Err(anyhow!("pcapng cannot go to a terminal: use -o FILE, or pipe it to a program").into());
    }
    if arguments.captured_only && arguments.format != ExportFormat::Pcapng {
        return Err(
            anyhow!("--captured-only goes with --format pcapng: the other formats have no computed packets").into()
        );
    }
    let filter = arguments.filter.resolve(&arguments.from)?;
    let key = arguments.redaction.key(global)?;
    let filter = key.as_ref().map_or_else(|| filter.clone(), |key| Redactor::new(key).filter(&filter));
    let recording = Recording::open(&arguments.from, key)?;
    let (report, items) = recording.report(&filter)?;
    output::warn_of_damage(&report.origin, global);
    let what =
        || path.map_or_else(|| "writing to standard output".to_owned(), |path| format!("writing {}", path.display()));
    let to: Box<dyn Write> = match path {
        // It is as confidential as a recording.
        Some(path) => Box::new(private(path).with_context(what)?),
        None => Box::new(io::stdout().lock()),
    };
    let mut to = BufWriter::with_capacity(CHUNK, to);
    let summary = match arguments.format {
        ExportFormat::Csv => {
            csv::write(&report, &mut to).with_context(what)?;
            counted(report.flows.len() as u64, "flow")
        }
        ExportFormat::Jsonl => {
            let mut lines = JsonLines::start(&mut to, &report).with_context(what)?;
            recording.events(&report, items, &filter, |event| lines.event(event).with_context(what))?;
            let events = lines.finish().with_context(what)?;
            format!("{}, {}", counted(report.flows.len() as u64, "flow"), counted(events, "event"))
        }
        ExportFormat::Pcapng => {
            let mut file = PcapNg::start(&mut to, &report, arguments.captured_only).with_context(what)?;
            recording.events(&report, items, &filter, |event| file.event(event).with_context(what))?;
            let written = file.finish().with_context(what)?;
            let mut text = format!(
                "{} as captured, {} reconstructed",
                counted(written.captured, "packet"),
                counted(written.computed, "RST")
            );
            if written.without_headers > 0 {
                text.push_str("; no headers for ");
                text.push_str(&counted(written.without_headers, "event"));
            }
            text
        }
    };
    to.flush().with_context(what)?;
    if let Some(path) = path {
        output::say(global, &format!("{summary} in {}", path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Creates a file that only its owner can read.
fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn counted(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// A recording that can be read twice.
struct Recording<'a> {
    paths: &'a [PathBuf],
    /// The copy of piped input.
    kept: Option<File>,
    /// The key of the redaction.
    key: Option<Key>,
}

impl<'a> Recording<'a> {
    fn open(paths: &'a [PathBuf], key: Option<Key>) -> anyhow::Result<Self> {
        let whole = |path: &Path| fs::metadata(path).is_ok_and(|metadata| metadata.is_file() || metadata.is_dir());
        // A pipe can be read only once.
        let pipe = match paths {
            [path] if path == Path::new("-") => Box::new(io::stdin().lock()) as Box<dyn io::Read>,
            [path] if !whole(path) => Box::new(File::open(path).with_context(|| reading(path))?),
            _ => return Ok(Self { paths, kept: None, key }),
        };
        let mut kept = tempfile::tempfile().context("making a temporary file")?;
        io::copy(&mut { pipe }, &mut kept).context("copying the input to a temporary file")?;
        Ok(Self { paths, kept: Some(kept), key })
    }

    fn recordings(&self) -> anyhow::Result<Recordings> {
        let Some(kept) = &self.kept else { return Ok(Recordings::open(self.paths)?) };
        let mut again = kept.try_clone().context("the temporary file")?;
        again.rewind().context("the temporary file")?;
        let name = self.paths.first().map_or(Path::new("-"), PathBuf::as_path);
        Ok(Recordings::one(Reader::new(Box::new(again), name)?))
    }

    /// The report, and its number of items.
    fn report(&self, filter: &Filter) -> anyhow::Result<(Report, u64)> {
        let recordings = self.recordings()?;
        let name = recordings.name().to_owned();
        let Some(key) = &self.key else {
            let (session, items, recordings) = replay(recordings, filter)?;
            return Ok((
                Report::new(session.finish(Origin::Recording { path: name, damage: recordings.verdict() })),
                items,
            ));
        };
        let (session, items, redacted) = replay(Redacted::new(recordings, Redactor::new(key)), filter)?;
        // The name of a file may be confidential.
        let origin = Origin::Recording { path: "redacted recording".to_owned(), damage: redacted.inner().verdict() };
        Ok((Report::new(session.finish(origin)), items))
    }

    /// Passes the events to `each`, with the final state of their flows.
    fn events(
        &self,
        report: &Report,
        items: u64,
        filter: &Filter,
        each: impl FnMut(AnnotatedEvent<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut recordings = self.recordings()?;
        match &self.key {
            None => annotate::events(&mut recordings, report, items, filter, each),
            Some(key) => {
                let mut redacted = Redacted::new(recordings, Redactor::new(key));
                annotate::events(&mut redacted, report, items, filter, each)
            }
        }
    }
}

/// Replays a recording; also returns its number of items.
fn replay<I: Items>(mut recorded: I, filter: &Filter) -> anyhow::Result<(Session, u64, I)> {
    let mut items = 0;
    let session = session::replay(&mut recorded, filter.clone(), |_, _, _| -> io::Result<()> {
        items += 1;
        Ok(())
    })
    .context("reading the recording")?;
    Ok((session, items, recorded))
}

fn reading(path: &Path) -> String {
    format!("reading {}", path.display())
}
