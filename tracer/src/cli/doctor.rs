//! `whyrst doctor`: facts, findings, and an exit status for monitoring.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, anyhow};

use tracer_advice::doctor::diagnose;
use tracer_host::doctor::{Begun, begin, host, loaded, places};
use tracer_host::netns::home;
use tracer_host::scratch::{MOST, Sent};
use tracer_model::finding::Severity;
use tracer_model::health::{Facts, NetnsRef, Tracing};
use tracer_render::{doctor as text, json};

use super::args::{Doctor, Format, Global, Urgency};
use super::capture::obstacles;
use super::{FOUND, Stop, netns, output, sandbox};

pub(super) fn run(arguments: &Doctor, global: &Global) -> Result<ExitCode, Stop> {
    if let Some(path) = &arguments.ruleset {
        return of_file(path, arguments, global);
    }
    let selected = selected(arguments)?;
    let (machine, tracing) = host::read(obstacles(false)).context("/proc/kallsyms")?;
    let began = Instant::now();
    let mut snapshots: Vec<Begun> = Vec::new();
    // Without conntrack there are no facts, and a query would load the module.
    if tracing.conntrack {
        snapshots.extend(selected.into_iter().map(|(inode, place)| begin(inode, place)));
        snapshots.iter_mut().for_each(Begun::read);
        wait(arguments.interval.saturating_sub(began.elapsed()))?;
    }
    let namespaces = snapshots.into_iter().map(Begun::finish).collect();
    let facts = Facts { host: machine, tracing, namespaces };
    let output = Output::Path(arguments.output.as_deref());
    finish(&facts, output, arguments, global)
}

/// Where the result goes.
enum Output<'a> {
    Path(Option<&'a Path>),
    Opened(&'a Path, File),
}

/// The rules of a file: this process loads them into a network namespace of its own, and has no other rights from then on.
fn of_file(path: &Path, arguments: &Doctor, global: &Global) -> Result<ExitCode, Stop> {
    let named = || format!("--ruleset {}", path.display());
    let bytes = read(path).with_context(named)?;
    let sent = Sent::parse(&bytes).with_context(named)?;
    let machine = host::of_file();
    // It could not be created later.
    let output = match arguments.output.as_deref().filter(|path| *path != Path::new("-")) {
        Some(path) => {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
            Output::Opened(path, file.with_context(|| format!("writing {}", path.display()))?)
        }
        None => Output::Path(None),
    };
    let loading = sent.load(&sandbox::confine_tool).with_context(named)?;
    let from = if path == Path::new("-") { "standard input".into() } else { path.to_string_lossy() };
    let namespace = loaded(&from, &loading).with_context(named)?;
    let facts = Facts { host: machine, tracing: Tracing::default(), namespaces: vec![namespace] };
    finish(&facts, output, arguments, global)
}

/// Reads a file as far as it may be loaded, and one byte more.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = MOST as u64 + 1;
    if path == Path::new("-") {
        io::stdin().lock().take(most).read_to_end(&mut bytes)?;
    } else {
        File::open(path)?.take(most).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

fn finish(facts: &Facts, output: Output<'_>, arguments: &Doctor, global: &Global) -> Result<ExitCode, Stop> {
    let style = output::style(arguments.output.is_some(), global)?;
    let findings = diagnose(facts);
    let document = |to: &mut dyn io::Write| json::doctor::write(facts, &findings, to);
    let page =
        |to: &mut dyn io::Write| to.write_all(text::render(facts, &findings, style, arguments.verbose).as_bytes());
    match (arguments.format, output) {
        (Format::Json, Output::Path(path)) => output::deliver_document(path, document),
        (Format::Text, Output::Path(path)) => output::deliver(path, global, page),
        (Format::Json, Output::Opened(path, file)) => output::deliver_into(path, file, None, document),
        (Format::Text, Output::Opened(path, file)) => output::deliver_into(path, file, Some(global), page),
    }?;
    let worst = findings.iter().map(|finding| finding.severity).min();
    let fails = match arguments.fail_on {
        Some(Urgency::Critical) => worst <= Some(Severity::Critical),
        Some(Urgency::Warning) => worst <= Some(Severity::Warning),
        None => false,
    };
    Ok(if worst.is_some() && fails { ExitCode::from(FOUND) } else { ExitCode::SUCCESS })
}

/// The namespaces to inspect, and how commands enter them.
fn selected(arguments: &Doctor) -> anyhow::Result<Vec<(u32, NetnsRef)>> {
    let mut places = places().context("finding network namespaces")?;
    if arguments.all_netns {
        return Ok(places.into_iter().collect());
    }
    let mut wanted = Vec::new();
    for inode in netns::on_this_host(&arguments.netns)? {
        if !wanted.contains(&inode) {
            wanted.push(inode);
        }
    }
    if wanted.is_empty() {
        wanted.push(home().context("this network namespace")?);
    }
    wanted
        .into_iter()
        .map(|inode| {
            let place = places.remove(&inode);
            place
                .map(|place| (inode, place))
                .ok_or_else(|| anyhow!("--netns {inode}: no name and no process leads to it"))
        })
        .collect()
}

/// Waits for the rest of the interval; Ctrl-C ends the program.
fn wait(rest: std::time::Duration) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().context("starting the runtime")?;
    // A timer must be created inside the runtime.
    runtime.block_on(async { tokio::time::sleep(rest).await });
    Ok(())
}
