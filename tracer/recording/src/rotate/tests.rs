//! Rotations in real directories, and what reading them gives.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use tracer_common::{Hook, counter};
use tracer_model::capture::{
    Counters, Gap, GapReason, HookCounters, HookState, HookStatus, Host, Item, Items, Netns, TableFull,
};
use tracer_model::decode::trimmed;
use tracer_model::time::{ClockOffset, Instant};
use tracer_testing::{Build, GATEWAY, REPLY};

use super::{Policy, Rotation};
use crate::compress::Compression;
use crate::{Reader, Recordings, Writer, compress, format};

const SECOND: u64 = 1_000_000_000;
/// 2026-11-21 14:52:49 UTC, when the host was booted.
const BOOTED: i64 = 1_795_272_769_000_000_000;

fn host(started: u64) -> Host {
    Host {
        hostname: "gw-1".to_owned(),
        clock: ClockOffset(BOOTED),
        started: Instant(started),
        boot: Some("boot".to_owned()),
        capture: Some(format!("capture of {started}")),
        ..Host::nobody()
    }
}

fn record(at: u64) -> Item {
    let bytes = Build::from_server(Hook::CtInvalid, at, at, 3, 4).entry(REPLY, 5, 6).bytes();
    Item::Record(bytes::Bytes::copy_from_slice(trimmed(&bytes)))
}

/// Counters after so many events.
fn counters(at: u64, hits: u64) -> Counters {
    let mut hooks = vec![HookCounters::default(); Hook::ALL.len()];
    hooks[Hook::CtInvalid.index()].0[counter::HITS] = hits;
    hooks[Hook::CtInvalid.index()].0[counter::LOST] = hits / 2;
    Counters {
        at: Instant(at),
        hooks,
        lost_on: if hits < 2 { vec![] } else { vec![(1, Hook::CtInvalid, hits / 2)] },
        table_full: vec![TableFull {
            netns: GATEWAY,
            dropped: hits,
            made_room: 0,
            first: Instant(1),
            last: Instant(at),
        }],
    }
}

fn preamble() -> Vec<Item> {
    let netns = Netns {
        inode: GATEWAY,
        name: Some("gateway".to_owned()),
        at: Instant(2),
        entries: Some(1),
        max: Some(2),
        invalid: None,
        sysctls: Vec::new(),
    };
    vec![
        Item::Hook(HookStatus { hook: Hook::CtInvalid, since: Instant(1), state: HookState::Attached }),
        Item::Netns(netns),
    ]
}

/// Writes a capture of some seconds, a file each, with two events a second; gives the items of an unbroken one.
fn capture(path: &Path, started: u64, seconds: u64, keep: usize, compression: Compression) -> Vec<Item> {
    let policy = Policy { size: None, every: Some(Duration::from_secs(1)), keep };
    let mut rotation = Rotation::create(path, &host(started), policy, compression).unwrap();
    let mut whole = preamble();
    for item in &whole {
        rotation.write(item).unwrap();
    }
    for second in 0..seconds {
        let now = started + second * SECOND;
        let events = [record(now + 1), record(now + 2)];
        for item in &events {
            rotation.write(item).unwrap();
        }
        whole.extend(events);
        let counted = counters(now + SECOND, 2 * (second + 1));
        rotation.count(&counted).unwrap();
        whole.push(Item::Counters(counted));
    }
    let end = Item::Ended(Instant(started + seconds * SECOND + 1));
    rotation.write(&end).unwrap();
    rotation.flush().unwrap();
    whole.push(end);
    whole
}

