//! The files that are given away: written by the program about itself, or taken from the repository.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::sbom::Bill;
use super::source::Source;
use crate::process::{output, workspace};

/// Permission bits of programs.
pub(super) const EXECUTABLE: u32 = 0o755;
/// Permission bits of everything else.
pub(super) const READABLE: u32 = 0o644;
/// The shells, and what their scripts are called.
const SHELLS: [(&str, &str); 3] = [("bash", "whyrst"), ("zsh", "_whyrst"), ("fish", "whyrst.fish")];
/// Stands above the keys of the configuration file.
const CONFIGURATION: &str = "\
# Defaults of whyrst's options. As it comes this file changes nothing: every line is what is built in, or not set.
# The command line and the environment (the variable in each line) come first; `whyrst config` prints what is in force.
#
# whyrst-record.service has its own settings in its environment: `systemctl edit whyrst-record`.
";

/// A file in a package or an archive.
#[derive(Debug, Clone)]
pub(super) struct File {
    /// Where it goes, relative.
    pub(super) path: PathBuf,
    /// Its permission bits.
    pub(super) mode: u32,
    /// What is in it.
    pub(super) bytes: Vec<u8>,
}

impl File {
    pub(super) fn new(path: impl AsRef<Path>, mode: u32, bytes: Vec<u8>) -> Self {
        Self { path: path.as_ref().to_path_buf(), mode, bytes }
    }

    fn of_repository(path: &str) -> Result<Self> {
        Ok(Self::new(path, READABLE, read(path)?))
    }
}

/// A file of the repository.
pub(super) fn read(path: &str) -> Result<Vec<u8>> {
    fs::read(workspace().join(path)).with_context(|| format!("reading {path}"))
}

/// What is in every form of the product.
pub(super) struct Common {
    pub(super) binary: Vec<u8>,
    /// Man pages by file name.
    pub(super) manual: BTreeMap<String, Vec<u8>>,
    /// Completions: the shell, the script's name, the script.
    pub(super) completions: Vec<(&'static str, &'static str, Vec<u8>)>,
    pub(super) configuration: Vec<u8>,
    pub(super) sbom: Vec<u8>,
    /// What the licences of the dependencies want to be passed on.
    pub(super) notices: Vec<u8>,
}

impl Common {
    pub(super) fn make(source: &Source, binary: &Path, sbom: &Path, bill: &Bill) -> Result<Self> {
        let pages = TempDir::new()?;
        let directory = pages.path().to_string_lossy();
        run(binary, &["--quiet", "man", "--output", &directory])?;
        let mut manual = BTreeMap::new();
        for entry in fs::read_dir(pages.path())? {
            let path = entry?.path();
            let name = path.file_name().context("a page without a name")?.to_string_lossy().into_owned();
            manual.insert(name, fs::read(&path)?);
        }
        let completions = SHELLS
            .into_iter()
            .map(|(shell, name)| Ok((shell, name, run(binary, &["completions", shell])?.into_bytes())))
            .collect::<Result<_>>()?;
        let configuration = run(binary, &["config", "--no-config"])?;
        // The first line names files of this machine.
        let keys = configuration.split_once('\n').map_or("", |(_, keys)| keys);
        Ok(Self {
            binary: fs::read(binary).with_context(|| format!("reading {}", binary.display()))?,
            manual,
            completions,
            configuration: format!("{CONFIGURATION}{keys}").into_bytes(),
            sbom: fs::read(sbom)?,
            notices: bill.notices(source)?.into_bytes(),
        })
    }

    /// What the archive holds: no places, because those differ between distributions.
    pub(super) fn tarball(&self) -> Result<Vec<File>> {
        let mut files = vec![
            File::new("bin/whyrst", EXECUTABLE, self.binary.clone()),
            File::new("etc/whyrst.toml", READABLE, self.configuration.clone()),
            File::new("sbom.cdx.json", READABLE, self.sbom.clone()),
            File::new("THIRD-PARTY.txt", READABLE, self.notices.clone()),
            File::new("systemd/whyrst-record.service", READABLE, read("packaging/whyrst-record.service")?),
        ];
        for (name, page) in &self.manual {
            files.push(File::new(Path::new("man/man1").join(name), READABLE, page.clone()));
        }
        for (shell, name, script) in &self.completions {
            files.push(File::new(Path::new("completions").join(shell).join(name), READABLE, script.clone()));
        }
        let pages = output(Command::new("git").args(["ls-files", "docs"]).current_dir(workspace()))?;
        let own = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "COPYRIGHT.md", "LICENSE-APACHE", "LICENSE-MIT"];
        for path in own.into_iter().chain(pages.lines()) {
            files.push(File::of_repository(path)?);
        }
        Ok(files)
    }
}

/// What the program prints, in an environment that holds nothing of this machine.
fn run(binary: &Path, arguments: &[&str]) -> Result<String> {
    output(Command::new(binary).args(arguments).env_clear().env("WHYRST_CONFIG", "/dev/null").env("LC_ALL", "C.UTF-8"))
}
