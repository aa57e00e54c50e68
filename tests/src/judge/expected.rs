//! What the wires may show, by the walks of a packet and of its answer.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tracer_model::ruleset::tables::{Ruleset, Table};
use tracer_model::ruleset::{Backend, Family};
use tracer_walk::{By, Class, Consequences, Fate, Path, Reach, Seen, Walk, Walker, state};

use super::observe::Observed;

/// The expectation of a packet.
#[derive(Debug, Clone)]
pub struct Expected {
    /// What may be observed; everything where the walks do not follow the packet.
    pub allowed: BTreeSet<Observed>,
    /// What the walks conclude, in their own words.
    pub concluded: String,
    /// What decides.
    pub decided_by: String,
    /// The rule that decides, where it is certain and one alone.
    pub decider: Option<Decider>,
    /// Whether a rule that is not understood leaves the fate open.
    pub not_understood: bool,
    /// Whether it is translated, and not followed from there.
    pub not_followed: bool,
}

/// What a packet of a class may come to, whose addresses and ports are `ends`.
/// Rules at OUTPUT may drop an ICMP error that they would not drop if it were TCP, and `filtered` says whether there are any.
pub fn expected(walker: &Walker<'_>, class: &Class, ends: ((IpAddr, u16), (IpAddr, u16)), filtered: bool) -> Expected {
    let consequences = walker.consequences(class, ends);
    let fates: BTreeSet<Fate> = consequences.walk.of_typical().map(|outcome| outcome.fate).collect();
    let mut allowed = BTreeSet::new();
    let leaves = leaves(walker, class);
    for one in consequences.of_typical() {
        allowed.extend(observable(one.seen, class.path, &fates, leaves));
    }
    if fates.contains(&Fate::Icmp) && filtered {
        allowed.extend([Observed::Icmp, Observed::Silence]);
    }
    let seen: BTreeSet<&str> = consequences.of_typical().map(|one| one.seen.name()).collect();
    let fates_named: Vec<&str> = fates.iter().map(|fate| fate.name()).collect();
    let not_followed = fates.contains(&Fate::Translated);
    Expected {
        allowed,
        concluded: format!("{} ({})", seen.into_iter().collect::<Vec<_>>().join(" or "), fates_named.join(" or ")),
        decided_by: decided_by(&consequences),
        decider: decider(&consequences.walk),
        not_understood: consequences.typical().is_none() && !consequences.unclear.is_empty(),
        not_followed,
    }
}

/// What is observed of something that a packet comes to.
fn observable(seen: Seen, path: Path, fates: &BTreeSet<Fate>, leaves: &[Observed]) -> Vec<Observed> {
    match seen {
        Seen::StackRst => vec![Observed::StackReset],
        Seen::RuleRst => vec![Observed::RuleReset],
        Seen::Icmp => vec![Observed::Icmp],
        // Either the packet is dropped, or the stack's answer to it.
        Seen::Dropped if path == Path::Input && fates.contains(&Fate::Accepted) => {
            let packet_too = fates.len() > 1;
            let silence = packet_too.then_some(Observed::Silence);
            [Observed::StackResetDropped].into_iter().chain(silence).collect()
        }
        Seen::Dropped => vec![Observed::Silence],
        Seen::ForwardedUntranslated => vec![Observed::Untranslated],
        Seen::Accepted => leaves.to_vec(),
        Seen::Unknown => match fates.first() {
            Some(Fate::Synproxy) if fates.len() == 1 => vec![Observed::SynAck, Observed::Silence],
            _ => vec![
                Observed::StackReset,
                Observed::StackResetDropped,
                Observed::RuleReset,
                Observed::Icmp,
                Observed::SynAck,
                Observed::Untranslated,
                Observed::Translated,
                Observed::Silence,
            ],
        },
    }
}

/// Where a rule is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decider {
    backend: Backend,
    family: Family,
    table: String,
    chain: String,
    at: usize,
}

impl Decider {
    /// Packets that the rule has counted, where it counts.
    pub fn packets(&self, ruleset: &Ruleset) -> Option<u64> {
        let is_its = |table: &&Table| table.name == self.table && table.family == self.family;
        // Tables of iptables on nftables may have rules of nft.
        let legacy = self.backend == Backend::IptablesLegacy;
        let mut tables =
            ruleset.tables.iter().filter(is_its).filter(|table| (table.backend == Backend::IptablesLegacy) == legacy);
        tables.next()?.chain(&self.chain)?.rules.get(self.at)?.packets
    }
}

fn decider(walk: &Walk) -> Option<Decider> {
    let mut all = walk.of_typical();
    let (first, None) = (all.next()?, all.next()) else { return None };
    let By::Rule(rule) = &first.by else { return None };
    (first.reach == Reach::Typical).then(|| Decider {
        backend: rule.backend,
        family: rule.family,
        table: rule.table.clone(),
        chain: rule.chain.clone(),
        at: rule.place as usize,
    })
}

/// How a packet leaves that is accepted: the first one of a connection is translated as rules say.
fn leaves(walker: &Walker<'_>, class: &Class) -> &'static [Observed] {
    if class.state != state::NEW {
        return &[Observed::Untranslated];
    }
    let translations = walker.source_nat(class);
    match (class.path, translations.as_slice()) {
        (Path::Forward, []) => &[Observed::Untranslated],
        (Path::Forward, [(_, Reach::Typical)]) => &[Observed::Translated],
        // The gateway's own packets may have the address already that they would get.
        _ => &[Observed::Untranslated, Observed::Translated],
    }
}

fn decided_by(consequences: &Consequences) -> String {
    let mut all: Vec<String> = Vec::new();
    for one in consequences.of_typical() {
        let text = match &one.by {
            By::Rule(rule) => {
                let number = rule.number.map_or_else(String::new, |number| format!(" {number}"));
                format!("{} {}{number}: {}", rule.table, rule.chain, rule.text)
            }
            By::Policy(chain) => format!("policy of {} {}", chain.table, chain.name),
            By::Nothing => "no rule".to_owned(),
        };
        if !all.contains(&text) {
            all.push(text);
        }
    }
    all.extend(consequences.unclear.iter().map(|unclear| format!("not understood: {}", unclear.what)));
    all.join("; ")
}
