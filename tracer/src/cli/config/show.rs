//! `whyrst config`: the current defaults and their origins, in the format of a configuration file.

use std::io::{self, Write};

use clap::{Arg, Command};
use toml::Value;

use tracer_render::plain::Plain;

use super::options::{self, Key};
use super::{Configuration, FILE};

/// Columns before the comment on a line.
const REMARK: usize = 36;

/// Prints the options that can be configured. Built-in defaults are commented out.
pub fn show(configuration: &Configuration, command: &Command, to: &mut dyn Write) -> io::Result<()> {
    let read = configuration.file.as_ref().map_or_else(
        || format!("no configuration file was read ({FILE} is missing, or disabled)"),
        |path| format!("{} was read", path.display()),
    );
    writeln!(to, "# Current defaults: {}.", Plain(&read))?;
    let mut table = None;
    for (key, arg) in options::all(command) {
        if key.command != table
            && let Some(name) = &key.command
        {
            writeln!(to, "\n[{name}]")?;
        }
        table.clone_from(&key.command);
        line(configuration, &key, arg, to)?;
    }
    Ok(())
}

fn line(configuration: &Configuration, key: &Key, arg: &Arg, to: &mut dyn Write) -> io::Result<()> {
    let name = &key.option;
    if let Some(setting) = configuration.settings.get(key) {
        let text = format!("{name} = {}", value(arg, &setting.values));
        return writeln!(to, "{text:REMARK$}  # {}", Plain(&setting.from.to_string()));
    }
    let mut built_in: Vec<String> =
        arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    let remark = if built_in.is_empty() && !options::is_flag(arg) { "not set" } else { "built in" };
    if built_in.is_empty() && !options::is_list(arg) {
        built_in.push(if options::is_flag(arg) { "false".to_owned() } else { String::new() });
    }
    let text = format!("# {name} = {}", value(arg, &built_in));
    writeln!(to, "{text:REMARK$}  # {remark}; {}", key.variable())
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
