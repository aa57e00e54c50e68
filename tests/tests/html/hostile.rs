//! Names that want to be code: whoever names an interface, a namespace or a host does not get to run anything.

use serde_json::json;

use tracer_advice::report::Report;
use tracer_model::capture::{HookState, Origin, Outcome};

use super::{Desk, golden, report_of};

/// Names as an attacker would choose them.
const NAMES: [&str; 6] = [
    "<img src=x onerror=\"window.pwned=1\">",
    "</script><script>window.pwned=2</script>",
    "<!--<script>window.pwned=3",
    "\" onfocus=\"window.pwned=4\" autofocus x=\"",
    "'; </textarea></style></title><svg onload=window.pwned=5>",
    "javascript:window.pwned=6//\u{202e}\u{2066}\u{0}\u{1b}]0;x\u{7}&#x3c;b&#x3e;{{constructor}}",
];

/// A report that has one of them wherever a name can be.
fn named(name: &str) -> Report {
    let mut report = report_of(&golden().join("5.10/reject-two-rules.whyrst"));
    let other = report_of(&golden().join("7/table-drops.whyrst"));
    let set = |texts: Vec<&mut String>| texts.into_iter().for_each(|text| name.clone_into(text));
    report.findings = other.findings;
    report.origin = Origin::Recording { path: name.to_owned(), damage: None };
    set(vec![&mut report.host.hostname, &mut report.host.kernel, &mut report.host.tool]);
    for finding in &mut report.findings {
        set(finding.advice.iter_mut().chain([&mut finding.title]).collect());
        finding.evidence.push((name.to_owned(), name.to_owned()));
    }
    for flow in &mut report.flows {
        flow.netns_name = Some(name.to_owned());
        set(flow.excluded.iter_mut().map(|exclusion| &mut exclusion.because).collect());
        let rules = flow.candidates.iter_mut().flat_map(|candidates| &mut candidates.rules);
        set(rules.flat_map(|rule| [&mut rule.table, &mut rule.chain, &mut rule.text]).collect());
        for status in &mut flow.flow.entry_statuses {
            status.outcome = Outcome::Failed { because: name.to_owned() };
        }
    }
    for mitigation in &mut report.mitigations {
        set(mitigation.commands.iter_mut().chain(&mut mitigation.undo).collect());
    }
    for line in &mut report.hooks {
        line.state = HookState::Unavailable { because: name.to_owned() };
    }
    report
}

#[tokio::test]
#[ignore = "needs Chromium: cargo xtask test runs it"]
async fn names_are_names() {
    let desk = Desk::new().await;
    for name in NAMES {
        let report = named(name);
        let page = desk.open(&report).await;
        let found = desk
            .browser
            .run(
                "document.querySelectorAll('details').forEach((it) => { it.open = true; });
                 document.querySelectorAll('button').forEach((it) => it.click());
                 const all = [...document.querySelectorAll('*')];
                 return { pwned: window.pwned ?? null, scripts: document.scripts.length,
                     strange: all.filter((it) => ['IMG', 'IFRAME', 'B', 'TEXTAREA', 'OBJECT'].includes(it.tagName)).length,
                     handlers: all.filter((it) => it.getAttributeNames().some((name) => name.startsWith('on'))).length,
                     text: document.querySelector('.when').textContent,
                     host: JSON.parse(document.getElementById('json').textContent).host.hostname };",
            )
            .await;
        let expected = json!({ "pwned": null, "scripts": 3, "strange": 0, "handlers": 0, "host": name });
        for (what, value) in expected.as_object().unwrap() {
            assert_eq!(&found[what], value, "{what} of {name:?}");
        }
        let shown = found["text"].as_str().unwrap();
        assert!(!shown.contains(|c: char| c.is_control() || "\u{202e}\u{2066}".contains(c)), "{shown:?}");
        let visible: String = name.chars().take_while(|c| c.is_ascii_graphic() || *c == ' ').collect();
        assert!(shown.starts_with(&visible), "{shown:?} is not {name:?}");
        let asked = desk.browser.requests().await;
        let own = format!("file://{}", page.display());
        assert!(asked.iter().all(|url| *url == own || url.starts_with("blob:")), "{asked:?}");
    }
}

/// Should a string ever get through as markup, the page's own policy still lets nothing run and nothing be fetched.
#[tokio::test]
#[ignore = "needs Chromium: cargo xtask test runs it"]
async fn the_policy_holds_without_the_escaping() {
    let desk = Desk::new().await;
    let page = desk.open(&report_of(&golden().join("5.10/late-retransmission.whyrst"))).await;
    let text = std::fs::read_to_string(&page).unwrap();
    let injected = "<main><script>window.pwned=1</script><img src=\"http://127.0.0.1:9/x\" onerror=\"window.pwned=2\">\
                    <link rel=\"stylesheet\" href=\"http://127.0.0.1:9/y\"><iframe src=\"http://127.0.0.1:9/z\"></iframe>";
    std::fs::write(&page, text.replacen("<main id=\"main\" tabindex=\"-1\">", injected, 1)).unwrap();
    desk.browser.requests().await;
    desk.browser.open(&page).await;
    assert!(std::fs::read_to_string(&page).unwrap().contains("window.pwned=1"), "the page was changed");
    assert_eq!(desk.browser.run("return window.pwned ?? null").await, json!(null));
    let refused = desk.browser.complaints().await;
    assert!(refused.iter().filter(|line| line.contains("Content Security Policy")).count() >= 4, "{refused:?}");
}
