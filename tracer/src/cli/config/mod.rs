//! Defaults of options: command line, then environment, then configuration file, then what is built in.
//!
//! They become default values of the command line's own description, so that `--help` shows them, and so that they are read
//! by the same code as what is typed. Files, actions and positional arguments belong to the command line alone.

mod environment;
mod file;
mod options;
mod show;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

pub(super) use show::show;

use options::{Key, Place};

/// Where the configuration file is, unless one is named.
pub(super) const FILE: &str = "/etc/whyrst.toml";
/// The environment variable that names another one.
pub(super) const NAMED_BY: &str = "WHYRST_CONFIG";

/// The value of an option, and who gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// As typed on the command line, one by one; `true` or `false` for a flag.
    values: Vec<String>,
    /// Who gave it.
    from: Origin,
}

/// Who gave a value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// A line of the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1 on.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => f.write_str(name),
        }
    }
}

/// Values of options.
type Settings = BTreeMap<Key, Setting>;

/// What the environment and the configuration file say.
#[derive(Debug, Default)]
pub(super) struct Configuration {
    settings: Settings,
    /// The file that was read.
    pub(super) file: Option<PathBuf>,
    /// What should be told, although it keeps nothing from working.
    pub(super) remarks: Vec<String>,
}

/// Reads the environment and the configuration file that it or the command line names.
pub(super) fn read(
    command: &Command,
    typed: Option<&ArgMatches>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> anyhow::Result<Configuration> {
    let (variables, named): (Vec<_>, Vec<_>) =
        environment.filter(|(_, value)| !value.is_empty()).partition(|(name, _)| name != NAMED_BY);
    let (mut settings, remarks) = environment::read(command, variables)?;
    let given = typed.and_then(|typed| typed.get_one::<PathBuf>("config").cloned());
    let named = given.or_else(|| named.into_iter().next().map(|(_, value)| PathBuf::from(value)));
    let ignored = typed.is_some_and(|typed| typed.get_flag("no_config"));
    let mut read = None;
    if !ignored && let Some(text) = file::read(named.as_deref().unwrap_or(Path::new(FILE)), named.is_some())? {
        let path = named.unwrap_or_else(|| PathBuf::from(FILE));
        let of_file = file::parse(&text, &path, command)?;
        settings = overrule(command, of_file, settings);
        read = Some(path);
    }
    exclude(command, &settings)?;
    Ok(Configuration { settings, file: read, remarks })
}

/// What a file with this text says, without an environment.
pub(super) fn of_text(text: &str, path: &Path, command: &Command) -> anyhow::Result<Configuration> {
    let settings = file::parse(text, path, command)?;
    exclude(command, &settings)?;
    Ok(Configuration { settings, file: Some(path.to_path_buf()), remarks: Vec::new() })
}

/// Lets the upper layer have its way: where it sets an option, and where it sets one that excludes another.
fn overrule(command: &Command, mut lower: Settings, upper: Settings) -> Settings {
    lower.retain(|key, _| {
        !upper.iter().any(|(other, setting)| setting.is_set() && options::conflict(command, key, other))
    });
    lower.extend(upper);
    lower
}

/// Refuses options of the same layer that exclude each other.
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

impl Setting {
    /// Whether it does anything: a flag that is `false` is as if it were not there.
    fn is_set(&self) -> bool {
        self.values != ["false"]
    }
}

impl Configuration {
    /// The command line's description with these defaults. What was typed overrules what it excludes.
    pub(super) fn apply(&self, command: Command, typed: Option<&ArgMatches>) -> Command {
        let typed = typed.map(|typed| keys_of(&command, typed)).unwrap_or_default();
        let mut defaults = self.settings.clone();
        defaults.retain(|key, _| !typed.iter().any(|other| options::conflict(&command, key, other)));
        let set = |command: Command, place: &Place| {
            command.mut_args(|arg| match options::key(&arg, place).and_then(|key| defaults.get(&key)) {
                Some(setting) => arg.required(false).default_values(setting.values.clone()),
                None => arg,
            })
        };
        set(command, &Place::Everywhere).mut_subcommands(|command| {
            let place = Place::Command(command.get_name().to_owned());
            set(command, &place)
        })
    }
}

/// The options that were typed.
fn keys_of(command: &Command, typed: &ArgMatches) -> Vec<Key> {
    let of = |command: &Command, matches: &ArgMatches, place: &Place| -> Vec<Key> {
        let given = |id: &str| {
            matches.try_contains_id(id).is_ok() && matches.value_source(id) == Some(ValueSource::CommandLine)
        };
        let given = command.get_arguments().filter(|arg| given(arg.get_id().as_str()));
        given.filter_map(|arg| options::any_key(arg, place)).collect()
    };
    let mut keys = of(command, typed, &Place::Everywhere);
    if let Some((name, matches)) = typed.subcommand()
        && let Some(command) = command.find_subcommand(name)
    {
        keys.extend(of(command, matches, &Place::Command(name.to_owned())));
    }
    keys
}

/// The environment variables of a command's own options, or of the program's, and the long names of those.
pub(super) fn variables(all: &Command, command: &Command) -> Vec<(String, String)> {
    let own = all.get_subcommands().any(|sub| sub.get_name() == command.get_name());
    let place = if own { Place::Command(command.get_name().to_owned()) } else { Place::Everywhere };
    let keys = options::arguments(all, &place).filter(|arg| !own || !arg.is_global_set());
    keys.filter_map(|arg| options::key(arg, &place)).map(|key| (environment::variable(&key), key.option)).collect()
}

/// What was typed, as far as it can be understood before the defaults are known.
pub(super) fn typed(command: Command, words: &[OsString]) -> Option<ArgMatches> {
    let lenient = command.ignore_errors(true).disable_help_flag(true).disable_version_flag(true);
    lenient.try_get_matches_from(words).ok()
}

/// Checks a value as the command line would.
fn check(command: &Command, key: &Key, setting: &Setting) -> anyhow::Result<()> {
    let arg = options::find(command, key).with_context(|| format!("{key} is no option"))?;
    options::check(arg, &setting.values).map_err(|problem| anyhow::anyhow!("{}: {key}: {problem}", setting.from))
}

#[cfg(test)]
mod tests;
