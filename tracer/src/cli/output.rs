//! Standard output and standard error: colours, widths, diagnostics, and errors that name what and where.

use std::env;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::Path;

use anstream::{AutoStream, ColorChoice};
use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use super::args::{Color, Global};
use crate::kernel::preflight::Obstacle;
use crate::render::style::Look;

/// Columns where nothing says how wide the output will be seen.
const WIDTH: usize = 100;

/// Sends diagnostics to standard error.
pub(super) fn start_diagnostics(global: &Global) {
    let filter = EnvFilter::try_new(&global.log).unwrap_or_else(|error| {
        complain(&format!("--log {}: {error}; using warn", global.log));
        EnvFilter::new("warn")
    });
    let ansi = match global.color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none(),
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(ansi).init();
}

/// Whether the BPF programs' own debug lines are wanted.
pub(super) fn wants_bpf_log() -> bool {
    tracing::enabled!(target: "bpf", tracing::Level::DEBUG)
}

/// Prints an error.
pub(super) fn complain(text: &str) {
    // There is nowhere left to say that standard error is closed.
    let _closed = writeln!(io::stderr(), "whyrst: {text}");
}

/// Prints a diagnostic, unless the user wants none.
pub(super) fn say(global: &Global, text: &str) {
    if !global.quiet {
        complain(text);
    }
}

/// Prints why this host cannot be traced, and what to do about it.
pub(super) fn complain_of_obstacles(obstacles: &[Obstacle]) {
    complain("this host cannot be traced:");
    for obstacle in obstacles {
        let _closed = writeln!(io::stderr(), "  - {}\n      {}", obstacle.what, obstacle.fix);
    }
}

/// How to draw on standard output, or into a file.
pub(super) fn look(to_file: bool) -> Look {
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
    // Without a locale the C locale holds, which is ASCII.
    let symbols = locale.is_some_and(|locale| {
        let locale = locale.to_ascii_uppercase();
        locale.contains("UTF-8") || locale.contains("UTF8")
    });
    Look { width: Some(columns.or_else(terminal).unwrap_or(WIDTH)), symbols }
}

fn choice(color: Color) -> ColorChoice {
    match color {
        Color::Auto => ColorChoice::Auto,
        Color::Always => ColorChoice::Always,
        Color::Never => ColorChoice::Never,
    }
}

/// Standard output, taking colours out where they are not wanted.
pub(super) fn stdout(global: &Global) -> AutoStream<io::Stdout> {
    AutoStream::new(io::stdout(), choice(global.color))
}

/// Writes a whole output to a file or to standard output.
pub(super) fn deliver(
    path: Option<&Path>,
    global: &Global,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> anyhow::Result<()> {
    match path {
        Some(path) if path != Path::new("-") => {
            let what = || format!("writing {}", path.display());
            let file = File::create(path).with_context(what)?;
            let never = if global.color == Color::Always { ColorChoice::Always } else { ColorChoice::Never };
            let mut stream = io::BufWriter::new(AutoStream::new(file, never));
            write(&mut stream).and_then(|()| stream.flush()).with_context(what)
        }
        _ => {
            let mut stream = stdout(global).lock();
            write(&mut stream).and_then(|()| stream.flush()).context("writing to standard output")
        }
    }
}
