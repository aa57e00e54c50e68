//! `cargo xtask bench replay`: time and memory of `whyrst report --from`, next to plain reading of the same file and to tshark
//! reading the same packets.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::{Value, json};
use wait4::Wait4;

use super::{Format, print};
use crate::dist;
use crate::process::{cargo, execute, target};

/// How many times smaller the recordings are that memory is compared on.
const SMALLER: u64 = 10;
/// How many times smaller the one is that tshark reads.
const FOR_TSHARK: u64 = 50;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Format of the rows
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Records in the largest recording
    #[arg(long, default_value_t = 10_000_000)]
    events: u64,
    /// Connections in the largest recording
    #[arg(long, default_value_t = 1_000_000)]
    flows: u64,
    /// Runs of each; the fastest counts
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Measure the build for guests instead of a release build
    #[arg(long)]
    guest_build: bool,
    /// Measure whyrst alone
    #[arg(long)]
    without_tshark: bool,
    /// Measure another build of whyrst in turn with this one, on the recording with a tenth of both
    #[arg(long, value_name = "PROGRAM")]
    against: Option<PathBuf>,
}

/// What a program took.
#[derive(Debug, Clone, Copy)]
struct Spent {
    wall: Duration,
    cpu: Duration,
    /// The most memory it had at a time, in bytes.
    memory: u64,
}

/// A made-up recording.
struct Recording {
    path: PathBuf,
    events: u64,
    flows: u64,
}

/// A number to be divided.
#[expect(clippy::cast_precision_loss, reason = "events and bytes are fewer than 2^52")]
const fn real(number: u64) -> f64 {
    number as f64
}

/// Where things are, and how often they are measured.
struct Bench {
    directory: PathBuf,
    whyrst: PathBuf,
    synthesise: PathBuf,
    rounds: u32,
    /// How many events tshark reads in a second.
    tshark: Option<f64>,
    rows: Vec<Value>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let (whyrst, synthesise) = programs(arguments.guest_build)?;
    let directory = target().join("bench");
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    let rounds = arguments.rounds.max(1);
    let mut bench = Bench { directory, whyrst, synthesise, rounds, tshark: None, rows: Vec::new() };
    let (events, flows) = (arguments.events, arguments.flows);

    let small = bench.recording("small.whyrst", events / FOR_TSHARK, flows / FOR_TSHARK)?;
    let packets = bench.packets(&small)?;
    if !arguments.without_tshark {
        bench.tshark(&small, &packets)?;
    }
    fs::remove_file(&packets).context("removing what tshark has read")?;
    bench.report("report, what tshark reads", &small, &[])?;
    drop(small);

    let whole = bench.recording("whole.whyrst", events, flows)?;
    let read = bench.spent(|| command("cat", &[&whole.path]))?;
    bench.row("cat", &whole, read);
    bench.report("report, one core", &whole, &["taskset", "--cpu-list", "0"])?;
    let all_flows = bench.report("report", &whole, &[])?;
    drop(whole);

    let fewer_flows = bench.recording("flows.whyrst", events, flows / SMALLER)?;
    let few_flows = bench.report("report, a tenth of the flows", &fewer_flows, &[])?;
    drop(fewer_flows);
    let fewer_events = bench.recording("events.whyrst", events / SMALLER, flows / SMALLER)?;
    let few_events = bench.report("report, a tenth of both", &fewer_events, &[])?;
    if let Some(other) = &arguments.against {
        bench.against(other, &fewer_events)?;
    }
    drop(fewer_events);
    let compressed = bench.recording("events.whyrst.zst", events / SMALLER, flows / SMALLER)?;
    bench.report("report, a tenth of both, compressed", &compressed, &[])?;
    drop(compressed);

    let more = |of: Spent, than: Spent| real(of.memory) - real(than.memory);
    bench.rows.push(json!({
        "name": "growth",
        "bytes_per_flow": rounded(more(all_flows, few_flows) / real(flows - flows / SMALLER)),
        "bytes_per_event": rounded(more(few_flows, few_events) / real(events - events / SMALLER)),
    }));
    print(&bench.rows, arguments.format)
}

/// Builds whyrst, and what makes recordings up.
fn programs(of_guests: bool) -> Result<(PathBuf, PathBuf)> {
    let whyrst = if of_guests {
        dist::payload("vm")?.whyrst
    } else {
        // In one go: packages that are built together are built once.
        let what = ["--package", "tracer", "--bin", "whyrst", "--package", "whyrst-tests", "--bin", "synthesise"];
        execute(cargo().args(["build", "--quiet", "--release", "--locked"]).args(what))?;
        target().join("release/whyrst")
    };
    let synthesise = whyrst.with_file_name("synthesise");
    Ok((whyrst, synthesise))
}

