//! `whyrst report --compare`: two recordings side by side.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};

use super::args::{Format, Global, Report};
use super::capture::{exit_status, refuse_overwriting, warn_of_damage};
use super::{Stop, output};
use crate::compare::{Comparison, Side};
use crate::filter::Filter;
use crate::render::{compare as text, json};
use crate::report::Origin;
use crate::session;
use crate::source::recording::Reader;

pub(super) fn run(arguments: &Report, before: &Path, after: &Path, global: &Global) -> Result<ExitCode, Stop> {
    if before == Path::new("-") && after == Path::new("-") {
        return Err(anyhow!("--compare - -: standard input can be read once").into());
    }
    for recording in [before, after] {
        refuse_overwriting(recording, arguments.output.as_deref())?;
    }
    let filter = arguments.filter.resolve(true)?;
    let (before, after) = (read(before, &filter)?, read(after, &filter)?);
    for side in [&before, &after] {
        warn_of_damage(&side.report.origin, global);
    }
    let status = exit_status(&after.report, &arguments.fail_on);
    let comparison = Comparison::new(before, after);
    output::deliver(arguments.output.as_deref(), global, |to| match arguments.format {
        Format::Json => json::write_comparison(&comparison, to),
        Format::Text => {
            let look = output::look(arguments.output.is_some());
            to.write_all(text::render(&comparison, look, arguments.verbose).as_bytes())
        }
    })?;
    Ok(status)
}

fn read(path: &Path, filter: &Filter) -> anyhow::Result<Side> {
    let mut reader = Reader::open(path)?;
    let session = session::replay(&mut reader, filter.clone(), |_, _, _| -> io::Result<()> { Ok(()) })
        .with_context(|| format!("reading {}", path.display()))?;
    let background = session.background();
    let origin = Origin::Recording { path: path.display().to_string(), damage: reader.verdict() };
    Ok(Side { report: session.finish(origin), background })
}
