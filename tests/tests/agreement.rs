//! Text, JSON, page, trace and export of every golden recording list the same flows, counts, causes and steps.
//!
//! Names of steps, causes and members come from the JSON. Text and page are read as rows with a time: every step of a chain
//! needs a row of its own, at its time, with its evidence. So a renderer that leaves out a step fails whatever it is called.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::{fs, io};

use serde_json::Value;

use tracer::annotate;
use tracer_advice::report::Report;
use tracer_engine::session::replay;
use tracer_model::capture::Origin;
use tracer_model::filter::Filter;
use tracer_recording::Reader;
use tracer_render::json::{self, JsonLines};
use tracer_render::pcapng::{PcapNg, Written};
use tracer_render::style::TextStyle;
use tracer_render::{html, text, trace};

/// Members of a step that text and page have in other words, or not at all: codes that a sentence stands for, where a hook ran,
/// and times, which the row itself has. Everything else is evidence that a reader must see.
const IN_OTHER_WORDS: [&str; 16] = [
    "step",
    "at",
    "after_us",
    "before_us",
    "not_before",
    "hook",
    "function",
    "cpu",
    "nf_hook",
    "direction",
    "by",
    "effect",
    "how",
    "nfct",
    "netns",
    "assured",
];

/// A recording in all formats.
struct Formats {
    name: String,
    json: Value,
    text: String,
    page: String,
    /// A pair per event: as JSON, and as a line of text.
    trace: Vec<(Value, String)>,
    export: Vec<Value>,
    pcapng: Vec<u8>,
    written: Written,
}

impl Formats {
    fn of(path: &Path) -> Self {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let (drawn, mut events) = (trace::Lines::default(), Vec::new());
        let mut reader = Reader::open(path).unwrap();
        let session = replay(&mut reader, Filter::default(), |_, observed, session| -> io::Result<()> {
            let Some(observed) = observed else { return Ok(()) };
            let mut line = Vec::new();
            let flow = observed.flow.and_then(|id| session.flow(id));
            json::write_observation(observed, flow, session.host(), &mut line)?;
            let document = if line.is_empty() { Value::Null } else { parse(&line) };
            let text = drawn.line(observed, session).map(|text| plain(&text)).unwrap_or_default();
            events.extend(Some((document, text)).filter(|pair| *pair != (Value::Null, String::new())));
            Ok(())
        })
        .unwrap();
        let report = Report::new(session.finish(Origin::Recording { path: name.clone(), damage: None }));

        let (mut document, mut page) = (Vec::new(), Vec::new());
        json::write(&report, &mut document).unwrap();
        html::write(&report, &mut page).unwrap();
        let (mut lines, mut packets) = (Vec::new(), Vec::new());
        let mut export = JsonLines::start(&mut lines, &report).unwrap();
        let mut pcapng = PcapNg::start(&mut packets, &report, false).unwrap();
        annotate::events(&mut Reader::open(path).unwrap(), &report, u64::MAX, &Filter::default(), |event| {
            export.event(event)?;
            pcapng.event(event)
        })
        .unwrap();
        export.finish().unwrap();
        let written = pcapng.finish().unwrap();
        Self {
            json: parse(&document),
            // Nothing is wrapped: a row is a line.
            text: plain(&text::render(&report, TextStyle::default(), true)),
            page: String::from_utf8(page).unwrap(),
            trace: events,
            export: str::from_utf8(&lines).unwrap().lines().map(|line| parse(line.as_bytes())).collect(),
            pcapng: packets,
            written,
            name,
        }
    }

    fn flows(&self) -> &[Value] {
        array(&self.json["flows"])
    }

    /// The part of the text that is about a flow: its heading, and what follows up to an empty line.
    fn section(&self, number: usize) -> (&str, Vec<&str>) {
        let mut lines = self.text.lines().skip_while(|line| !line.starts_with(&format!("#{number}  ")));
        let heading = lines.next().unwrap_or_else(|| panic!("{}: no flow #{number} in the text", self.name));
        (heading, lines.take_while(|line| !line.is_empty()).collect())
    }

