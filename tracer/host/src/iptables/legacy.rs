//! The tables of iptables that are not nftables' (`net/ipv4/netfilter/ip_tables.c`): read by iptables' own tool, because
//! what the kernel gives is laid out for the processor that it runs on, and understanding it is the tool's business.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Instant;
use std::{fs, thread};

use tracer_model::ruleset::Family;
use tracer_model::ruleset::tables::Ruleset;

use super::text::ruleset;

/// Most bytes that are read of a ruleset.
const MOST: u64 = 8 << 20;

/// Reads the tables of both families whole, of the calling thread's network namespace; and why there may be others.
pub(crate) fn whole(deadline: Instant) -> Ruleset {
    let (texts, problems) = texts(deadline);
    let mut all = Ruleset { tables: Vec::new(), problems };
    for (family, text) in texts {
        all.extend(ruleset(&text, family));
    }
    all
}

/// What is printed of each family that has tables.
fn texts(deadline: Instant) -> (Vec<(Family, String)>, Vec<String>) {
    let (mut texts, mut problems) = (Vec::new(), Vec::new());
    for (family, names, tools) in [
        (Family::Ip, "ip_tables_names", ["iptables-legacy-save", "iptables-save"]),
        (Family::Ip6, "ip6_tables_names", ["ip6tables-legacy-save", "ip6tables-save"]),
    ] {
        // /proc/net is the namespace of the process, not of the thread.
        let tables = fs::read_to_string(Path::new("/proc/thread-self/net").join(names)).unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                problems.push(format!("whether there are tables of legacy iptables is not known: {names}: {error}"));
            }
            String::new()
        });
        if tables.trim().is_empty() {
            continue;
        }
        match tools.into_iter().find_map(|tool| saved(tool, deadline).transpose()) {
            Some(Ok(text)) => texts.push((family, text)),
            Some(Err(error)) => problems.push(format!("the tables of legacy iptables could not be read: {error}")),
            None => problems.push(format!("there are tables of legacy iptables, but {} is missing", tools[0])),
        }
    }
    (texts, problems)
}

/// What a tool prints; none where it is missing, or is one that writes into nftables.
fn saved(tool: &str, deadline: Instant) -> io::Result<Option<String>> {
    let spawned = Command::new(tool)
        .arg("-c")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // Not to be ended by a Ctrl-C that ends the capture.
        .process_group(0)
        .spawn();
    let child = match spawned {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let text = output(child, deadline).map_err(|error| io::Error::new(error.kind(), format!("{tool}: {error}")))?;
    let of_nftables = text.lines().next().is_some_and(|line| line.contains("nf_tables"));
    Ok((!of_nftables).then_some(text))
}

/// Reads what a program prints, and ends it when the deadline has passed.
fn output(mut child: Child, deadline: Instant) -> io::Result<String> {
    let (done, text) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = stdout.take(MOST).read_to_end(&mut bytes).map(|_| bytes);
            // Nobody listens any more when the deadline has passed.
            drop(done.send(read));
        });
    }
    let patience = deadline.saturating_duration_since(Instant::now());
    let read = text.recv_timeout(patience);
    if read.is_err() {
        child.kill()?;
    }
    let status = child.wait()?;
    match read {
        Ok(bytes) if status.success() => Ok(String::from_utf8_lossy(&bytes?).into_owned()),
        Ok(_) => Err(io::Error::other(status.to_string())),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::{output, saved};

    fn shell(script: &str) -> std::process::Child {
        Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn programs_are_read_and_ended() {
        let soon = || Instant::now() + Duration::from_secs(20);
        assert_eq!(output(shell("echo '*filter'"), soon()).unwrap(), "*filter\n");
        assert!(output(shell("exit 3"), soon()).unwrap_err().to_string().contains('3'));
        let late = output(shell("exec sleep 60"), Instant::now() + Duration::from_millis(50));
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_tool_may_be_missing() {
        assert!(matches!(saved("no-such-iptables-save", Instant::now()), Ok(None)));
    }
}
