//! Repairs the checksums of a changed recording, so that its frames are read.

use tracer_recording::format::{FRAME_HEADER, MAGIC};

/// The recording, with right checksums if `mend` is set.
pub(crate) fn mended_if(mend: bool, file: &[u8]) -> Vec<u8> {
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
