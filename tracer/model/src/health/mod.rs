//! Health data: the facts behind the findings of `whyrst doctor`.
//!
//! Data only. The crate `tracer-host` reads it into [`Facts`]. A fact that could not be read is absent and named in `unread`;
//! no finding rests on an absent fact.

pub mod counters;
pub mod ports;
pub mod sizing;
pub mod sysctls;
pub mod table;

use std::collections::BTreeMap;

use ipnet::IpNet;
use tracer_common::Hook;

use crate::capture::HookState;
use crate::conntrack::log_format::LogFormat;
use crate::ruleset::Rule;
use crate::ruleset::audit::Audit;
use crate::ruleset::tables::Ruleset;
use crate::shell::word;
use crate::time::Instant;

use counters::{Counter, PerCpu};
use table::Table;

/// Everything that was read of a host.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The host.
    pub host: Machine,
    /// Whether it can be traced.
    pub tracing: Tracing,
    /// Its network namespaces, as many as were asked for.
    pub namespaces: Vec<Namespace>,
}

impl Facts {
    /// Whether they are of a ruleset that was sent in a file.
    pub fn is_of_file(&self) -> bool {
        self.namespaces.iter().any(|namespace| !namespace.loaded.is_empty())
    }
}

/// An obstacle to tracing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// A word that scripts can rely on.
    pub id: &'static str,
    /// The obstacle, with its evidence.
    pub what: String,
    /// How to remove it.
    pub fix: String,
}

impl Obstacle {
    /// An obstacle.
    pub fn new(id: &'static str, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { id, what: what.into(), fix: fix.into() }
    }
}

/// The host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its name.
    pub hostname: String,
    /// The kernel's release, as `uname -r` prints it.
    pub kernel: String,
    /// The conntrack log format, where conntrack is loaded.
    pub log_format: Option<LogFormat>,
    /// Bytes of memory (`MemTotal` of /proc/meminfo).
    pub memory: Option<u64>,
    /// Bytes of an entry without its extensions, where BTF has it.
    pub entry_bytes: Option<u64>,
    /// Installed programs, of those that advice uses.
    pub programs: Vec<&'static str>,
    /// What could not be read, and why.
    pub unread: Vec<String>,
}

impl Machine {
    /// The command that shows a rule in its chain, with the program that this host has.
    pub fn shows(&self, rule: &Rule) -> String {
        let command = rule.shown_by();
        let legacy = ["iptables-legacy", "ip6tables-legacy"].into_iter().find(|program| command.starts_with(*program));
        match legacy {
            // Where there is one variant only, it goes by the plain name.
            Some(program) if !self.programs.contains(&program) => command.replacen("-legacy", "", 1),
            _ => command,
        }
    }
}

/// Whether a host can be traced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tracing {
    /// The obstacles.
    pub obstacles: Vec<Obstacle>,
    /// Whether `nf_conntrack` is loaded.
    pub conntrack: bool,
    /// How each hook would be attached, where that is known.
    pub hooks: Vec<(Hook, HookState)>,
    /// Fields that this kernel's BTF does not have, though some kernel's does.
    pub missing_fields: Vec<&'static str>,
    /// Limits of memory for BPF maps.
    pub memory: MapMemory,
    /// Why hooks and fields are not known.
    pub problem: Option<String>,
}

impl Tracing {
    /// Whether a capture can start.
    pub fn possible(&self) -> bool {
        self.conntrack && self.obstacles.is_empty()
    }

    /// How a hook would be attached.
    pub fn hook(&self, wanted: Hook) -> Option<&HookState> {
        self.hooks.iter().find(|(hook, _)| *hook == wanted).map(|(_, state)| state)
    }
}

/// What limits the memory of BPF maps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MapMemory {
    /// `RLIMIT_MEMLOCK` where it counts and cannot be raised: before 5.11 maps were charged to it.
    pub locked: Option<u64>,
    /// Bytes that are left in the control group of this process, where it has a limit.
    pub group_left: Option<u64>,
}

/// A network namespace at two points in time.
#[derive(Debug, Clone)]
pub struct Namespace {
    /// Its inode number.
    pub inode: u32,
    /// How a command enters it.
    pub place: NetnsRef,
    /// The first sample.
    pub before: Sample,
    /// The second.
    pub after: Sample,
    /// conntrack's sysctls, by their name below `net.netfilter`.
    pub sysctls: BTreeMap<String, i64>,
    /// Whether `nf_conntrack_max` can be set here: in most kernels in the initial namespace alone.
    pub own_limit: bool,
    /// The table, where it could be read.
    pub table: Option<Table>,
    /// What its rules do to tracked connections.
    pub audit: Option<Audit>,
    /// Its whole ruleset.
    pub ruleset: Option<Ruleset>,
    /// Its network interfaces but for loopback.
    pub links: Vec<Link>,
    /// How its ruleset was loaded, if that was sent in a file: then nothing but the rules is known.
    pub loaded: Vec<String>,
    /// What could not be read, and why.
    pub unread: Vec<String>,
}

