//! Where items meet the session and the sinks.

use std::borrow::Cow;

use tracer_engine::session::Session;
use tracer_model::capture::{Host, Item, Request};
use tracer_model::filter::Filter;
use tracer_model::time::Instant;
use tracer_recording::redact::Redactor;

use super::sink::Sink;

/// A session, and the sinks that write what comes out of it.
///
/// With a redactor, items are redacted before the session takes them, and what the session asks the kernel is about the
/// originals again: nothing behind this knows them.
pub(super) struct Pipeline<'s> {
    session: Session,
    redactor: Option<Redactor>,
    sinks: Vec<&'s mut dyn Sink>,
}

impl<'s> Pipeline<'s> {
    /// A pipeline for a capture on a host; `sinks` get the session and the filter as they are written.
    pub(super) fn new(
        host: Host,
        filter: &Filter,
        mut redactor: Option<Redactor>,
        sinks: impl FnOnce(&Session, &Filter) -> anyhow::Result<Vec<&'s mut dyn Sink>>,
    ) -> anyhow::Result<Self> {
        let (host, filter) = match &mut redactor {
            Some(redactor) => (redactor.host(&host), redactor.filter(filter)),
            None => (host, filter.clone()),
        };
        let session = Session::new(host, filter.clone());
        let sinks = sinks(&session, &filter)?;
        Ok(Self { session, redactor, sinks })
    }

    /// The session.
    pub(super) const fn session(&self) -> &Session {
        &self.session
    }

    /// What is to be asked of the kernel now.
    pub(super) fn requests(&mut self, now: Instant) -> Vec<Request> {
        let requests = self.session.requests(now);
        self.originals(requests)
    }

    /// What is to be asked of it before the capture ends.
    pub(super) fn last_requests(&mut self) -> Vec<Request> {
        let requests = self.session.last_requests();
        self.originals(requests)
    }

    fn originals(&self, requests: Vec<Request>) -> Vec<Request> {
        match &self.redactor {
            Some(redactor) => requests.into_iter().map(|request| redactor.request(request)).collect(),
            None => requests,
        }
    }

    /// Takes an item.
    pub(super) fn offer(&mut self, item: &Item) -> anyhow::Result<()> {
        let Self { session, redactor, sinks } = self;
        let item = match redactor {
            Some(redactor) => Cow::Owned(redactor.item(item.clone())),
            None => Cow::Borrowed(item),
        };
        let observed = session.item(&item);
        sinks.iter_mut().try_for_each(|sink| sink.item(&item, observed.as_ref(), session))
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

    /// Ends the sinks, and gives out the session.
    pub(super) fn end(mut self) -> anyhow::Result<Session> {
        self.sinks.iter_mut().try_for_each(|sink| sink.end())?;
        Ok(self.session)
    }
}

#[cfg(test)]
mod tests {
    use tracer_common::Hook;
    use tracer_engine::engine::Observed;
    use tracer_engine::session::Session;
    use tracer_model::capture::{Host, Item, LookUp, Request};
    use tracer_model::conntrack::Tuple;
    use tracer_model::decode::decode;
    use tracer_model::filter::Filter;
    use tracer_model::time::Instant;
    use tracer_recording::redact::{Key, Redactor};
    use tracer_testing::{Build, REPLY};

    use super::{Pipeline, Sink};

    /// Keeps the endpoints of every packet that it gets.
    #[derive(Default)]
    struct Endpoints(Vec<Tuple>);

    impl Sink for Endpoints {
        fn item(&mut self, item: &Item, observed: Option<&Observed>, session: &Session) -> anyhow::Result<()> {
            let Item::Record(raw) = item else { return Ok(()) };
            let tuple = decode(raw)?.tuple().unwrap();
            let flow = observed.and_then(|observed| session.flow(observed.flow?)).unwrap();
            assert_eq!(flow.key.reply, tuple, "the session sees what is written");
            self.0.push(tuple);
            Ok(())
        }
    }

    fn capture(redactor: Option<Redactor>) -> (Vec<Tuple>, Vec<LookUp>) {
        let mut sink = Endpoints::default();
        let mut asked = Vec::new();
        let host = Host { hostname: "gw.acme.example".to_owned(), ..Host::nobody() };
        let mut pipeline =
            Pipeline::new(host, &Filter::default(), redactor, |_, _| Ok(vec![&mut sink as &mut dyn Sink])).unwrap();
        let refused = Build::from_server(Hook::CtInvalid, 1, 1_000, 3, 4).entry(REPLY, 5, 6);
        let answered = Build::from_server(Hook::ResetV4, 1, 1_001, 3, 4);
        for build in [refused, answered] {
            pipeline.offer(&Item::Record(build.bytes())).unwrap();
        }
        let later = Instant(60_000_000_000);
        asked.extend(pipeline.requests(later));
        asked.extend(pipeline.last_requests());
        let look_ups = asked.into_iter().filter_map(|request| match request {
            Request::LookUp(look_up) => Some(look_up),
            _ => None,
        });
        let look_ups = look_ups.collect();
        pipeline.end().unwrap();
        (sink.0, look_ups)
    }

    /// One session is enough: it knows the pseudonyms alone, and the kernel is asked about the connection that there is.
    #[test]
    fn sinks_get_pseudonyms_and_the_kernel_originals() {
        let (written, asked) = capture(None);
        let (redacted, still_asked) = capture(Some(Redactor::new(&Key::new([5; 32]))));
        assert!(!asked.is_empty());
        assert_eq!(asked, still_asked);
        assert_eq!(written.len(), redacted.len());
        assert!(written.iter().zip(&redacted).all(|(before, after)| before.src.ip() != after.src.ip()));
    }
}