    /// The part of the page that is about a flow.
    fn article(&self, number: usize) -> &str {
        between(&self.page, &format!("<article class=\"flow\" id=\"flow-{number}\""), "</article>")
    }
}

fn parse(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Without colours, and with common spaces.
fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string().replace('\u{a0}', " ")
}

/// What is between two marks.
fn between<'a>(text: &'a str, first: &str, last: &str) -> &'a str {
    let (_, rest) = text.split_once(first).unwrap_or_else(|| panic!("no {first}"));
    rest.split_once(last).unwrap_or_else(|| panic!("no {last}")).0
}

/// What is between two marks, wherever they are.
fn all_between<'a>(text: &'a str, first: &'a str, last: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(first).skip(1).map(move |rest| rest.split_once(last).unwrap_or_else(|| panic!("no {last}")).0)
}

/// The words of a piece of HTML.
fn words(html: &str) -> String {
    let mut text = String::new();
    for part in html.split('<') {
        text.push_str(part.split_once('>').map_or(part, |(_, behind)| behind));
        text.push(' ');
    }
    let names = [("&#39;", "'"), ("&#34;", "\""), ("&#60;", "<"), ("&#62;", ">"), ("&#38;", "&")];
    let more = [("&quot;", "\""), ("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")];
    let text = names.into_iter().chain(more).fold(text, |text, (name, character)| text.replace(name, character));
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A word or a number of a document, as it is printed; nothing for null.
fn word(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.replace('\u{a0}', " ").trim_end().to_owned(),
        other => other.to_string(),
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no count"))
}

/// The number at the beginning of a text, which may have separators of thousands.
fn leading_number(text: &str) -> Option<u64> {
    let digits: String = text.chars().take_while(|character| character.is_ascii_digit() || *character == ',').collect();
    digits.replace(',', "").parse().ok()
}

/// Microseconds of the day.
fn clock(text: &str) -> Option<i64> {
    let mut parts = text.trim_end_matches('Z').split(':');
    let (hours, minutes, seconds) = (parts.next()?, parts.next()?, parts.next()?);
    let (seconds, micros) = seconds.split_once('.')?;
    let number = |text: &str, digits: usize| (text.len() == digits).then(|| text.parse::<i64>().ok()).flatten();
    let seconds = number(hours, 2)? * 3_600 + number(minutes, 2)? * 60 + number(seconds, 2)?;
    Some(seconds * 1_000_000 + number(micros, 6)?)
}

/// When a step is, in microseconds of the day.
fn at(step: &Value) -> i64 {
    let text = step["at"].as_str().unwrap();
    clock(text.split_once('T').unwrap().1).unwrap_or_else(|| panic!("{text} is no time"))
}

/// How long after or before something, and how exact that is, in microseconds: `+19 µs`, `−13 ms`, `+2.07 s`.
fn elapsed(text: &str) -> Option<(i64, i64)> {
    let (sign, rest) = match text.strip_prefix('+') {
        Some(rest) => (1, rest),
        None => (-1, text.strip_prefix('−')?),
    };
    let (number, unit) = rest.split_once(' ')?;
    match unit {
        "µs" => Some((sign * number.parse::<i64>().ok()?, 1)),
        "ms" => Some((sign * number.parse::<i64>().ok()? * 1_000, 1_001)),
        "s" => {
            let (whole, hundredths) = number.split_once('.')?;
            let hundredths = whole.parse::<i64>().ok()? * 100 + hundredths.parse::<i64>().ok()?;
            Some((sign * hundredths * 10_000, 10_001))
        }
        _ => None,
    }
}

/// A row of a flow, as it is read.
#[derive(Debug, Clone)]
struct Row {
    at: i64,
    /// How exact that is.
    within: i64,
    text: String,
}

impl Row {
    /// Whether this may be the time of that step. An entry that was destroyed before the packet came may be shown where it matters,
    /// which is with the packet.
    fn is_at(&self, step: &Value) -> bool {
        let before = step["before_us"].as_i64().unwrap_or_default();
        [at(step), at(step) + before].iter().any(|at| (at - self.at).abs() <= self.within)
    }
}

/// Adds rows whose times are those of the day, or how long after the last such time.
#[derive(Default)]
struct Rows {
    rows: Vec<Row>,
    began: i64,
}

impl Rows {
    /// Whether that is a time.
    fn add(&mut self, time: &str, text: &str) -> bool {
        let (at, within) = match (clock(time), elapsed(time)) {
            (Some(at), _) => {
                self.began = at;
                (at, 1)
            }
            (None, Some((after, within))) => (self.began + after, within),
            (None, None) => return false,
        };
        self.rows.push(Row { at, within, text: text.to_owned() });
        true
    }
}

/// The rows of a section of the text. What has no time of its own belongs to the row before; what is less indented than a row is
/// about the whole flow.
fn rows_of_text(section: &[&str]) -> Vec<Row> {
    let mut rows = Rows::default();
    for line in section {
        let columns = line.trim_start();
        let indent = line.chars().count() - columns.chars().count();
        let mut words = columns.splitn(3, ' ');
        let (first, second, rest) = (words.next().unwrap(), words.next().unwrap_or(""), words.next().unwrap_or(""));
        let timed = rows.add(first, columns) || rows.add(&format!("{first} {second}"), rest);
        if let Some(row) = rows.rows.last_mut().filter(|_| !timed && indent > 2) {
            row.text.push(' ');
            row.text.push_str(columns);
        }
    }
    rows.rows
}

/// The rows of a flow's list in the page.
fn rows_of_page(article: &str) -> Vec<Row> {
    let mut rows = Rows::default();
    for item in all_between(between(article, "<ol class=\"steps\">", "</ol>"), "<li", "</li>") {
        let time = between(item, "<span class=\"time\">", "</span>");
        assert!(rows.add(time, &words(&format!("<li{item}"))), "{time} is no time");
    }
    rows.rows
}

/// What a step has to show, besides its name and time.
#[derive(Debug, Default)]
struct Evidence {
    /// In a row of its own.
    own: Vec<String>,
    /// Of the segment, which may have a row before.
    segment: Vec<String>,
}

impl Evidence {
    fn of(step: &Value) -> Self {
        let mut found = Self::default();
        let of_segment = |member: &str| step.get("packet").is_some() && member == "in";
        for (member, value) in step.as_object().unwrap() {
            match value {
                _ if IN_OTHER_WORDS.contains(&member.as_str()) => {}
                // Where a refused segment would have left is not shown.
                _ if member == "out" && step.get("packet").is_some() => {}
                Value::String(_) | Value::Number(_) if of_segment(member) => found.segment.push(word(value)),
                Value::String(_) | Value::Number(_) => found.own.push(word(value)),
                // Of a segment its number stands for all of it.
                Value::Object(segment) if member == "packet" => {
                    found.segment.push(format!("seq {}", segment["seq"]));
                }
                Value::Object(process) if member == "process" => found.own.extend(process.values().map(word)),
                _ => {}
            }
        }
        found
    }
}

/// Steps that have no row of their own, at their time and with their evidence.
fn without_row<'a>(chain: &'a [Value], rows: &[Row]) -> Vec<&'a Value> {
    let mut free: Vec<&Row> = rows.iter().collect();
    let mut steps: Vec<(Evidence, &Value)> = chain.iter().map(|step| (Evidence::of(step), step)).collect();
    // Those that ask for most choose first.
    steps.sort_by_key(|(evidence, _)| std::cmp::Reverse(evidence.own.len()));
    let mut missing = Vec::new();
    for (evidence, step) in steps {
        let shows = |row: &Row, what: &String| row.is_at(step) && row.text.contains(what.as_str());
        let segment = evidence.segment.iter().all(|what| rows.iter().any(|row| shows(row, what)));
        let own = |row: &&Row| row.is_at(step) && evidence.own.iter().all(|what| shows(row, what));
        match free.iter().position(own).filter(|_| segment) {
            Some(place) => drop(free.remove(place)),
            None => missing.push(step),
        }
    }
    missing
}

