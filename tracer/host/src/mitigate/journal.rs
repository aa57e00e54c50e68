//! The journal: one file for every time that a mitigation was applied, written before anything is changed. The undo works from it
//! alone, whatever has become of the process that applied it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{Dir, FlockOperation, Mode, OFlags, flock, mkdirat, openat, renameat};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use tracer_model::host_context::NetnsPath;
use tracer_model::mitigation::{MitigationId, Step};

use super::probe::Found;

/// Where journals are kept by default.
pub const DIRECTORY: &str = "/var/lib/whyrst/mitigations";
/// What an entry's file calls itself.
const SCHEMA: &str = "whyrst.mitigation-journal.v2";
/// What it called itself when it kept commands as text.
const OF_TEXT: &str = "whyrst.mitigation-journal.v1";
/// Most bytes that are read of an entry.
const MOST: u64 = 1 << 20;
/// Bits of a mode that let others write.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// The bit of a directory's mode that lets others add files, but not replace those of somebody else.
const STICKY: u32 = 0o1000;

/// One time that a mitigation was applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Which mitigation.
    #[serde(with = "text")]
    pub id: MitigationId,
    /// When.
    #[serde(with = "text")]
    pub at: Timestamp,
    /// The host's name.
    pub host: String,
    /// The boot that it was applied in (`/proc/sys/kernel/random/boot_id`).
    #[serde(rename = "boot_id")]
    pub boot: String,
    /// The namespaces that it was applied in, by inode number, and how commands came there.
    #[serde(rename = "netns", with = "places")]
    pub places: Vec<(u32, NetnsPath)>,
    /// What was done.
    pub steps: Vec<Done>,
    /// What became of it.
    pub state: State,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The change.
    pub step: Step,
    /// What was there before.
    pub before: Found,
    /// What was there after; none if whyrst did not come so far.
    pub after: Option<Found>,
}

/// What became of an application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It had begun when the entry was written last.
    Applying,
    /// It is in force.
    Applied,
    /// A command failed; what had been done was rolled back.
    RolledBack,
    /// It was undone.
    Undone,
}

impl State {
    /// The word used for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Applying => "applying",
            Self::Applied => "applied",
            Self::RolledBack => "rolled-back",
            Self::Undone => "undone",
        }
    }

    /// Whether there is something to undo.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Applying | Self::Applied)
    }
}

/// An entry as its file holds it.
#[derive(Debug, Serialize, Deserialize)]
struct Written<E> {
    schema: String,
    #[serde(flatten)]
    entry: E,
}

/// What is written as the word that it prints.
mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(value: &impl Display, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(super) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

/// Namespaces, each as an object.
mod places {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::NetnsPath;

    #[derive(Serialize, Deserialize)]
    struct Netns {
        inode: u32,
        way: NetnsPath,
    }

    pub(super) fn serialize<S: Serializer>(places: &[(u32, NetnsPath)], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(places.iter().map(|(inode, way)| Netns { inode: *inode, way: way.clone() }))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(u32, NetnsPath)>, D::Error> {
        let places = Vec::<Netns>::deserialize(from)?;
        Ok(places.into_iter().map(|Netns { inode, way }| (inode, way)).collect())
    }
}

fn encode(entry: &Entry) -> serde_json::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(&Written { schema: SCHEMA.to_owned(), entry })?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Why a file is not an entry that whyrst undoes.
enum Refused {
    Damaged(String),
    OfText(Vec<String>),
    /// Of an earlier version, and there is nothing to undo.
    Closed,
}

fn decode(bytes: &[u8]) -> Result<Entry, Refused> {
    let damaged = |error: serde_json::Error| Refused::Damaged(error.to_string());
    let document: Value = serde_json::from_slice(bytes).map_err(damaged)?;
    match document["schema"].as_str() {
        Some(SCHEMA) => {
            let Written::<Entry> { entry, .. } = serde_json::from_value(document).map_err(damaged)?;
            Ok(entry)
        }
        Some(OF_TEXT) => Err(of_text(&document)),
        Some(other) => Err(Refused::Damaged(format!("its schema is {other}, not {SCHEMA}"))),
        None => Err(Refused::Damaged("it has no schema".to_owned())),
    }
}

/// The lines that undo an entry of an earlier version.
fn of_text(document: &Value) -> Refused {
    if !matches!(document["state"].as_str(), Some("applying" | "applied")) {
        return Refused::Closed;
    }
    let steps = document["steps"].as_array().into_iter().flatten().rev();
    let lines = steps.flat_map(|step| step["undo"].as_array().into_iter().flatten()).filter_map(Value::as_str);
    Refused::OfText(lines.map(|line| line.chars().filter(|it| !it.is_control()).collect()).collect())
}

/// Why there is no journal, or no entry.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It cannot be read or written.
    #[error("{path}: {error}")]
    Io {
        /// Its path.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// Others could have written into it.
    #[error("{path} can be written by others than its owner, or belongs to someone else: its commands are not run")]
    Unsafe {
        /// Its path.
        path: String,
    },
    /// It is no entry.
    #[error("{path} is no entry of the journal: {because}")]
    Damaged {
        /// Its path.
        path: String,
        /// What is wrong.
        because: String,
    },
    /// An earlier version wrote it.
    #[error(
        "{path}: an earlier version of whyrst applied this and kept its commands as text, which this version does not run; \
         undo it by hand: {}", .lines.join("; then: ")
    )]
    OfText {
        /// Its path.
        path: String,
        /// The lines that undo it, in order.
        lines: Vec<String>,
    },
    /// Another process is at work.
    #[error("another whyrst is applying or undoing something at this moment ({path} is locked)")]
    Busy {
        /// Its path.
        path: String,
    },
}

