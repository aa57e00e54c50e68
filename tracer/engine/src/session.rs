//! What live and recorded captures share: items in, observations on the way, a conclusion at the end.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

use tracer_common::Hook;
use tracer_model::capture::{
    Counters, Gap, HookStatus, Host, Item, Items, LookUp, LookedUp, Netns, Origin, Request, SuppressedEvents, TableFull,
};
use tracer_model::decode::decode;
use tracer_model::filter::Filter;
use tracer_model::host_context::HostContext;
use tracer_model::ruleset::{Rules, Snapshots};
use tracer_model::table_usage::TableUsage;
use tracer_model::time::Instant;

use crate::Limits;
use crate::conclusion::Conclusion;
use crate::engine::{Engine, Observed};
use crate::flow::{Flow, FlowId};
use crate::hook_line::HookLine;

/// Most full tables whose usage is counted.
const TABLE_USAGES: usize = 4;
/// Most namespaces whose host context is read.
const HOST_CONTEXTS: usize = 16;

/// Most gaps that are kept.
const GAPS: usize = 256;

/// Replays a recording. `each` gets every item, and the observation that the session made of it.
pub fn replay<E: From<io::Error>>(
    reader: &mut impl Items,
    filter: Filter,
    mut each: impl FnMut(&Item, Option<&Observed>, &Session) -> Result<(), E>,
) -> Result<Session, E> {
    let mut session = Session::new(reader.host().clone(), filter);
    while let Some(item) = reader.read()? {
        let observed = session.item(&item);
        each(&item, observed.as_ref(), &session)?;
    }
    Ok(session)
}

/// A capture in progress.
pub struct Session {
    host: Host,
    filter: Filter,
    engine: Engine,
    hooks: Vec<HookStatus>,
    counters: Option<Counters>,
    namespaces: BTreeMap<u32, Netns>,
    rulesets: BTreeMap<u32, Snapshots>,
    table_usages: BTreeMap<u32, TableUsage>,
    host_context: BTreeMap<u32, HostContext>,
    gaps: Vec<Gap>,
    undecodable: u64,
    last: Instant,
    resets: u64,
    /// Questions to the kernel, and answers.
    asked: usize,
    answered: usize,
}

impl Session {
    /// A session for a capture of this host.
    pub fn new(host: Host, filter: Filter) -> Self {
        Self {
            engine: Engine::new(host.log_format, Limits::default(), filter.clone()),
            last: host.started,
            host,
            filter,
            hooks: Vec::new(),
            counters: None,
            namespaces: BTreeMap::new(),
            rulesets: BTreeMap::new(),
            table_usages: BTreeMap::new(),
            host_context: BTreeMap::new(),
            gaps: Vec::new(),
            undecodable: 0,
            resets: 0,
            asked: 0,
            answered: 0,
        }
    }

