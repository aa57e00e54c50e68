//! Network namespaces: finding one by its inode number, and asking questions inside it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use std::{io, thread};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use tracer_model::capture::{Item, LookUp, LookedUp, Netns, Outcome, Request};
use tracer_model::host_context::{HostContext, NetnsPath};
use tracer_model::ruleset::Rules;
use tracer_model::ruleset::audit::{Audit, Found};
use tracer_model::table_usage::{Counting, TableUsage};
use tracer_model::time::Instant;

use super::ctnetlink::{self, Ctnetlink};
use super::{host_context, iptables, nftables, privileges};

/// Where `ip netns` keeps the names.
pub(super) const NAMED: &str = "/run/netns";
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

/// The namespaces that have a name, as `ip netns` gives it: inode numbers and names.
pub fn names() -> BTreeSet<(u32, String)> {
    let named = |entry: fs::DirEntry| Some((inode(&entry.path()).ok()?, entry.file_name().into_string().ok()?));
    fs::read_dir(NAMED).into_iter().flatten().flatten().filter_map(named).collect()
}

/// The inode number of the namespace with this name.
pub fn inode_of_name(name: &str) -> io::Result<u32> {
    inode_of_path(&Path::new(NAMED).join(name))
}

/// The inode number of the namespace that a file leads to, such as `/proc/PID/ns/net`.
pub fn inode_of_path(path: &Path) -> io::Result<u32> {
    /// `NSFS_MAGIC` (include/uapi/linux/magic.h).
    const NSFS: i64 = 0x6e73_6673;
    let file = File::open(path)?;
    // A link below /proc tells the kind of its namespace.
    let kind = fs::read_link(path).ok().filter(|_| path.starts_with("/proc"));
    let other = kind.is_some_and(|kind| !kind.as_os_str().as_encoded_bytes().starts_with(b"net:"));
    if rustix::fs::fstatfs(&file)?.f_type != NSFS || other {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "this file is not a network namespace"));
    }
    u32::try_from(file.metadata()?.ino()).map_err(io::Error::other)
}

pub(super) fn inode(path: &Path) -> io::Result<u32> {
    u32::try_from(fs::metadata(path)?.ino()).map_err(io::Error::other)
}

/// The reading of `CLOCK_BOOTTIME`.
pub fn now() -> Instant {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let nanos = i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
    Instant(u64::try_from(nanos).unwrap_or(0))
}

/// A path through which the namespace can be entered, and its name if it has one.
struct NetnsHandle {
    path: PathBuf,
    name: Option<String>,
}

/// Finds a namespace: by its name, or through a process that is in it.
fn find(wanted: u32) -> Option<NetnsHandle> {
    let named = fs::read_dir(NAMED).into_iter().flatten().flatten().find_map(|entry| {
        let found = inode(&entry.path()).is_ok_and(|inode| inode == wanted);
        found.then(|| NetnsHandle { path: entry.path(), name: Some(entry.file_name().to_string_lossy().into_owned()) })
    });
    named.or_else(|| {
        fs::read_dir("/proc").into_iter().flatten().flatten().find_map(|entry| {
            let is_process = entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
            let path = entry.path().join("ns/net");
            (is_process && inode(&path).is_ok_and(|inode| inode == wanted)).then_some(NetnsHandle { path, name: None })
        })
    })
}

/// The inode number of the namespace that the calling thread is in.
pub fn home() -> io::Result<u32> {
    inode(Path::new("/proc/self/ns/net"))
}

/// Runs code on a thread inside a namespace, so that the calling one stays where it is. Sockets that it opens stay inside.
pub fn enter<T: Send>(netns: u32, question: impl FnOnce() -> T + Send) -> io::Result<T> {
    let home = File::open("/proc/self/ns/net")?;
    let at_home = self::home()? == netns;
    let door = find(netns);
    thread::scope(|scope| {
        let work = thread::Builder::new().spawn_scoped(scope, || inside(door.as_ref(), at_home, &home, question))?;
        work.join().unwrap_or_else(|panicked| std::panic::resume_unwind(panicked))
    })
}

/// A thread that enters network namespaces and asks the kernel there, so that the rest of the program stays where it is.
pub struct NetnsWorker {
    requests: mpsc::Sender<Vec<Request>>,
    /// The thread ends when this does, whatever is still to be asked.
    _wanted: Arc<()>,
}

