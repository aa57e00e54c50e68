//! Several recordings, read as one capture.

use std::fs;
use std::path::PathBuf;

use tracer_model::capture::Items as _;
use tracer_recording::format::MAGIC;
use tracer_recording::{Recordings, compress};

use crate::checksums::mended_if;

/// Several recordings, each beginning with the magic bytes. The first byte has the changes: checksums repaired (1), and a bit for
/// each file that is compressed.
pub(crate) fn joined(data: &[u8]) {
    let Some((how, rest)) = data.split_first() else { return };
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let mut paths = Vec::new();
    for (index, file) in apart(rest).into_iter().take(6).enumerate() {
        let mut file = mended_if(how & 1 != 0, file);
        if how >> (index + 1) & 1 != 0 {
            file = compress::frame(&file);
        }
        let path: PathBuf = directory.path().join(format!("{index}.whyrst"));
        fs::write(&path, file).expect("writing a temporary file");
        paths.push(path);
    }
    let Ok(mut recordings) = Recordings::open(&paths) else { return };
    while let Ok(Some(_)) = recordings.read() {}
    let _remarks = (recordings.verdict(), recordings.remarks().len());
}

fn apart(bytes: &[u8]) -> Vec<&[u8]> {
    let starts: Vec<usize> =
        (0..bytes.len()).filter(|at| bytes[*at] == MAGIC[0] && bytes[*at..].starts_with(MAGIC)).collect();
    let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
    starts.iter().zip(ends).map(|(start, end)| &bytes[*start..end]).collect()
}