/// Every recording, in all formats.
static RECORDINGS: LazyLock<Vec<Formats>> = LazyLock::new(|| {
    let below = |directory: PathBuf| fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut recordings: Vec<PathBuf> = below(golden).flat_map(below).collect();
    recordings.sort();
    assert!(recordings.len() >= 300, "only {} recordings were found", recordings.len());
    recordings.iter().map(|path| Formats::of(path)).collect()
});

#[test]
fn every_step_is_shown() {
    let mut shown = BTreeMap::<String, usize>::new();
    for it in RECORDINGS.iter() {
        for (index, flow) in it.flows().iter().enumerate() {
            let (chain, what) = (array(&flow["chain"]), format!("{} #{}", it.name, index + 1));
            let (_, section) = it.section(index + 1);
            for (format, rows) in [("text", rows_of_text(&section)), ("page", rows_of_page(it.article(index + 1)))] {
                let missing = without_row(chain, &rows);
                assert!(missing.is_empty(), "{what}: the {format} does not show {missing:#?}\nbut {rows:#?}");
            }
            for step in chain {
                *shown.entry(word(&step["step"])).or_default() += 1;
            }
        }
    }
    assert!(shown.len() > 8 && shown.values().sum::<usize>() > 1_000, "{shown:?}");
}

