//! Running the program under test.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::command;
use crate::netns::{IP, Namespace};
use crate::wire::PATIENCE;

/// How long it may take to end: it works off what is left, asks its last questions and writes the report.
const ENDING: Duration = Duration::from_mins(1);

/// The binary under test.
pub const BINARY: &str = "/whyrst";

/// A capture that is going on.
pub struct Capture {
    child: Child,
    /// How long it may take to end.
    ending: Duration,
    lines: mpsc::Receiver<String>,
    said: Vec<String>,
    report: PathBuf,
    recording: PathBuf,
}

/// What the kernel has counted of BPF programs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Runs {
    /// How often they ran.
    pub count: u64,
    /// For how long.
    pub time: Duration,
}

/// A capture that has ended.
#[derive(Debug)]
pub struct Captured {
    /// The report, as JSON.
    pub report: Value,
    /// What it printed on standard error.
    pub said: String,
    /// The recording.
    pub recording: PathBuf,
}

impl Capture {
    /// Starts `whyrst report` inside `namespace`, or outside of all, and waits until it listens.
    pub fn start(namespace: Option<&Namespace>, artifacts: &Path, arguments: &[&str]) -> Result<Self> {
        let mut capture = Self::spawn(namespace, artifacts, arguments)?;
        capture.wait_for("listening to")?;
        Ok(capture)
    }

    /// Starts `whyrst report` and waits for nothing.
    pub fn spawn(namespace: Option<&Namespace>, artifacts: &Path, arguments: &[&str]) -> Result<Self> {
        let recording = artifacts.join("incident.whyrst");
        let record = ["--record", recording.to_str().context("a path that is no text")?];
        Self::launch(namespace, artifacts, recording.clone(), &[&record, arguments].concat())
    }

    /// Starts `whyrst report` without a recording, and waits until it listens.
    pub fn unrecorded(namespace: Option<&Namespace>, artifacts: &Path, arguments: &[&str]) -> Result<Self> {
        let mut capture = Self::launch(namespace, artifacts, PathBuf::new(), arguments)?;
        capture.wait_for("listening to")?;
        Ok(capture)
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn launch(namespace: Option<&Namespace>, artifacts: &Path, recording: PathBuf, arguments: &[&str]) -> Result<Self> {
        let report = artifacts.join("report.json");
        let mut command = Command::new(BINARY);
        command.args(["report", "--format", "json", "-o"]).arg(&report).args(arguments);
        match namespace {
            Some(namespace) => namespace.enter(|| Self::of(&mut command, report, recording))?,
            None => Self::of(&mut command, report, recording),
        }
    }

    /// Starts `whyrst report` inside `namespace` as nobody with these capabilities, `cap_N`, and waits until it listens.
    pub fn start_with(namespace: &Namespace, capabilities: &[&str], artifacts: &Path) -> Result<Self> {
        let (report, recording) = (artifacts.join("report.json"), artifacts.join("incident.whyrst"));
        let added: Vec<String> = capabilities.iter().map(|capability| format!("+{capability}")).collect();
        let mut command = Command::new(IP);
        command.args(["netns", "exec", namespace.name(), "/usr/bin/setpriv", "--reuid=65534", "--regid=65534"]);
        command.args(["--clear-groups", "--inh-caps", &added.join(","), "--ambient-caps", &added.join(","), BINARY]);
        command.args(["report", "--format", "json", "-o"]).arg(&report).arg("--record").arg(&recording);
        Self::listening(&mut command, report, recording)
    }

    /// A set of capabilities of each of its threads, by the thread's name: `CapEff`, `CapPrm`.
    pub fn capabilities(&self, set: &str) -> Result<Vec<(String, u64)>> {
        let directory = PathBuf::from(format!("/proc/{}/task", self.child.id()));
        let mut threads = Vec::new();
        for task in fs::read_dir(&directory).with_context(|| format!("reading {}", directory.display()))? {
            let status = fs::read_to_string(task?.path().join("status")).context("reading a thread's status")?;
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                line.map(str::trim).with_context(|| format!("a thread's status has no {name}"))
            };
            if field("NoNewPrivs")? != "1" {
                bail!("{} may get new privileges", field("Name")?);
            }
            threads.push((field("Name")?.to_owned(), u64::from_str_radix(field(set)?, 16).context("a number")?));
        }
        Ok(threads)
    }

    /// Starts `whyrst record` outside of all namespaces and waits until it listens.
    pub fn record(recording: &Path, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(BINARY);
        command.args(["record", "-o"]).arg(recording).args(arguments);
        Self::listening(&mut command, PathBuf::new(), recording.to_path_buf())
    }

    /// Runs a command that starts whyrst, with nothing to read, and waits until whyrst listens.
    pub fn listening(command: &mut Command, report: PathBuf, recording: PathBuf) -> Result<Self> {
        let mut capture = Self::of(command, report, recording)?;
        capture.wait_for("listening to")?;
        Ok(capture)
    }

