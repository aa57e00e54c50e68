//! Programs with their arguments: as they are run, and as a line that a person pastes into a shell.

use crate::host_context::NetnsPath;
use crate::shell::word;

/// A program, its arguments and its standard input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// The statements that it reads from its standard input, one a line; none if it reads nothing.
    pub statements: Vec<String>,
}

impl Command {
    /// A program that reads nothing.
    pub fn of<S: AsRef<str>>(words: &[S]) -> Self {
        Self { argv: words.iter().map(|word| word.as_ref().to_owned()).collect(), statements: Vec::new() }
    }

    /// All statements in one transaction of nft.
    pub fn nft(statements: Vec<String>) -> Self {
        Self { statements, ..Self::of(&["nft", "-f", "-"]) }
    }

    /// The words of the line that does the same in a shell: nft also takes its statements as one argument.
    pub fn words(&self) -> Vec<String> {
        if self.statements.is_empty() {
            return self.argv.clone();
        }
        vec![self.argv[0].clone(), self.statements.join("; ")]
    }

    /// The line for a shell, which enters a network namespace first.
    pub fn line(&self, netns: &NetnsPath) -> String {
        line(&[lead(netns), self.words()].concat())
    }
}

/// The words that enter a network namespace.
pub fn lead(netns: &NetnsPath) -> Vec<String> {
    match netns {
        NetnsPath::Here => Vec::new(),
        NetnsPath::Named(name) => ["ip", "netns", "exec", name].map(str::to_owned).to_vec(),
        NetnsPath::Process(pid) => ["nsenter", "-t", &pid.to_string(), "-n"].map(str::to_owned).to_vec(),
    }
}

/// Words as a line for a shell.
pub(super) fn line<S: AsRef<str>>(words: &[S]) -> String {
    words.iter().map(|text| word(text.as_ref())).collect::<Vec<_>>().join(" ")
}
