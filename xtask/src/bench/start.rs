//! `cargo xtask bench start`: the time between the start and the first hook, by step.
//!
//! BPF programs are loaded in a guest only, which is emulated on machines without KVM. The same program therefore runs the steps
//! without BPF on both machines, with the same bytes. The ratio of their times is the slowdown of the guest, by which the
//! times of the other steps are divided.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use whyrst_tests::scenarios::programs::LOG;

use super::{Format, print, verifier};
use crate::arch::Arch;
use crate::process::output;
use crate::{dist, kernels, setup};

/// The hook that is attached first.
const FIRST: &str = "attach ct_invalid";
/// The guest measures its own steps from the second run on.
const FEWEST: u64 = 2;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The kernel, as `cargo xtask vm` names it
    #[arg(long, value_name = "NAME", default_value = "6.12")]
    kernel: String,
    /// Starts of whyrst in the guest; the quickest time of each step counts
    #[arg(long, value_name = "NUMBER", default_value_t = 5, value_parser = clap::value_parser!(u64).range(FEWEST..))]
    times: u64,
    /// Start target/dist/whyrst, the release binary
    #[arg(long)]
    dist: bool,
    /// Format of the rows
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// A step: all its milliseconds, and those of the processor.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Step {
    all: f64,
    processor: f64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::run()?;
    let [spec] = kernels::select(std::slice::from_ref(&arguments.kernel))?[..] else {
        bail!("--kernel wants one kernel")
    };
    let mut payload = dist::payload("vm")?;
    if arguments.dist {
        payload.whyrst = dist::binary(Arch::Amd64)?;
    }
    let artifacts = verifier::guest(&spec.fetch(false)?, &payload, arguments.times)?;
    let steps = steps(&artifacts)?;
    let guest: BTreeMap<String, f64> = serde_json::from_slice(&fs::read(artifacts.join("steps.json"))?)?;
    let here =
        output(Command::new(&payload.lab).arg("steps").arg(artifacts.join("btf")).arg(artifacts.join("kallsyms")))?;
    let here: BTreeMap<String, f64> = serde_json::from_str(&here).context("the steps on this machine")?;
    let factor = guest.values().sum::<f64>() / here.values().sum::<f64>();
    print(&rows(&steps, &guest, &here, factor), arguments.format)
}

fn rows(
    steps: &[(String, Step)],
    guest: &BTreeMap<String, f64>,
    here: &BTreeMap<String, f64>,
    factor: f64,
) -> Vec<Value> {
    let round = |value: f64| (value * 100.0).round() / 100.0;
    let total: f64 = steps.iter().map(|(_, step)| step.processor).sum();
    let row = |name: &str, step: Step| {
        json!({
            "name": name, "guest_ms": round(step.all), "guest_cpu_ms": round(step.processor),
            "native_ms": round(step.processor / factor), "share": round(step.processor / total),
        })
    };
    let mut rows: Vec<Value> = steps.iter().map(|(name, step)| row(name, *step)).collect();
    let until = steps.iter().position(|(name, _)| name == FIRST).map_or(steps.len(), |at| at + 1);
    let sum = |steps: &[(String, Step)]| Step {
        all: steps.iter().filter(|(name, _)| name != "btf").map(|(_, step)| step.all).sum(),
        processor: steps.iter().map(|(_, step)| step.processor).sum(),
    };
    rows.push(row("to the first hook", sum(&steps[..until])));
    rows.push(row("to the last hook", sum(steps)));
    for (name, ms) in guest {
        let native = here.get(name).copied().unwrap_or(f64::NAN);
        rows.push(json!({
            "name": format!("{name}, from files"), "guest_cpu_ms": round(*ms), "native_ms": round(native),
            "factor": round(ms / native),
        }));
    }
    rows.push(json!({ "name": "guest/native, all from files", "factor": round(factor) }));
    rows
}

/// The steps in whyrst's log, in their order; of each the quickest time.
fn steps(artifacts: &Path) -> Result<Vec<(String, Step)>> {
    let mut steps: Vec<(String, Step)> = Vec::new();
    for entry in fs::read_dir(artifacts).with_context(|| format!("reading {}", artifacts.display()))? {
        let path = entry?.path();
        if path.file_stem().is_none_or(|stem| stem != LOG) {
            continue;
        }
        let log = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        for (name, step) in log.lines().filter_map(parse) {
            match steps.iter_mut().find(|(known, _)| known == name) {
                Some((_, known)) => {
                    known.all = known.all.min(step.all);
                    known.processor = known.processor.min(step.processor);
                }
                None => steps.push((name.to_owned(), step)),
            }
        }
    }
    if !steps.iter().any(|(name, _)| name == FIRST) {
        bail!("whyrst logged no `{FIRST}`");
    }
    Ok(steps)
}

/// `… start: NAME: 1.234 ms, 1.200 ms of the processor`.
fn parse(line: &str) -> Option<(&str, Step)> {
    let (name, times) = line.split_once(" start: ")?.1.split_once(": ")?;
    let (all, processor) = times.split_once(" ms, ")?;
    Some((
        name,
        Step { all: all.parse().ok()?, processor: processor.strip_suffix(" ms of the processor")?.parse().ok()? },
    ))
}

#[cfg(test)]
mod tests {
    use super::{Step, parse};

    #[test]
    fn reads_what_whyrst_says() {
        let line =
            "2026-01-01T00:00:00Z DEBUG tracer::kernel: start: load ct_invalid: 12.500 ms, 12.000 ms of the processor";
        assert_eq!(parse(line), Some(("load ct_invalid", Step { all: 12.5, processor: 12.0 })));
        assert_eq!(parse("whyrst: listening to nf_send_reset; Ctrl-C ends"), None);
    }
}