impl NetnsWorker {
    /// Starts the thread. It hands every answer to `answer` and ends when the asker is dropped.
    pub fn start(answer: impl Fn(Item) + Send + 'static) -> io::Result<Self> {
        let (requests, inbox) = mpsc::channel::<Vec<Request>>();
        let home = File::open("/proc/self/ns/net")?;
        let home_inode = self::home()?;
        let wanted = Arc::new(());
        let still_wanted = Arc::downgrade(&wanted);
        thread::Builder::new().name("asker".to_owned()).spawn(move || {
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
                if visits.try_for_each(|requests| ask(requests, &home, home_inode, &mut answer)).is_break() {
                    break;
                }
            }
        })?;
        Ok(Self { requests, _wanted: wanted })
    }

    /// Asks; the answers come one by one, in this order.
    pub fn ask(&self, batch: Vec<Request>) {
        // The thread ends only when the asker does.
        if !batch.is_empty() && self.requests.send(batch).is_err() {
            tracing::warn!("the thread that asks the kernel has ended");
        }
    }
}

/// Asks from a thread of its own, so that the calling one stays where it is.
pub fn answer(request: Request) -> io::Result<Item> {
    let home = File::open("/proc/self/ns/net")?;
    let home_inode = self::home()?;
    let asked = thread::scope(|scope| {
        let work = thread::Builder::new().spawn_scoped(scope, || {
            let mut answered = None;
            let _ended = ask(&[request], &home, home_inode, &mut |item| {
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
fn ask(
    requests: &[Request],
    home: &File,
    home_inode: u32,
    answer: &mut impl FnMut(Item) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let Some(netns) = requests.first().map(Request::netns) else { return ControlFlow::Continue(()) };
    let (door, at_home) = (find(netns), netns == home_inode);
    let name = door.as_ref().and_then(|door| door.name.clone());
    let way = way(door.as_ref(), at_home);
    let mut entered = false;
    let visit = inside(door.as_ref(), at_home, home, || {
        entered = true;
        let mut ctnetlink = None;
        requests.iter().try_for_each(|request| {
            answer(match *request {
                Request::LookUp(look_up) => {
                    let outcome = look_up_here(&mut ctnetlink, look_up);
                    Item::LookedUp(Box::new(LookedUp { look_up, at: now(), outcome }))
                }
                Request::Netns(inode) => Item::Netns(facts(inode, name.clone())),
                Request::Rules(inode) => Item::Rules(rules_here(inode)),
                Request::TableUsage(inode) => Item::TableUsage(table_usage_here(inode)),
                Request::HostContext(inode) => {
                    Item::HostContext(Box::new(host_context_here(inode, way.clone(), home_inode)))
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
        Request::Rules(netns) => Item::Rules(Rules { problems: vec![because], ..no_rules(netns) }),
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

/// Runs `question` inside a namespace and comes back.
fn inside<T>(door: Option<&NetnsHandle>, at_home: bool, home: &File, question: impl FnOnce() -> T) -> io::Result<T> {
    if at_home {
        return Ok(question());
    }
    let door = door.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no name and no process leads there"))?;
    let target = File::open(&door.path)?;
    move_into_link_name_space(target.as_fd(), Some(LinkNameSpaceType::Network))?;
    let answer = question();
    move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(answer)
}

/// How a command that is started where this program was comes to run behind a door.
fn way(door: Option<&NetnsHandle>, at_home: bool) -> NetnsPath {
    match door {
        Some(NetnsHandle { name: Some(name), .. }) => NetnsPath::Named(name.clone()),
        _ if at_home => NetnsPath::Here,
        Some(door) => {
            let pid = door.path.iter().nth(2).and_then(|pid| pid.to_str()?.parse().ok());
            pid.map_or(NetnsPath::Here, NetnsPath::Process)
        }
        None => NetnsPath::Here,
    }
}

/// The inode number of the namespace that a way leads to.
pub fn leads_to(way: &NetnsPath) -> io::Result<u32> {
    match way {
        NetnsPath::Here => home(),
        NetnsPath::Named(name) => inode_of_name(name),
        NetnsPath::Process(pid) => inode(&PathBuf::from(format!("/proc/{pid}/ns/net"))),
    }
}

/// Runs `question` inside the namespace that a path leads to and comes back; the calling thread is in any namespace.
pub(super) fn visit<T>(path: &Path, question: impl FnOnce() -> T) -> io::Result<T> {
    let here = File::open("/proc/thread-self/ns/net")?;
    let door = NetnsHandle { path: path.to_path_buf(), name: None };
    inside(Some(&door), false, &here, question)
}

/// Reads what there is around the conntrack of the namespace that the calling thread is in.
fn host_context_here(netns: u32, way: NetnsPath, home: u32) -> HostContext {
    let at_home = inode(Path::new("/proc/1/ns/net")).map_or(true, |initial| initial == home);
    let initial = if at_home { NetnsPath::Here } else { NetnsPath::Process(1) };
    let deadline = std::time::Instant::now() + Request::HostContext(netns).patience();
    host_context::read_here(netns, way, initial, deadline)
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

/// Reads the rules that can answer with a RST, of the namespace that the calling thread is in.
fn rules_here(netns: u32) -> Rules {
    let mut rules = no_rules(netns);
    let deadline = std::time::Instant::now() + Request::Rules(netns).patience();
    if nftables::is_there() {
        match nftables::read(nftables::Wanted::Rejecting, deadline) {
            Ok(read) => {
                rules.generation = read.generation;
                rules.rules = read.rules;
                rules.problems = read.problems;
            }
            Err(error) => rules.problems.push(format!("the nftables ruleset could not be read: {error}")),
        }
    }
    let (legacy, problems) = iptables::read(deadline);
    rules.rules.extend(legacy.rejecting);
    rules.problems.extend(problems);
    rules.at = now();
    rules
}

/// Reads what the rules of the calling thread's namespace do to tracked connections.
pub fn audit_here(netns: u32, deadline: std::time::Instant) -> Audit {
    let mut found = Found::default();
    if nftables::is_there() {
        match nftables::read(nftables::Wanted::Audit, deadline) {
            Ok(read) => {
                found.extend(read.found);
                found.problems.extend(read.problems);
            }
            Err(error) => found.problems.push(format!("the nftables ruleset could not be read: {error}")),
        }
    }
    let (legacy, problems) = iptables::read(deadline);
    found.extend(legacy.found);
    found.problems.extend(problems);
    Audit::new(netns, now(), found)
}

/// Reads what the rules of a namespace do to tracked connections, in as much time.
pub fn audit(netns: u32, patience: Duration) -> Audit {
    let deadline = std::time::Instant::now() + patience;
    enter(netns, || audit_here(netns, deadline))
        .unwrap_or_else(|error| Audit::failed(netns, now(), format!("network namespace {netns}: {error}")))
}

fn no_rules(netns: u32) -> Rules {
    let began = now();
    // One file for each family; /proc/sys/net shows each thread its own.
    let bridged = ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"].iter().any(|name| {
        fs::read_to_string(Path::new("/proc/sys/net/bridge").join(name)).is_ok_and(|value| value.trim() != "0")
    });
    Rules { netns, began, at: began, generation: None, bridged, rules: Vec::new(), problems: Vec::new() }
}

/// Counts who holds the entries of the namespace that the calling thread is in.
fn table_usage_here(netns: u32) -> TableUsage {
    let counted = ctnetlink::count(Request::TableUsage(netns).patience());
    let (counting, problem) =
        counted.unwrap_or_else(|error| (Counting::default(), Some(format!("ctnetlink: {error}"))));
    counting.finish(netns, now(), problem)
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
    let invalid = Ctnetlink::open().and_then(|ctnetlink| ctnetlink.invalid());
    let invalid = invalid.inspect_err(|error| tracing::debug!("conntrack's counters: {error}")).ok();
    Netns { inode, name, at: now(), entries, max, invalid, sysctls }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::ops::ControlFlow;

    use tracer_model::capture::{Item, LookUp, Outcome, Request};
    use tracer_model::conntrack::Tuple;

    use super::{ask, home};

    /// No namespace has it: the numbers of those begin at `PROC_DYNAMIC_FIRST`.
    const NOWHERE: u32 = 1;

    fn look_up(port: u16) -> Request {
        let tuple = Tuple { src: ([10, 0, 0, 2], port).into(), dst: ([192, 0, 2, 2], 443).into() };
        Request::LookUp(LookUp { netns: NOWHERE, zone: 0, tuple })
    }

    fn asked(requests: &[Request], most: usize) -> Vec<Item> {
        let mut answers = Vec::new();
        let _ended = ask(requests, &File::open("/proc/self/ns/net").unwrap(), home().unwrap(), &mut |item| {
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
