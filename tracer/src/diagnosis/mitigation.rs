//! What would cure it, what that costs, and how to undo it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use crate::capture::Netns;
use crate::causality::flow::{Flow, Strength};
use crate::cause::{Cause, Reason, ResetBy};
use crate::kernel::era::Era;
use crate::report::FlowReport;
use crate::ruleset::Suspects;

/// The sysctl that says for how long an idle connection is kept, in seconds.
const TIMEOUT: &str = "nf_conntrack_tcp_timeout_established";
/// 2 h 4 min, in seconds (RFC 5382 §5, REQ-5).
const RFC_5382_TIMEOUT: i64 = 7_440;

/// A cure's stable name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MitigationId {
    /// A kernel that lets such packets pass.
    UpgradeKernel,
    /// A rule that drops INVALID packets before the local stack can answer them.
    DropInvalidInput,
    /// No window checks at all.
    BeLiberal,
    /// RSTs below the acknowledged sequence number are let pass.
    IgnoreInvalidRst,
    /// A longer timeout for idle connections.
    RaiseTimeout,
    /// Ends that do not stay silent for that long.
    Keepalive,
    /// A table with more room.
    RaiseTableSize,
    /// A look at the rule that rejected.
    ReviewRejectRule,
}

impl MitigationId {
    /// The word used for it in every output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UpgradeKernel => "upgrade-kernel",
            Self::DropInvalidInput => "drop-invalid-input",
            Self::BeLiberal => "be-liberal",
            Self::IgnoreInvalidRst => "ignore-invalid-rst",
            Self::RaiseTimeout => "raise-timeout",
            Self::Keepalive => "keepalive",
            Self::RaiseTableSize => "raise-table-size",
            Self::ReviewRejectRule => "review-reject-rule",
        }
    }
}

/// A cure, with commands for this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mitigation {
    /// Its name.
    pub id: MitigationId,
    /// It in one line.
    pub title: &'static str,
    /// Commands that apply it.
    pub commands: Vec<String>,
    /// Commands that undo it.
    pub undo: Vec<String>,
    /// What else it does.
    pub side_effects: Vec<&'static str>,
    /// The reasons it cures.
    pub cures: Vec<Reason>,
}

/// The cures for a flow, the most thorough first.
pub fn mitigations_for(
    flow: &Flow,
    era: Era,
    namespace: Option<&Netns>,
    suspects: Option<&Suspects>,
) -> Vec<MitigationId> {
    if flow.story.strength() <= Strength::Ignored {
        return Vec::new();
    }
    let diagnosis = flow.story.diagnosis;
    let by_stack = flow.reset_by() == Some(ResetBy::GatewayStack);
    let refused = flow.story.refusal.is_some();
    let mut ids = Vec::new();
    if suspects.is_some_and(|suspects| suspects.count > 0) {
        ids.push(MitigationId::ReviewRejectRule);
    }
    let window = diagnosis.cause == Cause::OutOfWindow;
    let lenient_later = matches!(diagnosis.reason, Some(Reason::SeqUnder | Reason::AckUnder | Reason::Overshot));
    if window && lenient_later && matches!(era, Era::E1 | Era::E2) {
        ids.push(MitigationId::UpgradeKernel);
    }
    // Where the refusal follows from data that went unrecorded, whatever the sender says from now on acknowledges that data and
    // is refused: to drop all of it leaves the connection hanging.
    if by_stack && refused && flow.story.follows.is_empty() {
        ids.push(MitigationId::DropInvalidInput);
    }
    if window {
        ids.push(MitigationId::BeLiberal);
    }
    if diagnosis.reason == Some(Reason::InvalidRst) && era != Era::E1 {
        ids.push(MitigationId::IgnoreInvalidRst);
    }
    match diagnosis.reason {
        Some(Reason::Expired) => {
            let timeout = namespace.and_then(|facts| facts.sysctl(TIMEOUT));
            if timeout.is_some_and(|seconds| seconds < RFC_5382_TIMEOUT) {
                ids.push(MitigationId::RaiseTimeout);
            }
            ids.push(MitigationId::Keepalive);
        }
        Some(Reason::Evicted) => ids.push(MitigationId::RaiseTableSize),
        _ => {}
    }
    ids
}

