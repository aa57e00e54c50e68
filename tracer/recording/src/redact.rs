//! Redaction: a recording that can be shown to others.
//!
//! Every item is rewritten before the session takes it, so that reports, lines, recordings and exports of redacted items
//! agree with each other. Addresses and names become pseudonyms that follow from a key. Everything that the diagnosis needs
//! stays: ports, sequence numbers, windows, flags, times, the kernel's messages, counts. No text is searched for names: a
//! text that can name somebody stays out. docs/recordings.md lists what is not hidden by this.
//!
//! Pure: keys come from outside.

mod address;
mod host_context;
mod key;
mod names;
mod packet;
mod record;
mod rules;
mod text;

use std::io;
use std::net::SocketAddr;

use ipnet::IpNet;

use tracer_model::capture::{
    DestroyedTuples, GapReason, HookState, Host, Item, Items, LookUp, LookedUp, Outcome, Request,
};
use tracer_model::conntrack::Tuple;
use tracer_model::filter::Filter;
use tracer_model::table_usage::Service;

use self::address::Addresses;
use self::names::Names;

pub use self::key::{Key, KeyError};

/// Rewrites items.
pub struct Redactor {
    addresses: Addresses,
    names: Names,
}

impl Redactor {
    /// A redactor whose pseudonyms follow from this key.
    pub fn new(key: &Key) -> Self {
        Self { addresses: Addresses::new(key), names: Names::new(key) }
    }

    /// A host under another name.
    pub fn host(&self, host: &Host) -> Host {
        let Host { hostname, kernel, log_format, clock, started, records, reset_reasons, tool, boot, capture, part } =
            host;
        Host {
            hostname: self.names.whole("host", hostname),
            kernel: kernel.clone(),
            log_format: *log_format,
            clock: *clock,
            started: *started,
            records: *records,
            reset_reasons: reset_reasons.clone(),
            tool: tool.clone(),
            boot: boot.as_ref().map(|boot| self.names.whole("boot", boot)),
            capture: capture.as_ref().map(|capture| self.names.whole("capture", capture)),
            part: *part,
        }
    }

    /// The pseudonym of a network namespace.
    pub fn netns(&self, name: &str) -> String {
        self.names.whole("netns", name)
    }

    /// An item under pseudonyms.
    pub fn item(&mut self, item: Item) -> Item {
        match item {
            Item::Record(raw) => Item::Record(self.record(&raw)),
            Item::Hook(mut status) => {
                if let HookState::Unavailable { because } = &mut status.state {
                    *because = text::own_words(because);
                }
                Item::Hook(status)
            }
            Item::Netns(mut netns) => {
                netns.name = netns.name.map(|name| self.netns(&name));
                Item::Netns(netns)
            }
            Item::LookedUp(answer) => Item::LookedUp(Box::new(self.looked_up(*answer))),
            Item::Rules(rules) => Item::Rules(self.rules(rules)),
            Item::TableUsage(mut table_usage) => {
                for (source, _) in &mut table_usage.sources {
                    *source = self.addresses.pseudonym(*source);
                }
                for (Service { address, .. }, _) in &mut table_usage.services {
                    *address = self.addresses.pseudonym(*address);
                }
                table_usage.problem = table_usage.problem.map(|_| text::LEFT_OUT.to_owned());
                Item::TableUsage(table_usage)
            }
            Item::Suppressed(mut suppressed) => {
                for events in &mut suppressed.events {
                    events.class = self.class(events.class);
                    events.tuple = events.tuple.map(|tuple| self.tuple(tuple));
                }
                Item::Suppressed(suppressed)
            }
            Item::Gap(mut gap) => {
                if let GapReason::Damaged { what } = &mut gap.why {
                    // It begins with a file's name, which may be anything.
                    "a file of the recording is damaged".clone_into(what);
                }
                Item::Gap(gap)
            }
            Item::HostContext(context) => Item::HostContext(Box::new(self.host_context(*context))),
            Item::Counters(_) | Item::Ended(_) => item,
        }
    }

    /// The same choice among redacted flows: networks stay networks of the same size.
    pub fn filter(&mut self, filter: &Filter) -> Filter {
        let Filter { client, server, nat, ports, netns, causes } = filter;
        let mut all = |networks: &[IpNet]| networks.iter().map(|network| self.network(*network)).collect();
        Filter {
            client: all(client),
            server: all(server),
            nat: all(nat),
            ports: ports.clone(),
            netns: netns.clone(),
            causes: causes.clone(),
        }
    }

    /// The request to the kernel behind one that redacted items lead to: the kernel knows no pseudonyms.
    pub fn request(&self, request: Request) -> Request {
        let original = |mut endpoint: SocketAddr| {
            endpoint.set_ip(self.addresses.original(endpoint.ip()));
            endpoint
        };
        match request {
            Request::LookUp(LookUp { netns, zone, tuple: Tuple { src, dst } }) => {
                Request::LookUp(LookUp { netns, zone, tuple: Tuple { src: original(src), dst: original(dst) } })
            }
            Request::Netns(_) | Request::Rules(_) | Request::TableUsage(_) | Request::HostContext(_) => request,
        }
    }

    fn network(&mut self, network: IpNet) -> IpNet {
        let address = self.addresses.pseudonym(network.network());
        IpNet::new(address, network.prefix_len()).map_or(network, |network| network.trunc())
    }

    fn tuple(&mut self, tuple: Tuple) -> Tuple {
        let Tuple { mut src, mut dst } = tuple;
        src.set_ip(self.addresses.pseudonym(src.ip()));
        dst.set_ip(self.addresses.pseudonym(dst.ip()));
        Tuple { src, dst }
    }

    fn looked_up(&mut self, answer: LookedUp) -> LookedUp {
        let LookedUp { look_up: LookUp { netns, zone, tuple }, at, outcome } = answer;
        let outcome = match outcome {
            Outcome::Found { original, reply, state, timeout_s, status } => {
                Outcome::Found { original: self.tuple(original), reply: self.tuple(reply), state, timeout_s, status }
            }
            Outcome::NotFound { was } => Outcome::NotFound {
                was: was.map(|DestroyedTuples { ended, original, reply }| DestroyedTuples {
                    ended,
                    original: self.tuple(original),
                    reply: self.tuple(reply),
                }),
            },
            Outcome::Failed { .. } => Outcome::Failed { because: text::LEFT_OUT.to_owned() },
        };
        LookedUp { look_up: LookUp { netns, zone, tuple: self.tuple(tuple) }, at, outcome }
    }
}

/// Recorded items, redacted.
pub struct Redacted<I> {
    items: I,
    redactor: Redactor,
    host: Host,
}

impl<I: Items> Redacted<I> {
    /// Redacts whatever `items` gives.
    pub fn new(items: I, redactor: Redactor) -> Self {
        let host = redactor.host(items.host());
        Self { items, redactor, host }
    }

    /// The items as they are.
    pub const fn inner(&self) -> &I {
        &self.items
    }
}

impl<I: Items> Items for Redacted<I> {
    fn host(&self) -> &Host {
        &self.host
    }

    fn read(&mut self) -> io::Result<Option<Item>> {
        Ok(self.items.read()?.map(|item| self.redactor.item(item)))
    }
}

#[cfg(test)]
mod tests;
