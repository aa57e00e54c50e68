//! What `whyrst doctor` reads of network namespaces: counters twice, sysctls, the rules, and the whole table.
//!
//! It changes nothing. ctnetlink is asked only where conntrack is loaded, because a request would load it. What the numbers
//! mean is decided in the crate `advice`.

pub mod host;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io};

use tracer_model::health::counters::from_proc;
use tracer_model::health::ports::Ranges;
use tracer_model::health::sysctls::ALL;
use tracer_model::health::table::{Table, Tally};
use tracer_model::health::{Link, Namespace, NetnsRef, Sample};
use tracer_model::ruleset::audit::Audit;
use tracer_model::ruleset::tables::Ruleset;

use crate::scratch::Loaded;
use crate::{ctnetlink, links, netns, now, ruleset};

/// How long reading the rules of a namespace may take.
const RULES: Duration = Duration::from_secs(3);
/// How long reading the rules of a file may take: it may be larger than any host's.
const LOADED: Duration = Duration::from_secs(10);
/// How long counting a table may take.
const TABLE: Duration = Duration::from_secs(5);
/// Most entries of a table that are counted.
const MOST_ENTRIES: u64 = 8_000_000;
/// conntrack's sysctls.
const SYSCTLS: &str = "/proc/sys/net/netfilter";

/// The network namespaces of this host that can be found: those with a name, and those that a process is in.
pub fn places() -> io::Result<BTreeMap<u32, NetnsRef>> {
    let home = netns::home()?;
    let mut places = BTreeMap::from([(home, NetnsRef { home: true, ..NetnsRef::default() })]);
    for (inode, _, name) in netns::named(Path::new(netns::NAMED)) {
        places.entry(inode).or_default().name.get_or_insert(name);
    }
    for (inode, _, pid) in netns::of_processes() {
        let place = places.entry(inode).or_default();
        // The oldest process is the likeliest to be there tomorrow.
        place.pid = Some(place.pid.map_or(pid, |known| known.min(pid)));
        place.initial |= pid == 1;
    }
    Ok(places)
}

/// A reading of a namespace that has begun.
pub struct Begun {
    inode: u32,
    place: NetnsRef,
    before: Sample,
    sysctls: BTreeMap<String, i64>,
    own_limit: bool,
    unread: Vec<String>,
    audit: Option<Audit>,
    ruleset: Option<Ruleset>,
    links: Vec<Link>,
    table: Option<Table>,
}

/// Reads a namespace's counters for the first time.
pub fn begin(inode: u32, place: NetnsRef) -> Begun {
    let mut unread = Vec::new();
    let read = netns::enter(inode, || {
        let own_limit = fs::metadata(Path::new(SYSCTLS).join("nf_conntrack_max"))
            .is_ok_and(|metadata| metadata.permissions().mode() & 0o200 != 0);
        (sample(&mut unread), sysctls(), own_limit)
    });
    let (before, sysctls, own_limit) = read.unwrap_or_else(|error| {
        unread.push(format!("network namespace {inode} could not be entered: {error}"));
        (Sample { at: now(), ..Sample::default() }, BTreeMap::new(), false)
    });
    Begun {
        inode,
        place,
        before,
        sysctls,
        own_limit,
        unread,
        audit: None,
        ruleset: None,
        links: Vec::new(),
        table: None,
    }
}

impl Begun {
    /// Reads the rules, and then the table.
    pub fn read(&mut self) {
        let inode = self.inode;
        let rules = netns::enter(inode, || (ruleset::whole(Instant::now() + RULES).0, links::read()));
        let Ok((ruleset, links)) = rules else { return };
        match links {
            Ok(links) => self.links = links,
            Err(error) => self.unread.push(format!("the network interfaces could not be read: {error}")),
        }
        let audit = ruleset.audit(inode, now());
        let ranges = Ranges::of_rules(&audit);
        (self.audit, self.ruleset) = (Some(audit), Some(ruleset));
        match netns::enter(inode, || count(ranges)) {
            Ok(Ok((tally, problem))) => self.table = Some(tally.finish(inode, now(), problem)),
            Ok(Err(error)) => {
                self.unread.push(format!("the table could not be read: ctnetlink: {}", explained(&error)));
            }
            Err(error) => self.unread.push(format!("the table could not be read: {error}")),
        }
    }

