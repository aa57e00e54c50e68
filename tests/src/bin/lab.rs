//! Runs scenarios inside the guest: those of the plan, reporting to the host, or those named, reporting to the terminal.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use whyrst_tests::protocol::{DISK, Message, PLAN, PORT, Plan};
use whyrst_tests::scenarios::{self, Scenario};
use whyrst_tests::whyrst::BINARY;
use whyrst_tests::{artifact, bench};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["plan"] => plan(),
        ["list"] => {
            for (_, scenario) in scenarios::all() {
                println!("{:22} {}", scenario.name, scenario.about);
            }
            Ok(())
        }
        ["steps", btf, symbols] => steps(Path::new(btf), Path::new(symbols)),
        ["run", names @ ..] if !names.is_empty() => by_name(names),
        _ => Err(anyhow::anyhow!("usage: lab plan | list | run NAME… | steps BTF-DIRECTORY KALLSYMS")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn read_plan() -> Result<Plan> {
    serde_json::from_slice(&fs::read(PLAN).context(PLAN)?).context(PLAN)
}

fn find(name: &str) -> Result<&'static Scenario> {
    scenarios::find(name).with_context(|| format!("no scenario `{name}`"))
}

/// Runs the plan and reports to the host.
fn plan() -> Result<()> {
    let plan = read_plan()?;
    let port = RefCell::new(File::options().write(true).open(PORT).context(PORT)?);
    let report = |message: Message| {
        let mut line = serde_json::to_vec(&message).unwrap_or_default();
        line.push(b'\n');
        if let Err(error) = port.borrow_mut().write_all(&line) {
            eprintln!("lab: {PORT}: {error}");
        }
    };
    report(Message::Up { release: rustix::system::uname().release().to_string_lossy().into_owned() });
    if let Some(bench) = &plan.bench {
        bench::run(bench, &report)?;
    }
    for name in &plan.scenarios {
        scenarios::run(find(name)?, &plan.log_format, Path::new(artifact::DIRECTORY), &report);
    }
    let schema = Command::new(BINARY).args(["schema", "report"]).output().context("asking for the schema")?;
    fs::write(Path::new(artifact::DIRECTORY).join(artifact::SCHEMA), schema.stdout).context(artifact::SCHEMA)?;
    artifact::pack(Path::new(artifact::DIRECTORY), Path::new(DISK))?;
    report(Message::Finished);
    Ok(())
}

/// Times the steps of a start that need no BPF.
fn steps(btf: &Path, symbols: &Path) -> Result<()> {
    println!("{}", serde_json::to_string(&whyrst_tests::steps::measure(btf, symbols)?)?);
    Ok(())
}

/// Runs scenarios for somebody at the console.
fn by_name(names: &[&str]) -> Result<()> {
    let log_format = read_plan().map_or_else(|_| String::new(), |plan| plan.log_format);
    let report = |message: Message| match message {
        Message::Start { scenario } => println!("{scenario}"),
        Message::Step { text } => println!("  {text}"),
        Message::End { failure: None, seconds, .. } => println!("  passed in {seconds:.1} s"),
        Message::End { failure: Some(failure), seconds, .. } => println!("  FAILED in {seconds:.1} s\n{failure}"),
        Message::Up { .. } | Message::Row { .. } | Message::Finished => {}
    };
    let mut failed = 0;
    for name in names {
        failed += u32::from(!scenarios::run(find(name)?, &log_format, Path::new(artifact::DIRECTORY), &report));
    }
    if failed > 0 {
        bail!("{failed} of {} failed", names.len());
    }
    Ok(())
}
