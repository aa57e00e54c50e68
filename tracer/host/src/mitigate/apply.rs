//! Applying a mitigation step by step: all of it or nothing.

use std::io;
use std::path::PathBuf;

use jiff::Timestamp;

use tracer_model::mitigation::{Change, Mitigation, MitigationId, Probe, Step};

use super::journal::{Done, Entry, Journal, JournalError, State};
use super::places::{PlaceError, Places};
use super::probe::{Found, Unknown, probed};
use super::run::{RunError, run};
use crate::BOOT_ID;

/// Why a mitigation was not applied or not undone.
#[derive(Debug, thiserror::Error)]
pub enum MitigateError {
    /// It is not whyrst's to apply.
    #[error("{id} cannot be applied by whyrst: {because}")]
    CannotUndo {
        /// Which.
        id: MitigationId,
        /// Why.
        because: String,
    },
    /// It is in force.
    #[error("{id} is in force already: `{probe}` shows it")]
    AlreadyApplied {
        /// Which.
        id: MitigationId,
        /// What shows it.
        probe: String,
    },
    /// Something else has its name.
    #[error("`{probe}` shows {found}, which is not what {id} makes; nothing was changed")]
    Taken {
        /// Which.
        id: MitigationId,
        /// What shows it.
        probe: String,
        /// What is there.
        found: String,
    },
    /// It is not known what is there.
    #[error("{0}; nothing was changed")]
    Unknown(Unknown),
    /// Somebody else is at work.
    #[error(
        "`{probe}` printed {expected} a moment ago and prints {found} now: somebody else is changing it; nothing was changed"
    )]
    Moving {
        /// What shows it.
        probe: String,
        /// A moment ago.
        expected: String,
        /// Now.
        found: String,
    },
    /// Something failed; what had been done was rolled back.
    #[error("{what}; what had been done before was rolled back")]
    RolledBack {
        /// What failed.
        what: String,
    },
    /// Something failed, and what had been done could not be rolled back.
    #[error("{what}; and not all that had been done could be undone: {failures}. Undo the rest by hand")]
    HalfDone {
        /// What failed first.
        what: String,
        /// What failed then.
        failures: String,
    },
    /// It has been changed since.
    #[error("somebody has changed it since: {0}; --force undoes it all the same")]
    ChangedSince(String),
    /// The namespace is not the one that it was.
    #[error("{0}")]
    OtherPlace(String),
    /// A namespace.
    #[error(transparent)]
    Netns(#[from] PlaceError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Anything of the system.
    #[error("{what}: {error}")]
    System {
        /// What was read.
        what: &'static str,
        /// Why it could not be.
        error: io::Error,
    },
}

/// What failed after the first change.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Unknown(#[from] Unknown),
    #[error("`{run}` had no effect: `{probe}` prints the same as before")]
    NoEffect { run: String, probe: String },
    #[error("`{probe}` prints something else than `{run}` makes: {found}")]
    Other { run: String, probe: String, found: String },
    #[error("the journal: {0}")]
    Journal(#[from] JournalError),
}

/// The number of this boot.
pub fn boot_id() -> Result<String, MitigateError> {
    crate::boot_id().map_err(|error| MitigateError::System { what: BOOT_ID, error })
}

/// Why whyrst does not apply a mitigation, if it does not.
pub fn obstacle(mitigation: &Mitigation) -> Option<MitigateError> {
    let because = match mitigation.id {
        MitigationId::UpgradeKernel => "a new kernel cannot be undone by a command".to_owned(),
        MitigationId::Keepalive => "it is done at the client or the server, not here".to_owned(),
        MitigationId::ReviewRejectRule => "which rule is right is for the ruleset's owner to decide".to_owned(),
        _ if mitigation.can_be_applied() => return None,
        _ if mitigation.notes.is_empty() => "there is nothing to be done on this host".to_owned(),
        _ => mitigation.notes.join("; "),
    };
    Some(MitigateError::CannotUndo { id: mitigation.id, because })
}

/// Reads what there is before, and makes an entry of it. Changes nothing.
pub fn prepare(mitigation: &Mitigation, host: &str, places: &Places) -> Result<Entry, MitigateError> {
    if let Some(obstacle) = obstacle(mitigation) {
        return Err(obstacle);
    }
    places.check()?;
    let mut steps = Vec::new();
    for step in &mitigation.steps {
        let found = probed(step, places).map_err(MitigateError::Unknown)?;
        let applied = || MitigateError::AlreadyApplied { id: mitigation.id, probe: probe(step) };
        let before = match (&step.change, &found) {
            (Change::Sysctl { before, after, .. }, Found::Value { value }) => {
                if *value == after.to_string() {
                    return Err(applied());
                }
                if *value != before.to_string() {
                    let (expected, found) = (before.to_string(), value.clone());
                    return Err(MitigateError::Moving { probe: probe(step), expected, found });
                }
                found
            }
            (_, Found::Absent) => found,
            (_, _) if is_from(step, &found) => return Err(applied()),
            (_, _) => {
                let (id, probe, found) = (mitigation.id, probe(step), found.shown());
                return Err(MitigateError::Taken { id, probe, found });
            }
        };
        steps.push(Done { step: step.clone(), before, after: None });
    }
    let (host, boot) = (host.to_owned(), places.boot().to_owned());
    let (id, places) = (mitigation.id, places.ways());
    Ok(Entry { id, at: Timestamp::now(), host, boot, places, steps, state: State::Applying })
}

