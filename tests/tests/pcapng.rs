//! Every golden recording as pcapng, read by tshark: what Wireshark shows is what the recording holds.
//!
//! The expectations come from the JSON lines, which take another way out of the program.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use tracer::annotate;
use tracer_advice::report::Report;
use tracer_engine::session::replay;
use tracer_model::capture::Origin;
use tracer_model::filter::Filter;
use tracer_recording::Reader;
use tracer_render::annotated::AnnotatedEvent;
use tracer_render::json::JsonLines;
use tracer_render::pcapng::{PcapNg, Written};

/// What tshark is asked for, in this order.
const FIELDS: [&str; 17] = [
    "frame.time_epoch",
    "frame.interface_name",
    "frame.len",
    "frame.cap_len",
    "frame.packet_flags_direction",
    "frame.comment",
    "ip.src",
    "ipv6.src",
    "ip.dst",
    "ipv6.dst",
    "tcp.srcport",
    "tcp.dstport",
    "tcp.seq_raw",
    "tcp.ack_raw",
    "tcp.flags",
    "_ws.expert.severity",
    "_ws.malformed",
];

/// A packet as tshark shows it.
struct Shown(Vec<String>);

impl Shown {
    fn get(&self, field: &str) -> &str {
        &self.0[FIELDS.iter().position(|known| *known == field).unwrap()]
    }

    fn number(&self, field: &str) -> u64 {
        self.get(field).parse().unwrap_or_else(|error| panic!("{field} {:?}: {error}", self.get(field)))
    }

    fn reconstructed(&self) -> bool {
        self.get("frame.comment").starts_with("reconstructed, not captured")
    }

    fn endpoint(&self, side: &str) -> String {
        let (v4, v6) = (self.get(&format!("ip.{side}")), self.get(&format!("ipv6.{side}")));
        let address = if v6.is_empty() { v4.to_owned() } else { format!("[{v6}]") };
        format!("{address}:{}", self.get(&format!("tcp.{side}port")))
    }

    /// Whether Wireshark finds fault with its bytes.
    fn malformed(&self) -> bool {
        const ERROR: &str = "8388608";
        self.get("_ws.expert.severity").split('|').any(|severity| severity == ERROR)
            || !self.get("_ws.malformed").is_empty()
    }

    /// Source, destination, sequence number, flags as tcpdump writes them.
    fn segment(&self) -> (String, String, u64, String) {
        const LETTERS: [(u64, char); 8] =
            [(1, 'F'), (2, 'S'), (4, 'R'), (8, 'P'), (0x20, 'U'), (0x40, 'E'), (0x80, 'W'), (0x10, '.')];
        let bits = u64::from_str_radix(self.get("tcp.flags").trim_start_matches("0x"), 16).unwrap();
        let flags: String = LETTERS.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, letter)| letter).collect();
        let flags = if flags.is_empty() { "none".to_owned() } else { flags };
        (self.endpoint("src"), self.endpoint("dst"), self.number("tcp.seq_raw"), flags)
    }
}

/// Runs tshark; it has nothing to say on standard error but who runs it.
fn tshark(file: &Path, arguments: &[&str]) -> String {
    let failed = |error| panic!("tshark: {error}; Debian's package tshark has it");
    let output = Command::new("tshark").arg("-n").arg("-r").arg(file).args(arguments).output().unwrap_or_else(failed);
    let complaints = String::from_utf8(output.stderr).unwrap();
    let complaints: Vec<&str> = complaints.lines().filter(|line| !line.starts_with("Running as user")).collect();
    assert!(output.status.success() && complaints.is_empty(), "{}: {complaints:?}", file.display());
    String::from_utf8(output.stdout).unwrap()
}

fn packets(file: &Path) -> Vec<Shown> {
    let mut arguments = vec!["-T", "fields", "-E", "separator=/t", "-E", "aggregator=|"];
    arguments.extend(FIELDS.iter().flat_map(|field| ["-e", field]));
    let text = tshark(file, &arguments);
    let row = |line: &str| line.split('\t').map(str::to_owned).collect::<Vec<_>>();
    text.lines().map(row).inspect(|row| assert_eq!(row.len(), FIELDS.len(), "{row:?}")).map(Shown).collect()
}

