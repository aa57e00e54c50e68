//! What loading the programs costs: how many instructions the verifier takes for each, against the table of the project.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use tracer_common::Hook;
use tracer_host::btf::KernelBtf;
use tracer_host::symbols::{PATH, Symbols};

use super::Context;
use crate::expect::Expect;
use crate::whyrst::run as whyrst;
use crate::{command, steps};

/// What was measured last: `cargo xtask bench verifier --bless` writes it.
const TABLE: &str = include_str!("../../verifier.json");
/// A program may grow by one in so many before somebody has to look at it.
const TENTH: u64 = 10;

/// The kernel's figures of a loaded program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Instructions that the verifier went through, over all paths.
    pub verified: Option<u64>,
    /// Bytes of it as the kernel keeps it.
    pub translated: u64,
    /// Bytes of machine code.
    pub jited: u64,
}

/// Programs by name.
pub type Programs = BTreeMap<String, Program>;

/// The table: programs by kernel (see [`key`]).
pub fn table() -> Result<BTreeMap<String, Programs>> {
    serde_json::from_str(TABLE).context("tests/verifier.json")
}

/// The key of a kernel in the table: series and conntrack log format. The table has none of arm64, whose programs differ.
pub fn key(release: &str, log_format: &str) -> String {
    let series: Vec<&str> = release.split('.').take(2).collect();
    let arch = if release.ends_with("-arm64") { " arm64" } else { "" };
    format!("{} {log_format}{arch}", series.join("."))
}

/// The file with the results. The log of whyrst's start is in a numbered file, see [`LOG`].
pub const FOUND: &str = "programs.json";
/// See [`FOUND`].
pub const LOG: &str = "start";

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    for module in Hook::ALL.iter().filter_map(|hook| hook.spec().module) {
        command::run("/sbin/modprobe", &[module])?;
    }
    let counter = Counter::arm()?;
    let mut found = Programs::new();
    let everything = ["report", "--duration", "10ms", "--tap", "--new-refused", "--log", "tracer=debug"];
    let log = said(&everything)?;
    found.extend(programs(&log, counter.as_ref())?);
    let before = fs::read_dir(&context.artifacts)?.count();
    fs::write(context.artifacts.join(format!("{LOG}.{before}")), &log)?;
    if context.names_reset_reasons() {
        let log = said(&["report", "--duration", "10ms", "--without-kprobes", "--log", "tracer=debug"])?;
        found.extend(programs(&log, counter.as_ref())?);
    }
    fs::write(context.artifacts.join(FOUND), serde_json::to_vec_pretty(&found)?)?;
    if before > 0 {
        // It runs once in the matrix; if it is asked to run again, somebody compares machines.
        measure_steps(context)?;
    }
    let counted = found.values().filter(|program| program.verified.is_some()).count();
    context.step(format!("{} programs, the verifier's work is known of {counted}", found.len()));
    compare(context.log_format, &found)
}

/// Compares with the table.
fn compare(log_format: &str, found: &Programs) -> Result<()> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let table = table()?;
    let key = key(&release, log_format);
    let mut expect = Expect::new();
    let Some(known) = table.get(&key) else {
        // A kernel that came out since: its verifier may walk other paths, but not twice as many as the worst that is known.
        for (name, now) in found {
            let most = table.values().filter_map(|programs| programs.get(name)?.verified).max();
            let (most, now) = (most.unwrap_or_default(), now.verified.unwrap_or_default());
            expect.that(now <= 2 * most, || format!("{name}: {now} instructions verified, {most} where it is known"));
        }
        return expect.verdict();
    };
    for name in known.keys() {
        expect.that(found.contains_key(name), || format!("{name} was not loaded"));
    }
    for (name, now) in found {
        let Some(then) = known.get(name) else {
            expect.that(false, || format!("{name} is not in tests/verifier.json: {BLESS}"));
            continue;
        };
        let sizes = [
            ("instructions verified", then.verified.unwrap_or_default(), now.verified.unwrap_or_default()),
            ("bytes translated", then.translated, now.translated),
        ];
        for (what, then, now) in sizes {
            expect.that(now <= then + then / TENTH, || format!("{name}: {now} {what}, {then} in the table: {BLESS}"));
        }
        let same = then.verified.is_some() == now.verified.is_some();
        expect.that(same, || format!("{name}: the verifier's work was {:?} and is {:?}", then.verified, now.verified));
    }
    expect.verdict()
}

/// What to do about growth that has its reason.
const BLESS: &str = "if that is as it should be, `cargo xtask bench verifier --bless`";

