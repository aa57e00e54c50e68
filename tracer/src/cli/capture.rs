//! `report`, `trace` and `record`: a source, a session, and sinks for its events.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant as Deadline, sleep_until};

use tracer_advice::report;
use tracer_common::Hook;
use tracer_engine::engine::Observed;
use tracer_engine::session;
use tracer_engine::session::Session;
use tracer_host::attach::{Choice, InspectError, Kernel};
use tracer_host::live::{ABSENT_BECAUSE, Live, StartError};
use tracer_host::netns::home;
use tracer_host::preflight::bpf_obstacles;
use tracer_host::privileges::Needed;
use tracer_host::symbols::Symbols;
use tracer_host::{attach, boot_id, hostname, netns, now, preflight, privileges, timed};
use tracer_model::capture::{HookState, HookStatus, Host, Item, Items, Origin, RecordLayout};
use tracer_model::conntrack::log_format::LogFormat;
use tracer_model::filter::Filter;
use tracer_model::health::Obstacle;
use tracer_model::time::ClockOffset;
use tracer_recording::Recordings;
use tracer_recording::redact::{Key, Redacted, Redactor};
use tracer_render::trace::Lines;
use tracer_render::{html, json, text, trace as lines};

use super::args::{FilterArgs, Format, Global, LiveArgs, Record, Report, ReportFormat, Source, Trace};
use super::netns::Names;
use super::pipeline::Pipeline;
use super::recorder::Recorder;
use super::signals::{EndSignals, HangUp};
use super::sink::{Sink, exit_status, wanted};
use super::{Stop, compare, output};

/// Time for the last requests of a capture, in addition to the time that single requests may take.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// The most time for all of them.
const ALL_ANSWERS: Duration = Duration::from_secs(30);
/// Interval of checks for `nf_conntrack` with `--wait`.
const LOOK_FOR_CONNTRACK: Duration = Duration::from_millis(200);
/// Interval of the progress line.
const PROGRESS: Duration = Duration::from_millis(250);

pub(super) fn report(arguments: &Report, global: &Global) -> Result<ExitCode, Stop> {
    if let [before, after] = arguments.compare.as_slice() {
        return compare::run(arguments, before, after, global);
    }
    let style = output::style(arguments.output.is_some(), global)?;
    if arguments.source.from.is_empty() {
        output::expect_writable(arguments.output.as_deref())?;
    }
    let mut recorder = None;
    if arguments.record.is_none() && arguments.keeping.is_asked() {
        return Err(anyhow::anyhow!("--compress, --rotate, --rotate-every and --keep need --record FILE").into());
    }
    output::refuse_overwriting(&arguments.source.from, arguments.output.as_deref())?;
    let key = arguments.redaction.key(global)?;
    let files: Vec<Needed<'_>> =
        arguments.output.iter().chain(&arguments.record).map(|path| Needed::Write(path)).collect();
    let (session, origin) =
        work(&arguments.source, &files, &arguments.filter, key.as_ref(), global, |session, filter| {
            if let Some(path) = &arguments.record {
                recorder = Some(Recorder::create(path, &arguments.keeping, session, filter)?.beside_a_report());
            }
            Ok(recorder.as_mut().into_iter().map(|sink| sink as &mut dyn Sink).collect())
        })?;
    let report = report::Report::new(session.finish(origin));
    output::warn_of_damage(&report.origin, global);
    let deliver = |path: Option<&Path>| match arguments.format {
        ReportFormat::Json => output::deliver_document(path, |to| json::write(&report, to)),
        ReportFormat::Html => output::deliver_document(path, |to| html::write(&report, to)),
        ReportFormat::Text => {
            output::deliver(path, global, |to| to.write_all(text::render(&report, style, arguments.verbose).as_bytes()))
        }
    };
    let delivered = deliver(arguments.output.as_deref());
    let to_file = arguments.output.as_deref().is_some_and(|path| path != Path::new("-"));
    if delivered.is_err() && to_file && arguments.source.from.is_empty() {
        // A live capture cannot be repeated.
        output::say(global, "cannot write the report to its file; writing it to standard output");
        deliver(None)?;
    }
    delivered?;
    if let (Some(recorder), Some(path)) = (recorder, &arguments.record) {
        recorder.finish(path)?;
    }
    let status = exit_status(&report, &arguments.fail_on);
    // The program ends. Freeing every flow would only take time.
    std::mem::forget(report);
    Ok(status)
}