fn failed(path: &Path) -> impl Fn(io::Error) -> JournalError + use<'_> {
    move |error| JournalError::Io { path: path.display().to_string(), error }
}

/// The directory of journals, locked for as long as this is there.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    opened: File,
    lock: File,
}

impl Drop for Journal {
    fn drop(&mut self) {
        // A program that starts at this moment holds the descriptor until it is executed.
        if let Err(error) = flock(&self.lock, FlockOperation::Unlock) {
            tracing::debug!("the journal stays locked: {error}");
        }
    }
}

/// The entries of a mitigation.
#[derive(Debug, Default)]
pub struct Entries {
    /// Those that can be undone or were, with their files' names, the latest last.
    pub whole: Vec<(String, Entry)>,
    /// Why the others are left alone.
    pub refused: Vec<JournalError>,
}

impl Journal {
    /// Opens the directory, and creates it if it is not there. Nobody else may be able to put another one in its place.
    pub fn open(directory: &Path) -> Result<Self, JournalError> {
        let directory = std::path::absolute(directory).map_err(failed(directory))?;
        let opened = walk(&directory)?;
        let path = directory.join("lock");
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let lock = openat(&opened, "lock", flags, Mode::from(0o600)).map_err(|error| failed(&path)(error.into()))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => Err(JournalError::Busy { path: path.display().to_string() }),
            Err(error) => Err(failed(&path)(error.into())),
            Ok(()) => Ok(Self { directory, opened, lock: lock.into() }),
        }
    }

    /// Writes an entry whole, or leaves the one that was there; only its owner may read it.
    pub fn write(&self, entry: &Entry) -> Result<PathBuf, JournalError> {
        let name = format!("{}-{}.json", entry.id, entry.at.strftime("%Y%m%dT%H%M%S.%6fZ"));
        let (path, unfinished) = (self.directory.join(&name), format!(".{name}.part"));
        let bytes = encode(entry).map_err(|error| failed(&path)(error.into()))?;
        let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = openat(&self.opened, &unfinished, flags, Mode::from(0o600));
        let mut file = File::from(file.map_err(|error| failed(&path)(error.into()))?);
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed(&path))?;
        renameat(&self.opened, &unfinished, &self.opened, &name).map_err(|error| failed(&path)(error.into()))?;
        // The name is on the disk when the directory is.
        self.opened.sync_all().map_err(failed(&self.directory))?;
        Ok(path)
    }

    /// Reads an entry by its file's name; none if an earlier version wrote it and there is nothing to undo.
    fn read_open(&self, name: &str) -> Result<Option<Entry>, JournalError> {
        let name = Path::new(name).file_name().unwrap_or_default();
        let path = self.directory.join(name);
        let file = openat(&self.opened, name, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty());
        let file = File::from(file.map_err(|error| failed(&path)(error.into()))?);
        check(&path, &file.metadata().map_err(failed(&path))?)?;
        let mut bytes = Vec::new();
        file.take(MOST).read_to_end(&mut bytes).map_err(failed(&path))?;
        let path = path.display().to_string();
        match decode(&bytes) {
            Ok(entry) => Ok(Some(entry)),
            Err(Refused::Closed) => Ok(None),
            Err(Refused::Damaged(because)) => Err(JournalError::Damaged { path, because }),
            Err(Refused::OfText(lines)) => Err(JournalError::OfText { path, lines }),
        }
    }

    /// Reads an entry by its file's name.
    pub fn read(&self, name: &str) -> Result<Entry, JournalError> {
        let closed = || JournalError::Damaged {
            path: self.directory.join(name).display().to_string(),
            because: "an earlier version of whyrst wrote it, and there is nothing to undo".to_owned(),
        };
        self.read_open(name)?.ok_or_else(closed)
    }

    /// The entries of a mitigation. One that cannot be read does not stand in the way of the others.
    pub fn of(&self, id: MitigationId) -> Result<Entries, JournalError> {
        let directory = Dir::read_from(&self.opened).map_err(|error| failed(&self.directory)(error.into()))?;
        let prefix = format!("{id}-2");
        let mut names: Vec<String> = directory
            .flatten()
            .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned))
            .filter(|name| name.starts_with(&prefix) && Path::new(name).extension().is_some_and(|it| it == "json"))
            .collect();
        names.sort_unstable();
        let mut entries = Entries::default();
        for name in names {
            match self.read_open(&name) {
                Ok(Some(entry)) if entry.id == id => entries.whole.push((name, entry)),
                Ok(Some(entry)) => entries.refused.push(JournalError::Damaged {
                    path: self.directory.join(&name).display().to_string(),
                    because: format!("it is of {}", entry.id),
                }),
                Ok(None) => {}
                Err(error) => entries.refused.push(error),
            }
        }
        Ok(entries)
    }
}