/// Hands out every event of a recording with what its flow came to.
fn events(path: &Path, report: &Report, each: impl FnMut(AnnotatedEvent<'_>) -> io::Result<()>) {
    annotate::events(&mut Reader::open(path).unwrap(), report, u64::MAX, &Filter::default(), each).unwrap();
}

fn report(path: &Path) -> Report {
    let mut reader = Reader::open(path).unwrap();
    let session = replay(&mut reader, Filter::default(), |_, _, _| -> io::Result<()> { Ok(()) }).unwrap();
    Report::new(session.finish(Origin::Recording { path: path.display().to_string(), damage: reader.verdict() }))
}

/// The file, and how much is in it.
fn export(path: &Path, report: &Report, to: &Path) -> Written {
    let mut file = PcapNg::start(File::create(to).unwrap(), report, false).unwrap();
    events(path, report, |event| file.event(event));
    file.finish().unwrap()
}

/// The `event` lines of the JSON export.
fn lines(path: &Path, report: &Report) -> Vec<Value> {
    let mut bytes = Vec::new();
    let mut lines = JsonLines::start(&mut bytes, report).unwrap();
    events(path, report, |event| lines.event(event));
    lines.finish().unwrap();
    let parsed = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let parsed = parsed.map(|line| serde_json::from_slice::<Value>(line).unwrap());
    parsed.filter(|line| line["line"] == "event").collect()
}

fn recordings() -> Vec<PathBuf> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let below = |directory: PathBuf| fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut recordings: Vec<PathBuf> = below(golden).flat_map(below).collect();
    recordings.sort();
    assert!(recordings.len() >= 100, "only {} recordings were found", recordings.len());
    recordings
}

