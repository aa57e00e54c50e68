//! mdBook builds the documentation as a book. Every page is a chapter, and every link and anchor of the book has a target.
//! `cargo xtask book` runs this test and leaves the book in `target/book`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use mdbook_driver::MDBook;

/// The table of contents, whose links are relative to docs/.
const SUMMARY: &str = "docs/SUMMARY.md";

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// The files below a directory, relative to it.
fn files(below: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![below.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { directories.push(path) } else { files.push(path) }
        }
    }
    files.into_iter().map(|file| file.strip_prefix(below).unwrap().to_path_buf()).collect()
}

/// What the book is made of: docs/, and the pages and licences beside it.
fn sources() -> Vec<PathBuf> {
    let beside = fs::read_dir(workspace()).unwrap().map(|entry| PathBuf::from(entry.unwrap().file_name()));
    let beside = beside.filter(|name| {
        name.extension().is_some_and(|extension| extension == "md") || name.to_string_lossy().starts_with("LICENSE-")
    });
    beside.chain(files(&workspace().join("docs")).into_iter().map(|file| Path::new("docs").join(file))).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
}

/// A path without `.` and `..`; nothing where it leads out.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir if !normal.pop() => return None,
            _ => {}
        }
    }
    Some(normal)
}

/// The table of contents for a book whose top is the repository's.
fn summary() -> String {
    let text = fs::read_to_string(workspace().join(SUMMARY)).unwrap();
    let line = |line: &str| match line.split_once("](") {
        Some((title, rest)) => {
            let (page, rest) = rest.split_once(')').unwrap_or_else(|| panic!("{SUMMARY}: {line}"));
            let page = normal(&Path::new("docs").join(page)).unwrap_or_else(|| panic!("{SUMMARY}: {page} leads out"));
            format!("{title}]({}){rest}\n", page.display())
        }
        None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

/// Builds the book below the target directory; returns the directory of its pages.
///
/// mdBook writes a chapter to the place that its source has below one directory, and cannot write outside. The sources are
/// therefore copied, at the places that they have in the repository: README.md and docs/ beside each other.
fn build() -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../book");
    if root.exists() {
        fs::remove_dir_all(&root).unwrap();
    }
    for file in sources() {
        copy(&workspace().join(&file), &root.join("src").join(&file));
    }
    copy(&workspace().join("docs/book.toml"), &root.join("book.toml"));
    fs::write(root.join("src/SUMMARY.md"), summary()).unwrap();
    let root = root.canonicalize().unwrap();
    MDBook::load(&root).unwrap().build().unwrap();
    root.join("book")
}

/// The values of an attribute in a page. mdBook writes all attributes in double quotes and escapes quotes in text.
fn values<'a>(html: &'a str, attribute: &str) -> impl Iterator<Item = String> + use<'a> {
    let start = format!(" {attribute}=\"");
    let mut rest = html;
    std::iter::from_fn(move || {
        rest = rest.split_once(start.as_str())?.1;
        let (value, after) = rest.split_once('"')?;
        rest = after;
        Some(value.replace("&amp;", "&"))
    })
}

#[test]
fn the_book_has_no_broken_link() {
    let book = build();
    println!("the book: {}", book.join("index.html").display());
    let mut anchors: BTreeMap<PathBuf, BTreeSet<String>> = BTreeMap::new();
    let mut pages = Vec::new();
    for file in files(&book) {
        let html = file.extension().is_some_and(|extension| extension == "html");
        let text = if html { fs::read_to_string(book.join(&file)).unwrap() } else { String::new() };
        anchors.insert(file.clone(), values(&text, "id").collect());
        pages.push((file, text));
    }
    let mut broken = Vec::new();
    for (page, text) in pages.iter().filter(|(page, _)| page != Path::new("404.html")) {
        for link in values(text, "href").chain(values(text, "src")) {
            if link.contains("://") || link.starts_with("mailto:") || link.starts_with("data:") {
                continue;
            }
            let (path, anchor) = link.split_once('#').map_or((link.as_str(), None), |(path, name)| (path, Some(name)));
            let target = if path.is_empty() { Some(page.clone()) } else { normal(&page.parent().unwrap().join(path)) };
            let there = target.and_then(|target| anchors.get(&target));
            if !there.is_some_and(|ids| anchor.is_none_or(|name| name.is_empty() || ids.contains(name))) {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "links of the book without a target:\n{}", broken.join("\n"));
    let lost: Vec<PathBuf> = sources()
        .into_iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "md") && file != Path::new(SUMMARY))
        .filter(|file| {
            let name = if file.ends_with("README.md") {
                file.with_file_name("index.html")
            } else {
                file.with_extension("html")
            };
            !anchors.contains_key(&name)
        })
        .collect();
    assert!(lost.is_empty(), "{SUMMARY} leads to none of {lost:?}");
    assert!(pages.len() > 50, "the book has {} files", pages.len());
}
