//! What a reader does: sort, filter, copy, fold, save, by mouse and by keyboard.

use serde_json::json;
use thirtyfour::{By, Key};

use super::{Desk, crowd, golden, report_of, strings};

const COLUMN: &str =
    "[...document.querySelectorAll('#table tbody tr:not([hidden])')].map((row) => row.cells[COLUMN].textContent)";

/// The cells of a column that are seen.
async fn column(desk: &Desk, number: usize) -> Vec<String> {
    strings(&desk.browser.run(&format!("return {}", COLUMN.replace("COLUMN", &number.to_string()))).await)
}

async fn sorted_by(desk: &Desk) -> Vec<String> {
    strings(
        &desk.browser.run("return [...document.querySelectorAll('#table th')].map((th) => th.ariaSort ?? '')").await,
    )
}

#[tokio::test]
#[ignore = "needs Chromium: cargo xtask test runs it"]
async fn headings_sort() {
    let desk = Desk::new().await;
    let report = crowd(12);
    desk.open(&report).await;
    let driver = &desk.browser.driver;
    let rising = |cells: &[String]| cells.iter().map(|cell| cell.parse::<u64>().unwrap()).is_sorted();
    assert!(rising(&column(&desk, 0).await));
    assert_eq!(sorted_by(&desk).await[0], "ascending");

    let headings = driver.find_all(By::Css("#table thead button")).await.unwrap();
    headings[0].click().await.unwrap();
    let mut falling = column(&desk, 0).await;
    falling.reverse();
    assert!(rising(&falling));
    assert_eq!(sorted_by(&desk).await[0], "descending");

    // By keyboard, and the focus stays where it was.
    headings[1].focus().await.unwrap();
    driver.active_element().await.unwrap().send_keys(Key::Enter + "").await.unwrap();
    let times = column(&desk, 1).await;
    assert!(times.is_sorted() && times.len() == report.flows.len());
    assert_eq!(sorted_by(&desk).await[..2], ["", "ascending"]);
    let focused = desk.browser.run("return document.activeElement.textContent").await;
    assert_eq!(focused, "First (UTC)");
    let said = desk.browser.run("return document.getElementById('status').textContent").await;
    assert_eq!(said, "sorted by First (UTC), ascending");
}

#[tokio::test]
#[ignore = "needs Chromium: cargo xtask test runs it"]
async fn words_and_causes_filter() {
    let desk = Desk::new().await;
    let report = desk.open_golden("7/twin-gateways-both").await;
    let driver = &desk.browser.driver;
    let count = "document.getElementById('count').textContent";
    let all = report.flows.len();
    assert_eq!(desk.browser.run(&format!("return {count}")).await, format!("{all} flows"));

    let field = driver.find(By::Id("filter")).await.unwrap();
    field.send_keys("GATEWAY-A deleted").await.unwrap();
    desk.browser.until(&format!("{count}.startsWith('1 of ')")).await;
    assert_eq!(column(&desk, 5).await, ["deleted"]);
    let polite = desk.browser.run("return document.getElementById('count').ariaLive").await;
    assert_eq!(polite, "polite");

    field.send_keys(" no such words").await.unwrap();
    desk.browser.until(&format!("{count} === '0 of {all} flows'")).await;
    field.clear().await.unwrap();
    desk.browser.until(&format!("{count} === '{all} flows'")).await;

    driver.find(By::Css("#cause option[value=out-of-window]")).await.unwrap().click().await.unwrap();
    desk.browser.until(&format!("{count}.startsWith('1 of ')")).await;
    assert_eq!(column(&desk, 4).await, ["out-of-window"]);
}

/// What is copied is what is printed, whether the browser hands its clipboard to the page or not.
#[tokio::test]
#[ignore = "needs Chromium: cargo xtask test runs it"]
async fn commands_are_copied() {
    let desk = Desk::new().await;
    let report = desk.open_golden("5.10/late-retransmission").await;
    let browser = &desk.browser;
    let permissions = json!({ "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"] });
    browser.command("Browser.grantPermissions", permissions).await;
    let expected: Vec<String> = report
        .mitigations
        .iter()
        .flat_map(|mitigation| [&mitigation.commands, &mitigation.undo])
        .filter(|commands| !commands.is_empty())
        .map(|commands| commands.join("\n"))
        .collect();
    assert!(expected.len() >= 4, "{expected:?}");
    for without_clipboard in [false, true] {
        if without_clipboard {
            browser.run("Object.defineProperty(navigator, 'clipboard', { value: undefined })").await;
        }
        let buttons = browser.driver.find_all(By::Css("button.copy")).await.unwrap();
        assert_eq!(buttons.len(), expected.len());
        for (button, commands) in buttons.iter().zip(&expected) {
            button.click().await.unwrap();
            browser.until("document.getElementById('status').textContent === 'copied'").await;
            browser.run("document.getElementById('status').textContent = ''").await;
            // What was copied is what a field gets by Ctrl-V.
            browser
                .run("const area = document.createElement('textarea'); area.id = 'pasted'; document.body.append(area);")
                .await;
            let area = browser.driver.find(By::Id("pasted")).await.unwrap();
            area.focus().await.unwrap();
            area.send_keys(Key::Control + "v").await.unwrap();
            browser.until("document.getElementById('pasted').value !== ''").await;
            let pasted = browser
                .run("const area = document.getElementById('pasted'); const text = area.value; area.remove(); return text;")
                .await;
            assert_eq!(pasted, commands.as_str(), "without clipboard: {without_clipboard}");
        }
    }
    assert_eq!(browser.complaints().await, [""; 0]);
}

