//! Boots a new Debian with systemd in QEMU, installs the package, starts the service, resets connections, and reads the
//! service's recording.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::check::unpack;
use super::payload;
use crate::initramfs;
use crate::kernels;
use crate::vm::{self, Clock};

/// The kernel of the release that the package is tried in.
const KERNEL: &str = "6.1-e4";
/// How long the guest may say nothing. Most of the time goes into starting systemd, and into dpkg.
const SILENCE: Duration = Duration::from_mins(5);
/// What every line of the guest's script begins with.
const SAYS: &str = "check: ";
/// Its last one, where all went well.
const PASSED: &str = "check: passed";

/// What systemd runs in the guest.
const UNIT: &str = "\
[Unit]
Description=Try the package
After=multi-user.target

[Service]
Type=oneshot
ExecStart=/bin/sh /check
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
";

pub(super) fn run(deb: &Path, debian: &Path, home: &Path) -> Result<()> {
    println!("check: the service in a Debian with systemd");
    let lab = payload("vm")?.lab;
    let spec = kernels::select(&[KERNEL.to_owned()])?.pop().context("no kernel")?;
    let kernel = spec.fetch(false)?;
    let root = home.join("guest");
    unpack(debian, &root)?;
    for (from, to) in [(deb, "whyrst.deb"), (lab.as_path(), "lab")] {
        fs::copy(from, root.join(to)).with_context(|| format!("copying {}", from.display()))?;
    }
    fs::set_permissions(root.join("lab"), fs::Permissions::from_mode(0o755))?;
    fs::write(root.join("check"), include_str!("boot.sh"))?;
    // The lab runs the program that the package brings.
    symlink("usr/bin/whyrst", root.join("whyrst")).context("linking /whyrst")?;
    let units = root.join("etc/systemd/system");
    fs::write(units.join("check.service"), UNIT)?;
    fs::create_dir_all(units.join("multi-user.target.wants"))?;
    symlink("../check.service", units.join("multi-user.target.wants/check.service"))?;
    // Nobody reads them there, and the guest has to keep them in memory.
    for spare in ["usr/share/doc", "usr/share/locale", "var/lib/apt/lists", "var/cache/apt"] {
        fs::remove_dir_all(root.join(spare)).with_context(|| format!("removing {spare}"))?;
    }
    let archive = home.join("guest.cpio");
    initramfs::of_tree(&root, &kernel, &archive)?;
    fs::remove_dir_all(&root)?;

    let mut qemu = vm::qemu(&kernel, &archive, 2048, Clock::Time);
    qemu.args(["-append", "console=ttyS0 panic=-1 net.ifnames=0 quiet loglevel=4 rdinit=/usr/lib/systemd/systemd"]);
    qemu.args(["-serial", "stdio"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut machine = vm::Machine::new(&mut qemu)?;
    let console = machine.console()?;
    let (lines, inbox) = mpsc::channel();
    let mut log = File::create(home.join("console.log")).context("creating console.log")?;
    thread::spawn(move || {
        let mut reader = BufReader::new(console);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
            let logged = log.write_all(&bytes);
            let line = String::from_utf8_lossy(&bytes).trim().to_owned();
            bytes.clear();
            if logged.is_err() || lines.send(line).is_err() {
                return;
            }
        }
    });
    let mut passed = false;
    loop {
        match inbox.recv_timeout(SILENCE) {
            Ok(line) if line.starts_with(SAYS) => {
                println!("  {}", &line[SAYS.len()..]);
                passed |= line == PASSED;
            }
            Ok(_) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => bail!("the guest has said nothing for {SILENCE:?}"),
        }
    }
    if !passed {
        let log = fs::read_to_string(home.join("console.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        bail!("the guest's console ends with:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
    }
    fs::remove_file(&archive)?;
    Ok(())
}
