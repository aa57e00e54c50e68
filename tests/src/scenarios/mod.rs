//! The incidents, by name.
//!
//! A scenario builds its network, starts whyrst, makes something happen on the wire, and compares three things with what
//! they should be: the report, the errors that both ends of the connection saw, and the packets on the wire.

mod bad_input;
mod connection;
mod download;
mod kernel_types;
mod late_retransmission;
mod no_entry;
mod rules;
mod table;
mod window;

use std::fmt::Write as _;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, anyhow};

use crate::protocol::Message;

/// What a scenario is run with.
pub struct Context<'a> {
    /// The era that the kernel is expected to be of.
    pub era: &'a str,
    /// Where it may leave files.
    pub artifacts: PathBuf,
    report: &'a dyn Fn(Message),
}

impl Context<'_> {
    /// Tells the host that something worth seeing happened.
    pub fn step(&self, text: impl Into<String>) {
        (self.report)(Message::Step { text: text.into() });
    }

    /// Whether this kernel refuses every segment out of the window, as 5.10 and 5.15 do.
    pub fn refuses_everything(&self) -> bool {
        matches!(self.era, "e1" | "e2")
    }
}

/// An incident.
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// It in one line.
    pub about: &'static str,
    run: fn(&Context<'_>) -> Result<()>,
}

/// All of them, in the order in which they are run.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "no-conntrack",
        about: "before nf_conntrack is loaded: exit status 3, and --wait waits",
        run: bad_input::no_conntrack,
    },
    Scenario {
        name: "late-retransmission",
        about: "an HTTP download through SNAT, and a late copy of one of its segments",
        run: late_retransmission::run,
    },
    Scenario {
        name: "seq-over",
        about: "a segment from the server far beyond the client's window",
        run: window::seq_over,
    },
    Scenario {
        name: "ack-over",
        about: "a segment from the server that acknowledges what the client never sent",
        run: window::ack_over,
    },
    Scenario {
        name: "ipv6-seq-over",
        about: "the same as seq-over through IPv6 masquerade",
        run: window::ipv6_seq_over,
    },
    Scenario {
        name: "kernel-log-agrees",
        about: "with log_invalid on: counted once, and the bound is the one that the kernel logs",
        run: window::kernel_log_agrees,
    },
    Scenario {
        name: "fragmented-buffer",
        about: "a segment whose TCP header is not in the linear part of its buffer",
        run: window::fragmented_buffer,
    },
    Scenario { name: "clean-download", about: "a download that nothing happens to", run: download::clean },
    Scenario {
        name: "two-flows",
        about: "two downloads at once, one disturbed: only the victim is named",
        run: download::two_flows,
    },
    Scenario { name: "entry-expired", about: "an idle entry expires; the server speaks again", run: no_entry::expired },
    Scenario { name: "entry-expired-strict", about: "the same with tcp_loose=0", run: no_entry::expired_strict },
    Scenario {
        name: "entry-closed",
        about: "a late copy of a segment of a connection that was closed",
        run: no_entry::closed,
    },
    Scenario { name: "entry-closed-strict", about: "the same with tcp_loose=0", run: no_entry::closed_strict },
    Scenario {
        name: "entry-deleted",
        about: "conntrack -D takes the entry of a live connection",
        run: no_entry::deleted,
    },
    Scenario { name: "entry-deleted-strict", about: "the same with tcp_loose=0", run: no_entry::deleted_strict },
    Scenario { name: "entry-flushed", about: "conntrack -F takes all entries", run: no_entry::flushed },
    Scenario {
        name: "address-removed",
        about: "the masquerading address goes and comes back",
        run: no_entry::address_removed,
    },
    Scenario { name: "entry-older", about: "an entry that expired before whyrst was started", run: no_entry::older },
    Scenario { name: "entry-older-strict", about: "the same with tcp_loose=0", run: no_entry::older_strict },
    Scenario {
        name: "invalid-dropped",
        about: "a rule drops what conntrack refuses: no RST",
        run: rules::invalid_dropped,
    },
    Scenario { name: "not-tracked", about: "a NOTRACK rule takes half of a connection", run: rules::not_tracked },
    Scenario { name: "no-listener", about: "a SYN to a closed port of the gateway", run: rules::no_listener },
    Scenario { name: "be-liberal", about: "with tcp_be_liberal nothing is out of the window", run: rules::be_liberal },
    Scenario { name: "table-drops", about: "a full table drops a new connection: no RST", run: table::drops },
    Scenario {
        name: "table-evicts",
        about: "half-open connections take each other's place in a full table",
        run: table::evicts,
    },
    Scenario {
        name: "reject-module-later",
        about: "a REJECT rule that is added while whyrst runs, and its module with it",
        run: window::reject_module_later,
    },
    Scenario {
        name: "invalid-rejected",
        about: "a rule rejects what conntrack refuses: the rule sent the RST",
        run: rules::invalid_rejected,
    },
    // Behind the scenario that waits for the REJECT modules: this one loads them.
    Scenario {
        name: "kernel-types",
        about: "offsets and prototypes that whyrst resolves are those of this kernel",
        run: kernel_types::run,
    },
    Scenario {
        name: "not-root",
        about: "without privileges: exit status 3 and which are missing",
        run: bad_input::not_root,
    },
    Scenario { name: "no-btf", about: "without /sys/kernel/btf: exit status 3", run: bad_input::no_btf },
    Scenario { name: "no-kprobes", about: "without kprobes: exit status 3", run: bad_input::no_kprobes },
    Scenario { name: "full-disk", about: "-o and --record on a full disk: exit status 2", run: bad_input::full_disk },
    Scenario {
        name: "signals",
        about: "SIGTERM ends a capture like Ctrl-C; a closed pipe ends it quietly",
        run: bad_input::signals,
    },
    // Lockdown cannot be lifted again: it comes last.
    Scenario {
        name: "lockdown",
        about: "under kernel lockdown in confidentiality mode: exit status 3",
        run: bad_input::lockdown,
    },
];

/// Runs a scenario and tells how it ended; true if it passed.
pub fn run(scenario: &Scenario, era: &str, artifacts: &Path, report: &dyn Fn(Message)) -> bool {
    report(Message::Start { scenario: scenario.name.to_owned() });
    let started = Instant::now();
    let context = Context { era, artifacts: artifacts.join(scenario.name), report };
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
