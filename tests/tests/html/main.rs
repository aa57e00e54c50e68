//! The HTML report in a real browser: what it shows, how it is used, and what it must never do.

mod access;
mod browser;
mod hostile;
mod style;
mod use_it;

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use serde_json::Value;
use tempfile::TempDir;

use tracer_advice::report::Report;
use tracer_engine::session::replay;
use tracer_model::capture::Origin;
use tracer_model::filter::Filter;
use tracer_recording::Reader;
use tracer_render::html;

use browser::Browser;

/// The directory of the golden recordings.
fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// The report of a golden recording.
fn report_of(path: &Path) -> Report {
    let mut reader = Reader::open(path).unwrap();
    let session = replay(&mut reader, Filter::default(), |_, _, _| -> io::Result<()> { Ok(()) }).unwrap();
    Report::new(session.finish(Origin::Recording { path: path.display().to_string(), damage: None }))
}

/// A report of so many flows, of several kinds, all at other times and of other clients.
fn crowd(flows: u16) -> Report {
    let mut report = report_of(&golden().join("7/many-flows.whyrst"));
    let mut kinds = Vec::new();
    for name in ["5.10/late-retransmission", "7/entry-expired", "7/reject-forward"] {
        kinds.append(&mut report_of(&golden().join(name).with_extension("whyrst")).flows);
    }
    let many = kinds.iter().cycle().take(usize::from(flows)).zip(1_000..);
    report.flows = many
        .map(|(kind, number)| {
            let mut flow = kind.clone();
            flow.flow.key.original.src.set_port(number);
            flow.flow.first = report.started.after(Duration::from_millis(u64::from(number) * 7_919 % 1_009));
            flow
        })
        .collect();
    report
}

/// A browser, and a directory for the pages it opens.
struct Desk {
    browser: Browser,
    directory: TempDir,
}

impl Desk {
    async fn new() -> Self {
        Self { browser: Browser::start().await, directory: tempfile::tempdir().unwrap() }
    }

    /// Writes a report and opens it; gives the file.
    async fn open(&self, report: &Report) -> PathBuf {
        let path = self.directory.path().join("report.html");
        let mut page = Vec::new();
        html::write(report, &mut page).unwrap();
        fs::write(&path, page).unwrap();
        self.browser.open(&path).await;
        path
    }

    /// Opens the report of a golden recording.
    async fn open_golden(&self, name: &str) -> Report {
        let report = report_of(&golden().join(name).with_extension("whyrst"));
        self.open(&report).await;
        report
    }
}

/// Every recording's page shows what its report says, without a complaint and without asking for anything.
#[tokio::test]
#[ignore = "needs Chromium: cargo xtask test runs it"]
async fn pages_show_their_reports() {
    let desk = Desk::new().await;
    let mut seen = 0;
    for kernel in fs::read_dir(golden()).unwrap() {
        for file in fs::read_dir(kernel.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let report = report_of(&path);
            let page = desk.open(&report).await;
            shows(&desk.browser, &report, &path).await;
            assert_eq!(desk.browser.complaints().await, [""; 0], "{}", path.display());
            assert_eq!(desk.browser.requests().await, [format!("file://{}", page.display())], "{}", path.display());
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen} recordings");
}

async fn shows(browser: &Browser, report: &Report, path: &Path) {
    let found = browser
        .run(
            "return {
                rows: document.querySelectorAll('#table tbody tr').length,
                flows: document.querySelectorAll('article.flow').length,
                diagrams: document.querySelectorAll('svg[role=img][aria-labelledby^=s]').length,
                windows: document.querySelectorAll('svg[role=img][aria-labelledby^=w]').length,
                numbers: [...document.querySelectorAll('article.flow')].map((flow) => flow.innerHTML),
                json: JSON.parse(document.getElementById('json').textContent),
                drawn: [...document.querySelectorAll('.flow svg[role=img]')]
                    .every((svg) => svg.getBBox().width > 0 && !svg.outerHTML.includes('NaN')),
            };",
        )
        .await;
    let name = path.display();
    let flows = report.flows.len();
    assert_eq!([&found["rows"], &found["flows"], &found["diagrams"]], [flows; 3], "{name}");
    assert_eq!(found["json"]["flows"].as_array().map(Vec::len), Some(flows), "{name}");
    let windows =
        report.flows.iter().flat_map(|flow| flow.flow.incident.follows.iter().chain(&flow.flow.incident.logged));
    assert_eq!(found["windows"], windows.filter(|logged| logged.window.is_some()).count(), "{name}");
    assert_eq!(found["drawn"], true, "{name}");
    for (flow, shown) in report.flows.iter().zip(found["numbers"].as_array().unwrap()) {
        let shown = shown.as_str().unwrap();
        let incident = &flow.flow.incident;
        let numbers = incident.reset.iter().filter_map(|reset| Some(reset.answer?.seq.0));
        let bounds = incident.logged.iter().filter_map(|logged| Some(logged.window?.bound.0));
        for number in numbers.chain(bounds) {
            assert!(shown.contains(&number.to_string()), "{name}: {number} is not there");
        }
    }
}

/// How long a large report takes to be written and opened, and that it is of use then.
#[tokio::test]
#[ignore = "needs Chromium: cargo xtask test runs it"]
async fn large_reports_stay_usable() {
    let desk = Desk::new().await;
    for flows in [1_000, 20_000] {
        let report = crowd(flows);
        let path = desk.open(&report).await;
        let size = fs::metadata(&path).unwrap().len();
        let timing = desk
            .browser
            .run(
                "const timing = performance.getEntriesByType('navigation')[0];
                 const measure = (act) => { const before = performance.now(); act(); document.body.offsetHeight;
                     return Math.round(performance.now() - before); };
                 const heading = (index) => document.querySelectorAll('#table thead button')[index];
                 return { load: Math.round(timing.loadEventEnd), sort: measure(() => heading(2).click()),
                     shown: document.querySelectorAll('#table tbody tr:not([hidden])').length,
                     flows: document.querySelectorAll('article.flow').length };",
            )
            .await;
        println!("{flows} flows: {size} bytes, {timing}");
        assert_eq!([&timing["shown"], &timing["flows"]], [200; 2]);
        assert!(size < 16 << 20, "{size} bytes");
        let milliseconds = |what: &str| timing[what].as_u64().unwrap();
        assert!(milliseconds("load") < 15_000 && milliseconds("sort") < 5_000, "{timing}");
    }
}

/// A value as a list of strings.
fn strings(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|item| item.as_str().unwrap_or_default().to_owned()).collect()
}