impl Namespace {
    /// A sysctl's value.
    pub fn sysctl(&self, name: &str) -> Option<i64> {
        self.sysctls.get(name).copied()
    }

    /// A sysctl's value that counts something.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.sysctl(name).and_then(|value| u64::try_from(value).ok())
    }

    /// Entries that it may have.
    pub fn max(&self) -> Option<u64> {
        self.number("nf_conntrack_max").filter(|max| *max > 0)
    }

    /// Entries that it has.
    pub const fn entries(&self) -> Option<u64> {
        self.after.entries
    }

    /// How full the table is, in percent.
    pub fn used(&self) -> Option<u64> {
        Some(self.entries()? * 100 / self.max()?)
    }

    /// Seconds between the two samples.
    pub fn seconds(&self) -> f64 {
        (self.after.at - self.before.at).as_secs_f64()
    }

    /// The growth of a counter between the samples.
    pub fn grown(&self, counter: Counter) -> Option<u64> {
        counters::grown(&self.before.counters, &self.after.counters, counter)
    }

    /// How fast a counter grows, per second.
    #[expect(clippy::cast_precision_loss, reason = "a rate is rounded when it is shown")]
    pub fn rate(&self, counter: Counter) -> Option<f64> {
        let seconds = self.seconds();
        self.grown(counter).filter(|_| seconds > 0.0).map(|grown| grown as f64 / seconds)
    }

    /// What a counter has come to, over all CPUs.
    pub fn total(&self, counter: Counter) -> Option<u64> {
        counters::total(&self.after.counters, counter)
    }

    /// How fast the table grows, in entries per second; negative where it shrinks.
    #[expect(clippy::cast_precision_loss, reason = "a rate is rounded when it is shown")]
    pub fn trend(&self) -> Option<f64> {
        let (before, after) = (self.before.entries?, self.after.entries?);
        let seconds = self.seconds();
        (seconds > 0.0).then(|| (after as f64 - before as f64) / seconds)
    }

    /// Whether the counters show no tracked connection, now or before.
    pub fn is_idle(&self) -> bool {
        let counted = |counter| self.total(counter).unwrap_or(0) > 0;
        self.entries() == Some(0) && !Counter::ALL.into_iter().any(counted)
    }
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Its addresses, those of the link alone left out.
    pub addresses: Vec<IpNet>,
    /// Whether a default route leads through it.
    pub default_route: bool,
}

/// The counters of a namespace at a point in time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sample {
    /// When.
    pub at: Instant,
    /// Entries of its table.
    pub entries: Option<u64>,
    /// conntrack's counters of each CPU; empty where they could not be read.
    pub counters: Vec<PerCpu>,
    /// Expected connections that helpers wait for.
    pub expectations: Option<u64>,
}

/// How a command enters a network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetnsRef {
    /// Its name, as `ip netns` knows it.
    pub name: Option<String>,
    /// A process that is in it.
    pub pid: Option<u32>,
    /// Whether whyrst itself is in it.
    pub home: bool,
    /// Whether it is the initial namespace.
    pub initial: bool,
}

impl NetnsRef {
    /// The prefix of a command; `None` where no command can enter.
    pub fn prefix(&self) -> Option<String> {
        if self.home {
            return Some(String::new());
        }
        // A name that begins with a dash would be taken for an option.
        let name = self.name.as_deref().filter(|name| !name.starts_with('-'));
        let named = name.map(|name| format!("ip netns exec {} ", word(name)));
        named.or_else(|| self.pid.map(|pid| format!("nsenter --net=/proc/{pid}/ns/net ")))
    }

    /// The command with its prefix, or with a note that it belongs into that namespace.
    pub fn command(&self, command: &str) -> String {
        self.prefix().map_or_else(|| format!("in that network namespace: {command}"), |prefix| prefix + command)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::NetnsRef;

    #[rstest]
    #[case::home(Some("gw"), None, true, Some(""))]
    #[case::named(Some("gw-1"), Some(7), false, Some("ip netns exec gw-1 "))]
    #[case::of_a_container(None, Some(7), false, Some("nsenter --net=/proc/7/ns/net "))]
    #[case::nowhere(None, None, false, None)]
    #[case::hostile(Some("a; reboot"), None, false, Some("ip netns exec 'a; reboot' "))]
    #[case::quoted(Some("it's"), None, false, Some("ip netns exec 'it'\\''s' "))]
    #[case::an_option(Some("-batch"), None, false, None)]
    #[case::for_a_terminal(Some("\u{1b}[2J"), Some(7), false, Some("ip netns exec $'\\x1b[2J' "))]
    fn commands_get_there(
        #[case] name: Option<&str>,
        #[case] pid: Option<u32>,
        #[case] home: bool,
        #[case] expected: Option<&str>,
    ) {
        let place = NetnsRef { name: name.map(str::to_owned), pid, home, initial: false };
        assert_eq!(place.prefix().as_deref(), expected);
    }
}