fn said(arguments: &[&str]) -> Result<String> {
    let (status, _, log) = whyrst(arguments)?;
    if status != Some(0) {
        bail!("whyrst {}: {status:?}\n{log}", arguments.join(" "));
    }
    Ok(log)
}

/// The figures of whyrst's log, completed by the counter's.
fn programs(log: &str, counter: Option<&Counter>) -> Result<Programs> {
    let counted = match counter {
        Some(counter) => counter.read()?,
        None => Vec::new(),
    };
    let lines = log.lines().filter_map(|line| Some(line.split_once(" tracer_host::live: program ")?.1));
    let mut programs = Vec::new();
    for line in lines {
        let (name, figures) = line.split_once(": ").with_context(|| format!("`{line}`"))?;
        let mut numbers = figures.split(", ").map(|part| part.split(' ').next().unwrap_or_default().parse().ok());
        let mut next = || numbers.next().flatten();
        let program = Program {
            verified: next(),
            translated: next().unwrap_or_default(),
            jited: next().with_context(|| format!("`{line}`"))?,
        };
        programs.push((name.to_owned(), program));
    }
    // Before whyrst's own programs came those that only try what the kernel can do.
    let own = counted.len().checked_sub(programs.len()).map(|others| &counted[others..]);
    for ((_, program), counted) in programs.iter_mut().zip(own.unwrap_or_default()) {
        program.verified = program.verified.or(Some(*counted));
    }
    Ok(programs.into_iter().collect())
}

/// Counts the verifier's instructions where the kernel does not report them (before 5.16): a kprobe event reads
/// `bpf_verifier_env.insn_processed` when a program has been checked.
struct Counter {
    trace: PathBuf,
}

const TRACEFS: &str = "/sys/kernel/debug/tracing";
/// Functions that are given the verifier's environment once, when all paths have been walked.
const AFTER: [&str; 4] = ["print_verification_stats", "convert_ctx_accesses", "fixup_bpf_calls", "do_misc_fixups"];
/// The register of a function's first argument, in the words of kprobe events.
const FIRST: &str = if cfg!(target_arch = "aarch64") { "%x0" } else { "%di" };

impl Counter {
    fn arm() -> Result<Option<Self>> {
        let btf = KernelBtf::of_running_kernel()?;
        if btf.image().offset("bpf_prog_aux", "verified_insns").is_some() {
            return Ok(None);
        }
        let symbols = Symbols::read(fs::File::open(PATH)?, &AFTER)?;
        let function = AFTER.into_iter().find(|name| symbols.has(name));
        let Some((function, offset)) = function.zip(btf.image().offset("bpf_verifier_env", "insn_processed")) else {
            return Ok(None);
        };
        let event = format!("p:whyrst/verified {function} count=+{offset}({FIRST}):u32\n");
        let events = Path::new(TRACEFS).join("kprobe_events");
        fs::write(&events, &event).with_context(|| format!("{event} into {}", events.display()))?;
        fs::write(Path::new(TRACEFS).join("events/whyrst/verified/enable"), "1").context("enabling the event")?;
        Ok(Some(Self { trace: Path::new(TRACEFS).join("trace") }))
    }

    /// What was counted since the last time, program by program.
    fn read(&self) -> Result<Vec<u64>> {
        let text = fs::read_to_string(&self.trace).with_context(|| format!("reading {}", self.trace.display()))?;
        fs::write(&self.trace, "").context("emptying the trace")?;
        Ok(text.lines().filter_map(|line| line.split_once(" count=")?.1.trim().parse().ok()).collect())
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        let off = fs::write(Path::new(TRACEFS).join("events/whyrst/verified/enable"), "0")
            .and_then(|()| fs::write(Path::new(TRACEFS).join("kprobe_events"), ""));
        if let Err(error) = off {
            eprintln!("the event stays: {error}");
        }
    }
}

/// Leaves the kernel's types and symbols as files, and how long the steps take that are made of them alone.
fn measure_steps(context: &Context<'_>) -> Result<()> {
    let types = context.artifacts.join("btf");
    fs::create_dir_all(&types)?;
    for name in ["vmlinux", "nf_conntrack"] {
        let from = Path::new(tracer_host::btf::DIRECTORY).join(name);
        if from.exists() {
            fs::write(types.join(name), fs::read(&from)?)?;
        }
    }
    let symbols = context.artifacts.join("kallsyms");
    fs::write(&symbols, fs::read(PATH)?)?;
    let measured = steps::measure(&types, &symbols)?;
    fs::write(context.artifacts.join("steps.json"), serde_json::to_vec(&measured)?)?;
    Ok(())
}
