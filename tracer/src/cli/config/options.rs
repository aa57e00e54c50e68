//! Which options can be configured, what excludes what, and whether a value is one.

use std::fmt;

use clap::builder::Str;
use clap::error::{ContextKind, ContextValue, Error};
use clap::{Arg, ArgAction, Command};

/// Options that are given where they are meant: they say what is to be done, not how.
const NEVER: [&str; 7] = ["apply", "config", "force", "no-config", "redact-key", "undo", "yes"];
/// Names of values that are files. Those belong to the command line too.
const FILES: [&str; 3] = ["FILE", "DIR", "PATH"];

/// Where an option is: of every command, or of one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// Of every command.
    Everywhere,
    /// Of this one.
    Command(String),
}

/// An option, by its long name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) place: Place,
    pub(super) option: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Everywhere => f.write_str(&self.option),
            Place::Command(command) => write!(f, "{command}.{}", self.option),
        }
    }
}

/// The key of an argument that can be configured.
pub(super) fn key(arg: &Arg, place: &Place) -> Option<Key> {
    any_key(arg, place).filter(|key| !NEVER.contains(&key.option.as_str()) && !is_file(arg) && has_values(arg))
}

/// The key of any argument with a long name.
pub(super) fn any_key(arg: &Arg, place: &Place) -> Option<Key> {
    Some(Key { place: place.clone(), option: arg.get_long()?.to_owned() })
}

fn is_file(arg: &Arg) -> bool {
    let names: &[Str] = arg.get_value_names().unwrap_or_default();
    names.iter().any(|name| FILES.contains(&name.as_str()))
}

fn has_values(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append | ArgAction::SetTrue)
}

/// What a place offers: its arguments. No place, no arguments.
pub(super) fn arguments<'a>(command: &'a Command, place: &Place) -> impl Iterator<Item = &'a Arg> + use<'a> {
    let of = match place {
        Place::Everywhere => Some(command),
        Place::Command(name) => command.find_subcommand(name),
    };
    of.into_iter().flat_map(Command::get_arguments)
}

/// The long names of the options of a place that can be configured.
pub(super) fn names<'a>(command: &'a Command, place: &Place) -> impl Iterator<Item = &'a str> + use<'a> {
    let place = place.clone();
    arguments(command, &place).filter(move |arg| key(arg, &place).is_some()).filter_map(Arg::get_long)
}

/// The places: every command's, then each one's.
pub(super) fn places(command: &Command) -> Vec<Place> {
    let commands = command.get_subcommands().map(|command| Place::Command(command.get_name().to_owned()));
    std::iter::once(Place::Everywhere).chain(commands).collect()
}

/// The argument that a key means.
pub(super) fn find<'a>(command: &'a Command, key: &Key) -> Option<&'a Arg> {
    arguments(command, &key.place).find(|arg| arg.get_long() == Some(key.option.as_str()))
}

/// Whether two options exclude each other.
pub(super) fn conflict(command: &Command, one: &Key, other: &Key) -> bool {
    let Place::Command(name) = &one.place else { return false };
    let (Some(one_arg), Some(other_arg)) = (find(command, one), find(command, other)) else { return false };
    let Some(command) = command.find_subcommand(name).filter(|_| one.place == other.place) else { return false };
    let excludes =
        |one: &Arg, other: &Arg| command.get_arg_conflicts_with(one).iter().any(|arg| arg.get_id() == other.get_id());
    one_arg.get_id() != other_arg.get_id() && (excludes(one_arg, other_arg) || excludes(other_arg, one_arg))
}

/// Whether an argument is a flag.
pub(super) fn is_flag(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// Whether it takes several values.
pub(super) fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

/// Whether the command line would take these values; else why not.
pub(super) fn check(arg: &Arg, values: &[String]) -> Result<(), String> {
    if is_flag(arg) {
        return Ok(());
    }
    let mut probe = Arg::new("value").long("value").action(arg.get_action().clone());
    probe = probe.value_parser(arg.get_value_parser().clone()).allow_hyphen_values(true);
    if let Some(delimiter) = arg.get_value_delimiter() {
        probe = probe.value_delimiter(delimiter);
    }
    let probe = Command::new("probe").no_binary_name(true).arg(probe);
    match probe.try_get_matches_from(values.iter().map(|value| format!("--value={value}"))) {
        Ok(_) => Ok(()),
        Err(error) => Err(why(&error)),
    }
}

/// Why the command line does not take a value, in a line.
fn why(error: &Error) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => vec![text.as_str()],
        Some(ContextValue::Strings(texts)) => texts.iter().map(String::as_str).collect(),
        _ => Vec::new(),
    };
    let value = text(ContextKind::InvalidValue).join(", ");
    if value.is_empty() {
        // A parser's own words.
        let text = error.to_string();
        return text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    }
    if let Some(source) = std::error::Error::source(error) {
        return format!("`{value}`: {source}");
    }
    let valid = text(ContextKind::ValidValue);
    let meant = text(ContextKind::SuggestedValue);
    let meant = meant.first().map_or_else(String::new, |word| format!("; did you mean {word}?"));
    if valid.is_empty() {
        return format!("`{value}` is not a value that it takes{meant}");
    }
    format!("`{value}` is none of {}{meant}", valid.join(", "))
}
