//! Whether a rule that drops INVALID packets takes effect on a host, and where it has to be: the host's rules are walked with
//! and without it.

use std::net::IpAddr;

use tracer_model::health::Link;
use tracer_model::ruleset::tables::{Action, Base, Chain, ChainKind, ChainRule, Condition, Ruleset, Step, Table};
use tracer_model::ruleset::{Backend, Family, Test};
use tracer_walk::{Consequences, Interface, Seen, Walker, state};

use super::firewall::TABLE;
use super::{Plan, Target};
use crate::doctor::{EPHEMERAL, decider, server_segment};

/// Where a base chain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// Its hook, as nft names it.
    pub(super) hook: &'static str,
    number: u8,
    /// Its priority.
    pub(super) priority: i32,
}

/// Ahead of the filters of most hosts.
const USUAL: Position = Position { hook: "input", number: 1, priority: -10 };
/// Right behind conntrack (`NF_IP_PRI_CONNTRACK`, -200), ahead of all that sees what it decided.
const FIRST: Position = Position { hook: "prerouting", number: 0, priority: -199 };

/// What drops a server's segment already, where that is certain.
pub(super) fn already_dropped(target: &Target<'_>, interface: Option<&str>, address: IpAddr) -> Option<String> {
    let walked = walk(target, target.ruleset?, interface, address);
    (walked.typical() == Some(Seen::Dropped)).then(|| decided_by(&walked))
}

/// What decides before a rule at the start of chain INPUT of iptables' table `filter`, if something does.
pub(super) fn before_input(target: &Target<'_>, interface: Option<&str>, address: IpAddr) -> Option<String> {
    let mut ruleset = target.ruleset?.clone();
    let family = if address.is_ipv4() { Family::Ip } else { Family::Ip6 };
    let table = ruleset.tables.iter_mut().find(|table| table.family == family && table.name == "filter")?;
    let input = table.chains.iter_mut().find(|chain| chain.name == "INPUT")?;
    input.rules.insert(0, dropping());
    let walked = walk(target, &ruleset, interface, address);
    (walked.typical() != Some(Seen::Dropped)).then(|| decided_by(&walked))
}

/// Where a table of its own has to be, so that its rules decide for all these addresses.
pub(super) fn place(target: &Target<'_>, addresses: &[(Option<&str>, IpAddr)], plan: &mut Plan) -> Position {
    let Some(ruleset) = target.ruleset else { return USUAL };
    let bases = ruleset.tables.iter().flat_map(|table| &table.chains).filter_map(|chain| chain.base);
    let lowest = bases.filter(|base| base.hook == USUAL.number).map(|base| base.priority).min();
    let before_all = lowest.filter(|lowest| *lowest <= USUAL.priority).and_then(|lowest| lowest.checked_sub(1));
    let places = [Some(USUAL), before_all.map(|priority| Position { priority, ..USUAL }), Some(FIRST)];
    let decides = |place: &Position| {
        let with = with_table(ruleset, *place);
        addresses
            .iter()
            .all(|(interface, address)| walk(target, &with, *interface, *address).typical() == Some(Seen::Dropped))
    };
    let Some(place) = places.into_iter().flatten().find(decides) else {
        plan.note(format!(
            "whether the rules take effect on {} is not known: something decides before them, or is not understood \
             (`whyrst doctor` names it)",
            target.title()
        ));
        return USUAL;
    };
    if place != USUAL {
        plan.note(format!(
            "the chain is at {} with priority {}, because a chain of the host would decide before one at {} with {}",
            place.hook, place.priority, USUAL.hook, USUAL.priority
        ));
    }
    place
}

/// What becomes of a server's segment to each address of a target, with the rules as they are.
pub fn in_force(target: &Target<'_>) -> Vec<String> {
    let Some(ruleset) = target.ruleset else { return Vec::new() };
    let of = |(interface, address): &(Option<String>, IpAddr)| {
        let walked = walk(target, ruleset, interface.as_deref(), *address);
        let by = interface.as_deref().map_or_else(String::new, |name| format!(" by {name}"));
        let packet = format!("a server's INVALID segment{by} to {address}");
        match walked.typical() {
            Some(Seen::Dropped) => format!("in force: {packet} is dropped by {}", decided_by(&walked)),
            Some(seen) => format!("not in force: {packet} meets {}: {}", seen.name(), decided_by(&walked)),
            None => format!("whether {packet} is dropped is not known: a rule on its way is not understood"),
        }
    };
    target.addresses.iter().map(of).collect()
}

fn decided_by(walked: &Consequences) -> String {
    walked.of_typical().next().map_or_else(|| "no rule".to_owned(), |one| decider(&one.by))
}

fn walk(target: &Target<'_>, ruleset: &Ruleset, interface: Option<&str>, address: IpAddr) -> Consequences {
    let has = |link: &&Link| link.addresses.iter().any(|net| net.addr() == address);
    let link = match interface {
        Some(name) => target.links.iter().find(|link| link.name == name),
        None => target.links.iter().find(has),
    };
    let name = interface.or_else(|| link.map(|link| link.name.as_str())).unwrap_or("another interface");
    // Without one, an index that no rule can ask for.
    let index = link.map_or(0x7fff_fffe, |link| link.index);
    let input = Interface { name: name.to_owned(), index: Some(index) };
    server_segment(&Walker::new(ruleset), address.is_ipv4(), input, Some(address), &EPHEMERAL)
}

fn dropping() -> ChainRule {
    ChainRule {
        handle: None,
        packets: None,
        by_iptables: false,
        text: String::new(),
        steps: vec![Step::If(Condition::Is(Test::state(state::INVALID, false))), Step::Do(Action::Drop)],
    }
}

/// A ruleset with a table of its own.
fn with_table(ruleset: &Ruleset, place: Position) -> Ruleset {
    let base = Base { hook: place.number, priority: place.priority, kind: ChainKind::Filter, drops: false };
    let chain = Chain { name: "input".to_owned(), base: Some(base), rules: vec![dropping()] };
    let mut with = ruleset.clone();
    with.tables.push(Table {
        backend: Backend::Nftables,
        family: Family::Inet,
        name: TABLE.to_owned(),
        chains: vec![chain],
        sets: Vec::new(),
    });
    with
}
