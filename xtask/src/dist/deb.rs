//! The Debian package, built by dpkg-deb from a tree that is written file by file.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use jiff::fmt::rfc2822;

use super::DEBIAN;
use super::archive::gzip;
use super::files::{Common, EXECUTABLE, File, READABLE, read};
use super::source::Source;
use crate::process::execute;

/// The package's own part of the version.
const REVISION: u32 = 1;
/// Who answers for the package.
const MAINTAINER: &str = "The whyrst authors <whyrst@whyrst.invalid>";
/// Files that belong to whoever runs the host.
const CONFIGURATION: &str = "etc/whyrst.toml";
/// Where documentation of the package is.
const DOCUMENTATION: &str = "usr/share/doc/whyrst";
/// What dpkg runs.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Writes the package.
pub(super) fn write(source: &Source, common: &Common, directory: &Path) -> Result<PathBuf> {
    let version = format!("{}-{REVISION}", source.version);
    let files = content(source, common, &version)?;
    let path = directory.join(format!("whyrst_{version}_{DEBIAN}.deb"));
    let tree = tempfile::tempdir_in(directory)?;
    let root = tree.path().join("root");
    for file in files.iter().chain(&control(&files, &version)?) {
        place(&root, file)?;
    }
    sums(&root, &files)?;
    let mut dpkg = Command::new("dpkg-deb");
    // Files are sorted by dpkg-deb itself, and dated no later than this. More than one thread compresses to other bytes.
    dpkg.args(["--root-owner-group", "-Zxz", "--threads-max=1", "--build"]).arg(&root).arg(&path);
    execute(dpkg.env("SOURCE_DATE_EPOCH", source.epoch().to_string()).stdout(std::process::Stdio::null()))?;
    Ok(path)
}