pub(super) fn trace(arguments: &Trace, global: &Global) -> Result<ExitCode, Stop> {
    let style = output::style(false, global)?;
    let from = &arguments.source.from;
    let names = if from.is_empty() { netns::names() } else { names_in(from, arguments.format)? };
    let key = arguments.redaction.key(global)?;
    let names = match key.as_ref().map(Redactor::new) {
        Some(redactor) => names.into_iter().map(|(inode, name)| (inode, redactor.netns(&name))).collect(),
        None => names,
    };
    let lines = Lines { style, names };
    let mut printer =
        Printer { to: output::stdout(global), format: arguments.format, lines, filter: Filter::default() };
    let (_, origin) = work(&arguments.source, &[], &arguments.filter, key.as_ref(), global, |_, filter| {
        printer.filter = filter.clone();
        Ok(vec![&mut printer as &mut dyn Sink])
    })?;
    output::warn_of_damage(&origin, global);
    Ok(ExitCode::SUCCESS)
}

/// The names of the namespaces, for all lines. A stream can be read only once, so it gives none.
fn names_in(from: &[PathBuf], format: Format) -> anyhow::Result<Names> {
    let stream = from.iter().any(|path| path == Path::new("-"));
    if format == Format::Text && !stream { super::netns::names(from) } else { Ok(Names::new()) }
}

pub(super) fn record(arguments: &Record, global: &Global) -> Result<ExitCode, Stop> {
    let mut recorder = None;
    let path = &arguments.output;
    arguments.keeping.policy(path)?;
    output::refuse_overwriting(&arguments.source.from, Some(path))?;
    let key = arguments.redaction.key(global)?;
    let files = [Needed::Write(path)];
    let (session, origin) =
        work(&arguments.source, &files, &arguments.filter, key.as_ref(), global, |session, filter| {
            recorder = Some(Recorder::create(path, &arguments.keeping, session, filter)?);
            Ok(recorder.as_mut().into_iter().map(|sink| sink as &mut dyn Sink).collect())
        })?;
    output::warn_of_damage(&origin, global);
    let (events, resets) = session.progress();
    if let Some(recorder) = recorder {
        let what = recorder.finish(path)?;
        output::say(global, &format!("{} {what}", lines::progress(events, resets)));
    }
    Ok(ExitCode::SUCCESS)
}

/// Processes the items of the source.
fn work<'s>(
    source: &Source,
    files: &[Needed<'_>],
    filter: &FilterArgs,
    key: Option<&Key>,
    global: &Global,
    sinks: impl FnOnce(&Session, &Filter) -> anyhow::Result<Vec<&'s mut dyn Sink>>,
) -> Result<(Session, Origin), Stop> {
    if source.from.is_empty() {
        return live(&source.live, files, filter, key, global, sinks);
    }
    let filter = filter.resolve(&source.from)?;
    let recordings = Recordings::open(&source.from)?;
    for remark in recordings.remarks() {
        output::say(global, remark);
    }
    let path = recordings.name().to_owned();
    let Some(mut redactor) = key.map(Redactor::new) else {
        let (session, recordings) = replay(recordings, filter, &path, sinks)?;
        return Ok((session, Origin::Recording { path, damage: recordings.verdict() }));
    };
    let filter = redactor.filter(&filter);
    let (session, redacted) = replay(Redacted::new(recordings, redactor), filter, &path, sinks)?;
    // The name of a file may be confidential.
    Ok((session, Origin::Recording { path: "redacted recording".to_owned(), damage: redacted.inner().verdict() }))
}

