//! The invariants of ARCHITECTURE.md that Cargo and the compiler do not keep by themselves.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A word that may be in no file of `below` but those that are excepted.
struct Rule {
    because: &'static str,
    below: &'static [&'static str],
    words: &'static [&'static str],
    except: &'static [&'static str],
}

const PURE: &[&str] = &["tracer/model/src", "tracer/walk/src", "tracer/engine/src", "tracer/advice/src"];

const RULES: &[Rule] = &[
    Rule {
        because: "the pure crates read no clock, file or socket",
        below: PURE,
        words: &["std::fs", "std::time::Instant", "SystemTime", "std::net::TcpStream", "thread::"],
        except: &[],
    },
    Rule {
        because: "only the live source and the preflight check know aya",
        below: &["tracer/host/src"],
        words: &["aya::", "aya_log::"],
        except: &[
            "tracer/host/src/live.rs",
            "tracer/host/src/live/destroyed_maps.rs",
            "tracer/host/src/live/suppressed.rs",
            "tracer/host/src/live/mapped.rs",
            "tracer/host/src/live/ring.rs",
            "tracer/host/src/live/tap.rs",
            "tracer/host/src/preflight.rs",
        ],
    },
    Rule {
        because: "unsafe code is in tracer-ebpf, and where an array of the kernel is mapped",
        below: &["tracer", "tracer-common", "tests", "fuzz/fuzz_targets", "fuzz/src", "xtask/src", "xtask/toolchain"],
        words: &["unsafe {", "unsafe fn", "unsafe impl"],
        except: &["tracer/host/src/live/mapped.rs"],
    },
    Rule {
        because: "nothing waits for a fixed time where an event can be awaited",
        below: &["tracer", "tests/src/scenarios"],
        words: &["thread::sleep"],
        except: &[],
    },
];

/// The layers: each crate, and the crates of this workspace that it may use.
const LAYERS: &[(&str, &[&str])] = &[
    ("tracer-model", &["tracer-common"]),
    ("tracer-recording", &["tracer-common", "tracer-model"]),
    ("tracer-walk", &["tracer-model"]),
    ("tracer-engine", &["tracer-common", "tracer-model"]),
    ("tracer-advice", &["tracer-common", "tracer-model", "tracer-walk", "tracer-engine"]),
    ("tracer-render", &["tracer-common", "tracer-model", "tracer-walk", "tracer-engine", "tracer-advice"]),
    ("tracer-host", &["tracer-common", "tracer-model"]),
];

/// What no pure crate and no renderer may bring in, directly or by another crate.
const HEAVY: [&str; 3] = ["aya", "clap", "tokio"];

