//! Reading a recording back.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes};

use tracer_model::capture::{Counters, Damage, Gap, GapReason, Host, Item};

use super::OpenError;
use super::blocks::{self, Block, Blocks, CHUNK, Pace, Source};
use crate::compress::Decompressor;
use crate::format::{FRAME_HEADER, Frame, MAGIC, VERSION, kind};
use crate::{compress, foreign, format};

/// A recording being read.
pub struct Reader {
    path: PathBuf,
    blocks: Blocks,
    /// What is left of the current block.
    block: Block,
    /// Offset of the next frame in the recording, which is the file's unless it is compressed.
    offset: u64,
    host: Host,
    damage: Option<Damage>,
    ended: bool,
    skipped: u64,
    baseline: Option<Counters>,
}

impl Reader {
    /// Opens a recording; `-` is standard input.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let io_error = |source| OpenError::Io { path: path.to_path_buf(), source };
        if path == Path::new("-") {
            return Self::new(Box::new(io::stdin()), path);
        }
        let file = File::open(path).map_err(io_error)?;
        let metadata = file.metadata().map_err(io_error)?;
        if metadata.is_dir() {
            return Err(io_error(io::ErrorKind::IsADirectory.into()));
        }
        let pace = if metadata.is_file() { Pace::Ahead } else { Pace::AsItComes };
        Self::with(Box::new(file), path, pace)
    }

    /// Reads a recording from anywhere, compressed or not; `path` is only for messages.
    pub fn new(file: Box<dyn Read + Send>, path: &Path) -> Result<Self, OpenError> {
        Self::with(file, path, Pace::AsItComes)
    }

    fn with(mut file: Box<dyn Read + Send>, path: &Path, pace: Pace) -> Result<Self, OpenError> {
        let io_error = |source| OpenError::Io { path: path.to_path_buf(), source };
        let mut start = Vec::new();
        file.by_ref().take(compress::MAGIC.len() as u64).read_to_end(&mut start).map_err(io_error)?;
        let compressed = compress::is_compressed(&start);
        let file: Box<dyn Read + Send> = Box::new(Read::chain(io::Cursor::new(start), file));
        let file = if compressed { Box::new(Decompressor::new(BufReader::with_capacity(CHUNK, file))) } else { file };
        let mut source = Source::new(file, compressed, pace);
        let offset = begin(&mut source, compressed, path)?;
        let mut reader = Self {
            path: path.to_path_buf(),
            blocks: Blocks::of(source),
            block: Block::default(),
            offset,
            host: Host::nobody(),
            damage: None,
            ended: false,
            skipped: 0,
            baseline: None,
        };
        reader.host = reader.read_host()?;
        Ok(reader)
    }

    /// The host it was taken on.
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// Where reading stopped early, if it did.
    pub const fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }

    /// The damage of the recording once it has been read: a frame that cannot be read, or a missing end.
    pub fn verdict(&self) -> Option<Damage> {
        let unfinished = || Damage {
            offset: self.offset,
            what: "it stops before the capture was closed; the recorder was killed, or the file was cut".to_owned(),
        };
        self.damage.clone().or_else(|| (!self.ended).then(unfinished))
    }

    /// Frames of kinds that this program does not know.
    pub const fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Its path, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the frames that repeat the state of an earlier file have been read.
    pub const fn has_begun(&self) -> bool {
        self.baseline.is_some()
    }

    /// The next item; `None` at the end or at the first damage. Counters count from the beginning of this file.
    pub fn read(&mut self) -> io::Result<Option<Item>> {
        loop {
            let Some((kind, payload)) = self.frame()? else { return Ok(None) };
            if kind == kind::RECORD {
                return Ok(Some(Item::Record(payload)));
            }
            match format::decode(kind, &payload) {
                Ok(Some(Frame::Item(item))) => {
                    self.ended |= matches!(item, Item::Ended(_));
                    return Ok(Some(match (item, &self.baseline) {
                        (Item::Counters(counters), Some(baseline)) => Item::Counters(counters.since(baseline)),
                        (item, _) => item,
                    }));
                }
                Ok(Some(Frame::Baseline(counters))) => {
                    let until = Some(counters.at);
                    self.baseline = Some(counters);
                    return Ok(Some(Item::Gap(Gap { from: None, until, why: GapReason::OtherFile })));
                }
                Ok(Some(Frame::Continued(at))) => {
                    self.ended = true;
                    return Ok(Some(Item::Gap(Gap { from: Some(at), until: None, why: GapReason::OtherFile })));
                }
                Ok(Some(Frame::Host(_)) | None) => self.skipped += 1,
                Err(error) => {
                    self.damaged(format!("a frame of kind {kind} does not hold what it should: {error}"));
                    return Ok(None);
                }
            }
        }
    }

    fn read_host(&mut self) -> Result<Host, OpenError> {
        let path = self.path.clone();
        let no_host = |what: String| OpenError::NoHost { path: path.clone(), what };
        match self.frame().map_err(|source| OpenError::Io { path: path.clone(), source })? {
            Some((kind::HOST, payload)) => match format::decode(kind::HOST, &payload) {
                Ok(Some(Frame::Host(host))) => Ok(host),
                Ok(_) => Err(no_host("it does not start with the host".to_owned())),
                Err(error) => Err(no_host(format!("the host's frame: {error}"))),
            },
            Some((kind, _)) => Err(no_host(format!("it starts with a frame of kind {kind}"))),
            None => Err(no_host(self.damage.take().map_or_else(|| "it ends there".to_owned(), |damage| damage.what))),
        }
    }

    /// The next whole frame; its checksum fits.
    fn frame(&mut self) -> io::Result<Option<(u8, Bytes)>> {
        while self.damage.is_none() {
            if let Some(whole) = blocks::length(&self.block.frames) {
                let mut frame = self.block.frames.split_to(whole);
                self.offset += whole as u64;
                let kind = frame[FRAME_HEADER - 1];
                frame.advance(FRAME_HEADER);
                return Ok(Some((kind, frame)));
            }
            if let Some(what) = self.block.damage.take() {
                self.damaged(what);
                break;
            }
            match self.blocks.next()? {
                Some(block) => self.block = block,
                None => break,
            }
        }
        Ok(None)
    }

    fn damaged(&mut self, what: String) {
        self.damage = Some(Damage { offset: self.offset, what });
    }
}

