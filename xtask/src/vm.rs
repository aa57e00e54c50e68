//! One boot: QEMU, its console, and the port for the guest's reports.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use whyrst_tests::protocol::{ALIVE, Message, Plan, RULESETS};

use crate::arch::Arch;
use crate::initramfs;
use crate::kernels::Kernel;
use crate::process::workspace;

/// How long a guest may take to its first process.
const BOOT: Duration = Duration::from_mins(1);
/// How long a guest may be silent after that.
const SILENCE: Duration = Duration::from_mins(2);
/// Size of the disk that takes the archive.
const DISK_BYTES: u64 = 256 << 20;
/// Memory of a guest.
const MEMORY_MIB: u32 = 1024;
/// Lines of the console that an error shows.
const TAIL: usize = 60;

/// Console messages of a kernel that is lost.
const LOST: [&str; 6] = [
    "Kernel panic",
    "Oops:",
    "BUG: unable to handle",
    "general protection fault",
    "watchdog: BUG: soft lockup",
    "double fault",
];

/// The files for the guest.
pub(crate) struct Payload {
    /// The binary under test.
    pub(crate) whyrst: PathBuf,
    /// PID 1.
    pub(crate) init: PathBuf,
    /// The lab.
    pub(crate) lab: PathBuf,
    /// Further programs of the host.
    pub(crate) programs: Vec<PathBuf>,
    /// Further files: where in the guest, and from where.
    pub(crate) files: Vec<(PathBuf, PathBuf)>,
}

/// The guest's clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Clock {
    /// Time
    #[default]
    Time,
    /// Instructions, a nanosecond each: the figures of an emulated machine do not depend on the load of its host
    Instructions,
}

impl Clock {
    /// Its unit, in a word.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Instructions => "instructions",
        }
    }
}

/// A guest that is to be booted.
pub(crate) struct Guest<'a> {
    kernel: &'a Kernel,
    plan: Plan,
    directory: PathBuf,
    clock: Clock,
    memory_mib: u32,
}

/// Why a boot failed.
enum Failure {
    /// The guest never came to its first process.
    BeforeInit(anyhow::Error),
    /// Anything later.
    Later(anyhow::Error),
}

/// The rulesets of the judge, and where they are in the guest.
fn rulesets() -> Result<Vec<(PathBuf, PathBuf)>> {
    let from = workspace().join("tests/rulesets");
    let mut found = Vec::new();
    for below in ["", "parts"] {
        let directory = from.join(below);
        for entry in fs::read_dir(&directory).with_context(|| format!("reading {}", directory.display()))? {
            let path = entry?.path();
            if path.is_file() {
                let name = path.strip_prefix(&from).context("a file of the directory")?;
                found.push((Path::new(RULESETS).join(name), path.clone()));
            }
        }
    }
    found.sort();
    Ok(found)
}

impl<'a> Guest<'a> {
    /// Prepares a guest; everything of it goes into `directory`.
    pub(crate) fn new(kernel: &'a Kernel, plan: Plan, payload: &Payload, directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
        let guest =
            Self { kernel, plan, directory: directory.to_path_buf(), clock: Clock::Time, memory_mib: MEMORY_MIB };
        let base = initramfs::base(kernel)?;
        let files =
            [("/init", payload.init.as_path()), ("/lab", payload.lab.as_path()), ("/whyrst", payload.whyrst.as_path())];
        let plan = serde_json::to_vec(&guest.plan)?;
        let mut files_of_tests = payload.files.clone();
        files_of_tests.extend(rulesets()?);
        let more = (payload.programs.as_slice(), files_of_tests.as_slice());
        initramfs::build(&base, &files, more, &plan, &guest.path("initramfs.cpio"))?;
        Ok(guest)
    }

