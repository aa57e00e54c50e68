//! Recordings: writing one as a capture goes on, reading one back.
//!
//! A file that is cut anywhere gives back every whole frame before the cut, and says where the cut is.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes, BytesMut};

use super::foreign;
use super::format::{self, FRAME_HEADER, FRAME_MAX, Frame, MAGIC, VERSION, kind};
use crate::capture::{Host, Item};

/// Why a recording cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be opened or read.
    #[error("reading {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not a recording.
    #[error("{path} is not a whyrst recording{looks_like}", path = path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it seems to be, with a leading `: `, or empty.
        looks_like: &'static str,
    },
    /// It was written by a later program.
    #[error("{path} has recording format {found}; this program reads format {VERSION}", path = path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// It ends or is damaged before the frame that describes the host.
    #[error("{path} holds no whole record: {what}", path = path.display())]
    NoHost {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// Where and why reading stopped before the end of a capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Offset of the first byte that was not understood.
    pub offset: u64,
    /// What is wrong there.
    pub what: String,
}

/// A recording being read.
pub struct Reader {
    path: PathBuf,
    file: Box<dyn Read + Send>,
    buffer: BytesMut,
    /// Offset of the buffer's first byte in the file.
    offset: u64,
    host: Host,
    damage: Option<Damage>,
    ended: bool,
    skipped: u64,
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

