//! The README's picture is the one that the HTML report draws of the incident's recording.
//!
//! `INSTA_UPDATE=always cargo test -p whyrst-tests --test picture` draws it anew.

use std::path::Path;
use std::{env, fs, io};

use tracer_advice::report::Report;
use tracer_engine::session::replay;
use tracer_model::capture::Origin;
use tracer_model::filter::Filter;
use tracer_recording::Reader;
use tracer_render::html;

/// The page of the incident that this program was made for.
fn page() -> String {
    let recording = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/5.10/late-retransmission.whyrst");
    let mut reader = Reader::open(&recording).unwrap();
    let session = replay(&mut reader, Filter::default(), |_, _, _| -> io::Result<()> { Ok(()) }).unwrap();
    let report = Report::new(session.finish(Origin::Recording { path: "incident.whyrst".to_owned(), damage: None }));
    let mut page = Vec::new();
    html::write(&report, &mut page).unwrap();
    String::from_utf8(page).unwrap()
}

/// What is between two marks, both included.
fn between<'a>(text: &'a str, first: &str, last: &str) -> &'a str {
    let start = text.find(first).unwrap_or_else(|| panic!("no {first}"));
    let end = text[start..].find(last).unwrap_or_else(|| panic!("no {last}"));
    &text[start..start + end + last.len()]
}

/// The page's first diagram as a file of its own: with the page's colours and its rules for pictures.
fn picture(page: &str) -> String {
    let drawing = between(page, "<svg role=\"img\"", "</svg>");
    let style = between(page, "<style>", "</style>");
    let colours = between(style, ":root {", "* {").trim_end_matches("* {").trim_end();
    let rules: Vec<&str> = style.lines().filter(|line| line.starts_with("svg ")).collect();
    let ground = "<rect width=\"100%\" height=\"100%\" style=\"fill: var(--ground)\"/>";
    let style = format!("<style>\n{colours}\n{}\n</style>\n{ground}", rules.join("\n"));
    let whole = drawing.replacen("<svg ", "<svg xmlns=\"http://www.w3.org/2000/svg\" ", 1);
    let (head, rest) = whole.split_once('>').unwrap();
    format!("{head}>{style}{rest}\n")
}

#[test]
fn the_picture_of_the_readme_is_true() {
    let drawn = picture(&page());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/incident.svg");
    if env::var("INSTA_UPDATE").is_ok_and(|update| update == "always") {
        fs::write(&path, &drawn).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap();
    assert!(kept == drawn, "{} is not what the report draws; see the top of this file", path.display());
}