fn all(recordings: &mut Recordings) -> Vec<Item> {
    std::iter::from_fn(|| recordings.read().unwrap()).collect()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn files(directory: &Path) -> Vec<PathBuf> {
    names(directory).into_iter().map(|name| directory.join(name)).collect()
}

/// All files together are what one file would have been, whatever the order they are given in.
#[rstest::rstest]
#[case::plain("rec.whyrst")]
#[case::compressed("rec.whyrst.zst")]
fn together_they_are_the_whole(#[case] name: &str) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    let whole = capture(&path, 5 * SECOND, 4, 9, Compression::of(&path, false));
    let mut given = files(directory.path());
    assert_eq!(given.len(), 5);
    assert!(given[0].to_str().unwrap().contains("/rec-20261121T145254Z-0001.whyrst"), "{}", given[0].display());
    given.reverse();
    let mut recordings = Recordings::open(&given).unwrap();
    assert_eq!(all(&mut recordings), whole);
    assert_eq!(recordings.verdict(), None);
    let mut directory = Recordings::open(&[directory.path().to_path_buf()]).unwrap();
    assert_eq!(all(&mut directory), whole);
}

/// A file by itself has the hooks and the namespaces, counts from its beginning, and says what it does not have.
#[test]
fn one_by_itself_counts_from_its_beginning() {
    let directory = tempfile::tempdir().unwrap();
    capture(&directory.path().join("rec.whyrst"), 0, 4, 9, Compression::None);
    let mut recordings = Recordings::open(&files(directory.path())[2..3]).unwrap();
    assert_eq!(Items::host(&recordings).started, Instant(2 * SECOND));
    let items = all(&mut recordings);
    let (start, end) = (Some(Instant(2 * SECOND)), Some(Instant(3 * SECOND)));
    let mut expected = preamble();
    expected.push(Item::Gap(Gap { from: None, until: start, why: GapReason::OtherFile }));
    expected.extend([record(2 * SECOND + 1), record(2 * SECOND + 2)]);
    let Item::Counters(counted) = &items[5] else { panic!("{:?}", items[5]) };
    let of_hook = counted.hooks[Hook::CtInvalid.index()];
    assert_eq!((of_hook.hits(), of_hook.lost(), counted.lost_on[0].2), (2, 1, 1));
    let full = counted.table_full[0];
    assert_eq!((full.dropped, full.first, full.last), (2, Instant(2 * SECOND), Instant(3 * SECOND)));
    expected.push(items[5].clone());
    expected.push(Item::Gap(Gap { from: end, until: None, why: GapReason::OtherFile }));
    assert_eq!(items, expected);
    assert_eq!(recordings.verdict(), None);
}

/// A file that is missing in the middle is reported, and its counts are left out.
#[test]
fn a_missing_file_is_a_gap() {
    let directory = tempfile::tempdir().unwrap();
    capture(&directory.path().join("rec.whyrst"), 0, 4, 9, Compression::None);
    let mut given = files(directory.path());
    given.remove(1);
    given.push(given[0].clone());
    let mut recordings = Recordings::open(&given).unwrap();
    assert!(recordings.remarks()[0].contains("another copy"), "{:?}", recordings.remarks());
    let items = all(&mut recordings);
    let gaps: Vec<&Gap> =
        items.iter().filter_map(|item| if let Item::Gap(gap) = item { Some(gap) } else { None }).collect();
    let gap = Gap { from: Some(Instant(SECOND)), until: Some(Instant(2 * SECOND)), why: GapReason::OtherFile };
    assert_eq!(gaps, [&gap]);
    let last =
        items.iter().rev().find_map(|item| if let Item::Counters(counters) = item { Some(counters) } else { None });
    assert_eq!(last.unwrap().hooks[Hook::CtInvalid.index()].hits(), 6);
}

/// Another capture of the same boot goes on where the first ended; the time between is a gap.
#[test]
fn captures_of_one_boot_add_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rec.whyrst");
    capture(&path, 0, 2, 9, Compression::None);
    capture(&path, 100 * SECOND, 1, 9, Compression::None);
    let items = all(&mut Recordings::open(&files(directory.path())).unwrap());
    let last =
        items.iter().rev().find_map(|item| if let Item::Counters(counters) = item { Some(counters) } else { None });
    assert_eq!(last.unwrap().hooks[Hook::CtInvalid.index()].hits(), 6);
    let from = Some(Instant(2 * SECOND + 1));
    let gap = Gap { from, until: Some(Instant(100 * SECOND)), why: GapReason::NotCaptured };
    assert!(items.contains(&Item::Gap(gap)));
    // One that ran at the same time would count everything twice.
    let other = directory.path().join("other.whyrst");
    Writer::create(&other, &host(SECOND / 2), Compression::None).unwrap();
    let error = Recordings::open(&files(directory.path())).map(drop).unwrap_err().to_string();
    assert!(error.contains("other.whyrst") && error.contains("counted twice"), "{error}");
}

