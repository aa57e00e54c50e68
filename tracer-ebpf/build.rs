//! Passes the target architecture to the compiler: it selects the `pt_regs` that the programs read.
//!
//! The build of the object sets `--cfg bpf_target_arch`; a check on the host takes the architecture of the host.

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
