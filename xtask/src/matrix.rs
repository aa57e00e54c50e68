//! `cargo xtask vm`: scenarios × kernels.

use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use whyrst_tests::artifact::SCHEMA;
use whyrst_tests::protocol::{Message, Plan};
use whyrst_tests::scenarios::{self, Scope};

use crate::arch::Arch;
use crate::confusion::Confusion;
use crate::kernels::{self, Kernel, Spec};
use crate::process::{target, workspace};
use crate::vm::{Guest, Payload};
use crate::{dist, initramfs, setup};

/// Recordings larger than this do not go into the repository.
const GOLDEN_MAX: u64 = 50 << 10;

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(crate) struct Arguments {
    /// Kernels: 5.10, 6.1-e3, 6.1-e4, 6.12, 7, a part before a dash, or all
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "all")]
    kernel: Vec<String>,
    /// Architecture of the guests; arm64 is always emulated
    #[arg(long, value_enum, default_value_t)]
    arch: Arch,
    /// Scenarios [default: all, each on its kernels]
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    scenario: Vec<String>,
    /// Run all scenarios on every kernel, also those about whyrst itself
    #[arg(long, conflicts_with = "scenario")]
    everywhere: bool,
    /// Keep console logs, reports and recordings below target/vm, also of kernels on which everything passed
    #[arg(long)]
    keep_logs: bool,
    /// Open a shell in the guest instead
    #[arg(long, conflicts_with_all = ["scenario", "bless"])]
    shell: bool,
    /// Copy further programs of this machine into the guest, with their libraries
    #[arg(long, value_name = "PATH", num_args = 1..)]
    with: Vec<PathBuf>,
    /// Look for newer kernels than those in the cache
    #[arg(long)]
    refresh: bool,
    /// Take the recordings of this run as the golden ones (tests/golden)
    #[arg(long)]
    bless: bool,
    /// Run them with target/dist/whyrst, the release binary
    #[arg(long)]
    dist: bool,
    /// Print two tables: scenarios × kernels, and expected × reported flows; with `--bless` also into docs/matrix.md
    #[arg(long)]
    matrix: bool,
    /// List kernels and scenarios
    #[arg(long)]
    list: bool,
}

/// The result of one scenario on one kernel.
pub(crate) struct Outcome {
    pub(crate) failure: Option<String>,
}

/// The results of all scenarios on one kernel.
#[derive(Default)]
struct Totals {
    kernel: String,
    passed: u32,
    failed: u32,
    /// Scenarios that passed.
    good: Vec<String>,
    confusion: Confusion,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.list {
        list();
        return Ok(());
    }
    setup::run()?;
    if arguments.arch == Arch::Arm64 {
        refuse_on_arm64(arguments)?;
        setup::arm64()?;
    }
    known(&arguments.scenario)?;
    let specs: Vec<_> = kernels::select(&arguments.kernel)?.into_iter().map(|spec| spec.on(arguments.arch)).collect();
    let mut payload = dist::payload_for(arguments.arch, "vm")?;
    if arguments.dist {
        payload.whyrst = dist::binary(arguments.arch)?;
    }
    payload.programs.clone_from(&arguments.with);
    if arguments.shell {
        let [spec] = specs[..] else { bail!("--shell wants one kernel") };
        let kernel = spec.fetch(arguments.refresh)?;
        let directory = home(spec).join(spec.name);
        return Guest::new(&kernel, plan(&kernel, Vec::new(), true), &payload, &directory)?.shell();
    }
    let kernels = specs.iter().map(|spec| spec.fetch(arguments.refresh)).collect::<Result<Vec<_>>>()?;
    // Two boots of the same kernel share it.
    kernels.iter().try_for_each(|kernel| initramfs::base(kernel).map(drop))?;
    let plans: Vec<(&Kernel, Vec<String>)> =
        kernels.iter().map(|kernel| (kernel, arguments.scenarios_on(kernel.spec))).collect();
    let jobs = jobs(&plans);
    let next = AtomicUsize::new(0);
    let sums = Mutex::new(Vec::new());
    // A guest has one processor, and waits in a third of its time.
    let workers = (thread::available_parallelism().map_or(1, NonZero::get) * 3 / 2).min(jobs.len());
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let totals = job.run(&payload, arguments);
                    sums.lock().unwrap_or_else(PoisonError::into_inner).push(totals);
                }
            });
        }
    });
    let sums = sums.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (passed, failed) =
        sums.iter().fold((0, 0), |(passed, failed), totals| (passed + totals.passed, failed + totals.failed));
    if arguments.matrix {
        let table = table(&plans, &sums);
        println!("\n{table}");
        if arguments.bless {
            let path = workspace().join("docs/matrix.md");
            fs::write(&path, format!("{MATRIX}\n{table}")).with_context(|| format!("writing {}", path.display()))?;
        }
    }
    println!("vm: {passed} passed, {failed} failed on {} kernels", kernels.len());
    if failed > 0 || passed == 0 {
        bail!("the VM scenarios have not passed");
    }
    Ok(())
}

