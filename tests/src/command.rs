//! Running programs: an error names the whole command and what it printed.

use std::ffi::OsStr;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

/// Runs a program to its end and gives what it printed; an exit status other than 0 is an error.
pub fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Result<String> {
    let output = output(program, arguments)?;
    if !output.status.success() {
        bail!(
            "{}: {}\n{}",
            line(program, arguments),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a program to its end with something to read; an exit status other than 0 is an error.
pub fn feed(command: &mut Command, text: &str) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = piped.with_context(|| format!("starting {program}"))?;
    // It is closed when this statement ends.
    child.stdin.take().context("no standard input")?.write_all(text.as_bytes()).with_context(|| program.clone())?;
    let output = child.wait_with_output().with_context(|| program.clone())?;
    if !output.status.success() {
        bail!("{program}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(())
}

/// Runs a program to its end and gives everything, whatever its exit status.
pub fn output<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Result<Output> {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {}", line(program, arguments)))
}

/// A command as a shell would have it.
fn line<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> String {
    let words = arguments.iter().map(|argument| argument.as_ref().to_string_lossy());
    std::iter::once(program.into()).chain(words).collect::<Vec<_>>().join(" ")
}
