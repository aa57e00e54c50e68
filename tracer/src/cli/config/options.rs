//! Which options can be configured, which conflict, and how clap parses a value.

use std::fmt;

use clap::builder::{BoolishValueParser, Str, Styles};
use clap::{Arg, ArgAction, Command};

/// The prefix of variables.
pub(super) const PREFIX: &str = "WHYRST_";
/// Options that are valid on the command line only: they choose an action, not a default.
const NEVER: [&str; 8] = ["apply", "compare", "config", "force", "no-config", "redact-key", "undo", "yes"];
/// Value names of files. Files are valid on the command line only.
const FILES: [&str; 3] = ["FILE", "DIR", "PATH"];

/// The id of an argument that is parsed alone.
const VALUE: &str = "value";

/// An option, by its long name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// The command that has it; `None` for an option of every command.
    pub(super) command: Option<String>,
    pub(super) option: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.command {
            None => f.write_str(&self.option),
            Some(command) => write!(f, "{command}.{}", self.option),
        }
    }
}

impl Key {
    /// `WHYRST_<OPTION>` for the options of every command, `WHYRST_<COMMAND>_<OPTION>` for those of one.
    pub(super) fn variable(&self) -> String {
        format!("{PREFIX}{}", self.to_string().replace(['-', '.'], "_").to_ascii_uppercase())
    }
}

/// The key of an argument that can be configured.
pub(super) fn key(arg: &Arg, command: Option<&str>) -> Option<Key> {
    let option = arg.get_long().filter(|option| !NEVER.contains(option))?;
    let names: &[Str] = arg.get_value_names().unwrap_or_default();
    let is_file = names.iter().any(|name| FILES.contains(&name.as_str()));
    let has_values = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append | ArgAction::SetTrue);
    let key = Key { command: command.map(str::to_owned), option: option.to_owned() };
    (!is_file && has_values).then_some(key)
}

/// The arguments of every command, or of one.
pub(super) fn arguments<'a>(all: &'a Command, command: Option<&str>) -> impl Iterator<Item = &'a Arg> + use<'a> {
    let of = command.map_or(Some(all), |name| all.find_subcommand(name));
    of.into_iter().flat_map(Command::get_arguments)
}

/// The options of every command that can be configured, or those of one.
pub(super) fn of<'a>(all: &'a Command, command: Option<&'a str>) -> impl Iterator<Item = (Key, &'a Arg)> {
    arguments(all, command).filter_map(move |arg| Some((key(arg, command)?, arg)))
}

/// All options that can be configured: those of every command, then those of each.
pub(super) fn all(all: &Command) -> impl Iterator<Item = (Key, &Arg)> {
    let commands = all.get_subcommands().map(|command| Some(command.get_name()));
    std::iter::once(None).chain(commands).flat_map(|command| of(all, command))
}

/// Maps all options that can be configured.
pub(super) fn map(command: Command, change: impl Fn(Key, Arg) -> Arg) -> Command {
    let changed = |arg: Arg, of: Option<&str>| match key(&arg, of) {
        Some(key) => change(key, arg),
        None => arg,
    };
    command.mut_args(|arg| changed(arg, None)).mut_subcommands(|command| {
        let name = command.get_name().to_owned();
        command.mut_args(|arg| changed(arg, Some(&name)))
    })
}

/// The arguments that conflict with an option.
pub(super) fn rivals<'a>(all: &'a Command, key: &Key) -> impl Iterator<Item = &'a Arg> {
    let command = key.command.as_deref().and_then(|name| all.find_subcommand(name));
    let arg = command.and_then(|command| command.get_arguments().find(|arg| arg.get_long() == Some(&key.option)));
    command.zip(arg).into_iter().flat_map(|(command, arg)| {
        let excludes = |one: &Arg, other: &Arg| command.get_arg_conflicts_with(one).contains(&other);
        command.get_arguments().filter(move |other| *other != arg && (excludes(arg, other) || excludes(other, arg)))
    })
}

/// Whether two options conflict.
pub(super) fn conflict(all: &Command, one: &Key, other: &Key) -> bool {
    one.command == other.command && rivals(all, one).any(|arg| arg.get_long() == Some(&other.option))
}

/// Whether an argument is a flag.
pub(super) fn is_flag(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// Whether an argument takes several values.
pub(super) fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

/// An argument with only the name and the values of this one.
fn alone(arg: &Arg) -> Arg {
    let long = arg.get_long().unwrap_or(VALUE).to_owned();
    let alone = Arg::new(VALUE).long(long).action(arg.get_action().clone());
    if is_flag(arg) {
        return alone.value_parser(BoolishValueParser::new());
    }
    let names = arg.get_value_names().unwrap_or_default().to_vec();
    alone.value_names(names).value_parser(arg.get_value_parser().clone())
}

/// The values of an environment variable, parsed by clap. Commas separate the values of a list.
pub(super) fn of_environment(arg: &Arg, name: &str) -> Result<Vec<String>, String> {
    let alone = alone(arg).env(name.to_owned());
    parse(if is_list(arg) { alone.value_delimiter(',') } else { alone }, &[])
}

/// The values, parsed by clap as if typed one by one.
pub(super) fn of_words(arg: &Arg, values: &[String]) -> Result<Vec<String>, String> {
    let words: Vec<String> =
        values.iter().map(|value| format!("--{}={value}", arg.get_long().unwrap_or(VALUE))).collect();
    let delimiter = arg.get_value_delimiter();
    parse(alone(arg).value_delimiter(delimiter), &words)
}

/// The parsed values. The error is one line.
fn parse(arg: Arg, words: &[String]) -> Result<Vec<String>, String> {
    let flag = is_flag(&arg);
    let parsed = Command::new("whyrst")
        .no_binary_name(true)
        .disable_help_flag(true)
        .styles(Styles::plain())
        .arg(arg)
        .try_get_matches_from(words);
    match parsed {
        Ok(matches) if flag => Ok(vec![matches.get_flag(VALUE).to_string()]),
        Ok(matches) => {
            let values = matches.get_raw(VALUE).unwrap_or_default();
            Ok(values.map(|value| value.to_string_lossy().into_owned()).collect())
        }
        Err(error) => {
            // Plain rendering drops escape sequences, also those in a value. The printer of the message escapes them.
            let text = error.render().ansi().to_string();
            let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage: "));
            let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
            Err(lines.join("; ").trim_start_matches("error: ").to_owned())
        }
    }
}
