//! The fuzz targets of `fuzz/` without a fuzzer: over the inputs that are kept in `fuzz/corpus`, and over what fuzzing starts
//! from, which is made of the golden recordings.
//!
//! `cargo xtask fuzz` has the latter written into the directory that `WHYRST_FUZZ_SEEDS` names.

#[path = "../../fuzz/src/checks.rs"]
mod checks;
#[path = "../../fuzz/src/checksums.rs"]
mod checksums;
#[path = "../../fuzz/src/config.rs"]
mod config;
#[path = "../../fuzz/src/correlate.rs"]
mod correlate;
#[path = "../../fuzz/src/joined.rs"]
mod joined;
#[path = "../../fuzz/src/kernel_log.rs"]
mod kernel_log;
#[path = "../../fuzz/src/netlink.rs"]
mod netlink;
#[path = "../../fuzz/src/outputs.rs"]
mod outputs;
#[path = "../../fuzz/src/record.rs"]
mod record;
#[path = "../../fuzz/src/recording.rs"]
mod recording;
#[path = "../../fuzz/src/script.rs"]
mod script;
#[path = "../../fuzz/src/seed.rs"]
mod seed;
#[path = "../../fuzz/src/text.rs"]
mod text;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use tracer_model::capture::Item;
use tracer_model::decode::trimmed;
use tracer_recording::Reader;

/// Takes any bytes, and panics where something does not hold.
type Target = fn(&[u8]);

/// The targets by name, which is also that of the directory of their inputs.
const TARGETS: [(&str, Target); 8] = [
    ("recording", recording::recording),
    ("joined", joined::joined),
    ("record", record::record),
    ("kernel_log", kernel_log::kernel_log),
    ("correlate", correlate::correlate),
    ("config", config::config),
    ("netlink", netlink::netlink),
    ("text", text::text),
];

/// Recordings that differ in what they hold.
const GOLDEN: [&str; 14] = [
    "5.10/late-retransmission",
    "5.10/table-drops",
    "6.1-e3/reject-two-rules",
    "6.1-e3/ipv6-seq-over",
    "6.1-e3/mitigate-untrack-legacy",
    "7/mitigate-nft",
    "7/entry-flushed",
    "7/hairpin",
    "7/new-refused",
    "7/overshot-then-data",
    "7/reject-forward-legacy",
    "7/tap-client-aborts",
    "7/without-kprobes",
    "7/twin-gateways-both",
];