    /// The host.
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// Takes an item; a record gives an observation.
    pub fn item(&mut self, item: &Item) -> Option<Observed> {
        if matches!(
            item,
            Item::LookedUp(_) | Item::Netns(_) | Item::Rules(_) | Item::TableUsage(_) | Item::HostContext(_)
        ) {
            self.answered += 1;
        }
        match item {
            Item::Record(raw) => match decode(raw) {
                Ok(event) => {
                    self.last = self.last.max(event.at);
                    let of_others =
                        [Hook::CtInvalid, Hook::CtMalformed, Hook::NewRefused, Hook::PacketTap, Hook::TcxTap];
                    self.resets += u64::from(!of_others.contains(&event.hook));
                    let mut observed = self.engine.event(event);
                    self.engine.mark_provisional(&mut observed, &self.gaps);
                    return Some(observed);
                }
                Err(error) => {
                    tracing::debug!("{error}");
                    self.undecodable += 1;
                }
            },
            Item::Hook(status) => match self.hooks.iter_mut().find(|known| known.hook == status.hook) {
                Some(known) => *known = status.clone(),
                None => self.hooks.push(status.clone()),
            },
            Item::Counters(counters) => {
                self.last = self.last.max(counters.at);
                for full in &counters.table_full {
                    self.engine.namespace(full.netns);
                }
                self.counters = Some(counters.clone());
            }
            Item::Suppressed(suppressed) => {
                self.last = self.last.max(suppressed.at);
                self.engine.suppressed(suppressed);
            }
            Item::Netns(netns) => {
                self.namespaces.insert(netns.inode, netns.clone());
            }
            Item::Rules(rules) => {
                self.last = self.last.max(rules.at);
                match self.rulesets.entry(rules.netns) {
                    Entry::Vacant(place) => drop(place.insert(Snapshots::new(rules.clone()))),
                    Entry::Occupied(mut snapshots) => snapshots.get_mut().add(rules.clone()),
                }
            }
            Item::TableUsage(table_usage) => {
                self.last = self.last.max(table_usage.at);
                self.table_usages.insert(table_usage.netns, table_usage.clone());
            }
            Item::HostContext(context) => {
                self.last = self.last.max(context.at);
                self.host_context.insert(context.netns, HostContext::clone(context));
            }
            Item::LookedUp(answer) => {
                self.last = self.last.max(answer.at);
                self.engine.looked_up(LookedUp::clone(answer));
            }
            Item::Gap(gap) => {
                self.last = self.last.max(gap.until.or(gap.from).unwrap_or_default());
                if self.gaps.len() < GAPS {
                    self.gaps.push(gap.clone());
                }
            }
            Item::Ended(at) => self.last = self.last.max(*at),
        }
        None
    }

    /// The engine's questions to the kernel now.
    pub fn requests(&mut self, now: Instant) -> Vec<Request> {
        let requests = self.engine.requests(now);
        self.asked += requests.len();
        requests
    }

    /// How many answers are still to come.
    pub const fn outstanding(&self) -> usize {
        self.asked.saturating_sub(self.answered)
    }

    /// The time of the next question.
    pub fn next_request(&self) -> Option<Instant> {
        self.engine.next_request()
    }

    /// The questions at the end of the capture.
    pub fn last_requests(&mut self) -> Vec<Request> {
        let full = self.counters.iter().flat_map(|counters| &counters.table_full);
        let mut full: Vec<&TableFull> = full.filter(|full| self.filter.matches_netns(full.netns)).collect();
        full.sort_by_key(|full| std::cmp::Reverse(full.dropped + full.made_room));
        // First: the table changes, and there may be many entries to be looked up.
        let mut requests: Vec<Request> =
            full.into_iter().take(TABLE_USAGES).map(|full| Request::TableUsage(full.netns)).collect();
        requests.extend(self.engine.last_requests());
        let tables = self.counters.iter().flat_map(|counters| &counters.table_full);
        let tables = tables.map(|full| full.netns).filter(|netns| self.filter.matches_netns(*netns));
        let harmed: BTreeSet<u32> = self.engine.harmed().into_iter().chain(tables).collect();
        requests.extend(harmed.into_iter().take(HOST_CONTEXTS).map(Request::HostContext));
        self.asked += requests.len();
        requests
    }

    /// The flow with this number.
    pub fn flow(&self, id: FlowId) -> Option<&Flow> {
        self.engine.flow(id)
    }

    /// The name of a network namespace, where it is known and has one.
    pub fn netns_name(&self, inode: u32) -> Option<&str> {
        self.namespaces.get(&inode)?.name.as_deref()
    }

    /// Whether events that were only counted are of a flow that the filter wants.
    pub fn wants(&self, events: &SuppressedEvents) -> bool {
        self.engine.wants(events)
    }

    /// Whether an entry that was looked up belongs to a flow.
    pub fn knows(&self, look_up: &LookUp) -> bool {
        self.engine.knows(look_up)
    }

    /// Events and RSTs so far.
    pub fn progress(&self) -> (u64, u64) {
        (self.engine.totals().events, self.resets)
    }

