//! The tool that loads a file: which one, and a run of it with a deadline.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{env, thread};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use tracer_model::ruleset::Family;

use super::pieces::Pieces;
use super::{Format, Part, ScratchError, pieces};

/// How long a tool may take; it is killed then.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long a killed tool may take to end: the kernel may be busy with its rules.
const AFTER: Duration = Duration::from_secs(2);
/// Bytes of a text that takes long in pieces.
const LARGE: usize = 256 << 10;
/// Rules and elements that are loaded at once, at first.
const PIECE: usize = 512;
/// Most bytes that are read of what it prints.
const PRINTED: u64 = 64 << 10;
/// Most characters of that which are shown, and most lines.
const SHOWN: (usize, usize) = (600, 6);
/// Where the tools of firewalls are, which `PATH` does not have for everybody.
const SUPERUSER: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// Standard input, as a file.
const STDIN: &str = "/proc/self/fd/0";

/// A tool that is there.
#[derive(Debug)]
pub(super) struct Tool {
    name: &'static str,
    path: PathBuf,
    arguments: &'static [&'static str],
}

/// The tools that can load a file, the preferred one first. The variant that writes into nftables needs no module of
/// `iptable_*`; both give the same rules.
pub(super) fn find(format: Format) -> Result<Vec<Tool>, ScratchError> {
    let (names, arguments, package): (&[&'static str], &'static [&'static str], _) = match format {
        // `-` means /dev/stdin to nft, which is not everywhere.
        Format::Nft => (&["nft"], &["-f", STDIN], "nftables"),
        Format::NftJson => (&["nft"], &["-j", "-f", STDIN], "nftables"),
        Format::Save(Family::Ip6) => {
            (&["ip6tables-nft-restore", "ip6tables-legacy-restore", "ip6tables-restore"], &[], "iptables")
        }
        Format::Save(_) => (&["iptables-nft-restore", "iptables-legacy-restore", "iptables-restore"], &[], "iptables"),
    };
    let there: Vec<Tool> = names.iter().filter_map(|name| Some(Tool { name, path: path(name)?, arguments })).collect();
    match (there.is_empty(), names.last()) {
        (true, Some(tool)) => Err(ScratchError::Missing { tool, package }),
        _ => Ok(there),
    }
}

fn search() -> String {
    env::var("PATH").map_or_else(|_| SUPERUSER.to_owned(), |path| format!("{path}:{SUPERUSER}"))
}

fn path(name: &str) -> Option<PathBuf> {
    env::split_paths(&search()).filter(|it| it.is_absolute()).map(|it| it.join(name)).find(|path| path.is_file())
}

/// Loads a file with the first of these tools that this kernel is fit for, and names it.
pub(super) fn load(
    tools: &[Tool],
    part: &Part,
    confine: &(dyn Fn(&Path) + Sync),
) -> Result<&'static str, ScratchError> {
    let deadline = Instant::now() + PATIENCE;
    let mut first = None;
    let mut tools: Vec<&Tool> = tools.iter().collect();
    if part.text.len() > LARGE {
        // Legacy tables are loaded at once, however large they are.
        tools.sort_by_key(|tool| !tool.name.contains("legacy"));
    }
    for tool in tools {
        let mut loading = Loading { tool, deadline, confine, arguments: tool.arguments.to_vec() };
        // Counters are part of a file if its rules have them.
        if matches!(part.format, Format::Save(_)) && part.text.contains("] -A ") {
            loading.arguments.push("--counters");
        }
        let outcome = match (loading.run(&part.text, &[]), &part.pieces) {
            (Err(Refused::TooLong), Some(pieces)) => loading.in_pieces(part.format, pieces),
            (outcome, _) => outcome,
        };
        let failed = |message: String| ScratchError::Tool { tool: tool.name.to_owned(), message };
        match outcome {
            Ok(()) => return Ok(tool.name),
            Err(Refused::Unfit(message)) => {
                first.get_or_insert(failed(message));
            }
            Err(Refused::TooLong) => {
                let what = "the ruleset, or one rule of it, does not fit into one message to the kernel";
                first.get_or_insert(failed(what.to_owned()));
            }
            Err(Refused::Because(message)) => return Err(failed(message)),
        }
    }
    Err(first.unwrap_or_else(|| ScratchError::File("no tool loads it".to_owned())))
}

/// Why a tool did not load a text.
enum Refused {
    /// It is not fit for this kernel.
    Unfit(String),
    /// The text does not fit into one message of netlink.
    TooLong,
    /// Anything else.
    Because(String),
}

/// A tool that is at work.
struct Loading<'a> {
    tool: &'a Tool,
    deadline: Instant,
    confine: &'a (dyn Fn(&Path) + Sync),
    arguments: Vec<&'static str>,
}

