//! Standard output and standard error: colours, widths, diagnostics, and errors that name what and where.

use std::env;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anstream::{AutoStream, ColorChoice};
use anyhow::{Context as _, bail};
use jiff::tz::TimeZone;
use rustix::fs::{Access, access};
use tracing_subscriber::EnvFilter;

use tracer_model::capture::Origin;
use tracer_model::health::Obstacle;
use tracer_recording::same_file;
use tracer_render::plain::Plain;
use tracer_render::style::{TextStyle, UTC};

use super::args::{Global, Time};

/// Columns if the width of the output is unknown.
const WIDTH: usize = 100;

/// Sends diagnostics to standard error.
pub(super) fn start_diagnostics(global: &Global) {
    let filter = EnvFilter::try_new(&global.log).unwrap_or_else(|error| {
        complain(&format!("--log {}: {error}; using warn", global.log));
        EnvFilter::new("warn")
    });
    let ansi = match choice(global.color) {
        ColorChoice::Auto => AutoStream::choice(&io::stderr()) != ColorChoice::Never,
        given => given != ColorChoice::Never,
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(ansi).init();
}

/// Whether debug messages of the BPF programs are wanted.
pub(super) fn wants_bpf_log() -> bool {
    tracing::enabled!(target: "bpf", tracing::Level::DEBUG)
}

/// Prints an error. Foreign names in it are escaped.
pub(super) fn complain(text: &str) {
    write_plainly("whyrst: ", text);
}

fn write_plainly(mut lead: &str, text: &str) {
    let mut error = io::stderr().lock();
    for line in text.lines() {
        // A closed standard error cannot be reported.
        let _closed = writeln!(error, "{lead}{}", Plain(line));
        lead = "";
    }
}

/// Prints a message, unless `--quiet` was given.
pub(super) fn say(global: &Global, text: &str) {
    if !global.quiet {
        complain(text);
    }
}

/// Prints why this host cannot be traced, with fixes.
pub(super) fn complain_of_obstacles(obstacles: &[Obstacle]) {
    complain("this host cannot be traced:");
    for obstacle in obstacles {
        write_plainly("  - ", &obstacle.what);
        write_plainly("      ", &obstacle.fix);
    }
}

/// The style for standard output, or for a file.
pub(super) fn style(to_file: bool, global: &Global) -> anyhow::Result<TextStyle> {
    let columns = env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let terminal = || {
        let stdout = io::stdout();
        if to_file || !stdout.is_terminal() {
            return None;
        }
        rustix::termios::tcgetwinsize(&stdout).ok().map(|size| usize::from(size.ws_col)).filter(|width| *width > 0)
    };
    let locale =
        ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| env::var(name).ok().filter(|value| !value.is_empty()));
    // Without a locale, the C locale applies, which is ASCII.
    let symbols = locale.is_some_and(|locale| {
        let locale = locale.to_ascii_uppercase();
        locale.contains("UTF-8") || locale.contains("UTF8")
    });
    Ok(TextStyle { width: Some(columns.or_else(terminal).unwrap_or(WIDTH)), symbols, zone: zone(global.time)? })
}

/// The zone of `--time`: that of `TZ`, else of /etc/localtime.
fn zone(time: Time) -> anyhow::Result<&'static TimeZone> {
    /// Read once: styles are copied and hold a reference.
    static LOCAL: OnceLock<TimeZone> = OnceLock::new();
    match time {
        Time::Utc => Ok(&UTC),
        Time::Local => {
            let zone = TimeZone::try_system().context("--time local: TZ and /etc/localtime name no known time zone")?;
            Ok(LOCAL.get_or_init(|| zone))
        }
    }
}

fn choice(color: clap::ColorChoice) -> ColorChoice {
    match color {
        clap::ColorChoice::Auto => ColorChoice::Auto,
        clap::ColorChoice::Always => ColorChoice::Always,
        clap::ColorChoice::Never => ColorChoice::Never,
    }
}

