//! The sink that writes a recording, in one file or in a series.

use std::path::Path;

use tracer_engine::engine::Observed;
use tracer_engine::session::Session;
use tracer_model::capture::{HookCounters, Item, Suppressed};
use tracer_model::filter::Filter;
use tracer_recording::compress::Compression;
use tracer_recording::rotate::Rotation;
use tracer_recording::{WriteError, Writer, shown};

use super::args::Keeping;
use super::sink::{Sink, wanted};

/// Writes a recording.
pub(super) struct Recorder {
    to: Target,
    filter: Filter,
    counters: Option<Vec<HookCounters>>,
    /// Whether the capture continues after an error: a report does not need its recording.
    patient: bool,
    failed: Option<WriteError>,
}

enum Target {
    One(Box<Writer>),
    Several(Box<Rotation>),
}

impl Recorder {
    /// Creates the recording.
    pub(super) fn create(path: &Path, keeping: &Keeping, session: &Session, filter: &Filter) -> anyhow::Result<Self> {
        let compression = Compression::of(path, keeping.compress);
        let host = session.host();
        let to = match keeping.policy(path)? {
            Some(policy) => Target::Several(Box::new(Rotation::create(path, host, policy, compression)?)),
            None => Target::One(Box::new(Writer::create(path, host, compression)?)),
        };
        Ok(Self { to, filter: filter.clone(), counters: None, patient: false, failed: None })
    }

    /// Lets the capture continue if the recorder fails; [`Recorder::finish`] returns the error.
    pub(super) fn beside_a_report(self) -> Self {
        Self { patient: true, ..self }
    }

    /// Ends the recording. Returns its summary: `in FILE, N bytes`.
    pub(super) fn finish(mut self, path: &Path) -> anyhow::Result<String> {
        if let Some(error) = self.failed {
            return Err(error.into());
        }
        match &mut self.to {
            Target::One(writer) => {
                writer.flush()?;
                writer.expect_kept()?;
                Ok(format!("in {}, {} bytes", shown(path), writer.written()))
            }
            Target::Several(rotation) => {
                rotation.flush()?;
                rotation.expect_kept()?;
                let (parts, written) = (rotation.parts(), rotation.written());
                let files = if parts == 1 { "1 file".to_owned() } else { format!("{parts} files") };
                Ok(format!("in {files} up to {}, {written} bytes", shown(rotation.current())))
            }
        }
    }

    fn take(&mut self, item: &Item) -> Result<(), WriteError> {
        let Item::Counters(counters) = item else {
            return match &mut self.to {
                Target::One(writer) => writer.write(item),
                Target::Several(rotation) => rotation.write(item),
            };
        };
        // The counters come once a second; each time the file is flushed. They are written only if they have changed.
        let changed = self.counters.as_ref() != Some(&counters.hooks);
        if changed {
            self.counters = Some(counters.hooks.clone());
        }
        match &mut self.to {
            Target::One(writer) => {
                if changed {
                    writer.write(item)?;
                }
                writer.flush()?;
                writer.expect_kept()
            }
            Target::Several(rotation) => {
                if changed {
                    rotation.write(item)?;
                }
                rotation.count(counters)?;
                rotation.flush()
            }
        }
    }

    fn guard(&mut self, result: Result<(), WriteError>) -> anyhow::Result<()> {
        match result {
            Err(error) if self.patient => {
                tracing::warn!("the capture continues without its recording: {error}: {}", error.source);
                self.failed = Some(error);
                Ok(())
            }
            result => Ok(result?),
        }
    }
}

impl Sink for Recorder {
    fn item(&mut self, item: &Item, observed: Option<&Observed>, session: &Session) -> anyhow::Result<()> {
        let unwanted = match item {
            Item::LookedUp(answer) => !self.filter.is_empty() && !session.knows(&answer.look_up),
            Item::Netns(netns) => !self.filter.matches_netns(netns.inode),
            Item::Rules(rules) => !self.filter.matches_netns(rules.netns),
            Item::TableUsage(table_usage) => !self.filter.matches_netns(table_usage.netns),
            _ => observed.is_some_and(|observed| !wanted(observed, &self.filter)),
        };
        if unwanted || self.failed.is_some() {
            return Ok(());
        }
        let result = match item {
            Item::Suppressed(Suppressed { at, events }) if !self.filter.is_empty() => {
                let events = events.iter().copied().filter(|events| session.wants(events)).collect();
                self.take(&Item::Suppressed(Suppressed { at: *at, events }))
            }
            item => self.take(item),
        };
        self.guard(result)
    }

    fn wants_counters(&self) -> bool {
        self.failed.is_none() && matches!(&self.to, Target::Several(rotation) if rotation.is_full())
    }

    fn rotates(&self) -> bool {
        matches!(self.to, Target::Several(_))
    }

    fn hang_up(&mut self) {
        if let Target::Several(rotation) = &mut self.to {
            rotation.ask();
        }
    }

    fn end(&mut self) -> anyhow::Result<()> {
        if self.failed.is_some() {
            return Ok(());
        }
        let result = match &mut self.to {
            Target::One(writer) => writer.flush(),
            Target::Several(rotation) => rotation.flush(),
        };
        self.guard(result)
    }
}
