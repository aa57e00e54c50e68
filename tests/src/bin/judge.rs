//! Compares what the kernel does with packets with what walks through the rulesets conclude.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;
use whyrst_tests::judge::{self, Plan};

#[derive(Debug, Parser)]
#[command(name = "whyrst-judge")]
struct Arguments {
    /// The directory of rulesets
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/rulesets"))]
    rulesets: PathBuf,
    /// Rulesets whose names contain this, and no random ones
    #[arg(long)]
    only: Option<String>,
    /// Number of random rulesets
    #[arg(long, default_value_t = 0)]
    random: usize,
    /// Seed of the random rulesets; without it one of the clock
    #[arg(long)]
    seed: Option<u64>,
    /// Print every packet, and every random ruleset
    #[arg(long)]
    observe: bool,
}

fn main() -> ExitCode {
    let Arguments { rulesets, only, random, seed, observe } = Arguments::parse();
    let seed = seed.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()));
    match judge::run(&Plan { rulesets, only, one_of: 1, random, seed, observe }) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("judge: {error:#}");
            ExitCode::FAILURE
        }
    }
}
