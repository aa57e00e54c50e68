//! A ruleset that somebody sent, in a network namespace of its own: what the file is, the namespace, and the tool that loads
//! it there. What packets meet in it is read and walked as on any host.
//!
//! The file may be hostile. So the process that loads it gives up everything else for good before any tool sees a byte of it
//! ([`namespace`]): it becomes the user `nobody` where it was root, and enters a user namespace that maps this user alone, a
//! network namespace, and a mount namespace that belong to it. `CAP_NET_ADMIN` and `CAP_NET_RAW` are all that it keeps, and
//! they count in that network namespace only. A process of one thread can do this without a helper and without unsafe code,
//! and the kernel removes the namespaces with it. The tool is confined further by the caller
//! (Landlock and seccomp on the thread that starts it), may take [`tool::PATIENCE`], and is then killed.
//!
//! What a rule does as it is loaded, before any packet: `-j LED` and `-j IDLETIMER` register names outside of the namespace,
//! `-m physdev` loads `br_netfilter`, which gives the packets of all bridges to iptables. These, and matches whose objects are
//! not in the file, are left out of the load, and stand in the ruleset as not understood ([`Loaded::annotate`]). The kernel
//! loads its own modules for the rest of netfilter as it does for any rule, and keeps them.

mod format;
mod json;
mod namespace;
mod nft;
mod pieces;
mod save;
mod tool;
mod veth;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use tracer_model::ruleset::Family;
use tracer_model::ruleset::tables::{Ruleset, Step};

pub use format::Format;
use pieces::Pieces;

/// Most bytes of a file.
pub const MOST: usize = 16 << 20;
/// Bytes of a text that fits into one message as a rule.
const SHORT: usize = 16 << 10;
/// Most interfaces that are created for a file: each is a device of the kernel.
const DEVICES: usize = 256;
/// Most interfaces that packets are taken through the rules by.
const LINKS: usize = 512;
/// Pieces of rules that are listed as not loaded.
const LISTED: usize = 32;
/// Bytes of an interface's name without the zero at its end (`IFNAMSIZ`).
const NAME: usize = 15;
/// Indices of interfaces that rules know by name alone; no device has one so high here.
const WITHOUT_DEVICE: u32 = 1_000_000;

/// Why a file was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    /// A line of the file is the reason.
    #[error("line {line}: {what}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is the matter with it.
        what: String,
    },
    /// The file as a whole is the reason.
    #[error("{0}")]
    File(String),
    /// The kernel refused a step.
    #[error("{step}")]
    System {
        /// The step, and what it takes.
        step: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// No tool is there.
    #[error("{tool} is missing: install the package {package}")]
    Missing {
        /// The tool.
        tool: &'static str,
        /// The package that has it, by the name that distributions give it.
        package: &'static str,
    },
    /// The tool refused the file.
    #[error("{tool}: {message}")]
    Tool {
        /// The tool.
        tool: String,
        /// What it printed.
        message: String,
    },
}

/// A file that can be loaded.
#[derive(Debug)]
pub struct Sent {
    parts: Vec<Part>,
}

/// What one run of a tool loads.
#[derive(Debug, Default)]
struct Part {
    format: Format,
    /// Why it is of that family.
    family: String,
    /// The text, on the lines of the file.
    text: String,
    /// The text once more, in pieces, unless it is short.
    pieces: Option<Pieces>,
    /// Interfaces that have to exist.
    devices: BTreeSet<String>,
    /// Interfaces that rules know by name.
    names: BTreeSet<String>,
    left: Vec<LeftOut>,
}

/// A piece of a rule that is not loaded.
#[derive(Debug, PartialEq, Eq)]
struct LeftOut {
    /// Its line, from 1; 0 where lines mean nothing.
    line: usize,
    place: Position,
    /// How many rules of the kernel the line becomes.
    count: usize,
    /// The piece, in the notation of its tool.
    what: String,
    /// Why it is not loaded.
    because: &'static str,
    /// What stands for it.
    step: Step,
}

/// Where a rule is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Position {
    family: Family,
    table: String,
    chain: String,
    /// Its place in the chain, from 0.
    rule: usize,
}

/// A ruleset that was loaded into the namespace that this process is in now.
#[derive(Debug)]
pub struct Loaded {
    /// The interfaces that rules name, with their indices.
    pub links: Vec<(String, u32)>,
    /// What was loaded, and what was not.
    pub notes: Vec<String>,
    left: Vec<LeftOut>,
}

