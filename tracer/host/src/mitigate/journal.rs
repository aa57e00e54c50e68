//! The journal: one file for every time that a mitigation was applied, written before anything is changed. The undo works from it
//! alone, whatever has become of the process that applied it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, openat};
use serde::{Deserialize, Serialize};

use tracer_model::host_context::NetnsPath;
use tracer_model::mitigation::MitigationId;

/// Where journals are kept by default.
pub const DIRECTORY: &str = "/var/lib/whyrst/mitigations";
/// What an entry's file calls itself.
const SCHEMA: &str = "whyrst.mitigation-journal.v1";
/// Most bytes that are read of an entry.
const MOST: u64 = 1 << 20;
/// Bits of a mode that let others write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The command.
    pub run: String,
    /// The commands that undo it.
    pub undo: Vec<String>,
    /// The command that shows whether it is in force.
    pub probe: Option<String>,
    /// What that printed before; none where it failed.
    pub before: Option<String>,
    /// What that printed after.
    pub after: Option<String>,
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

fn decode(bytes: &[u8]) -> Result<Entry, String> {
    let Written { schema, entry } = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if schema == SCHEMA { Ok(entry) } else { Err(format!("its schema is {schema}, not {SCHEMA}")) }
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A file or directory.
    #[error("{path}: {error}")]
    Io {
        /// Its path.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// It is no entry.
    #[error("{path} is no entry of the journal: {because}")]
    Damaged {
        /// Its path.
        path: String,
        /// Why.
        because: String,
    },
    /// Others could have written commands into it.
    #[error("{path} can be written by others than its owner, or belongs to someone else: its commands are not run")]
    Unsafe {
        /// Its path.
        path: String,
    },
    /// Another process is at work.
    #[error("another whyrst is applying or undoing something at this moment ({path} is locked)")]
    Busy {
        /// The lock's path.
        path: String,
    },
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> JournalError {
    let path = path.display().to_string();
    |error| JournalError::Io { path, error }
}

/// A directory of entries, locked as long as this lives.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    _lock: File,
}

impl Journal {
    /// Opens the directory, and makes it if it is not there.
    pub fn open(directory: &Path) -> Result<Self, JournalError> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed(directory))?;
        check(directory, &fs::metadata(directory).map_err(failed(directory))?)?;
        let path = directory.join("lock");
        let lock =
            openat(CWD, &path, OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::from(0o600));
        let lock = lock.map_err(|error| failed(&path)(error.into()))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => Err(JournalError::Busy { path: path.display().to_string() }),
            Err(error) => Err(failed(&path)(error.into())),
            Ok(()) => Ok(Self { directory: directory.to_path_buf(), _lock: lock.into() }),
        }
    }

    /// Writes an entry whole, or leaves the one that was there; only its owner may read it.
    pub fn write(&self, entry: &Entry) -> Result<PathBuf, JournalError> {
        let name = format!("{}-{}.json", entry.id, entry.at.strftime("%Y%m%dT%H%M%S.%6fZ"));
        let (path, unfinished) = (self.directory.join(&name), self.directory.join(format!(".{name}.part")));
        let bytes = encode(entry).map_err(|error| failed(&path)(error.into()))?;
        let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = openat(CWD, &unfinished, flags, Mode::from(0o600));
        let mut file = File::from(file.map_err(|error| failed(&unfinished)(error.into()))?);
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed(&unfinished))?;
        fs::rename(&unfinished, &path).map_err(failed(&path))?;
        // The name is on the disk when the directory is.
        File::open(&self.directory).and_then(|it| it.sync_all()).map_err(failed(&self.directory))?;
        Ok(path)
    }

    /// Reads an entry by its file's name.
    pub fn read(&self, name: &str) -> Result<Entry, JournalError> {
        let path = self.directory.join(Path::new(name).file_name().unwrap_or_default());
        let file = openat(CWD, &path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty());
        let file = File::from(file.map_err(|error| failed(&path)(error.into()))?);
        check(&path, &file.metadata().map_err(failed(&path))?)?;
        let mut bytes = Vec::new();
        file.take(MOST).read_to_end(&mut bytes).map_err(failed(&path))?;
        decode(&bytes).map_err(|because| JournalError::Damaged { path: path.display().to_string(), because })
    }

    /// The entries of a mitigation, the latest last, with their files' names.
    pub fn of(&self, id: MitigationId) -> Result<Vec<(String, Entry)>, JournalError> {
        let directory = fs::read_dir(&self.directory).map_err(failed(&self.directory))?;
        let prefix = format!("{id}-2");
        let mut names: Vec<String> = directory
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.starts_with(&prefix) && Path::new(name).extension().is_some_and(|it| it == "json"))
            .collect();
        names.sort_unstable();
        names.into_iter().map(|name| Ok((name.clone(), self.read(&name)?))).collect()
    }
}

/// Commands are run as the user who runs whyrst: nobody else may have written them.
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
    use tracer_model::mitigation::MitigationId;

    use super::{Done, Entry, Journal, JournalError, State};

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
                run: "sysctl -w x=1".to_owned(),
                undo: vec!["sysctl -w x=0".to_owned()],
                probe: Some("sysctl -n x".to_owned()),
                before: Some("0".to_owned()),
                after: None,
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
        assert_eq!(all.iter().map(|(_, entry)| entry.clone()).collect::<Vec<_>>(), [applied, entry(5)]);
        assert_eq!(journal.of(MitigationId::RaiseTimeout).unwrap(), []);
        assert!(matches!(Journal::open(&directory), Err(JournalError::Busy { .. })));
        drop(journal);
        Journal::open(&directory).unwrap();
    }

    #[test]
    fn what_others_can_write_is_not_run() {
        let root = tempfile::tempdir().unwrap();
        let journal = Journal::open(&root.path().join("state")).unwrap();
        let path = journal.write(&entry(0)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(journal.of(MitigationId::BeLiberal), Err(JournalError::Unsafe { .. })));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(matches!(journal.of(MitigationId::BeLiberal), Err(JournalError::Io { .. })));
    }

    #[test]
    fn a_damaged_entry_is_named() {
        let root = tempfile::tempdir().unwrap();
        let journal = Journal::open(&root.path().join("state")).unwrap();
        let path = journal.write(&entry(0)).unwrap();
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() - 2 {
            fs::write(&path, &whole[..cut]).unwrap();
            let error = journal.of(MitigationId::BeLiberal).unwrap_err();
            assert!(
                matches!(&error, JournalError::Damaged { path: named, .. } if *named == path.display().to_string())
            );
        }
    }
}