/// The check above notices it: without any row that shows a step, a step is missing.
#[test]
fn a_missing_row_is_noticed() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut removed = 0;
    for name in
        ["5.10/late-retransmission", "7/entry-expired", "7/tap-server-aborts", "7/overshot", "7/address-removed-strict"]
    {
        let it = Formats::of(&golden.join(format!("{name}.whyrst")));
        let chain = array(&it.flows()[0]["chain"]);
        for rows in [rows_of_text(&it.section(1).1), rows_of_page(it.article(1))] {
            let needed = (0..rows.len()).filter(|index| {
                let mut fewer = rows.clone();
                fewer.remove(*index);
                !without_row(chain, &fewer).is_empty()
            });
            let needed = needed.count();
            // The others show segments of which nothing is asked but their numbers.
            assert!(needed >= chain.len(), "{name}: {needed} rows are needed for {} steps", chain.len());
            removed += needed;
        }
    }
    assert!(removed > 30, "{removed}");
}

/// The diagram of a flow has a place on its axis for every step, and labels with its evidence.
#[test]
fn every_step_is_drawn() {
    // Arrows show the ends, and the list beside the diagram has the rest.
    const WITHOUT_LABEL: [&str; 4] = ["from", "to", "kernel_reason", "socket_state"];
    let mut steps = 0;
    for it in RECORDINGS.iter() {
        for (index, flow) in it.flows().iter().enumerate() {
            let what = format!("{} #{}", it.name, index + 1);
            let drawing =
                between(it.article(index + 1), "<svg role=\"img\"", "</svg>").split_once("</desc>").unwrap().1;
            let labels = drawing.split('>').filter_map(|part| part.split('<').next());
            let labels: Vec<&str> = labels.filter(|label| !label.is_empty()).collect();
            // Times before the beginning stand above it.
            let began = labels.iter().find_map(|label| clock(label)).unwrap_or_else(|| panic!("{what}: {labels:?}"));
            let mut axis = Rows { rows: Vec::new(), began };
            // Headings of the lifelines come before the first time.
            let first = labels.iter().position(|label| axis.add(label, label)).unwrap();
            let (times, below): (Vec<&str>, Vec<&str>) =
                labels[first..].iter().partition(|label| axis.add(label, label));
            let below = words(&below.join(" "));
            for step in array(&flow["chain"]) {
                let found = axis.rows.iter().any(|row| (row.at - at(step)).abs() <= row.within);
                assert!(found, "{what}: the axis does not have {step:#}\nbut {times:?}");
                let mut drawn = step.clone();
                drawn.as_object_mut().unwrap().retain(|member, _| !WITHOUT_LABEL.contains(&member.as_str()));
                let Evidence { own, segment } = Evidence::of(&drawn);
                let missing: Vec<&String> = own.iter().chain(&segment).filter(|what| !below.contains(*what)).collect();
                assert!(missing.is_empty(), "{what}: the diagram does not have {missing:?} of {step:#}\nbut {below}");
                steps += 1;
            }
        }
    }
    assert!(steps > 1_000, "{steps}");
}

