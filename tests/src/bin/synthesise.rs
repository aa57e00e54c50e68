//! Writes a synthetic recording: `synthesise EVENTS FLOWS FILE`; a name that ends in .zst is compressed.
#![forbid(unsafe_code)]

use std::env;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use whyrst_tests::synthetic::{Plan, write};

use tracer_recording::compress::Compression;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("synthesise: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [events, flows, path] = arguments.as_slice() else { bail!("usage: synthesise EVENTS FLOWS FILE") };
    let number = |text: &str| text.parse().with_context(|| format!("{text} is no number"));
    let plan = Plan { events: number(events)?, flows: number(flows)? };
    let path = Path::new(path);
    write(path, plan, Compression::of(path, false))
}
