//! Runs one printed line, without a shell.

use std::process::{Command, Output, Stdio};
use std::{env, io};

/// Where the tools of firewalls are, which `PATH` does not have for everybody.
const SUPERUSER: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// Why a line was not run, or failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It is no command.
    #[error("`{0}` cannot be split into words")]
    Words(String),
    /// Its program could not be started.
    #[error("`{line}`: {error}")]
    Start {
        /// The line.
        line: String,
        /// Why.
        error: io::Error,
    },
    /// It ended with an error.
    #[error("`{line}`: {status}: {stderr}")]
    Failed {
        /// The line.
        line: String,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// What it printed on standard error, in one line.
        stderr: String,
    },
}

fn output(line: &str) -> Result<Output, RunError> {
    let words = shlex::split(line).filter(|words| !words.is_empty()).ok_or_else(|| RunError::Words(line.to_owned()))?;
    let path = env::var("PATH").map_or_else(|_| SUPERUSER.to_owned(), |path| format!("{path}:{SUPERUSER}"));
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).env("PATH", path).env("LC_ALL", "C").stdin(Stdio::null());
    command.output().map_err(|error| RunError::Start { line: line.to_owned(), error })
}

/// Runs a line that must succeed.
pub(super) fn run(line: &str) -> Result<(), RunError> {
    let Output { status, stderr, .. } = output(line)?;
    if status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&stderr);
    let words: Vec<&str> = stderr.split_whitespace().collect();
    let printable = |it: &char| !it.is_control();
    Err(RunError::Failed {
        line: line.to_owned(),
        status,
        stderr: words.join(" ").chars().filter(printable).take(400).collect(),
    })
}

/// Runs a line that changes nothing: what it prints, or nothing where it fails.
pub(super) fn probe(line: &str) -> Result<Option<String>, RunError> {
    let Output { status, stdout, .. } = output(line)?;
    Ok(status.success().then(|| String::from_utf8_lossy(&stdout).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::{RunError, probe, run};

    #[test]
    fn lines_are_run_without_a_shell() {
        assert_eq!(probe("printf %s '$(reboot);x'").unwrap().as_deref(), Some("$(reboot);x"));
        assert_eq!(probe("false").unwrap(), None);
        let error = run("sh -c 'echo no such table >&2; exit 3'").unwrap_err();
        assert!(error.to_string().contains("exit status: 3: no such table"), "{error}");
        assert!(matches!(run("no-such-program-at-all"), Err(RunError::Start { .. })));
        assert!(matches!(run("'open quote"), Err(RunError::Words(_))));
        assert!(matches!(run(""), Err(RunError::Words(_))));
    }
}
