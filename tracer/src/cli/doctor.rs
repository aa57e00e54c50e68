//! `whyrst doctor`: facts, findings, and an exit status for monitoring.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, anyhow};

use tracer_advice::doctor::diagnose;
use tracer_host::doctor::{Begun, begin, host, places};
use tracer_host::netns::home;
use tracer_model::finding::Severity;
use tracer_model::health::{Facts, NetnsRef};
use tracer_render::{doctor as text, json};

use super::args::{Doctor, Format, Global, Urgency};
use super::capture::obstacles;
use super::{FOUND, Stop, netns, output};

pub(super) fn run(arguments: &Doctor, global: &Global) -> Result<ExitCode, Stop> {
    let style = output::style(arguments.output.is_some(), global)?;
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
    let findings = diagnose(&facts);
    let path = arguments.output.as_deref();
    match arguments.format {
        Format::Json => output::deliver_document(path, |to| json::doctor::write(&facts, &findings, to)),
        Format::Text => output::deliver(path, global, |to| {
            to.write_all(text::render(&facts, &findings, style, arguments.verbose).as_bytes())
        }),
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
