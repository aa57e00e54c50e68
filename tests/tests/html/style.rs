//! How the page looks: light and dark, on a phone, on paper.
//!
//! `WHYRST_SCREENSHOTS=DIR` keeps what was seen.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use thirtyfour::common::print::PrintParameters;

use super::access::PAGES;
use super::{Desk, crowd};

/// Keeps a picture of the page, where somebody wants to look at it.
async fn keep(desk: &Desk, name: &str) {
    let Some(directory) = env::var_os("WHYRST_SCREENSHOTS").map(PathBuf::from) else { return };
    let whole = serde_json::json!({ "captureBeyondViewport": true, "format": "png" });
    let shot = desk.browser.command("Page.captureScreenshot", whole).await;
    let png = STANDARD.decode(shot["data"].as_str().unwrap()).unwrap();
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(format!("{}.png", name.replace('/', "-"))), png).unwrap();
}

#[tokio::test]
#[ignore = "needs Chromium: cargo xtask test runs it"]
async fn light_and_dark_differ() {
    let desk = Desk::new().await;
    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        desk.browser.scheme(scheme).await;
        desk.open_golden(PAGES[0]).await;
        keep(&desk, &format!("{}-{scheme}", PAGES[0])).await;
        let color = |what: &str| format!("getComputedStyle({what})");
        let (page, text) = (color("document.body"), color("document.querySelector('svg text.name')"));
        let seen = desk.browser.run(&format!("return [{page}.backgroundColor, {text}.fill]")).await;
        grounds.push(super::strings(&seen));
    }
    assert_eq!(grounds[0][0], "rgb(255, 255, 255)");
    assert!(grounds[0][0] != grounds[1][0] && grounds[0][1] != grounds[1][1], "{grounds:?}");
}

/// On a phone the page is read by scrolling down alone; pictures that are wider scroll in themselves.
#[tokio::test]
#[ignore = "needs Chromium: cargo xtask test runs it"]
async fn a_phone_scrolls_down_only() {
    let desk = Desk::new().await;
    for width in [320, 390, 768] {
        desk.browser.screen(width, 780).await;
        for page in PAGES.into_iter().chain(["7/ipv6-no-entry", "7/many-flows"]) {
            desk.open_golden(page).await;
            desk.browser.run("document.querySelectorAll('details').forEach((it) => { it.open = true; })").await;
            let widths = desk.browser.run("return [document.documentElement.scrollWidth, innerWidth]").await;
            let [page_width, screen]: [u64; 2] = serde_json::from_value(widths).unwrap();
            assert!(page_width <= screen, "{page}: {page_width} > {screen} at {width}");
            keep(&desk, &format!("{page}-{width}")).await;
        }
    }
}

/// On paper everything is unfolded, and nothing is there that can only be clicked.
#[tokio::test]
#[ignore = "needs Chromium: cargo xtask test runs it"]
async fn paper_has_everything() {
    let desk = Desk::new().await;
    let report = crowd(12);
    desk.open(&report).await;
    let folded = "return document.querySelectorAll('.flow > details:not([open])').length";
    let before = desk.browser.run(folded).await;
    assert!(before.as_u64() > Some(0), "some are folded on the screen");
    let pdf = desk.browser.driver.print_page(PrintParameters::default()).await.unwrap();
    assert!(pdf.starts_with(b"%PDF"));
    assert_eq!(desk.browser.run(folded).await, before, "they are folded again");
    let file = desk.directory.path().join("report.pdf");
    fs::write(&file, &pdf).unwrap();
    if let Some(directory) = env::var_os("WHYRST_SCREENSHOTS").map(PathBuf::from) {
        fs::write(directory.join("crowd.pdf"), &pdf).unwrap();
    }
    let output = Command::new("pdftotext").args(["-layout".as_ref(), file.as_os_str(), "-".as_ref()]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let steps = text.matches("All steps").count();
    assert_eq!(steps, report.flows.len());
    for heading in ["First (UTC)", "Reset by", "Excluded causes", "Undo"] {
        assert!(text.contains(heading), "{heading} is not on paper");
    }
    for word in ["Unfold all", "Show flows with", "Copy JSON", "Diagram, steps and evidence"] {
        assert!(!text.contains(word), "{word} is on paper");
    }
    let last: Value =
        desk.browser.run("return [...document.querySelectorAll('svg[role=img] text')].pop().textContent").await;
    assert!(text.contains(last.as_str().unwrap()), "the last picture's last label is there: {last}");
}
