//! Tells the compiler which architecture's `pt_regs` the programs will be handed.
//!
//! The build of the object says it by `--cfg bpf_target_arch`; a check on the host means the host's own.

use std::env;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(bpf_target_arch, values(\"x86_64\", \"aarch64\"))");
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_CFG_BPF_TARGET_ARCH").is_none() {
        let host = env::var("HOST").unwrap_or_default();
        let arch = host.split('-').next().unwrap_or("x86_64");
        println!("cargo::rustc-cfg=bpf_target_arch=\"{arch}\"");
    }
}
