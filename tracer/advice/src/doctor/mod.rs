//! Facts → findings. Each has a stable id (docs/doctor.md), its evidence, and commands that work on this host.

mod counters;
mod ports;
mod rules;
mod settings;
mod table;
mod tracing;
mod walks;

use std::fmt::Display;

use tracer_model::conntrack::log_format::LogFormat;
use tracer_model::finding::{Finding, Severity};
use tracer_model::health::{Facts, Machine, Namespace};
use tracer_model::mitigation::MitigationId;

pub use walks::{EPHEMERAL, Kind, Row, decider, server_segment, walks};

/// All findings, the most urgent first.
pub fn diagnose(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    if !facts.is_of_file() {
        found.extend(tracing::findings(&facts.tracing, &facts.host));
    }
    for namespace in &facts.namespaces {
        let one = One { namespace, host: &facts.host, alone: facts.namespaces.len() == 1, walks: walks(namespace) };
        found.extend(table::findings(&one));
        found.extend(counters::findings(&one));
        found.extend(ports::findings(&one));
        found.extend(settings::findings(&one));
        found.extend(rules::findings(&one));
        found.extend(idle(&one));
        found.extend(unread(&one));
    }
    found.extend(log_format(&facts.host));
    if !facts.host.unread.is_empty() {
        let mut finding = Finding {
            id: "not-read",
            severity: Severity::Info,
            title: "whyrst could not read some facts of this host".to_owned(),
            evidence: Vec::new(),
            advice: Vec::new(),
        };
        finding.advice.extend(facts.host.unread.iter().cloned());
        found.push(finding);
    }
    found.sort_by_key(|finding| finding.severity);
    found
}

/// An inspected namespace, and its host.
struct One<'a> {
    namespace: &'a Namespace,
    host: &'a Machine,
    /// Whether it is the only one.
    alone: bool,
    /// What becomes of INVALID packets in it.
    walks: Vec<Row>,
}

impl One<'_> {
    fn finding(&self, id: &'static str, severity: Severity, title: impl Into<String>) -> Builder {
        let title: String = title.into();
        let title = if self.alone { title } else { format!("{}: {title}", self.name()) };
        let finding = Finding { id, severity, title, evidence: Vec::new(), advice: Vec::new() };
        Builder(finding).number("netns", self.namespace.inode)
    }

    /// The namespace's name in a text.
    fn name(&self) -> String {
        self.namespace.place.name.clone().unwrap_or_else(|| format!("network namespace {}", self.namespace.inode))
    }

    /// A command inside the namespace.
    fn command(&self, command: &str) -> String {
        self.namespace.place.command(command)
    }

    /// A command that sets a sysctl in the initial namespace, whose value all share, or in this one if it has its own.
    fn set_shared(&self, name: &str, value: u64, own: bool) -> String {
        let command = format!("sysctl -w net.netfilter.{name}={value}");
        if own || self.namespace.place.initial {
            self.command(&command)
        } else if self.namespace.place.home {
            // This namespace cannot set it: enter the initial one.
            format!("nsenter --net=/proc/1/ns/net {command}")
        } else {
            command
        }
    }

    /// A command that sets a sysctl in the namespace.
    fn set(&self, name: &str, value: i64) -> String {
        self.command(&format!("sysctl -w net.netfilter.{name}={value}"))
    }
}

/// Builds a finding.
struct Builder(Finding);

impl Builder {
    fn number(mut self, name: &str, value: impl Display) -> Self {
        self.0.evidence.push((name.to_owned(), value.to_string()));
        self
    }

    fn maybe(self, name: &str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.number(name, value),
            None => self,
        }
    }

    fn advice(mut self, advice: impl Into<String>) -> Self {
        self.0.advice.push(advice.into());
        self
    }

    fn mitigation(self, id: MitigationId) -> Self {
        let id = id.name();
        self.number("mitigation", id).advice(format!("whyrst mitigate {id}"))
    }

    fn done(self) -> Finding {
        self.0
    }
}

fn idle(one: &One<'_>) -> Option<Finding> {
    let quiet = one.namespace.is_idle() && one.namespace.table.is_some();
    quiet.then(|| {
        one.finding(
            "nothing-tracked",
            Severity::Info,
            "conntrack has no entry and has counted nothing: it tracks nothing here",
        )
        .advice("conntrack starts in a namespace when a rule needs it: NAT, or a match on ct state")
        .done()
    })
}

fn unread(one: &One<'_>) -> Option<Finding> {
    let audit = one.namespace.audit.iter().flat_map(|audit| &audit.problems);
    let mut rules: Vec<String> = audit.cloned().collect();
    rules.extend(rules::not_understood(one));
    if one.namespace.unread.is_empty() && rules.is_empty() {
        return None;
    }
    let severity = if one.namespace.unread.is_empty() { Severity::Info } else { Severity::Warning };
    let mut builder = one.finding("not-read", severity, "some facts or rules could not be read");
    for problem in one.namespace.unread.iter().chain(&rules) {
        builder = builder.advice(problem.clone());
    }
    Some(builder.done())
}

/// Which packets a kernel with this conntrack log format refuses.
fn log_format(host: &Machine) -> Option<Finding> {
    let log_format = host.log_format?;
    let (title, advice) = match log_format {
        LogFormat::E1 | LogFormat::E2 => (
            "this kernel refuses every segment out of the window, including late retransmissions",
            "since Linux 6.1 conntrack accepts old segments and acknowledgements (upgrade-kernel)",
        ),
        LogFormat::E3 | LogFormat::E4 => (
            "this kernel accepts old segments and acknowledgements, and refuses those beyond the window",
            "kernel log lines with `SEQ is under` or `ACK under` are about accepted packets",
        ),
        LogFormat::Unknown => (
            "whyrst does not know this conntrack log format: verdicts on logged packets are undecided",
            "please report this kernel to the authors of whyrst",
        ),
    };
    let finding = Finding {
        id: "kernel-era",
        severity: if log_format == LogFormat::Unknown { Severity::Warning } else { Severity::Info },
        title: title.to_owned(),
        evidence: vec![("log_format".to_owned(), log_format.to_string()), ("kernel".to_owned(), host.kernel.clone())],
        advice: vec![advice.to_owned()],
    };
    Some(finding)
}

#[cfg(test)]
pub(super) mod tests;
