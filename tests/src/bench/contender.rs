//! The compared tools: how to start each, and how to see that it has begun.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::load;
use crate::netns::{IP, Namespace};
use crate::protocol::TOOLS;
use crate::whyrst::BINARY;

/// How long a tool may take to begin, and to end: some compile a program first, on an emulated processor.
const PATIENCE: Duration = Duration::from_mins(2);
/// Between two looks at a tool that is beginning or ending.
const INTERVAL: Duration = Duration::from_millis(20);

/// How one sees that a tool has begun.
#[derive(Debug, Clone, Copy)]
enum Sign {
    /// It says so.
    Says(&'static str),
    /// It says nothing, but has subscribed to messages of the kernel.
    Subscribes,
}

/// A tool.
#[derive(Debug, Clone, Copy)]
pub(super) struct Contender {
    pub(super) name: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
    sign: Sign,
    /// Whether it looks at its own network namespace alone, and so has to be started in the gateway's.
    inside: bool,
    /// What has to be said with its row.
    pub(super) note: Option<&'static str>,
}

/// Where a recording of the bench goes: into memory.
const RECORDING: &str = "/tmp/bench.whyrst";

/// The functions of docs/comparison.md: enough to see who resets. By itself pwru takes every function that has a packet.
const PWRU_FUNCTIONS: &str =
    "^(tcp_v4_.*|nf_hook_slow|ip_rcv.*|ip_local_deliver.*|ip_forward.*|kfree_skb.*|__kfree_skb)$";

/// Those that are compared with a gateway where nothing is attached.
pub(super) const ALL: &[Contender] = &[
    Contender {
        name: "whyrst",
        program: BINARY,
        arguments: &["report", "-o", "/dev/null"],
        sign: Sign::Says("listening to"),
        inside: true,
        note: None,
    },
    Contender {
        name: "whyrst-all-options",
        program: BINARY,
        arguments: &["report", "-o", "/dev/null", "--tap", "--new-refused", "--record", RECORDING],
        sign: Sign::Says("listening to"),
        inside: true,
        note: Some("--tap looks at each packet that arrives, --new-refused at each that opens a connection"),
    },
    Contender {
        name: "pwru",
        program: "pwru",
        arguments: &["--filter-func", PWRU_FUNCTIONS, "--output-meta", "--output-tuple", "tcp and port 444"],
        sign: Sign::Says("Listening for events"),
        inside: false,
        note: Some("filtered to a flow that is not part of the traffic: it prints nothing"),
    },
    Contender {
        name: "bpftrace",
        program: "bpftrace",
        arguments: &[
            "-e",
            "BEGIN { printf(\"begun\\n\"); } \
             kretprobe:nf_conntrack_tcp_packet /(int32)retval < 0/ { @invalid = count(); }",
        ],
        sign: Sign::Says("begun"),
        inside: false,
        note: None,
    },
    Contender {
        name: "tcpdump",
        program: "tcpdump",
        arguments: &["-Z", "root", "-n", "-i", "any", "-w", "/dev/null", "tcp[tcpflags] & tcp-rst != 0"],
        sign: Sign::Says("listening on"),
        inside: true,
        note: Some("its filter is a classic one, which the kernel does not count with BPF programs"),
    },
    Contender {
        name: "conntrack-E",
        program: "conntrack",
        arguments: &["-E", "-p", "tcp"],
        sign: Sign::Subscribes,
        inside: true,
        note: None,
    },
];

impl Contender {
    /// Whether it is the program under test, which every guest holds.
    pub(super) fn is_whyrst(&self) -> bool {
        self.program == BINARY
    }

    /// Its command, as one would type it.
    pub(super) fn command(&self) -> String {
        let program = Path::new(self.program).file_name().unwrap_or_default().to_string_lossy();
        let words =
            self.arguments.iter().map(|word| if word.contains(' ') { format!("'{word}'") } else { (*word).into() });
        std::iter::once(program.into_owned()).chain(words).collect::<Vec<_>>().join(" ")
    }

    /// Starts it on the gateway and waits until it has begun.
    pub(super) fn start(&self, gateway: &Namespace) -> Result<Running> {
        let mut words: Vec<PathBuf> = Vec::new();
        if self.inside {
            words.extend([IP, "netns", "exec", gateway.name()].map(PathBuf::from));
        }
        if Path::new(self.program).is_absolute() {
            words.push(self.program.into());
        } else {
            let tools = Path::new(TOOLS);
            let program = tools.join("bin").join(self.program);
            if !program.exists() {
                bail!("{} is not in the guest", self.program);
            }
            // They come with libraries of their own, from another release than what else is in the guest.
            words.extend([tools.join("lib/ld.so"), "--library-path".into(), tools.join("lib"), program]);
        }
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        let said = PathBuf::from("/tmp").join(self.name);
        let out = File::create(&said).with_context(|| format!("creating {}", said.display()))?;
        let err = out.try_clone()?;
        let child = command.args(self.arguments).stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let mut running = Running { child: child.with_context(|| format!("starting {}", self.name))?, said };
        let begun = |running: &Running| match self.sign {
            Sign::Says(text) => running.said().contains(text),
            Sign::Subscribes => subscribed(gateway, running.child.id()),
        };
        let deadline = Instant::now() + PATIENCE;
        while !begun(&running) {
            if let Some(status) = running.child.try_wait()? {
                bail!("it ended with {status}: {}", running.said().trim_end());
            }
            if Instant::now() > deadline {
                bail!("it had not begun after {PATIENCE:?}: {}", running.said().trim_end());
            }
            thread::sleep(INTERVAL);
        }
        Ok(running)
    }
}

/// Whether a socket of a process has subscribed to groups of messages of netlink.
fn subscribed(namespace: &Namespace, id: u32) -> bool {
    let table = namespace.enter(|| fs::read_to_string("/proc/thread-self/net/netlink"));
    let (Ok(Ok(table)), Ok(descriptors)) = (table, fs::read_dir(format!("/proc/{id}/fd"))) else { return false };
    let links = descriptors.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    let sockets: Vec<String> = links.map(|link| link.display().to_string()).collect();
    let is = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let (Some(groups), Some(inode)) = (columns.get(3), columns.last()) else { return false };
        groups.bytes().any(|digit| digit != b'0') && sockets.contains(&format!("socket:[{inode}]"))
    };
    table.lines().skip(1).any(is)
}

/// A tool that is running.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    said: PathBuf,
}

impl Running {
    /// What it has printed.
    fn said(&self) -> String {
        fs::read(&self.said).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The processor time that it has used.
    pub(super) fn used(&self) -> Result<Duration> {
        load::of_process(self.child.id())
    }

    /// The most memory it has had, in bytes.
    pub(super) fn memory(&self) -> Result<u64> {
        load::peak_memory(self.child.id())
    }

    /// Ends it as Ctrl-C would; returns whether that was enough.
    pub(super) fn stop(mut self) -> Result<bool> {
        kill_process(Pid::from_child(&self.child), Signal::INT).context("ending it")?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if self.child.try_wait()?.is_some() {
                return Ok(true);
            }
            thread::sleep(INTERVAL);
        }
        Ok(false)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None))
            && let Err(error) = self.child.kill().and_then(|()| self.child.wait().map(drop))
        {
            eprintln!("a tool could not be ended: {error}");
        }
        if let Err(error) = fs::remove_file(&self.said) {
            eprintln!("{}: {error}", self.said.display());
        }
    }
}