#[tokio::test]
#[ignore = "needs Chromium: cargo xtask test runs it"]
async fn the_page_is_walked_by_keyboard() {
    let desk = Desk::new().await;
    desk.open(&crowd(12)).await;
    let (browser, driver) = (&desk.browser, &desk.browser.driver);
    let press = async |key: Key| driver.active_element().await.unwrap().send_keys(key + "").await.unwrap();
    let focus =
        "const element = document.activeElement; return element.id || element.getAttribute('href') || element.tagName";
    driver.action_chain().send_keys(Key::Tab + "").perform().await.unwrap();
    assert_eq!(browser.run(focus).await, "#main", "the first stop leads past the contents");
    press(Key::Enter).await;
    assert_eq!(browser.run(focus).await, "main");

    // A link of the table leads to its flow and unfolds it.
    let last = "const flows = document.querySelectorAll('article.flow'); const flow = flows[flows.length - 1];";
    assert_eq!(browser.run(&format!("{last} return flow.querySelector('details').open")).await, false);
    browser.run(&format!("{last} document.querySelector(`#table a[href='#${{flow.id}}']`).focus()")).await;
    press(Key::Enter).await;
    browser.until("location.hash !== '' && document.querySelector(location.hash + ' > details').open").await;
    let heading = browser.run("return document.activeElement.id === location.hash.slice(1) + '-h'").await;
    assert_eq!(heading, true, "the focus is where the reader is");

    // Its summary folds it again; its JSON is there when it is asked for.
    browser.run("document.querySelector(location.hash + ' summary').focus()").await;
    press(Key::Enter).await;
    browser.until("!document.querySelector(location.hash + ' > details').open").await;
    press(Key::Enter).await;
    browser.run("document.querySelector(location.hash + ' .raw summary').focus()").await;
    press(Key::Enter).await;
    browser.until("document.querySelector(location.hash + ' .raw pre').textContent !== ''").await;
    let raw = browser.run("return document.querySelector(location.hash + ' .raw pre').textContent").await;
    let flow: serde_json::Value = serde_json::from_str(raw.as_str().unwrap()).unwrap();
    let shown = browser.run("return document.querySelector(location.hash + ' h3').textContent").await;
    assert!(shown.as_str().unwrap().contains(flow["client"].as_str().unwrap()), "{shown}");
    assert!(flow["chain"].as_array().is_some_and(|chain| !chain.is_empty()));

    // Every place that takes the focus shows it.
    let shown = browser
        .run(
            "const places = document.querySelectorAll('a, button, input, select, summary, [tabindex=\"0\"]');
             return [...places].filter((place) => place.checkVisibility()).filter((place) => {
                 place.focus({ focusVisible: true });
                 return document.activeElement !== place || getComputedStyle(place).outlineStyle === 'none';
             }).map((place) => place.outerHTML.slice(0, 80));",
        )
        .await;
    assert_eq!(strings(&shown), [""; 0]);
}

/// The JSON that the page gives away is the report.
#[tokio::test]
#[ignore = "needs Chromium: cargo xtask test runs it"]
async fn the_evidence_is_saved() {
    let desk = Desk::new().await;
    let path = golden().join("7/two-flows.whyrst");
    let report = report_of(&path);
    desk.open(&report).await;
    let saved = tempfile::tempdir().unwrap();
    let allow = json!({ "behavior": "allow", "downloadPath": saved.path(), "eventsEnabled": false });
    desk.browser.command("Browser.setDownloadBehavior", allow).await;
    desk.browser.driver.find(By::Id("save-json")).await.unwrap().click().await.unwrap();
    let file = saved.path().join("whyrst-report.json");
    let document = loop {
        let text = std::fs::read(&file).unwrap_or_default();
        if let Ok(document) = serde_json::from_slice::<serde_json::Value>(&text) {
            break document;
        }
        // Two frames of the browser's.
        desk.browser.until("true").await;
    };
    let mut expected = Vec::new();
    tracer_render::json::write(&report, &mut expected).unwrap();
    assert_eq!(document, serde_json::from_slice::<serde_json::Value>(&expected).unwrap());
    let asked = desk.browser.requests().await;
    assert!(asked.iter().all(|url| url.starts_with("file://") || url.starts_with("blob:")), "{asked:?}");
}
