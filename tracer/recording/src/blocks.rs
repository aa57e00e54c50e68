//! The bytes of a recording as blocks of whole frames whose checksums fit.
//!
//! Reading, decompressing and checking take about as long as all later processing. For a regular file, a thread of its own
//! does them a few blocks ahead.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use bytes::Bytes;

use crate::format::{FRAME_HEADER, FRAME_MAX};

/// Bytes read at once.
pub(super) const CHUNK: usize = 1 << 18;
/// Blocks in the queue. With the block at each end, they are the memory that reading ahead takes.
const AHEAD: usize = 4;

/// Frames, and the damage behind the last of them.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub(super) frames: Bytes,
    pub(super) damage: Option<String>,
}

/// How a source is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// As bytes arrive: a pipe.
    AsItComes,
    /// In large pieces, ahead of the consumer: a file.
    Ahead,
}

/// Where blocks come from.
pub(super) enum Blocks {
    /// Read on request.
    Here(Source),
    /// Read ahead.
    There(Receiver<io::Result<Block>>),
    /// There are no more.
    Over,
}

/// Bytes on their way to blocks.
pub(super) struct Source {
    file: Box<dyn Read + Send>,
    /// The source is compressed, so an error of the decompressor is damage.
    compressed: bool,
    pace: Pace,
    /// The beginning of an incomplete frame.
    rest: Vec<u8>,
    /// The damage that the decompressor found.
    damage: Option<String>,
    ended: bool,
}

impl Source {
    pub(super) const fn new(file: Box<dyn Read + Send>, compressed: bool, pace: Pace) -> Self {
        Self { file, compressed, pace, rest: Vec::new(), damage: None, ended: false }
    }

    /// The bytes before the first frame, and whatever was read with them; fewer than wanted where there are no more.
    pub(super) fn start(&mut self, wanted: usize) -> io::Result<&[u8]> {
        while self.rest.len() < wanted && !self.ended {
            self.read()?;
        }
        Ok(&self.rest)
    }

    /// Leaves out the bytes before the first frame.
    pub(super) fn skip(&mut self, bytes: usize) {
        self.rest.drain(..bytes);
    }

    /// Why the bytes end where they do, if that is damage.
    pub(super) fn take_damage(&mut self) -> Option<String> {
        self.damage.take()
    }

    /// Appends what is read next.
    fn read(&mut self) -> io::Result<()> {
        let before = self.rest.len();
        let result = match self.pace {
            Pace::Ahead => {
                self.rest.reserve_exact(CHUNK);
                self.file.by_ref().take(CHUNK as u64).read_to_end(&mut self.rest)
            }
            Pace::AsItComes => {
                self.rest.resize(before + CHUNK, 0);
                let read = self.file.read(&mut self.rest[before..]);
                self.rest.truncate(before + read.as_ref().copied().unwrap_or_default());
                read
            }
        };
        match result {
            Ok(bytes) => self.ended = bytes == 0,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Everything before that has been given out.
            Err(error) if self.compressed && error.kind() == io::ErrorKind::InvalidData => {
                self.damage = Some(error.to_string());
                self.ended = true;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The next block that has something in it; `None` at the end.
    fn next(&mut self) -> io::Result<Option<Block>> {
        loop {
            let mut bytes = std::mem::take(&mut self.rest);
            let (whole, mut damage) = checked(&bytes);
            if damage.is_some() {
                self.ended = true;
            } else {
                self.rest.reserve_exact(bytes.len() - whole + CHUNK);
                self.rest.extend_from_slice(&bytes[whole..]);
            }
            if self.ended && damage.is_none() {
                damage = self.damage.take().or_else(|| cut(&self.rest));
                self.rest.clear();
            }
            bytes.truncate(whole);
            if whole > 0 || damage.is_some() {
                return Ok(Some(Block { frames: bytes.into(), damage }));
            }
            if self.ended {
                return Ok(None);
            }
            self.read()?;
        }
    }
}

impl Blocks {
    pub(super) const fn of(source: Source) -> Self {
        Self::Here(source)
    }

    /// The next block; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Block>> {
        let result = match self {
            Self::Here(source) => source.next(),
            // The thread ends with its last block.
            Self::There(blocks) => blocks.recv().ok().transpose(),
            Self::Over => Ok(None),
        };
        if !matches!(result, Ok(Some(Block { damage: None, .. }))) {
            *self = Self::Over;
        }
        // Short recordings are over by now.
        if let Self::Here(source) = self
            && source.pace == Pace::Ahead
            && !source.ended
            && let Self::Here(source) = std::mem::replace(self, Self::Over)
        {
            *self = ahead(source);
        }
        result
    }
}

/// Reads on in a thread of its own; here, where there can be none.
fn ahead(source: Source) -> Blocks {
    let (to, blocks) = sync_channel(AHEAD);
    let (hand_over, taken) = sync_channel::<Source>(1);
    let read = move || {
        let Ok(mut source) = taken.recv() else { return };
        // It ends when nobody waits for more.
        while let Some(block) = source.next().transpose()
            && to.send(block).is_ok()
        {}
    };
    match thread::Builder::new().name("recording".to_owned()).spawn(read) {
        Ok(_) => match hand_over.send(source) {
            Ok(()) => Blocks::There(blocks),
            Err(unsent) => Blocks::Here(unsent.0),
        },
        Err(error) => {
            tracing::debug!("no thread to read ahead with: {error}");
            Blocks::Here(source)
        }
    }
}

/// The length of a frame with its header, as the header has it; `None` where not all of the header is there.
pub(super) fn length(bytes: &[u8]) -> Option<usize> {
    let header: &[u8; FRAME_HEADER] = bytes.first_chunk()?;
    Some(8 + u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize)
}

/// How many bytes from the start are whole frames with checksums that fit, and what is wrong with the one behind them.
fn checked(bytes: &[u8]) -> (usize, Option<String>) {
    let mut at = 0;
    while let Some(whole) = length(&bytes[at..]) {
        if whole == 8 || whole - 8 > FRAME_MAX as usize {
            return (at, Some(format!("a frame claims to be {} bytes long", whole - 8)));
        }
        let Some(frame) = bytes.get(at..at + whole) else { break };
        let checksum = u32::from_le_bytes([frame[4], frame[5], frame[6], frame[7]]);
        if crc32fast::hash(&frame[8..]) != checksum {
            return (at, Some("a frame's checksum does not fit its content".to_owned()));
        }
        at += whole;
    }
    (at, None)
}

/// What is wrong with a file that ends with this.
fn cut(rest: &[u8]) -> Option<String> {
    let have = rest.len();
    match length(rest) {
        _ if rest.is_empty() => None,
        None => Some(format!("the file ends inside a frame, after {have} of its bytes")),
        Some(whole) => Some(format!("the file ends inside a frame, after {have} of its {whole} bytes")),
    }
}
