//! Redaction of every golden recording: no name or address is left, and the conclusions are the same.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use tracer_advice::report::Report;
use tracer_engine::session::replay;
use tracer_model::capture::{Host, Item, Items, Origin, Outcome};
use tracer_model::conntrack::{DestroyedEntry, Tuple};
use tracer_model::decode::decode;
use tracer_model::event::Event;
use tracer_model::filter::Filter;
use tracer_recording::compress::Compression;
use tracer_recording::format::MAGIC;
use tracer_recording::redact::{Key, Redacted, Redactor};
use tracer_recording::{Reader, Writer};
use tracer_render::style::TextStyle;
use tracer_render::{json, text, trace};

fn redactor() -> Redactor {
    Redactor::new(&Key::new([0x5a; 32]))
}

/// The outputs of a capture.
#[derive(Default)]
struct Outputs {
    json: Value,
    text: String,
    lines: String,
    recording: Vec<u8>,
}

fn outputs(mut items: impl Items) -> Outputs {
    let mut outputs = Outputs::default();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("copy");
    let mut writer = Writer::create(&path, items.host(), Compression::None).unwrap();
    let session = replay(&mut items, Filter::default(), |item, observed, session| -> io::Result<()> {
        writer.write(item).map_err(io::Error::other)?;
        let Some(observed) = observed else { return Ok(()) };
        let flow = observed.flow.and_then(|id| session.flow(id));
        if let Some(line) = trace::Lines::default().line(observed, session) {
            outputs.lines.push_str(&line);
            outputs.lines.push('\n');
        }
        let mut line = Vec::new();
        json::write_observation(observed, flow, session.host(), &mut line)?;
        outputs.lines.push_str(&String::from_utf8_lossy(&line));
        Ok(())
    })
    .unwrap();
    writer.flush().unwrap();
    outputs.recording = std::fs::read(&path).unwrap();
    let report = Report::new(session.finish(Origin::Recording { path: "a recording".to_owned(), damage: None }));
    let mut bytes = Vec::new();
    json::write(&report, &mut bytes).unwrap();
    outputs.json = serde_json::from_slice(&bytes).unwrap();
    outputs.text = text::render(&report, TextStyle { width: Some(100), ..TextStyle::default() }, true);
    outputs
}

/// A capture whose names are nobody's words: the lab's are, like `gateway`.
struct Marked {
    items: Reader,
    host: Host,
}

impl Marked {
    fn open(path: &Path) -> Self {
        let items = Reader::open(path).unwrap();
        let host = Host { hostname: "acme-host.example".to_owned(), ..items.host().clone() };
        Self { items, host }
    }
}

impl Items for Marked {
    fn host(&self) -> &Host {
        &self.host
    }

    fn read(&mut self) -> io::Result<Option<Item>> {
        Ok(self.items.read()?.map(|item| match item {
            Item::Netns(mut netns) => {
                netns.name = netns.name.map(|name| format!("acme-{name}"));
                Item::Netns(netns)
            }
            item => item,
        }))
    }
}

/// The names and addresses in a capture: read from the items themselves, not from a report.
#[derive(Default)]
struct Whom {
    addresses: BTreeSet<IpAddr>,
    names: BTreeSet<String>,
    /// Interfaces: of their names some are so short that they are found by chance.
    interfaces: BTreeSet<String>,
}