/// Opens a directory from the root on, and creates what is missing. No link leads astray, and nobody else may replace a
/// directory on the way.
fn walk(directory: &Path) -> Result<File, JournalError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut path = PathBuf::from("/");
    let mut opened = File::open(&path).map_err(failed(&path))?;
    for part in directory.components().skip(1) {
        check_way(&path, &opened.metadata().map_err(failed(&path))?)?;
        path.push(part);
        let next = match openat(&opened, part.as_os_str(), flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => {
                let made = mkdirat(&opened, part.as_os_str(), Mode::from(0o700));
                made.and_then(|()| openat(&opened, part.as_os_str(), flags, Mode::empty()))
            }
            opened => opened,
        };
        opened = next.map_err(|error| failed(&path)(error.into()))?.into();
    }
    check(&path, &opened.metadata().map_err(failed(&path))?)?;
    Ok(opened)
}

/// A directory on the way to the journal: root's or the user's own.
fn check_way(path: &Path, metadata: &fs::Metadata) -> Result<(), JournalError> {
    let own = [0, rustix::process::geteuid().as_raw()].contains(&metadata.uid());
    if own && (metadata.mode() & WRITABLE_BY_OTHERS == 0 || metadata.mode() & STICKY != 0) {
        return Ok(());
    }
    Err(JournalError::Unsafe { path: path.display().to_string() })
}

