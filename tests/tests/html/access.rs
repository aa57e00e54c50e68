//! That people who do not see the page, or not well, can read it: order, names, contrast.

use super::{Desk, strings};

/// Recordings whose pages differ in what they are made of.
pub(crate) const PAGES: [&str; 8] = [
    "5.10/late-retransmission",
    "7/late-retransmission",
    "7/overshot-then-data",
    "7/entry-expired",
    "7/reject-forward",
    "7/table-drops",
    "7/twin-gateways-both",
    "7/clean-download",
];

/// What is wrong with the structure of a page.
const STRUCTURE: &str = "
    const wrong = [];
    const levels = [...document.querySelectorAll('h1, h2, h3, h4')].map((heading) => Number(heading.tagName[1]));
    levels.forEach((level, index) => { if (level > (levels[index - 1] ?? 0) + 1) wrong.push(`h${level} at ${index}`); });
    if (levels.filter((level) => level === 1).length !== 1) wrong.push('not one h1');
    const ids = [...document.querySelectorAll('[id]')].map((element) => element.id);
    if (new Set(ids).size !== ids.length) wrong.push('an id twice');
    for (const attribute of ['aria-labelledby', 'for']) {
        for (const element of document.querySelectorAll(`[${attribute}]`)) {
            for (const id of element.getAttribute(attribute).split(' ')) {
                if (!document.getElementById(id)) wrong.push(`${attribute}=${id}`);
            }
        }
    }
    for (const link of document.querySelectorAll('a[href]')) {
        if (!document.getElementById(link.getAttribute('href').slice(1))) wrong.push(link.getAttribute('href'));
    }
    const named = (element) => element.getAttribute('aria-label') || element.getAttribute('aria-labelledby')
        || element.labels?.length || element.textContent.trim();
    for (const element of document.querySelectorAll(
        'a, button, input, select, summary, nav, form, section, article.flow, [role=region], svg[role=img]')) {
        if (!named(element)) wrong.push(element.outerHTML.slice(0, 80));
    }
    for (const svg of document.querySelectorAll('svg')) {
        const picture = svg.getAttribute('role') === 'img' && svg.querySelector('title')?.textContent
            && svg.querySelector('desc')?.textContent;
        if (!picture && svg.getAttribute('aria-hidden') !== 'true') wrong.push(svg.outerHTML.slice(0, 80));
    }
    for (const heading of document.querySelectorAll('th')) {
        if (!heading.scope) wrong.push(heading.outerHTML);
    }
    for (const name of ['header', 'nav', 'main', 'footer']) {
        if (document.querySelectorAll(name).length !== 1) wrong.push(`not one ${name}`);
    }
    if (!document.documentElement.lang || !document.title) wrong.push('no language, or no title');
    return wrong;";

/// Texts whose contrast is below WCAG's 4.5 : 1, or 3 : 1 for large ones, or that differ from their ground not at all.
const CONTRAST: &str = r"
    const numbers = (color) => (color.match(/[\d.]+/g) ?? []).map(Number);
    const luminance = (color) => {
        const [r, g, b] = numbers(color).map((value) => value / 255)
            .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ratio = (a, b) => {
        const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
        return (high + 0.05) / (low + 0.05);
    };
    const ground = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const color = getComputedStyle(at).backgroundColor;
            if (numbers(color)[3] !== 0) return color;
        }
        return 'rgb(255, 255, 255)';
    };
    const wrong = [];
    let seen = 0;
    document.querySelectorAll('details').forEach((details) => { details.open = true; });
    for (const element of document.querySelectorAll('body *')) {
        const text = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
        if (!text || !element.checkVisibility() || element.closest('script, style, .unseen, .skip, title, desc')) continue;
        const style = getComputedStyle(element);
        const svg = element.closest('svg');
        const grounds = svg
            ? [ground(svg), ...[...svg.querySelectorAll('.gateway')].map((area) => getComputedStyle(area).fill)]
            : [ground(element)];
        const large = !svg && (parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.7 && style.fontWeight >= 700));
        for (const behind of grounds) {
            const found = ratio(svg ? style.fill : style.color, behind);
            seen += 1;
            if (found < (large ? 3 : 4.5)) wrong.push(`${found.toFixed(2)} ${element.outerHTML.slice(0, 80)}`);
        }
    }
    if (seen < 20) wrong.push(`only ${seen} texts`);
    return wrong;";

#[tokio::test]
#[ignore = "needs Chromium: cargo xtask test runs it"]
async fn pages_have_order_and_names() {
    let desk = Desk::new().await;
    for page in PAGES {
        desk.open_golden(page).await;
        assert_eq!(strings(&desk.browser.run(STRUCTURE).await), [""; 0], "{page}");
    }
}

#[tokio::test]
#[ignore = "needs Chromium: cargo xtask test runs it"]
async fn texts_stand_out_from_their_ground() {
    let desk = Desk::new().await;
    for scheme in ["light", "dark"] {
        desk.browser.scheme(scheme).await;
        for page in PAGES {
            desk.open_golden(page).await;
            assert_eq!(strings(&desk.browser.run(CONTRAST).await), [""; 0], "{page}, {scheme}");
        }
    }
}

/// The steps in words are the steps of the report, in its order.
#[tokio::test]
#[ignore = "needs Chromium: cargo xtask test runs it"]
async fn the_picture_is_described_in_words_too() {
    let desk = Desk::new().await;
    desk.open_golden("5.10/late-retransmission").await;
    let who =
        desk.browser.run("return [...document.querySelectorAll('ol.steps .who')].map((who) => who.textContent)").await;
    assert_eq!(strings(&who), ["", "conntrack", "nat", "tcp", "server", "entry"]);
    let tree = desk.browser.command("Accessibility.getFullAXTree", serde_json::json!({})).await;
    let nodes = tree["nodes"].as_array().unwrap();
    let images = nodes.iter().filter(|node| node["role"]["value"] == "image" && node["ignored"] == false);
    let names: Vec<&str> = images.filter_map(|node| node["name"]["value"].as_str()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names[0].contains("Time and sequence of flow 1") && names[0].contains("INVALID"), "{names:?}");
}
