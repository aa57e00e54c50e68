//! What is built: the version, the commit and its time.

use std::env;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;

use crate::process::{output, workspace};

/// Names the time that everything is dated by, if it is set.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// The sources.
#[derive(Debug)]
pub(super) struct Source {
    /// The number of the release.
    pub(super) version: String,
    /// The commit, in full; `unknown` where the sources are neither a clone nor an archive that git made.
    pub(super) commit: String,
    /// When that was.
    pub(super) time: Timestamp,
    /// Tracked files that are not as the commit has them.
    changed: Vec<String>,
}

impl Source {
    pub(super) fn read() -> Result<Self> {
        let git = |arguments: &[&str]| output(Command::new("git").args(arguments).current_dir(workspace()));
        let archived = fs::read_to_string(workspace().join(".commit")).context(".commit")?;
        let (commit, changed) = if archived.starts_with('$') {
            let status = git(&["status", "--porcelain", "--untracked-files=no"])?;
            (git(&["log", "-1", "--format=%H %ct"])?, status.lines().map(str::to_owned).collect())
        } else {
            (archived, Vec::new())
        };
        let (commit, time) =
            commit.trim().split_once(' ').with_context(|| format!("`{commit}` is no commit with its time"))?;
        let time = env::var(EPOCH).unwrap_or_else(|_| time.to_owned());
        let seconds = time.parse().with_context(|| format!("`{time}` is no number of seconds"))?;
        Ok(Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: commit.to_owned(),
            time: Timestamp::from_second(seconds).with_context(|| format!("`{time}` is no time"))?,
            changed,
        })
    }

    /// Any sources, for tests.
    #[cfg(test)]
    pub(super) fn of(version: &str, commit: &str, time: Timestamp) -> Self {
        Self { version: version.to_owned(), commit: commit.to_owned(), time, changed: Vec::new() }
    }

    /// A commit can be built again; what is nowhere but here cannot.
    pub(super) fn must_be_committed(&self) -> Result<()> {
        if !self.changed.is_empty() {
            bail!("only a commit can be built twice; changed are:\n{}", self.changed.join("\n"));
        }
        Ok(())
    }

    /// Seconds since 1970.
    pub(super) fn epoch(&self) -> u64 {
        u64::try_from(self.time.as_second()).unwrap_or(0)
    }
}
