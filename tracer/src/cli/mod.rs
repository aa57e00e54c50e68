//! Arguments → resolved configuration → exit status. The commands only connect the libraries.

pub mod args;
mod capture;
mod compare;
pub mod config;
mod doctor;
mod explain;
mod export;
mod manual;
mod mitigate;
pub mod netns;
mod output;
mod pipeline;
mod recorder;
mod redaction;
mod sandbox;
mod signals;
mod sink;
mod suggest;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{ColorChoice, CommandFactory as _, FromArgMatches as _};

use tracer_model::health::Obstacle;
use tracer_render::json;

use args::{Arguments, Command, SchemaName};
use config::Configuration;

/// Exit status of a report in which a cause of `--fail-on` was found.
const FOUND: u8 = 1;
/// Exit status of usage and run-time errors.
const FAILED: u8 = 2;
/// Exit status where this host cannot be traced.
const UNTRACEABLE: u8 = 3;

/// Why a command failed.
#[derive(Debug)]
enum Stop {
    /// This host cannot be traced.
    Untraceable(Vec<Obstacle>),
    /// Anything else.
    Failed(anyhow::Error),
    /// The reader of the output has closed the pipe.
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
    let words: Vec<OsString> = std::env::args_os().collect();
    let typed = config::typed(Arguments::command(), &words);
    let read = config::read(&Arguments::command(), typed.as_ref());
    let mut command = match &read {
        Ok(configuration) => configuration.apply(Arguments::command(), typed.as_ref()),
        Err(_) => Arguments::command(),
    };
    if let Some(color) = typed.as_ref().and_then(|typed| typed.get_one::<ColorChoice>("color")) {
        command = command.color(*color);
    }
    let parsed = command.try_get_matches_from_mut(words).and_then(|matches| Arguments::from_arg_matches(&matches));
    let arguments = match parsed {
        Ok(arguments) => arguments,
        Err(error) => {
            let status = print_instead(&error.format(&mut command));
            if let Err(broken) = read {
                output::complain(&format!("{broken:#}"));
            }
            return status;
        }
    };
    let configuration = match read {
        Ok(configuration) => configuration,
        // Its output does not depend on the configuration.
        Err(_) if arguments.command.is_constant() => Configuration::default(),
        Err(broken) => {
            output::complain(&format!("{broken:#}"));
            return ExitCode::from(FAILED);
        }
    };
    for remark in &configuration.remarks {
        output::say(&arguments.global, remark);
    }
    output::start_diagnostics(&arguments.global);
    sandbox::confine(&arguments.command);
    match run(&arguments, &configuration) {
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

/// Prints help, the version, or what is wrong with the command line.
fn print_instead(error: &clap::Error) -> ExitCode {
    let closed = |error: &std::io::Error| error.kind() == std::io::ErrorKind::BrokenPipe;
    match (error.print(), error.use_stderr()) {
        (_, true) => ExitCode::from(FAILED),
        (Err(problem), false) if !closed(&problem) => ExitCode::from(FAILED),
        (_, false) => ExitCode::SUCCESS,
    }
}

fn run(arguments: &Arguments, configuration: &Configuration) -> Result<ExitCode, Stop> {
    match &arguments.command {
        Command::Report(report) => capture::report(report, &arguments.global),
        Command::Trace(trace) => capture::trace(trace, &arguments.global),
        Command::Record(record) => capture::record(record, &arguments.global),
        Command::Export(export) => export::run(export, &arguments.global),
        Command::Explain(explain) => explain::run(explain, &arguments.global),
        Command::Config => {
            let show = |to: &mut dyn Write| config::show(configuration, &Arguments::command(), to);
            output::deliver(None, &arguments.global, show)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Completions { shell } => {
            let command = Arguments::command();
            output::deliver(None, &arguments.global, |to| manual::completions(&command, *shell, to))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { command, output: Some(directory) } => {
            debug_assert!(command.is_none(), "clap sees to it");
            let count = manual::pages(&Arguments::command(), directory)?;
            output::say(&arguments.global, &format!("{count} pages in {}", directory.display()));
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { command, output: None } => {
            let page = manual::page(&Arguments::command(), command.as_deref())?;
            output::deliver(None, &arguments.global, |to| to.write_all(&page))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Doctor(doctor) => doctor::run(doctor, &arguments.global),
        Command::Mitigate(mitigate) => mitigate::run(mitigate, &arguments.global),
        Command::Schema { name } => {
            let mut out = std::io::stdout().lock();
            match name {
                SchemaName::Report => json::write_schema(&mut out)?,
                SchemaName::Trace => json::write_trace_schema(&mut out)?,
                SchemaName::Explain => json::write_log_schema(&mut out)?,
                SchemaName::Doctor => json::doctor::write_schema(&mut out)?,
                SchemaName::Mitigate => json::write_mitigate_schema(&mut out)?,
                SchemaName::Export => json::write_export_schema(&mut out)?,
                SchemaName::Compare => json::write_comparison_schema(&mut out)?,
            }
            out.flush()?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
