//! The files of a rotation: their names, how they come into being, and which of them may be removed.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, OFlags, RenameFlags, flock, renameat_with};
use rustix::io::Errno;

use tracer_model::capture::{Counters, Host};

use super::known::Known;
use crate::compress::{Compression, Decompressor};
use crate::format::MAGIC;
use crate::{WriteError, Writer, compress, shown};

/// Names that are tried for a new file before giving up.
const TRIES: u32 = 1_000;

/// What the names of the files have in common.
#[derive(Debug, Clone)]
pub(super) struct Files {
    directory: PathBuf,
    stem: String,
    /// With its dot, or empty.
    extension: String,
}

impl Files {
    /// Files named after `path`.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
        let name = path.file_name().and_then(OsStr::to_str).ok_or_else(|| invalid("not a file name in UTF-8"))?;
        let plain = name.strip_suffix(".zst").unwrap_or(name);
        let stem = plain.rfind('.').filter(|dot| *dot > 0).map_or(plain, |dot| &plain[..dot]);
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Self { directory: directory.to_path_buf(), stem: stem.to_owned(), extension: name[stem.len()..].to_owned() })
    }

    fn name(&self, host: &Host, serial: u32) -> String {
        let time = host.clock.wall(host.started).strftime("%Y%m%dT%H%M%SZ");
        format!("{}-{time}-{serial:04}{}", self.stem, self.extension)
    }

    /// Whether a name is one that [`Files::name`] gives.
    fn is_ours(&self, name: &str) -> bool {
        let between = || name.strip_prefix(&self.stem)?.strip_prefix('-')?.strip_suffix(&self.extension);
        let Some((time, serial)) = between().and_then(|between| between.split_once('-')) else { return false };
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let time_fits = time.is_ascii()
            && time.len() == 16
            && digits(&time[..8])
            && time.as_bytes()[8] == b'T'
            && digits(&time[9..15])
            && time.ends_with('Z');
        time_fits && serial.len() >= 4 && digits(serial)
    }

    /// The recordings that are there already, the oldest first.
    pub(super) fn existing(&self) -> io::Result<Vec<PathBuf>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| self.is_ours(name)) && recording(&entry.path()).is_some() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names.into_iter().map(|name| self.directory.join(name)).collect())
    }

    /// Begins a file. It gets its name once it can be read, and never replaces another file.
    pub(super) fn create(
        &self,
        host: &Host,
        known: &Known,
        baseline: Option<&Counters>,
        compression: Compression,
    ) -> Result<(PathBuf, Writer), WriteError> {
        let mut serial = host.part.unwrap_or(1);
        for _ in 0..TRIES {
            let path = self.directory.join(self.name(host, serial));
            let hidden = self.directory.join(format!(".{}.new", self.name(host, serial)));
            let failed = |source| WriteError { path: path.clone(), source };
            serial = serial.wrapping_add(1);
            let opened = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
                .open(&hidden);
            let file = match opened {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                other => other.map_err(failed)?,
            };
            let begun = begin(file, &path, host, known, baseline, compression)
                .and_then(|writer| give_name(&hidden, &path).map(|named| named.then_some(writer)).map_err(failed));
            match begun {
                Ok(Some(writer)) => return Ok((path, writer)),
                Ok(None) => discard(&hidden),
                Err(error) => {
                    discard(&hidden);
                    return Err(error);
                }
            }
        }
        let path = self.directory.join(self.name(host, serial));
        Err(WriteError { path, source: io::ErrorKind::AlreadyExists.into() })
    }

    /// Removes a recording that nobody writes to, and returns whether it did. Other files stay.
    pub(super) fn remove(&self, path: &Path) -> bool {
        let named = path.file_name().and_then(OsStr::to_str).is_some_and(|name| self.is_ours(name));
        let Some(file) = recording(path).filter(|_| named) else { return false };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            tracing::warn!("{} is kept: another whyrst writes to it", shown(path));
            return false;
        }
        fs::remove_file(path).inspect_err(|error| tracing::warn!("removing {}: {error}", shown(path))).is_ok()
    }
}

/// Writes what a file begins with.
fn begin(
    file: File,
    path: &Path,
    host: &Host,
    known: &Known,
    baseline: Option<&Counters>,
    compression: Compression,
) -> Result<Writer, WriteError> {
    // Without locks in the file system, nothing shows that the file is in use.
    if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        tracing::debug!("locking {}: {error}", shown(path));
    }
    let mut writer = Writer::to_file(file, path, host, compression)?;
    if let Some(baseline) = baseline {
        for item in known.items() {
            writer.write(&item)?;
        }
        writer.baseline(baseline)?;
    }
    writer.flush()?;
    Ok(writer)
}

/// Gives a file its name unless another has it, and returns whether it did.
fn give_name(hidden: &Path, path: &Path) -> io::Result<bool> {
    match renameat_with(CWD, hidden, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        // Some file systems cannot do this in one step; there the name is checked first.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if fs::symlink_metadata(path).is_err() => {
            fs::rename(hidden, path).map(|()| true)
        }
        Err(Errno::EXIST | Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn discard(hidden: &Path) {
    if let Err(error) = fs::remove_file(hidden) {
        tracing::debug!("removing {}: {error}", shown(hidden));
    }
}

/// Opens a regular file, not through a link, that begins like a recording.
fn recording(path: &Path) -> Option<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let mut file = opened.ok().filter(|file| file.metadata().is_ok_and(|metadata| metadata.is_file()))?;
    let mut start = [0; MAGIC.len()];
    file.read_exact(&mut start).ok()?;
    if compress::is_compressed(&start[..compress::MAGIC.len()]) {
        let whole = Read::chain(&start[..], &file);
        let mut plain = [0; MAGIC.len()];
        Decompressor::new(BufReader::new(whole)).read_exact(&mut plain).ok()?;
        start = plain;
    }
    (start == *MAGIC).then_some(file)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rstest::rstest;

    use super::Files;

    #[rstest]
    #[case("rec.whyrst", "rec-20261121T145249Z-0001.whyrst", true)]
    #[case("rec.whyrst", "rec-20261121T145249Z-12345.whyrst", true)]
    #[case("rec.whyrst.zst", "rec-20261121T145249Z-0001.whyrst.zst", true)]
    #[case("rec", "rec-20261121T145249Z-0001", true)]
    #[case("/a/b.c/rec.d.whyrst", "rec.d-20261121T145249Z-0001.whyrst", true)]
    #[case("rec.whyrst", "rec-20261121T145249Z-0001.whyrst.zst", false)]
    #[case("rec.whyrst", "rec-20261121T145249Z-001.whyrst", false)]
    #[case("rec.whyrst", "rec-20261121T145249Z-0001x.whyrst", false)]
    #[case("rec.whyrst", "rec-2026112éT145249Z-0001.whyrst", false)]
    #[case("rec.whyrst", "rec-old-20261121T145249Z-0001.whyrst", false)]
    #[case("rec.whyrst", "rec.whyrst", false)]
    fn names(#[case] path: &str, #[case] name: &str, #[case] ours: bool) {
        assert_eq!(Files::new(Path::new(path)).unwrap().is_ours(name), ours);
    }
}
