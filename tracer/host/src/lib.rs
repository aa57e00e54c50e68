//! What the running kernel is and does, and the only crate that asks or changes it: types and symbols, namespaces, netlink,
//! rulesets, live captures, and mitigations that are applied. What an answer means is decided in the crates above.
#![deny(unsafe_code)]

pub mod attach;
pub mod btf;
pub mod ctnetlink;
pub mod doctor;
mod host_context;
pub mod iptables;
pub mod layout;
mod links;
pub mod live;
pub mod mitigate;
pub mod netns;
pub mod nfnetlink;
pub mod nftables;
pub mod preflight;
pub mod privileges;
mod ruleset;
pub mod scratch;
pub mod symbols;
pub mod version;
mod worker;

use std::time::{Duration, Instant};
use std::{fs, io};

use rustix::time::{ClockId, clock_gettime};

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

/// The reading of `CLOCK_BOOTTIME`, in which events and answers are timed.
pub fn now() -> tracer_model::time::Instant {
    let time = clock_gettime(ClockId::Boottime);
    let nanos = i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
    tracer_model::time::Instant(u64::try_from(nanos).unwrap_or(0))
}

/// Reads every rule of the calling thread's network namespace that IPv4 and IPv6 packets can meet: nftables, and legacy iptables.
pub fn whole_ruleset(deadline: Instant) -> tracer_model::ruleset::tables::Ruleset {
    ruleset::whole(deadline).0
}

/// Does a step of the start and logs how long it took, also in processor time of this thread, for `--log debug` and
/// `cargo xtask bench start`.
pub fn timed<T>(step: &str, work: impl FnOnce() -> T) -> T {
    let spent = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default();
    let (started, before) = (Instant::now(), spent());
    let result = work();
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
    let (all, own) = (milliseconds(started.elapsed()), milliseconds(spent().saturating_sub(before)));
    tracing::debug!("start: {step}: {all:.3} ms, {own:.3} ms of the processor");
    result
}
