//! Writing a recording while a capture runs.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracer_model::capture::{Counters, Host, Item};
use tracer_model::time::Instant;

use super::shown;
use crate::compress::Compression;
use crate::format::{FRAME_HEADER, MAGIC, VERSION, kind};
use crate::{compress, format};

/// Bytes that are gathered before they are compressed or written, unless a flush comes first.
const GATHERED: usize = 1 << 18;

/// A recording being written.
pub struct Writer {
    path: PathBuf,
    to: Box<dyn Write + Send>,
    compression: Compression,
    /// Frames that have been gathered.
    gathered: Vec<u8>,
    /// Bytes of the file that the kernel has not taken yet.
    ready: Vec<u8>,
    written: u64,
    /// The file, where it is one.
    file: Option<Arc<File>>,
}

/// A recording could not be written.
#[derive(Debug, thiserror::Error)]
#[error("writing {path}", path = shown(path))]
pub struct WriteError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl Writer {
    /// Creates a recording that only its owner may read; `-` is standard output.
    pub fn create(path: &Path, host: &Host, compression: Compression) -> Result<Self, WriteError> {
        if path == Path::new("-") {
            return Self::new(Box::new(io::stdout()), path, host, compression);
        }
        let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
        Self::to_file(
            opened.map_err(|source| WriteError { path: path.to_path_buf(), source })?,
            path,
            host,
            compression,
        )
    }

    /// Writes a recording to a file that is empty.
    pub fn to_file(file: File, path: &Path, host: &Host, compression: Compression) -> Result<Self, WriteError> {
        let file = Arc::new(file);
        let writer = Self::new(Box::new(Arc::clone(&file)), path, host, compression)?;
        Ok(Self { file: Some(file), ..writer })
    }

    /// Writes a recording to anywhere; `path` is only for messages.
    pub fn new(
        to: Box<dyn Write + Send>,
        path: &Path,
        host: &Host,
        compression: Compression,
    ) -> Result<Self, WriteError> {
        let (gathered, ready) = (Vec::new(), Vec::new());
        let mut writer = Self { path: path.to_path_buf(), to, compression, gathered, ready, written: 0, file: None };
        writer.start(host).map_err(|source| writer.error(source))?;
        Ok(writer)
    }

    /// Appends an item.
    pub fn write(&mut self, item: &Item) -> Result<(), WriteError> {
        let (kind, payload) = format::encode(item).map_err(|error| self.error(error.into()))?;
        self.frame(kind, &payload).map_err(|source| self.error(source))
    }

    /// Writes the counters at the beginning of this file, which is not the first of its recording.
    pub fn baseline(&mut self, counters: &Counters) -> Result<(), WriteError> {
        let payload = format::encode_baseline(counters).map_err(|error| self.error(error.into()))?;
        self.frame(kind::BASELINE, &payload).map_err(|source| self.error(source))
    }

    /// Writes that the recording goes on in another file.
    pub fn continued(&mut self, at: Instant) -> Result<(), WriteError> {
        let payload = format::encode_continued(at).map_err(|error| self.error(error.into()))?;
        self.frame(kind::ENDED, &payload).map_err(|source| self.error(source))
    }

    /// Hands everything written so far to the kernel, so that a crash of this program loses nothing of it.
    ///
    /// After an error the rest is kept, in order: another flush continues there.
    pub fn flush(&mut self) -> Result<(), WriteError> {
        self.hand_over().map_err(|source| self.error(source))
    }

    /// Whether the file has been removed: what is written to it is lost when it is closed. One that was only moved or
    /// renamed is not.
    pub fn is_removed(&self) -> bool {
        let facts = self.file.as_ref().and_then(|file| file.metadata().ok());
        facts.is_some_and(|facts| facts.is_file() && facts.nlink() == 0)
    }

    /// An error where the file has been removed.
    pub fn expect_kept(&self) -> Result<(), WriteError> {
        let removed = || io::Error::new(io::ErrorKind::NotFound, "the file was removed while it was written");
        if self.is_removed() { Err(self.error(removed())) } else { Ok(()) }
    }

    /// Bytes in the file so far.
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// Bytes that the file will have once everything is flushed; of what is not compressed yet as many as it has now.
    pub const fn size(&self) -> u64 {
        self.written + (self.ready.len() + self.gathered.len()) as u64
    }

    fn start(&mut self, host: &Host) -> io::Result<()> {
        self.gathered.extend_from_slice(MAGIC);
        self.gathered.extend_from_slice(&VERSION.to_le_bytes());
        self.frame(kind::HOST, &format::encode_host(host)?)?;
        self.hand_over()
    }

    fn frame(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len() + 1).map_err(io::Error::other)?;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&[kind]);
        hasher.update(payload);
        self.gathered.reserve(FRAME_HEADER + payload.len());
        self.gathered.extend_from_slice(&length.to_le_bytes());
        self.gathered.extend_from_slice(&hasher.finalize().to_le_bytes());
        self.gathered.push(kind);
        self.gathered.extend_from_slice(payload);
        if self.gathered.len() >= GATHERED { self.hand_over() } else { Ok(()) }
    }

    fn hand_over(&mut self) -> io::Result<()> {
        match self.compression {
            Compression::None => self.ready.append(&mut self.gathered),
            Compression::Zstd if self.gathered.is_empty() => {}
            Compression::Zstd => {
                self.ready.extend(compress::frame(&self.gathered));
                self.gathered.clear();
            }
        }
        let mut taken = 0;
        let result = loop {
            if taken == self.ready.len() {
                break self.to.flush();
            }
            match self.to.write(&self.ready[taken..]) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => taken += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        self.ready.drain(..taken);
        self.written += taken as u64;
        result
    }

    fn error(&self, source: io::Error) -> WriteError {
        WriteError { path: self.path.clone(), source }
    }
}
