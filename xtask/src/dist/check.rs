//! `cargo xtask dist --check`: whether a second build gives the same bytes, and whether the package installs and purges cleanly.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use super::source::Source;
use super::{Check, Products, boot, places};
use crate::kernels;
use crate::process::{MANIFEST, cache, execute, output, target, this_program, workspace};

/// The release of Debian that the package is tried in, and what is in it besides the essential packages: what the checks
/// run, and what the lab needs in the guest.
const RELEASE: &str = "bookworm";
const PACKAGES: &str = "conntrack,ethtool,iproute2,iptables,kmod,man-db,nftables,procps,systemd,systemd-sysv";
/// What dpkg, man and systemd keep books in, and what is no file of a disk; everything else has to be as it was.
const BOOKS: [&str; 5] = ["./var/lib/dpkg/", "./var/log/", "./var/cache/", "./proc/", "./run/"];

pub(super) fn run(ways: &[Check], source: &Source, products: &Products) -> Result<()> {
    let home = target().join("check");
    if home.exists() {
        fs::remove_dir_all(&home).with_context(|| format!("removing {}", home.display()))?;
    }
    fs::create_dir_all(&home).with_context(|| format!("creating {}", home.display()))?;
    for way in ways {
        match way {
            Check::Lintian => lintian(&products.deb)?,
            Check::Package => package(source, &products.deb, &debian()?, &home)?,
            Check::Service => boot::run(&products.deb, &debian()?, &home)?,
            Check::Paths => nothing_of_this_machine(products)?,
            Check::Again => again(source, products, &home)?,
        }
    }
    println!("check: all is well");
    Ok(())
}

fn lintian(deb: &Path) -> Result<()> {
    println!("check: lintian");
    let mut lintian = Command::new("lintian");
    lintian.args(["--fail-on=error,warning,info", "--display-info", "--tag-display-limit=0", "--allow-root"]).arg(deb);
    execute(&mut lintian)
}

/// The places where this machine keeps things are in none of the files. Inside of the archives are files that were looked at
/// already, and texts.
fn nothing_of_this_machine(products: &Products) -> Result<()> {
    println!("check: no paths of this machine");
    let home = env::var_os("HOME").map(PathBuf::from);
    // Root's home is in too many things that have nothing to do with it.
    let home = home.filter(|home| *home != Path::new("/root"));
    let directories: Vec<PathBuf> = places()?.into_iter().map(|(directory, _)| directory).chain(home).collect();
    for file in &products.files {
        let bytes = fs::read(file)?;
        for directory in &directories {
            let name = directory.as_os_str().as_encoded_bytes();
            if let Some(at) = bytes.windows(name.len()).position(|window| window == name) {
                let context = String::from_utf8_lossy(&bytes[at..(at + 120).min(bytes.len())]).into_owned();
                bail!("{} has {} in it: {context}", file.display(), directory.display());
            }
        }
    }
    Ok(())
}

/// Builds the commit in a clone: in another directory, with cargo's files under another name, another umask, time zone and
/// language. What comes out has to be the same.
fn again(source: &Source, products: &Products, home: &Path) -> Result<()> {
    println!("check: building {} again, elsewhere", source.commit);
    let elsewhere = tempfile::Builder::new().prefix("built elsewhere ").tempdir().context("a temporary directory")?;
    let clone = elsewhere.path().join("a").join("clone");
    execute(Command::new("git").args(["clone", "--quiet", "--no-checkout"]).arg(workspace()).arg(&clone))?;
    execute(Command::new("git").args(["checkout", "--quiet", "--detach", &source.commit]).current_dir(&clone))?;
    let cargo_home = elsewhere.path().join("cargo");
    let own = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set")?;
    symlink(own, &cargo_home).context("another name for cargo's directory")?;
    let mut build = Command::new("sh");
    build
        .args(["-c", "umask 077; exec \"$0\" dist"])
        .arg(this_program())
        .current_dir(&clone)
        .env(MANIFEST, clone.join("xtask"))
        .env("CARGO_HOME", &cargo_home)
        .env("TZ", "Asia/Kathmandu")
        .env("LC_ALL", "C")
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("SOURCE_DATE_EPOCH");
    execute(&mut build)?;
    let theirs = clone.join("target/dist");
    for ours in &products.files {
        let name = ours.file_name().context("a file without a name")?;
        let other = theirs.join(name);
        if fs::read(ours)? != fs::read(&other).with_context(|| format!("reading {}", other.display()))? {
            let kept = home.join(name);
            fs::copy(&other, &kept)?;
            bail!("{} is another file when it is built elsewhere: compare it with {}", ours.display(), kept.display());
        }
        println!("check: the same bytes: {}", name.to_string_lossy());
    }
    Ok(())
}

