//! `whyrst mitigate` as text.

use std::fmt::{self, Write};
use std::time::Duration;

use tracer_model::mitigation::Mitigation;
use tracer_model::mitigation::watched::{Verdict, Window, compare};

use super::mitigations;
use super::sentences::{counted, grouped};
use super::style::{BAD, FAINT, GOOD, STRONG, TextStyle, WARN};

/// A mitigation, and whether it applies here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The mitigation.
    pub mitigation: Mitigation,
    /// Why it does not apply here; none if it does.
    pub not_because: Option<String>,
}

/// The result of applying or undoing a mitigation.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// `applied` or `undone`.
    pub state: &'static str,
    /// The journal's file.
    pub entry: String,
    /// The commands that whyrst ran.
    pub commands: Vec<String>,
    /// Whether every change is in force, as the probes of `--apply` and `--undo` show it.
    pub in_force: Option<bool>,
    /// What `--verify` found.
    pub verified: Option<Verified>,
    /// The kernel's counts before and after, if they were read.
    pub watched: Option<(Window, Window)>,
    /// Warnings.
    pub remarks: Vec<String>,
}

/// Whether a rule of a mitigation has met a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// The packets that its rules have counted.
    pub packets: u64,
    /// For how long whyrst has waited.
    pub waited: Duration,
}

/// All mitigations, one line each.
pub fn list(offers: &[Offer], style: TextStyle) -> String {
    let mut text = String::new();
    for Offer { mitigation, not_because } in offers {
        let (style, mark) = match not_because {
            None => (GOOD, style.pick("✓", "+")),
            Some(_) => (FAINT, style.pick("·", "-")),
        };
        let id = mitigation.id.name();
        // A String takes any write.
        let _infallible = writeln!(text, "{style}{mark}{style:#} {STRONG}{id:20}{STRONG:#} {}", mitigation.title);
        if let Some(because) = not_because {
            let _infallible = writeln!(text, "{FAINT}{:22} not here: {because}{FAINT:#}", "");
        }
    }
    let _infallible =
        writeln!(text, "\nwhyrst mitigate ID prints the commands; --apply runs those that can be undone.");
    text
}

/// One mitigation.
pub fn one(offer: &Offer, style: TextStyle) -> String {
    let mut text = String::new();
    let _infallible = write_one(&mut text, offer, style);
    text.trim_start().to_owned()
}

fn write_one(to: &mut String, offer: &Offer, style: TextStyle) -> fmt::Result {
    mitigations::write(to, &offer.mitigation, style)?;
    let reasons: Vec<&str> = offer.mitigation.reasons.iter().map(|reason| reason.name()).collect();
    if !reasons.is_empty() {
        writeln!(to, "  {FAINT}reasons: {}{FAINT:#}", reasons.join(", "))?;
    }
    match &offer.not_because {
        Some(because) => writeln!(to, "\n{WARN}not here: {because}{WARN:#}"),
        None if offer.mitigation.can_be_applied() => {
            writeln!(
                to,
                "\nwhyrst mitigate {0} --apply runs it; whyrst mitigate {0} --undo undoes it",
                offer.mitigation.id
            )
        }
        None => writeln!(to, "\nwhyrst does not apply this: it cannot be undone"),
    }
}

/// The result.
pub fn outcome(outcome: &Outcome) -> String {
    let mut text = String::new();
    let _infallible = write_outcome(&mut text, outcome);
    text
}

fn write_outcome(to: &mut String, outcome: &Outcome) -> fmt::Result {
    let style = if outcome.remarks.is_empty() { GOOD } else { WARN };
    match outcome.commands.len() {
        0 => writeln!(to, "{style}{}{style:#}: there was nothing to change", outcome.state)?,
        many => writeln!(to, "{style}{}{style:#}: {}", outcome.state, counted(many as u64, "command", "commands"))?,
    }
    for remark in &outcome.remarks {
        writeln!(to, "  {BAD}{remark}{BAD:#}")?;
    }
    writeln!(to, "  journal: {}", outcome.entry)?;
    if let Some(Verified { packets, waited }) = outcome.verified {
        let seconds = waited.as_secs_f64();
        match packets {
            0 => writeln!(to, "  {WARN}not verified{WARN:#}: no packet has met a rule of it within {seconds:.1} s")?,
            some => writeln!(
                to,
                "  {GOOD}verified{GOOD:#}: its rules have met {} within {seconds:.1} s",
                counted(some, "packet", "packets")
            )?,
        }
    }
    let Some((before, after)) = &outcome.watched else { return Ok(()) };
    writeln!(to, "\n{:32}{:>16}{:>16}", "", "before", "after")?;
    for (name, counts) in rates(before, after) {
        let Some((first, second)) = counts else {
            writeln!(to, "{name:32}{:>16}{:>16}   not readable", "?", "?")?;
            continue;
        };
        let verdict = match compare((first, before.time), (second, after.time)) {
            Verdict::TooLittle => "too little traffic for a verdict",
            Verdict::Fell => "fell",
            Verdict::Rose => "rose",
            Verdict::Unclear => "no clear change",
        };
        let shown = |count: u64, time: Duration| format!("{} in {:.1} s", grouped(count), time.as_secs_f64());
        writeln!(to, "{name:32}{:>16}{:>16}   {verdict}", shown(first, before.time), shown(second, after.time))?;
    }
    writeln!(to, "{FAINT}the kernel's counters for all connections, without RSTs of REJECT rules{FAINT:#}")
}

/// The counters, each with both counts.
pub(super) fn rates(before: &Window, after: &Window) -> [(&'static str, Option<(u64, u64)>); 3] {
    let (one, two) = (&before.counts, &after.counts);
    [
        ("packets that conntrack refused", one.invalid.zip(two.invalid)),
        ("RSTs sent by the TCP stack", one.out_rsts.zip(two.out_rsts)),
        ("own connections that were reset", one.estab_resets.zip(two.estab_resets)),
    ]
}