/// Processes a recording.
fn replay<'s, I: Items>(
    mut items: I,
    filter: Filter,
    name: &str,
    sinks: impl FnOnce(&Session, &Filter) -> anyhow::Result<Vec<&'s mut dyn Sink>>,
) -> Result<(Session, I), Stop> {
    let mut sinks = sinks(&Session::new(copied(items.host()), filter.clone()), &filter)?;
    let session = session::replay(&mut items, filter, |item, observed, session| {
        sinks.iter_mut().try_for_each(|sink| sink.item(item, observed, session))
    })
    .with_context(|| format!("reading {name}"))?;
    sinks.iter_mut().try_for_each(|sink| sink.end())?;
    Ok((session, items))
}

/// The host in a copy of a recording. A copy is complete, and not a file of the original series.
fn copied(host: &Host) -> Host {
    Host { part: None, capture: None, ..host.clone() }
}

/// Captures from the running kernel.
fn live<'s>(
    arguments: &LiveArgs,
    files: &[Needed<'_>],
    filter: &FilterArgs,
    key: Option<&Key>,
    global: &Global,
    sinks: impl FnOnce(&Session, &Filter) -> anyhow::Result<Vec<&'s mut dyn Sink>>,
) -> Result<(Session, Origin), Stop> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting tokio")?;
    runtime.block_on(async {
        let filter = filter.resolve(&[])?;
        let redactor = key.map(Redactor::new);
        // From here on, the first Ctrl-C ends the capture and not the program.
        let mut end = EndSignals::new()?;
        let Some((kernel, symbols)) = inspect(arguments, global, &mut end).await? else {
            return Err(anyhow::anyhow!("interrupted before nf_conntrack was loaded").into());
        };
        privileges::no_new_privileges().context("no new privileges")?;
        for without in privileges::lacking() {
            output::say(global, &without);
        }
        for field in kernel.missing_fields() {
            tracing::info!("this kernel's BTF has no {field}");
        }
        let (log_format, reset_reasons) = (kernel.log_format, kernel.reset_reasons.clone());
        let choice = Choice {
            tap: tapped(arguments, &filter)?,
            new_refused: arguments.new_refused,
            without_kprobes: arguments.without_kprobes,
        };
        let mut live =
            Live::start(kernel, &symbols, choice, output::wants_bpf_log()).map_err(|error| untraceable(&error))?;
        // The capture starts when everything is attached.
        let mut pipeline = Pipeline::new(host(log_format, reset_reasons), &filter, redactor, sinks)?;
        live.give_up(files).context("dropping capabilities")?;
        for item in live.begin() {
            pipeline.offer(&item)?;
        }
        output::say(global, &listening(&live));
        let progress = progress_line(global);
        let deadline = arguments.duration.and_then(|duration| Deadline::now().checked_add(duration));
        let result = capture(&mut live, &mut pipeline, deadline, &mut end, &progress, global).await;
        progress.finish_and_clear();
        let ended = finish(&mut live, &mut pipeline).await;
        result.and(ended)?;
        Ok((pipeline.end()?, Origin::Live))
    })
}

/// Captures until the deadline or a signal.
async fn capture(
    live: &mut Live,
    pipeline: &mut Pipeline<'_>,
    deadline: Option<Deadline>,
    end: &mut EndSignals,
    progress: &ProgressBar,
    global: &Global,
) -> anyhow::Result<()> {
    let mut redraw = tokio::time::interval(PROGRESS);
    let mut hang_up = HangUp::new(pipeline.rotates())?;
    loop {
        let due = pipeline.session().next_request().map(|at| Deadline::now() + (at - now()));
        tokio::select! {
            item = live.next() => {
                // A `select!` costs more than an event: process all available items before the next one.
                let mut next = Some(item);
                while let Some(item) = next {
                    // The hooks that were attached at the start are already in the pipeline.
                    if let Item::Hook(status) = &item {
                        output::say(global, &hook_message(status));
                    }
                    pipeline.offer(&item)?;
                    if pipeline.wants_counters() {
                        pipeline.offer(&Item::Counters(live.counters()))?;
                    }
                    next = live.ready();
                }
            }
            () = hang_up.recv() => {
                if !pipeline.rotates() {
                    return Ok(());
                }
                pipeline.hang_up();
                pipeline.offer(&Item::Counters(live.counters()))?;
            }
            () = until(due) => live.ask(pipeline.requests(now())),
            () = until(deadline) => return Ok(()),
            () = end.signalled() => return Ok(()),
            _ = redraw.tick(), if !progress.is_hidden() => {
                let (events, resets) = pipeline.session().progress();
                progress.set_message(lines::progress(events, resets));
                progress.tick();
            }
        }
    }
}

