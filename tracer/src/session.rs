//! What live and recorded captures share: items in, observations on the way, a report at the end.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;

use crate::capture::{Counters, HookStatus, Host, Item, Netns, TableFull};
use crate::causality::Limits;
use crate::causality::engine::{Engine, Observed, Request};
use crate::causality::flow::{Flow, FlowId};
use crate::census::Census;
use crate::decode::decode;
use crate::filter::Filter;
use crate::report::{Ingredients, Origin, Report};
use crate::ruleset::Looks;
use crate::source::recording::Reader;
use crate::time::Instant;

/// Most full tables whose entries are counted.
const CENSUSES: usize = 4;

/// Works off a recording. `each` sees every item, and what the session made of it.
pub fn replay<E: From<io::Error>>(
    reader: &mut Reader,
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

/// A capture being worked off.
pub struct Session {
    host: Host,
    filter: Filter,
    engine: Engine,
    hooks: Vec<HookStatus>,
    counters: Option<Counters>,
    namespaces: BTreeMap<u32, Netns>,
    rulesets: BTreeMap<u32, Looks>,
    censuses: BTreeMap<u32, Census>,
    undecodable: u64,
    last: Instant,
    resets: u64,
}

impl Session {
    /// A session for a capture of this host.
    pub fn new(host: Host, filter: Filter) -> Self {
        Self {
            engine: Engine::new(host.era, Limits::default(), filter.clone()),
            last: host.started,
            host,
            filter,
            hooks: Vec::new(),
            counters: None,
            namespaces: BTreeMap::new(),
            rulesets: BTreeMap::new(),
            censuses: BTreeMap::new(),
            undecodable: 0,
            resets: 0,
        }
    }

    /// The host.
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// Takes an item; a record gives an observation.
    pub fn item(&mut self, item: &Item) -> Option<Observed> {
        match item {
            Item::Record(raw) => match decode(raw) {
                Ok(event) => {
                    self.last = self.last.max(event.at);
                    self.resets += u64::from(!event.hook.name().starts_with("ct-"));
                    return Some(self.engine.event(event));
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
            Item::Netns(netns) => {
                self.namespaces.insert(netns.inode, netns.clone());
            }
            Item::Rules(rules) => {
                self.last = self.last.max(rules.at);
                match self.rulesets.entry(rules.netns) {
                    Entry::Vacant(place) => drop(place.insert(Looks::new(rules.clone()))),
                    Entry::Occupied(mut looks) => looks.get_mut().again(rules.clone()),
                }
            }
            Item::Census(census) => {
                self.last = self.last.max(census.at);
                self.censuses.insert(census.netns, census.clone());
            }
            Item::LookedUp(answer) => {
                self.last = self.last.max(answer.at);
                self.engine.looked_up(answer.clone());
            }
            Item::Ended(at) => self.last = self.last.max(*at),
        }
        None
    }

    /// What the engine wants to know of the kernel now.
    pub fn requests(&mut self, now: Instant) -> Vec<Request> {
        self.engine.requests(now)
    }

    /// When it will want to know something next.
    pub fn next_request(&self) -> Option<Instant> {
        self.engine.next_request()
    }

    /// What it wants to know before the capture ends.
    pub fn last_requests(&mut self) -> Vec<Request> {
        let mut requests = self.engine.last_requests();
        let full = self.counters.iter().flat_map(|counters| &counters.table_full);
        let mut full: Vec<&TableFull> = full.filter(|full| self.filter.matches_netns(full.netns)).collect();
        full.sort_by_key(|full| std::cmp::Reverse(full.dropped + full.made_room));
        requests.extend(full.into_iter().take(CENSUSES).map(|full| Request::Census(full.netns)));
        requests
    }

    /// The flow with this number.
    pub fn flow(&self, id: FlowId) -> Option<&Flow> {
        self.engine.flow(id)
    }

    /// Events and RSTs so far.
    pub fn progress(&self) -> (u64, u64) {
        (self.engine.totals().events, self.resets)
    }

    /// The report.
    pub fn finish(self, origin: Origin) -> Report {
        let (flows, totals) = self.engine.finish();
        Report::new(Ingredients {
            host: self.host,
            origin,
            ended: self.last,
            hooks: self.hooks,
            counters: self.counters,
            namespaces: self.namespaces,
            rulesets: self.rulesets,
            censuses: self.censuses,
            undecodable: self.undecodable,
            flows,
            totals,
            filter: self.filter,
        })
    }
}
