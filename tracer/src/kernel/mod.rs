//! What the running kernel is and can do: types, symbols, era, namespaces, and whether it can be traced at all.

pub mod btf;
pub mod ctnetlink;
pub mod era;
pub(crate) mod fuzzing;
pub mod health;
mod iptables;
pub mod layout;
pub mod netns;
mod nfnetlink;
mod nftables;
pub mod preflight;
pub mod privileges;
mod surroundings;
pub mod symbols;
mod table;

use std::fs;
use std::io;
use std::time::Instant;

/// Where the number of this boot is read.
pub const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The number of this boot.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string(BOOT_ID)?.trim().to_owned())
}

/// The host's name.
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Does a step of the start and tells how long it took, for `--log debug` and `cargo xtask bench start`.
pub fn timed<T>(step: &str, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = work();
    tracing::debug!("start: {step} {:.3} ms", started.elapsed().as_secs_f64() * 1e3);
    result
}
