//! Recordings: a capture is written while it runs, and read back later.
//!
//! The reader of a file that was cut returns every whole frame before the cut, and the offset of the cut.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::format::VERSION;

pub use self::joined::Recordings;
pub use self::read::Reader;
pub use self::write::{WriteError, Writer};

mod blocks;
pub mod compress;
mod foreign;
pub mod format;
mod joined;
mod read;
pub mod redact;
pub mod rotate;
#[cfg(test)]
mod tests;
mod write;

/// Why a recording cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be opened or read.
    #[error("reading {path}", path = shown(path))]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not a recording.
    #[error("{path} is not a whyrst recording{looks_like}", path = shown(path))]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it seems to be, with a leading `: `, or empty.
        looks_like: &'static str,
    },
    /// It was written by a later program.
    #[error("{path} has recording format {found}; this program reads format {VERSION}", path = shown(path))]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// It ends or is damaged before the frame that describes the host.
    #[error("{path} holds no whole record: {what}", path = shown(path))]
    NoHost {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// Why several recordings cannot be read as one.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// One of them cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Standard input can be read once, and joining reads the beginning of each recording first.
    #[error("`-` cannot be read together with others: write it to a file first")]
    Pipe,
    /// A directory without recordings.
    #[error("{path} has no recordings in it: no file whose name ends in .whyrst or .whyrst.zst", path = shown(path))]
    Nothing {
        /// The directory.
        path: PathBuf,
    },
    /// One lacks the boot that it is from.
    #[error("{path} does not say which boot of which host it is of, an older whyrst wrote it: read it by itself", path = shown(path))]
    Nameless {
        /// The file.
        path: PathBuf,
    },
    /// They are from two hosts, or from two boots of one host.
    #[error(
        "{one} and {other} are of different {what}: a report covers one boot of one host, so read each by itself",
        one = shown(one),
        other = shown(other)
    )]
    Different {
        /// A file.
        one: PathBuf,
        /// Another.
        other: PathBuf,
        /// What is different.
        what: &'static str,
    },
    /// They cover the same time.
    #[error(
        "{one} and {other} cover the same time but are of two captures: events of both would be counted twice, so read \
         each by itself",
        one = shown(one),
        other = shown(other)
    )]
    Overlap {
        /// A file.
        one: PathBuf,
        /// Another.
        other: PathBuf,
    },
}

/// A path without control characters, for messages: a file may have any name.
pub fn shown(path: &Path) -> String {
    let escaped = |character: char| -> String {
        if character.is_control() { character.escape_default().collect() } else { character.to_string() }
    };
    path.to_string_lossy().chars().map(escaped).collect()
}

/// Whether two paths are the same file, so that a recording is not read and overwritten at once.
pub fn same_file(one: &Path, other: &Path) -> bool {
    match (fs::canonicalize(one), fs::canonicalize(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}
