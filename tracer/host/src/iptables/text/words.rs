//! The words of a rule as iptables-save prints it, and the options that they make up.

use std::fmt;

/// Options whose value is free text, with the number of words that always belong to them: a comment may look like an option.
const FREE_TEXT: [(&str, usize); 32] = [
    ("-i", 1),
    ("-o", 1),
    ("--add-set", 2),
    ("--bytecode", 1),
    ("--comment", 1),
    ("--del-set", 2),
    ("--genre", 1),
    ("--hashlimit-name", 1),
    ("--helper", 1),
    ("--hex-string", 1),
    ("--label", 1),
    ("--led-trigger-id", 1),
    ("--log-prefix", 1),
    ("--map-set", 2),
    ("--match-set", 2),
    ("--name", 1),
    ("--nfacct-name", 1),
    ("--nflog-prefix", 1),
    ("--object-pinned", 1),
    ("--path", 1),
    ("--physdev-in", 1),
    ("--physdev-out", 1),
    ("--rateest", 1),
    ("--rateest-name", 1),
    ("--rateest1", 1),
    ("--rateest2", 1),
    ("--selctx", 1),
    ("--string", 1),
    ("--timeout", 1),
    ("--u32", 1),
    ("--ulog-prefix", 1),
    ("--oif", 1),
];

/// A word of a line; one in quotes is never an option.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(in crate::iptables) struct Word {
    pub(in crate::iptables) text: String,
    pub(in crate::iptables) quoted: bool,
}

impl Word {
    /// Whether it is this option.
    pub(in crate::iptables) fn is(&self, option: &str) -> bool {
        !self.quoted && self.text == option
    }

    /// Whether it may be a value, where any number of values may follow.
    fn may_be_value(&self) -> bool {
        let mut characters = self.text.chars();
        let option = characters.next() == Some('-') && characters.next().is_some_and(|next| !next.is_ascii_digit());
        self.quoted || (!option && self.text != "!")
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.quoted {
            return f.write_str(&self.text);
        }
        f.write_str("\"")?;
        for character in self.text.chars() {
            let escape = if matches!(character, '"' | '\\' | '\'') { "\\" } else { "" };
            write!(f, "{escape}{character}")?;
        }
        f.write_str("\"")
    }
}

/// Splits a line as a shell would: double quotes, and backslashes inside of them.
pub(in crate::iptables) fn words(line: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut word: Option<Word> = None;
    let mut inside = false;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                inside = !inside;
                word.get_or_insert_default().quoted = true;
            }
            '\\' if inside => word.get_or_insert_default().text.extend(characters.next()),
            ' ' if !inside => words.extend(word.take()),
            other => word.get_or_insert_default().text.push(other),
        }
    }
    words.extend(word);
    words
}

/// Whether a line ends within quotes: a comment may have line breaks.
pub(super) fn is_open(line: &str) -> bool {
    let mut inside = false;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => inside = !inside,
            '\\' if inside => drop(characters.next()),
            _ => {}
        }
    }
    inside
}

/// An option with its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Opt<'a> {
    /// Whether no `!` is in front of it.
    pub(super) inside: bool,
    words: &'a [Word],
}

impl<'a> Opt<'a> {
    /// Its name, and its values.
    pub(super) fn parts(&self) -> (&'a str, Vec<&'a str>) {
        let mut words = self.words.iter().map(|word| word.text.as_str());
        (words.next().unwrap_or_default(), words.collect())
    }
}

impl fmt::Display for Opt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.inside { "" } else { "! " })?;
        for (place, word) in self.words.iter().enumerate() {
            write!(f, "{}{word}", if place == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

/// A match or a target with its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Extension<'a> {
    /// `-m`, `-j` or `-g`.
    flag: &'static str,
    /// Its name.
    pub(super) name: &'a str,
    /// Its options.
    pub(super) options: Vec<Opt<'a>>,
}

impl Extension<'_> {
    /// Whether it is a `-g`.
    pub(super) fn is_goto(&self) -> bool {
        self.flag == "-g"
    }
}

impl fmt::Display for Extension<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.flag, self.name)?;
        self.options.iter().try_for_each(|option| write!(f, " {option}"))
    }
}

