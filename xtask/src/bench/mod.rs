//! `cargo xtask bench`: what whyrst costs, measured. Every bench gives rows, as a table or as JSON.

mod start;
mod verifier;

use anyhow::{Context as _, Result};
use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Time what happens between the start and the first hook, step by step
    Start(start::Arguments),
    /// Count what the verifier takes for each program, on every kernel
    Verifier(verifier::Arguments),
}

pub(crate) fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Start(arguments) => start::run(arguments),
        Bench::Verifier(arguments) => verifier::run(arguments),
    }
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
    let text = match format {
        Format::Text => table(rows),
        Format::Json => serde_json::to_string_pretty(&json!({ "rows": rows })).context("writing JSON")?,
    };
    println!("{text}");
    Ok(())
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
