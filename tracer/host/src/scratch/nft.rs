//! Files of `nft list ruleset`, and files for `nft -f` that include no others: which interfaces have to exist, and which pieces
//! of rules nft prints and does not read.

use std::ops::Range;

use tracer_model::ruleset::Family;
use tracer_model::ruleset::audit::Translation;
use tracer_model::ruleset::tables::{Action, Condition, Nat, Step};

use super::pieces::{Item, Owner, Pieces};
use super::{Counts, Format, LeftOut, Part, Position, SHORT, ScratchError, interface};

/// A word of a statement.
#[derive(Debug)]
struct Word {
    text: String,
    span: Range<usize>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    /// Between quotation marks.
    Quoted,
    /// An expression of xtables that older versions of nft print as a comment: `# xt_NAME`.
    Comment,
}

/// What braces are around a statement.
#[derive(Debug, Clone)]
enum Block {
    Table {
        family: Option<Family>,
        /// The word for its family.
        word: String,
        name: String,
    },
    Chain {
        name: String,
    },
    /// A set, a map, or something else that has a name; and whether its elements are interfaces by index, or by name, or stay.
    Named {
        name: String,
        indices: bool,
        names: bool,
        constant: bool,
    },
}

#[derive(Default)]
struct Reader {
    part: Part,
    blocks: Vec<Block>,
    /// Braces of sets inside the statement.
    depth: usize,
    statement: Vec<Word>,
    line: usize,
    first_line: usize,
    counts: Counts,
    edits: Vec<Edit>,
    /// The end of what was read of the statement.
    end: usize,
    /// Rules and elements, with where they belong.
    items: Vec<(usize, Owner, Range<usize>)>,
    definitions: Vec<Range<usize>>,
    /// Whether there are commands outside of tables, whose order counts.
    commands: bool,
    /// Lists of elements, with the words before them.
    lists: Vec<Range<usize>>,
    /// Where the list of elements begins that is being read.
    list: Option<usize>,
    /// The line and the beginning of the element that is being read.
    element: Option<(usize, usize)>,
}

