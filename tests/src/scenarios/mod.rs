//! The incidents, by name.
//!
//! A scenario builds its network, starts whyrst, causes an incident on the wire, and checks three things: the report, the
//! errors at both ends of the connection, and the packets on the wire.

mod all;
mod arithmetic;
mod bad_input;
mod connection;
mod doctor;
mod download;
mod faults;
mod flood;
mod kernel_types;
mod late_retransmission;
mod local;
mod malformed;
mod mitigations;
mod mitigations_applied;
mod no_entry;
mod peers;
mod privileges;
pub mod programs;
mod reject;
mod reject_rule;
mod reported;
mod rotated;
mod rules;
mod ruleset;
mod scale;
mod state;
mod table;
mod tap;
mod topologies;
mod window;

use std::fmt::Write as _;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, anyhow};

pub use self::all::{Scope, all, find};
use crate::protocol::Message;

/// What a scenario gets.
pub struct Context<'a> {
    /// The conntrack log format that the kernel must have.
    pub log_format: &'a str,
    /// The directory for its files.
    pub artifacts: PathBuf,
    report: &'a dyn Fn(Message),
}

impl Context<'_> {
    /// Reports a step of the scenario to the host.
    pub fn step(&self, text: impl Into<String>) {
        (self.report)(Message::Step { text: text.into() });
    }

    /// Whether this kernel names the reason of a RST of its TCP stack (`enum sk_rst_reason`, 6.10 and later).
    pub fn names_reset_reasons(&self) -> bool {
        !matches!(self.log_format, "e1" | "e2" | "e3")
            && !rustix::system::uname().release().to_bytes().starts_with(b"6.1.")
    }

    /// Whether this kernel refuses every segment out of the window, as 5.10 and 5.15 do.
    pub fn refuses_everything(&self) -> bool {
        matches!(self.log_format, "e1" | "e2")
    }
}

/// An incident.
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// One line about it.
    pub about: &'static str,
    /// The flows that its report must name.
    pub named: Named,
    run: fn(&Context<'_>) -> Result<()>,
}

/// The flows that a report must name, and no others: `cause/reason by WHO`, where nobody sent a RST `by nobody`, where the
/// kernel let the packets pass `accepted`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// None.
    Nothing,
    /// One, the same on every kernel.
    Each(&'static str),
    /// One, if there is a report at all: some kernels cannot be traced in this way, which the scenario checks.
    IfAny(&'static str),
    /// One, on kernels that refuse whatever is out of the window (E1, E2), and on later ones.
    ByLogFormat {
        /// E1, E2.
        refusing: &'static str,
        /// E3, E4.
        lenient: &'static str,
    },
    /// None on 5.10 (E1), one on later kernels.
    NotE1(&'static str),
    /// One on kernels that refuse it; none on later ones, which have a sysctl that lets it pass.
    Refusing(&'static str),
    /// So many of each, the same on every kernel.
    Several(&'static [(usize, &'static str)]),
    /// So many or more, all the same; what was accepted besides does not count.
    AtLeast(usize, &'static str),
}

/// Runs a scenario and reports its result; true if it passed.
pub fn run(scenario: &Scenario, log_format: &str, artifacts: &Path, report: &dyn Fn(Message)) -> bool {
    report(Message::Start { scenario: scenario.name.to_owned() });
    let started = Instant::now();
    let context = Context { log_format, artifacts: artifacts.join(scenario.name), report };
    let result = fs::create_dir_all(&context.artifacts).map_err(anyhow::Error::from).and_then(|()| {
        catch_unwind(AssertUnwindSafe(|| (scenario.run)(&context))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(anyhow!("panicked: {}", text.unwrap_or("without a message")))
        })
    });
    let failure = result.err().map(|error| {
        let mut text = error.to_string();
        for cause in error.chain().skip(1) {
            // A String takes any write.
            let _infallible = write!(text, ": {cause}");
        }
        text
    });
    let passed = failure.is_none();
    report(Message::End { scenario: scenario.name.to_owned(), failure, seconds: started.elapsed().as_secs_f64() });
    passed
}