/// A rule behind `-A CHAIN`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Printed<'a> {
    /// Options of no match: addresses, interfaces, the protocol.
    pub(super) generic: Vec<Opt<'a>>,
    /// Its matches, in order.
    pub(super) matches: Vec<Extension<'a>>,
    /// Its target.
    pub(super) target: Option<Extension<'a>>,
}

impl<'a> Printed<'a> {
    /// Sorts the words of a rule.
    pub(super) fn read(words: &'a [Word]) -> Self {
        let mut read = Self::default();
        let mut rest = words;
        let mut inside = true;
        while let Some((word, behind)) = rest.split_first() {
            if word.is("!") && !behind.is_empty() {
                inside = false;
                rest = behind;
                continue;
            }
            let flag = ["-m", "-j", "-g"].into_iter().find(|flag| read.target.is_none() && word.is(flag));
            if let (Some(flag), Some((name, behind))) = (flag, behind.split_first()) {
                let extension = Extension { flag, name: &name.text, options: Vec::new() };
                if flag == "-m" {
                    read.matches.push(extension);
                } else {
                    read.target = Some(extension);
                }
                rest = behind;
            } else {
                let always = FREE_TEXT.iter().find(|(option, _)| word.is(option)).map_or(0, |(_, values)| *values);
                let more = behind.iter().skip(always).take_while(|word| word.may_be_value()).count();
                let (option, behind) = rest.split_at((1 + always + more).min(rest.len()));
                let of_packet = ["-s", "-d", "-i", "-o", "-p", "-f"].iter().any(|generic| word.is(generic));
                let options = match (&mut read.target, read.matches.last_mut()) {
                    (Some(target), _) => &mut target.options,
                    (None, Some(last)) if !of_packet => &mut last.options,
                    (None, _) => &mut read.generic,
                };
                options.push(Opt { inside, words: option });
                rest = behind;
            }
            inside = true;
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::{Printed, Word, is_open, words};

    #[test]
    fn quotes_hold_words_together() {
        let word = |text: &str, quoted: bool| Word { text: text.to_owned(), quoted };
        assert_eq!(words(r#"a  "b \"c" d"#), [word("a", false), word("b \"c", true), word("d", false)]);
        assert_eq!(words(r#"""#), [word("", true)]);
        assert_eq!(words(r#""\"#), [word("", true)]);
        assert_eq!(words(r#"a "b \"c" d"#)[1].to_string(), r#""b \"c""#);
        assert!(is_open("a \"b") && is_open(r#""\"#) && !is_open(r#""a\"b""#));
    }

    #[test]
    fn options_belong_to_their_match() {
        let check = |line: &str, generic: &[&str], matches: &[&str], target: Option<&str>| {
            let words = words(line);
            let read = Printed::read(&words);
            let shown = |options: &[super::Opt<'_>]| options.iter().map(ToString::to_string).collect::<Vec<_>>();
            assert_eq!(shown(&read.generic), generic, "{line}");
            assert_eq!(read.matches.iter().map(ToString::to_string).collect::<Vec<_>>(), matches, "{line}");
            assert_eq!(read.target.map(|target| target.to_string()).as_deref(), target, "{line}");
        };
        check("! -i lan0 -p tcp -j DROP", &["! -i lan0", "-p tcp"], &[], Some("-j DROP"));
        // What looks like an option is a comment, an interface, a name.
        check("-i -j -m comment --comment -j -j ACCEPT", &["-i -j"], &["-m comment --comment -j"], Some("-j ACCEPT"));
        check(r#"-m string --string "-j" -g a"#, &[], &[r#"-m string --string "-j""#], Some("-g a"));
        check(
            "-m tcp ! --tcp-flags FIN,SYN NONE -m set ! --match-set -m src -f",
            &["-f"],
            &["-m tcp ! --tcp-flags FIN,SYN NONE", "-m set ! --match-set -m src"],
            None,
        );
        check("-j LOG --log-prefix -m --log-level 7", &[], &[], Some("-j LOG --log-prefix -m --log-level 7"));
        check("-m new --level -1 --two 1 2 -j x", &[], &["-m new --level -1 --two 1 2"], Some("-j x"));
        check("! -m", &["! -m"], &[], None);
        check("-j", &["-j"], &[], None);
        check("!", &["!"], &[], None);
    }
}
