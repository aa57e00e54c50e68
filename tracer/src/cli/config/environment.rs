//! Environment variables: `WHYRST_<OPTION>` for the options of every command, `WHYRST_<COMMAND>_<OPTION>` for one's.

use std::collections::BTreeMap;
use std::ffi::OsString;

use anyhow::{Context as _, bail};
use clap::Command;

use super::options::{self, Key};
use super::{Origin, Setting, Settings, check};
use crate::cli::suggest::similar;

/// What the names begin with.
const PREFIX: &str = "WHYRST_";
/// What those begin with that mean something to those who build whyrst.
const OF_THE_BUILD: [&str; 3] = ["WHYRST_BPF_", "WHYRST_BUILD_", "WHYRST_COMMIT"];

/// The variable of an option.
pub(super) fn variable(key: &Key) -> String {
    let name = key.to_string().replace(['-', '.'], "_").to_ascii_uppercase();
    format!("{PREFIX}{name}")
}

/// The settings of the environment, and remarks on variables that are none.
pub(super) fn read(command: &Command, variables: Vec<(OsString, OsString)>) -> anyhow::Result<(Settings, Vec<String>)> {
    let keys: BTreeMap<String, Key> = options::places(command)
        .iter()
        .flat_map(|place| options::arguments(command, place).filter_map(|arg| options::key(arg, place)))
        .map(|key| (variable(&key), key))
        .collect();
    let (mut settings, mut remarks) = (Settings::new(), Vec::new());
    for (name, value) in variables {
        let ours = |name: &&str| name.starts_with(PREFIX) && !OF_THE_BUILD.iter().any(|start| name.starts_with(start));
        let Some(name) = name.to_str().filter(ours) else { continue };
        let Some(key) = keys.get(name) else {
            let meant = similar(&name[PREFIX.len()..], keys.keys().map(|key| &key[PREFIX.len()..]));
            let meant = meant.map_or_else(String::new, |word| format!("; did you mean {PREFIX}{word}?"));
            remarks.push(format!("the environment variable {name} names no option{meant}"));
            continue;
        };
        let value = value.to_str().with_context(|| format!("{name} is not valid UTF-8"))?;
        let arg = options::find(command, key).with_context(|| format!("{name} names no option"))?;
        let values = if options::is_flag(arg) {
            vec![flag(value).with_context(|| format!("{name}: `{value}` is neither true nor false"))?.to_string()]
        } else if options::is_list(arg) {
            value.split(',').map(|item| item.trim().to_owned()).collect()
        } else {
            vec![value.to_owned()]
        };
        let setting = Setting { values, from: Origin::Environment(name.to_owned()) };
        check(command, key, &setting)?;
        if settings.insert(key.clone(), setting).is_some() {
            bail!("{name} is there twice");
        }
    }
    Ok((settings, remarks))
}

fn flag(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Some(true),
        "0" | "false" | "no" | "off" => Some(false),
        _ => None,
    }
}