/// Golden recordings are kept of amd64, and the programs of this machine are for it.
fn refuse_on_arm64(arguments: &Arguments) -> Result<()> {
    if arguments.bless || !arguments.with.is_empty() {
        bail!("--bless and --with are for amd64");
    }
    Ok(())
}

fn list() {
    println!("kernels:");
    for spec in kernels::ALL {
        println!("  {:22} log format {}", spec.name, spec.log_format);
    }
    println!("scenarios:");
    for (scope, scenario) in scenarios::all() {
        let on = match scope {
            Scope::EveryKernel => "",
            Scope::OldestAndNewest => " (oldest and newest kernel)",
            Scope::OnDemand => " (only if asked for)",
        };
        println!("  {:22} {}{on}", scenario.name, scenario.about);
    }
}

/// Checks that there are scenarios of these names.
fn known(names: &[String]) -> Result<()> {
    match names.iter().find(|name| scenarios::find(name).is_none()) {
        Some(name) => bail!("no scenario `{name}`; `cargo xtask vm --list` lists them"),
        None => Ok(()),
    }
}

impl Arguments {
    /// The names of the scenarios to be run on a kernel: those that were asked for, or all that belong on it.
    fn scenarios_on(&self, spec: Spec) -> Vec<String> {
        if !self.scenario.is_empty() {
            return self.scenario.clone();
        }
        let belongs = |scope| match scope {
            Scope::EveryKernel => true,
            Scope::OldestAndNewest => self.everywhere || spec.is_at_an_end(),
            Scope::OnDemand => false,
        };
        let chosen = scenarios::all().filter(|(scope, _)| belongs(*scope));
        chosen.map(|(_, scenario)| scenario.name.to_owned()).collect()
    }
}

/// Where guests of a kernel's architecture have their directories.
fn home(spec: Spec) -> PathBuf {
    spec.arch.below(target().join("vm"))
}

fn plan(kernel: &Kernel, scenarios: Vec<String>, shell: bool) -> Plan {
    Plan {
        kernel: kernel.spec.name.to_owned(),
        log_format: kernel.spec.log_format.to_owned(),
        scenarios,
        shell,
        bench: None,
    }
}

/// As many scenarios as one boot runs: few enough for the work to be spread evenly over the processors, and enough for the
/// boot itself, which takes seconds, not to matter.
const PER_BOOT: usize = 36;

/// How docs/matrix.md begins.
const MATRIX: &str = "\
# The matrix, as run

`cargo xtask vm --matrix --bless` writes this page. The first table has scenarios and kernels, with their conntrack log format.
The second compares all flows in the reports with those that are expected. A dash: the scenario does not depend on the kernel,
and runs only on the oldest and the newest. `accepted`: the kernel accepted the packets. `by nobody`: no RST was sent.
";

/// Scenarios × kernels, and the confusion matrix, in Markdown.
fn table(plans: &[(&Kernel, Vec<String>)], sums: &[Totals]) -> String {
    let passed = |kernel: &Kernel, name: &String| {
        sums.iter().any(|totals| totals.kernel == kernel.release && totals.good.contains(name))
    };
    let row = |first: &str, cells: Vec<String>| format!("| {first} | {} |\n", cells.join(" | "));
    let heads = plans.iter().map(|(kernel, _)| format!("{} ({})", kernel.release, kernel.spec.log_format)).collect();
    let mut text = row("scenario", heads) + &row("---", vec!["---".to_owned(); plans.len()]);
    for (_, scenario) in scenarios::all() {
        let name = scenario.name.to_owned();
        let cell = |(kernel, names): &(&Kernel, Vec<String>)| match names.contains(&name) {
            false => "–",
            true if passed(kernel, &name) => "pass",
            true => "**fail**",
        };
        let cells: Vec<String> = plans.iter().map(|plan| cell(plan).to_owned()).collect();
        if cells.iter().any(|cell| cell != "–") {
            text += &row(&name, cells);
        }
    }
    let mut confusion = Confusion::default();
    for totals in sums {
        confusion.merge(&totals.confusion);
    }
    format!("{text}\n{}", confusion.table())
}

/// Scenarios that one boot of a kernel runs.
struct Job<'a> {
    kernel: &'a Kernel,
    names: &'a [String],
    directory: PathBuf,
}