/// Every cure that some flow names, with commands for the interfaces, addresses and namespaces of those flows.
pub fn mitigations(flows: &[FlowReport], namespaces: &BTreeMap<u32, Netns>) -> Vec<Mitigation> {
    let ids: BTreeSet<MitigationId> = flows.iter().flat_map(|flow| flow.mitigations.iter().copied()).collect();
    ids.into_iter()
        .map(|id| {
            let named: Vec<&FlowReport> = flows.iter().filter(|flow| flow.mitigations.contains(&id)).collect();
            describe(id, &named, namespaces)
        })
        .collect()
}

fn describe(id: MitigationId, flows: &[&FlowReport], facts: &BTreeMap<u32, Netns>) -> Mitigation {
    let namespaces: BTreeSet<Option<String>> = flows.iter().map(|flow| flow.netns_name.clone()).collect();
    let facts = flows.iter().filter_map(|flow| facts.get(&flow.flow.key.netns?));
    match id {
        MitigationId::UpgradeKernel => Mitigation {
            id,
            title: "run Linux 6.1 or later: it lets old segments and acknowledgements pass instead of refusing them",
            commands: Vec::new(),
            undo: Vec::new(),
            side_effects: vec!["segments over the window and acknowledgements of unseen data are still refused"],
            cures: vec![Reason::SeqUnder, Reason::AckUnder, Reason::Overshot],
        },
        MitigationId::DropInvalidInput => drop_invalid_input(flows),
        MitigationId::BeLiberal => sysctl(
            id,
            "let every segment pass that is out of the window",
            "nf_conntrack_tcp_be_liberal",
            &namespaces,
            vec![
                "window checks end for all connections of the namespace: forged segments and RSTs pass more easily",
                "does not help against packets that the state table refuses",
            ],
            vec![Reason::SeqUnder, Reason::SeqOver, Reason::AckUnder, Reason::AckOver, Reason::Overshot],
        ),
        MitigationId::IgnoreInvalidRst => sysctl(
            id,
            "let RSTs pass that are below what their receiver has acknowledged",
            "nf_conntrack_tcp_ignore_invalid_rst",
            &namespaces,
            vec!["a blind attacker's RST reaches the client, which then checks it itself (RFC 5961)"],
            vec![Reason::InvalidRst],
        ),
        MitigationId::RaiseTimeout => change(
            id,
            "keep idle connections for at least 2 h 4 min, as RFC 5382 asks of a NAT",
            TIMEOUT,
            facts,
            |_| RFC_5382_TIMEOUT,
            vec![
                "connections whose ends have vanished stay in the table for as long: watch its size",
                "holds for connections that carry a packet after it is set",
            ],
            vec![Reason::Expired],
        ),
        MitigationId::Keepalive => Mitigation {
            id,
            title: "let one end send TCP keepalives more often than the entry's timeout (SO_KEEPALIVE, TCP_KEEPIDLE)",
            commands: Vec::new(),
            undo: Vec::new(),
            side_effects: vec!["it has to be done at the client or the server; the default of Linux is 2 h"],
            cures: vec![Reason::Expired],
        },
        MitigationId::RaiseTableSize => change(
            id,
            "make room for twice as many connections",
            "nf_conntrack_max",
            facts,
            |max| max.saturating_mul(2),
            vec![
                "each entry takes about 300 bytes of kernel memory",
                "raise nf_conntrack_buckets with it, or look-ups get slower",
                "all network namespaces share the limit of the initial one",
            ],
            vec![Reason::Evicted],
        ),
        MitigationId::ReviewRejectRule => Mitigation {
            id,
            title: "look at the rule that rejects, and accept or drop ahead of it what it should not reject",
            commands: review(flows),
            undo: Vec::new(),
            side_effects: vec!["looking changes nothing; a new rule ahead of it is the ruleset's owner's to write"],
            cures: Vec::new(),
        },
    }
}

/// Commands that show every rule that is suspected.
fn review(flows: &[&FlowReport]) -> Vec<String> {
    let commands: BTreeSet<String> = flows
        .iter()
        .flat_map(|flow| {
            let rules = flow.suspects.iter().flat_map(|suspects| &suspects.rules);
            rules.map(|rule| prefix(flow.netns_name.as_ref()) + &rule.shown_by())
        })
        .collect();
    commands.into_iter().collect()
}