#[test]
fn layers_use_only_what_is_below_them() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let metadata = cargo_metadata::MetadataCommand::new().manifest_path(manifest).exec().expect("cargo metadata");
    let local: Vec<&str> = metadata.workspace_packages().iter().map(|package| package.name.as_str()).collect();
    let mut wrong = Vec::new();
    for (layer, may_use) in LAYERS {
        let package = metadata.workspace_packages().into_iter().find(|package| package.name == *layer);
        let package = package.unwrap_or_else(|| panic!("{layer} is no crate of this workspace"));
        let normal = package.dependencies.iter().filter(|used| used.kind == cargo_metadata::DependencyKind::Normal);
        wrong.extend(
            normal
                .filter(|used| local.contains(&used.name.as_str()) && !may_use.contains(&used.name.as_str()))
                .map(|used| format!("{layer} uses {}", used.name)),
        );
        if *layer != "tracer-host" {
            wrong.extend(
                HEAVY.iter().filter(|heavy| brings_in(&metadata, &package.id, heavy)).map(|heavy| {
                    format!("{layer} brings in {heavy}: see `cargo tree --package {layer} --edges normal`")
                }),
            );
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether a package is among what another is built with, tests and build scripts apart.
fn brings_in(metadata: &cargo_metadata::Metadata, from: &cargo_metadata::PackageId, name: &str) -> bool {
    let nodes = &metadata.resolve.as_ref().expect("a resolved graph").nodes;
    let (mut seen, mut waiting) = (vec![from.clone()], vec![from.clone()]);
    while let Some(id) = waiting.pop() {
        if metadata[&id].name == name {
            return true;
        }
        let node = nodes.iter().find(|node| node.id == id).expect("every package has a node");
        for used in &node.deps {
            let normal = used.dep_kinds.iter().any(|kind| kind.kind == cargo_metadata::DependencyKind::Normal);
            if normal && !seen.contains(&used.pkg) {
                seen.push(used.pkg.clone());
                waiting.push(used.pkg.clone());
            }
        }
    }
    false
}

#[test]
fn rules_of_the_architecture() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut broken = Vec::new();
    for rule in RULES {
        let mut files = Vec::new();
        for below in rule.below {
            sources(&root.join(below), &mut files);
        }
        assert!(!files.is_empty(), "no files below {:?}: the rule has lost its object", rule.below);
        for exception in rule.except {
            assert!(root.join(exception).exists(), "{exception} is excepted, but does not exist");
        }
        for file in files {
            let name = file.strip_prefix(&root).unwrap_or(&file).display().to_string();
            if rule.except.contains(&name.as_str()) {
                continue;
            }
            let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
            // Tests inside a module may do what they need.
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            for (number, line) in code.lines().enumerate() {
                if line.trim_start().starts_with("//") {
                    continue;
                }
                for word in rule.words.iter().filter(|word| line.contains(**word)) {
                    broken.push(format!("{name}:{}: `{word}`, but {}", number + 1, rule.because));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// The manifest of the fuzz targets names the crates that they use, and no others. No tier compiles it; `whyrst-tests` compiles
/// the same modules, so that its own manifest has every candidate.
#[test]
fn fuzz_targets_declare_what_they_use() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let declared = dependencies(&root.join("fuzz/Cargo.toml"));
    let mut files = Vec::new();
    sources(&root.join("fuzz/src"), &mut files);
    sources(&root.join("fuzz/fuzz_targets"), &mut files);
    let texts: Vec<String> = files.iter().map(|file| fs::read_to_string(file).expect("a source file")).collect();
    let candidates = declared.union(&dependencies(&root.join("tests/Cargo.toml"))).cloned().collect::<BTreeSet<_>>();
    let used = candidates.into_iter().filter(|name| texts.iter().any(|text| uses(text, name)));
    assert_eq!(used.collect::<BTreeSet<_>>(), declared, "fuzz/Cargo.toml");
}

/// A fuzz target includes the modules that its own modules use, and no others: what it does not include is not linked.
#[test]
fn fuzz_targets_include_what_they_fuzz() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let mut targets = Vec::new();
    sources(&root.join("fuzz_targets"), &mut targets);
    assert!(!targets.is_empty());
    for target in targets {
        let text = fs::read_to_string(&target).expect("a target");
        let included: BTreeSet<&str> =
            text.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';')).collect();
        let module = |name: &str| fs::read_to_string(root.join("src").join(name).with_extension("rs"));
        let mut reached = BTreeSet::new();
        let mut waiting: Vec<&str> = included.iter().copied().filter(|name| uses(&text, name)).collect();
        while let Some(name) = waiting.pop() {
            if reached.insert(name) {
                let code = module(name).unwrap_or_else(|error| panic!("{name}: {error}"));
                let named =
                    |other: &&&str| [";", "::"].iter().any(|end| code.contains(&format!("crate::{other}{end}")));
                waiting.extend(included.iter().filter(named));
            }
        }
        assert_eq!(reached, included, "{}", target.display());
    }
}

/// The crates that a manifest depends on, as code names them.
fn dependencies(manifest: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(manifest).expect("a manifest");
    let manifest: toml::Table = text.parse().expect("TOML");
    let tables = ["dependencies", "dev-dependencies"].into_iter().filter_map(|name| manifest.get(name)?.as_table());
    tables.flat_map(|table| table.keys().map(|name| name.replace('-', "_"))).collect()
}

/// Whether code has a path that begins with this name.
fn uses(code: &str, name: &str) -> bool {
    code.match_indices(&format!("{name}::"))
        .any(|(at, _)| !code[..at].ends_with(|before: char| before.is_alphanumeric() || matches!(before, '_' | ':')))
}

fn sources(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_file() {
        files.push(path.to_path_buf());
        return;
    }
    let entries = fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    for entry in entries {
        let path = entry.expect("a directory entry").path();
        if path.is_dir() {
            sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