impl Loading<'_> {
    /// Loads a text whose lines come from these lines of the file; none if they are the same.
    fn run(&self, text: &str, lines: &[usize]) -> Result<(), Refused> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let (status, printed) = run(self.tool, &self.arguments, text.as_bytes(), left, self.confine)
            .map_err(|error| Refused::Because(error.to_string()))?;
        let has = |words: &[&str]| words.iter().any(|words| printed.contains(words));
        let message = || if printed.is_empty() { status.to_string() } else { said(&printed, lines) };
        match status.success() {
            true => Ok(()),
            false if has(&["Message too long", "No buffer space available"]) => Err(Refused::TooLong),
            false if has(&["Failed to initialize nft", "can't initialize ip"]) => Err(Refused::Unfit(message())),
            false => Err(Refused::Because(message())),
        }
    }

    /// Loads the frame, and then as much at once as fits.
    fn in_pieces(&mut self, format: Format, pieces: &Pieces) -> Result<(), Refused> {
        if !pieces.frame.is_empty() {
            self.run(&pieces.frame, &[])?;
        }
        if let Format::Save(_) = format {
            self.arguments.push("--noflush");
        }
        let mut rest = &pieces.items[..];
        // So many may fit, and so many do not.
        let (mut most, mut too_many) = (PIECE, usize::MAX);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(most.min(rest.len()));
            let (text, lines) = pieces::script(&pieces.before, now);
            match self.run(&text, &lines) {
                Ok(()) => (rest, most) = (later, (most * 2).min(too_many.div_ceil(2))),
                Err(Refused::TooLong) if now.len() > 1 => (most, too_many) = (now.len().div_ceil(2), now.len()),
                Err(refused) => return Err(refused),
            }
        }
        Ok(())
    }
}

/// What a tool printed, short, with lines of the file.
fn said(printed: &str, lines: &[usize]) -> String {
    // The usage that iptables-restore points to is of no use here.
    let wanted = |line: &&str| !line.trim().is_empty() && !line.starts_with("Try `");
    let shown = printed.lines().map(str::trim_end).filter(wanted).take(SHOWN.1).map(|line| {
        let line = line.replace(&format!("{STDIN}:"), "line ");
        let number = ["line ", "at line: "].iter().find_map(|before| {
            let start = line.find(before)? + before.len();
            let digits = line[start..].bytes().take_while(u8::is_ascii_digit).count();
            let number = line[start..start + digits].parse::<usize>().ok()?.checked_sub(1)?;
            Some((start..start + digits, lines.get(number).filter(|line| **line > 0)?))
        });
        match number {
            Some((span, number)) => format!("{}{number}{}", &line[..span.start], &line[span.end..]),
            None => line,
        }
    });
    let shown: Vec<String> = shown.collect();
    shown.join("\n").chars().take(SHOWN.0).collect()
}

