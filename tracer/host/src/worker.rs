//! The thread that enters network namespaces and answers [`Request`]s there: look-ups, facts, rules, table usage and host
//! context. How each is read is decided elsewhere.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;

use tracer_model::capture::{Item, LookUp, LookedUp, Netns, Outcome, Request};
use tracer_model::host_context::{HostContext, NetnsPath};
use tracer_model::ruleset::Rules;
use tracer_model::table_usage::{Counting, TableUsage};

use crate::ctnetlink::{self, Ctnetlink};
use crate::netns::{self, Home, inode};
use crate::{host_context, now, privileges, ruleset};

/// The sysctls that decide what conntrack does with a TCP packet, below `net.netfilter`.
const SYSCTLS: [&str; 13] = [
    "nf_conntrack_count",
    "nf_conntrack_max",
    "nf_conntrack_tcp_be_liberal",
    "nf_conntrack_tcp_loose",
    "nf_conntrack_tcp_ignore_invalid_rst",
    "nf_conntrack_checksum",
    "nf_conntrack_log_invalid",
    "nf_conntrack_tcp_timeout_established",
    "nf_conntrack_tcp_timeout_close",
    "nf_conntrack_buckets",
    "nf_conntrack_tcp_timeout_fin_wait",
    "nf_conntrack_tcp_timeout_close_wait",
    "nf_conntrack_tcp_timeout_last_ack",
];

/// Most entries of a table that are counted.
const MOST_ENTRIES: u64 = 4_000_000;

/// A thread that enters network namespaces and asks the kernel there, so that the rest of the program stays where it is.
pub(crate) struct NetnsWorker {
    requests: mpsc::Sender<Vec<Request>>,
    /// The thread ends when this does, whatever is still to be asked.
    _wanted: Arc<()>,
}