impl Whom {
    fn of(path: &Path) -> Self {
        let mut reader = Marked::open(path);
        let mut whom = Self::default();
        whom.names.insert(reader.host.hostname.clone());
        while let Some(item) = reader.read().unwrap() {
            match item {
                Item::Record(raw) => whom.event(&decode(&raw).unwrap()),
                Item::Netns(netns) => whom.names.extend(netns.name),
                Item::LookedUp(answer) => {
                    whom.tuple(answer.look_up.tuple);
                    match answer.outcome {
                        Outcome::Found { original, reply, .. } => [original, reply].map(|tuple| whom.tuple(tuple)),
                        Outcome::NotFound { was: Some(was) } => {
                            [was.original, was.reply].map(|tuple| whom.tuple(tuple))
                        }
                        Outcome::NotFound { was: None } | Outcome::Failed { .. } => continue,
                    };
                }
                Item::TableUsage(table_usage) => {
                    whom.addresses.extend(table_usage.sources.iter().map(|(source, _)| source));
                    whom.addresses.extend(table_usage.services.iter().map(|(service, _)| service.address));
                }
                _ => {}
            }
        }
        whom.addresses.retain(|address| !address.is_loopback() && !address.is_unspecified());
        whom.names.retain(|name| !name.is_empty());
        whom.interfaces.retain(|name| !name.is_empty());
        whom
    }

    fn event(&mut self, event: &Event) {
        let packet = event.packet.map(|packet| packet.tuple());
        packet.into_iter().chain(event.tuple()).for_each(|tuple| self.tuple(tuple));
        let entries =
            event.entry.iter().chain(event.destroyed.as_deref().map(|destroyed: &DestroyedEntry| &destroyed.entry));
        entries.for_each(|entry| [entry.original, entry.reply].into_iter().for_each(|tuple| self.tuple(tuple)));
        let interfaces = event.input.iter().chain(&event.output);
        self.interfaces.extend(interfaces.map(|interface| interface.name.to_string()).filter(|name| name != "lo"));
        if let Some(process) = event.process() {
            self.names.insert(process.comm.to_string());
        }
        if let Some(tracer_model::conntrack::DestroyedBy::UserSpace { comm, .. }) =
            event.destroyed.as_ref().map(|destroyed| destroyed.by)
        {
            self.names.insert(comm.to_string());
        }
    }

    fn tuple(&mut self, tuple: Tuple) {
        self.addresses.extend([tuple.src.ip(), tuple.dst.ip()]);
    }
}

fn recordings() -> Vec<PathBuf> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut found = Vec::new();
    for kernel in std::fs::read_dir(golden).unwrap() {
        let files = std::fs::read_dir(kernel.unwrap().path()).unwrap();
        found.extend(files.map(|file| file.unwrap().path()));
    }
    found.sort();
    assert!(found.len() >= 100, "only {} recordings were found", found.len());
    found
}

/// Whether a text has this word, and not only letters of another.
fn has_word(text: &str, word: &str) -> bool {
    let part = |character: char| {
        character.is_alphanumeric() || character == '.' && word.contains('.') || character == ':' && word.contains(':')
    };
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let mut behind = text[at + word.len()..].chars();
        // A dot or colon ends a sentence, or begins a port.
        let (next, after) = (behind.next(), behind.next());
        let goes_on =
            next.is_some_and(|next| part(next) && (next.is_alphanumeric() || after.is_some_and(char::is_alphanumeric)));
        let port = next == Some(':') && word.contains('.');
        !before.is_some_and(part) && (!goes_on || port)
    })
}

/// Whether a frame of a recording has these bytes in it.
fn has_bytes(recording: &[u8], needle: &[u8]) -> bool {
    let mut rest = &recording[MAGIC.len() + 4..];
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let (frame, next) = behind[4..].split_at(u32::from_le_bytes(*length) as usize);
        if frame.windows(needle.len()).any(|window| window == needle) {
            return true;
        }
        rest = next;
    }
    false
}