    /// Reads a recording from anywhere; `path` is only for messages.
    pub fn new(file: Box<dyn Read + Send>, path: &Path) -> Result<Self, OpenError> {
        let mut reader = Self {
            path: path.to_path_buf(),
            file,
            buffer: BytesMut::new(),
            offset: 0,
            host: Host::nobody(),
            damage: None,
            ended: false,
            skipped: 0,
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

    /// The next item; `None` at the end or at the first damage.
    pub fn read(&mut self) -> io::Result<Option<Item>> {
        loop {
            let Some((kind, payload)) = self.frame()? else { return Ok(None) };
            if kind == kind::RECORD {
                return Ok(Some(Item::Record(payload)));
            }
            match format::decode(kind, &payload) {
                Ok(Some(Frame::Item(item))) => {
                    self.ended |= matches!(item, Item::Ended(_));
                    return Ok(Some(item));
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
            if !self.buffer.is_empty() {
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

/// What a file that is no recording seems to be, from its first bytes.
fn looks_like(start: &[u8]) -> &'static str {
    match start {
        [] => ": it is empty",
        [0xd4, 0xc3, 0xb2, 0xa1, ..] | [0x4d, 0x3c, 0xb2, 0xa1, ..] | [0xa1, 0xb2, ..] => ": it looks like a pcap file",
        [0x0a, 0x0d, 0x0d, 0x0a, ..] => ": it looks like a pcapng file",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ": it is compressed with zstd; decompress it first",
        [0x1f, 0x8b, ..] => ": it is compressed with gzip; decompress it first",
        text => foreign::text(text),
    }
}

/// A recording being written.
pub struct Writer {
    path: PathBuf,
    file: BufWriter<Box<dyn Write + Send>>,
    written: u64,
}

/// A recording could not be written.
#[derive(Debug, thiserror::Error)]
#[error("writing {path}", path = path.display())]
pub struct WriteError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl Writer {
    /// Creates a recording that only its owner may read; `-` is standard output.
    pub fn create(path: &Path, host: &Host) -> Result<Self, WriteError> {
        let file: Box<dyn Write + Send> = if path == Path::new("-") {
            Box::new(io::stdout())
        } else {
            let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
            let file = opened.map_err(|source| WriteError { path: path.to_path_buf(), source })?;
            Box::new(file)
        };
        let mut writer = Self { path: path.to_path_buf(), file: BufWriter::with_capacity(1 << 16, file), written: 0 };
        writer.start(host).map_err(|source| writer.error(source))?;
        Ok(writer)
    }

    /// Appends an item.
    pub fn write(&mut self, item: &Item) -> Result<(), WriteError> {
        let (kind, payload) = format::encode(item).map_err(|error| self.error(error.into()))?;
        self.frame(kind, &payload).map_err(|source| self.error(source))
    }

    /// Hands everything written so far to the kernel, so that a crash of this program loses nothing of it.
    pub fn flush(&mut self) -> Result<(), WriteError> {
        self.file.flush().map_err(|source| self.error(source))
    }

    /// Bytes written so far.
    pub const fn written(&self) -> u64 {
        self.written
    }

    fn start(&mut self, host: &Host) -> io::Result<()> {
        self.file.write_all(MAGIC)?;
        self.file.write_all(&VERSION.to_le_bytes())?;
        self.written += MAGIC.len() as u64 + 4;
        self.frame(kind::HOST, &format::encode_host(host)?)?;
        self.file.flush()
    }

    fn frame(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len() + 1).map_err(io::Error::other)?;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&[kind]);
        hasher.update(payload);
        self.file.write_all(&length.to_le_bytes())?;
        self.file.write_all(&hasher.finalize().to_le_bytes())?;
        self.file.write_all(&[kind])?;
        self.file.write_all(payload)?;
        self.written += (FRAME_HEADER + payload.len()) as u64;
        Ok(())
    }

    fn error(&self, source: io::Error) -> WriteError {
        WriteError { path: self.path.clone(), source }
    }
}

/// Whether two paths are the same file, so that a recording is not read and overwritten at once.
pub fn same_file(one: &Path, other: &Path) -> bool {
    match (fs::canonicalize(one), fs::canonicalize(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Cursor;
    use std::path::{Path, PathBuf};

    use rstest::rstest;
    use tracer_common::Hook;

    use super::{OpenError, Reader, Writer, format};
    use crate::capture::{
        Counters, HookCounters, HookState, HookStatus, Host, Item, LookUp, LookedUp, Netns, Outcome, TableFull,
    };
    use crate::census::{Census, Service};
    use crate::conntrack::{Status, TcpState, Tuple};
    use crate::decode::trimmed;
    use crate::kernel::era::Era;
    use crate::ruleset::{Backend, Family, Hooks, Key, Rule, Rules, Test};
    use crate::testing::{Build, GATEWAY, REPLY};
    use crate::time::{ClockOffset, Instant};

    fn host() -> Host {
        Host {
            hostname: "gw-1".to_owned(),
            kernel: "5.10.0-32-cloud-amd64".to_owned(),
            era: Era::E1,
            clock: ClockOffset(1_700_000_000_000_000_000),
            started: Instant(5),
            reset_reasons: vec![(1, "SK_RST_REASON_NO_SOCKET".to_owned())],
            tool: "0.1.0".to_owned(),
        }
    }

    fn items() -> Vec<Item> {
        let record = Build::from_server(Hook::CtInvalid, 1, 2, 3, 4).entry(REPLY, 5, 6).bytes();
        let tuple = Tuple { src: "[2001:db8::1]:1".parse().unwrap(), dst: "[2001:db8::2]:2".parse().unwrap() };
        let look_up = LookUp { netns: GATEWAY, zone: 7, tuple };
        let found = Outcome::Found {
            original: tuple,
            reply: tuple.reversed(),
            state: Some(TcpState::Close),
            timeout_s: Some(9),
            status: Status(0x1e),
        };
        vec![
            Item::Hook(HookStatus { hook: Hook::CtInvalid, since: Instant(6), state: HookState::Attached }),
            Item::Record(bytes::Bytes::copy_from_slice(trimmed(&record))),
            Item::Counters(Counters {
                at: Instant(7),
                hooks: vec![HookCounters([1, 2, 3, 4, 5]); tracer_common::hook::COUNT],
                lost_on: vec![(3, Hook::ResetV6, 4)],
                table_full: vec![TableFull {
                    netns: GATEWAY,
                    dropped: 7,
                    made_room: 2,
                    first: Instant(4),
                    last: Instant(6),
                }],
            }),
            Item::Netns(Netns {
                inode: GATEWAY,
                name: Some("gateway".to_owned()),
                at: Instant(8),
                entries: Some(1),
                max: Some(262_144),
                invalid: Some(3),
                sysctls: vec![("nf_conntrack_tcp_be_liberal".to_owned(), 0)],
            }),
            Item::Rules(rules()),
            Item::Census(Census {
                netns: GATEWAY,
                at: Instant(9),
                entries: 7,
                problem: Some("the table was not read to its end".to_owned()),
                sources: vec![("10.0.0.2".parse().unwrap(), 5), ("fd00::2".parse().unwrap(), 1)],
                services: vec![
                    (Service { protocol: 6, address: "192.0.2.2".parse().unwrap(), port: Some(443) }, 4),
                    (Service { protocol: 1, address: "192.0.2.2".parse().unwrap(), port: None }, 1),
                ],
            }),
            Item::LookedUp(LookedUp { look_up, at: Instant(9), outcome: found }),
            Item::LookedUp(LookedUp { look_up, at: Instant(10), outcome: Outcome::Gone { was: None } }),
            Item::LookedUp(LookedUp {
                look_up,
                at: Instant(11),
                outcome: Outcome::Failed { because: "no such namespace".to_owned() },
            }),
            Item::Hook(HookStatus {
                hook: Hook::RejectV4,
                since: Instant(12),
                state: HookState::Waiting { module: "nf_reject_ipv4".to_owned() },
            }),
            Item::Hook(HookStatus {
                hook: Hook::RejectV6,
                since: Instant(13),
                state: HookState::Unavailable { because: "no function nf_send_reset6".to_owned() },
            }),
            Item::Ended(Instant(14)),
        ]
    }

    fn rules() -> Rules {
        let keys = [
            Key::InputName,
            Key::OutputName,
            Key::Transport,
            Key::Family,
            Key::EtherType,
            Key::State,
            Key::NetworkHeader { offset: 12 },
            Key::TransportHeader { offset: 2 },
            Key::Unknown,
        ];
        let test = |key| Test { mask: vec![255, 0], inside: false, ..Test::is(key, vec![1, 2]) };
        let rule = Rule {
            backend: Backend::IptablesNft,
            family: Family::Ip,
            table: "filter".to_owned(),
            chain: "FORWARD".to_owned(),
            handle: Some(7),
            number: Some(2),
            place: 1,
            hooks: Hooks(4),
            tests: keys.map(test).into(),
            complete: true,
            packets: Some(u64::MAX),
            text: "tcp dport 443 REJECT --reject-with tcp-reset".to_owned(),
        };
        Rules {
            netns: GATEWAY,
            began: Instant(8),
            at: Instant(9),
            generation: Some(3),
            bridged: true,
            rules: vec![rule],
            problems: vec!["the ruleset changed while it was read".to_owned()],
        }
    }

    fn recording() -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.whyrst");
        let mut writer = Writer::create(&path, &host()).unwrap();
        for item in items() {
            writer.write(&item).unwrap();
        }
        writer.flush().unwrap();
        assert_eq!(writer.written(), fs::metadata(&path).unwrap().len());
        fs::read(path).unwrap()
    }

    fn open(bytes: &[u8]) -> Result<Reader, OpenError> {
        Reader::new(Box::new(Cursor::new(bytes.to_vec())), Path::new("test.whyrst"))
    }

    fn all(reader: &mut Reader) -> Vec<Item> {
        std::iter::from_fn(|| reader.read().unwrap()).collect()
    }

    #[test]
    fn everything_comes_back() {
        let mut reader = open(&recording()).unwrap();
        assert_eq!(*reader.host(), host());
        assert_eq!(all(&mut reader), items());
        assert_eq!(reader.verdict(), None);
    }

    #[test]
    fn only_its_owner_may_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.whyrst");
        Writer::create(&path, &host()).unwrap();
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    /// Cut anywhere, every whole frame before the cut comes back, and it is said where the cut is.
    #[test]
    fn cut_at_every_byte() {
        let whole = recording();
        let mut ends = vec![];
        let mut at = format::MAGIC.len() + 4;
        while at < whole.len() {
            at += 8 + u32::from_le_bytes(whole[at..at + 4].try_into().unwrap()) as usize;
            ends.push(at);
        }
        let [host_end, ref item_ends @ ..] = ends[..] else { panic!("no frames") };
        for cut in 0..whole.len() {
            match open(&whole[..cut]) {
                Err(error) => {
                    assert!(cut < host_end, "cut at {cut}: {error}");
                    assert!(matches!(error, OpenError::Foreign { .. } | OpenError::NoHost { .. }), "{error}");
                }
                Ok(mut reader) => {
                    let expected = item_ends.iter().filter(|end| **end <= cut).count();
                    assert_eq!(all(&mut reader), items()[..expected], "cut at {cut}");
                    let clean = cut == host_end || item_ends.contains(&cut);
                    assert_eq!(reader.damage().is_none(), clean, "cut at {cut}");
                    let last = item_ends.iter().copied().filter(|end| *end <= cut).max().unwrap_or(host_end);
                    assert_eq!(reader.verdict().unwrap().offset, last as u64, "cut at {cut}");
                }
            }
        }
    }

    /// Any flipped bit is noticed: what comes back is a part of what was written.
    #[test]
    fn damaged_at_every_byte() {
        let whole = recording();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            if let Ok(mut reader) = open(&damaged) {
                let read = all(&mut reader);
                assert!(items().starts_with(&read), "damaged at {at}");
                assert!(reader.damage().is_some(), "damaged at {at}, and not noticed");
            }
        }
    }

    #[rstest]
    #[case::empty(b"", "it is empty")]
    #[case::pcapng(b"\x0a\x0d\x0d\x0a and so on and on", "pcapng")]
    #[case::pcap(b"\xd4\xc3\xb2\xa1 and so on and on ", "pcap")]
    #[case::json(b"{\"schema\": \"whyrst.report.v1\"}", "JSON")]
    #[case::text(b"Dec  6 21:37:47 vm kernel: ", "is not a whyrst recording")]
    fn foreign_files_are_named(#[case] bytes: &[u8], #[case] expected: &str) {
        let error = open(bytes).map(drop).unwrap_err().to_string();
        assert!(error.contains("test.whyrst") && error.contains(expected), "{error}");
    }

    #[test]
    fn a_later_format_is_refused() {
        let mut bytes = recording();
        bytes[format::MAGIC.len()] = 2;
        let error = open(&bytes).map(drop).unwrap_err().to_string();
        assert_eq!(error, "test.whyrst has recording format 2; this program reads format 1");
    }

    /// A kind of frame that a later version may add.
    #[test]
    fn unknown_frames_are_skipped() {
        let mut bytes = recording();
        let frame = [200, b'n', b'e', b'w'];
        bytes.extend(4u32.to_le_bytes());
        bytes.extend(crc32fast::hash(&frame).to_le_bytes());
        bytes.extend(frame);
        let mut reader = open(&bytes).unwrap();
        assert_eq!(all(&mut reader), items());
        assert_eq!(reader.skipped(), 1);
        assert_eq!(reader.damage(), None);
    }

    #[test]
    fn files_that_cannot_be_opened_are_named() {
        let error = Reader::open(&PathBuf::from("/nonexistent/x.whyrst")).map(drop).unwrap_err();
        assert_eq!(error.to_string(), "reading /nonexistent/x.whyrst");
        assert!(Reader::open(Path::new("/")).is_err(), "a directory");
    }
}