/// Runs a tool, which a confined thread starts: it inherits the confinement. This one may still kill it.
fn run(
    tool: &Tool,
    arguments: &[&str],
    input: &[u8],
    patience: Duration,
    confine: &(dyn Fn(&Path) + Sync),
) -> io::Result<(ExitStatus, String)> {
    let start = || {
        confine(&tool.path);
        Command::new(&tool.path)
            .args(arguments)
            .env_clear()
            .env("PATH", search())
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
    };
    let mut child = thread::scope(|scope| {
        let starter = thread::Builder::new().spawn_scoped(scope, start)?;
        starter.join().unwrap_or_else(|panicked| std::panic::resume_unwind(panicked))
    })?;
    // The threads outlive this function if the kernel holds a tool that was killed.
    if let Some(mut stdin) = child.stdin.take() {
        let input = input.to_vec();
        // A tool that has seen enough closes its end, and prints why.
        thread::Builder::new().spawn(move || stdin.write_all(&input).is_ok())?;
    }
    let (done, printed) = mpsc::channel();
    if let Some(mut stderr) = child.stderr.take() {
        thread::Builder::new().spawn(move || {
            let mut bytes = Vec::new();
            let read = (&mut stderr).take(PRINTED).read_to_end(&mut bytes);
            let read = read.and_then(|_| io::copy(&mut stderr, &mut io::sink()));
            // Nobody listens any more when the tool was killed.
            drop(done.send(read.map(|_| bytes)));
        })?;
    }
    let status = wait(&mut child, patience)?;
    let printed = printed.recv_timeout(AFTER).map_err(|_missing| io::ErrorKind::TimedOut)??;
    Ok((status, String::from_utf8_lossy(&printed).into_owned()))
}

/// Waits for the end of a program, and kills it when it has taken too long.
fn wait(child: &mut Child, patience: Duration) -> io::Result<ExitStatus> {
    if ended(child, patience)? {
        return child.wait();
    }
    child.kill()?;
    if ended(child, AFTER)? {
        child.wait()?;
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, format!("killed: loading took more than {} s", PATIENCE.as_secs())))
}

fn ended(child: &Child, patience: Duration) -> io::Result<bool> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut polled = [PollFd::new(&process, PollFlags::IN)];
        match poll(&mut polled, Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use rstest::rstest;

    use super::{Tool, run, said};

    fn shell() -> Tool {
        Tool { name: "sh", path: PathBuf::from("/bin/sh"), arguments: &[] }
    }

    fn of(script: &str, input: &[u8], patience: Duration) -> io::Result<(bool, String)> {
        let confined = AtomicUsize::new(0);
        let confine = |_: &std::path::Path| {
            confined.fetch_add(1, Ordering::Relaxed);
        };
        let outcome = run(&shell(), &["-c", script], input, patience, &confine);
        assert_eq!(confined.load(Ordering::Relaxed), 1);
        outcome.map(|(status, printed)| (status.success(), printed))
    }

    #[test]
    fn tools_are_fed_and_read() {
        let minute = Duration::from_mins(1);
        assert_eq!(of("cat >&2", b"*filter\n", minute).unwrap(), (true, "*filter\n".to_owned()));
        assert_eq!(of("exit 3", &vec![b'x'; 1 << 20], minute).unwrap(), (false, String::new()));
        let (_, printed) = of("head -c 1000000 /dev/zero >&2", b"", minute).unwrap();
        assert_eq!(printed.len(), 64 << 10);
    }

    #[test]
    fn tools_that_take_long_are_killed() {
        let began = Instant::now();
        let error = of("exec sleep 300", b"", Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.to_string(), "killed: loading took more than 10 s");
        assert!(began.elapsed() < Duration::from_mins(1));
    }

    #[rstest]
    #[case("nft: /proc/self/fd/0:12:5-9: Error: syntax\nno\n", &[], "nft: line 12:5-9: Error: syntax\nno")]
    #[case("/proc/self/fd/0:2:5-9: Error: syntax\n", &[7, 8, 9], "line 8:5-9: Error: syntax")]
    #[case("iptables-restore: line 3 failed\n", &[7, 8, 9], "iptables-restore: line 9 failed")]
    #[case("Bad argument\n\nError occurred at line: 1\nTry `iptables-restore -h' for more\n", &[7], "Bad argument\nError occurred at line: 7")]
    #[case("line 4 failed\n", &[7], "line 4 failed")]
    #[case("line 99999999999999999999 failed\n", &[7], "line 99999999999999999999 failed")]
    fn lines_are_those_of_the_file(#[case] printed: &str, #[case] lines: &[usize], #[case] shown: &str) {
        assert_eq!(said(printed, lines), shown);
    }
}
