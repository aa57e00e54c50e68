//! Data between host and guest: a plan in the initramfs, one JSON object per line on the second serial port, and an archive
//! of files on the disk.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The directory of rulesets in the guest.
pub const RULESETS: &str = "/rulesets";
/// Where the guest finds its plan.
pub const PLAN: &str = "/plan.json";
/// The serial port that the guest reports on: the second of a PC; on arm64 the one that is not the machine's own.
pub const PORT: &str = if cfg!(target_arch = "aarch64") { "/dev/ttyS0" } else { "/dev/ttyS1" };
/// The disk that takes the archive of what the scenarios left.
pub const DISK: &str = "/dev/vda";
/// Where tools of other releases are in the guest: `bin`, and `lib` with their loader `ld.so`.
pub const TOOLS: &str = "/tools";
/// Printed on the console when PID 1 is there: the boot has succeeded.
pub const ALIVE: &str = "init: alive";

/// The guest's tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The kernel's name in the matrix.
    pub kernel: String,
    /// The conntrack log format that this kernel is expected to have.
    pub log_format: String,
    /// Scenarios to run, in this order.
    pub scenarios: Vec<String>,
    /// Open a shell on the console instead.
    pub shell: bool,
    /// Measure this instead.
    pub bench: Option<Bench>,
}

/// A bench in a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bench {
    /// The costs of tools on a gateway without incidents.
    Gateway(Gateway),
    /// whyrst's counts in floods, and the cost.
    Flood(Flood),
}

/// How large they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flood {
    /// Segments of each storm.
    pub segments: u64,
    /// Connections of the storm that meets many.
    pub flows: u16,
    /// Only these storms; all where there are none.
    pub cases: Vec<String>,
}

/// How much of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    /// How often each tool is measured.
    pub rounds: u32,
    /// Bytes of a download.
    pub bytes: u64,
    /// Short connections.
    pub connections: u32,
    /// Only these tools; all where there are none.
    pub tools: Vec<String>,
}

/// What the guest reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "kebab-case")]
pub enum Message {
    /// The guest is up.
    Up {
        /// The kernel's release.
        release: String,
    },
    /// A scenario begins.
    Start {
        /// Its name.
        scenario: String,
    },
    /// A step of a scenario.
    Step {
        /// What.
        text: String,
    },
    /// A scenario is over.
    End {
        /// Its name.
        scenario: String,
        /// Why it failed, or nothing.
        failure: Option<String>,
        /// How long it took.
        seconds: f64,
    },
    /// A row of a bench.
    Row {
        /// Its columns.
        row: Value,
    },
    /// Everything is over and the archive is written.
    Finished,
}
