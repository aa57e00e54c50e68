//! `cargo xtask fuzz`: runs the targets of `fuzz/`. Inputs to start from are the golden recordings and the kept corpus.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::process::{cargo, execute, output, target, workspace};

/// What to fuzz.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask fuzz                            every target for ten minutes
  cargo xtask fuzz correlate --minutes 60
  cargo xtask fuzz --minimise                 and keep the inputs that add coverage

It needs cargo-fuzz and a nightly compiler: cargo install cargo-fuzz; rustup toolchain install nightly")]
pub(crate) struct Arguments {
    /// The targets [default: all]
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// Minutes for each target
    #[arg(long, default_value_t = 10)]
    minutes: u32,
    /// Merge new inputs into fuzz/corpus, and keep those that add coverage
    #[arg(long)]
    minimise: bool,
}

/// The longest input; kept ones are shorter.
const LONGEST: &str = "-max_len=9999";
/// The most bytes and files that are kept for each target.
const KEPT: u64 = 36_000;
const MOST: usize = 100;

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let (root, known) = (workspace(), targets()?);
    if let Some(unknown) = arguments.targets.iter().find(|target| !known.contains(target)) {
        bail!("there is no target {unknown}, but {}", known.join(", "));
    }
    let all = target().join("fuzz");
    let seeds = all.join("seeds");
    execute(
        cargo()
            .args(["test", "--quiet", "--locked", "--package", "whyrst-tests", "--test", "fuzzed", "--", "starts_from"])
            .env("WHYRST_FUZZ_SEEDS", &seeds),
    )
    .context("writing the seeds")?;
    for name in known.iter().filter(|name| arguments.targets.is_empty() || arguments.targets.contains(name)) {
        let kept = root.join("fuzz/corpus").join(name);
        let (found, seeds) = (all.join("found").join(name), seeds.join(name));
        for directory in [&kept, &found, &seeds] {
            fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
        }
        println!("fuzz: {name} for {} minutes", arguments.minutes);
        let seconds = format!("-max_total_time={}", u64::from(arguments.minutes) * 60);
        let mut fuzz = fuzzer(name);
        fuzz.args([&found, &kept, &seeds]);
        execute(fuzz.args(["--", &seconds, LONGEST, "-timeout=20", "-print_final_stats=1"]))
            .with_context(|| format!("target {name} has failed; the input is in fuzz/artifacts/{name}"))?;
        if arguments.minimise {
            minimise(name, &all.join("merged"), &[&kept, &found, &seeds])?;
        }
    }
    Ok(())
}

/// cargo-fuzz without a sanitizer: only dependencies of the fuzzed code have unsafe code, and runs are twice as fast.
fn fuzzer(name: &str) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(workspace()).args(["+nightly", "fuzz", "run", "--sanitizer", "none", name]);
    // The targets load no BPF object.
    command.env("WHYRST_BPF_TOOLCHAIN", "/nonexistent").env_remove("CARGO_TARGET_DIR").env_remove("RUSTUP_TOOLCHAIN");
    command
}

/// The targets: a source file each.
fn targets() -> Result<Vec<String>> {
    let directory = workspace().join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&directory).with_context(|| format!("reading {}", directory.display()))? {
        let path = entry?.path();
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// Keeps inputs that together have the coverage of all, as far as the limits allow.
fn minimise(name: &str, merged: &Path, inputs: &[&PathBuf]) -> Result<()> {
    if merged.exists() {
        fs::remove_dir_all(merged).with_context(|| format!("emptying {}", merged.display()))?;
    }
    fs::create_dir_all(merged).with_context(|| format!("creating {}", merged.display()))?;
    let mut fuzz = fuzzer(name);
    fuzz.arg(merged).args(inputs).args(["--", "-merge=1", LONGEST]);
    output(&mut fuzz).context("merging")?;
    let mut files: Vec<(u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(merged).context("reading what was merged")? {
        let entry = entry?;
        files.push((entry.metadata()?.len(), entry.path()));
    }
    files.sort();
    // Thin out evenly over all sizes, then drop the largest.
    let step = files.len().div_ceil(MOST).max(1);
    let mut files: Vec<(u64, PathBuf)> = files.into_iter().step_by(step).collect();
    while files.iter().map(|(length, _)| length).sum::<u64>() > KEPT {
        files.pop();
    }
    let [kept, ..] = inputs else { return Ok(()) };
    fs::remove_dir_all(kept).with_context(|| format!("emptying {}", kept.display()))?;
    fs::create_dir_all(kept).with_context(|| format!("creating {}", kept.display()))?;
    for (_, path) in files {
        let name = path.file_name().context("a file without a name")?;
        fs::copy(&path, kept.join(name)).with_context(|| format!("keeping {}", path.display()))?;
    }
    Ok(())
}