/// What is in an entry is done as the user who runs whyrst: nobody else may have written it.
fn check(path: &Path, metadata: &fs::Metadata) -> Result<(), JournalError> {
    let own = metadata.uid() == rustix::process::geteuid().as_raw();
    if own && metadata.mode() & WRITABLE_BY_OTHERS == 0 {
        return Ok(());
    }
    Err(JournalError::Unsafe { path: path.display().to_string() })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use tracer_model::host_context::NetnsPath;
    use tracer_model::mitigation::{Change, MitigationId, NftBatch, NftChain, Step};

    use super::{Done, Entry, Journal, JournalError, State};
    use crate::mitigate::probe::Found;

    fn entry(second: i64) -> Entry {
        Entry {
            id: MitigationId::BeLiberal,
            at: jiff::Timestamp::from_second(1_800_000_000 + second).unwrap(),
            host: "gw-1".to_owned(),
            boot: "4f0c".to_owned(),
            places: vec![
                (7, NetnsPath::Named("a;reboot".to_owned())),
                (8, NetnsPath::Process(9)),
                (10, NetnsPath::Here),
            ],
            steps: vec![Done {
                step: Step {
                    netns: NetnsPath::Named("a;reboot".to_owned()),
                    change: Change::NftBatch(NftBatch {
                        table: "whyrst".to_owned(),
                        chains: vec![NftChain {
                            name: "input".to_owned(),
                            hook: "input".to_owned(),
                            priority: "-10".to_owned(),
                        }],
                        ..NftBatch::default()
                    }),
                },
                before: Found::Absent,
                after: Some(Found::Value { value: "0".to_owned() }),
            }],
            state: State::Applying,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("state");
        let journal = Journal::open(&directory).unwrap();
        let path = journal.write(&entry(0)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let applied = Entry { state: State::Applied, ..entry(0) };
        assert_eq!(journal.write(&applied).unwrap(), path, "the same entry, in a later state");
        journal.write(&entry(5)).unwrap();
        let all = journal.of(MitigationId::BeLiberal).unwrap();
        assert_eq!(all.whole.iter().map(|(_, entry)| entry.clone()).collect::<Vec<_>>(), [applied, entry(5)]);
        assert_eq!(journal.of(MitigationId::RaiseTimeout).unwrap().whole, []);
        assert!(matches!(Journal::open(&directory), Err(JournalError::Busy { .. })));
        drop(journal);
        Journal::open(&directory).unwrap();
    }

    /// One file is damaged, one is writable by others, one is a link: the others are read all the same.
    #[test]
    fn one_entry_does_not_stand_in_the_way_of_the_others() {
        let root = tempfile::tempdir().unwrap();
        let journal = Journal::open(&root.path().join("state")).unwrap();
        let paths: Vec<_> = (0..4).map(|second| journal.write(&entry(second)).unwrap()).collect();
        fs::set_permissions(&paths[1], fs::Permissions::from_mode(0o666)).unwrap();
        fs::remove_file(&paths[2]).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &paths[2]).unwrap();
        fs::write(&paths[3], "{").unwrap();
        let found = journal.of(MitigationId::BeLiberal).unwrap();
        assert_eq!(found.whole.iter().map(|(_, entry)| entry.clone()).collect::<Vec<_>>(), [entry(0)]);
        let [others, link, damaged]: [JournalError; 3] = found.refused.try_into().unwrap();
        assert!(matches!(others, JournalError::Unsafe { .. }), "{others}");
        assert!(matches!(link, JournalError::Io { .. }), "{link}");
        assert!(matches!(damaged, JournalError::Damaged { .. }), "{damaged}");
    }

    #[test]
    fn a_damaged_entry_is_named() {
        let root = tempfile::tempdir().unwrap();
        let journal = Journal::open(&root.path().join("state")).unwrap();
        let path = journal.write(&entry(0)).unwrap();
        let whole = fs::read(&path).unwrap();
        for cut in (0..whole.len() - 2).step_by(7) {
            fs::write(&path, &whole[..cut]).unwrap();
            let error = journal.of(MitigationId::BeLiberal).unwrap().refused.pop().unwrap();
            assert!(
                matches!(&error, JournalError::Damaged { path: named, .. } if *named == path.display().to_string())
            );
        }
        let name = path.file_name().unwrap().to_str().unwrap().replace("be-liberal", "raise-timeout");
        fs::write(path.with_file_name(&name), whole).unwrap();
        fs::set_permissions(path.with_file_name(&name), fs::Permissions::from_mode(0o600)).unwrap();
        let [foreign]: [JournalError; 1] = journal.of(MitigationId::RaiseTimeout).unwrap().refused.try_into().unwrap();
        assert!(foreign.to_string().contains("it is of be-liberal"), "{foreign}");
    }

    /// An earlier version kept lines for a shell. They are printed, and not run.
    #[test]
    fn entries_of_an_earlier_version() {
        let root = tempfile::tempdir().unwrap();
        let journal = Journal::open(&root.path().join("state")).unwrap();
        let path = journal.write(&entry(0)).unwrap();
        let of = |state: &str| {
            format!(
                r#"{{"schema": "whyrst.mitigation-journal.v1", "id": "be-liberal", "at": "2026-11-21T17:12:21.561036Z",
                "host": "gw", "boot_id": "4f0c", "netns": [], "steps": [
                {{"run": "sysctl -w a=1", "undo": ["sysctl -w a=0"], "probe": null, "before": null, "after": null}},
                {{"run": "sysctl -w b=1", "undo": ["sysctl -w b=0"], "probe": null, "before": null, "after": null}}],
                "state": "{state}"}}"#
            )
        };
        fs::write(&path, of("applied")).unwrap();
        let [error]: [JournalError; 1] = journal.of(MitigationId::BeLiberal).unwrap().refused.try_into().unwrap();
        let text = error.to_string();
        assert!(text.ends_with("undo it by hand: sysctl -w b=0; then: sysctl -w a=0"), "{text}");
        fs::write(&path, of("undone")).unwrap();
        let closed = journal.of(MitigationId::BeLiberal).unwrap();
        assert!(closed.whole.is_empty() && closed.refused.is_empty(), "{closed:?}");
    }

    /// Whoever can replace a directory on the way can replace the journal.
    #[test]
    fn the_directories_on_the_way() {
        let root = tempfile::tempdir().unwrap();
        let state = root.path().join("a/b/state");
        drop(Journal::open(&state).unwrap());
        assert_eq!(fs::metadata(root.path().join("a")).unwrap().permissions().mode() & 0o777, 0o700);
        let parent = root.path().join("a");
        let mode = |mode: u32| fs::set_permissions(&parent, fs::Permissions::from_mode(mode)).unwrap();
        for (bits, is_safe) in [(0o777, false), (0o770, false), (0o1777, true), (0o755, true)] {
            mode(bits);
            let opened = Journal::open(&state);
            assert_eq!(opened.is_ok(), is_safe, "{bits:o}: {opened:?}");
        }
        std::os::unix::fs::symlink(&parent, root.path().join("link")).unwrap();
        let link = Journal::open(&root.path().join("link/b/state"));
        assert!(matches!(link, Err(JournalError::Io { .. })), "{link:?}");
    }
}
