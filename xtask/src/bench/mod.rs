//! `cargo xtask bench`: what whyrst costs, measured. Every bench gives rows, as a table or as JSON.

mod flood;
mod gateway;
mod guest;
mod replay;
mod start;
mod verifier;

use std::path::PathBuf;
use std::{env, fs, io, process};

use anyhow::{Context as _, Result};
use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::process::{execute, target};

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Try whyrst with floods: are its counts the kernel's, is every victim named, and what does it take
    Flood(flood::Arguments),
    /// Compare what whyrst and other tools cost a gateway whose traffic is in order
    Gateway(gateway::Arguments),
    /// Time what happens between the start and the first hook, step by step
    Start(start::Arguments),
    /// Time what reads recordings, and take its memory: whyrst, and tshark on the same evidence
    Replay(replay::Arguments),
    /// Count what the verifier takes for each program, on every kernel
    Verifier(verifier::Arguments),
}

/// Names the file that the rows go to.
const ROWS: &str = "WHYRST_BENCH_ROWS";

/// Runs a bench. Standard output is for its rows alone; what building and setting up print, goes to standard error.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    if env::var_os(ROWS).is_none() {
        return apart();
    }
    match bench {
        Bench::Flood(arguments) => flood::run(arguments),
        Bench::Gateway(arguments) => gateway::run(arguments),
        Bench::Start(arguments) => start::run(arguments),
        Bench::Replay(arguments) => replay::run(arguments),
        Bench::Verifier(arguments) => verifier::run(arguments),
    }
}

/// Runs this program again with another standard output, and prints the rows when it has ended.
fn apart() -> Result<()> {
    let directory = target().join("bench");
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    let rows = directory.join(format!("rows-{}", process::id()));
    let mut again = process::Command::new(env::current_exe().context("finding this program")?);
    let ended = execute(again.args(env::args_os().skip(1)).env(ROWS, &rows).stdout(io::stderr()));
    // A bench that fails for what its rows say has written them.
    if ended.is_ok() || rows.exists() {
        let text = fs::read_to_string(&rows).with_context(|| format!("reading {}", rows.display()))?;
        fs::remove_file(&rows).with_context(|| format!("removing {}", rows.display()))?;
        print!("{text}");
    }
    ended
}

/// How rows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table
    Text,
    /// One JSON document with the member `rows`
    Json,
}

/// Prints rows: JSON objects, whose members are the columns.
pub(crate) fn print(rows: &[Value], format: Format) -> Result<()> {
    print_with(&json!({}), rows, format, || table(rows))
}

/// The same with what holds for all rows, and a text of one's own.
fn print_with(head: &Value, rows: &[Value], format: Format, text: impl FnOnce() -> String) -> Result<()> {
    let text = match format {
        Format::Text => text(),
        Format::Json => {
            let mut document = json!({ "rows": rows });
            for (member, value) in head.as_object().into_iter().flatten() {
                document[member] = value.clone();
            }
            serde_json::to_string_pretty(&document).context("writing JSON")?
        }
    };
    let path = env::var_os(ROWS).with_context(|| format!("{ROWS} is not set"))?;
    fs::write(&path, text + "\n").with_context(|| format!("writing {}", PathBuf::from(path).display()))
}

/// Rows as a table in Markdown.
pub(crate) fn table(rows: &[Value]) -> String {
    let mut columns: Vec<&String> = Vec::new();
    for column in rows.iter().filter_map(Value::as_object).flat_map(serde_json::Map::keys) {
        if !columns.contains(&column) {
            columns.push(column);
        }
    }
    let cell = |row: &Value, column: &str| match &row[column] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = line(columns.iter().map(ToString::to_string).collect());
    text += &line(columns.iter().map(|_| "---".to_owned()).collect());
    for row in rows {
        text += &line(columns.iter().map(|column| cell(row, column)).collect());
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::table;
    use serde_json::json;

    #[test]
    fn rows_become_a_table() {
        let rows = [json!({ "name": "a", "ms": 1.5 }), json!({ "name": "b", "error": "not there" })];
        let expected = "| name | ms | error |\n| --- | --- | --- |\n| a | 1.5 |  |\n| b |  | not there |";
        assert_eq!(table(&rows), expected);
    }
}
