//! One recording: as it is, with repaired checksums, compressed, or cut.

use std::io::Cursor;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tracer_model::capture::{Host, Item};
use tracer_recording::compress::Compression;
use tracer_recording::{Reader, Writer, compress};

use crate::checksums::mended_if;

/// One recording. The first byte has the changes: checksums repaired (1), compressed (2), cut (4). The next two bytes have the
/// length after a cut.
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
    // Writing may leave out unknown values, but a second round must give the same bytes.
    let once = written(&host, &items);
    let (host, items) = read(&once).expect("what was written can be read");
    assert!(written(&host, &items) == once, "written a second time it is something else");
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

/// A file in memory that its writer shares.
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