/// The boots that all scenarios on all kernels take.
fn jobs<'a>(plans: &'a [(&'a Kernel, Vec<String>)]) -> Vec<Job<'a>> {
    let of_kernel = |(kernel, names): &'a (&'a Kernel, Vec<String>)| {
        let boots = names.len().div_ceil(PER_BOOT);
        names.chunks(names.len().div_ceil(boots)).enumerate().map(move |(part, names)| {
            let name = kernel.spec.name;
            let name = if part == 0 { name.to_owned() } else { format!("{name}.{}", part + 1) };
            Job { kernel, names, directory: home(kernel.spec).join(name) }
        })
    };
    plans.iter().flat_map(of_kernel).collect()
}

impl Job<'_> {
    /// Runs the scenarios; whatever goes wrong counts as a failure.
    fn run(&self, payload: &Payload, arguments: &Arguments) -> Totals {
        let Self { kernel, names, directory } = self;
        let name = kernel.spec.name;
        let mut totals = Totals { kernel: kernel.release.clone(), ..Totals::default() };
        let result = boot(kernel, names, payload, directory, |scenario, outcome| match outcome.failure {
            None => {
                totals.passed += 1;
                totals.good.push(scenario.to_owned());
            }
            Some(_) => totals.failed += 1,
        })
        .and_then(|artifacts| {
            let checked = validate(&artifacts)?;
            println!("{name}: {checked} reports fit the schema");
            totals.confusion = Confusion::of_artifacts(&artifacts, names, kernel.spec.log_format)?;
            let mistakes = totals.confusion.mistakes();
            if !mistakes.is_empty() {
                bail!("flows are not what they should be:\n{}", mistakes.join("\n"));
            }
            if arguments.bless { take_golden(&artifacts, kernel) } else { Ok(()) }
        });
        if let Err(error) = result {
            println!("{name}: FAILED\n{error:#}");
            totals.failed += 1;
        }
        if totals.failed > 0 || arguments.keep_logs {
            println!("{name}: logs are in {}", directory.display());
        } else if let Err(error) = fs::remove_dir_all(directory) {
            println!("{name}: {} stays: {error}", directory.display());
        }
        totals
    }
}

/// Boots a kernel, runs scenarios and streams their reports. Returns the directory of the files that they left.
pub(crate) fn boot(
    kernel: &Kernel,
    names: &[String],
    payload: &Payload,
    directory: &Path,
    mut ended: impl FnMut(&str, &Outcome),
) -> Result<PathBuf> {
    let name = kernel.spec.name;
    println!("{name}: booting {}", kernel.release);
    let guest = Guest::new(kernel, plan(kernel, names.to_vec(), false), payload, directory)?;
    let mut seen = 0;
    let artifacts = guest.run(&mut |message| match message {
        Message::Up { release } => println!("{name}: up, Linux {release}"),
        Message::Start { .. } | Message::Row { .. } | Message::Finished => {}
        Message::Step { text } => println!("{name}:   {text}"),
        Message::End { scenario, failure, seconds } => {
            seen += 1;
            match &failure {
                None => println!("{name}: {scenario} ... ok ({seconds:.1} s)"),
                Some(text) => println!("{name}: {scenario} ... FAILED ({seconds:.1} s)\n{text}"),
            }
            ended(&scenario, &Outcome { failure });
        }
    })?;
    if seen != names.len() {
        bail!("{seen} of {} scenarios were run", names.len());
    }
    Ok(artifacts)
}

/// Checks every report that the scenarios left against the schema that the binary itself printed.
fn validate(artifacts: &Path) -> Result<usize> {
    let schema: Value = serde_json::from_slice(&fs::read(artifacts.join(SCHEMA)).context(SCHEMA)?)?;
    let validator = jsonschema::validator_for(&schema).context("the schema is no schema")?;
    let mut checked = 0;
    for entry in fs::read_dir(artifacts).with_context(|| format!("reading {}", artifacts.display()))?.flatten() {
        let path = entry.path().join("report.json");
        let Ok(text) = fs::read(&path) else { continue };
        let report: Value = serde_json::from_slice(&text).with_context(|| format!("{}", path.display()))?;
        let errors: Vec<String> =
            validator.iter_errors(&report).map(|error| format!("{}: {error}", error.instance_path())).collect();
        if !errors.is_empty() {
            bail!("{} does not fit the schema:\n{}", path.display(), errors.join("\n"));
        }
        checked += 1;
    }
    Ok(checked)
}

/// Kernels whose recordings are kept: one per log format that Debian ships.
const GOLDEN: [&str; 3] = ["5.10", "6.1-e3", "7"];

/// Copies the recordings into the repository.
fn take_golden(artifacts: &Path, kernel: &Kernel) -> Result<()> {
    if !GOLDEN.contains(&kernel.spec.name) {
        return Ok(());
    }
    let home = workspace().join("tests/golden").join(kernel.spec.name);
    fs::create_dir_all(&home).with_context(|| format!("creating {}", home.display()))?;
    for entry in fs::read_dir(artifacts)?.flatten() {
        let recording = entry.path().join("incident.whyrst");
        let Ok(metadata) = fs::metadata(&recording) else { continue };
        let to = home.join(entry.file_name()).with_extension("whyrst");
        if metadata.len() > GOLDEN_MAX {
            println!("{}: {} bytes are too many for the repository", to.display(), metadata.len());
            continue;
        }
        fs::copy(&recording, &to).with_context(|| format!("copying to {}", to.display()))?;
        println!("golden: {}", to.display());
    }
    Ok(())
}
