//! The invariants of ARCHITECTURE.md that can be read off the source.

use std::fs;
use std::path::{Path, PathBuf};

/// A word that may be in no file of `below` but those that are excepted.
struct Rule {
    because: &'static str,
    below: &'static [&'static str],
    words: &'static [&'static str],
    except: &'static [&'static str],
}

const PURE: &[&str] = &[
    "tracer/src/causality",
    "tracer/src/conntrack",
    "tracer/src/diagnosis",
    "tracer/src/health",
    "tracer/src/decode.rs",
    "tracer/src/event.rs",
    "tracer/src/evidence.rs",
    "tracer/src/compare",
    "tracer/src/packet.rs",
    "tracer/src/redact",
    "tracer/src/ruleset",
    "tracer/src/census.rs",
    "tracer/src/surroundings.rs",
];

const RULES: &[Rule] = &[
    Rule {
        because: "the pure parts read no clock, file or socket",
        below: PURE,
        words: &["std::fs", "std::time::Instant", "SystemTime", "std::io", "tokio", "rustix", "thread::"],
        except: &[],
    },
    Rule {
        because: "the pure parts do not depend on what they are rendered as, or where they come from",
        below: PURE,
        words: &["crate::render", "crate::source", "crate::cli", "Serialize"],
        except: &[],
    },
    Rule {
        because: "only the live source and the preflight check know aya",
        below: &["tracer/src"],
        words: &["aya::", "aya_log::"],
        except: &[
            "tracer/src/source/live.rs",
            "tracer/src/source/gone_maps.rs",
            "tracer/src/source/held_back.rs",
            "tracer/src/source/mapped.rs",
            "tracer/src/source/ring.rs",
            "tracer/src/source/tap.rs",
            "tracer/src/kernel/preflight.rs",
        ],
    },
    Rule {
        because: "formats are known to the renderers and to the recording alone",
        below: &["tracer/src"],
        words: &["Serialize", "serde_json"],
        except: &[
            "tracer/src/render/json/doctor.rs",
            "tracer/src/render/json/mitigate.rs",
            "tracer/src/render/json/mod.rs",
            "tracer/src/render/json/compare.rs",
            "tracer/src/render/json/export.rs",
            "tracer/src/render/json/writing.rs",
            "tracer/src/render/json/types.rs",
            "tracer/src/fuzzing/outputs.rs",
            "tracer/src/source/format.rs",
            "tracer/src/source/format/journal.rs",
            "tracer/src/source/format/rules.rs",
            "tracer/src/source/format/surroundings.rs",
        ],
    },
    Rule {
        because: "unsafe code is in tracer-ebpf, and where an array of the kernel is mapped",
        below: &["tracer", "tracer-common", "tests", "fuzz/fuzz_targets", "xtask/src", "xtask/toolchain"],
        words: &["unsafe {", "unsafe fn", "unsafe impl"],
        except: &["tracer/src/source/mapped.rs"],
    },
    Rule {
        because: "nothing waits for a fixed time where an event can be awaited",
        below: &["tracer/src", "tests/src/scenarios"],
        words: &["thread::sleep"],
        except: &[],
    },
];

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