/// A sysctl that is changed from what it is; undoing it sets it back.
fn change<'a>(
    id: MitigationId,
    title: &'static str,
    name: &str,
    facts: impl Iterator<Item = &'a Netns>,
    to: impl Fn(i64) -> i64,
    side_effects: Vec<&'static str>,
    cures: Vec<Reason>,
) -> Mitigation {
    let found: BTreeSet<(Option<&String>, i64)> =
        facts.filter_map(|facts| Some((facts.name.as_ref(), facts.sysctl(name)?))).collect();
    let set =
        |namespace: Option<&String>, value: i64| format!("{}sysctl -w net.netfilter.{name}={value}", prefix(namespace));
    Mitigation {
        id,
        title,
        commands: found.iter().map(|(namespace, value)| set(*namespace, to(*value))).collect(),
        undo: found.iter().map(|(namespace, value)| set(*namespace, *value)).collect(),
        side_effects,
        cures,
    }
}

fn prefix(namespace: Option<&String>) -> String {
    namespace.map_or_else(String::new, |name| format!("ip netns exec {name} "))
}

fn sysctl(
    id: MitigationId,
    title: &'static str,
    name: &str,
    namespaces: &BTreeSet<Option<String>>,
    side_effects: Vec<&'static str>,
    cures: Vec<Reason>,
) -> Mitigation {
    let set = |value: u8| {
        namespaces
            .iter()
            .map(|namespace| format!("{}sysctl -w net.netfilter.{name}={value}", prefix(namespace.as_ref())))
            .collect()
    };
    Mitigation { id, title, commands: set(1), undo: set(0), side_effects, cures }
}

/// A chain of its own, ahead of the host's own INPUT rules, that can be taken away without touching them.
fn drop_invalid_input(flows: &[&FlowReport]) -> Mitigation {
    let mut commands = Vec::new();
    let mut undo = Vec::new();
    let namespaces: BTreeSet<Option<&String>> = flows.iter().map(|flow| flow.netns_name.as_ref()).collect();
    for namespace in namespaces {
        let prefix = prefix(namespace);
        commands.push(format!("{prefix}nft add table inet whyrst"));
        commands.push(format!(
            "{prefix}nft add chain inet whyrst input '{{ type filter hook input priority -10; policy accept; }}'"
        ));
        let here = flows.iter().filter(|flow| flow.netns_name.as_ref() == namespace);
        let targets: BTreeSet<(Option<String>, IpAddr)> = here.filter_map(|flow| target(flow)).collect();
        for (interface, address) in targets {
            let mut rule = format!("{prefix}nft add rule inet whyrst input ");
            if let Some(interface) = interface {
                // A String takes any write.
                let _infallible = write!(rule, "iifname \"{interface}\" ");
            }
            let family = if address.is_ipv4() { "ip" } else { "ip6" };
            let _infallible = write!(rule, "{family} daddr {address} meta l4proto tcp ct state invalid counter drop");
            commands.push(rule);
        }
        undo.push(format!("{prefix}nft delete table inet whyrst"));
    }
    Mitigation {
        id: MitigationId::DropInvalidInput,
        title: "drop TCP packets that conntrack refused before the gateway's own stack can answer them",
        commands,
        undo,
        side_effects: vec![
            "the server is not told when a connection has really vanished here: it retransmits until it gives up",
            "the segment is still lost; TCP recovers by retransmission",
            "does not survive a reboot or a reload of the ruleset by itself",
        ],
        cures: vec![
            Reason::SeqUnder,
            Reason::SeqOver,
            Reason::AckUnder,
            Reason::AckOver,
            Reason::Overshot,
            Reason::InvalidState,
            Reason::BadChecksum,
            Reason::BadFlags,
        ],
    }
}

/// The interface that the refused packet came in by, and the address that it was for.
fn target(flow: &FlowReport) -> Option<(Option<String>, IpAddr)> {
    let event = flow.flow.story.trigger()?;
    let address = event.packet?.dst.ip();
    let interface = event.input.filter(|interface| !interface.name.is_empty());
    Some((interface.map(|interface| interface.name.to_string()), address))
}
