//! Reading a recording back.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes, BytesMut};

use super::{Damage, OpenError};
use crate::capture::{Counters, Gap, GapReason, Host, Item};
use crate::source::compress::{self, Decompressor};
use crate::source::foreign;
use crate::source::format::{self, FRAME_HEADER, FRAME_MAX, Frame, MAGIC, VERSION, kind};

/// A recording being read.
pub struct Reader {
    path: PathBuf,
    file: Box<dyn Read + Send>,
    compressed: bool,
    buffer: BytesMut,
    /// Offset of the buffer's first byte in the recording, which is the file's unless it is compressed.
    offset: u64,
    host: Host,
    damage: Option<Damage>,
    ended: bool,
    skipped: u64,
    baseline: Option<Counters>,
}

/// Bytes read from the file at once.
const CHUNK: usize = 1 << 18;

impl Reader {
    /// Opens a recording; `-` is standard input.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let io_error = |source| OpenError::Io { path: path.to_path_buf(), source };
        let file: Box<dyn Read + Send> = if path == Path::new("-") {
            Box::new(io::stdin())
        } else {
            let file = File::open(path).map_err(io_error)?;
            if file.metadata().map_err(io_error)?.is_dir() {
                return Err(io_error(io::ErrorKind::IsADirectory.into()));
            }
            Box::new(file)
        };
        Self::new(file, path)
    }

    /// Reads a recording from anywhere, compressed or not; `path` is only for messages.
    pub fn new(mut file: Box<dyn Read + Send>, path: &Path) -> Result<Self, OpenError> {
        let io_error = |source| OpenError::Io { path: path.to_path_buf(), source };
        let mut start = Vec::new();
        file.by_ref().take(compress::MAGIC.len() as u64).read_to_end(&mut start).map_err(io_error)?;
        let compressed = compress::is_compressed(&start);
        let file: Box<dyn Read + Send> = Box::new(Read::chain(io::Cursor::new(start), file));
        let file = if compressed { Box::new(Decompressor::new(BufReader::with_capacity(CHUNK, file))) } else { file };
        let mut reader = Self {
            path: path.to_path_buf(),
            file,
            compressed,
            buffer: BytesMut::new(),
            offset: 0,
            host: Host::nobody(),
            damage: None,
            ended: false,
            skipped: 0,
            baseline: None,
        };
        reader.read_start()?;
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

    /// What is wrong with the recording once it has been read: the damage, or that it stops before the capture was closed.
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

    /// Whether what repeats the knowledge of an earlier file is behind it.
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

    fn read_start(&mut self) -> Result<(), OpenError> {
        const START: usize = MAGIC.len() + 4;
        let path = self.path.clone();
        let io_error = |source| OpenError::Io { path: path.clone(), source };
        let whole = self.fill(START).map_err(io_error)?;
        if self.compressed && self.buffer.is_empty() {
            let what =
                self.damage.take().map_or_else(|| "it is compressed, and empty".to_owned(), |damage| damage.what);
            return Err(OpenError::NoHost { path, what });
        }
        if !whole && is_beginning(&self.buffer) {
            let what = match self.buffer.len() {
                0 => "it is empty".to_owned(),
                bytes => format!("it ends after {bytes} bytes"),
            };
            return Err(OpenError::NoHost { path, what });
        }
        if !whole || !self.buffer.starts_with(MAGIC) {
            return Err(OpenError::Foreign { looks_like: looks_like(&self.buffer), path });
        }
        self.advance(MAGIC.len());
        let found = self.buffer.get_u32_le();
        self.offset += 4;
        if found != VERSION {
            return Err(OpenError::Version { path, found });
        }
        let no_host = |what: String| OpenError::NoHost { path: path.clone(), what };
        match self.frame().map_err(io_error)? {
            Some((kind::HOST, payload)) => match format::decode(kind::HOST, &payload) {
                Ok(Some(Frame::Host(host))) => {
                    self.host = host;
                    Ok(())
                }
                Ok(_) => Err(no_host("it does not start with the host".to_owned())),
                Err(error) => Err(no_host(format!("the host's frame: {error}"))),
            },
            Some((kind, _)) => Err(no_host(format!("it starts with a frame of kind {kind}"))),
            None => Err(no_host(self.damage.take().map_or_else(|| "it ends there".to_owned(), |damage| damage.what))),
        }
    }

    /// The next whole frame that is what its checksum says.
    fn frame(&mut self) -> io::Result<Option<(u8, Bytes)>> {
        if self.damage.is_some() {
            return Ok(None);
        }
        if !self.fill(FRAME_HEADER)? {
            if !self.buffer.is_empty() && self.damage.is_none() {
                self.damaged(format!("the file ends inside a frame, after {} of its bytes", self.buffer.len()));
            }
            return Ok(None);
        }
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| self.buffer[at + byte]));
        let (length, checksum) = (word(0), word(4));
        if length == 0 || length > FRAME_MAX {
            self.damaged(format!("a frame claims to be {length} bytes long"));
            return Ok(None);
        }
        let whole = 8 + length as usize;
        if !self.fill(whole)? {
            if self.damage.is_some() {
                return Ok(None);
            }
            self.damaged(format!("the file ends inside a frame, after {} of its {whole} bytes", self.buffer.len()));
            return Ok(None);
        }
        if crc32fast::hash(&self.buffer[8..whole]) != checksum {
            self.damaged("a frame's checksum does not fit its content".to_owned());
            return Ok(None);
        }
        self.offset += whole as u64;
        let mut frame = self.buffer.split_to(whole).freeze();
        let kind = frame[8];
        frame.advance(FRAME_HEADER);
        Ok(Some((kind, frame)))
    }

    fn damaged(&mut self, what: String) {
        self.damage = Some(Damage { offset: self.offset, what });
    }

    fn advance(&mut self, bytes: usize) {
        self.buffer.advance(bytes);
        self.offset += bytes as u64;
    }

    /// Reads until `wanted` bytes are there; tells whether they are.
    fn fill(&mut self, wanted: usize) -> io::Result<bool> {
        while self.buffer.len() < wanted {
            let have = self.buffer.len();
            self.buffer.resize(have + CHUNK.max(wanted - have), 0);
            let read = match self.file.read(&mut self.buffer[have..]) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    self.buffer.truncate(have);
                    continue;
                }
                // What was compressed is damaged or cut: everything before that has been given out.
                Err(error) if self.compressed && error.kind() == io::ErrorKind::InvalidData => {
                    self.buffer.truncate(have);
                    self.damaged(error.to_string());
                    return Ok(false);
                }
                Err(error) => return Err(error),
            };
            self.buffer.truncate(have + read);
            if read == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Whether a file of so few bytes can be the beginning of a recording: a host that loses power leaves such.
fn is_beginning(bytes: &[u8]) -> bool {
    MAGIC.starts_with(bytes) || bytes.starts_with(MAGIC) || compress::MAGIC.starts_with(bytes)
}

/// What a file that is no recording seems to be, from its first bytes.
fn looks_like(start: &[u8]) -> &'static str {
    match start {
        [0xd4, 0xc3, 0xb2, 0xa1, ..] | [0x4d, 0x3c, 0xb2, 0xa1, ..] | [0xa1, 0xb2, ..] => ": it looks like a pcap file",
        [0x0a, 0x0d, 0x0d, 0x0a, ..] => ": it looks like a pcapng file",
        [0x1f, 0x8b, ..] => ": it is compressed with gzip; decompress it first",
        text => foreign::text(text),
    }
}
