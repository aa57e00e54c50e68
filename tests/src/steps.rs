//! Times the steps of whyrst's start that need no BPF. Their times for the same bytes, in the guest and on its host, give the
//! slowdown of the guest.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::time::{ClockId, clock_gettime};

use tracer_host::attach::{Kernel, symbol_names};
use tracer_host::btf::KernelBtf;
use tracer_host::symbols::Symbols;

/// How often each step is timed; the quickest counts, which is the one that others disturbed least.
const ROUNDS: usize = 5;

/// Milliseconds of processor time by step: the kernel's types below `btf`, and its symbols, which are text like `/proc/kallsyms`.
pub fn measure(btf: &Path, symbols: &Path) -> Result<BTreeMap<String, f64>> {
    let mut quickest: BTreeMap<String, f64> = BTreeMap::new();
    let names = symbol_names();
    for _ in 0..ROUNDS {
        let mut last = processor_time();
        let mut done = |step: &str| {
            let now = processor_time();
            let best = quickest.entry(step.to_owned()).or_insert(f64::INFINITY);
            *best = best.min(now - last);
            last = now;
        };
        let types = KernelBtf::load(btf)?;
        done("btf");
        let text = File::open(symbols).with_context(|| format!("opening {}", symbols.display()))?;
        let found = Symbols::read(text, &names).with_context(|| format!("reading {}", symbols.display()))?;
        done("symbols");
        Kernel::inspect_with(&types, &found)?;
        done("look-ups");
    }
    Ok(quickest)
}

fn processor_time() -> f64 {
    // Processor time is never negative.
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default().as_secs_f64() * 1e3
}