    /// What a comparison needs besides the report.
    pub fn background(&self) -> Background {
        let latest = self.rulesets.iter().map(|(netns, snapshots)| (*netns, snapshots.latest().clone()));
        Background {
            namespaces: self.namespaces.clone(),
            rulesets: latest.collect(),
            forgotten: self.engine.totals().forgotten.flows,
        }
    }

    /// What the capture came to.
    pub fn finish(self, origin: Origin) -> Conclusion {
        let (flows, totals) = self.engine.finish();
        let mut concluded = Conclusion {
            host: self.host,
            origin,
            ended: self.last,
            hooks: HookLine::all(&self.hooks, self.counters.as_ref()),
            counters: self.counters,
            namespaces: self.namespaces,
            rulesets: self.rulesets,
            table_usages: self.table_usages,
            host_context: self.host_context,
            gaps: self.gaps,
            undecodable: self.undecodable,
            flows,
            of_endpoints: Vec::new(),
            totals,
            filter: self.filter,
        };
        concluded.conclude();
        concluded
    }
}

/// Facts about the host besides the report.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Background {
    /// The last facts about every namespace.
    pub namespaces: BTreeMap<u32, Netns>,
    /// The rules that answer with a RST, in the namespaces where one did.
    pub rulesets: BTreeMap<u32, Rules>,
    /// Evicted flows.
    pub forgotten: u64,
}

#[cfg(test)]
mod tests {
    use tracer_common::Hook;
    use tracer_model::capture::{Counters, Host, Item, Netns, Request, TableFull};
    use tracer_model::filter::Filter;
    use tracer_model::table_usage::Counting;
    use tracer_model::time::Instant;
    use tracer_testing::{Build, GATEWAY};

    use super::Session;

    fn netns(inode: u32) -> Netns {
        Netns { inode, name: None, at: Instant(2), entries: None, max: None, invalid: None, sysctls: Vec::new() }
    }

    /// Questions from before the end are answered before those at the end: the session waits for all answers.
    #[test]
    fn answers_are_waited_for() {
        let mut session = Session::new(Host::nobody(), Filter::default());
        session.item(&Item::Record(Build::from_server(Hook::ResetV4, 1, 1, 2, 3).bytes()));
        let asked = session.requests(Instant(1));
        assert!(asked.contains(&Request::Netns(GATEWAY)));
        assert_eq!(session.outstanding(), asked.len());
        session.item(&Item::Netns(netns(GATEWAY)));
        assert_eq!(session.outstanding(), asked.len() - 1);
        let last = session.last_requests();
        assert!(!last.is_empty());
        assert_eq!(session.outstanding(), asked.len() - 1 + last.len());
    }

    /// The usage of full tables is counted first, the fullest first, and only where the filter wants it.
    #[test]
    fn full_tables_are_counted_at_the_end() {
        let full =
            |netns: u32, dropped: u64| TableFull { netns, dropped, made_room: 1, first: Instant(1), last: Instant(1) };
        let counters = Counters {
            at: Instant(1),
            hooks: Vec::new(),
            lost_on: Vec::new(),
            table_full: (1..=9).map(|netns| full(netns, u64::from(netns))).collect(),
        };
        let last = |filter: Filter| {
            let mut session = Session::new(Host::nobody(), filter);
            session.item(&Item::Counters(counters.clone()));
            assert!(!session.requests(Instant(1)).iter().any(|request| matches!(request, Request::TableUsage(_))));
            session.last_requests()
        };
        let all = last(Filter::default());
        assert_eq!(all[..4], [9, 8, 7, 6].map(Request::TableUsage));
        assert!(!all[4..].iter().any(|request| matches!(request, Request::TableUsage(_))));
        let one = last(Filter { netns: vec![3], ..Filter::default() });
        assert_eq!(one[0], Request::TableUsage(3));
        assert!(matches!(one[1], Request::Netns(_)));
    }

    #[test]
    fn table_usage_is_an_answer() {
        let mut session = Session::new(Host::nobody(), Filter::default());
        session.item(&Item::TableUsage(Counting::default().finish(GATEWAY, Instant(9), None)));
        assert_eq!(session.outstanding(), 0, "a recording answers what nobody asked");
    }
}
