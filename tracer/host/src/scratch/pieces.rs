//! A ruleset in pieces, for what does not fit into one message.
//!
//! nftables takes a ruleset as one datagram of netlink, and in a user namespace no process may make the buffer of its socket
//! larger than others (`SO_SNDBUFFORCE`): some hundred rules fit. So the frame is loaded first, and the rules and elements
//! behind it, in their order.

use std::fmt::Write as _;

/// A text that has to be loaded before, and what it lacks.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    /// Tables, chains, sets, on the lines of the file.
    pub(super) frame: String,
    /// Lines that every piece begins with: definitions.
    pub(super) before: Vec<String>,
    /// Rules and elements.
    pub(super) items: Vec<Item>,
}

/// A rule, or an element of a set.
#[derive(Debug)]
pub(super) struct Item {
    /// Its line in the file; 0 where lines mean nothing.
    pub(super) line: usize,
    /// Where it belongs.
    pub(super) into: Owner,
    pub(super) text: String,
}

/// Where an item belongs, in the words of its tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    /// A table of iptables.
    Table(String),
    /// `add rule …`.
    Chain(String),
    /// `add element …`.
    Set(String),
    /// The list of a JSON document.
    List,
}

/// The text of a piece, and the line of the file that each of its lines comes from.
pub(super) fn script(before: &[String], items: &[Item]) -> (String, Vec<usize>) {
    let (mut text, mut lines) = (String::new(), Vec::new());
    let mut put = |line: usize, words: std::fmt::Arguments<'_>| {
        // Writing to a String does not fail.
        let _infallible = writeln!(text, "{words}");
        lines.push(line);
    };
    for definition in before {
        put(0, format_args!("{definition}"));
    }
    let mut last: Option<&Item> = None;
    if items.first().is_some_and(|item| item.into == Owner::List) {
        put(0, format_args!("{{\"nftables\": ["));
    }
    for (index, item) in items.iter().enumerate() {
        let (line, words) = (item.line, &item.text);
        let first = last.is_none_or(|last| last.into != item.into);
        let ends = items.get(index + 1).is_none_or(|next| next.into != item.into);
        let comma = if ends { "" } else { "," };
        match &item.into {
            Owner::Table(table) => {
                if first {
                    put(line, format_args!("*{table}"));
                }
                put(line, format_args!("{words}"));
                if ends {
                    put(line, format_args!("COMMIT"));
                }
            }
            Owner::Chain(chain) => put(line, format_args!("add rule {chain} {words}")),
            Owner::Set(set) => {
                if first {
                    put(line, format_args!("add element {set} {{"));
                }
                put(line, format_args!("{words}{comma}"));
                if ends {
                    put(line, format_args!("}}"));
                }
            }
            Owner::List => put(line, format_args!("{words}{comma}")),
        }
        last = Some(item);
    }
    if last.is_some_and(|item| item.into == Owner::List) {
        put(0, format_args!("]}}"));
    }
    (text, lines)
}

#[cfg(test)]
mod tests {
    use super::{Item, Owner, script};

    #[test]
    fn pieces_are_scripts() {
        let item = |line, into: &Owner, text: &str| Item { line, into: into.clone(), text: text.to_owned() };
        let (filter, nat) = (Owner::Table("filter".to_owned()), Owner::Table("nat".to_owned()));
        let items = [item(3, &filter, "-A a"), item(4, &filter, "-A b"), item(8, &nat, "-A c")];
        let (text, lines) = script(&[], &items);
        assert_eq!(text, "*filter\n-A a\n-A b\nCOMMIT\n*nat\n-A c\nCOMMIT\n");
        assert_eq!(lines, [3, 3, 4, 4, 8, 8, 8]);
        let (set, chain) = (Owner::Set("ip t s".to_owned()), Owner::Chain("ip t c".to_owned()));
        let items = [item(3, &set, "10.0.0.1"), item(4, &set, "10.0.0.2"), item(9, &chain, "accept")];
        let (text, lines) = script(&["define a = 1".to_owned()], &items);
        assert_eq!(text, "define a = 1\nadd element ip t s {\n10.0.0.1,\n10.0.0.2\n}\nadd rule ip t c accept\n");
        assert_eq!(lines, [0, 3, 3, 4, 4, 9]);
        let items = [item(0, &Owner::List, "{}"), item(0, &Owner::List, "{}")];
        assert_eq!(script(&[], &items).0, "{\"nftables\": [\n{},\n{}\n]}\n");
    }
}
