//! The repository uses no word that `xtask/words.toml` bans. The list names the words to use instead.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Directories of generated files.
const SKIPPED: [&str; 4] = [".git", "target", "golden", "snapshots"];
/// Extensions of the files that are searched, besides all of packaging/. The texts of `--help` are in the sources.
const READ: [&str; 8] = ["rs", "md", "toml", "html", "js", "css", "sh", "service"];
/// The list, which is not searched itself.
const LIST: &str = "xtask/words.toml";

/// How a word is searched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Consecutive words, in prose and in identifiers.
    Phrases,
    /// A string, in the same case.
    Literals,
    /// A whole identifier.
    Identifiers,
    /// A part of an identifier.
    Parts,
}

const KINDS: [(Kind, &str); 4] = [
    (Kind::Phrases, "words"),
    (Kind::Literals, "literals"),
    (Kind::Identifiers, "identifiers"),
    (Kind::Parts, "parts"),
];

/// A banned word.
#[derive(Debug)]
struct Entry {
    kind: Kind,
    word: String,
    instead: String,
    /// Where it is banned; everywhere if empty.
    below: String,
}

/// Where a banned word is right, or all of them if none is named.
#[derive(Debug)]
struct Exception {
    word: String,
    below: String,
    line: String,
}

#[derive(Debug)]
struct List {
    entries: Vec<Entry>,
    exceptions: Vec<Exception>,
}

impl List {
    fn parse(text: &str) -> Self {
        let table: toml::Table = text.parse().unwrap();
        let text = |table: &toml::Value, key: &str| {
            table.get(key).map(|value| value.as_str().unwrap().to_owned()).unwrap_or_default()
        };
        let mut entries = Vec::new();
        for (kind, name) in KINDS {
            for (word, value) in table.get(name).and_then(toml::Value::as_table).into_iter().flatten() {
                let instead = value.as_str().map_or_else(|| text(value, "use"), str::to_owned);
                assert!(!instead.is_empty(), "`{word}` has no word to use instead");
                entries.push(Entry { kind, word: word.clone(), instead, below: text(value, "below") });
            }
        }
        let exceptions = table.get("except").and_then(toml::Value::as_array).into_iter().flatten();
        let exceptions = exceptions.map(|table| {
            assert!(!text(table, "because").is_empty(), "an exception without a reason: {table}");
            let exception =
                Exception { word: text(table, "word"), below: text(table, "below"), line: text(table, "line") };
            assert!(!exception.below.is_empty() || !exception.line.is_empty(), "it excepts everything: {table}");
            exception
        });
        Self { entries, exceptions: exceptions.collect() }
    }

    fn excepts(&self, word: &str, path: &str, line: &str) -> bool {
        let holds = |exception: &Exception| {
            (exception.word.is_empty() || exception.word == word)
                && path.starts_with(&exception.below)
                && line.contains(&exception.line)
        };
        self.exceptions.iter().any(holds)
    }

    /// Every use in a file: its line, counted from 1, and the entry. Line 0 is the name of the file.
    fn found(&self, path: &str, text: &str) -> Vec<(usize, &Entry)> {
        let lines: Vec<&str> = text.lines().collect();
        let name = words(path);
        let prose: Vec<(usize, String)> =
            lines.iter().enumerate().flat_map(|(at, line)| words_of(at + 1, line)).collect();
        let names = if Path::new(path).extension().is_some_and(|extension| extension == "rs") {
            code(text)
        } else {
            quoted(text)
        };
        let mut found = Vec::new();
        for entry in self.entries.iter().filter(|entry| path.starts_with(&entry.below)) {
            let at: Vec<usize> = match entry.kind {
                Kind::Phrases => {
                    let wanted = words(&entry.word);
                    let of_name = name.windows(wanted.len()).filter(|part| **part == *wanted).map(|_| 0);
                    let same = |part: &&[(usize, String)]| part.iter().map(|(_, word)| word).eq(&wanted);
                    of_name.chain(prose.windows(wanted.len()).filter(same).map(|part| part[0].0)).collect()
                }
                Kind::Literals => {
                    let holds = lines.iter().enumerate().filter(|(_, line)| line.contains(&entry.word));
                    holds.map(|(at, _)| at + 1).collect()
                }
                Kind::Identifiers => names.iter().filter(|(_, name)| *name == entry.word).map(|(at, _)| *at).collect(),
                Kind::Parts => {
                    let of_name = name.iter().filter(|part| **part == entry.word).map(|_| 0);
                    let holds = |name: &str| words(name).contains(&entry.word);
                    of_name.chain(names.iter().filter(|(_, name)| holds(name)).map(|(at, _)| *at)).collect()
                }
            };
            let line = |at: usize| at.checked_sub(1).map_or("", |at| lines[at]);
            found.extend(at.into_iter().filter(|at| !self.excepts(&entry.word, path, line(*at))).map(|at| (at, entry)));
        }
        found
    }
}