    /// The same without waiting.
    pub fn of(command: &mut Command, report: PathBuf, recording: PathBuf) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        Self::adopt(command.spawn().context("starting whyrst")?, report, recording)
    }

    /// Watches over a whyrst that was started in another way, with its standard error piped.
    pub fn adopt(mut child: Child, report: PathBuf, recording: PathBuf) -> Result<Self> {
        let stderr = child.stderr.take().context("whyrst has no standard error")?;
        Ok(Self { child, ending: ENDING, lines: read_lines(stderr), said: Vec::new(), report, recording })
    }

    /// Waits until whyrst says something; gives the line.
    pub fn wait_for(&mut self, text: &str) -> Result<String> {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    let found = line.contains(text);
                    self.said.push(line.clone());
                    if found {
                        return Ok(line);
                    }
                }
                Err(_) => bail!("whyrst did not say `{text}` but:\n{}", self.said.join("\n")),
            }
        }
    }

    /// How often its BPF programs have run so far, and for how long, by the kernel's own count.
    ///
    /// Needs `kernel.bpf_stats_enabled`. What it takes to get into a program and out of it is not in the time.
    pub fn bpf_runs(&self) -> Result<Runs> {
        let directory = PathBuf::from(format!("/proc/{}/fdinfo", self.child.id()));
        let mut sum = Runs::default();
        for entry in fs::read_dir(&directory).with_context(|| format!("reading {}", directory.display()))? {
            // A descriptor may be closed again.
            let text = fs::read_to_string(entry?.path()).unwrap_or_default();
            let number = |name: &str| -> u64 {
                let value = text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
                value.and_then(|value| value.parse().ok()).unwrap_or_default()
            };
            if text.contains("prog_type:") {
                sum.count += number("run_cnt:");
                sum.time += Duration::from_nanos(number("run_time_ns:"));
            }
        }
        Ok(sum)
    }

    /// Ends the capture as Ctrl-C would.
    pub fn stop(self) -> Result<Captured> {
        self.stop_by(Signal::INT)
    }

    /// The same for one that has much to write.
    pub fn stop_within(mut self, patience: Duration) -> Result<Captured> {
        self.ending = patience;
        self.stop()
    }

    /// Ends the capture by a signal.
    pub fn stop_by(mut self, signal: Signal) -> Result<Captured> {
        self.signal(signal)?;
        self.finish()
    }

    /// Sends it a signal that does not end it.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal).context("signalling whyrst")
    }

    /// Ends one that writes no report, as Ctrl-C would; gives what it printed on standard error.
    pub fn stop_recording(mut self) -> Result<String> {
        self.signal(Signal::INT)?;
        self.end()
    }

    /// Kills it; gives its output up to then.
    pub fn kill(mut self) -> Result<String> {
        self.child.kill().context("killing whyrst")?;
        self.child.wait().context("waiting for whyrst")?;
        self.said.extend(self.lines.iter());
        Ok(self.said.join("\n"))
    }

    /// Waits for the end of one that may fail; gives its exit status, none where a signal ended it, and what it said.
    pub fn fails(mut self) -> Result<(Option<i32>, String)> {
        let status = wait(&mut self.child, self.ending)?;
        self.said.extend(self.lines.iter());
        Ok((status.code(), self.said.join("\n")))
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().context("waiting for whyrst")?.is_some())
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end.
    fn end(&mut self) -> Result<String> {
        let status = wait(&mut self.child, self.ending)?;
        self.said.extend(self.lines.iter());
        let said = self.said.join("\n");
        if !status.success() {
            bail!("whyrst ended with {status}:\n{said}");
        }
        Ok(said)
    }

    /// Waits for the end of the capture.
    pub fn finish(&mut self) -> Result<Captured> {
        let said = self.end()?;
        let text = fs::read(&self.report).with_context(|| format!("reading {}", self.report.display()))?;
        let report = serde_json::from_slice(&text).context("the report is no JSON")?;
        Ok(Captured { report, said, recording: self.recording.clone() })
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // It has ended unless the scenario failed half-way.
        if matches!(self.child.try_wait(), Ok(None))
            && let Err(error) = self.child.kill().and_then(|()| self.child.wait().map(drop))
        {
            eprintln!("whyrst could not be ended: {error}");
        }
    }
}

impl Captured {
    /// Makes the report again from the recording, and checks that it says the same.
    pub fn replay(&self) -> Result<()> {
        let path = self.recording.display().to_string();
        let output = command::output(BINARY, &["report", "--format", "json", "--from", &path])?;
        if !output.status.success() {
            bail!("report --from {path}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        let mut replayed: Value = serde_json::from_slice(&output.stdout).context("the replayed report is no JSON")?;
        let mut original = self.report.clone();
        for document in [&mut replayed, &mut original] {
            let source = document.pointer_mut("/capture/source").ok_or_else(|| anyhow!("no /capture/source"))?;
            *source = Value::Null;
        }
        if replayed != original {
            bail!("the report from the recording differs from the live one:\n{}", difference(&original, &replayed, ""));
        }
        Ok(())
    }
}

/// Runs the binary to its end; for commands that are expected to fail.
pub fn run(arguments: &[&str]) -> Result<(Option<i32>, String, String)> {
    let output = command::output(BINARY, arguments)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.code(), text(&output.stdout), text(&output.stderr)))
}

fn wait(child: &mut Child, patience: Duration) -> Result<ExitStatus> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait().context("waiting for whyrst")? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            bail!("whyrst does not end");
        }
        // There is no wait with a deadline; the result does not depend on the interval.
        thread::sleep(Duration::from_millis(10));
    }
}

fn read_lines(stderr: ChildStderr) -> mpsc::Receiver<String> {
    let (line, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(stderr);
        let mut bytes = Vec::new();
        while reader.by_ref().read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            bytes.clear();
            if line.send(text).is_err() {
                return;
            }
        }
    });
    lines
}

/// The first place where two documents differ.
fn difference(one: &Value, other: &Value, at: &str) -> String {
    match (one, other) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys());
            keys.filter(|key| a.get(*key) != b.get(*key))
                .map(|key| {
                    let (a, b) = (a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null));
                    difference(a, b, &format!("{at}/{key}"))
                })
                .next()
                .unwrap_or_default()
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a
            .iter()
            .zip(b)
            .enumerate()
            .find(|(_, (a, b))| a != b)
            .map(|(index, (a, b))| difference(a, b, &format!("{at}/{index}")))
            .unwrap_or_default(),
        _ => format!("{at}: {one} against {other}"),
    }
}