/// Standard output, without colours if they are not wanted.
pub(super) fn stdout(global: &Global) -> AutoStream<io::Stdout> {
    AutoStream::new(io::stdout(), choice(global.color))
}

/// Checks that a file can be written, before the capture. It creates nothing, because the capture may fail.
pub(super) fn expect_writable(path: Option<&Path>) -> anyhow::Result<()> {
    let Some(path) = path.filter(|path| *path != Path::new("-")) else { return Ok(()) };
    let what = || format!("writing {}", path.display());
    match path.metadata() {
        Ok(facts) if facts.is_dir() => Err(io::Error::from(io::ErrorKind::IsADirectory)).with_context(what),
        Ok(_) => access(path, Access::WRITE_OK).with_context(what),
        Err(_) => {
            let directory = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
            access(directory, Access::WRITE_OK | Access::EXEC_OK).with_context(what)
        }
    }
}

/// Writes a text to a file or to standard output, without colours if they are not wanted.
pub(super) fn deliver(
    path: Option<&Path>,
    global: &Global,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> anyhow::Result<()> {
    let in_a_file = if choice(global.color) == ColorChoice::Always { ColorChoice::Always } else { ColorChoice::Never };
    put(path, in_a_file, choice(global.color), write)
}

/// Writes a document without colours.
pub(super) fn deliver_document(
    path: Option<&Path>,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> anyhow::Result<()> {
    put(path, ColorChoice::AlwaysAnsi, ColorChoice::AlwaysAnsi, write)
}

/// Writes a text, or a document without `global`, to a file that was opened before its path went out of reach.
pub(super) fn deliver_into(
    path: &Path,
    file: File,
    global: Option<&Global>,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> anyhow::Result<()> {
    let color = match global {
        Some(global) if choice(global.color) == ColorChoice::Always => ColorChoice::Always,
        Some(_) => ColorChoice::Never,
        None => ColorChoice::AlwaysAnsi,
    };
    let what = || format!("writing {}", path.display());
    // A device or a pipe has no length.
    if file.metadata().with_context(what)?.is_file() {
        file.set_len(0).with_context(what)?;
    }
    let mut stream = io::BufWriter::new(AutoStream::new(file, color));
    write(&mut stream).and_then(|()| stream.flush()).with_context(what)
}

/// Writes through a buffer; standard output is line-buffered otherwise.
fn put(
    path: Option<&Path>,
    in_a_file: ColorChoice,
    on_stdout: ColorChoice,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> anyhow::Result<()> {
    match path {
        Some(path) if path != Path::new("-") => {
            let what = || format!("writing {}", path.display());
            let file = File::create(path).with_context(what)?;
            let mut stream = io::BufWriter::new(AutoStream::new(file, in_a_file));
            write(&mut stream).and_then(|()| stream.flush()).with_context(what)
        }
        _ => {
            let mut stream = io::BufWriter::new(AutoStream::new(io::stdout().lock(), on_stdout));
            write(&mut stream).and_then(|()| stream.flush()).context("writing to standard output")
        }
    }
}

/// Warns of a damaged recording.
pub(super) fn warn_of_damage(origin: &Origin, global: &Global) {
    if let Origin::Recording { path, damage: Some(damage) } = origin {
        say(global, &format!("{path} is damaged at byte {}: {}", damage.offset, damage.what));
    }
}

/// Refuses an output that is one of the recordings to read.
pub(super) fn refuse_overwriting(inputs: &[PathBuf], output: Option<&Path>) -> anyhow::Result<()> {
    match output {
        Some(output) if inputs.iter().any(|input| same_file(input, output) || within(input, output)) => {
            bail!("-o {} would overwrite the recording that is read", output.display())
        }
        _ => Ok(()),
    }
}

/// Whether a file is in a directory of recordings.
fn within(directory: &Path, file: &Path) -> bool {
    file.exists() && file.parent().is_some_and(|parent| directory.is_dir() && same_file(directory, parent))
}
