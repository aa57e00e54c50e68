//! The steps of whyrst's start that need no BPF, timed by themselves: the same bytes in the guest and on the machine that
//! emulates it tell how much slower the guest is.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use tracer::attach::{Kernel, symbol_names};
use tracer::kernel::btf::KernelBtf;
use tracer::kernel::symbols::Symbols;

/// How often each step is timed; the median counts.
const ROUNDS: usize = 5;

/// Milliseconds by step: the kernel's types below `btf`, and its symbols, which are text like `/proc/kallsyms`.
pub fn measure(btf: &Path, symbols: &Path) -> Result<BTreeMap<String, f64>> {
    let mut rounds: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let names = symbol_names();
    for _ in 0..ROUNDS {
        let mut last = Instant::now();
        let mut done = |step: &str| {
            rounds.entry(step.to_owned()).or_default().push(last.elapsed().as_secs_f64() * 1e3);
            last = Instant::now();
        };
        let types = KernelBtf::load(btf)?;
        done("btf");
        let text = File::open(symbols).with_context(|| format!("opening {}", symbols.display()))?;
        let found = Symbols::read(text, &names).with_context(|| format!("reading {}", symbols.display()))?;
        done("symbols");
        Kernel::inspect_with(&types, &found)?;
        done("look-ups");
    }
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    Ok(rounds.into_iter().map(|(step, times)| (step, median(times))).collect())
}
