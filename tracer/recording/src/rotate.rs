//! Rotation: a recording in several files, of which the newest are kept.
//!
//! Each file is a recording by itself: it begins with the state of hooks, namespaces and rules, and with the counters at its
//! beginning. Files are `STEM-20261121T145249Z-0001.EXTENSION`: sorted by name they are in their order.

mod files;
mod known;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracer_model::capture::{Counters, Host, Item};
use tracer_model::time::Instant;

use self::files::Files;
use self::known::Known;
use crate::compress::Compression;
use crate::{WriteError, Writer, shown};

/// Bytes that are reserved for the last frames of a file.
const ENDING: u64 = 4 << 10;

/// When the next file begins, and how many are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Once a file has about this many bytes.
    pub size: Option<u64>,
    /// Once it has been written to for so long.
    pub every: Option<Duration>,
    /// How many files are kept besides the current one.
    pub keep: usize,
}

/// A recording in several files.
pub struct Rotation {
    policy: Policy,
    compression: Compression,
    files: Files,
    host: Host,
    known: Known,
    writer: Writer,
    current: PathBuf,
    /// The files that are complete, the oldest first; those of earlier captures are among them.
    complete: VecDeque<PathBuf>,
    began: Instant,
    part: u32,
    /// Anything was written to the current file after its beginning.
    used: bool,
    asked: bool,
    written: u64,
}

impl Rotation {
    /// Begins the first file. `path` is what its name is made of.
    pub fn create(path: &Path, host: &Host, policy: Policy, compression: Compression) -> Result<Self, WriteError> {
        let error = |source| WriteError { path: path.to_path_buf(), source };
        let files = Files::new(path).map_err(error)?;
        let mut complete: VecDeque<PathBuf> = files.existing().map_err(error)?.into();
        let host = Host { part: Some(1), ..host.clone() };
        let known = Known::default();
        let begin = |complete: &mut VecDeque<PathBuf>| {
            making_room(&files, complete, || files.create(&host, &known, None, compression))
        };
        let (current, writer) = begin(&mut complete)?;
        let mut rotation = Self {
            policy,
            compression,
            files,
            began: host.started,
            host,
            known,
            writer,
            current,
            complete,
            part: 1,
            used: false,
            asked: false,
            written: 0,
        };
        rotation.prune();
        Ok(rotation)
    }

    /// Appends an item.
    pub fn write(&mut self, item: &Item) -> Result<(), WriteError> {
        self.known.note(item);
        self.used = true;
        // The writer keeps what did not fit, and writes it first at the next flush.
        let result = self.writer.write(item);
        self.unless_full(result)
    }

    /// Hands everything written so far to the kernel.
    pub fn flush(&mut self) -> Result<(), WriteError> {
        let result = self.writer.flush();
        self.unless_full(result)
    }

    /// Ends the current file at the next occasion, whatever its size.
    pub const fn ask(&mut self) {
        self.asked = true;
    }

    /// Whether the counters are wanted now, to end the current file with.
    pub fn is_full(&self) -> bool {
        self.asked || self.used && self.policy.size.is_some_and(|size| self.writer.size() + ENDING >= size)
    }

    /// Takes the counters, and ends the current file with them if it is time to.
    pub fn count(&mut self, counters: &Counters) -> Result<(), WriteError> {
        if !self.asked && self.writer.is_removed() {
            tracing::warn!("{} was removed while it was written: another file begins", shown(&self.current));
            self.asked = true;
        }
        let overdue = self.policy.every.is_some_and(|every| counters.at - self.began >= every);
        if self.is_full() || overdue { self.next_file(counters) } else { Ok(()) }
    }

    /// An error where the current file has been removed.
    pub fn expect_kept(&self) -> Result<(), WriteError> {
        self.writer.expect_kept()
    }

    /// The file that is written now.
    pub fn current(&self) -> &Path {
        &self.current
    }

    /// How many files were begun.
    pub const fn parts(&self) -> u32 {
        self.part
    }

    /// Bytes written so far, to all files.
    pub const fn written(&self) -> u64 {
        self.written + self.writer.written()
    }

    fn next_file(&mut self, counters: &Counters) -> Result<(), WriteError> {
        let part = self.part.saturating_add(1);
        let host = Host { started: counters.at, part: Some(part), ..self.host.clone() };
        let Self { files, known, complete, compression, .. } = self;
        let (path, writer) = making_room(files, complete, || files.create(&host, known, Some(counters), *compression))?;
        // Only now, when the next one is there, does this one end.
        let ended = self
            .writer
            .write(&Item::Counters(counters.clone()))
            .and_then(|()| self.writer.continued(counters.at))
            .and_then(|()| self.writer.flush());
        self.unless_full(ended)?;
        self.written += self.writer.written();
        self.writer = writer;
        self.complete.push_back(std::mem::replace(&mut self.current, path));
        (self.part, self.began, self.used, self.asked) = (part, counters.at, false, false);
        self.prune();
        Ok(())
    }

    /// Removes the oldest files while the disk is full.
    fn unless_full(&mut self, mut result: Result<(), WriteError>) -> Result<(), WriteError> {
        while let Err(error) = &result {
            if !is_full(error) || !give_up_oldest(&self.files, &mut self.complete) {
                break;
            }
            result = self.writer.flush();
        }
        result
    }

    fn prune(&mut self) {
        while self.complete.len() > self.policy.keep {
            if let Some(oldest) = self.complete.pop_front() {
                self.files.remove(&oldest);
            }
        }
    }
}

/// Tries again, without the oldest files, while the disk is full.
fn making_room<T>(
    files: &Files,
    complete: &mut VecDeque<PathBuf>,
    mut make: impl FnMut() -> Result<T, WriteError>,
) -> Result<T, WriteError> {
    loop {
        match make() {
            Err(error) if is_full(&error) && give_up_oldest(files, complete) => {}
            result => return result,
        }
    }
}

fn give_up_oldest(files: &Files, complete: &mut VecDeque<PathBuf>) -> bool {
    while let Some(oldest) = complete.pop_front() {
        if files.remove(&oldest) {
            tracing::warn!("the disk is full: {} was removed", shown(&oldest));
            return true;
        }
    }
    false
}

fn is_full(error: &WriteError) -> bool {
    matches!(error.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests;