/// A new Debian, as an archive; made once.
fn debian() -> Result<PathBuf> {
    let directory = cache()?.join("debian");
    let list = directory.join(format!("{RELEASE}.list"));
    let whole = directory.join(format!("{RELEASE}.tar"));
    if whole.exists() && fs::read_to_string(&list).is_ok_and(|known| known == PACKAGES) {
        return Ok(whole);
    }
    println!("check: making a new Debian ({RELEASE})");
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    let root = tempfile::tempdir_in(&directory)?;
    let mut debootstrap = Command::new("debootstrap");
    debootstrap.arg("--variant=minbase").arg(format!("--include={PACKAGES}")).arg(RELEASE).arg(root.path());
    let log = fs::File::create(directory.join("debootstrap.log"))?;
    execute(debootstrap.arg(kernels::archive(false)?).stdout(log))?;
    let unfinished = directory.join("unfinished.tar");
    let mut tar = Command::new("tar");
    tar.args(["--create", "--numeric-owner", "--exclude=./var/cache/apt/archives/*.deb", "--file"]);
    execute(tar.arg(&unfinished).arg("--directory").arg(root.path()).arg("."))?;
    fs::rename(&unfinished, &whole)?;
    fs::write(&list, PACKAGES)?;
    Ok(whole)
}

/// Unpacks the new Debian.
pub(super) fn unpack(debian: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("creating {}", to.display()))?;
    let mut tar = Command::new("tar");
    execute(tar.args(["--extract", "--numeric-owner", "--file"]).arg(debian).arg("--directory").arg(to))
}

/// Installs the package, looks whether everything is in its place, and purges it.
fn package(source: &Source, deb: &Path, debian: &Path, home: &Path) -> Result<()> {
    println!("check: installing and purging the package");
    let root = home.join("root");
    unpack(debian, &root)?;
    fs::copy(deb, root.join("whyrst.deb"))?;
    let before = names(&root)?;
    let inside = |arguments: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork"]).arg(format!("--mount-proc={}", root.join("proc").display()));
        command.arg("chroot").arg(&root).args(arguments);
        command.env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive").env_remove("TMPDIR");
        command.envs(["SYSTEMD_COLORS", "SYSTEMD_URLIFY", "SYSTEMD_EMOJI"].map(|name| (name, "0")));
        command
    };
    let run = |arguments: &[&str]| output(&mut inside(arguments));
    run(&["dpkg", "--install", "/whyrst.deb"])?;
    let version = run(&["whyrst", "--version"])?;
    ensure!(version.contains(&source.commit), "whyrst --version does not name the commit: {version}");
    ensure!(run(&["dpkg", "--verify", "whyrst"])?.is_empty(), "dpkg --verify finds changed files");
    let page = run(&["man", "--pager=cat", "whyrst-record"])?;
    ensure!(page.contains("--rotate"), "man whyrst-record: {page}");
    run(&["whyrst", "config"]).context("the configuration file as it is installed")?;
    // It complains on standard error, and of units of others as well.
    let verified = inside(&["systemd-analyze", "verify", "whyrst-record.service"]).stdin(Stdio::null()).output()?;
    let complaints = String::from_utf8_lossy(&verified.stderr).into_owned();
    ensure!(verified.status.success() && !complaints.contains("whyrst"), "systemd-analyze verify: {complaints}");
    let state = inside(&["systemctl", "is-enabled", "whyrst-record.service"]).stdin(Stdio::null()).output()?;
    ensure!(state.stdout == b"disabled\n", "the service is switched on by installing: {state:?}");
    let security = run(&["systemd-analyze", "security", "--offline=true", "--no-pager", "whyrst-record.service"])?;
    println!("check: {}", security.trim_end().lines().last().unwrap_or_default().trim_start_matches(['→', ' ']));
    run(&["systemctl", "enable", "whyrst-record.service"])?;
    // What the service and its administrator leave.
    fs::create_dir_all(root.join("var/log/whyrst"))?;
    fs::write(root.join("var/log/whyrst/gateway-1.whyrst.zst"), "")?;
    fs::write(root.join("etc/whyrst.toml"), "[report]\nverbose = true\n")?;
    run(&["dpkg", "--remove", "whyrst"])?;
    ensure!(root.join("etc/whyrst.toml").exists(), "the configuration is gone before it is purged");
    run(&["dpkg", "--purge", "whyrst"])?;
    let after = names(&root)?;
    let left: Vec<&String> = after.difference(&before).chain(before.difference(&after)).collect();
    ensure!(left.is_empty(), "installing and purging has changed what there is: {left:?}");
    ensure!(!root.join("var/log/whyrst").exists(), "the recordings are left");
    Ok(())
}

/// Everything that is in a tree, but for the books.
fn names(root: &Path) -> Result<BTreeSet<String>> {
    let list = output(Command::new("find").args([".", "-xdev"]).current_dir(root))?;
    Ok(list.lines().filter(|name| !BOOKS.iter().any(|book| name.starts_with(book))).map(str::to_owned).collect())
}
