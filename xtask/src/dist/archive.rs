//! Reproducible archives: sorted, dated by the commit, owned by root.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};
use tar::{EntryType, Header};

use super::TARGET;
use super::files::{Common, File};
use super::source::Source;

/// Compresses as `gzip -9n` does: without a name or time.
pub(super) fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

/// Writes the archive for those who do not use Debian.
pub(super) fn write(source: &Source, common: &Common, directory: &Path) -> Result<PathBuf> {
    let name = format!("whyrst-{}-{TARGET}", source.version);
    let files = common.tarball()?;
    let path = directory.join(format!("{name}.tar.gz"));
    let bytes = gzip(&pack(&name, files, source.epoch())?)?;
    fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

/// A tar archive of files below a directory.
fn pack(top: &str, mut files: Vec<File>, time: u64) -> Result<Vec<u8>> {
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let mut archive = tar::Builder::new(Vec::new());
    let mut directories: Vec<PathBuf> = Vec::new();
    for file in files {
        let path = Path::new(top).join(&file.path);
        let parents: Vec<&Path> = path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()).collect();
        for parent in parents.into_iter().rev() {
            if !directories.iter().any(|known| known == parent) {
                directories.push(parent.to_path_buf());
                let mut header = header(EntryType::Directory, 0o755, 0, time);
                archive.append_data(&mut header, format!("{}/", parent.display()), [].as_slice())?;
            }
        }
        let mut header = header(EntryType::Regular, file.mode, file.bytes.len() as u64, time);
        archive.append_data(&mut header, &path, file.bytes.as_slice())?;
    }
    Ok(archive.into_inner()?)
}

fn header(kind: EntryType, mode: u32, size: u64, time: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(time);
    header.set_uid(0);
    header.set_gid(0);
    header
}

#[cfg(test)]
mod tests {
    use super::{File, gzip, pack};

    /// The order in which files are found, and the time, change nothing.
    #[test]
    fn an_archive_depends_on_its_content_alone() {
        let files = |order: [usize; 3]| {
            let all = [("bin/b", 0o755, "b"), ("a", 0o644, "a"), ("bin/c", 0o644, "c")];
            order.map(|at| File::new(all[at].0, all[at].1, all[at].2.as_bytes().to_vec())).to_vec()
        };
        let first = gzip(&pack("top", files([0, 1, 2]), 1_000).unwrap()).unwrap();
        let second = gzip(&pack("top", files([2, 1, 0]), 1_000).unwrap()).unwrap();
        assert_eq!(first, second);
        let bytes = pack("top", files([2, 0, 1]), 1_000).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let seen: Vec<(String, u32, u64, u64)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                let path = entry.path().unwrap().display().to_string();
                (path, header.mode().unwrap(), header.uid().unwrap(), header.mtime().unwrap())
            })
            .collect();
        let expected =
            [("top/", 0o755), ("top/a", 0o644), ("top/bin/", 0o755), ("top/bin/b", 0o755), ("top/bin/c", 0o644)];
        let expected: Vec<(String, u32, u64, u64)> =
            expected.iter().map(|(path, mode)| ((*path).to_owned(), *mode, 0, 1_000)).collect();
        assert_eq!(seen, expected);
    }
}