    /// Reads the counters for the second time.
    pub fn finish(self) -> Namespace {
        let Self { inode, place, before, sysctls, own_limit, unread, audit, ruleset, links, table } = self;
        let mut again = Vec::new();
        let after = netns::enter(inode, || sample(&mut again));
        let after = after.unwrap_or_else(|_| Sample { at: now(), ..Sample::default() });
        Namespace {
            inode,
            place,
            before,
            after,
            sysctls,
            own_limit,
            table,
            audit,
            ruleset,
            links,
            loaded: Vec::new(),
            unread,
        }
    }
}

/// Reads the rules of a file that was loaded into the namespace that this process is in.
pub fn loaded(from: &str, loaded: &Loaded) -> io::Result<Namespace> {
    let inode = netns::home()?;
    let (mut ruleset, _) = ruleset::whole(Instant::now() + LOADED);
    loaded.annotate(&mut ruleset);
    let link = |(name, index): &(String, u32)| Link {
        name: name.clone(),
        index: *index,
        addresses: Vec::new(),
        default_route: false,
    };
    let nothing = Sample { at: now(), ..Sample::default() };
    Ok(Namespace {
        inode,
        // Commands are for the host that it comes from.
        place: NetnsRef { name: Some(from.to_owned()), home: true, ..NetnsRef::default() },
        before: nothing.clone(),
        after: nothing,
        sysctls: BTreeMap::new(),
        own_limit: false,
        table: None,
        audit: Some(ruleset.audit(inode, now())),
        ruleset: Some(ruleset),
        links: loaded.links.iter().map(link).collect(),
        loaded: loaded.notes.clone(),
        unread: Vec::new(),
    })
}

/// Counts the entries of the namespace that the calling thread is in; and why these are not all.
fn count(ranges: Ranges) -> io::Result<(Tally, Option<String>)> {
    let mut tally = Tally::new(ranges);
    let problem = ctnetlink::entries(MOST_ENTRIES, Instant::now() + TABLE, |entry| tally.add(&entry.counted()))?;
    Ok((tally, problem))
}

/// Reads the counters of the namespace that the calling thread is in.
fn sample(unread: &mut Vec<String>) -> Sample {
    let entries = number(&Path::new(SYSCTLS).join("nf_conntrack_count")).and_then(|count| u64::try_from(count).ok());
    if entries.is_none() {
        unread.push(format!("{SYSCTLS}/nf_conntrack_count could not be read"));
    }
    let counters = ctnetlink::counters().or_else(|error| {
        // Of the thread's namespace, not of the process'.
        let listed = fs::read_to_string("/proc/thread-self/net/stat/nf_conntrack").ok().map(|text| from_proc(&text));
        listed.filter(|counters| !counters.is_empty()).ok_or(error)
    });
    let counters = counters.unwrap_or_else(|error| {
        unread.push(format!("conntrack's counters could not be read: ctnetlink: {}", explained(&error)));
        Vec::new()
    });
    // A missing right is reported with the counters already.
    let expectations = ctnetlink::expectations().ok();
    Sample { at: now(), entries, counters, expectations }
}

/// An error of the kernel's, and the right that avoids it.
fn explained(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => format!("{error}; it takes CAP_NET_ADMIN: run whyrst as root"),
        _ => error.to_string(),
    }
}

fn sysctls() -> BTreeMap<String, i64> {
    let path = |name: &str| PathBuf::from(SYSCTLS).join(name);
    ALL.iter().filter_map(|sysctl| Some((sysctl.name.to_owned(), number(&path(sysctl.name))?))).collect()
}

fn number(path: &Path) -> Option<i64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
