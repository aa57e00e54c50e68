//! Undoing a mitigation, from its entry in the journal alone.

use tracer_model::host_context::NetnsPath;
use tracer_model::mitigation::Command;

use super::apply::{Differences, MitigateError, boot_id, differences, is_own, probe, undo_of};
use super::journal::{Done, Entry, Journal, State};
use super::places::{PlaceError, Places};
use super::probe::{Found, probed};
use super::run::run;

/// What undoes an entry, by what the probes have found.
#[derive(Debug)]
pub struct Undo {
    places: Places,
    commands: Vec<(Command, NetnsPath)>,
    found: Vec<Found>,
    force: bool,
}

impl Undo {
    /// Looks what there is, and what undoes it. Changes nothing.
    pub fn plan(entry: &Entry, force: bool) -> Result<Self, MitigateError> {
        let same_boot = entry.boot == boot_id()?;
        let places = Places::again(&entry.places, same_boot).map_err(|error| match error {
            PlaceError::Boot(_) => error.into(),
            other => MitigateError::OtherPlace(format!(
                "a network namespace that it was applied in is not there any more: nothing is left to be undone ({other})"
            )),
        })?;
        Self::within(places, entry, force, same_boot)
    }

    pub(super) fn within(places: Places, entry: &Entry, force: bool, same_boot: bool) -> Result<Self, MitigateError> {
        let (mut commands, mut all, mut changed) = (Vec::new(), Vec::new(), Vec::new());
        for Done { step, before, after } in &entry.steps {
            let found = probed(step, &places).map_err(MitigateError::Unknown)?;
            if !found.is(before, same_boot) {
                let own = after.as_ref().is_some_and(|after| found.is(after, same_boot))
                    || entry.state == State::Applying && is_own(step, &found);
                if !own {
                    let expected = after.as_ref().map_or_else(|| found.shown(), |after| found.since(after));
                    changed.push(format!("`{}` prints {expected}", probe(step)));
                }
                // A rule that is not there needs no command.
                if found != Found::Absent {
                    commands.push((undo_of(step, &found), step.netns.clone()));
                }
            }
            all.push(found);
        }
        if !changed.is_empty() && !force {
            return Err(MitigateError::ChangedSince(changed.join("; ")));
        }
        commands.reverse();
        Ok(Self { places, commands, found: all, force })
    }

    /// The lines, in order.
    pub fn lines(&self) -> Vec<String> {
        self.commands.iter().map(|(command, netns)| command.line(netns)).collect()
    }

    /// Runs them, if all is as it was when they were planned; gives what could not be undone.
    pub fn run(&self, entry: &mut Entry, journal: &Journal) -> Result<Vec<String>, MitigateError> {
        for (Done { step, .. }, then) in entry.steps.iter().zip(&self.found) {
            let now = probed(step, &self.places).map_err(MitigateError::Unknown)?;
            if now != *then {
                let (expected, found) = (then.shown(), now.since(then));
                return Err(MitigateError::Moving { probe: probe(step), expected, found });
            }
        }
        let mut failures = Vec::new();
        for (command, netns) in &self.commands {
            match run(command, netns, &self.places) {
                Ok(()) => {}
                Err(error) if self.force => failures.push(error.to_string()),
                Err(error) => {
                    return Err(MitigateError::HalfDone { what: "undoing".to_owned(), failures: error.to_string() });
                }
            }
        }
        let Differences { known, unknown } = differences(&entry.steps, &self.places);
        failures.extend(known);
        if !failures.is_empty() && !self.force {
            return Err(MitigateError::HalfDone { what: "undoing".to_owned(), failures: failures.join("; ") });
        }
        // iptables may delete its rule from a chain that it cannot list.
        let but = if failures.is_empty() { "every command succeeded, but " } else { "" };
        failures.extend(unknown.iter().map(|because| format!("{but}{because}")));
        entry.state = State::Undone;
        journal.write(entry)?;
        Ok(failures)
    }
}
