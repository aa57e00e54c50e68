//! The BPF programs build for arm64 as well: what they read from registers there is compiled. What runs is up to
//! `cargo xtask vm --arch arm64`.

use std::fs;
use std::path::Path;

use bpf_toolchain::Toolchain;

/// `e_machine` of an ELF file for BPF.
const EM_BPF: u16 = 247;

#[test]
fn the_programs_build_for_arm64() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let root = root.canonicalize().unwrap();
    let toolchain = Toolchain::find().unwrap();
    let object = toolchain.build(&root, "tracer-ebpf", "aarch64", &root.join("target/bpf/aarch64")).unwrap();
    let object = fs::read(object).unwrap();
    assert_eq!(object[18..20], EM_BPF.to_le_bytes());
}