/// Lines of a kernel log, TOML, words of a command line, tables of iptables: what text targets start from.
const TEXTS: [(&str, &str); 16] = [
    ("kernel_log", include_str!("fuzzed/kernel.log")),
    (
        "config",
        "\0color = \"never\"\n[report]\nduration = \"60s\"\ncause = [\"out-of-window\"]\n[doctor]\nall-netns = true\n",
    ),
    ("config", "\u{1}REPORT_DURATION=60s\0REPORT_CAUSE=out-of-window,no-entry\0QUIET=yes\0COLOR=never"),
    ("config", "\u{2}report\0--from\0x\0--netns\0gw\0--client\u{0}10.0.0.0/8\0--port\u{0}443\0--cause\0seq-under"),
    ("config", "\u{2}record\0-o\0x.zst\0--rotate\u{0}10M\0--keep\u{0}3\0--rotate-every\u{0}1h"),
    ("config", "\u{3}gw-1; it's \"$HOME\""),
    ("text", "\0ffffffff81000000 T nf_conntrack_in\t[nf_conntrack]\nffffffff81000100 t nf_ct_delete\n0 t x\n"),
    ("text", include_str!("fuzzed/iptables-save")),
    ("text", include_str!("fuzzed/ip6tables-save")),
    (
        "text",
        "\u{3}entries  searched found new invalid insert_failed drop early_drop icmp_error\n00000001 00000002 0 0 1f 0 0 0 0\n",
    ),
    // nfnetlink, written out by hand: a header, a family, attributes.
    ("netlink", "\u{1}\u{1c}\0\0\0\0\u{1}\u{2}\0\0\0\0\0\0\0\0\0\u{2}\0\0\0\u{8}\0\u{3}\0\0\0\0\u{e}"),
    (
        "netlink",
        "\u{2}\u{20}\0\0\0\u{7}\u{a}\u{2}\0\0\0\0\0\0\0\0\0\u{2}\0\0\0\u{6}\0\u{1}\0f\0\0\0\u{6}\0\u{2}\0c\0\0\0",
    ),
    (
        "netlink",
        "\u{3}\u{20}\0\0\0\u{4}\u{a}\u{2}\0\0\0\0\0\0\0\0\0\u{2}\0\0\0\u{6}\0\u{1}\0f\0\0\0\u{6}\0\u{3}\0c\0\0\0",
    ),
    ("netlink", "\0\u{24}\0\0\0\u{2}\0\0\0\0\0\0\0\0\0\0\0\u{7f}\u{7f}\u{7f}\u{7f}\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
    ("record", ""),
    ("correlate", "\u{2}\0"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn target(name: &str) -> Target {
    TARGETS.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no target {name}")).1
}

/// Runs a target over an input; says which input it was that failed.
fn run(name: &str, what: &str, input: &[u8]) {
    let outcome = catch_unwind(AssertUnwindSafe(|| target(name)(input)));
    if let Err(panic) = outcome {
        eprintln!("target {name} has failed on {what}");
        resume_unwind(panic);
    }
}

/// What fuzzing starts from.
fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for golden in GOLDEN {
        let path = root().join("tests/golden").join(format!("{golden}.whyrst"));
        let name = golden.replace('/', "-");
        let open = || Reader::open(&path).unwrap();
        let bytes = fs::read(&path).unwrap();
        // As it is, mended and compressed and cut.
        for how in [0, 7] {
            seeds.push(("recording", format!("{name}-{how}"), [&[how, 0x34, 0x02][..], &bytes].concat()));
        }
        seeds.push(("correlate", name.clone(), seed::script(&mut open()).unwrap()));
        let mut reader = open();
        while let Some(item) = reader.read().unwrap() {
            if let Item::Record(raw) = item {
                seeds.push(("record", name.clone(), trimmed(&raw).to_vec()));
                break;
            }
        }
    }
    for pair in GOLDEN.windows(2) {
        let both: Vec<Vec<u8>> =
            pair.iter().map(|name| fs::read(root().join(format!("tests/golden/{name}.whyrst"))).unwrap()).collect();
        seeds.push(("joined", pair[0].replace('/', "-"), [&[5][..], &both.concat()].concat()));
    }
    let texts = TEXTS.iter().enumerate();
    seeds.extend(texts.map(|(number, (target, text))| (*target, format!("text-{number}"), text.as_bytes().to_vec())));
    seeds
}

#[test]
fn what_fuzzing_starts_from() {
    let directory = std::env::var_os("WHYRST_FUZZ_SEEDS").map(PathBuf::from);
    for (name, what, input) in seeds() {
        if let Some(directory) = &directory {
            let of_target = directory.join(name);
            fs::create_dir_all(&of_target).unwrap();
            fs::write(of_target.join(&what), &input).unwrap();
        } else {
            run(name, &what, &input);
        }
    }
}

#[test]
fn inputs_that_were_found() {
    let corpus = root().join("fuzz/corpus");
    let mut size = 0;
    for (name, _) in TARGETS {
        let mut files: Vec<PathBuf> =
            fs::read_dir(corpus.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "no inputs of {name}");
        for file in files {
            let input = fs::read(&file).unwrap();
            assert!(input.len() < 10_000, "{} is too large to be kept", file.display());
            size += input.len();
            run(name, &file.display().to_string(), &input);
        }
    }
    assert!(size < 300_000, "{size} bytes of inputs: minimise them");
}