    /// Gives it another clock, and memory for what is put into it.
    pub(crate) fn with(mut self, clock: Clock, memory_mib: u32) -> Self {
        (self.clock, self.memory_mib) = (clock, memory_mib);
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Runs the guest to its end; every report goes to `report`. Returns where its archive was unpacked.
    ///
    /// Emulated machines very rarely hang before their first process. That boot alone is tried once more.
    pub(crate) fn run(&self, report: &mut dyn FnMut(Message)) -> Result<PathBuf> {
        let result = match self.boot(report) {
            Err(Failure::BeforeInit(error)) => {
                eprintln!("{error:#}\nthe guest never came to its first process; trying this boot once more");
                self.boot(report)
            }
            other => other,
        };
        match result {
            Ok(()) => {}
            Err(Failure::BeforeInit(error) | Failure::Later(error)) => {
                return Err(error.context(format!("the console's last lines:\n{}", self.console_tail())));
            }
        }
        let artifacts = self.path("artifacts");
        if artifacts.exists() {
            fs::remove_dir_all(&artifacts).with_context(|| format!("removing {}", artifacts.display()))?;
        }
        whyrst_tests::artifact::unpack(&self.path("disk.img"), &artifacts)?;
        fs::remove_file(self.path("disk.img")).context("removing the disk image")?;
        Ok(artifacts)
    }

    /// Opens a shell on the console of this terminal.
    pub(crate) fn shell(&self) -> Result<()> {
        self.disk()?;
        let mut qemu = self.qemu();
        qemu.args(["-serial", "mon:stdio", "-serial", "null"]);
        let status = qemu.status().context("starting QEMU")?;
        if !status.success() {
            bail!("QEMU: {status}");
        }
        Ok(())
    }

    fn disk(&self) -> Result<()> {
        let disk = File::create(self.path("disk.img")).context("creating the disk image")?;
        disk.set_len(DISK_BYTES).context("sizing the disk image")
    }

    fn qemu(&self) -> Command {
        let mut qemu = qemu(self.kernel, &self.path("initramfs.cpio"), self.memory_mib, self.clock);
        let console = self.kernel.spec.arch.console();
        qemu.arg("-append")
            .arg(format!("console={console} panic=-1 net.ifnames=0 quiet loglevel=4 maxcpus=1"))
            .arg("-drive")
            .arg(format!("file={},format=raw,if=virtio", self.path("disk.img").display()));
        qemu
    }

    fn boot(&self, report: &mut dyn FnMut(Message)) -> Result<(), Failure> {
        let later = Failure::Later;
        self.disk().map_err(later)?;
        let socket = self.path("port");
        let _stale = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).context("listening for the guest").map_err(later)?;
        let mut qemu = self.qemu();
        qemu.args(["-serial", "stdio"]).args(port(self.kernel.spec.arch, &socket));
        qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut machine = Machine::new(&mut qemu).map_err(later)?;
        let console = machine.console().map_err(later)?;
        let (events, inbox) = mpsc::channel();
        self.watch_console(console, events.clone()).map_err(later)?;
        thread::spawn(move || {
            let Ok((port, _)) = listener.accept() else { return };
            for line in BufReader::new(port).lines() {
                let Ok(line) = line else { return };
                if events.send(Event::Line(line)).is_err() {
                    return;
                }
            }
        });
        // A storm or a long series is one step of a bench.
        let silence = if self.plan.bench.is_some() { 20 * SILENCE } else { SILENCE };
        follow(&inbox, silence, report)?;
        machine.0.wait().context("waiting for QEMU").map_err(later)?;
        Ok(())
    }

