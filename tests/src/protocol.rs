//! What the host and the guest tell each other: a plan in the initramfs, one JSON object per line on the second serial
//! port, and an archive of files on the disk.

use serde::{Deserialize, Serialize};

/// Where the guest finds its plan.
pub const PLAN: &str = "/plan.json";
/// The serial port that the guest reports on.
pub const PORT: &str = "/dev/ttyS1";
/// The disk that takes the archive of what the scenarios left.
pub const DISK: &str = "/dev/vda";
/// Printed on the console when PID 1 is there: the boot has succeeded.
pub const ALIVE: &str = "init: alive";

/// What the guest is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The kernel's name in the matrix.
    pub kernel: String,
    /// The era that this kernel is expected to be of.
    pub era: String,
    /// Scenarios to run, in this order.
    pub scenarios: Vec<String>,
    /// Open a shell on the console instead.
    pub shell: bool,
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
    /// Something worth seeing happened.
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
    /// All scenarios are over and the archive is written.
    Finished,
}
