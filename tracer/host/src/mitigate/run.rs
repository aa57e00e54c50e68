//! Runs one program, without a shell, in a network namespace, and for a limited time.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{self, Child, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use std::{io, thread};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use tracer_model::host_context::NetnsPath;
use tracer_model::mitigation::Command;

use super::places::Places;

/// How long a program may take. iptables waits five seconds for its lock, and the kernel may rehash the table.
const PATIENCE: Duration = Duration::from_mins(1);
/// Characters of an error that are kept.
const MOST: usize = 400;

/// Why a program was not run, or failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    /// It could not be started.
    #[error("`{line}`: {error}")]
    Start {
        /// Its line.
        line: String,
        /// Why.
        error: io::Error,
    },
    /// It took too long, and was killed.
    #[error("`{line}`: no answer within {} s; it was killed", PATIENCE.as_secs())]
    Late {
        /// Its line.
        line: String,
    },
    /// It ended with an error.
    #[error("`{line}`: {status}: {stderr}")]
    Failed {
        /// Its line.
        line: String,
        /// Its exit status.
        status: ExitStatus,
        /// What it printed on standard error, in one line.
        stderr: String,
    },
}

/// How a program ended.
#[derive(Debug)]
pub(super) struct Ran {
    /// Its exit status.
    pub(super) status: ExitStatus,
    /// Its standard output.
    pub(super) stdout: String,
    /// Its standard error, in one printable line.
    pub(super) stderr: String,
}

/// Runs a program to its end.
pub(super) fn ran(command: &Command, netns: &NetnsPath, places: &Places) -> Result<Ran, RunError> {
    ran_within(PATIENCE, command, netns, places)
}

fn ran_within(limit: Duration, command: &Command, netns: &NetnsPath, places: &Places) -> Result<Ran, RunError> {
    let start = |error| RunError::Start { line: command.line(netns), error };
    let child = places.inside(netns, || spawn(command, &places.tools)).and_then(|child| child).map_err(start)?;
    let process = Process::of(&child);
    let (done, ended) = mpsc::channel();
    let statements = command.statements.join("\n") + "\n";
    // Nobody waits for these threads beyond the limit: a program may hold the pipes open for ever.
    thread::spawn(move || {
        // Whoever has left has answered already.
        let _answered = done.send(output(child, statements.as_bytes()));
    });
    let Ok(output) = ended.recv_timeout(limit) else {
        process.kill();
        return Err(RunError::Late { line: command.line(netns) });
    };
    let Output { status, stdout, stderr } = output.map_err(start)?;
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    Ok(Ran { status, stdout, stderr: one_line(&String::from_utf8_lossy(&stderr)) })
}

/// Runs a program that must succeed.
pub(super) fn run(command: &Command, netns: &NetnsPath, places: &Places) -> Result<(), RunError> {
    let Ran { status, stderr, .. } = ran(command, netns, places)?;
    if status.success() {
        return Ok(());
    }
    Err(RunError::Failed { line: command.line(netns), status, stderr })
}

fn spawn(command: &Command, path: &OsStr) -> io::Result<Child> {
    let stdin = if command.statements.is_empty() { Stdio::null() } else { Stdio::piped() };
    let mut run = process::Command::new(&command.argv[0]);
    run.args(&command.argv[1..]).env("PATH", path).env("LC_ALL", "C");
    // Ctrl-C on the terminal does not end it half-way.
    run.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn()
}

fn output(mut child: Child, input: &[u8]) -> io::Result<Output> {
    let stdin = child.stdin.take();
    thread::scope(|scope| {
        if let Some(mut stdin) = stdin {
            scope.spawn(move || {
                // A program that does not read all of it says why.
                let _refused = stdin.write_all(input);
            });
        }
        child.wait_with_output()
    })
}

/// A process that can be killed. A descriptor does not lead to another one that got its number.
struct Process {
    pid: Option<Pid>,
    descriptor: Option<rustix::fd::OwnedFd>,
}

impl Process {
    fn of(child: &Child) -> Self {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        Self { pid, descriptor: pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) }
    }

    fn kill(&self) {
        let killed = match (&self.descriptor, self.pid) {
            (Some(descriptor), _) => pidfd_send_signal(descriptor, Signal::KILL),
            (None, Some(pid)) => kill_process(pid, Signal::KILL),
            (None, None) => Ok(()),
        };
        if let Err(error) = killed {
            tracing::debug!("a program that took too long was not killed: {error}");
        }
    }
}

/// A text in one line, without characters that a terminal obeys.
pub(super) fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().filter(|it| !it.is_control()).take(MOST).collect()
}

impl Ran {
    /// Its status or signal, and what it printed, for an error.
    pub(super) fn why(&self) -> String {
        match (self.status.signal(), self.stderr.as_str()) {
            (Some(signal), _) => format!("it was ended by signal {signal}"),
            (None, "") => self.status.to_string(),
            (None, stderr) => format!("{}: {stderr}", self.status),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use tracer_model::host_context::NetnsPath;
    use tracer_model::mitigation::Command;

    use super::{RunError, ran, ran_within, run};
    use crate::mitigate::places::Places;
    use crate::netns::home;

    fn here() -> Places {
        Places::of(&[(home().unwrap(), NetnsPath::Here)], &[]).unwrap()
    }

    #[test]
    fn programs_are_run_without_a_shell() {
        let places = here();
        let shown = ran(&Command::of(&["printf", "%s", "$(reboot);x"]), &NetnsPath::Here, &places).unwrap();
        assert_eq!(shown.stdout, "$(reboot);x");
        let failing = Command::of(&["sh", "-c", "echo no such table >&2; exit 3"]);
        let error = run(&failing, &NetnsPath::Here, &places).unwrap_err();
        assert!(error.to_string().contains("exit status: 3: no such table"), "{error}");
        let missing = run(&Command::of(&["no-such-program-at-all"]), &NetnsPath::Here, &places);
        assert!(matches!(missing, Err(RunError::Start { .. })));
    }

    #[test]
    fn statements_are_its_standard_input() {
        let many: Vec<String> = (0..20_000).map(|number| format!("statement {number}")).collect();
        let command = Command { statements: many.clone(), ..Command::of(&["cat"]) };
        let shown = ran(&command, &NetnsPath::Here, &here()).unwrap();
        assert_eq!(shown.stdout.lines().collect::<Vec<_>>(), many);
    }

    #[test]
    fn what_takes_too_long_is_killed() {
        let (start, limit) = (Instant::now(), Duration::from_millis(50));
        let late = ran_within(limit, &Command::of(&["sleep", "600"]), &NetnsPath::Here, &here());
        assert!(matches!(late, Err(RunError::Late { .. })), "{late:?}");
        assert!(start.elapsed() < Duration::from_mins(5));
    }
}
