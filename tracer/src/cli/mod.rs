//! Arguments → resolved configuration → exit status. The commands are glue; what they do is in the library.

mod args;
mod capture;
mod explain;
mod output;
mod recorder;
mod redaction;
mod stage;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::kernel::preflight::Obstacle;
use crate::render::json;
use args::{Arguments, Command, SchemaName};

/// Exit status of a report in which a cause of `--fail-on` was found.
const FOUND: u8 = 1;
/// Exit status of usage and run-time errors.
const FAILED: u8 = 2;
/// Exit status where this host cannot be traced.
const UNTRACEABLE: u8 = 3;

/// Why a command did not do what it was asked to.
#[derive(Debug)]
enum Stop {
    /// This host cannot be traced.
    Untraceable(Vec<Obstacle>),
    /// Anything else.
    Failed(anyhow::Error),
    /// Nobody reads the output any more.
    ClosedPipe,
}

impl<E: Into<anyhow::Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        let error = error.into();
        let closed = error.chain().any(|cause| {
            cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
        });
        if closed { Self::ClosedPipe } else { Self::Failed(error) }
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            let printed = error.print().is_ok();
            return if help && printed { ExitCode::SUCCESS } else { ExitCode::from(FAILED) };
        }
    };
    output::start_diagnostics(&arguments.global);
    match run(&arguments) {
        Ok(status) => status,
        Err(Stop::ClosedPipe) => ExitCode::SUCCESS,
        Err(Stop::Failed(error)) => {
            output::complain(&format!("{error:#}"));
            ExitCode::from(FAILED)
        }
        Err(Stop::Untraceable(obstacles)) => {
            output::complain_of_obstacles(&obstacles);
            ExitCode::from(UNTRACEABLE)
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode, Stop> {
    match &arguments.command {
        Command::Report(report) => capture::report(report, &arguments.global),
        Command::Trace(trace) => capture::trace(trace, &arguments.global),
        Command::Record(record) => capture::record(record, &arguments.global),
        Command::Explain(explain) => explain::run(explain, &arguments.global),
        Command::Schema { name } => {
            let mut out = std::io::stdout().lock();
            match name {
                SchemaName::Report => json::write_schema(&mut out)?,
                SchemaName::Trace => json::write_trace_schema(&mut out)?,
                SchemaName::Explain => json::write_log_schema(&mut out)?,
            }
            out.flush()?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