/// The first probe of a step, as a line.
pub(super) fn probe(step: &Step) -> String {
    step.probes().first().map(|probe: &Probe| probe.line(&step.netns)).unwrap_or_default()
}

/// Runs the steps of an entry, all of them or none, and returns its file. The journal has it before anything is changed.
pub fn apply(entry: &mut Entry, places: &Places, journal: &Journal) -> Result<PathBuf, MitigateError> {
    places.check()?;
    journal.write(entry)?;
    let mut begun = 0;
    match attempt(entry, &mut begun, places, journal) {
        Ok(path) => Ok(path),
        Err(failure) => Err(roll_back(entry, begun, places, journal, &failure)),
    }
}

fn attempt(entry: &mut Entry, begun: &mut usize, places: &Places, journal: &Journal) -> Result<PathBuf, Failure> {
    for Done { step, .. } in &entry.steps {
        *begun += 1;
        run(&step.apply(), &step.netns, places)?;
    }
    in_force(entry, places)?;
    entry.state = State::Applied;
    Ok(journal.write(entry)?)
}

/// Whether every step is in force, by its probe; the entry then has what the probes found. This is the place to compare the
/// ruleset after with the one before.
fn in_force(entry: &mut Entry, places: &Places) -> Result<(), Failure> {
    for Done { step, before, after } in &mut entry.steps {
        let found = probed(step, places)?;
        let run = || step.apply_line();
        if found == *before {
            return Err(Failure::NoEffect { run: run(), probe: probe(step) });
        }
        if !is_from(step, &found) {
            return Err(Failure::Other { run: run(), probe: probe(step), found: found.shown() });
        }
        *after = Some(found);
    }
    Ok(())
}

/// Whether a step makes this, and nothing else has changed it. The kernel rounds the value of some sysctls.
fn is_from(step: &Step, found: &Found) -> bool {
    match (&step.change, found) {
        (Change::NftBatch(batch), Found::Nft(listing)) => listing.is_of(batch),
        (Change::Sysctl { .. }, Found::Value { .. })
        | (Change::IptablesRule(_) | Change::FirewalldRule(_), Found::Rule) => true,
        _ => false,
    }
}

/// Whether it is certain that whyrst has made this, where it did not come to note what it found.
pub(super) fn is_own(step: &Step, found: &Found) -> bool {
    match (&step.change, found) {
        (Change::Sysctl { after, .. }, Found::Value { value }) => *value == after.to_string(),
        _ => is_from(step, found),
    }
}

/// Undoes the steps that have begun. The error is what led to it, or that it failed too.
fn roll_back(entry: &mut Entry, begun: usize, places: &Places, journal: &Journal, failure: &Failure) -> MitigateError {
    let mut failures = Vec::new();
    for done in entry.steps[..begun].iter().rev() {
        if let Err(because) = revert(done, places) {
            failures.push(because);
        }
    }
    if failures.is_empty() {
        let Differences { known, unknown } = differences(&entry.steps[..begun], places);
        failures = [known, unknown].concat();
    }
    if !failures.is_empty() {
        return MitigateError::HalfDone { what: failure.to_string(), failures: failures.join("; ") };
    }
    entry.state = State::RolledBack;
    let what = match journal.write(entry) {
        Ok(_) => failure.to_string(),
        Err(error) => format!("{failure}; the journal does not have that: {error}"),
    };
    MitigateError::RolledBack { what }
}

/// Undoes one step, if it is in force and nobody else has changed it.
fn revert(Done { step, before, after }: &Done, places: &Places) -> Result<(), String> {
    let command = match (probed(step, places), &step.change) {
        (Ok(found), _) if found == *before => return Ok(()),
        (Ok(found), _) if after.as_ref() == Some(&found) || is_own(step, &found) => undo_of(step, &found),
        (Ok(found), _) => return Err(format!("`{}` prints {}, which is not of whyrst", probe(step), found.shown())),
        // The command deletes the very rule, and nothing where it is not there.
        (Err(_), Change::IptablesRule(_) | Change::FirewalldRule(_)) => step.undo(),
        (Err(unknown), _) => return Err(unknown.to_string()),
    };
    run(&command, &step.netns, places).map_err(|error| error.to_string())
}

/// The program that undoes what a probe has found.
pub(super) fn undo_of(step: &Step, found: &Found) -> tracer_model::mitigation::Command {
    match found {
        Found::Nft(listing) => listing.delete(),
        Found::Absent | Found::Value { .. } | Found::Rule => step.undo(),
    }
}

/// What is not as it was before, and what is not known.
#[derive(Debug, Default)]
pub(super) struct Differences {
    pub(super) known: Vec<String>,
    pub(super) unknown: Vec<String>,
}

/// Compares what there is with what there was before.
pub(super) fn differences(steps: &[Done], places: &Places) -> Differences {
    let mut differences = Differences::default();
    for Done { step, before, .. } in steps {
        match probed(step, places) {
            Ok(found) if found == *before => {}
            Ok(found) => {
                let (found, before) = (found.shown(), before.shown());
                differences.known.push(format!("`{}` prints {found}, before it was {before}", probe(step)));
            }
            Err(unknown) => differences.unknown.push(unknown.to_string()),
        }
    }
    differences
}

#[cfg(test)]
pub(super) mod tests;
