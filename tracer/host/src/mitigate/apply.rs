//! Applying a mitigation step by step, and undoing it.

use std::io;
use std::path::PathBuf;

use crate as kernel;
use jiff::Timestamp;

use tracer_model::host_context::NetnsPath;
use tracer_model::mitigation::{Mitigation, MitigationId, Shows};

use super::journal::{Done, Entry, Journal, JournalError, State};
use super::run::{self, RunError, run};
use crate::BOOT_ID;
use crate::netns::leads_to;

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
    /// What there was before cannot be read, so that it could not be restored.
    #[error("the value before cannot be read: `{probe}` fails; nothing was changed")]
    Unreadable {
        /// What was to show it.
        probe: String,
    },
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
    /// A command failed; what had been done was rolled back.
    #[error("{error}; what had been done before was rolled back")]
    RolledBack {
        /// What failed.
        error: RunError,
    },
    /// A command had no effect; what had been done was rolled back.
    #[error("`{run}` had no effect: `{probe}` prints the same as before; what had been done was rolled back")]
    NoEffect {
        /// The command.
        run: String,
        /// What shows it.
        probe: String,
    },
    /// A command failed, and what had been done could not be rolled back.
    #[error("{what}; and not all that had been done could be undone: {failures}. Undo the rest by hand")]
    HalfDone {
        /// What failed first.
        what: String,
        /// What failed then.
        failures: String,
    },
    /// There is nothing to undo.
    #[error("{0}")]
    NothingToUndo(String),
    /// It has been changed since.
    #[error("somebody has changed it since: {0}; --force undoes it all the same")]
    ChangedSince(String),
    /// The namespace is not the one that it was.
    #[error("{0}")]
    OtherPlace(String),
    /// Running a command.
    #[error(transparent)]
    Run(#[from] RunError),
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

/// The number of this boot.
pub fn boot_id() -> Result<String, MitigateError> {
    kernel::boot_id().map_err(|error| MitigateError::System { what: BOOT_ID, error })
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
pub fn prepare(mitigation: &Mitigation, host: &str, places: Vec<(u32, NetnsPath)>) -> Result<Entry, MitigateError> {
    if let Some(obstacle) = obstacle(mitigation) {
        return Err(obstacle);
    }
    let mut steps = Vec::new();
    for step in &mitigation.steps {
        let mut done = Done { run: step.run.clone(), undo: step.undo.clone(), ..Done::default() };
        if let Some(probe) = &step.probe {
            done.before = run::probe(&probe.command)?;
            let applied = || MitigateError::AlreadyApplied { id: mitigation.id, probe: probe.command.clone() };
            match (&probe.shows, &done.before) {
                (Shows::Presence, Some(_)) => return Err(applied()),
                (Shows::Value { .. }, None) => return Err(MitigateError::Unreadable { probe: probe.command.clone() }),
                (Shows::Value { after, .. }, Some(found)) if found == after => return Err(applied()),
                (Shows::Value { before, .. }, Some(found)) if found != before => {
                    let (expected, found) = (before.clone(), found.clone());
                    return Err(MitigateError::Moving { probe: probe.command.clone(), expected, found });
                }
                (Shows::Presence, None) | (Shows::Value { .. }, Some(_)) => {}
            }
            done.probe = Some(probe.command.clone());
        }
        steps.push(done);
    }
    let (host, boot) = (host.to_owned(), boot_id()?);
    Ok(Entry { id: mitigation.id, at: Timestamp::now(), host, boot, places, steps, state: State::Applying })
}

/// Runs the steps of an entry, all of them or none, and returns its file. The journal has it before anything is changed.
pub fn apply(entry: &mut Entry, journal: &Journal) -> Result<PathBuf, MitigateError> {
    journal.write(entry)?;
    for index in 0..entry.steps.len() {
        if let Err(error) = run(&entry.steps[index].run) {
            let what = error.to_string();
            return Err(roll_back(entry, index, journal, what, MitigateError::RolledBack { error }));
        }
    }
    for index in 0..entry.steps.len() {
        let Some(probe) = entry.steps[index].probe.clone() else { continue };
        entry.steps[index].after = run::probe(&probe)?;
        if entry.steps[index].after == entry.steps[index].before {
            let error = MitigateError::NoEffect { run: entry.steps[index].run.clone(), probe };
            return Err(roll_back(entry, entry.steps.len(), journal, error.to_string(), error));
        }
    }
    entry.state = State::Applied;
    Ok(journal.write(entry)?)
}

/// Undoes the first steps of an entry; the error is what led to it, or that it failed too.
fn roll_back(entry: &mut Entry, steps: usize, journal: &Journal, what: String, led: MitigateError) -> MitigateError {
    let undo = entry.steps[..steps].iter().rev().flat_map(|step| &step.undo);
    let mut failures: Vec<String> = undo.filter_map(|line| run(line).err()).map(|error| error.to_string()).collect();
    if failures.is_empty() {
        failures = differences(entry).unwrap_or_else(|error| vec![error.to_string()]);
    }
    if !failures.is_empty() {
        return MitigateError::HalfDone { what, failures: failures.join("; ") };
    }
    entry.state = State::RolledBack;
    match journal.write(entry) {
        Ok(_) => led,
        Err(error) => error.into(),
    }
}

/// What is not as it was before.
fn differences(entry: &Entry) -> Result<Vec<String>, MitigateError> {
    let mut found = Vec::new();
    for step in &entry.steps {
        let Some(probe) = &step.probe else { continue };
        let now = run::probe(probe)?;
        if now != step.before {
            found.push(format!(
                "`{probe}` prints {}, before it was {}",
                shown(now.as_ref()),
                shown(step.before.as_ref())
            ));
        }
    }
    Ok(found)
}

fn shown(output: Option<&String>) -> String {
    match output {
        None => "nothing is there".to_owned(),
        Some(text) if text.is_empty() => "it is there".to_owned(),
        Some(text) => {
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            format!("`{}`", text.chars().map(|it| if it.is_control() { '?' } else { it }).collect::<String>())
        }
    }
}

/// What would undo an entry now, in order.
pub fn plan_undo(entry: &Entry, force: bool) -> Result<Vec<String>, MitigateError> {
    let same_boot = entry.boot == boot_id()?;
    for (inode, way) in &entry.places {
        let there = leads_to(way).ok();
        // Numbers of namespaces and processes mean something else after a reboot.
        let same =
            if same_boot { there == Some(*inode) } else { !matches!(way, NetnsPath::Process(_)) && there.is_some() };
        if !same {
            return Err(MitigateError::OtherPlace(format!(
                "the network namespace {inode} that it was applied in is not there any more: nothing is left to be undone"
            )));
        }
    }
    let (mut lines, mut changed, mut skipping) = (Vec::new(), Vec::new(), false);
    for step in &entry.steps {
        // Steps without a probe belong to the one before.
        if let Some(probe) = &step.probe {
            let now = run::probe(probe)?;
            skipping = now == step.before;
            let untouched = now == step.after || entry.state == State::Applying;
            if !skipping && !untouched {
                let (was, is) = (shown(step.after.as_ref()), shown(now.as_ref()));
                changed.push(format!("`{probe}` printed {was} when it had been applied, and prints {is} now"));
            }
        }
        if !skipping {
            lines.push(step.undo.clone());
        }
    }
    if !changed.is_empty() && !force {
        return Err(MitigateError::ChangedSince(changed.join("; ")));
    }
    Ok(lines.into_iter().rev().flatten().collect())
}

/// Undoes an entry by these lines.
pub fn undo(entry: &mut Entry, lines: &[String], journal: &Journal, force: bool) -> Result<Vec<String>, MitigateError> {
    let mut failures = Vec::new();
    for line in lines {
        match run(line) {
            Ok(()) => {}
            Err(error) if force => failures.push(error.to_string()),
            Err(error) => {
                return Err(MitigateError::HalfDone { what: "undoing".to_owned(), failures: error.to_string() });
            }
        }
    }
    failures.extend(differences(entry)?);
    if !failures.is_empty() && !force {
        return Err(MitigateError::HalfDone { what: "undoing".to_owned(), failures: failures.join("; ") });
    }
    entry.state = State::Undone;
    journal.write(entry)?;
    Ok(failures)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use tracer_advice::{Target, describe};
    use tracer_model::mitigation::{MitigationId, Probe, Shows, Step};

    use super::{MitigateError, apply, plan_undo, prepare, undo};
    use crate::mitigate::journal::{Journal, State};

    /// A value in a file stands for a sysctl: the commands are real ones.
    struct Bench {
        root: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Self {
            let bench = Self { root: tempfile::tempdir().unwrap() };
            bench.set("one", "1");
            bench.set("two", "2");
            bench
        }

        fn path(&self, name: &str) -> String {
            self.root.path().join(name).display().to_string()
        }

        fn set(&self, name: &str, value: &str) {
            fs::write(self.path(name), value).unwrap();
        }

        fn get(&self, name: &str) -> String {
            fs::read_to_string(self.path(name)).unwrap()
        }

        fn step(&self, name: &str, before: &str, after: &str) -> Step {
            let write = |value: &str| format!("sh -c 'printf %s \"$1\" > \"$2\"' sh {value} {}", self.path(name));
            Step {
                run: write(after),
                undo: vec![write(before)],
                probe: Some(Probe {
                    command: format!("cat {}", self.path(name)),
                    shows: Shows::Value { before: before.to_owned(), after: after.to_owned() },
                }),
            }
        }

        fn mitigation(steps: Vec<Step>) -> tracer_model::mitigation::Mitigation {
            let mut mitigation = describe(MitigationId::BeLiberal, &[] as &[Target<'_>]);
            mitigation.undo = steps.iter().rev().flat_map(|step| step.undo.clone()).collect();
            mitigation.steps = steps;
            mitigation
        }

        fn journal(&self) -> Journal {
            Journal::open(&self.root.path().join("state")).unwrap()
        }
    }

    #[test]
    fn what_is_applied_is_undone() {
        let bench = Bench::new();
        let mitigation = Bench::mitigation(vec![bench.step("one", "1", "11"), bench.step("two", "2", "22")]);
        let journal = bench.journal();
        let mut entry = prepare(&mitigation, "gw", Vec::new()).unwrap();
        apply(&mut entry, &journal).unwrap();
        assert_eq!((bench.get("one"), bench.get("two"), entry.state), ("11".into(), "22".into(), State::Applied));
        assert!(matches!(prepare(&mitigation, "gw", Vec::new()), Err(MitigateError::AlreadyApplied { .. })));
        // Another process does the rest, from the file.
        let (_, mut entry) = journal.of(MitigationId::BeLiberal).unwrap().pop().unwrap();
        let lines = plan_undo(&entry, false).unwrap();
        assert_eq!(undo(&mut entry, &lines, &journal, false).unwrap(), [""; 0]);
        assert_eq!((bench.get("one"), bench.get("two"), entry.state), ("1".into(), "2".into(), State::Undone));
        assert_eq!(plan_undo(&entry, false).unwrap(), [""; 0], "a second time there is nothing to do");
    }

    #[test]
    fn what_fails_half_way_is_rolled_back() {
        let bench = Bench::new();
        let broken = Step { run: "sh -c 'exit 7'".to_owned(), ..bench.step("two", "2", "22") };
        let mitigation = Bench::mitigation(vec![bench.step("one", "1", "11"), broken]);
        let journal = bench.journal();
        let mut entry = prepare(&mitigation, "gw", Vec::new()).unwrap();
        let error = apply(&mut entry, &journal).unwrap_err();
        assert!(matches!(error, MitigateError::RolledBack { .. }), "{error}");
        assert_eq!((bench.get("one"), bench.get("two")), ("1".into(), "2".into()));
        assert_eq!(journal.of(MitigationId::BeLiberal).unwrap()[0].1.state, State::RolledBack);
    }

    #[test]
    fn what_has_no_effect_is_rolled_back() {
        let bench = Bench::new();
        let idle = Step { run: "true".to_owned(), ..bench.step("two", "2", "22") };
        let mitigation = Bench::mitigation(vec![bench.step("one", "1", "11"), idle]);
        let mut entry = prepare(&mitigation, "gw", Vec::new()).unwrap();
        assert!(matches!(apply(&mut entry, &bench.journal()), Err(MitigateError::NoEffect { .. })));
        assert_eq!(bench.get("one"), "1");
    }

    #[test]
    fn what_somebody_changed_since_is_left_alone() {
        let bench = Bench::new();
        let mitigation = Bench::mitigation(vec![bench.step("one", "1", "11"), bench.step("two", "2", "22")]);
        let journal = bench.journal();
        let mut entry = prepare(&mitigation, "gw", Vec::new()).unwrap();
        apply(&mut entry, &journal).unwrap();
        bench.set("two", "33");
        let error = plan_undo(&entry, false).unwrap_err();
        assert!(error.to_string().contains("`22`") && error.to_string().contains("`33`"), "{error}");
        let lines = plan_undo(&entry, true).unwrap();
        undo(&mut entry, &lines, &journal, true).unwrap();
        assert_eq!((bench.get("one"), bench.get("two")), ("1".into(), "2".into()));
    }

    /// It ended after the first step: the entry has that it had begun, and what there was before.
    #[test]
    fn what_was_interrupted_is_undone() {
        let bench = Bench::new();
        let mitigation = Bench::mitigation(vec![bench.step("one", "1", "11"), bench.step("two", "2", "22")]);
        let journal = bench.journal();
        let entry = prepare(&mitigation, "gw", Vec::new()).unwrap();
        journal.write(&entry).unwrap();
        bench.set("one", "11");
        let (_, mut entry) = journal.of(MitigationId::BeLiberal).unwrap().pop().unwrap();
        let lines = plan_undo(&entry, false).unwrap();
        assert_eq!(lines.len(), 1);
        undo(&mut entry, &lines, &journal, false).unwrap();
        assert_eq!((bench.get("one"), bench.get("two")), ("1".into(), "2".into()));
    }

    #[test]
    fn what_cannot_be_undone_is_refused() {
        let bench = Bench::new();
        let unreadable = Bench::mitigation(vec![bench.step("missing", "1", "2")]);
        assert!(matches!(prepare(&unreadable, "gw", Vec::new()), Err(MitigateError::Unreadable { .. })));
        let moved = Bench::mitigation(vec![bench.step("one", "0", "2")]);
        assert!(matches!(prepare(&moved, "gw", Vec::new()), Err(MitigateError::Moving { .. })));
        for id in [MitigationId::UpgradeKernel, MitigationId::Keepalive, MitigationId::ReviewRejectRule] {
            let refused = prepare(&describe(id, &[]), "gw", Vec::new());
            assert!(matches!(refused, Err(MitigateError::CannotUndo { .. })), "{id}");
        }
        assert!(!Path::new(&bench.path("missing")).exists());
    }
}
