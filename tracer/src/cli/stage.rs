//! Where items meet the session and the sinks.

use tracer_engine::session::Session;
use tracer_model::capture::Item;
use tracer_model::filter::Filter;
use tracer_recording::redact::Redactor;

use super::sink::Sink;

/// A session, and those who watch it.
///
/// What is redacted is worked off twice: as it is, so that the kernel is asked about the connections that there are, and as
/// it is shown.
pub(super) struct Pipeline<'s> {
    session: Session,
    shown: Option<(Redactor, Session)>,
    sinks: Vec<&'s mut dyn Sink>,
}

impl<'s> Pipeline<'s> {
    /// A stage for a session; `sinks` are told what is shown.
    pub(super) fn new(
        session: Session,
        filter: &Filter,
        redactor: Option<Redactor>,
        sinks: impl FnOnce(&Session, &Filter) -> anyhow::Result<Vec<&'s mut dyn Sink>>,
    ) -> anyhow::Result<Self> {
        let Some(mut redactor) = redactor else {
            let sinks = sinks(&session, filter)?;
            return Ok(Self { session, shown: None, sinks });
        };
        let filter = redactor.filter(filter);
        let shown = Session::new(redactor.host(session.host()), filter.clone());
        let sinks = sinks(&shown, &filter)?;
        Ok(Self { session, shown: Some((redactor, shown)), sinks })
    }

    /// The session that knows the connections by their names.
    pub(super) const fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Takes an item.
    pub(super) fn offer(&mut self, item: &Item) -> anyhow::Result<()> {
        let observed = self.session.item(item);
        let Self { session, shown, sinks } = self;
        match shown {
            None => sinks.iter_mut().try_for_each(|sink| sink.item(item, observed.as_ref(), session)),
            Some((redactor, session)) => {
                let item = redactor.item(item.clone());
                let observed = session.item(&item);
                sinks.iter_mut().try_for_each(|sink| sink.item(&item, observed.as_ref(), session))
            }
        }
    }

    /// Whether a sink wants the counters now.
    pub(super) fn wants_counters(&self) -> bool {
        self.sinks.iter().any(|sink| sink.wants_counters())
    }

    /// Whether a sink writes files that can be ended at any time.
    pub(super) fn rotates(&self) -> bool {
        self.sinks.iter().any(|sink| sink.rotates())
    }

    /// Ends the sinks' current files at the next counters.
    pub(super) fn hang_up(&mut self) {
        for sink in &mut self.sinks {
            sink.hang_up();
        }
    }

    /// Tells the sinks that it is over, and gives out the session that is shown.
    pub(super) fn end(mut self) -> anyhow::Result<Session> {
        self.sinks.iter_mut().try_for_each(|sink| sink.end())?;
        Ok(self.shown.map_or(self.session, |(_, shown)| shown))
    }
}
