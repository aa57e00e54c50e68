//! The architectures that guests can have, and what each is called by whom.

use std::path::PathBuf;

/// An architecture of a guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Arch {
    /// x86-64
    #[default]
    Amd64,
    /// 64-bit ARM
    Arm64,
}

impl Arch {
    /// In Debian's words.
    pub(crate) const fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The target of the static binaries. Naming it keeps build scripts and macros out of the static linking.
    pub(crate) const fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// The machine's first serial port, as the kernel calls it.
    pub(crate) const fn console(self) -> &'static str {
        match self {
            Self::Amd64 => "ttyS0",
            Self::Arm64 => "ttyAMA0",
        }
    }

    /// A directory's place for what is of this architecture.
    pub(crate) fn below(self, directory: PathBuf) -> PathBuf {
        match self {
            Self::Amd64 => directory,
            Self::Arm64 => directory.join("arm64"),
        }
    }
}
