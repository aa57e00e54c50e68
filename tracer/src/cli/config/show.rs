//! `whyrst config`: what is in force and where it comes from, in the form of a configuration file.

use std::io::{self, Write};

use clap::{Arg, Command};
use toml::Value;

use super::options::{self, Place};
use super::{Configuration, FILE, environment};
use crate::render::plain::Plain;

/// Columns before the remark on a line.
const REMARK: usize = 36;

/// Prints the options that can be configured. What is built in is commented out.
pub(in crate::cli) fn show(configuration: &Configuration, command: &Command, to: &mut dyn Write) -> io::Result<()> {
    let read = configuration.file.as_ref().map_or_else(
        || format!("no configuration file was read ({FILE} is not there, or not wanted)"),
        |path| format!("{} was read", path.display()),
    );
    writeln!(to, "# What is in force: {}.", Plain(&read))?;
    for place in options::places(command) {
        let options: Vec<&Arg> =
            options::arguments(command, &place).filter(|arg| options::key(arg, &place).is_some()).collect();
        if let (Place::Command(name), false) = (&place, options.is_empty()) {
            writeln!(to, "\n[{name}]")?;
        }
        for arg in options {
            line(configuration, arg, &place, to)?;
        }
    }
    Ok(())
}

fn line(configuration: &Configuration, arg: &Arg, place: &Place, to: &mut dyn Write) -> io::Result<()> {
    let Some(key) = options::key(arg, place) else { return Ok(()) };
    let name = &key.option;
    if let Some(setting) = configuration.settings.get(&key) {
        let text = format!("{name} = {}", value(arg, &setting.values));
        return writeln!(to, "{text:REMARK$}  # {}", Plain(&setting.from.to_string()));
    }
    let built_in: Vec<String> =
        arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    let text = match (built_in.is_empty(), options::is_flag(arg), options::is_list(arg)) {
        (_, true, _) => format!("# {name} = false"),
        (true, _, true) => format!("# {name} = []"),
        (true, _, false) => format!("# {name} = \"\""),
        (false, ..) => format!("# {name} = {}", value(arg, &built_in)),
    };
    let remark = if built_in.is_empty() && !options::is_flag(arg) { "not set" } else { "built in" };
    writeln!(to, "{text:REMARK$}  # {remark}; {}", environment::variable(&key))
}

/// Values in the form of TOML.
fn value(arg: &Arg, values: &[String]) -> Value {
    let text = |value: &String| Value::String(value.clone());
    match values {
        [value] if options::is_flag(arg) => Value::Boolean(value == "true"),
        [value] if !options::is_list(arg) => text(value),
        values => Value::Array(values.iter().map(text).collect()),
    }
}
