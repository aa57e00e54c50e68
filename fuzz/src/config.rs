//! The fuzz target for the configuration: a file, an environment, a command line, or a name in a printed command.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::LazyLock;

use clap::{CommandFactory as _, FromArgMatches as _};

use tracer::cli::args::Arguments;
use tracer::cli::config::{self, Configuration};
use tracer::cli::netns::NetnsArg;
use tracer_model::shell;

/// clap's description, created once, because that takes longer than parsing.
static COMMAND: LazyLock<clap::Command> = LazyLock::new(Arguments::command);

/// The first byte selects the kind of input. Zero bytes separate words.
pub(crate) fn config(data: &[u8]) {
    let Some((what, data)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(data);
    match what % 4 {
        0 => file(&text),
        1 => environment(&text),
        2 => line(&text),
        _ => name(&text),
    }
}

fn file(text: &str) {
    let Ok(configuration) = config::of_text(text, Path::new("fuzzed.toml"), &COMMAND) else { return };
    applies(&configuration);
}

/// Names of variables. clap parses their values as it does those of a file.
fn environment(text: &str) {
    let names: Vec<String> = text.split('\0').map(|name| format!("WHYRST_{name}")).collect();
    assert!(config::remarks(&COMMAND, names.iter().cloned()).len() <= names.len());
}

/// An accepted file can be printed, and its values are valid defaults of the command line.
fn applies(configuration: &Configuration) {
    config::show(configuration, &COMMAND, &mut io::sink()).expect("nothing is written");
    let command = configuration.apply(COMMAND.clone(), None);
    for word in ["report", "doctor"] {
        let matched = command.clone().try_get_matches_from(["whyrst", word]);
        if let Err(error) = matched.and_then(|matches| Arguments::from_arg_matches(&matches)) {
            let expected = [clap::error::ErrorKind::ArgumentConflict, clap::error::ErrorKind::MissingRequiredArgument];
            assert!(expected.contains(&error.kind()), "accepted, but not as a default: {error}");
        }
    }
}

fn line(text: &str) {
    let words: Vec<OsString> = ["whyrst"].into_iter().chain(text.split('\0')).map(OsString::from).collect();
    let _typed = config::typed(COMMAND.clone(), &words);
    let matches = COMMAND.clone().try_get_matches_from(words);
    if let Err(error) = matches.and_then(|matches| Arguments::from_arg_matches(&matches)) {
        let _message = error.to_string();
    }
}

fn name(text: &str) {
    let word = shell::word(text);
    assert!(!word.chars().any(char::is_control), "{word:?}");
    if !text.chars().any(char::is_control) {
        assert_eq!(shlex::split(&word), Some(vec![text.to_owned()]));
    }
    let Ok(_) = text.parse::<NetnsArg>();
}
