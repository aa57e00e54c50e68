//! Recordings: as they are, with repaired checksums, compressed, and several as one.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tracer_model::capture::{Host, Item, Items};
use tracer_recording::compress::Compression;
use tracer_recording::format::{FRAME_HEADER, MAGIC};
use tracer_recording::{Reader, Recordings, Writer, compress};

/// One recording. The first byte says how it comes: checksums mended (1), compressed (2), cut (4; behind as many of the
/// bytes as the next two say).
pub(crate) fn recording(data: &[u8]) {
    let Some(([how, low, high], file)) = data.split_first_chunk() else { return };
    let file = mended_if(how & 1 != 0, file);
    let Some((host, items)) = read(&file) else { return };
    if how & 2 != 0 {
        let again = read(&compress::frame(&file));
        assert_eq!(Some((&host, &items)), again.as_ref().map(|(host, items)| (host, items)), "compressed");
    }
    if how & 4 != 0 {
        let cut = usize::from(u16::from_le_bytes([*low, *high])) % (file.len() + 1);
        if let Some((_, begun)) = read(&file[..cut]) {
            assert_eq!(items.get(..begun.len()), Some(&begun[..]), "cut at {cut}");
        }
    }
    // What is written down of what was read may be less, where words were not understood, but must stay what it is.
    let once = written(&host, &items);
    let (host, items) = read(&once).expect("what was written can be read");
    assert!(written(&host, &items) == once, "written a second time it is something else");
}

/// Several recordings as one: split where each begins. The first byte says whether checksums are mended (1), and which of
/// them are compressed.
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

/// Everything of a recording up to its damage.
fn read(bytes: &[u8]) -> Option<(Host, Vec<Item>)> {
    let mut reader = Reader::new(Box::new(Cursor::new(bytes.to_vec())), Path::new("fuzzed")).ok()?;
    let mut items = Vec::new();
    while let Some(item) = reader.read().expect("bytes in memory can be read") {
        items.push(item);
    }
    let _verdict = reader.verdict();
    Some((reader.host().clone(), items))
}

/// A file in memory whose writer is given away.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn written(host: &Host, items: &[Item]) -> Vec<u8> {
    let to = Shared::default();
    let mut writer = Writer::new(Box::new(to.clone()), Path::new("fuzzed"), host, Compression::None).expect("memory");
    for item in items {
        writer.write(item).expect("memory");
    }
    writer.flush().expect("memory");
    let bytes = to.0.lock().unwrap_or_else(PoisonError::into_inner);
    bytes.clone()
}

fn mended_if(mend: bool, file: &[u8]) -> Vec<u8> {
    let mut file = file.to_vec();
    if !mend {
        return file;
    }
    let mut at = MAGIC.len() + 4;
    while let Some(frame) = file.get(at..)
        && let Some(([a, b, c, d, ..], _)) = frame.split_first_chunk::<FRAME_HEADER>()
    {
        let length = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
        let Some(content) = frame.get(8..8 + length) else { break };
        let checksum = crc32fast::hash(content).to_le_bytes();
        file[at + 4..at + 8].copy_from_slice(&checksum);
        at += 8 + length;
    }
    file
}