#[test]
fn other_hosts_and_boots_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let make = |name: &str, host: &Host| {
        let path = directory.path().join(name);
        Writer::create(&path, host, Compression::None).unwrap();
        path
    };
    let one = make("one.whyrst", &host(0));
    let other_boot = make("boot.whyrst", &Host { boot: Some("other".to_owned()), ..host(1) });
    let other_host =
        make("host.whyrst", &Host { hostname: "gw-2".to_owned(), boot: Some("other".to_owned()), ..host(1) });
    let nameless = make("old.whyrst", &Host { boot: None, ..host(1) });
    for (other, expected) in
        [(other_boot, "different boots"), (other_host, "different hosts"), (nameless, "read it by itself")]
    {
        let error = Recordings::open(&[one.clone(), other]).map(drop).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let empty = directory.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let error = Recordings::open(&[empty]).map(drop).unwrap_err().to_string();
    assert!(error.contains("has no recordings in it"), "{error}");
}

/// A file that was cut gives what it has; the gap says where it stops.
#[test]
fn a_damaged_file_is_a_gap() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rec.whyrst");
    capture(&path, 0, 3, 9, Compression::None);
    let given = files(directory.path());
    let bytes = fs::read(&given[1]).unwrap();
    fs::write(&given[1], &bytes[..bytes.len() - 3]).unwrap();
    let items = all(&mut Recordings::open(&given).unwrap());
    let found = items.iter().any(|item| {
        matches!(item, Item::Gap(Gap { from: Some(_), until: Some(_), why: GapReason::Damaged { what } })
            if what.contains("-0002.whyrst: read up to byte"))
    });
    assert!(found, "{items:?}");
    assert!(items.contains(&record(2 * SECOND + 1)), "the next file is read");
}

