//! The page as a whole: whatever the strings of a report are, they are text in it.

use std::io;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use tracer_advice::report::Report;
use tracer_engine::session::replay;
use tracer_model::capture::{Damage, HookState, Origin, Outcome};
use tracer_model::filter::Filter;
use tracer_model::ruleset::{Backend, Candidates, Family, Hooks, Rule};
use tracer_recording::Reader;

use super::write;

/// All golden recordings.
pub(super) fn recordings() -> Vec<PathBuf> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let mut found = Vec::new();
    for kernel in golden.read_dir().unwrap() {
        found.extend(kernel.unwrap().path().read_dir().unwrap().map(|file| file.unwrap().path()));
    }
    assert!(found.len() > 100, "{} recordings", found.len());
    found.sort();
    found
}

/// The report of a recording.
pub(super) fn report_of(path: &Path) -> Report {
    let mut reader = Reader::open(path).unwrap();
    let session = replay(&mut reader, Filter::default(), |_, _, _| -> io::Result<()> { Ok(()) }).unwrap();
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    Report::new(session.finish(Origin::Recording { path: name, damage: None }))
}

/// The report of one of them.
pub(super) fn golden(name: &str) -> Report {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    report_of(&golden.join(name).with_extension("whyrst"))
}

fn page(report: &Report) -> String {
    let mut bytes = Vec::new();
    write(report, &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// The tags of a page, with what is between their angle brackets outside of quotes; its own style and script are left out.
fn tags(page: &str) -> Vec<String> {
    let mut tags = Vec::new();
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        let (mut tag, mut quoted) = (String::new(), false);
        for c in rest[at + 1..].chars() {
            match c {
                '"' => quoted = !quoted,
                '>' if !quoted => break,
                c if !quoted => tag.push(c),
                _ => {}
            }
        }
        rest = &rest[at + 1..];
        for (open, close) in [("style>", "</style>"), ("script>", "</script>")] {
            if rest.starts_with(open) {
                rest = &rest[rest.find(close).expect("an end of what is not markup")..];
            }
        }
        tags.push(tag);
    }
    tags
}

/// What of a page is not made of the elements and attributes that it should be made of.
fn strange(page: &str) -> Vec<String> {
    let strange = |tag: &String| {
        let mut words = tag.split_whitespace();
        let name = words.next().unwrap_or_default().trim_matches('/');
        let attribute = |word: &str| ATTRIBUTES.contains(&word.trim_end_matches('/').trim_end_matches('='));
        !ELEMENTS.contains(&name) || !words.all(|word| word == "/" || attribute(word))
    };
    tags(page).into_iter().filter(strange).collect()
}

/// Attributes of them.
const ATTRIBUTES: &[&str] = &[
    "aria-hidden",
    "aria-label",
    "aria-labelledby",
    "aria-live",
    "aria-sort",
    "autocomplete",
    "charset",
    "class",
    "content",
    "cx",
    "cy",
    "d",
    "data-at-once",
    "data-cause",
    "data-flow",
    "data-kind",
    "for",
    "height",
    "hidden",
    "href",
    "html",
    "http-equiv",
    "id",
    "lang",
    "name",
    "open",
    "placeholder",
    "r",
    "role",
    "rx",
    "scope",
    "spellcheck",
    "tabindex",
    "type",
    "value",
    "viewBox",
    "width",
    "x",
    "y",
];

/// Elements that the page is made of.
const ELEMENTS: &[&str] = &[
    "!DOCTYPE",
    "a",
    "article",
    "body",
    "button",
    "caption",
    "circle",
    "code",
    "dd",
    "desc",
    "details",
    "div",
    "dl",
    "dt",
    "figcaption",
    "figure",
    "footer",
    "form",
    "h1",
    "h2",
    "h3",
    "h4",
    "head",
    "header",
    "html",
    "input",
    "label",
    "li",
    "main",
    "meta",
    "nav",
    "ol",
    "option",
    "p",
    "path",
    "pre",
    "rect",
    "script",
    "section",
    "select",
    "span",
    "style",
    "summary",
    "svg",
    "table",
    "tbody",
    "td",
    "text",
    "th",
    "thead",
    "title",
    "tr",
    "ul",
];

/// A report in which every string that comes from outside is this one.
fn hostile(text: &str) -> Report {
    let mut report = golden("7/reject-forward");
    let own = || text.to_owned();
    report.host.hostname = own();
    report.host.kernel = own();
    report.host.tool = own();
    report.origin = Origin::Recording { path: own(), damage: Some(Damage { offset: 1, what: own() }) };
    for (number, line) in report.hooks.iter_mut().enumerate() {
        line.state = if number % 2 == 0 {
            HookState::Waiting { module: own() }
        } else {
            HookState::Unavailable { because: own() }
        };
    }
    let rule = Rule {
        backend: Backend::Nftables,
        family: Family::Inet,
        table: own(),
        chain: own(),
        handle: None,
        number: None,
        place: 0,
        hooks: Hooks::default(),
        tests: Vec::new(),
        complete: false,
        packets: None,
        text: own(),
    };
    for flow in &mut report.flows {
        flow.netns_name = Some(own());
        flow.candidates = Some(Candidates { rules: vec![rule.clone()], count: 1, of: 1, problems: vec![own()] });
        for exclusion in &mut flow.excluded {
            exclusion.because = own();
        }
        for fate in &mut flow.flow.entry_statuses {
            fate.outcome = Outcome::Failed { because: own() };
        }
    }
    report.flows[0].flow.key.netns = None;
    for mitigation in &mut report.mitigations {
        mitigation.commands = vec![own(), own()];
        mitigation.undo = vec![own()];
    }
    report.findings = golden("7/table-drops").findings;
    for finding in &mut report.findings {
        finding.title = own();
        finding.advice = vec![own()];
        finding.evidence = vec![(own(), own())];
    }
    report
}

#[test]
fn pages_of_all_recordings_are_made_of_known_elements() {
    for path in recordings() {
        let report = report_of(&path);
        let page = page(&report);
        assert_eq!(strange(&page), [""; 0], "{}", path.display());
        assert_eq!(page.matches("<article class=\"flow\"").count(), report.flows.len(), "{}", path.display());
        assert_eq!(page.matches("<tr data-cause").count(), report.flows.len(), "{}", path.display());
    }
}

/// Nothing in the page names a resource that a browser would fetch, and no element has code or style of its own.
#[test]
fn a_page_refers_to_itself_alone() {
    let page = page(&golden("5.10/late-retransmission"));
    let (head, rest) = page.split_once("<style>").unwrap();
    let (_, rest) = rest.split_once("</style>").unwrap();
    let (body, _) = rest.split_once("<script type").unwrap();
    let markup = head.to_owned() + body;
    for word in [" src=", "url(", "@import", "http://", "https://", " style=", " onclick=", " onload="] {
        assert!(!markup.contains(word), "{word}");
    }
    assert!(markup.split(" href=\"").skip(1).all(|link| link.starts_with('#')));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn no_string_is_more_than_text(
        text in prop_oneof![
            any::<String>(),
            Just("</script><script>alert(1)</script><img src=x onerror=alert(1)>".to_owned()),
            Just("<!--<script>\" onfocus=alert(1) autofocus x=\"".to_owned()),
            Just("'; rm -rf /; \u{202e}txt.exe\u{2066}\u{0}\u{1b}[2J{{7*7}}{% raw %}".to_owned()),
            Just("x".repeat(70_000)),
        ],
    ) {
        let page = page(&hostile(&text));
        prop_assert_eq!(strange(&page), [""; 0]);
        let unseen = |c: char| c != '\n' && (c.is_control() || "\u{202e}\u{2066}\u{200b}\u{feff}".contains(c));
        prop_assert!(!page.contains(unseen));
    }
}

/// Above the bound, a page lists all flows and shows some of each kind in full.
#[test]
fn many_flows_are_folded() {
    let mut report = golden("5.10/late-retransmission");
    let other = golden("7/entry-expired").flows.remove(0);
    let flow = report.flows.remove(0);
    report.flows = std::iter::repeat_n(flow, 1_000).chain(std::iter::repeat_n(other, 3)).collect();
    let page = page(&report);
    assert_eq!(page.matches("<tr data-cause").count(), 1_003);
    assert_eq!(page.matches("<article class=\"flow\"").count(), 200);
    assert!(page.contains("id=\"flow-1003\""), "the last kind is shown too");
    assert!(page.contains("200 of 1,003 flows are shown in full"));
    assert!(!hidden_links(&page), "no link leads to a flow that is not shown");
}

fn hidden_links(page: &str) -> bool {
    let mut links = page.split("href=\"#flow-").skip(1).filter_map(|rest| rest.split('"').next());
    links.any(|number| !page.contains(&format!("id=\"flow-{number}\"")))
}