/// What the package installs.
fn content(source: &Source, common: &Common, version: &str) -> Result<Vec<File>> {
    let documentation = |name: &str, bytes| File::new(Path::new(DOCUMENTATION).join(name), READABLE, bytes);
    let copyright = [read("packaging/copyright")?, licence()?].concat();
    let mut files = vec![
        File::new("usr/bin/whyrst", EXECUTABLE, common.binary.clone()),
        File::new(CONFIGURATION, READABLE, common.configuration.clone()),
        File::new("usr/lib/systemd/system/whyrst-record.service", READABLE, read("packaging/whyrst-record.service")?),
        File::new("usr/share/lintian/overrides/whyrst", READABLE, read("packaging/lintian-overrides")?),
        documentation("copyright", copyright),
        documentation("changelog.gz", gzip(&read("CHANGELOG.md")?)?),
        documentation("changelog.Debian.gz", gzip(changelog(source, version)?.as_bytes())?),
        documentation("sbom.cdx.json", common.sbom.clone()),
        documentation("third-party.txt.gz", gzip(&common.notices)?),
    ];
    for (name, page) in &common.manual {
        files.push(File::new(Path::new("usr/share/man/man1").join(format!("{name}.gz")), READABLE, gzip(page)?));
    }
    for (shell, name, script) in &common.completions {
        let place = match *shell {
            "bash" => "usr/share/bash-completion/completions",
            "zsh" => "usr/share/zsh/vendor-completions",
            _ => "usr/share/fish/vendor_completions.d",
        };
        files.push(File::new(Path::new(place).join(name), READABLE, script.clone()));
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// What dpkg wants to know.
fn control(files: &[File], version: &str) -> Result<Vec<File>> {
    // In units of 1 KiB, each file rounded up.
    let size: usize = files.iter().map(|file| file.bytes.len().div_ceil(1024)).sum();
    let text = String::from_utf8(read("packaging/control")?).context("packaging/control")?;
    let text = text
        .replace("@VERSION@", version)
        .replace("@ARCHITECTURE@", DEBIAN)
        .replace("@MAINTAINER@", MAINTAINER)
        .replace("@SIZE@", &size.to_string());
    let mut control = vec![
        File::new("DEBIAN/control", READABLE, text.into_bytes()),
        File::new("DEBIAN/conffiles", READABLE, format!("/{CONFIGURATION}\n").into_bytes()),
    ];
    for script in SCRIPTS {
        let path = Path::new("DEBIAN").join(script);
        control.push(File::new(path, EXECUTABLE, read(&format!("packaging/{script}"))?));
    }
    Ok(control)
}

/// Writes the list that `dpkg --verify` compares with.
fn sums(root: &Path, files: &[File]) -> Result<()> {
    let names = files.iter().map(|file| &file.path).filter(|path| *path != Path::new(CONFIGURATION));
    let text = crate::process::output(Command::new("md5sum").arg("--").args(names).current_dir(root))?;
    place(root, &File::new("DEBIAN/md5sums", READABLE, text.into_bytes()))
}

/// Debian's form of the changelog: what happened to the package. What happened to the program is in the other one.
fn changelog(source: &Source, version: &str) -> Result<String> {
    let mut text = String::new();
    let date = rfc2822::to_string(&source.time.to_zoned(jiff::tz::TimeZone::UTC))?;
    writeln!(text, "whyrst ({version}) unstable; urgency=medium\n")?;
    writeln!(text, "  * Built from commit {}.\n", source.commit)?;
    writeln!(text, " -- {MAINTAINER}  {date}")?;
    Ok(text)
}

/// The MIT licence in the form that machines read: indented, with a dot for an empty line.
fn licence() -> Result<Vec<u8>> {
    let text = String::from_utf8(read("LICENSE-MIT")?).context("LICENSE-MIT")?;
    let grant = text.split_once("\n\n").and_then(|(_, rest)| rest.split_once("\n\n")).map_or("", |(_, grant)| grant);
    let mut paragraph = "License: Expat\n".to_owned();
    for line in grant.trim_end().lines() {
        writeln!(paragraph, " {}", if line.is_empty() { "." } else { line })?;
    }
    Ok(paragraph.into_bytes())
}

fn place(root: &Path, file: &File) -> Result<()> {
    let path = root.join(&file.path);
    let parent = path.parent().context("a file without a directory")?;
    fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    // Whatever the umask is.
    for directory in parent.ancestors().take_while(|directory| directory.starts_with(root)) {
        fs::set_permissions(directory, Permissions::from_mode(EXECUTABLE))?;
    }
    fs::write(&path, &file.bytes).with_context(|| format!("writing {}", path.display()))?;
    fs::set_permissions(&path, Permissions::from_mode(file.mode))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::process::Command;

    use jiff::Timestamp;

    use super::{SCRIPTS, write};
    use crate::dist::files::Common;
    use crate::dist::source::Source;
    use crate::process::{output, workspace};

    /// The package is the same whenever it is made, and holds what it has to, owned by root.
    #[test]
    fn a_package_depends_on_its_content_alone() {
        let source = Source::of("1.2.3", "0123456789abcdef", Timestamp::from_second(1_700_000_000).unwrap());
        let common = Common {
            binary: b"program".to_vec(),
            manual: BTreeMap::from([("whyrst.1".to_owned(), b"page".to_vec())]),
            completions: vec![("bash", "whyrst", b"script".to_vec())],
            configuration: b"# nothing\n".to_vec(),
            sbom: b"{}".to_vec(),
            notices: b"notices".to_vec(),
        };
        let made = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()]
            .map(|directory| (write(&source, &common, directory.path()).unwrap(), directory));
        let [first, second] = [&made[0].0, &made[1].0].map(|path| fs::read(path).unwrap());
        assert!(first == second, "two packages of the same content differ");
        let list = output(Command::new("dpkg-deb").arg("--contents").arg(&made[0].0)).unwrap();
        for (mode, path) in [
            ("-rwxr-xr-x root/root", " ./usr/bin/whyrst"),
            ("-rw-r--r-- root/root", " ./etc/whyrst.toml"),
            ("-rw-r--r-- root/root", " ./usr/lib/systemd/system/whyrst-record.service"),
            ("-rw-r--r-- root/root", " ./usr/share/man/man1/whyrst.1.gz"),
            ("-rw-r--r-- root/root", " ./usr/share/bash-completion/completions/whyrst"),
            ("-rw-r--r-- root/root", " ./usr/share/doc/whyrst/copyright"),
        ] {
            assert!(list.lines().any(|line| line.starts_with(mode) && line.ends_with(path)), "{mode} {path}: {list}");
        }
        assert!(list.lines().all(|line| line.contains(" root/root ")), "{list}");
        let fields = output(Command::new("dpkg-deb").arg("--field").arg(&made[0].0)).unwrap();
        assert!(fields.contains("Version: 1.2.3-1\n") && !fields.contains("@SIZE@"), "{fields}");
    }

    /// dpkg's scripts are understood by a shell that knows nothing but POSIX.
    #[test]
    fn scripts_are_shell() {
        for script in SCRIPTS {
            output(Command::new("dash").arg("-n").arg(workspace().join("packaging").join(script))).unwrap();
        }
    }
}
