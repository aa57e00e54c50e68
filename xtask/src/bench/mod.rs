//! `cargo xtask bench`: measures the costs of whyrst. Every bench prints rows, as a table or as JSON.

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

use crate::process::{execute, target, this_program};

/// Each bench in its smallest form. It proves that the bench works; its figures mean nothing.
///
/// It runs the programs that are built for guests anyway, and needs no third-party tool.
const SMALLEST: [&[&str]; 5] = [
    &["gateway", "--rounds=1", "--bytes=1000000", "--connections=20", "--tool=whyrst,whyrst-all-options"],
    &["flood", "--segments=1000", "--flows=100"],
    &["start", "--times=2"],
    &["verifier", "--kernel=5.10"],
    &["replay", "--events=20000", "--flows=2000", "--rounds=1", "--guest-build", "--without-tshark"],
];

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Send floods: compare whyrst's counts with the kernel's, look for every victim, measure the cost
    Flood(flood::Arguments),
    /// Compare the costs of whyrst and other tools on a gateway without incidents
    Gateway(gateway::Arguments),
    /// Time the steps between the start and the first hook
    Start(start::Arguments),
    /// Measure time and memory of reading recordings: whyrst, and tshark with the same packets
    Replay(replay::Arguments),
    /// Count the verifier's instructions for each program, on every kernel
    Verifier(verifier::Arguments),
    /// Run every bench in its smallest form, to prove that it works; the figures mean nothing
    Smoke,
}

/// Names the file that the rows go to.
const ROWS: &str = "WHYRST_BENCH_ROWS";

/// Runs a bench. Standard output has its rows alone; the output of builds and setup goes to standard error.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    if matches!(bench, Bench::Smoke) {
        return smoke();
    }
    if env::var_os(ROWS).is_none() {
        return apart();
    }
    match bench {
        Bench::Smoke => smoke(),
        Bench::Flood(arguments) => flood::run(arguments),
        Bench::Gateway(arguments) => gateway::run(arguments),
        Bench::Start(arguments) => start::run(arguments),
        Bench::Replay(arguments) => replay::run(arguments),
        Bench::Verifier(arguments) => verifier::run(arguments),
    }
}

/// Runs every bench in its smallest form; the first that fails ends it.
pub(crate) fn smoke() -> Result<()> {
    for words in SMALLEST {
        println!("bench: {}", words.join(" "));
        execute(process::Command::new(this_program()).arg("bench").args(words))?;
    }
    Ok(())
}

/// Runs this program again with another standard output, and prints the rows when it has ended.
fn apart() -> Result<()> {
    let directory = target().join("bench");
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    let rows = directory.join(format!("rows-{}", process::id()));
    let mut again = process::Command::new(this_program());
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
    use std::collections::BTreeSet;
    use std::fs;

    use clap::{Parser, Subcommand as _};
    use serde_json::json;

    use super::{Bench, SMALLEST, table};
    use crate::process::workspace;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        _bench: Bench,
    }

    /// What follows `cargo xtask bench` in a page, up to the comment behind it.
    fn documented(page: &str) -> Vec<Vec<String>> {
        let text = fs::read_to_string(workspace().join(page)).unwrap();
        let lines = text.lines().filter_map(|line| line.strip_prefix("cargo xtask bench "));
        lines.map(|line| line.split(" #").next().unwrap().split_whitespace().map(str::to_owned).collect()).collect()
    }

    /// CI runs every bench that the page documents, and every documented command line is valid.
    #[test]
    fn every_bench_is_documented_and_has_a_smallest_form() {
        let documented = documented("docs/performance.md");
        let smallest = SMALLEST.map(|words| words.iter().map(|word| (*word).to_owned()).collect());
        for words in documented.iter().chain(&smallest) {
            let parsed = Line::try_parse_from(["bench"].map(str::to_owned).iter().chain(words));
            assert!(parsed.is_ok(), "cargo xtask bench {}: {}", words.join(" "), parsed.err().unwrap());
        }
        let names = |lines: &[Vec<String>]| lines.iter().map(|words| words[0].clone()).collect::<BTreeSet<_>>();
        let benches = Bench::augment_subcommands(clap::Command::new("bench"));
        let all: BTreeSet<String> = benches.get_subcommands().map(|bench| bench.get_name().to_owned()).collect();
        assert_eq!(names(&documented), all, "docs/performance.md");
        let alone = all.into_iter().filter(|name| name != "smoke").collect();
        assert_eq!(names(&smallest), alone, "SMALLEST");
    }

    #[test]
    fn rows_become_a_table() {
        let rows = [json!({ "name": "a", "ms": 1.5 }), json!({ "name": "b", "error": "not there" })];
        let expected = "| name | ms | error |\n| --- | --- | --- |\n| a | 1.5 |  |\n| b |  | not there |";
        assert_eq!(table(&rows), expected);
    }
}
