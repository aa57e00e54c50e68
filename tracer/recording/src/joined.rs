//! Several recordings as one: the files of one capture, or captures of one boot of one host, in their order.

use std::collections::{HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::{fs, io};

use tracer_model::capture::{Counters, Damage, Gap, GapReason, Host, Item, Items};
use tracer_model::time::Instant;

use super::{JoinError, OpenError, Reader, shown};

/// Recordings that are read one after the other.
pub struct Recordings {
    name: String,
    host: Host,
    current: Reader,
    /// The recordings after it.
    next: VecDeque<(PathBuf, Host)>,
    /// Whether there are several.
    several: bool,
    /// The counters of the files before this one, and those of this one so far.
    counted: Option<Counters>,
    counting: Option<Counters>,
    last: Instant,
    /// The file continues the one before it, so its first frames repeat known state.
    known: bool,
    over: bool,
    remarks: Vec<String>,
}

impl Recordings {
    /// Opens recordings: files, directories full of them, or `-` for standard input.
    pub fn open(paths: &[PathBuf]) -> Result<Self, JoinError> {
        let mut files = Vec::new();
        for path in paths {
            if path != Path::new("-") && path.is_dir() { files.extend(within(path)?) } else { files.push(path.clone()) }
        }
        if let [path] = files.as_slice() {
            return Ok(Self::one(Reader::open(path)?));
        }
        if files.iter().any(|path| path == Path::new("-")) {
            return Err(JoinError::Pipe);
        }
        let mut remarks = Vec::new();
        let mut readers: Vec<(PathBuf, Host)> = Vec::new();
        for path in files {
            match Reader::open(&path) {
                Ok(reader) => readers.push((path, reader.host().clone())),
                // A file that was cut this early has no events.
                Err(OpenError::NoHost { path, what }) => {
                    remarks.push(format!("{} is left out: it holds no whole record: {what}", shown(&path)));
                }
                Err(error) => return Err(error.into()),
            }
        }
        let mut ordered = in_order(readers, &mut remarks)?;
        let Some((first, _)) = ordered.pop_front() else {
            return Err(JoinError::Nothing { path: paths.first().cloned().unwrap_or_default() });
        };
        Ok(Self::of(Reader::open(&first)?, ordered, remarks))
    }

    fn of(current: Reader, next: VecDeque<(PathBuf, Host)>, remarks: Vec<String>) -> Self {
        let name = match next.back() {
            Some((last, _)) => format!("{} … {} ({} files)", shown(current.path()), shown(last), next.len() + 1),
            None => shown(current.path()),
        };
        Self {
            name,
            host: current.host().clone(),
            several: !next.is_empty(),
            last: current.host().started,
            current,
            next,
            counted: None,
            counting: None,
            known: false,
            over: false,
            remarks,
        }
    }

    /// One recording that is read already.
    pub fn one(reader: Reader) -> Self {
        Self::of(reader, VecDeque::new(), Vec::new())
    }

    /// What was read, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Remarks about the choice of files.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// Where a single recording is damaged, once it has been read; in several, damage is a gap among the items.
    pub fn verdict(&self) -> Option<Damage> {
        if self.several { None } else { self.current.verdict() }
    }

    /// An item of the current file as an item of the joined recording; `None` where it is left out.
    fn take(&mut self, item: Item) -> Option<Item> {
        self.last = self.last.max(item.at().unwrap_or_default());
        match item {
            Item::Counters(counters) => {
                self.counting = Some(counters.clone());
                Some(Item::Counters(match &self.counted {
                    Some(before) => counters.and(before),
                    None => counters,
                }))
            }
            // The beginning and end of a file matter only where no other file adjoins.
            Item::Gap(Gap { from: None, .. }) if self.known => None,
            Item::Gap(Gap { until: None, .. }) | Item::Ended(_) if !self.next.is_empty() => None,
            item => Some(item),
        }
    }

    /// Continues with the next file. Returns the gap before it, if there is one.
    fn advance(&mut self) -> io::Result<Option<Item>> {
        let damage = self.current.verdict();
        let why = damage.map(|damage| GapReason::Damaged {
            what: format!("{}: read up to byte {} only: {}", shown(self.current.path()), damage.offset, damage.what),
        });
        let gap = |from, until, why| Ok(Some(Item::Gap(Gap { from: Some(from), until, why })));
        let Some((path, host)) = self.next.pop_front() else {
            self.over = true;
            return match why {
                Some(why) if self.several => gap(self.last, None, why),
                _ => Ok(None),
            };
        };
        let before = self.current.host();
        let same = before.capture.is_some() && before.capture == host.capture;
        if !same && host.started < self.last {
            let one = self.current.path().to_path_buf();
            return Err(io::Error::other(JoinError::Overlap { one, other: path }));
        }
        let follows = same && host.part == before.part.and_then(|part| part.checked_add(1)) && why.is_none();
        if let Some(counting) = self.counting.take() {
            self.counted = Some(match &self.counted {
                Some(before) => counting.and(before),
                None => counting,
            });
        }
        let from = self.last;
        self.current = Reader::open(&path).map_err(io::Error::other)?;
        self.known = true;
        if follows {
            while !self.current.has_begun() && self.current.read()?.is_some() {}
            return Ok(None);
        }
        let why = why.unwrap_or(if same { GapReason::OtherFile } else { GapReason::NotCaptured });
        gap(from, Some(host.started), why)
    }
}

impl Items for Recordings {
    fn host(&self) -> &Host {
        &self.host
    }

    fn read(&mut self) -> io::Result<Option<Item>> {
        while !self.over {
            let item = match self.current.read()? {
                Some(item) => self.take(item),
                None => self.advance()?,
            };
            if item.is_some() {
                return Ok(item);
            }
        }
        Ok(None)
    }
}

impl Items for Reader {
    fn host(&self) -> &Host {
        Self::host(self)
    }

    fn read(&mut self) -> io::Result<Option<Item>> {
        Self::read(self)
    }
}

/// The recordings in a directory, by name.
fn within(directory: &Path) -> Result<Vec<PathBuf>, JoinError> {
    let io_error = |source| OpenError::Io { path: directory.to_path_buf(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(io_error)? {
        let path = entry.map_err(io_error)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let hidden = name.starts_with('.');
        if !hidden && (name.ends_with(".whyrst") || name.ends_with(".whyrst.zst")) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() { Err(JoinError::Nothing { path: directory.to_path_buf() }) } else { Ok(files) }
}

/// Brings recordings of one boot into their order, each once.
fn in_order(
    mut files: Vec<(PathBuf, Host)>,
    remarks: &mut Vec<String>,
) -> Result<VecDeque<(PathBuf, Host)>, JoinError> {
    if files.len() < 2 {
        return Ok(files.into());
    }
    if let Some((path, _)) = files.iter().find(|(_, host)| host.boot.is_none()) {
        return Err(JoinError::Nameless { path: path.clone() });
    }
    for pair in files.windows(2) {
        let [(one, of_one), (other, of_other)] = pair else { continue };
        if of_one.boot != of_other.boot {
            let what = if of_one.hostname == of_other.hostname { "boots" } else { "hosts" };
            return Err(JoinError::Different { one: one.clone(), other: other.clone(), what });
        }
    }
    files.sort_by_key(|(_, host)| (host.started, host.part));
    let mut seen = HashSet::new();
    files.retain(|(path, host)| {
        let new = host.capture.is_none() || seen.insert((host.capture.clone(), host.part));
        if !new {
            remarks.push(format!("{} is left out: it is another copy of one of the others", shown(path)));
        }
        new
    });
    // A capture that is between the files of another one ran at the same time.
    let mut closed = HashSet::new();
    for pair in files.windows(2) {
        let [(one, before), (other, after)] = pair else { continue };
        if before.capture != after.capture || before.capture.is_none() {
            closed.insert(before.capture.clone());
            if after.capture.is_some() && closed.contains(&after.capture) {
                return Err(JoinError::Overlap { one: one.clone(), other: other.clone() });
            }
        }
    }
    Ok(files.into())
}
