//! PID 1 of the guest: mounts what a system needs, runs the lab, and switches the machine off.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, reboot};
use whyrst_tests::protocol::{ALIVE, PLAN, Plan};

/// Where the guest's programs are.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

fn main() {
    println!("{ALIVE}");
    if let Err(error) = run() {
        println!("init: {error:#}");
    }
    if let Err(error) = reboot(RebootCommand::PowerOff) {
        println!("init: switching off: {error}");
    }
}

fn run() -> Result<()> {
    for (source, target, kind) in [
        ("proc", "/proc", "proc"),
        ("sys", "/sys", "sysfs"),
        ("dev", "/dev", "devtmpfs"),
        ("run", "/run", "tmpfs"),
        ("tmp", "/tmp", "tmpfs"),
        ("security", "/sys/kernel/security", "securityfs"),
        ("debug", "/sys/kernel/debug", "debugfs"),
        ("bpf", "/sys/fs/bpf", "bpf"),
    ] {
        fs::create_dir_all(target).with_context(|| format!("creating {target}"))?;
        mount(source, target, kind, MountFlags::empty(), None).with_context(|| format!("mounting {target}"))?;
    }
    command("/bin/busybox", &["--install", "-s", "/bin"])?;
    for (link, target) in [("/dev/fd", "/proc/self/fd"), ("/dev/stdout", "/proc/self/fd/1")] {
        if !Path::new(link).exists() {
            symlink(target, link).with_context(|| format!("linking {link}"))?;
        }
    }
    for module in ["virtio_pci", "virtio_blk", "veth"] {
        // Some kernels have one built in, and not all of those have a list that says so.
        if let Err(error) = command("/sbin/modprobe", &["-q", module]) {
            println!("init: {error:#}");
        }
    }
    command("/usr/bin/ip", &["link", "set", "lo", "up"])?;
    fs::write("/proc/sys/kernel/hostname", "lab").context("naming the host")?;
    let plan: Plan = serde_json::from_slice(&fs::read(PLAN).context(PLAN)?).context(PLAN)?;
    if plan.shell {
        println!("The lab: `lab list`, `lab run NAME…`, `whyrst`. Ctrl-D switches the machine off.");
        // Its exit status is that of the last command typed.
        Command::new("/bin/sh").arg("-l").env("PATH", PATH).status().context("starting a shell")?;
        return Ok(());
    }
    command("/lab", &["plan"])
}

fn command(program: &str, arguments: &[&str]) -> Result<()> {
    let status = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .env("PATH", PATH)
        .status()
        .with_context(|| format!("starting {program}"))?;
    if !status.success() {
        bail!("{program} {}: {status}", arguments.join(" "));
    }
    Ok(())
}