/// Detaches the hooks, processes the remaining items, and makes the last requests.
async fn finish(live: &mut Live, pipeline: &mut Pipeline<'_>) -> anyhow::Result<()> {
    let remaining = live.stop().await;
    for item in &remaining {
        pipeline.offer(item)?;
    }
    let requests = pipeline.last_requests();
    // Earlier requests are answered before these.
    let count = pipeline.session().outstanding();
    let patience = requests.iter().map(|request| request.patience()).sum::<Duration>() + LAST_ANSWERS;
    live.ask(requests);
    for item in &live.last_answers(count, patience.min(ALL_ANSWERS)).await {
        pipeline.offer(item)?;
    }
    pipeline.offer(&Item::Ended(now()))
}

async fn until(deadline: Option<Deadline>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The message on a hook whose state has changed.
fn hook_message(status: &HookStatus) -> String {
    let symbol = status.hook.spec().symbol;
    match &status.state {
        HookState::Attached => format!("{symbol} is attached"),
        HookState::Waiting { module } => {
            format!("detached {symbol}: module {module} was removed; waiting for it")
        }
        HookState::Unavailable { because } => format!("{symbol} is not attached: {because}"),
    }
}

/// Obstacles to tracing, except that nf_conntrack may not be loaded.
pub(super) fn obstacles(without_kprobes: bool) -> Vec<Obstacle> {
    let host = preflight::Host::running();
    let mut obstacles = host.obstacles();
    if !without_kprobes {
        obstacles.extend(host.kprobes());
    }
    if !ABSENT_BECAUSE.is_empty() {
        obstacles.push(Obstacle {
            id: "no-bpf-programs",
            what: format!("this build of whyrst has no BPF programs: {ABSENT_BECAUSE}"),
            fix: "rebuild it after `cargo xtask setup`, or use a released binary".to_owned(),
        });
    }
    if obstacles.is_empty() { bpf_obstacles() } else { obstacles }
}

/// Inspects the kernel; `None` if the user ended the wait for nf_conntrack.
async fn inspect(
    arguments: &LiveArgs,
    global: &Global,
    end: &mut EndSignals,
) -> Result<Option<(Kernel, Symbols)>, Stop> {
    let types = attach::Types::read();
    let mut obstacles = timed("bpf-probes", || obstacles(arguments.without_kprobes));
    let mut symbols = attach::symbols().context("/proc/kallsyms")?;
    if !attach::conntrack_is_loaded(&symbols) {
        if arguments.wait && obstacles.is_empty() {
            output::say(global, "waiting until nf_conntrack is loaded (Ctrl-C ends)");
            loop {
                tokio::select! {
                    () = tokio::time::sleep(LOOK_FOR_CONNTRACK) => {}
                    () = end.signalled() => return Ok(None),
                }
                symbols = attach::symbols().context("/proc/kallsyms")?;
                if attach::conntrack_is_loaded(&symbols) {
                    break;
                }
            }
        } else {
            obstacles.push(Obstacle {
                id: "conntrack-not-loaded",
                what: "nf_conntrack is not loaded: this host does not track connections".to_owned(),
                fix: "load the ruleset first, or use --wait to start when the module is loaded".to_owned(),
            });
        }
    }
    if !obstacles.is_empty() {
        return Err(Stop::Untraceable(obstacles));
    }
    let types = timed("btf-wait", || types.wait()).map_err(InspectError::from)?;
    let kernel = timed("look-ups", || Kernel::inspect_with(&types, &symbols))?;
    Ok(Some((kernel, symbols)))
}

/// The namespaces to tap: those of `--netns`, else whyrst's own.
fn tapped(arguments: &LiveArgs, filter: &Filter) -> anyhow::Result<Vec<u32>> {
    if !arguments.tap {
        return Ok(Vec::new());
    }
    if filter.netns.is_empty() { Ok(vec![home().context("--tap")?]) } else { Ok(filter.netns.clone()) }
}

fn untraceable(error: &StartError) -> Stop {
    let locked = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    let fix = match (error, locked) {
        // Raising the limit failed.
        (StartError::Load(_), Some(bytes)) => format!(
            "before Linux 5.11 the maps need locked memory, and this process is limited to {bytes} bytes: raise the limit \
             (ulimit -l, LimitMEMLOCK=infinity), or add CAP_SYS_RESOURCE; `--log debug` shows details"
        ),
        _ => "see docs/limits.md; `--log debug` shows details".to_owned(),
    };
    Stop::Untraceable(vec![Obstacle { id: "not-attached", what: preflight::chain(error), fix }])
}

fn host(log_format: LogFormat, reset_reasons: Vec<(u32, String)>) -> Host {
    let uname = rustix::system::uname();
    let started = now();
    let wall = jiff::Timestamp::now().as_nanosecond();
    Host {
        hostname: hostname(),
        kernel: uname.release().to_string_lossy().into_owned(),
        log_format,
        clock: ClockOffset(i64::try_from(wall - i128::from(started.0)).unwrap_or(0)),
        started,
        records: RecordLayout::default(),
        reset_reasons,
        boot: boot_id().ok(),
        capture: random_name(),
        part: None,
        tool: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// A random name for the capture.
fn random_name() -> Option<String> {
    let mut bytes = [0; 8];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    (filled == Ok(bytes.len())).then(|| format!("{:016x}", u64::from_ne_bytes(bytes)))
}

/// The message at the start of a capture: its hooks.
fn listening(live: &Live) -> String {
    let mut names: Vec<&str> = Vec::new();
    let mut rest: Vec<String> = Vec::new();
    for (hook, state) in live.states() {
        let symbol = Hook::spec(hook).symbol;
        match state {
            HookState::Attached => names.push(symbol),
            HookState::Waiting { module } => rest.push(format!("{symbol} waits for {module}")),
            HookState::Unavailable { because } => rest.push(format!("{symbol} is not attached: {because}")),
        }
    }
    let rest = if rest.is_empty() { String::new() } else { format!("; {}", rest.join("; ")) };
    format!("listening to {}{rest}; Ctrl-C ends", names.join(", "))
}

fn progress_line(global: &Global) -> ProgressBar {
    if global.quiet {
        return ProgressBar::hidden();
    }
    // indicatif hides it if standard error is not a terminal.
    let bar = ProgressBar::new_spinner();
    match ProgressStyle::with_template("{elapsed_precise}  {msg}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Prints one line per event.
struct Printer<W: Write> {
    to: W,
    format: Format,
    lines: Lines,
    filter: Filter,
}

impl<W: Write> Sink for Printer<W> {
    fn item(&mut self, _: &Item, observed: Option<&Observed>, session: &Session) -> anyhow::Result<()> {
        let Some(observed) = observed.filter(|observed| wanted(observed, &self.filter)) else { return Ok(()) };
        self.print(observed, session).context("writing to standard output")
    }
}

impl<W: Write> Printer<W> {
    fn print(&mut self, observed: &Observed, session: &Session) -> io::Result<()> {
        match self.format {
            Format::Json => {
                let flow = observed.flow.and_then(|id| session.flow(id));
                json::write_observation(observed, flow, session.host(), &mut self.to)?;
            }
            Format::Text => {
                if let Some(line) = self.lines.line(observed, session) {
                    writeln!(self.to, "{line}")?;
                }
            }
        }
        self.to.flush()
    }
}