impl Sent {
    /// Recognizes a file, and prepares it. Nothing of it is executed.
    pub fn parse(bytes: &[u8]) -> Result<Self, ScratchError> {
        if bytes.len() > MOST {
            return Err(ScratchError::File(format!("the file has more than {} MiB", MOST >> 20)));
        }
        let text = String::from_utf8_lossy(bytes);
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        if let Some(at) = text.find('\0') {
            let line = text[..at].matches('\n').count() + 1;
            return Err(ScratchError::Line { line, what: "a zero byte: this is no text".to_owned() });
        }
        let text = text.replace("\r\n", "\n");
        let parts = match format::of(&text)? {
            Format::Save(_) => save::parts(&text)?,
            Format::Nft => vec![nft::part(&text)?],
            Format::NftJson => vec![json::part(&text)?],
        };
        let devices: BTreeSet<&String> = parts.iter().flat_map(|part| &part.devices).collect();
        if devices.len() > DEVICES {
            let number = devices.len();
            return Err(ScratchError::File(format!(
                "it needs {number} network interfaces, and whyrst creates {DEVICES}"
            )));
        }
        Ok(Self { parts })
    }

    /// Takes this process into an empty network namespace, for good, and loads the file there. `confine` takes rights from the
    /// thread that starts a tool, which it gets the path of.
    ///
    /// The process may have one thread only.
    pub fn load(self, confine: &(dyn Fn(&Path) + Sync)) -> Result<Loaded, ScratchError> {
        // The tool is looked for first: a missing one is the commonest error, and changes nothing.
        let tools: Vec<Vec<tool::Tool>> =
            self.parts.iter().map(|part| tool::find(part.format)).collect::<Result<_, _>>()?;
        namespace::enter()?;
        let devices: BTreeSet<&str> = self.parts.iter().flat_map(|part| &part.devices).map(String::as_str).collect();
        veth::create(&devices)?;
        let mut notes = Vec::new();
        for (part, tools) in self.parts.iter().zip(&tools) {
            let used = tool::load(tools, part, confine)?;
            notes.push(format!("{}: loaded with {used}", part.family));
            notes.extend(part.left.iter().take(LISTED).map(|left| {
                let LeftOut { what, because, .. } = left;
                format!("{}: `{what}` is not loaded: {because}", left.whence())
            }));
            let more = part.left.len().saturating_sub(LISTED);
            if more > 0 {
                notes.push(format!("{more} more pieces of rules are not loaded"));
            }
        }
        let names: BTreeSet<String> =
            self.parts.iter().flat_map(|part| part.names.iter().chain(&part.devices)).cloned().collect();
        if names.len() > LINKS {
            notes.push(format!("the rules name {} network interfaces, of which {LINKS} are looked at", names.len()));
        }
        let index = |(number, name): (usize, String)| {
            let made_up = WITHOUT_DEVICE + u32::try_from(number).unwrap_or_default();
            let index = nix::net::if_::if_nametoindex(name.as_str()).unwrap_or(made_up);
            (name, index)
        };
        let links = names.into_iter().filter(|name| name != "lo").take(LINKS).enumerate().map(index).collect();
        let left = self.parts.into_iter().flat_map(|part| part.left).collect();
        Ok(Loaded { links, notes, left })
    }
}

impl Loaded {
    /// Puts what was not loaded back where it stands in the file, as not understood.
    pub fn annotate(&self, ruleset: &mut Ruleset) {
        for left in &self.left {
            if !left.put_into(ruleset) {
                let (whence, what) = (left.whence(), &left.what);
                ruleset.problems.push(format!("{whence}: `{what}` was not loaded, and its rule was not found again"));
            }
        }
    }
}

impl LeftOut {
    /// Where it stands in the file.
    fn whence(&self) -> String {
        let Position { family, table, chain, rule } = &self.place;
        match self.line {
            0 => format!("rule {} of {family} {table} {chain}", rule + 1),
            line => format!("line {line}"),
        }
    }

    fn put_into(&self, ruleset: &mut Ruleset) -> bool {
        let Position { family, table, chain, rule } = &self.place;
        let tables = ruleset.tables.iter_mut().filter(|it| it.family == *family && it.name == *table);
        let mut chains = tables.flat_map(|table| &mut table.chains).filter(|it| it.name == *chain);
        let rules = chains.next().and_then(|chain| chain.rules.get_mut(*rule..rule + self.count));
        let Some(rules) = rules else { return false };
        for rule in rules {
            match self.step {
                Step::If(_) => rule.steps.insert(0, self.step.clone()),
                Step::Do(_) => rule.steps.push(self.step.clone()),
            }
            rule.text = format!("{} {}", rule.text, self.what);
        }
        true
    }
}

/// Counts the rules of each chain.
#[derive(Debug, Default)]
struct Counts(BTreeMap<(String, String, String), usize>);

impl Counts {
    /// The place of the next rule of a chain, of which a line makes `count`.
    fn next(&mut self, family: Family, table: &str, chain: &str, count: usize) -> Position {
        let key = (family.name().to_owned(), table.to_owned(), chain.to_owned());
        let next = self.0.entry(key).or_default();
        let rule = *next;
        *next += count;
        Position { family, table: table.to_owned(), chain: chain.to_owned(), rule }
    }
}