/// A change of the text.
type Edit = (Range<usize>, &'static str);

/// Prepares a file.
pub(super) fn part(text: &str) -> Result<Part, ScratchError> {
    let mut reader = Reader { line: 1, ..Reader::default() };
    reader.part.format = Format::Nft;
    "nftables".clone_into(&mut reader.part.family);
    reader.read(text)?;
    reader.edits.sort_by_key(|(span, _)| span.start);
    let mut part = std::mem::take(&mut reader.part);
    part.text = reader.edited(text, 0..text.len());
    if !part.text.ends_with('\n') {
        part.text.push('\n');
    }
    if part.text.len() > SHORT && !reader.commands {
        part.pieces = Some(reader.pieces(text));
    }
    Ok(part)
}

impl Reader {
    /// A part of the text with the changes that are in it.
    fn edited(&self, text: &str, span: Range<usize>) -> String {
        let from = self.edits.partition_point(|(edit, _)| edit.start < span.start);
        let mut edited = String::with_capacity(span.len());
        let mut at = span.start;
        for (edit, by) in self.edits[from..].iter().take_while(|(edit, _)| edit.end <= span.end) {
            edited.push_str(&text[at..edit.start]);
            edited.push_str(by);
            at = edit.end;
        }
        edited.push_str(&text[at..span.end]);
        edited
    }

    fn pieces(&self, text: &str) -> Pieces {
        let in_a_line = |span: &Range<usize>| self.edited(text, span.clone()).replace('\n', " ");
        let items =
            self.items.iter().map(|(line, into, span)| Item { line: *line, into: into.clone(), text: in_a_line(span) });
        let items = items.collect();
        // What is left of the rest: the frame, on the same lines. Sets are without their list of elements.
        let mut frame = String::with_capacity(text.len());
        let mut at = 0;
        let mut holes: Vec<&Range<usize>> =
            self.items.iter().filter(|(_, into, _)| !matches!(into, Owner::Set(_))).map(|(.., span)| span).collect();
        holes.extend(&self.lists);
        holes.sort_by_key(|span| span.start);
        for hole in holes {
            frame.push_str(&self.edited(text, at..hole.start));
            frame.extend(text[hole.clone()].chars().filter(|it| *it == '\n'));
            at = hole.end;
        }
        frame.push_str(&self.edited(text, at..text.len()));
        if !frame.ends_with('\n') {
            frame.push('\n');
        }
        Pieces { frame, before: self.definitions.iter().map(in_a_line).collect(), items }
    }

    fn read(&mut self, text: &str) -> Result<(), ScratchError> {
        let mut at = 0;
        while let Some(character) = text[at..].chars().next() {
            let next = at + character.len_utf8();
            let rest = &text[next..];
            match character {
                '\n' => {
                    if self.depth == 0 {
                        self.end()?;
                    }
                    self.line += 1;
                }
                ';' if self.depth == 0 => self.end()?,
                '\\' if rest.starts_with('\n') => {
                    self.line += 1;
                    at = next + 1;
                    continue;
                }
                '"' => {
                    let length = rest.find(['"', '\n']).unwrap_or(rest.len());
                    let end = (next + length + 1).min(text.len());
                    // nft reports a string that is not closed.
                    let end = if rest[length..].starts_with('"') { end } else { next + length };
                    self.word(rest[..length].to_owned(), at..end, Kind::Quoted);
                    at = end;
                    continue;
                }
                '#' => {
                    let comment = &rest[..rest.find('\n').unwrap_or(rest.len())];
                    if self.depth > 0 {
                        // Lines may be joined.
                        self.edits.push((at..next + comment.len(), ""));
                    }
                    let name = comment.trim_start().strip_prefix("xt_").filter(|_| self.in_rule());
                    if let Some(name) = name.and_then(|name| name.split_whitespace().next()) {
                        let end = next + (comment.len() - comment.trim_start().len()) + "xt_".len() + name.len();
                        self.word(name.to_owned(), at..end, Kind::Comment);
                        at = end;
                    } else {
                        at = next + comment.len();
                    }
                    continue;
                }
                '{' if self.depth > 0 || !self.opens() => {
                    (self.depth, self.end) = (self.depth + 1, next);
                    self.list_begins();
                }
                '}' if self.depth > 0 => {
                    self.element_ends();
                    (self.depth, self.end) = (self.depth - 1, next);
                    self.list_ends();
                }
                '}' => {
                    self.end()?;
                    self.blocks.pop();
                }
                ',' if self.depth == 1 => self.element_ends(),
                '{' | ',' | ';' => {}
                space if space.is_whitespace() => {}
                _ => {
                    let ends = |it: char| it.is_whitespace() || matches!(it, '{' | '}' | ';' | '"' | '#' | ',');
                    let end = next + rest.find(ends).unwrap_or(rest.len());
                    self.word(text[at..end].to_owned(), at..end, Kind::Plain);
                    at = end;
                    continue;
                }
            }
            at = next;
        }
        self.end()
    }

    fn word(&mut self, text: String, span: Range<usize>, kind: Kind) {
        if self.statement.is_empty() {
            self.first_line = self.line;
        }
        self.end = span.end;
        if self.list.is_some() {
            self.element.get_or_insert((self.line, span.start));
        }
        self.statement.push(Word { text, span, kind });
    }

    /// A list of elements, of a set that can get them later.
    fn list_begins(&mut self) {
        let [elements, equals] = &self.statement[..] else { return };
        let of_set = matches!(self.blocks.last(), Some(Block::Named { constant: false, .. }));
        if of_set && self.depth == 1 && elements.text == "elements" && equals.text == "=" {
            self.list = Some(elements.span.start);
        }
    }

    fn element_ends(&mut self) {
        let Some((line, start)) = self.element.take_if(|_| self.depth == 1) else { return };
        if let [Block::Table { word, name: table, .. }, Block::Named { name, .. }] = &self.blocks[..] {
            let into = Owner::Set(format!("{word} {table} {name}"));
            self.items.push((line, into, start..self.end));
        }
    }

    fn list_ends(&mut self) {
        if self.depth == 0
            && let Some(start) = self.list.take()
        {
            self.lists.push(start..self.end);
        }
    }

    fn in_rule(&self) -> bool {
        matches!(self.blocks.last(), Some(Block::Chain { .. })) && self.depth == 0
    }

    /// Enters a block if the statement so far names one.
    fn opens(&mut self) -> bool {
        let words: Vec<&str> = self.statement.iter().map(|word| word.text.as_str()).collect();
        let words = match &words[..] {
            ["add" | "create", rest @ ..] => rest,
            all => all,
        };
        let block = match (self.blocks.last(), words) {
            (None, ["table", name]) => {
                Block::Table { family: Some(Family::Ip), word: "ip".to_owned(), name: (*name).to_owned() }
            }
            (None, ["table", word, name]) => {
                let family = Family::ALL.into_iter().find(|known| known.name() == *word);
                Block::Table { family, word: (*word).to_owned(), name: (*name).to_owned() }
            }
            (Some(Block::Table { .. }), ["chain", name]) => Block::Chain { name: (*name).to_owned() },
            (Some(Block::Table { .. }), [_, .., name]) => {
                Block::Named { name: (*name).to_owned(), indices: false, names: false, constant: false }
            }
            _ => return false,
        };
        self.blocks.push(block);
        self.statement.clear();
        true
    }

    /// Ends a statement.
    fn end(&mut self) -> Result<(), ScratchError> {
        let words = std::mem::take(&mut self.statement);
        let Some(first) = words.first() else { return Ok(()) };
        if first.kind == Kind::Plain && first.text == "include" {
            let what = "it includes another file: put that in its place".to_owned();
            return Err(ScratchError::Line { line: self.first_line, what });
        }
        match self.blocks.last_mut() {
            Some(Block::Table { .. }) if first.text == "flags" => self.edits.extend(owner(&words)),
            Some(Block::Table { .. }) => {}
            Some(Block::Chain { .. }) => {
                if matches!(first.text.as_str(), "type" | "policy" | "comment" | "flags" | "device" | "devices") {
                    self.part.devices.extend(after(&words, &["device", "devices"]));
                } else {
                    self.rule(&words);
                }
            }
            Some(Block::Named { indices, names, constant, .. }) => {
                *constant |= first.text == "flags" && words.iter().any(|word| word.text == "constant");
                if matches!(first.text.as_str(), "type" | "typeof") {
                    let has = |wanted: &[&str]| words.iter().any(|word| wanted.contains(&word.text.as_str()));
                    *indices |= has(&["iface_index", "iif", "oif"]);
                    *names |= has(&["ifname", "iifname", "oifname"]);
                }
                let quoted = || strings(&words);
                match (*indices, *names) {
                    (true, _) => self.part.devices.extend(quoted()),
                    (false, true) => self.part.names.extend(quoted()),
                    // Of a flowtable.
                    _ => self.part.devices.extend(after(&words, &["device", "devices"])),
                }
            }
            // Commands, and definitions, which may be used anywhere.
            None if first.text == "define" => {
                self.part.devices.extend(strings(&words));
                self.definitions.push(first.span.start..self.end);
            }
            None => {
                self.commands |= first.text != "flush";
                self.interfaces(&words);
            }
        }
        Ok(())
    }

    fn interfaces(&mut self, words: &[Word]) {
        let has = |wanted: &[&str]| words.iter().any(|word| wanted.contains(&word.text.as_str()));
        let plain = |wanted: &[&str]| {
            let pairs = words.windows(2).filter(|pair| wanted.contains(&pair[0].text.as_str()));
            let named = pairs.filter(|pair| pair[1].kind == Kind::Plain && !is_keyword(&pair[1].text));
            named.filter_map(|pair| interface(&pair[1].text)).collect::<Vec<String>>()
        };
        // `fib saddr . iif oif missing` names none.
        let looked_up = has(&["fib"]);
        if has(&["iif", "oif", "device", "fwd", "dup"]) && !looked_up {
            self.part.devices.extend(strings(words));
            self.part.devices.extend(plain(&["iif", "oif", "device"]));
        } else if has(&["iif", "oif"]) {
            // It may name others besides.
            self.part.devices.extend(strings(words));
        }
        if has(&["iifname", "oifname"]) {
            self.part.names.extend(strings(words));
            self.part.names.extend(plain(&["iifname", "oifname"]));
        }
    }

    fn rule(&mut self, words: &[Word]) {
        self.interfaces(words);
        let [.., Block::Table { family, word, name: table }, Block::Chain { name: chain }] = &self.blocks[..] else {
            return;
        };
        let start = words.first().map_or(self.end, |word| word.span.start);
        self.items.push((self.first_line, Owner::Chain(format!("{word} {table} {chain}")), start..self.end));
        // The rules of other families are not walked.
        let place = family.map(|family| self.counts.next(family, table, chain, 1));
        let mut pieces = 0;
        let mut at = 0;
        while at < words.len() {
            let (what, name, length) = match &words[at..] {
                [word, ..] if word.kind == Kind::Comment => {
                    let target = word.text.chars().all(|it| !it.is_lowercase());
                    (if target { "target" } else { "match" }, &word.text, 1)
                }
                [xt, what, name, ..] if xt.text == "xt" && xt.kind == Kind::Plain && what.kind == Kind::Plain => {
                    (what.text.as_str(), &name.text, 3)
                }
                _ => {
                    at += 1;
                    continue;
                }
            };
            let span = words[at].span.start..words[at + length - 1].span.end;
            pieces += length;
            at += length;
            // A rule needs a statement.
            let alone = pieces == words.len();
            self.edits.push((span, if alone { "counter" } else { "" }));
            if let Some(place) = &place {
                self.part.left.push(left_out(self.first_line, place, what, name));
            }
        }
    }
}

/// What stands for an expression of xtables, whose options nft does not print.
pub(super) fn left_out(line: usize, place: &Position, kind: &str, name: &str) -> LeftOut {
    let what = format!("xt {kind} {name}");
    let shown = if line > 0 { format!("line {line}: {what}") } else { what.clone() };
    let step = match (kind, name) {
        ("match", "comment") => Step::If(Condition::Constant(true)),
        ("target", "MASQUERADE") => Step::Do(Action::Nat(Nat::Masquerade(Translation::default()))),
        ("target", "SNAT") => Step::Do(Action::Nat(Nat::Source(Translation::default()))),
        ("target", "DNAT") => Step::Do(Action::Nat(Nat::Destination(Translation::default()))),
        ("target", "REDIRECT") => Step::Do(Action::Nat(Nat::Redirect(Translation::default()))),
        ("target", "LOG" | "NFLOG" | "TCPMSS" | "DSCP" | "TOS" | "TTL" | "HL" | "CLASSIFY" | "CHECKSUM" | "TRACE")
        | ("watcher", _) => Step::Do(Action::Nothing(shown)),
        ("target", "MARK" | "CONNMARK") => Step::Do(Action::MarkUnknown),
        ("match", _) => Step::If(Condition::NotUnderstood(shown)),
        _ => Step::Do(Action::NotUnderstood(shown)),
    };
    LeftOut { line, place: place.clone(), count: 1, what, because: "nft lists it without its options", step }
}

/// A table that a program owns is deleted with its socket: the flag goes, and the others stay.
fn owner(words: &[Word]) -> Option<(Range<usize>, &'static str)> {
    let (first, last) = (words.first()?, words.last()?);
    let has = |flag: &str| words.iter().any(|word| word.text == flag);
    let owned = has("owner") || has("persist");
    owned.then(|| (first.span.start..last.span.end, if has("dormant") { "flags dormant" } else { "" }))
}

/// The names in quotation marks, but those of comments and log lines.
fn strings(words: &[Word]) -> impl Iterator<Item = String> {
    words.iter().enumerate().filter_map(|(at, word)| {
        let before = at.checked_sub(1).map(|at| words[at].text.as_str());
        let text = matches!(before, Some("comment" | "prefix"));
        (word.kind == Kind::Quoted && !text).then(|| interface(&word.text)).flatten()
    })
}

/// The words behind one of these words, and behind `=`.
fn after(words: &[Word], wanted: &[&str]) -> Vec<String> {
    let begins = words.iter().position(|word| wanted.contains(&word.text.as_str()));
    let Some(begins) = begins else { return Vec::new() };
    let values = words[begins + 1..].iter().take_while(|word| word.text != "priority");
    values
        .filter(|word| !matches!(word.text.as_str(), "=" | "counter"))
        .filter_map(|word| interface(&word.text))
        .collect()
}

fn is_keyword(word: &str) -> bool {
    let keywords =
        ["vmap", "map", ".", "type", "oif", "missing", "exists", "eq", "ne", "and", "or", "lo", "&", "|", "=="];
    keywords.contains(&word)
        || word.starts_with(['!', '$', '<', '>', '=', '@', '.'])
        || word.chars().all(|it| it.is_ascii_digit())
}

#[cfg(test)]
mod tests;
