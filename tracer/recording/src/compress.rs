//! Compressed recordings: zstd (RFC 8878), as a sequence of independent frames.
//!
//! Each flush ends a frame, and every frame has a checksum: flushed data can be read, whatever happens to the rest of the
//! file. `zstd -d` reads such files, and files that `zstd` compressed are read here.

use std::io::{self, BufRead, Read};
use std::path::Path;

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

/// How a frame of zstd starts (RFC 8878 §3.1.1).
pub const MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();

/// The largest window that is accepted: what RFC 8878 §3.1.1.1.2 recommends that every decoder supports. A frame that asks
/// for more memory is refused before it gets any.
const WINDOW: u64 = 8 << 20;

/// How a recording is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// zstd.
    Zstd,
}

impl Compression {
    /// What is wanted of a file: its name may ask for it too.
    pub fn of(path: &Path, asked: bool) -> Self {
        let by_name = path.extension().is_some_and(|extension| extension == "zst");
        if asked || by_name { Self::Zstd } else { Self::None }
    }
}

/// Whether a file that starts like this is compressed: with a frame, or one that is to be skipped (RFC 8878 §3.1.2).
pub fn is_compressed(start: &[u8]) -> bool {
    start == MAGIC || matches!(start, [0x50..=0x5f, 0x2a, 0x4d, 0x18])
}

/// Compresses some bytes to a whole frame.
///
/// A capture cannot be repeated: a frame that does not decompress to its input is stored uncompressed.
pub fn frame(bytes: &[u8]) -> Vec<u8> {
    let frame = compress_to_vec(bytes, CompressionLevel::Fastest);
    let mut back = Vec::with_capacity(bytes.len());
    match Decompressor::new(frame.as_slice()).read_to_end(&mut back) {
        Ok(_) if back == bytes => frame,
        result => {
            tracing::warn!("{} bytes were not compressed: they did not come back right ({result:?})", bytes.len());
            compress_to_vec(bytes, CompressionLevel::Uncompressed)
        }
    }
}

/// Decompresses frame after frame.
///
/// A frame that is cut or damaged is an error of kind `InvalidData`; one of the source stays what it is.
pub struct Decompressor<R> {
    source: Source<R>,
    decoder: FrameDecoder,
    inside: bool,
}

/// The source, and what became of it: the decoder turns all errors into its own.
struct Source<R> {
    inner: R,
    error: Option<io::Error>,
    ended: bool,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buffer) {
            Ok(0) if !buffer.is_empty() => {
                self.ended = true;
                Ok(0)
            }
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                let kind = error.kind();
                self.error = Some(error);
                Err(kind.into())
            }
            other => other,
        }
    }
}

impl<R: BufRead> Decompressor<R> {
    /// Decompresses what `inner` gives.
    pub fn new(inner: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(WINDOW);
        Self { source: Source { inner, error: None, ended: false }, decoder, inside: false }
    }

    /// Begins the next frame; false at the end.
    fn next_frame(&mut self) -> io::Result<bool> {
        loop {
            if self.source.inner.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.init(&mut self.source) {
                Ok(()) => {
                    self.inside = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let length = u64::from(length);
                    if io::copy(&mut self.source.by_ref().take(length), &mut io::sink())? < length {
                        return Err(cut());
                    }
                }
                Err(error) => return Err(self.explain(&error)),
            }
        }
    }

    fn explain(&mut self, error: &FrameDecoderError) -> io::Error {
        if let Some(error) = self.source.error.take() {
            return error;
        }
        match error {
            _ if self.source.ended => cut(),
            FrameDecoderError::WindowSizeTooBig { .. } => damaged(
                "it was compressed with a window of more than 8 MiB; compress it again with `zstd -19` or less"
                    .to_owned(),
            ),
            error => damaged(format!("a compressed frame is damaged: {error}")),
        }
    }
}

impl<R: BufRead> Read for Decompressor<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.inside && !self.next_frame()? {
                return Ok(0);
            }
            if self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer);
            }
            if self.decoder.is_finished() {
                self.inside = false;
                let (written, found) = (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum());
                if written.is_some() && written != found {
                    return Err(damaged("a compressed frame's checksum does not fit its content".to_owned()));
                }
            } else if let Err(error) =
                self.decoder.decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
            {
                self.inside = false;
                return Err(self.explain(&error));
            }
        }
    }
}