    /// Copies the console to a file and sends an event for each line that matters.
    fn watch_console(&self, console: impl Read + Send + 'static, events: mpsc::Sender<Event>) -> Result<()> {
        let mut log = File::create(self.path("console.log")).context("creating console.log")?;
        thread::spawn(move || {
            let mut reader = BufReader::new(console);
            let mut bytes = Vec::new();
            while reader.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                bytes.clear();
                if log.write_all(text.as_bytes()).is_err() {
                    eprintln!("console.log cannot be written");
                }
                let event = if text.contains(ALIVE) {
                    Event::Alive
                } else if let Some(sign) = LOST.iter().find(|sign| text.contains(**sign)) {
                    Event::Lost((*sign).to_owned())
                } else {
                    continue;
                };
                if events.send(event).is_err() {
                    return;
                }
            }
            // The boot is over; if nobody listens any more, nobody needs to know.
            let _unheard = events.send(Event::Off);
        });
        Ok(())
    }

    fn console_tail(&self) -> String {
        let log = fs::read_to_string(self.path("console.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }
}

/// An event of a running guest.
enum Event {
    /// PID 1 is there.
    Alive,
    /// The kernel is lost.
    Lost(String),
    /// A line on the reporting port.
    Line(String),
    /// The console is closed: the machine is off.
    Off,
}

/// Follows a guest until it has finished.
fn follow(inbox: &mpsc::Receiver<Event>, silence: Duration, report: &mut dyn FnMut(Message)) -> Result<(), Failure> {
    let mut alive = false;
    let mut finished = false;
    let booted = Instant::now();
    loop {
        let patience = if alive { silence } else { BOOT.saturating_sub(booted.elapsed()) };
        let fail = |error: anyhow::Error| if alive { Failure::Later(error) } else { Failure::BeforeInit(error) };
        match inbox.recv_timeout(patience) {
            Ok(Event::Alive) => alive = true,
            Ok(Event::Lost(sign)) => return Err(Failure::Later(anyhow::anyhow!("the guest's kernel is lost: {sign}"))),
            Ok(Event::Line(line)) => match serde_json::from_str(&line) {
                Ok(message) => {
                    finished |= message == Message::Finished;
                    report(message);
                }
                Err(error) => return Err(Failure::Later(anyhow::anyhow!("the guest reports `{line}`: {error}"))),
            },
            Ok(Event::Off) if finished => return Ok(()),
            Ok(Event::Off) => return Err(fail(anyhow::anyhow!("the guest has switched off before it was finished"))),
            Err(RecvTimeoutError::Timeout) => {
                return Err(fail(anyhow::anyhow!("the guest has said nothing for {patience:?}")));
            }
            Err(RecvTimeoutError::Disconnected) => return Err(fail(anyhow::anyhow!("the guest has ended"))),
        }
    }
}

/// The port that the guest reports on, with a socket at its other end.
fn port(arch: Arch, socket: &Path) -> Vec<String> {
    let socket = socket.display();
    match arch {
        Arch::Amd64 => vec!["-serial".to_owned(), format!("unix:{socket}")],
        // That machine has one serial port of its own.
        Arch::Arm64 => {
            let backend = format!("socket,path={socket},id=port");
            ["-chardev", &backend, "-device", "pci-serial,chardev=port"].map(str::to_owned).to_vec()
        }
    }
}

/// A machine without devices but for those that every guest needs.
pub(crate) fn qemu(kernel: &Kernel, archive: &Path, mebibytes: u32, clock: Clock) -> Command {
    let arch = kernel.spec.arch;
    let mut qemu = match arch {
        Arch::Amd64 => Command::new("qemu-system-x86_64"),
        Arch::Arm64 => Command::new("qemu-system-aarch64"),
    };
    let (accelerator, cpu) = match (arch, clock) {
        (Arch::Amd64, Clock::Time) => accelerator(),
        // The architecture's own way to sign pointers would take most of the emulator's time.
        (Arch::Arm64, Clock::Time) => ("tcg,thread=multi", "max,pauth-impdef=on"),
        // Counting needs the emulation, and one thread of it.
        (_, Clock::Instructions) => ("tcg,thread=single", "max"),
    };
    if arch == Arch::Arm64 {
        qemu.args(["-machine", "virt"]);
    }
    if clock == Clock::Instructions {
        qemu.args(["-icount", "shift=0,sleep=off"]);
    }
    // `maxcpus=1` on the kernel's command line leaves the second processor off until a scenario switches it on.
    qemu.args(["-accel", accelerator, "-cpu", cpu, "-smp", "2", "-m"])
        .arg(mebibytes.to_string())
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(archive);
    qemu
}

/// A QEMU that does not outlive this program's interest in it.
pub(crate) struct Machine(Child);

impl Machine {
    /// Starts it.
    pub(crate) fn new(qemu: &mut Command) -> Result<Self> {
        Ok(Self(qemu.spawn().context("starting QEMU")?))
    }

    /// What it prints, where that goes through a pipe.
    pub(crate) fn console(&mut self) -> Result<ChildStdout> {
        self.0.stdout.take().context("QEMU has no console")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None))
            && let Err(error) = self.0.kill().and_then(|()| self.0.wait().map(drop))
        {
            eprintln!("QEMU could not be ended: {error}");
        }
    }
}

/// Hardware virtualisation where the processor has it; /dev/kvm alone may be there without, and hang.
fn accelerator() -> (&'static str, &'static str) {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let capable = flags.split_whitespace().any(|flag| matches!(flag, "vmx" | "svm"));
    if capable && File::options().read(true).write(true).open("/dev/kvm").is_ok() {
        ("kvm", "host")
    } else {
        ("tcg,thread=multi", "max")
    }
}