impl Bench {
    fn recording(&self, name: &str, events: u64, flows: u64) -> Result<Recording> {
        // It is removed whatever becomes of it: a disk may be full of it.
        let recording = Recording { path: self.directory.join(name), events, flows };
        let numbers = [events.to_string(), flows.to_string()];
        execute(Command::new(&self.synthesise).args(numbers).arg(&recording.path))?;
        Ok(recording)
    }

    /// Measures a report on a recording, run by another program where one is given.
    fn report(&mut self, name: &str, of: &Recording, by: &[&str]) -> Result<Spent> {
        let spent = self.spent(|| {
            let mut words = by.iter().map(PathBuf::from).chain([self.whyrst.clone()]);
            let mut command = Command::new(words.next().unwrap_or_default());
            command.args(words).args(["report", "--from"]).arg(&of.path);
            command
        })?;
        self.row(name, of, spent);
        Ok(spent)
    }

    /// Measures another build and this one in turn, and adds the medians of the ratios: this one's processor time and memory,
    /// divided by the other's.
    fn against(&mut self, other: &Path, of: &Recording) -> Result<()> {
        let mut ratios = (Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            let [mine, others] = [self.whyrst.as_path(), other].map(|program| {
                let mut command = Command::new(program);
                once(command.args(["report", "--from"]).arg(&of.path))
            });
            let (mine, others) = (mine?, others?);
            ratios.0.push(mine.cpu.as_secs_f64() / others.cpu.as_secs_f64());
            ratios.1.push(real(mine.memory) / real(others.memory));
        }
        self.rows.push(json!({
            "name": "against",
            "program": other.display().to_string(),
            "cpu_ratio": rounded(median(ratios.0)),
            "peak_rss_ratio": rounded(median(ratios.1)),
        }));
        Ok(())
    }

    /// The packets of a recording, for tshark.
    fn packets(&self, of: &Recording) -> Result<PathBuf> {
        let packets = of.path.with_extension("pcapng");
        execute(
            Command::new(&self.whyrst)
                .args(["export", "--quiet", "--format", "pcapng", "--from"])
                .arg(&of.path)
                .arg("-o")
                .arg(&packets),
        )?;
        Ok(packets)
    }

    /// Measures how many events tshark reads in a second. It takes every packet apart to count the RSTs, and prints their
    /// number alone.
    fn tshark(&mut self, of: &Recording, packets: &Path) -> Result<()> {
        let spent = self.spent(|| {
            let mut tshark = command("tshark", &["-n", "-q", "-z", "io,stat,0,tcp.flags.reset==1", "-r"]);
            tshark.arg(packets);
            tshark
        })?;
        self.tshark = Some(real(of.events) / spent.wall.as_secs_f64());
        self.row("tshark", of, spent);
        Ok(())
    }

    fn row(&mut self, name: &str, of: &Recording, spent: Spent) {
        let rate = real(of.events) / spent.wall.as_secs_f64();
        self.rows.push(json!({
            "name": name,
            "events": of.events,
            "flows": of.flows,
            "bytes": fs::metadata(&of.path).map(|metadata| metadata.len()).unwrap_or_default(),
            "seconds": rounded(spent.wall.as_secs_f64()),
            "cpu_seconds": rounded(spent.cpu.as_secs_f64()),
            "events_per_s": rate.round(),
            "events_per_cpu_s": (real(of.events) / spent.cpu.as_secs_f64()).round(),
            "peak_rss_bytes": spent.memory,
            "ratio_to_tshark": self.tshark.map(|tshark| rounded(rate / tshark)),
        }));
    }

    /// What the fastest of some runs took.
    fn spent(&self, command: impl Fn() -> Command) -> Result<Spent> {
        let mut best: Option<Spent> = None;
        for _ in 0..self.rounds {
            let spent = once(&mut command())?;
            best = Some(best.map_or(spent, |best| Spent {
                wall: best.wall.min(spent.wall),
                cpu: best.cpu.min(spent.cpu),
                memory: best.memory.max(spent.memory),
            }));
        }
        best.context("nothing was measured")
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            eprintln!("xtask: removing {}: {error}", self.path.display());
        }
    }
}

/// The middle of some figures.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

fn command<A: AsRef<std::ffi::OsStr>>(program: &str, arguments: &[A]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

fn once(command: &mut Command) -> Result<Spent> {
    let what = command.get_program().display().to_string();
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("starting {what}"))?;
    let ended = child.wait4().with_context(|| format!("waiting for {what}"))?;
    let wall = start.elapsed();
    if !ended.status.success() {
        bail!("{what}: {}", ended.status);
    }
    let used = ended.rusage;
    Ok(Spent { wall, cpu: used.utime + used.stime, memory: used.maxrss })
}

fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}