/// Reads the bytes before the first frame, and returns their number.
fn begin(source: &mut Source, compressed: bool, path: &Path) -> Result<u64, OpenError> {
    const START: usize = MAGIC.len() + 4;
    let path = path.to_path_buf();
    let start = match source.start(START) {
        Ok(start) => start,
        Err(source) => return Err(OpenError::Io { path, source }),
    };
    let version = start.strip_prefix(MAGIC.as_slice()).and_then(|rest| rest.first_chunk());
    match version.map(|version| u32::from_le_bytes(*version)) {
        Some(VERSION) => {
            source.skip(START);
            Ok(START as u64)
        }
        Some(found) => Err(OpenError::Version { path, found }),
        None if compressed && start.is_empty() => {
            let what = source.take_damage().unwrap_or_else(|| "it is compressed, and empty".to_owned());
            Err(OpenError::NoHost { path, what })
        }
        None if is_beginning(start) => {
            let what = match start.len() {
                0 => "it is empty".to_owned(),
                bytes => format!("it ends after {bytes} bytes"),
            };
            Err(OpenError::NoHost { path, what })
        }
        None => Err(OpenError::Foreign { looks_like: looks_like(start), path }),
    }
}

/// Whether so few bytes can be the beginning of a recording, as a loss of power leaves it.
fn is_beginning(bytes: &[u8]) -> bool {
    MAGIC.starts_with(bytes) || bytes.starts_with(MAGIC) || compress::MAGIC.starts_with(bytes)
}

/// The likely kind of a file that is no recording, from its first bytes.
fn looks_like(start: &[u8]) -> &'static str {
    match start {
        [0xd4, 0xc3, 0xb2, 0xa1, ..] | [0x4d, 0x3c, 0xb2, 0xa1, ..] | [0xa1, 0xb2, ..] => ": it looks like a pcap file",
        [0x0a, 0x0d, 0x0d, 0x0a, ..] => ": it looks like a pcapng file",
        [0x1f, 0x8b, ..] => ": it is compressed with gzip; decompress it first",
        text => foreign::text(text),
    }
}
