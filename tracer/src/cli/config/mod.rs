//! Defaults of options: command line, then environment, then configuration file, then built-in default.
//!
//! clap names, reads and checks a variable (`Arg::env`), but of each option by itself. On the command line's own description
//! it would count as typed: it would exclude options that are typed, even where it is empty or `false`, and clap's message on
//! a wrong value would name the option and not the variable. So values of the environment become default values, as those of
//! the file do, which `--help` shows. Files, actions and positional arguments belong to the command line alone.

mod file;
mod options;
mod show;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{env, fmt};

use anyhow::{anyhow, bail};
use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

use super::suggest::similar;

use options::{Key, PREFIX};

pub use show::show;

/// The default path of the configuration file.
pub(super) const FILE: &str = "/etc/whyrst.toml";
/// The environment variable with another path.
const NAMED_BY: &str = "WHYRST_CONFIG";
/// Prefixes of variables for the build of whyrst.
const OF_THE_BUILD: [&str; 3] = ["WHYRST_BPF_", "WHYRST_BUILD_", "WHYRST_COMMIT"];

/// The value of an option, and its origin.
#[derive(Debug, Clone)]
struct Setting {
    /// As typed on the command line, one by one; `true` or `false` for a flag.
    values: Vec<String>,
    from: Origin,
}

impl Setting {
    /// Whether it has an effect: a flag that is `false` has none.
    fn is_set(&self) -> bool {
        self.values != ["false"]
    }
}

/// Where a value comes from.
#[derive(Debug, Clone)]
enum Origin {
    /// A line of the configuration file, from 1 on.
    File(PathBuf, usize),
    /// An environment variable.
    Environment(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => f.write_str(name),
        }
    }
}

/// Values of options.
type Settings = BTreeMap<Key, Setting>;

/// Defaults from the environment and the configuration file.
#[derive(Debug, Default)]
pub struct Configuration {
    settings: Settings,
    /// The file that was read.
    file: Option<PathBuf>,
    /// Warnings.
    pub(super) remarks: Vec<String>,
}

/// The command line's description with each option's variable, for the manual.
pub(super) fn described(command: Command) -> Command {
    options::map(command, |key, arg| arg.env(key.variable()))
}

/// The options that were typed, as far as they can be understood before the defaults are known.
pub fn typed(command: Command, words: &[OsString]) -> Option<ArgMatches> {
    let lenient = command.ignore_errors(true).disable_help_flag(true).disable_version_flag(true);
    lenient.try_get_matches_from(words).ok()
}

/// Reads the environment and the configuration file that it or the command line names.
pub(super) fn read(command: &Command, typed: Option<&ArgMatches>) -> anyhow::Result<Configuration> {
    let mut settings = environment(command)?;
    let given = typed.and_then(|typed| typed.get_one::<PathBuf>("config").cloned());
    let named = given.or_else(|| variable(NAMED_BY).map(PathBuf::from));
    let ignored = typed.is_some_and(|typed| typed.get_flag("no_config"));
    let mut read = None;
    if !ignored && let Some(text) = file::read(named.as_deref().unwrap_or(Path::new(FILE)), named.is_some())? {
        let path = named.unwrap_or_else(|| PathBuf::from(FILE));
        settings = overrule(command, file::parse(&text, &path, command)?, settings);
        read = Some(path);
    }
    exclude(command, &settings)?;
    let names = env::vars_os().filter(|(_, value)| !value.is_empty()).filter_map(|(name, _)| name.into_string().ok());
    Ok(Configuration { settings, file: read, remarks: remarks(command, names) })
}

/// Parses the text of a configuration file, without the environment. The error lists all its problems.
pub fn of_text(text: &str, path: &Path, command: &Command) -> anyhow::Result<Configuration> {
    let settings = file::parse(text, path, command)?;
    exclude(command, &settings)?;
    Ok(Configuration { settings, file: Some(path.to_path_buf()), remarks: Vec::new() })
}

/// An environment variable; an empty one counts as unset.
fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

fn environment(command: &Command) -> anyhow::Result<Settings> {
    let named = options::all(command).map(|(key, arg)| (key.variable(), key, arg));
    let set = named.filter(|(name, ..)| variable(name).is_some()).map(|(name, key, arg)| {
        let values = options::of_environment(arg, &name).map_err(|problem| anyhow!("{name}: {key}: {problem}"))?;
        Ok((key, Setting { values, from: Origin::Environment(name) }))
    });
    set.collect()
}

/// Warnings about variables with the prefix of whyrst that name no option.
pub fn remarks(command: &Command, names: impl Iterator<Item = String>) -> Vec<String> {
    let known: Vec<String> = options::all(command).map(|(key, _)| key.variable()).collect();
    let unknown = names.filter(|name| {
        let other = name == NAMED_BY || OF_THE_BUILD.iter().any(|start| name.starts_with(start));
        name.starts_with(PREFIX) && !other && !known.contains(name)
    });
    let remark = |name: String| {
        let meant = similar(&name[PREFIX.len()..], known.iter().map(|known| &known[PREFIX.len()..]));
        let meant = meant.map_or_else(String::new, |word| format!("; did you mean {PREFIX}{word}?"));
        format!("the environment variable {name} names no option{meant}")
    };
    unknown.map(remark).collect()
}

/// Merges two layers. The upper one overrides an option that it sets, or that conflicts with one that it sets.
fn overrule(command: &Command, mut lower: Settings, upper: Settings) -> Settings {
    lower.retain(|key, _| {
        !upper.iter().any(|(other, setting)| setting.is_set() && options::conflict(command, key, other))
    });
    lower.extend(upper);
    lower
}

/// Refuses conflicting options of the same layer.
fn exclude(command: &Command, settings: &Settings) -> anyhow::Result<()> {
    let set: Vec<(&Key, &Setting)> = settings.iter().filter(|(_, setting)| setting.is_set()).collect();
    for (index, (key, setting)) in set.iter().enumerate() {
        for (other, later) in &set[index + 1..] {
            if options::conflict(command, key, other) {
                bail!("{}: {key} and {other} ({}) exclude each other", setting.from, later.from);
            }
        }
    }
    Ok(())
}

impl Configuration {
    /// The command line's description with these defaults. A typed option overrules those that it excludes.
    pub fn apply(&self, command: Command, typed: Option<&ArgMatches>) -> Command {
        let typed = typed.and_then(ArgMatches::subcommand);
        let whole = command.clone();
        options::map(command, |key, arg| {
            let Some(setting) = self.settings.get(&key) else { return arg };
            let overruled = typed.is_some_and(|(name, typed)| {
                let is_typed = |other: &str| typed.value_source(other) == Some(ValueSource::CommandLine);
                key.command.as_deref() == Some(name)
                    && options::rivals(&whole, &key).any(|other| is_typed(other.get_id().as_str()))
            });
            if overruled { arg } else { arg.required(false).default_values(setting.values.clone()) }
        })
    }
}

#[cfg(test)]
mod tests;
