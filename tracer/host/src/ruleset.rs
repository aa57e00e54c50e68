//! The rules of the calling thread's namespace, whichever backend holds them: nftables, or the tables of legacy iptables.
//!
//! How each backend stores them is in [`nftables`] and [`iptables`]; what a packet meets in them is walked in the crates above.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tracer_model::ruleset::Rules;
use tracer_model::ruleset::tables::Ruleset;

use crate::{iptables, nftables, now};

/// Bytes of a ruleset, as a recording has it, that are kept; a frame of a recording has one MiB.
const LARGE: usize = 256 << 10;

/// Reads all rules, and the generation of those of nftables.
pub(crate) fn whole(deadline: Instant) -> (Ruleset, Option<u32>) {
    let (mut ruleset, mut generation) = (Ruleset::default(), None);
    if nftables::is_there() {
        match nftables::whole(deadline) {
            Ok((read, number)) => (ruleset, generation) = (read, number),
            Err(error) => ruleset.problems.push(format!("the nftables ruleset could not be read: {error}")),
        }
    }
    ruleset.extend(iptables::whole(deadline));
    (ruleset, generation)
}

/// Reads the rules that can answer with a RST.
pub(crate) fn rejecting(netns: u32, deadline: Instant) -> Rules {
    let mut rules = unread(netns);
    let (ruleset, generation) = whole(deadline);
    rules.generation = generation;
    ruleset.rejecting(&mut rules);
    // Packets are taken through it where one that rejects has to be found.
    let ruleset = ruleset.without_counters();
    let small = || serde_json::to_vec(&ruleset).is_ok_and(|text| text.len() <= LARGE);
    if !rules.rules.is_empty() && small() {
        rules.whole = Some(Arc::new(ruleset));
    }
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
    Rules { netns, began, at: began, generation: None, bridged, rules: Vec::new(), problems: Vec::new(), whole: None }
}
