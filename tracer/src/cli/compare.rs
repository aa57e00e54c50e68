//! `whyrst report --compare`: compares two recordings.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};

use tracer_advice::compare::{Comparison, Side};
use tracer_engine::session;
use tracer_model::capture::Origin;
use tracer_model::filter::Filter;
use tracer_recording::Recordings;
use tracer_render::{compare as text, json};

use super::args::{Global, Report, ReportFormat};
use super::sink::exit_status;
use super::{Stop, output};

pub(super) fn run(arguments: &Report, before: &Path, after: &Path, global: &Global) -> Result<ExitCode, Stop> {
    if before == Path::new("-") && after == Path::new("-") {
        return Err(anyhow!("--compare - -: standard input can be read once").into());
    }
    for recording in [before, after] {
        output::refuse_overwriting(&[recording.to_owned()], arguments.output.as_deref())?;
    }
    if arguments.format == ReportFormat::Html {
        return Err(anyhow!("--compare has no HTML output: use --format text or json").into());
    }
    let style = output::style(arguments.output.is_some(), global)?;
    let resolve = |recording: &Path| arguments.filter.resolve(&[recording.to_owned()]);
    // Resolve names in each recording: the inode numbers of namespaces change with every boot.
    let (of_before, of_after) = (resolve(before)?, resolve(after)?);
    let (before, after) = (read(before, &of_before)?, read(after, &of_after)?);
    for side in [&before, &after] {
        output::warn_of_damage(&side.report.origin, global);
    }
    let status = exit_status(&after.report, &arguments.fail_on);
    let comparison = Comparison::new(before, after);
    let path = arguments.output.as_deref();
    match arguments.format {
        ReportFormat::Json => output::deliver_document(path, |to| json::write_comparison(&comparison, to)),
        ReportFormat::Text | ReportFormat::Html => output::deliver(path, global, |to| {
            to.write_all(text::render(&comparison, style, arguments.verbose).as_bytes())
        }),
    }?;
    Ok(status)
}

fn read(path: &Path, filter: &Filter) -> anyhow::Result<Side> {
    let mut reader = Recordings::open(&[path.to_owned()])?;
    let session = session::replay(&mut reader, filter.clone(), |_, _, _| -> io::Result<()> { Ok(()) })
        .with_context(|| format!("reading {}", path.display()))?;
    let background = session.background();
    let origin = Origin::Recording { path: path.display().to_string(), damage: reader.verdict() };
    Ok(Side { report: tracer_advice::report::Report::new(session.finish(origin)), background })
}
