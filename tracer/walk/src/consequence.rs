//! What others see of a packet's fate: the answer of the local stack or of a rule has to pass the rules for packets of this host.

use std::net::IpAddr;

use tracer_model::ruleset::Key;

use crate::class::{Class, Interface, Path, Value, state};
use crate::outcome::{By, Fate, Outcome, Reach, Unclear, Walk};
use crate::walker::Walker;

/// What becomes of a packet, as the ends of its connection see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Seen {
    /// The local stack answers with a RST.
    StackRst,
    /// A rule answers with a RST.
    RuleRst,
    /// A rule answers with an ICMP error.
    Icmp,
    /// Nothing: it is dropped, or the answer is.
    Dropped,
    /// It is accepted: a tracked packet goes on, one of this host leaves.
    Accepted,
    /// It is forwarded with the addresses that it came with.
    ForwardedUntranslated,
    /// It is not known.
    Unknown,
}

impl Seen {
    /// The word used for it in every output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::StackRst => "stack-rst",
            Self::RuleRst => "rule-rst",
            Self::Icmp => "icmp",
            Self::Dropped => "dropped",
            Self::Accepted => "accepted",
            Self::ForwardedUntranslated => "forwarded-untranslated",
            Self::Unknown => "unknown",
        }
    }
}

/// Something that packets of the class may come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consequence {
    /// What is seen.
    pub seen: Seen,
    /// What decides.
    pub by: By,
    /// Which packets.
    pub reach: Reach,
}

/// All that packets of a class may come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Consequences {
    /// Those of typical packets first; each pair once.
    pub all: Vec<Consequence>,
    /// The rules that are not understood, where what a typical packet comes to depends on them.
    pub unclear: Vec<Unclear>,
    /// The walk of the packet itself.
    pub walk: Walk,
}

impl Consequences {
    /// What a typical packet comes to, where that is certain.
    pub fn typical(&self) -> Option<Seen> {
        let mut all = self.of_typical().map(|one| one.seen);
        let first = all.next()?;
        (all.all(|seen| seen == first) && first != Seen::Unknown).then_some(first)
    }

    /// What a typical packet may come to.
    pub fn of_typical(&self) -> impl Iterator<Item = &Consequence> {
        self.all.iter().filter(|one| one.reach != Reach::Others)
    }

    fn add(&mut self, seen: Seen, by: &By, reach: Reach) {
        match self.all.iter_mut().find(|known| known.seen == seen && known.by == *by) {
            Some(known) => known.reach = known.reach.min(reach),
            None => self.all.push(Consequence { seen, by: by.clone(), reach }),
        }
    }
}

/// TCP flags.
const RST: u8 = 4;
const ACK: u8 = 16;

/// Whether the stack's answer to a packet finds an entry: a packet that begins a connection makes it, unless it is exempt from
/// tracking or rejected before.
fn has_entry(class: &Class, outcome: &Outcome) -> bool {
    match class.state {
        state::ESTABLISHED | state::RELATED => true,
        state::NEW => outcome.state == Some(state::NEW) && outcome.fate == Fate::Accepted,
        _ => false,
    }
}

impl Walker<'_> {
    /// What packets of a class come to. `ends` are their typical addresses and ports, source first.
    pub fn consequences(&self, class: &Class, ends: ((IpAddr, u16), (IpAddr, u16))) -> Consequences {
        let walk = self.walk(class);
        let mut found = Consequences { unclear: walk.unclear.clone(), ..Consequences::default() };
        for outcome in &walk.outcomes {
            let Outcome { fate, by, reach, .. } = outcome;
            match fate {
                Fate::Accepted if class.path == Path::Input => {
                    let of_answer = if has_entry(class, outcome) { state::ESTABLISHED } else { state::INVALID };
                    self.answer(class, ends, of_answer, (Seen::StackRst, outcome), &mut found);
                }
                Fate::Accepted if class.path == Path::Forward && class.state == state::INVALID => {
                    found.add(Seen::ForwardedUntranslated, by, *reach);
                }
                Fate::Accepted => found.add(Seen::Accepted, by, *reach),
                Fate::Dropped => found.add(Seen::Dropped, by, *reach),
                Fate::Reset | Fate::Icmp => {
                    // `nf_ct_attach` gives the answer the entry that the packet has, as related (`nf_conntrack_attach`).
                    let of_answer = match outcome.state {
                        Some(state::NEW | state::ESTABLISHED | state::RELATED) => state::RELATED,
                        _ if has_entry(class, outcome) => state::ESTABLISHED,
                        _ => state::INVALID,
                    };
                    let seen = if *fate == Fate::Reset { Seen::RuleRst } else { Seen::Icmp };
                    self.answer(class, ends, of_answer, (seen, outcome), &mut found);
                }
                Fate::Queued | Fate::Synproxy | Fate::Translated | Fate::Unknown => {
                    found.add(Seen::Unknown, by, *reach);
                }
            }
        }
        found.all.sort_by_key(|one| one.reach);
        if found.typical().is_some() {
            found.unclear.clear();
        }
        found.walk = walk;
        found
    }

    /// The answer leaves through OUTPUT and POSTROUTING, unless a rule there stops it.
    fn answer(
        &self,
        class: &Class,
        (source, destination): ((IpAddr, u16), (IpAddr, u16)),
        state: u32,
        (seen, outcome): (Seen, &Outcome),
        found: &mut Consequences,
    ) {
        let output = match class.path {
            Path::Input | Path::Forward => class.input.clone(),
            Path::Output => Some(Interface { name: "lo".to_owned(), index: Some(1) }),
        };
        // RFC 9293 §3.10.7.1: it acknowledges what has no ACK itself (`tcp_v4_send_reset`, `nf_reject_ip_tcphdr_put`).
        let flags = match class.value(Key::TransportHeader { offset: 13 }, 1) {
            Value::Exactly(bytes) if bytes.iter().any(|flags| flags & ACK == 0) => RST | ACK,
            _ => RST,
        };
        let mut answer = Class::new(destination.0, source.0, (destination.1, source.1), state)
            .with_reset(flags)
            .to_anywhere()
            .by(Path::Output, None, output);
        answer.local = Some((class.path == Path::Input, class.path == Path::Output));
        answer.attached = match outcome.state {
            _ if seen == Seen::StackRst => None,
            Some(state::NEW | state::ESTABLISHED | state::RELATED) => Some(state::RELATED),
            // No entry, but the mark that the packet has been seen.
            Some(state::UNTRACKED) => Some(state::INVALID),
            _ => None,
        };
        let walk = self.walk(&answer);
        for one in &walk.outcomes {
            let reach = one.reach.max(outcome.reach);
            match one.fate {
                Fate::Accepted => found.add(seen, &outcome.by, reach),
                Fate::Dropped if seen == Seen::Icmp => {
                    // What is asked of TCP may not hold for ICMP.
                    found.add(Seen::Icmp, &outcome.by, reach.max(Reach::Doubtful));
                    found.add(Seen::Dropped, &one.by, reach.max(Reach::Doubtful));
                }
                Fate::Dropped | Fate::Reset | Fate::Icmp => found.add(Seen::Dropped, &one.by, reach),
                Fate::Queued | Fate::Synproxy | Fate::Translated | Fate::Unknown => {
                    found.add(Seen::Unknown, &one.by, reach);
                }
            }
        }
        if outcome.reach != Reach::Others {
            for one in walk.unclear {
                if !found.unclear.contains(&one) {
                    found.unclear.push(one);
                }
            }
        }
    }
}
