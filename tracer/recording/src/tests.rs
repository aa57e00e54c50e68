//! What comes back of a recording: all of it, what is before a cut, and never what was not written.

use std::fs;
use std::io::{self, Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rstest::rstest;

use tracer_common::Hook;
use tracer_model::capture::{
    Counters, Gap, GapReason, HookCounters, HookState, HookStatus, Host, Item, LookUp, LookedUp, Netns, Outcome,
    RecordLayout, TableFull,
};
use tracer_model::conntrack::log_format::LogFormat;
use tracer_model::conntrack::{Status, TcpState, Tuple};
use tracer_model::decode::trimmed;
use tracer_model::ruleset::{Backend, Family, Hooks, Key, Rule, Rules, Test};
use tracer_model::table_usage::{Service, TableUsage};
use tracer_model::time::{ClockOffset, Instant};
use tracer_testing::{Build, GATEWAY, REPLY};

use super::{OpenError, Reader, Writer};
use crate::compress::Compression;
use crate::{compress, format};

fn host() -> Host {
    Host {
        hostname: "gw-1".to_owned(),
        kernel: "5.10.0-32-cloud-amd64".to_owned(),
        log_format: LogFormat::E1,
        clock: ClockOffset(1_700_000_000_000_000_000),
        started: Instant(5),
        records: RecordLayout::default(),
        reset_reasons: vec![(1, "SK_RST_REASON_NO_SOCKET".to_owned())],
        tool: "0.1.0".to_owned(),
        boot: Some("b".to_owned()),
        capture: Some("c".to_owned()),
        part: None,
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
            hooks: vec![HookCounters([1, 2, 3, 4, 5, 6]); tracer_common::hook::COUNT],
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
        Item::TableUsage(TableUsage {
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
        Item::LookedUp(Box::new(LookedUp { look_up, at: Instant(9), outcome: found })),
        Item::LookedUp(Box::new(LookedUp { look_up, at: Instant(10), outcome: Outcome::NotFound { was: None } })),
        Item::LookedUp(Box::new(LookedUp {
            look_up,
            at: Instant(11),
            outcome: Outcome::Failed { because: "no such namespace".to_owned() },
        })),
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
        Item::Gap(Gap { from: Some(Instant(13)), until: None, why: GapReason::Damaged { what: "cut".to_owned() } }),
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
        whole: None,
    }
}

fn recording() -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.whyrst");
    let mut writer = Writer::create(&path, &host(), Compression::None).unwrap();
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
    Writer::create(&path, &host(), Compression::None).unwrap();
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
}

/// Cut anywhere, every whole frame before the cut comes back, and the reader reports where the cut is.
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

/// Compressed, a flush ends a frame of zstd: cut anywhere, everything that was flushed before the cut comes back.
#[test]
fn compressed_and_cut_at_every_byte() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.whyrst.zst");
    let mut writer = Writer::create(&path, &host(), Compression::of(&path, false)).unwrap();
    let host_end = writer.written();
    let mut ends = vec![];
    for item in items() {
        writer.write(&item).unwrap();
        writer.flush().unwrap();
        ends.push(writer.written());
    }
    let whole = fs::read(&path).unwrap();
    assert!(compress::is_compressed(&whole[..4]));
    assert_eq!(whole.len() as u64, *ends.last().unwrap());
    for cut in 0..=whole.len() {
        match open(&whole[..cut]) {
            Err(error) => assert!((cut as u64) < host_end, "cut at {cut}: {error}"),
            Ok(mut reader) => {
                let expected = ends.iter().filter(|end| **end <= cut as u64).count();
                assert_eq!(all(&mut reader), items()[..expected], "cut at {cut}");
                let clean = cut as u64 == host_end || ends.contains(&(cut as u64));
                assert_eq!(reader.damage().is_none(), clean, "cut at {cut}");
                assert_eq!(reader.verdict().is_none(), cut == whole.len(), "cut at {cut}");
            }
        }
    }
}

/// What does not fit is kept: once there is room, writing goes on where it stopped.
#[test]
fn a_full_disk_loses_nothing_when_room_is_made() {
    let disk = Disk(Arc::new(Mutex::new((Vec::new(), 0))));
    let room = |bytes| disk.0.lock().unwrap().1 += bytes;
    room(400);
    let mut writer = Writer::new(Box::new(disk.clone()), Path::new("full"), &host(), Compression::None).unwrap();
    for item in items() {
        writer.write(&item).unwrap();
    }
    while let Err(error) = writer.flush() {
        assert_eq!(error.source.kind(), io::ErrorKind::StorageFull);
        let so_far = disk.0.lock().unwrap().0.clone();
        let mut reader = open(&so_far).unwrap();
        assert!(items().starts_with(&all(&mut reader)) && reader.verdict().is_some());
        room(301);
    }
    let mut reader = open(&disk.0.lock().unwrap().0).unwrap();
    assert_eq!(all(&mut reader), items());
    assert_eq!(writer.written(), writer.size());
}

/// Bytes, and room for how many more.
#[derive(Clone)]
struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (taken, room) = &mut *self.0.lock().unwrap();
        let count = bytes.len().min(*room);
        if count == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        taken.extend_from_slice(&bytes[..count]);
        *room -= count;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
