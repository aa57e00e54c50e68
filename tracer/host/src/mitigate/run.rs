//! Runs one printed line.

use std::process::{Command, Output, Stdio};
use std::{env, io};

/// Where the tools of firewalls are, which `PATH` does not have for everybody.
const SUPERUSER: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// Why a line did not do what it says.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It is no command.
    #[error("`{0}` cannot be split into words")]
    LogMessage(String),
    /// Its program could not be started.
    #[error("`{line}`: {error}")]
    Start {
        /// The line.
        line: String,
        /// Why.
        error: io::Error,
    },
    /// It ended with an error.
    #[error("`{line}`: {status}: {said}")]
    Failed {
        /// The line.
        line: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it printed on standard error, in one line.
        said: String,
    },
}

fn output(line: &str) -> Result<Output, RunError> {
    let words =
        shlex::split(line).filter(|words| !words.is_empty()).ok_or_else(|| RunError::LogMessage(line.to_owned()))?;
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
    let said = String::from_utf8_lossy(&stderr);
    let said: Vec<&str> = said.split_whitespace().collect();
    let printable = |it: &char| !it.is_control();
    Err(RunError::Failed {
        line: line.to_owned(),
        status,
        said: said.join(" ").chars().filter(printable).take(400).collect(),
    })
}

/// Runs a line that only looks: what it prints, or nothing where it fails.
pub(super) fn style(line: &str) -> Result<Option<String>, RunError> {
    let Output { status, stdout, .. } = output(line)?;
    Ok(status.success().then(|| String::from_utf8_lossy(&stdout).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::{RunError, run, style};

    #[test]
    fn lines_are_run_without_a_shell() {
        assert_eq!(style("printf %s '$(reboot);x'").unwrap().as_deref(), Some("$(reboot);x"));
        assert_eq!(style("false").unwrap(), None);
        let error = run("sh -c 'echo no such table >&2; exit 3'").unwrap_err();
        assert!(error.to_string().contains("exit status: 3: no such table"), "{error}");
        assert!(matches!(run("no-such-program-at-all"), Err(RunError::Start { .. })));
        assert!(matches!(run("'open quote"), Err(RunError::LogMessage(_))));
        assert!(matches!(run(""), Err(RunError::LogMessage(_))));
    }
}