/// Endpoints of a flow in the order in which a packet of the client's meets them.
fn path(flow: &Value) -> String {
    let stations = ["client", "nat", "service", "server"].map(|end| word(&flow[end]));
    stations.into_iter().filter(|end| !end.is_empty()).collect::<Vec<_>>().join(" → ")
}

/// Flows per cause.
fn causes<'a>(causes: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, u64> {
    let mut counts = BTreeMap::new();
    causes.for_each(|cause| *counts.entry(cause).or_default() += 1);
    counts
}

/// Whether nothing happened to a flow but packets that conntrack accepted.
fn unharmed(flow: &Value) -> bool {
    let count = |member: &str| number(&flow[member]);
    count("ignored_packets") > 0 && count("invalid_packets") + count("resets") + count("peer_resets") == 0
}

#[test]
fn text_and_json_have_the_same_flows_and_counts() {
    let (mut flows, mut harmed) = (0, 0);
    for it in RECORDINGS.iter() {
        let (name, json, summary) = (&it.name, &it.json, &it.json["summary"]);
        let (header, body) = it.text.split_once("\n\n").unwrap();
        let capture = |member: &str| number(&json["capture"][member]);
        let counts: Vec<u64> = header.split([' ', '\n']).filter_map(leading_number).collect();
        for member in ["events", "events_lost"] {
            assert!(counts.contains(&capture(member)), "{name}: {member} in {header}");
        }

        for (index, flow) in it.flows().iter().enumerate() {
            let (heading, section) = it.section(index + 1);
            let parts: Vec<&str> = heading.split("      ").collect();
            assert_eq!(parts[0], format!("#{}  {}", index + 1, path(flow)), "{name}");
            let (cause, reason) = parts[1].split_once(" · ").unwrap_or((parts[1], ""));
            assert_eq!((cause, reason), (&*word(&flow["cause"]), &*word(&flow["reason"])), "{name}: {heading}");
            assert_eq!(parts[2], word(&flow["confidence"]), "{name}: {heading}");
            let below = section.join("\n");
            for excluded in array(&flow["excluded"]) {
                let text = format!("{} ({})", word(&excluded["cause"]), word(&excluded["because"]));
                assert!(below.contains(&text), "{name}: {text} is not in\n{below}");
            }
            for mitigation in array(&flow["mitigations"]) {
                assert!(below.contains(&word(mitigation)), "{name}: {mitigation} is not in\n{below}");
            }
            // Of more than two packets the row that begins a section has the counts.
            let several: Vec<u64> = ["invalid_packets", "ignored_packets", "resets", "peer_resets"]
                .map(|member| number(&flow[member]))
                .into_iter()
                .filter(|count| *count > 0)
                .collect();
            if several.iter().sum::<u64>() > 2 {
                let found: Vec<u64> = section[0].split(", ").filter_map(|it| leading_number(it.trim())).collect();
                assert_eq!(found, several, "{name}: {}", section[0]);
            }
            flows += 1;
        }
        assert!(!it.text.contains(&format!("\n#{}  ", it.flows().len() + 1)), "{name}: the text has more flows");

        // Counts of the summary are those of what is listed.
        let listed = it.flows().iter().filter(|flow| !unharmed(flow)).map(|flow| flow["cause"].as_str().unwrap());
        let by_cause = summary["by_cause"].as_object().unwrap().iter();
        let by_cause: BTreeMap<&str, u64> = by_cause.map(|(cause, count)| (cause.as_str(), number(count))).collect();
        assert_eq!(causes(listed), by_cause, "{name}");

        // A headline counts the connections that were reset, by this host or by an end.
        let headlines = body.lines().take_while(|line| !line.is_empty());
        let reset: u64 = headlines
            .filter(|line| line.split(' ').nth(1).is_some_and(|noun| noun.starts_with("connection")))
            .filter_map(leading_number)
            .sum();
        let by_ends = it.flows().iter().filter(|flow| flow["reset_by"] == "peer").count() as u64;
        assert_eq!(reset, number(&summary["flows_reset"]) + by_ends, "{name}: {body}");
        let dropped = number(&summary["table_full_drops"]);
        assert!(dropped == 0 || leading_number(body) == Some(dropped), "{name}: {dropped} are not in {body}");
        harmed += reset;

        for finding in array(&json["findings"]) {
            let line = format!("\n{}: {}\n", word(&finding["severity"]), word(&finding["title"]));
            assert!(it.text.contains(&line), "{name}: {line}");
        }
        for mitigation in array(&json["mitigations"]) {
            assert!(it.text.contains(&format!("\n{}\n", word(&mitigation["id"]))), "{name}: {mitigation}");
        }
    }
    assert!(flows > 250 && harmed > 150, "{flows} flows, {harmed} of them reset");
}

