//! The rules of the calling thread's namespace, whichever backend holds them: nftables, or the tables of legacy iptables.
//!
//! Which rules are read, and what a packet would meet in them; how each backend stores them is in [`nftables`] and
//! [`iptables`].

use std::fs;
use std::path::Path;
use std::time::Instant;

use tracer_model::ruleset::Rules;
use tracer_model::ruleset::audit::{Audit, Found};

use crate::{iptables, nftables, now};

/// Reads the rules that can answer with a RST.
pub(crate) fn rejecting(netns: u32, deadline: Instant) -> Rules {
    let mut rules = unread(netns);
    if nftables::is_there() {
        match nftables::read(nftables::Wanted::Rejecting, deadline) {
            Ok(read) => {
                rules.generation = read.generation;
                rules.rules = read.rules;
                rules.problems = read.problems;
            }
            Err(error) => rules.problems.push(format!("the nftables ruleset could not be read: {error}")),
        }
    }
    let (legacy, problems) = iptables::read(deadline);
    rules.rules.extend(legacy.rejecting);
    rules.problems.extend(problems);
    rules.at = now();
    rules
}

/// Rules of which none is read yet.
pub(crate) fn unread(netns: u32) -> Rules {
    let began = now();
    // One file for each family; /proc/sys/net shows each thread its own.
    let bridged = ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"].iter().any(|name| {
        fs::read_to_string(Path::new("/proc/sys/net/bridge").join(name)).is_ok_and(|value| value.trim() != "0")
    });
    Rules { netns, began, at: began, generation: None, bridged, rules: Vec::new(), problems: Vec::new() }
}

/// Reads what the rules do to tracked connections.
pub(crate) fn audit(netns: u32, deadline: Instant) -> Audit {
    let mut found = Found::default();
    if nftables::is_there() {
        match nftables::read(nftables::Wanted::Audit, deadline) {
            Ok(read) => {
                found.extend(read.found);
                found.problems.extend(read.problems);
            }
            Err(error) => found.problems.push(format!("the nftables ruleset could not be read: {error}")),
        }
    }
    let (legacy, problems) = iptables::read(deadline);
    found.extend(legacy.found);
    found.problems.extend(problems);
    Audit::new(netns, now(), found)
}