fn cut() -> io::Error {
    damaged("the file ends inside a compressed frame".to_owned())
}

fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read};
    use std::path::Path;

    use proptest::prelude::*;
    use rstest::rstest;

    use super::{Compression, Decompressor, frame, is_compressed};

    fn decompress(bytes: &[u8]) -> (Vec<u8>, io::Result<()>) {
        let mut out = Vec::new();
        let result = Decompressor::new(bytes).read_to_end(&mut out).map(drop);
        (out, result)
    }

    #[rstest]
    #[case("a.whyrst", false, Compression::None)]
    #[case("a.whyrst", true, Compression::Zstd)]
    #[case("a.whyrst.zst", false, Compression::Zstd)]
    #[case("zst", false, Compression::None)]
    fn the_name_may_ask_for_it(#[case] path: &str, #[case] asked: bool, #[case] expected: Compression) {
        assert_eq!(Compression::of(Path::new(path), asked), expected);
    }

    #[test]
    fn several_frames_are_one_stream() {
        let long = vec![7; 300_000];
        let frames = [&b"one"[..], b"", &long];
        let skipped = [&[0x51, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"xyz"].concat();
        let bytes = [frame(frames[0]), skipped, frame(frames[1]), frame(frames[2])].concat();
        assert!(is_compressed(&bytes[..4]));
        let (out, result) = decompress(&bytes);
        assert_eq!(out, frames.concat());
        result.unwrap();
    }

    /// A frame with a window of 128 MiB, as `zstd --ultra -22` writes them, gets no memory.
    #[test]
    fn large_windows_are_refused() {
        let header = [0x28, 0xb5, 0x2f, 0xfd, 0x00, (27 - 10) << 3];
        let (out, result) = decompress(&[&header[..], &[1, 0, 0]].concat());
        assert!(out.is_empty());
        assert!(result.unwrap_err().to_string().contains("more than 8 MiB"));
    }

    /// An error of the disk is not taken for damage.
    #[test]
    fn errors_of_the_source_stay_what_they_are() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::PermissionDenied.into())
            }
        }
        let bytes = frame(&[1; 100]);
        let source = io::BufReader::new(bytes[..8].chain(Broken));
        let error = Decompressor::new(source).read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }

    proptest! {
        /// Cut anywhere, every whole frame before the cut comes back, and the cut is reported.
        #[test]
        fn cut_anywhere(parts in prop::collection::vec(prop::collection::vec(0_u8..4, 1..200), 1..6), at in 0.0..1.0) {
            let frames: Vec<Vec<u8>> = parts.iter().map(|part| frame(part)).collect();
            let whole = frames.concat();
            #[expect(clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "a place somewhere in the file")]
            let cut = (whole.len() as f64 * at) as usize;
            let mut ends = frames.iter().scan(0, |end, frame| { *end += frame.len(); Some(*end) });
            let complete = ends.by_ref().take_while(|end| *end <= cut).count();
            let (out, result) = decompress(&whole[..cut]);
            prop_assert_eq!(&out, &parts[..complete].concat());
            let clean = cut == frames[..complete].iter().map(Vec::len).sum::<usize>();
            prop_assert_eq!(result.is_ok(), clean);
        }

        /// Whatever the bytes are, it ends, with bytes or a named error.
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300), begin in any::<bool>()) {
            let start = if begin { &super::MAGIC[..] } else { &[] };
            let (_, result) = decompress(&[start, &bytes].concat());
            if let Err(error) = result {
                prop_assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            }
        }

        /// A flipped bit does not change what is read without being noticed.
        #[test]
        fn damaged_anywhere(bytes in prop::collection::vec(0_u8..8, 1..400), place in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let mut damaged = frame(&bytes);
            let place = place.index(damaged.len());
            damaged[place] ^= 1_u8 << bit;
            let (out, result) = decompress(&damaged);
            prop_assert!(result.is_err() || out == bytes || out.is_empty(), "byte {} bit {}", place, bit);
        }
    }
}
