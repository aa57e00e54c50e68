//! The text of `--version`: which sources, which BPF object, which compilers. All of it is known when the program is built.

/// SHA-256 of the embedded BPF object, in hexadecimal.
pub const BPF_SHA256: &str = env!("WHYRST_BPF_SHA256");

/// One line. `unknown` stands for the commit in development builds, which do not look for it.
pub const SHORT: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("WHYRST_COMMIT_SHORT"),
    ", bpf sha256:",
    env!("WHYRST_BPF_SHORT"),
    ")"
);

/// The line, and what it abbreviates.
pub const LONG: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("WHYRST_COMMIT_SHORT"),
    ", bpf sha256:",
    env!("WHYRST_BPF_SHORT"),
    ")\ncommit        ",
    env!("WHYRST_COMMIT"),
    "\ntarget        ",
    env!("WHYRST_BUILD_TARGET"),
    "\ncompiler      ",
    env!("WHYRST_BUILD_RUSTC"),
    "\nBPF object    sha256:",
    env!("WHYRST_BPF_SHA256"),
    "\nBPF compiler  ",
    env!("WHYRST_BPF_COMPILER")
);

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::{BPF_SHA256, LONG, SHORT};

    /// The hash that is printed is that of the object that is loaded.
    #[test]
    fn the_hash_is_that_of_the_embedded_object() {
        let digest = Sha256::digest(include_bytes!(env!("WHYRST_BPF_OBJECT")));
        let digest: Vec<String> = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let digest = digest.concat();
        assert_eq!(digest, BPF_SHA256);
        assert!(SHORT.contains(&digest[..12]), "{SHORT}");
        assert!(LONG.starts_with(SHORT) && LONG.contains(&digest), "{LONG}");
    }
}