impl NetnsWorker {
    /// Starts the thread. It hands every answer to `answer` and ends when the worker is dropped.
    pub(crate) fn start(answer: impl Fn(Item) + Send + 'static) -> io::Result<Self> {
        let (requests, inbox) = mpsc::channel::<Vec<Request>>();
        let home = Home::of_thread()?;
        let wanted = Arc::new(());
        let still_wanted = Arc::downgrade(&wanted);
        thread::Builder::new().name("netns-worker".to_owned()).spawn(move || {
            // The one thread that keeps capabilities while a capture goes on.
            if let Err(error) = privileges::keep_with_children(privileges::ASKING) {
                tracing::debug!("the thread that asks the kernel keeps all capabilities: {error}");
            }
            let mut answer = |item| {
                answer(item);
                if still_wanted.strong_count() == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            while let Ok(batch) = inbox.recv() {
                let mut visits = batch.chunk_by(|one, next| one.netns() == next.netns());
                if visits.try_for_each(|requests| ask(requests, &home, &mut answer)).is_break() {
                    break;
                }
            }
        })?;
        Ok(Self { requests, _wanted: wanted })
    }

    /// Asks; the answers come one by one, in this order.
    pub(crate) fn ask(&self, batch: Vec<Request>) {
        // The thread ends only when the worker is dropped.
        if !batch.is_empty() && self.requests.send(batch).is_err() {
            tracing::warn!("the thread that asks the kernel has ended");
        }
    }
}

/// Asks from a thread of its own, so that the calling one stays where it is.
pub(crate) fn answer(request: Request) -> io::Result<Item> {
    let home = Home::of_thread()?;
    let asked = thread::scope(|scope| {
        let work = thread::Builder::new().spawn_scoped(scope, || {
            let mut answered = None;
            let _ended = ask(&[request], &home, &mut |item| {
                answered = Some(item);
                ControlFlow::Break(())
            });
            answered
        })?;
        io::Result::Ok(work.join().unwrap_or_else(|panicked| std::panic::resume_unwind(panicked)))
    })?;
    asked.ok_or_else(|| io::Error::other("the kernel was not asked"))
}

/// Asks everything that is asked of one namespace in one visit there: to find it, to enter it and to open a socket takes longer
/// than the kernel does to look an entry up. Every request gets its answer, unless `answer` breaks off.
fn ask(requests: &[Request], home: &Home, answer: &mut impl FnMut(Item) -> ControlFlow<()>) -> ControlFlow<()> {
    let Some(netns) = requests.first().map(Request::netns) else { return ControlFlow::Continue(()) };
    let handle = netns::find(netns);
    let name = handle.as_ref().and_then(|handle| handle.name().map(str::to_owned));
    let way = netns::way(handle.as_ref(), netns == home.inode());
    let mut entered = false;
    let visit = home.visit(netns, handle.as_ref(), || {
        entered = true;
        let mut ctnetlink = None;
        requests.iter().try_for_each(|request| {
            answer(match *request {
                Request::LookUp(look_up) => {
                    let outcome = look_up_here(&mut ctnetlink, look_up);
                    Item::LookedUp(Box::new(LookedUp { look_up, at: now(), outcome }))
                }
                Request::Netns(inode) => Item::Netns(facts(inode, name.clone())),
                Request::Rules(inode) => Item::Rules(ruleset::rejecting(inode, deadline(request))),
                Request::TableUsage(inode) => Item::TableUsage(table_usage_here(inode)),
                Request::HostContext(inode) => {
                    let initial = initial(home.inode());
                    let read = host_context::read_here(inode, way.clone(), initial, deadline(request));
                    Item::HostContext(Box::new(read))
                }
            })
        })
    });
    match visit {
        Ok(flow) => flow,
        Err(error) if entered => {
            // What it answered from here on would be about the wrong namespace.
            tracing::error!("coming back from network namespace {netns}: {error}");
            ControlFlow::Break(())
        }
        Err(error) => {
            let because = format!("network namespace {netns}: {error}");
            requests.iter().try_for_each(|request| answer(unanswered(*request, &because, &way, name.clone())))
        }
    }
}

/// The answer of a namespace that could not be entered.
fn unanswered(request: Request, because: &str, way: &NetnsPath, name: Option<String>) -> Item {
    let because = because.to_owned();
    match request {
        Request::LookUp(look_up) => {
            Item::LookedUp(Box::new(LookedUp { look_up, at: now(), outcome: Outcome::Failed { because } }))
        }
        Request::Rules(netns) => Item::Rules(Rules { problems: vec![because], ..ruleset::unread(netns) }),
        Request::TableUsage(netns) => Item::TableUsage(Counting::default().finish(netns, now(), Some(because))),
        Request::HostContext(netns) => {
            let unknown = HostContext::unknown(netns, now(), way.clone());
            Item::HostContext(Box::new(HostContext { problems: vec![because], ..unknown }))
        }
        Request::Netns(inode) => {
            tracing::debug!("{because}");
            Item::Netns(Netns { inode, name, at: now(), entries: None, max: None, invalid: None, sysctls: Vec::new() })
        }
    }
}

/// When the answer to a request is to be there.
fn deadline(request: &Request) -> std::time::Instant {
    std::time::Instant::now() + request.patience()
}

/// How a command that is started where this program was comes to run in the initial namespace.
fn initial(home: u32) -> NetnsPath {
    let at_home = inode(Path::new("/proc/1/ns/net")).map_or(true, |initial| initial == home);
    if at_home { NetnsPath::Here } else { NetnsPath::Process(1) }
}

/// Looks an entry up over a socket that is opened where there is none yet.
fn look_up_here(socket: &mut Option<Ctnetlink>, look_up: LookUp) -> Outcome {
    let opened = socket.take().map_or_else(Ctnetlink::open, Ok);
    let ctnetlink = match opened {
        Ok(ctnetlink) => ctnetlink,
        Err(error) => return Outcome::Failed { because: format!("ctnetlink: {error}") },
    };
    let outcome = ctnetlink.look_up(look_up.tuple, look_up.zone);
    // After a failure an answer may still be in it, which must not be taken for that to the next question.
    *socket = (!matches!(outcome, Outcome::Failed { .. })).then_some(ctnetlink);
    outcome
}

/// Counts who holds the entries of the namespace that the calling thread is in.
fn table_usage_here(netns: u32) -> TableUsage {
    let mut counting = Counting::default();
    let read = ctnetlink::entries(MOST_ENTRIES, deadline(&Request::TableUsage(netns)), |entry| {
        counting.add(entry.original.source, entry.original.service());
    });
    match read {
        Ok(problem) => counting.finish(netns, now(), problem),
        Err(error) => Counting::default().finish(netns, now(), Some(format!("ctnetlink: {error}"))),
    }
}

/// Reads the facts of the namespace that the calling thread is in: /proc/sys/net shows each thread its own.
fn facts(inode: u32, name: Option<String>) -> Netns {
    let read = |sysctl: &str| -> Option<i64> {
        fs::read_to_string(Path::new("/proc/sys/net/netfilter").join(sysctl)).ok()?.trim().parse().ok()
    };
    let sysctls: Vec<(String, i64)> =
        SYSCTLS.iter().filter_map(|name| Some(((*name).to_owned(), read(name)?))).collect();
    let number = |name: &str| {
        let (_, value) = sysctls.iter().find(|(known, _)| known == name)?;
        u32::try_from(*value).ok()
    };
    let (entries, max) = (number("nf_conntrack_count"), number("nf_conntrack_max"));
    let invalid = ctnetlink::invalid();
    let invalid = invalid.inspect_err(|error| tracing::debug!("conntrack's counters: {error}")).ok();
    Netns { inode, name, at: now(), entries, max, invalid, sysctls }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use tracer_model::capture::{Item, LookUp, Outcome, Request};
    use tracer_model::conntrack::Tuple;

    use super::{Home, ask};
    use crate::netns::home;

    /// No namespace has it: the numbers of those begin at `PROC_DYNAMIC_FIRST`.
    const NOWHERE: u32 = 1;

    fn look_up(port: u16) -> Request {
        let tuple = Tuple { src: ([10, 0, 0, 2], port).into(), dst: ([192, 0, 2, 2], 443).into() };
        Request::LookUp(LookUp { netns: NOWHERE, zone: 0, tuple })
    }

    fn asked(requests: &[Request], most: usize) -> Vec<Item> {
        let mut answers = Vec::new();
        let _ended = ask(requests, &Home::of_thread().unwrap(), &mut |item| {
            answers.push(item);
            if answers.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        answers
    }

    #[test]
    fn every_request_is_answered_in_its_turn() {
        let here = home().unwrap();
        let facts = asked(&[Request::Netns(here), Request::Rules(here), Request::Netns(here)], usize::MAX);
        assert!(matches!(&facts[..], [Item::Netns(_), Item::Rules(_), Item::Netns(_)]), "{facts:?}");
        let requests = [look_up(1), look_up(2), Request::TableUsage(NOWHERE), look_up(3)];
        let nowhere = asked(&requests, usize::MAX);
        let of = |item: &Item| match item {
            Item::LookedUp(answer) if matches!(answer.outcome, Outcome::Failed { .. }) => {
                Request::LookUp(answer.look_up)
            }
            Item::TableUsage(table_usage) => Request::TableUsage(table_usage.netns),
            other => panic!("{other:?}"),
        };
        assert_eq!(nowhere.iter().map(of).collect::<Vec<_>>(), requests);
    }

    /// At the end of a capture nobody waits for all answers.
    #[test]
    fn it_stops_when_nobody_listens() {
        assert_eq!(asked(&[look_up(1), look_up(2), look_up(3)], 2).len(), 2);
        assert_eq!(asked(&[Request::Netns(home().unwrap()); 3], 1).len(), 1);
    }
}