/// The name of an interface that a rule names, or of one that its prefix stands for (`lan+`, `lan*`); none if no device can
/// have it (`dev_valid_name`).
fn interface(name: &str) -> Option<String> {
    let name = name.strip_suffix(['+', '*']).map_or_else(|| name.to_owned(), |prefix| format!("{prefix}0"));
    let odd = |it: char| it.is_whitespace() || it.is_control() || matches!(it, '/' | ':' | '*');
    let fits = !name.is_empty() && name.len() <= NAME && name != "." && name != ".." && !name.contains(odd);
    fits.then_some(name)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use tracer_model::ruleset::tables::{Action, Chain, ChainRule, Condition, Ruleset, Step, Table};
    use tracer_model::ruleset::{Backend, Family};

    use super::{LeftOut, Loaded, MOST, Position, Sent, interface};

    #[rstest]
    #[case(b"\xef\xbb\xbf*filter\r\n:INPUT ACCEPT [0:0]\r\nCOMMIT\r\n", "")]
    #[case(b"# \xe9t\xe9\n*filter\nCOMMIT\n", "")]
    #[case(b"*filter\nCOMMIT\n\0", "line 3: a zero byte: this is no text")]
    fn files(#[case] bytes: &[u8], #[case] error: &str) {
        let error_of = Sent::parse(bytes).err().map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(error_of, error);
    }

    #[test]
    fn files_are_bounded() {
        let error = Sent::parse(&vec![b'#'; MOST + 1]).unwrap_err().to_string();
        assert_eq!(error, "the file has more than 16 MiB");
    }

    #[test]
    fn carriage_returns_are_not_loaded() {
        let sent = Sent::parse(b"*filter\r\n-A a -j DROP\r\nCOMMIT\r\n").unwrap();
        assert_eq!(sent.parts[0].text, "*filter\n-A a -j DROP\nCOMMIT\n");
    }

    #[test]
    fn interfaces_are_bounded() {
        let rules: Vec<String> = (0..300).map(|it| format!("iif \"e{it}\" drop")).collect();
        let text = format!("table ip t {{\nchain c {{\n{}\n}}\n}}\n", rules.join("\n"));
        let error = Sent::parse(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(error, "it needs 300 network interfaces, and whyrst creates 256");
    }

    #[rstest]
    #[case("eth0", Some("eth0"))]
    #[case("ppp+", Some("ppp0"))]
    #[case("ppp*", Some("ppp0"))]
    #[case("", None)]
    #[case(".", None)]
    #[case("../x", None)]
    #[case("a b", None)]
    #[case("\u{1b}[2J", None)]
    #[case("abcdefghijklmnop", None)]
    fn names_of_interfaces(#[case] name: &str, #[case] kept: Option<&str>) {
        assert_eq!(interface(name).as_deref(), kept);
    }

    fn left(rule: usize, count: usize, step: Step) -> LeftOut {
        let place = Position { family: Family::Ip, table: "filter".to_owned(), chain: "INPUT".to_owned(), rule };
        LeftOut { line: 7, place, count, what: "-m set".to_owned(), because: "", step }
    }

    #[test]
    fn what_was_not_loaded_stands_in_its_place() {
        let rule = || ChainRule {
            handle: None,
            packets: None,
            by_iptables: true,
            text: "drop".to_owned(),
            steps: vec![Step::Do(Action::Drop)],
        };
        let chain = Chain { name: "INPUT".to_owned(), base: None, rules: vec![rule(), rule(), rule()] };
        let table = |family| Table {
            backend: Backend::IptablesNft,
            family,
            name: "filter".to_owned(),
            chains: vec![chain.clone()],
            sets: Vec::new(),
        };
        let mut ruleset = Ruleset { tables: vec![table(Family::Ip6), table(Family::Ip)], problems: Vec::new() };
        let condition = Step::If(Condition::NotUnderstood("x".to_owned()));
        let action = Step::Do(Action::Nothing("y".to_owned()));
        let pieces = vec![left(1, 2, condition.clone()), left(1, 1, action.clone()), left(2, 2, action.clone())];
        Loaded { links: Vec::new(), notes: Vec::new(), left: pieces }.annotate(&mut ruleset);
        assert_eq!(ruleset.tables[0], table(Family::Ip6));
        let drop = Step::Do(Action::Drop);
        let steps: Vec<&[Step]> = ruleset.tables[1].chains[0].rules.iter().map(|rule| &rule.steps[..]).collect();
        assert_eq!(steps, [&[drop.clone()][..], &[condition.clone(), drop.clone(), action], &[condition, drop]]);
        assert_eq!(ruleset.problems, ["line 7: `-m set` was not loaded, and its rule was not found again"]);
    }
}