/// Only recordings are removed, only those with such a name, and no more than are too many.
#[test]
fn nothing_else_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rec.whyrst");
    let at = |name: &str| directory.path().join(name);
    let old = at("rec-20010101T000000Z-0001.whyrst");
    Writer::create(&old, &host(0), Compression::None).unwrap();
    let busy = at("rec-20010101T000000Z-0002.whyrst");
    Writer::create(&busy, &host(0), Compression::None).unwrap();
    let lock = fs::File::open(&busy).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    fs::write(at("rec-20010101T000001Z-0001.whyrst"), "somebody's notes, not a recording").unwrap();
    fs::write(at("rec-20010101T000002Z-0001.whyrst"), "").unwrap();
    fs::copy(&old, at("rec-monday.whyrst")).unwrap();
    fs::copy(&old, at("target")).unwrap();
    symlink(at("target"), at("rec-20010101T000003Z-0001.whyrst")).unwrap();
    fs::create_dir(at("rec-20010101T000004Z-0001.whyrst")).unwrap();
    let before = names(directory.path());
    capture(&path, 0, 5, 2, Compression::None);
    let after = names(directory.path());
    let removed: Vec<&String> = before.iter().filter(|name| !after.contains(name)).collect();
    assert_eq!(removed, ["rec-20010101T000000Z-0001.whyrst"]);
    let new: Vec<&String> = after.iter().filter(|name| !before.contains(name)).collect();
    assert_eq!(new.len(), 3, "two and the current one: {new:?}");
    for name in new {
        assert_eq!(fs::metadata(at(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
}

/// A name that is taken is not used again, even within the same second.
#[test]
fn no_file_is_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rec.whyrst");
    let taken = directory.path().join("rec-20261121T145249Z-0001.whyrst");
    fs::write(&taken, "precious").unwrap();
    capture(&path, 0, 0, 2, Compression::None);
    assert_eq!(fs::read_to_string(&taken).unwrap(), "precious");
    assert_eq!(names(directory.path()).len(), 2);
}

/// The size is kept, about; what is too many goes.
#[test]
fn by_size() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rec.whyrst");
    let policy = Policy { size: Some(16 << 10), every: None, keep: 3 };
    let mut rotation = Rotation::create(&path, &host(0), policy, Compression::None).unwrap();
    for event in 1..300 {
        rotation.write(&record(event)).unwrap();
        if rotation.is_full() {
            rotation.count(&counters(event, event)).unwrap();
        }
    }
    rotation.flush().unwrap();
    let files = files(directory.path());
    assert_eq!(files.len(), 4);
    assert!(rotation.parts() > 5, "{} files", rotation.parts());
    for file in &files {
        assert!(fs::metadata(file).unwrap().len() <= 16 << 10);
    }
    let items = all(&mut Recordings::open(&files).unwrap());
    assert_eq!(items.iter().filter(|item| matches!(item, Item::Record(_))).last(), Some(&record(299)));
}

/// Cut anywhere in any of the files, every whole record before the cut comes back, and all of the other files; the
/// reader reports what is missing.
#[rstest::rstest]
#[case::plain("rec.whyrst")]
#[case::compressed("rec.whyrst.zst")]
fn cut_at_every_byte(#[case] name: &str) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    capture(&path, 0, 2, 9, Compression::of(&path, false));
    let files = files(directory.path());
    let whole: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    let of_file = |bytes: &[u8]| records(&mut one(bytes));
    let all: Vec<Vec<Item>> = whole.iter().map(|bytes| of_file(bytes)).collect();
    assert_eq!(all.concat().len(), 4);
    for (index, (file, bytes)) in files.iter().zip(&whole).enumerate() {
        let ends = ends(bytes);
        let before: Vec<Vec<Item>> = ends.iter().map(|end| of_file(&bytes[..*end])).collect();
        for cut in 0..bytes.len() {
            fs::write(file, &bytes[..cut]).unwrap();
            let (found, reported) = records_of(directory.path());
            let mut expected = all.clone();
            expected[index] = ends.iter().rposition(|end| *end <= cut).map_or_else(Vec::new, |end| before[end].clone());
            let expected = expected.concat();
            assert_eq!(found, expected, "{} cut at {cut}", file.display());
            assert!(reported, "{} cut at {cut}: nothing says so", file.display());
        }
        fs::write(file, bytes).unwrap();
    }
}

/// Where a file can be cut without damage: behind the host, and behind each frame (of zstd, where it is compressed).
fn ends(bytes: &[u8]) -> Vec<usize> {
    let mut ends = Vec::new();
    if compress::is_compressed(&bytes[..4]) {
        let starts = (1..bytes.len()).filter(|at| bytes[*at..].starts_with(&compress::MAGIC));
        ends.extend(starts.chain([bytes.len()]));
    } else {
        let mut at = format::MAGIC.len() + 4;
        while at < bytes.len() {
            at += 8 + u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
            ends.push(at);
        }
    }
    ends
}

fn one(bytes: &[u8]) -> Reader {
    Reader::new(Box::new(io::Cursor::new(bytes.to_vec())), Path::new("part")).unwrap()
}

fn records(items: &mut impl Items) -> Vec<Item> {
    let all = std::iter::from_fn(|| items.read().unwrap());
    all.filter(|item| matches!(item, Item::Record(_))).collect()
}

/// The records of all files of a directory, and whether the reader reports that something is missing.
fn records_of(directory: &Path) -> (Vec<Item>, bool) {
    let mut recordings = Recordings::open(&[directory.to_path_buf()]).unwrap();
    let items = all(&mut recordings);
    let gap = items.iter().any(|item| matches!(item, Item::Gap(_)));
    let reported = gap || !recordings.remarks().is_empty();
    (items.into_iter().filter(|item| matches!(item, Item::Record(_))).collect(), reported)
}