#[test]
#[ignore = "needs tshark: cargo xtask test runs it"]
fn tshark_shows_what_the_recordings_hold() {
    let directory = std::env::temp_dir().join(format!("whyrst-pcapng-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let (mut captured, mut truncated, mut resets_output) = (0, 0, 0);
    for recording in recordings() {
        let name = recording.display();
        let report = report(&recording);
        let file = directory.join("evidence.pcapng");
        let written = export(&recording, &report, &file);
        let shown = packets(&file);
        let lines = lines(&recording, &report);
        assert_eq!(lines.len() as u64, report.events, "{name}");
        assert_eq!(shown.len() as u64, written.captured + written.computed, "{name}");
        assert_eq!(written.captured + written.without_headers, report.events, "{name}");

        // What the recording of a damaged segment shows is damaged; nothing else is.
        let broken = shown.iter().any(Shown::malformed);
        let damaged = lines.iter().any(|line| line["reason"] == "truncated");
        assert_eq!(broken, damaged, "{name}: malformed packets");

        let times: Vec<&str> = shown.iter().map(|packet| packet.get("frame.time_epoch")).collect();
        assert!(times.is_sorted(), "{name}: {times:?}");
        for packet in &shown {
            let (length, here) = (packet.number("frame.len"), packet.number("frame.cap_len"));
            assert!(length >= here, "{name}");
            truncated += usize::from(length > here);
        }
        captured += compare(&recording, &shown, &lines);
        resets_output += reconstructions(&recording, &shown, &lines);
    }
    fs::remove_dir_all(&directory).unwrap();
    assert!(captured > 300 && truncated > 50 && resets_output > 20, "{captured} {truncated} {resets_output}");
}

/// Packets with headers are those of the events, in every number.
fn compare(recording: &Path, shown: &[Shown], lines: &[Value]) -> usize {
    let name = recording.display();
    let shown: Vec<&Shown> = shown.iter().filter(|packet| !packet.reconstructed()).collect();
    // As in the file: by time, and in the order in which they came.
    let mut lines: Vec<&Value> = lines.iter().filter(|line| !line["headers"].is_null()).collect();
    lines.sort_by_key(|line| line["at_nanoseconds"].as_str().unwrap().to_owned());
    assert_eq!(shown.len(), lines.len(), "{name}");
    for (packet, line) in shown.iter().zip(&lines) {
        let nanoseconds = line["at_nanoseconds"].as_str().unwrap().trim_end_matches('Z').split('.').nth(1).unwrap();
        assert_eq!(packet.get("frame.time_epoch").split('.').nth(1), Some(nanoseconds), "{name}");
        assert_eq!(packet.get("frame.interface_name"), line["target"], "{name}");
        assert_eq!(packet.number("frame.len"), line["headers"]["length"].as_u64().unwrap(), "{name}");
        let comment = packet.get("frame.comment");
        for key in ["step", "cause", "reason", "client", "nat", "server", "netns"] {
            let said = comment.split(['|', ' ']).find_map(|pair| pair.strip_prefix(&format!("{key}=")));
            let expected = match &line[key] {
                Value::Null => None,
                Value::String(word) => Some(word.clone()),
                number => Some(number.to_string()),
            };
            assert_eq!(said, expected.as_deref(), "{name}: {key} of {comment}");
        }
        if let Some(distance) = line["window"]["distance_bytes"].as_u64() {
            assert!(comment.contains(&format!(" distance_bytes={distance} ")), "{name}: {comment}");
        }
        if let Some(text) = line["text"].as_str() {
            assert!(comment.contains(text), "{name}: {text} in {comment}");
        }
        let segment = if line["packet"].is_object() { &line["packet"] } else { &line["answered"] };
        // Of a TCP header that says it is shorter than any Wireshark shows no more than the endpoints.
        if segment.is_object() && !packet.malformed() {
            let (src, dst, seq, flags) = packet.segment();
            assert_eq!((segment["src"].as_str(), segment["dst"].as_str()), (Some(&*src), Some(&*dst)), "{name}");
            assert_eq!((segment["seq"].as_u64(), segment["flags"].as_str()), (Some(seq), Some(&*flags)), "{name}");
            assert_eq!(segment["ack"].as_u64(), Some(packet.number("tcp.ack_raw")), "{name}");
        }
        let inbound = line["in"].is_string() && line["nf_hook"] != "OUTPUT" && line["nf_hook"] != "POSTROUTING";
        if inbound {
            assert_eq!(packet.get("frame.packet_flags_direction"), "0x00000001", "{name}");
        }
    }
    shown.len()
}

/// The RSTs that were computed: as many as were sent, with the numbers that the JSON has, and what was seen leaving is among
/// them.
fn reconstructions(recording: &Path, shown: &[Shown], lines: &[Value]) -> usize {
    let name = recording.display();
    let computed: Vec<&Shown> = shown.iter().filter(|packet| packet.reconstructed()).collect();
    let of = |step: &str| lines.iter().filter(|line| line["step"] == step).count();
    assert_eq!(computed.len(), of("reset-sent") + of("peer-reset-sent"), "{name}");
    for packet in &computed {
        assert_eq!(packet.get("frame.packet_flags_direction"), "0x00000002", "{name}");
        assert!(packet.segment().3.starts_with('R'), "{name}");
    }
    let mut sent: Vec<(String, u64)> =
        computed.iter().map(|packet| (packet.endpoint("dst"), packet.number("tcp.seq_raw"))).collect();
    for line in lines.iter().filter(|line| line["step"] == "reset-sent") {
        let expected = (line["to"].as_str().unwrap().to_owned(), line["seq"].as_u64().unwrap());
        let found = sent.iter().position(|known| *known == expected);
        sent.remove(found.unwrap_or_else(|| panic!("{name}: no RST to {expected:?}")));
    }
    let left = |packet: &&&Shown| packet.get("frame.comment").starts_with("step=reset-output ");
    let all: Vec<&Shown> = shown.iter().collect();
    let left: Vec<_> = all.iter().filter(left).collect();
    for reset_output in &left {
        let same = |packet: &&&Shown| packet.segment() == reset_output.segment();
        assert!(computed.iter().any(|packet| same(&packet)), "{name}: {:?} was not foreseen", reset_output.segment());
    }
    left.len()
}

#[test]
#[ignore = "needs tshark: cargo xtask test runs it"]
fn the_file_says_where_it_comes_from() {
    let recording = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/5.10/late-retransmission.whyrst");
    let file = std::env::temp_dir().join(format!("whyrst-capinfos-{}.pcapng", std::process::id()));
    let report = report(&recording);
    export(&recording, &report, &file);
    let output = Command::new("capinfos").arg(&file).output().unwrap();
    fs::remove_file(&file).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    for expected in [
        "File encapsulation:  Raw IP",
        "File timestamp precision:  nanoseconds (9)",
        "Strict time order:   True",
        "Capture application: whyrst ",
        "Capture comment:     host lab, Linux 5.10.",
        "Capture comment:     3 events, 0 lost, 0 not decoded",
        "Name = nf_ct_l4proto_log_invalid",
        "Description = this host's TCP answers the packet with a RST",
        "Number of stat entries = 1",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
}
