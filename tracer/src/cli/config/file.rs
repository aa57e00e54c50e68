//! The configuration file: TOML, the options of every command at the top, those of a command in a table of its name.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use clap::{Arg, Command};
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::options::{self, Key};
use super::{Origin, Setting, Settings};
use crate::cli::suggest::did_you_mean;

/// The longest file.
const LONGEST: u64 = 1 << 20;
/// Mode bits that let everybody, and the group, write.
const OTHERS_WRITE: u32 = 0o002;
const GROUP_WRITES: u32 = 0o020;

/// The file's text; `None` if the file is missing and optional, or /dev/null.
pub(super) fn read(path: &Path, must_be: bool) -> anyhow::Result<Option<String>> {
    if path == Path::new("/dev/null") {
        return Ok(None);
    }
    let what = || format!("configuration file {}", path.display());
    // Opening a pipe must not block.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound && !must_be => return Ok(None),
        opened => opened.with_context(what)?,
    };
    let facts = file.metadata().with_context(what)?;
    if !facts.is_file() {
        bail!("{} is not a regular file", what());
    }
    if facts.len() > LONGEST {
        bail!("{} is {} bytes long; at most {LONGEST} are read", what(), facts.len());
    }
    let own = rustix::process::geteuid().as_raw();
    trusted(facts.uid(), facts.gid(), facts.mode(), own)
        .map_err(|because| anyhow!("{} is not read: {because}, and its writers would control whyrst", what()))?;
    let mut text = String::new();
    file.read_to_string(&mut text).with_context(what)?;
    Ok(Some(text))
}

/// Checks that only the user and root can write a file. The error names who else can.
pub(super) fn trusted(owner: u32, group: u32, mode: u32, own: u32) -> Result<(), String> {
    let mode = mode & 0o7777;
    if owner != 0 && owner != own {
        let may = if own == 0 { "root" } else { "root nor by you" };
        let neither = if own == 0 { "not" } else { "neither" };
        return Err(format!("it is owned by user {owner}, {neither} by {may} (chown root it)"));
    }
    if mode & OTHERS_WRITE != 0 {
        return Err(format!("everybody may write it (mode {mode:04o}; chmod go-w it)"));
    }
    // A user may trust the own group.
    if own == 0 && group != 0 && mode & GROUP_WRITES != 0 {
        return Err(format!("group {group} may write it (mode {mode:04o}; chmod go-w it)"));
    }
    Ok(())
}

/// The settings of a file. The error lists all its problems.
pub(super) fn parse(text: &str, path: &Path, command: &Command) -> anyhow::Result<Settings> {
    let line = |offset: usize| 1 + text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count();
    let from = |offset: usize| Origin::File(path.to_path_buf(), line(offset));
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or_else(|| path.display().to_string(), |span| from(span.start).to_string());
        anyhow!("{at}: {}", error.message())
    })?;
    let (mut settings, mut problems) = (Settings::new(), Vec::new());
    let mut take = |of: Option<&str>, name: &Spanned<DeString<'_>>, value: &DeValue<'_>| {
        let (offset, from) = (name.span().start, from(name.span().start));
        match setting(command, of, name.get_ref(), value) {
            Ok((key, values)) => drop(settings.insert(key, Setting { values, from })),
            Err(problem) => problems.push((offset, format!("{from}: {problem}"))),
        }
    };
    for (name, value) in table.get_ref() {
        let of = name.get_ref().as_ref();
        match value.get_ref() {
            DeValue::Table(options) if command.find_subcommand(of).is_some() => {
                options.iter().for_each(|(name, value)| take(Some(of), name, value.get_ref()));
            }
            value => take(None, name, value),
        }
    }
    problems.sort();
    let problems: Vec<String> = problems.into_iter().map(|(_, problem)| problem).collect();
    if problems.is_empty() { Ok(settings) } else { bail!("{}", problems.join("\n")) }
}

/// The values of an option. The error is about its name or its value.
fn setting(command: &Command, of: Option<&str>, name: &str, value: &DeValue<'_>) -> Result<(Key, Vec<String>), String> {
    let found = options::arguments(command, of).find(|arg| arg.get_long() == Some(name));
    let arg = found.ok_or_else(|| unknown(command, of, name, value))?;
    let key =
        options::key(arg, of).ok_or_else(|| format!("{name} can be given on the command line only, as --{name}"))?;
    let typed = words(arg, value)
        .map_err(|wanted| format!("{key} takes {wanted}; this value is of type {}", value.type_str()))?;
    // A flag has no value on the command line.
    let values = if options::is_flag(arg) { Ok(typed) } else { options::of_words(arg, &typed) };
    values.map(|values| (key.clone(), values)).map_err(|problem| format!("{key}: {problem}"))
}

/// The words of a value, as on the command line. The error is the expected kind of value.
fn words(arg: &Arg, value: &DeValue<'_>) -> Result<Vec<String>, &'static str> {
    let scalar = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Some(text.to_string()),
        // As on the command line: in decimal.
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok().map(|n| n.to_string()),
        _ => None,
    };
    match value {
        DeValue::Boolean(value) if options::is_flag(arg) => Ok(vec![value.to_string()]),
        _ if options::is_flag(arg) => Err("true or false"),
        DeValue::Array(items) if options::is_list(arg) => {
            let items = items.iter().map(|item: &Spanned<DeValue<'_>>| scalar(item.get_ref()));
            items.collect::<Option<Vec<String>>>().ok_or("a list of strings or numbers")
        }
        value => {
            let wanted = if options::is_list(arg) { "a string, or a list of strings" } else { "a string" };
            scalar(value).map(|value| vec![value]).ok_or(wanted)
        }
    }
}

/// The error for an unknown option.
fn unknown(command: &Command, of: Option<&str>, name: &str, value: &DeValue<'_>) -> String {
    let names = |of: Option<&str>| -> Vec<String> { options::of(command, of).map(|(key, _)| key.option).collect() };
    let meant = did_you_mean(name, names(of).iter().map(String::as_str));
    let commands = || command.get_subcommands().map(Command::get_name);
    let has = |of: Option<&str>| names(of).iter().any(|known| known == name);
    match (of, value) {
        (Some(_), _) if has(None) => {
            format!("{name} is an option of every command: put it at the top, before the first table")
        }
        (Some(of), _) => format!("{of} has no option {name}{meant}"),
        (None, DeValue::Table(_)) => format!("there is no command {name}{}", did_you_mean(name, commands())),
        (None, _) => {
            let of: Vec<&str> = commands().filter(|of| has(Some(of))).collect();
            of.first().map_or_else(
                || format!("{name} is not an option of every command{meant}"),
                |first| format!("{name} is an option of {}: put it below [{first}]", of.join(", ")),
            )
        }
    }
}