#[test]
fn page_and_json_have_the_same_flows_and_counts() {
    let mut flows = 0;
    for it in RECORDINGS.iter() {
        let (name, json, summary) = (&it.name, &it.json, &it.json["summary"]);
        // Its own copy of the report.
        assert_eq!(&parse(between(&it.page, "id=\"json\">", "</script>").as_bytes()), json, "{name}");
        let values = all_between(between(&it.page, "<dl class=\"facts\">", "</dl>"), "<dd>", "</dd>");
        let counts: Vec<u64> = values
            .filter(|value| value.chars().all(|character| character.is_ascii_digit() || character == ','))
            .filter_map(leading_number)
            .collect();
        let expected = ["invalid_packets", "resets_sent", "flows_reset"].map(|member| number(&summary[member]));
        assert_eq!(counts, expected, "{name}");

        let rows: Vec<Vec<String>> = all_between(&it.page, "<tr data-cause=", "</tr>")
            .map(|row| all_between(row, "<td", "</td>").map(|cell| words(&format!("<td{cell}"))).collect())
            .collect();
        assert_eq!(rows.len(), it.flows().len(), "{name}");
        for (index, (row, flow)) in rows.iter().zip(it.flows()).enumerate() {
            let members = ["cause", "reason", "reset_by", "confidence", "invalid_packets", "resets"];
            let expected = members.map(|member| word(&flow[member]));
            assert_eq!((&row[0], &row[2]), (&(index + 1).to_string(), &path(flow)), "{name}");
            assert_eq!(row[row.len() - expected.len()..], expected, "{name}");
            let article = words(it.article(index + 1));
            for member in ["cause", "reason", "confidence", "reset_by"] {
                assert!(article.contains(&word(&flow[member])), "{name}: {member} in {article}");
            }
            for excluded in array(&flow["excluded"]) {
                assert!(article.contains(&word(&excluded["because"])), "{name}: {excluded} is not in {article}");
            }
            for mitigation in array(&flow["mitigations"]) {
                assert!(article.contains(&word(mitigation)), "{name}: {mitigation} is not in {article}");
            }
            flows += 1;
        }
        let choices: BTreeMap<String, u64> = all_between(&it.page, "<option value=\"", "</option>")
            .filter_map(|option| option.split_once("\">")?.1.strip_suffix(')')?.split_once(" ("))
            .map(|(cause, count)| (cause.to_owned(), leading_number(count).unwrap()))
            .collect();
        let listed = causes(it.flows().iter().map(|flow| flow["cause"].as_str().unwrap()));
        assert!(choices.iter().map(|(cause, count)| (cause.as_str(), *count)).eq(listed), "{name}: {choices:?}");

        let page = words(&it.page);
        for finding in array(&json["findings"]) {
            assert!(page.contains(&word(&finding["title"])), "{name}: {finding}");
        }
        for mitigation in array(&json["mitigations"]) {
            assert!(it.page.contains(&format!("<code>{}</code>", word(&mitigation["id"]))), "{name}: {mitigation}");
        }
    }
    assert!(flows > 250, "{flows} flows");
}