#[test]
fn nothing_of_whose_they_are_is_left() {
    let mut seen = 0;
    for path in recordings() {
        let name = path.display();
        let whom = Whom::of(&path);
        let shown = outputs(Redacted::new(Marked::open(&path), redactor()));
        let json = shown.json.to_string();
        for (what, text) in [("JSON", json.as_str()), ("text", &shown.text), ("trace", &shown.lines)] {
            assert!(!text.contains("acme"), "{name}: a name is in the {what}");
            for address in &whom.addresses {
                assert!(!has_word(text, &address.to_string()), "{name}: {address} is in the {what}");
            }
            for word in &whom.names {
                // The tool of a command that the report prints is not the process that was seen.
                let named = if word == "conntrack" { "conntrack (process" } else { word };
                assert!(!has_word(text, named), "{name}: {word} is in the {what}");
            }
            for interface in &whom.interfaces {
                for written in [
                    format!("\"{interface}\""),
                    format!(" {interface} "),
                    format!("={interface} "),
                    format!(" {interface}\n"),
                ] {
                    assert!(!text.contains(&written), "{name}: interface {interface} is in the {what}");
                }
            }
        }
        for address in &whom.addresses {
            let octets = match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            assert!(!has_bytes(&shown.recording, &octets), "{name}: {address} is in the recording, as bytes");
            assert!(
                !has_bytes(&shown.recording, address.to_string().as_bytes()),
                "{name}: {address} is in the recording"
            );
        }
        for word in whom.names.iter().chain(&whom.interfaces).filter(|word| word.len() > 3) {
            let quoted = format!("\"{word}\"");
            let padded = [word.as_bytes(), b"\0"].concat();
            for bytes in [quoted.as_bytes(), &padded] {
                assert!(!has_bytes(&shown.recording, bytes), "{name}: {word} is in the recording");
            }
        }
        seen += whom.addresses.len();
    }
    assert!(seen > 300, "only {seen} addresses were looked for");
}

/// The values at these places of every flow, and the counts, are what they were.
#[test]
fn the_conclusions_are_the_same() {
    const SAME: [&str; 15] = [
        "/cause",
        "/reason",
        "/confidence",
        "/reset_by",
        "/reset_effect",
        "/tcp_state",
        "/assured",
        "/invalid_packets",
        "/ignored_packets",
        "/resets",
        "/window",
        "/first",
        "/last",
        "/mitigations",
        "/from",
    ];
    for path in recordings() {
        let name = path.display();
        let (before, after) =
            (outputs(Reader::open(&path).unwrap()), outputs(Redacted::new(Reader::open(&path).unwrap(), redactor())));
        let empty = Vec::new();
        let flows = |of: &Outputs| of.json["flows"].as_array().unwrap_or(&empty).clone();
        assert_eq!(flows(&before).len(), flows(&after).len(), "{name}");
        for (before, after) in flows(&before).iter().zip(&flows(&after)) {
            for place in SAME {
                assert_eq!(before.pointer(place), after.pointer(place), "{name}: {place}");
            }
            let rule = |flow: &Value| [flow.pointer("/rule/count").cloned(), flow.pointer("/rule/handle").cloned()];
            assert_eq!(rule(before), rule(after), "{name}: the rule");
            let steps = |flow: &Value| {
                flow["chain"].as_array().into_iter().flatten().map(|step| step["step"].clone()).collect::<Vec<_>>()
            };
            assert_eq!(steps(before), steps(after), "{name}: the chain");
        }
        assert_eq!(before.json["summary"], after.json["summary"], "{name}");
        for place in [
            "/capture/hooks",
            "/capture/events",
            "/capture/started",
            "/capture/ended",
            "/host/kernel",
            "/host/log_format",
        ] {
            assert_eq!(before.json.pointer(place), after.json.pointer(place), "{name}: {place}");
        }
        let ids = |of: &Outputs| {
            of.json["findings"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|finding| finding["id"].clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(ids(&before), ids(&after), "{name}: the findings");
    }
}

/// A redacted recording is a recording like any other: what is read from it is what was shown.
#[test]
fn a_redacted_recording_reads_as_it_was_shown() {
    for path in recordings().iter().step_by(7) {
        let shown = outputs(Redacted::new(Reader::open(path).unwrap(), redactor()));
        let again = Reader::new(Box::new(io::Cursor::new(shown.recording.clone())), path).unwrap();
        let again = outputs(again);
        assert_eq!((&again.json, &again.lines), (&shown.json, &shown.lines), "{}", path.display());
    }
}
