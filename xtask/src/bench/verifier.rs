//! `cargo xtask bench verifier`: the verifier's instructions for each program, on every kernel. It writes the table that the
//! scenario `verifier` compares with.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use whyrst_tests::scenarios::programs::{FOUND, Program, Programs, key, table};

use super::{Format, print};
use crate::kernels::{self, Kernel};
use crate::process::{target, workspace};
use crate::vm::Payload;
use crate::{dist, matrix, setup};

/// The scenario that loads all programs.
pub(super) const SCENARIO: &str = "verifier";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Kernels, as `cargo xtask vm` names them
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "all")]
    kernel: Vec<String>,
    /// Format of the rows
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Write the results to tests/verifier.json and docs/verifier.md
    #[arg(long)]
    bless: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::run()?;
    let payload = dist::payload("vm")?;
    let mut all = BTreeMap::new();
    let mut rows = Vec::new();
    for spec in kernels::select(&arguments.kernel)? {
        let kernel = spec.fetch(false)?;
        let artifacts = guest(&kernel, &payload, 1)?;
        let text = fs::read(artifacts.join(FOUND)).context("what the guest found")?;
        let found: Programs = serde_json::from_slice(&text).context("what the guest found")?;
        ensure!(!found.is_empty(), "no program was loaded on {}", kernel.release);
        rows.extend(found.iter().map(|(name, program)| {
            json!({
                "kernel": kernel.release, "program": name, "verified_instructions": program.verified,
                "translated_bytes": program.translated, "jited_bytes": program.jited,
            })
        }));
        all.insert(key(&kernel.release, spec.log_format), found);
    }
    if arguments.bless {
        bless(all)?;
    }
    print(&rows, arguments.format)
}

/// Boots a guest that runs the scenario, and gives what it left. Whether programs have grown is not asked here.
pub(super) fn guest(kernel: &Kernel, payload: &Payload, times: u64) -> Result<PathBuf> {
    let directory = target().join("bench").join(kernel.spec.name);
    let names: Vec<String> = (0..times).map(|_| SCENARIO.to_owned()).collect();
    Ok(matrix::boot(kernel, &names, payload, &directory, |_, _| {})?.join(SCENARIO))
}

/// Writes the table and its page; kernels that were not run stay as they are.
fn bless(found: BTreeMap<String, Programs>) -> Result<()> {
    let mut kernels = table()?;
    kernels.extend(found);
    write(&workspace().join("tests/verifier.json"), &(serde_json::to_string_pretty(&kernels)? + "\n"))?;
    write(&workspace().join("docs/verifier.md"), &page(&kernels))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

const PAGE: &str = "\
# What the verifier takes for each program

`cargo xtask bench verifier --bless` writes this page and `tests/verifier.json`. The columns are kernels with their conntrack
log format. The scenario `verifier` fails if a program costs the verifier over a tenth more than here, or is a tenth larger;
on a kernel that is not here, over twice as much as on any. A kernel lets the verifier process a million instructions, over all
paths. Kernels before 5.16 do not report the number; there the bench reads it from the verifier's own structure
(`bpf_verifier_env.insn_processed`) after the check of a program.
";

/// A number of a program.
type Column = fn(&Program) -> Option<u64>;

/// docs/verifier.md.
fn page(kernels: &BTreeMap<String, Programs>) -> String {
    let programs: BTreeSet<&String> = kernels.values().flat_map(BTreeMap::keys).collect();
    let sections: [(&str, Column); 3] = [
        ("Instructions verified", |program| program.verified),
        ("Bytes as the kernel keeps them", |program| Some(program.translated)),
        ("Bytes of machine code", |program| Some(program.jited)),
    ];
    let mut text = PAGE.to_owned();
    for (title, value) in sections {
        let rows: Vec<Value> = programs
            .iter()
            .map(|name| {
                let mut row = json!({ "program": name });
                for (kernel, programs) in kernels {
                    row[kernel] = programs.get(*name).map_or(Value::from("–"), |program| value(program).into());
                }
                row
            })
            .collect();
        text.extend(["\n## ", title, "\n\n", &super::table(&rows), "\n"]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{page, table, workspace};

    #[test]
    fn the_page_shows_the_table() {
        let page = page(&table().unwrap());
        let written = std::fs::read_to_string(workspace().join("docs/verifier.md")).unwrap();
        assert!(page == written, "docs/verifier.md: run cargo xtask bench verifier --bless");
    }
}