/// Kinds of steps that are events are the ones that any trace has; the others are concluded, and in reports alone.
#[test]
fn traces_and_exports_have_the_events_of_every_chain() {
    for it in RECORDINGS.iter() {
        let one = it.trace.iter().find(|(json, line)| json.is_null() || line.is_empty());
        assert!(one.is_none(), "{}: only one of two traces has {one:#?}", it.name);
    }
    let step = |line: &Value| line["step"].as_str().unwrap().to_owned();
    let events: BTreeSet<String> = RECORDINGS.iter().flat_map(|it| &it.trace).map(|(line, _)| step(line)).collect();
    let mut found = BTreeSet::new();
    for it in RECORDINGS.iter() {
        let name = &it.name;
        for of_chain in it.flows().iter().flat_map(|flow| array(&flow["chain"])) {
            if events.contains(&step(of_chain)) {
                let same = |line: &Value| line["step"] == of_chain["step"] && line["at"] == of_chain["at"];
                assert!(it.trace.iter().any(|(line, _)| same(line)), "{name}: no trace has {of_chain:#}");
                found.insert(step(of_chain));
            }
        }
        for (json, line) in &it.trace {
            let (time, rest) = line.split_once(' ').unwrap();
            assert_eq!(clock(time), Some(at(json)), "{name}: {line}");
            for member in ["client", "nat", "service", "server", "netns"] {
                let shown = rest.split(' ').find_map(|pair| pair.strip_prefix(&format!("{member}=")));
                assert_eq!(shown.unwrap_or_default(), word(&json[member]), "{name}: {member} in {line}");
            }
            let diagnosis = [&json["cause"], &json["reason"]].map(word).into_iter().filter(|word| !word.is_empty());
            let diagnosis = diagnosis.collect::<Vec<_>>().join("/");
            assert!(
                diagnosis.is_empty() || rest.split(' ').any(|word| word == diagnosis),
                "{name}: {diagnosis} in {line}"
            );
            if let Some(text) = json["text"].as_str() {
                assert!(rest.contains(text.trim_end()), "{name}: {text} in {line}");
            }
        }

        let of_kind = |kind: &str| it.export.iter().filter(move |line| line["line"] == kind).collect::<Vec<_>>();
        let (flows, lines) = (of_kind("flow"), of_kind("event"));
        assert_eq!(flows.len(), it.flows().len(), "{name}");
        for (line, flow) in flows.iter().zip(it.flows()) {
            for (member, value) in flow.as_object().unwrap() {
                assert_eq!(&line[member], value, "{name}: {member}");
            }
        }
        let brief = |line: &Value| (step(line), line["at"].clone(), line["netns"].clone());
        let traced: Vec<_> = it.trace.iter().map(|(line, _)| brief(line)).collect();
        assert_eq!(lines.iter().map(|line| brief(line)).collect::<Vec<_>>(), traced, "{name}");

        // Every packet has its step in a comment; so has every RST that was reconstructed beside the segment it answers.
        let packets = String::from_utf8_lossy(&it.pcapng);
        let comments = |kind: &String| packets.matches(&format!("step={kind} ")).count() as u64;
        let captured: Vec<&&Value> = lines.iter().filter(|line| !line["headers"].is_null()).collect();
        for kind in &events {
            let expected = captured.iter().filter(|line| step(line) == *kind).count() as u64;
            assert!(comments(kind) >= expected, "{name}: {kind} is in {} packets of {expected}", comments(kind));
        }
        let packets: u64 = events.iter().map(comments).sum();
        assert_eq!(
            (it.written.captured, packets),
            (captured.len() as u64, captured.len() as u64 + it.written.computed),
            "{name}"
        );
    }
    assert!(found.len() > 5, "{found:?}");
}