fn words_of(at: usize, line: &str) -> impl Iterator<Item = (usize, String)> + use<> {
    words(line).into_iter().map(move |word| (at, word))
}

/// The words of a text, in lower case: runs of letters and digits, and the parts of `CamelCase`.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let letters: Vec<char> = text.chars().collect();
    for (at, letter) in letters.iter().enumerate() {
        let before = at.checked_sub(1).map(|at| letters[at]);
        let after = letters.get(at + 1);
        let begins = letter.is_uppercase()
            && (before.is_some_and(char::is_lowercase)
                // The last capital of several begins the next word: `HTMLPage`.
                || before.is_some_and(char::is_uppercase) && after.is_some_and(|after| after.is_lowercase()));
        if begins || !letter.is_alphanumeric() {
            words.push(String::new());
        }
        if letter.is_alphanumeric() {
            words.last_mut().unwrap().extend(letter.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The identifiers of a text, with their lines.
fn identifiers(text: &str, first: usize) -> impl Iterator<Item = (usize, String)> {
    text.split('\n').enumerate().flat_map(move |(at, line)| {
        let names = line.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
        names.filter(|name| !name.is_empty()).map(move |name| (first + at, name.to_owned()))
    })
}

/// The identifiers in backticks; backticks around a phrase quote text.
fn quoted(text: &str) -> Vec<(usize, String)> {
    let of_line = |(at, line): (usize, &str)| {
        let spans: Vec<String> = line.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        let names = spans.into_iter().filter(|span| !span.contains(' '));
        names.flat_map(|span| identifiers(&span, at + 1).collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    text.lines().enumerate().flat_map(of_line).collect()
}

/// The identifiers of Rust: those of its code, and those in backticks in comments. Strings have none.
fn code(text: &str) -> Vec<(usize, String)> {
    let (mut names, mut rest, mut line) = (Vec::new(), text, 1);
    while !rest.is_empty() {
        let (kind, length) = piece(rest);
        let part = &rest[..length];
        match kind {
            Piece::Code => names.extend(identifiers(part, line)),
            Piece::Comment => names.extend(quoted(part).into_iter().map(|(at, name)| (line + at - 1, name))),
            Piece::Text => {}
        }
        line += part.matches('\n').count();
        rest = &rest[length..];
    }
    names
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Code,
    Comment,
    Text,
}

/// The first piece of Rust source, and its length.
fn piece(text: &str) -> (Piece, usize) {
    let until = |end: &str, from: usize| text[from..].find(end).map_or(text.len(), |at| from + at + end.len());
    if text.starts_with("//") {
        return (Piece::Comment, until("\n", 0));
    }
    if text.starts_with("/*") {
        return (Piece::Comment, until("*/", 2));
    }
    if text.starts_with('"') {
        return (Piece::Text, closed(text, '"'));
    }
    // A letter in quotes; a lifetime has no second one.
    if text.starts_with('\'') && (text.starts_with("'\\") || text.chars().nth(2) == Some('\'')) {
        return (Piece::Text, closed(text, '\''));
    }
    let word = text.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(text.len());
    if matches!(&text[..word], "r" | "br" | "cr") {
        let hashes = text[word..].chars().take_while(|letter| *letter == '#').count();
        let from = word + hashes;
        if text[from..].starts_with('"') {
            return (Piece::Text, until(&format!("\"{}", "#".repeat(hashes)), from + 1));
        }
    }
    (Piece::Code, if word > 0 { word } else { text.chars().next().map_or(0, char::len_utf8) })
}

/// The length of a quoted text, both quotes included.
fn closed(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            letter if letter == quote => return at + letter.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// The files that are searched, relative to the repository.
fn files() -> Vec<PathBuf> {
    let root = workspace();
    let (mut files, mut directories) = (Vec::new(), vec![root.clone()]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(&root).unwrap().to_path_buf();
            if path.is_dir() {
                if !SKIPPED.iter().any(|skipped| name.ends_with(skipped)) {
                    directories.push(path);
                }
            } else if name.starts_with("packaging")
                || name.extension().is_some_and(|extension| READ.iter().any(|read| extension == *read))
            {
                files.push(name);
            }
        }
    }
    files.retain(|file| file != Path::new(LIST));
    files.sort();
    files
}

#[test]
fn no_banned_word_is_written() {
    let list = List::parse(&fs::read_to_string(workspace().join(LIST)).unwrap());
    assert!(list.entries.len() > 50, "{LIST} has lost its words");
    let files = files();
    assert!(files.len() > 200, "only {} files were found", files.len());
    let (mut lines, mut words, mut counts) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    for file in files {
        let path = file.display().to_string();
        let text = fs::read_to_string(workspace().join(&file)).unwrap_or_else(|error| panic!("{path}: {error}"));
        for (at, entry) in list.found(&path, &text) {
            lines.push(format!("{path}:{at}: `{}`; instead: {}", entry.word, entry.instead));
            *words.entry(entry.word.clone()).or_insert(0) += 1;
            *counts.entry(path.clone()).or_insert(0) += 1;
        }
    }
    let table = |counts: BTreeMap<String, i32>| {
        let mut counts: Vec<(String, i32)> = counts.into_iter().collect();
        counts.sort_by_key(|(name, count)| (-count, name.clone()));
        counts.into_iter().map(|(name, count)| format!("{count:6} {name}")).collect::<Vec<_>>().join("\n")
    };
    let found = lines.len();
    let text = format!("{}\n\n{}\n\n{}", lines.join("\n"), table(words), table(counts));
    assert!(found == 0, "{found} words that {LIST} has better ones for:\n{text}");
}

/// Words are found in prose and in identifiers, and not in longer words; identifiers are found in code alone.
#[test]
fn words_are_found_where_they_are_meant() {
    const SAMPLE: &str = "
        [words]
        blue = 'azure'
        'light green' = 'mint'
        [literals]
        'pale-pink' = 'rose'
        [identifiers]
        Grey = 'Silver'
        White = { use = 'Ivory', below = 'b/' }
        [parts]
        red = 'crimson'
        [[except]]
        word = 'blue'
        line = '.blue'
        because = 'a member'
        [[except]]
        below = 'c/'
        because = 'another language'
    ";
    let list = List::parse(SAMPLE);
    let check = |path: &str, text: &str, expected: &[(usize, &str)]| {
        let found: Vec<(usize, &str)> =
            list.found(path, text).iter().map(|(at, entry)| (*at, entry.word.as_str())).collect();
        assert_eq!(found, expected, "{path}: {text}");
    };
    check("a.md", "Blue. A blueish bluebird, BLUE", &[(1, "blue"), (1, "blue")]);
    check("a.rs", "struct DarkBlue;\nlet dark_blue = BLUE_SKY;", &[(1, "blue"), (2, "blue"), (2, "blue")]);
    check("a.rs", "let x = self.blue;", &[]);
    check(
        "a.rs",
        "struct LightGreen; // a light\n// green tree, lightgreen",
        &[(1, "light green"), (1, "light green")],
    );
    check("light_green.rs", "", &[(0, "light green")]);
    check("a.md", "pale-pink, pale pink", &[(1, "pale-pink")]);
    check("a.md", "Grey is fine, `Grey` and `Grey::new()` are not, `Grey is fine`", &[(1, "Grey"), (1, "Grey")]);
    check("a.rs", "// Grey\nlet a = \"Grey \\\" Grey\"; fn b(_: Grey<'a>) {}", &[(2, "Grey")]);
    check("a.rs", "let a = '\"'; Grey; let b = r#\"a \" Grey\"#; Greyish", &[(1, "Grey")]);
    check("a.rs", "/// [`Grey`]\n/* Grey */ 'a: loop { Grey }", &[(1, "Grey"), (2, "Grey")]);
    check("a.rs", "White", &[]);
    check("c/light_green.md", "blue, pale-pink", &[]);
    check("b/a.rs", "White", &[(1, "White")]);
    check("a.rs", "let red_carpet = \"red\"; // red\nfn r() { not_redone() }", &[(1, "red")]);
}
