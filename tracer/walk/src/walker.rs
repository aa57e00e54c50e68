//! The way of a packet: hooks, base chains by their priority, rules in order.

use std::collections::HashMap;

use tracer_model::event::NfHook;
use tracer_model::ruleset::audit::BaseChain;
use tracer_model::ruleset::tables::{Action, Base, Chain, ChainKind, ChainRule, Field, Nat, Ruleset, Step, Table};
use tracer_model::ruleset::{Hooks, Key, Rule};

use crate::class::{Class, Path, Value, state};
use crate::condition::{Hit, Packet, verdict};
use crate::outcome::{By, Fate, Outcome, Reach, Unclear, Walk};

/// `NF_IP_PRI_CONNTRACK` (`include/uapi/linux/netfilter_ipv4.h`): before, no packet has a conntrack entry.
const CONNTRACK: i32 = -200;
/// `NFT_JUMP_STACK_SIZE` (`include/net/netfilter/nf_tables.h`).
const DEPTH: usize = 16;
/// Rules that a walk looks at, at most.
const BUDGET: usize = 2_000_000;
/// Deciders of one fate that are kept.
const KEPT: usize = 16;
/// TCP flags.
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// Something of a packet that rules change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    /// What the typical packet has; none where it is not known.
    pub(crate) typical: Option<u32>,
    /// What other packets of the class may have.
    pub(crate) others: Vec<u32>,
    /// Whether those may have anything.
    pub(crate) any: bool,
}

impl Slot {
    const fn new(value: u32) -> Self {
        Self { typical: Some(value), others: Vec::new(), any: false }
    }

    fn add(&mut self, value: u32) {
        if self.typical != Some(value) && !self.others.contains(&value) {
            self.others.push(value);
        }
    }

    /// What packets have where two ways meet; `other` comes the less likely way, or as likely a one.
    fn join(&mut self, other: &Self, as_likely: bool) {
        self.any |= other.any;
        if as_likely && self.typical != other.typical {
            self.others.extend(self.typical.take());
        }
        match other.typical {
            Some(value) => self.add(value),
            None => self.any = true,
        }
        for value in &other.others {
            self.add(*value);
        }
    }
}

/// Packets at a point of their way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    /// Which packets of the class are here.
    pub(crate) reach: Reach,
    /// The hook that they are at.
    pub(crate) hook: NfHook,
    /// `skb->mark`.
    pub(crate) mark: Slot,
    /// `ct state`.
    pub(crate) ct: Slot,
    /// Whether a rule has translated their source: chains behind it see the new one.
    pub(crate) translated: bool,
    /// What accepted them at this hook, and which of them.
    by: Vec<(Accepted, Reach)>,
}

impl State {
    /// Before the first hook: no packet has a conntrack entry.
    fn new(class: &Class) -> Self {
        Self {
            reach: Reach::Typical,
            hook: if class.path == Path::Output { NfHook::LocalOut } else { NfHook::PreRouting },
            mark: Slot::new(class.mark),
            ct: Slot::new(class.attached.unwrap_or(state::INVALID)),
            translated: false,
            by: vec![(None, Reach::Typical)],
        }
    }

    fn with(&self, reach: Reach) -> Self {
        let mut state = self.clone();
        state.reach = state.reach.max(reach);
        for (_, of) in &mut state.by {
            *of = (*of).max(reach);
        }
        state
    }
}

/// What accepts packets: a rule by its place in the ruleset, or nothing but policies.
type Accepted = Option<(usize, usize)>;

/// Joins two ways.
fn join(one: Option<State>, other: Option<State>) -> Option<State> {
    let (mut one, mut other) = match (one, other) {
        (Some(one), Some(other)) => (one, other),
        (one, other) => return one.or(other),
    };
    if other.reach < one.reach {
        std::mem::swap(&mut one, &mut other);
    }
    let as_likely = one.reach == other.reach && one.reach != Reach::Others;
    one.mark.join(&other.mark, as_likely);
    one.translated |= other.translated;
    one.ct.join(&other.ct, as_likely);
    for (by, reach) in other.by {
        let room = one.by.len() < KEPT;
        match one.by.iter_mut().find(|(known, _)| *known == by) {
            Some((_, known)) => *known = (*known).min(reach),
            None if room => one.by.push((by, reach)),
            None => {}
        }
    }
    Some(one)
}

/// A chain, and its place in the ruleset.
#[derive(Clone, Copy)]
struct Placed<'a> {
    table: &'a Table,
    chain: &'a Chain,
    /// Its number among all chains.
    number: usize,
}

/// Takes packets through a ruleset.
pub struct Walker<'a> {
    all: Vec<Placed<'a>>,
    /// Base chains, in the order of their priorities.
    entries: Vec<(Placed<'a>, Base)>,
    names: HashMap<(*const Table, &'a str), Placed<'a>>,
}

impl std::fmt::Debug for Walker<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Walker").field("entries", &self.entries.len()).finish_non_exhaustive()
    }
}

impl<'a> Walker<'a> {
    /// For this ruleset.
    pub fn new(ruleset: &'a Ruleset) -> Self {
        let chains = ruleset.tables.iter().flat_map(|table| table.chains.iter().map(move |chain| (table, chain)));
        let all: Vec<Placed<'a>> =
            (0..).zip(chains).map(|(number, (table, chain))| Placed { table, chain, number }).collect();
        let names = all.iter().map(|one| ((std::ptr::from_ref(one.table), one.chain.name.as_str()), *one)).collect();
        let mut entries: Vec<(Placed<'a>, Base)> = all.iter().filter_map(|one| Some((*one, one.chain.base?))).collect();
        // Of two with the same priority the kernel enters the one that was registered last (`nf_hook_entries_grow`).
        entries.reverse();
        entries.sort_by_key(|(_, base)| base.priority);
        Self { all, entries, names }
    }

    /// How the source of the first packet of a forwarded connection is translated, if it is forwarded. Rules at FORWARD count for
    /// what they change where they let a typical packet pass; where they do not, the translation is that of a packet they would.
    pub fn source_nat(&self, class: &Class) -> Vec<(Nat, Reach)> {
        let mut run = Run { forwards: true, ..Run::new(self, class) };
        let packets = run.hook(NfHook::PreRouting, Some(State::new(class)));
        let forwarded = run.hook(NfHook::Forward, packets.clone());
        let packets = forwarded.filter(|packets| packets.reach == Reach::Typical).or(packets);
        let before = run.nat.len();
        run.hook(NfHook::PostRouting, packets);
        run.nat.split_off(before)
    }

    /// Takes packets of a class through it.
    pub fn walk(&self, class: &Class) -> Walk {
        let hooks: &[NfHook] = match class.path {
            Path::Input => &[NfHook::PreRouting, NfHook::LocalIn],
            Path::Forward => &[NfHook::PreRouting, NfHook::Forward, NfHook::PostRouting],
            Path::Output => &[NfHook::LocalOut, NfHook::PostRouting],
        };
        let mut run = Run::new(self, class);
        let mut packets = Some(State::new(class));
        let forwarded = class.forwarded();
        for hook in hooks {
            if *hook == NfHook::Forward {
                run.class = &forwarded;
            }
            // What routing has not decided about yet is of no interest behind it.
            if matches!(hook, NfHook::LocalIn | NfHook::Forward) {
                packets = packets.map(|packets| State { by: vec![(None, packets.reach)], ..packets });
            }
            packets = run.hook(*hook, packets);
        }
        if let Some(packets) = packets {
            run.passed(&packets);
        }
        run.walk.outcomes.sort_by_key(|outcome| outcome.reach);
        run.walk
    }
}

/// A walk on its way.
struct Run<'w, 'a> {
    walker: &'w Walker<'a>,
    class: &'w Class,
    walk: Walk,
    /// How often something has become of a packet that may be typical.
    diverted: usize,
    budget: usize,
    /// Packets that the base chain has accepted.
    accepted: Option<State>,
    /// How often it has.
    accepts: usize,
    /// The translations that packets of the class may get.
    nat: Vec<(Nat, Reach)>,
    /// The last hook where a chain has translated the typical packet.
    translated: Option<NfHook>,
    /// Whether a packet whose destination is translated goes on, to wherever it then goes.
    forwards: bool,
}

/// What a rule makes of packets.
#[derive(Default)]
struct Left {
    /// They go on behind the rule.
    on: Option<State>,
    /// They go back to where the chain was jumped from.
    back: Option<State>,
}

impl<'w, 'a> Run<'w, 'a> {
    fn new(walker: &'w Walker<'a>, class: &'w Class) -> Self {
        Self {
            walker,
            class,
            walk: Walk::default(),
            diverted: 0,
            budget: BUDGET,
            accepted: None,
            accepts: 0,
            nat: Vec::new(),
            translated: None,
            forwards: false,
        }
    }

    /// Takes packets through the base chains of a hook.
    fn hook(&mut self, hook: NfHook, mut packets: Option<State>) -> Option<State> {
        if let Some(packets) = &mut packets {
            packets.hook = hook;
        }
        let tracks = matches!(hook, NfHook::PreRouting | NfHook::LocalOut);
        let mut tracked = !tracks;
        for (placed, base) in &self.walker.entries {
            if base.nf_hook() != hook || !placed.table.family.sees(self.class.ipv4) {
                continue;
            }
            if !tracked && base.priority > CONNTRACK {
                tracked = true;
                self.track(packets.as_mut());
            }
            packets = self.base(*placed, *base, packets?);
        }
        if !tracked {
            self.track(packets.as_mut());
        }
        packets
    }

    /// conntrack sees the packets that no rule has exempted.
    fn track(&self, packets: Option<&mut State>) {
        let Some(packets) = packets else { return };
        let seen = |value: u32| if value == state::UNTRACKED { value } else { self.class.state };
        let ct = &mut packets.ct;
        ct.typical = ct.typical.map(seen);
        for value in &mut ct.others {
            *value = seen(*value);
        }
        ct.others.retain(|value| ct.typical != Some(*value));
    }

    fn base(&mut self, placed: Placed<'a>, base: Base, packets: State) -> Option<State> {
        // `nf_nat_inet_fn` calls them for the first packet of a tracked connection, until one has translated it.
        let translated = self.translated == Some(packets.hook);
        if base.kind == ChainKind::Nat && (packets.ct.typical != Some(state::NEW) || translated) {
            return Some(packets);
        }
        let (before, diverted) = (packets.reach, self.diverted);
        let fell = self.chain(placed, packets, 0);
        if let Some(packets) = fell {
            if base.drops {
                self.ends(&packets, Fate::Dropped, By::Policy(Box::new(policy(placed, base))));
            } else {
                self.accepted = join(self.accepted.take(), Some(packets));
            }
        }
        let mut accepted = self.accepted.take();
        if let Some(packets) = &mut accepted
            && self.diverted == diverted
        {
            packets.reach = before;
        }
        accepted
    }

    /// Takes packets through a chain: those that come back or fall off its end.
    fn chain(&mut self, placed: Placed<'a>, packets: State, depth: usize) -> Option<State> {
        let (before, diverted, accepts) = (packets.clone(), self.diverted, self.accepts);
        let (mut packets, mut back) = (Some(packets), None);
        for (place, rule) in placed.chain.rules.iter().enumerate() {
            let Some(here) = packets.take() else { break };
            let at = At { placed, place, rule, depth };
            if self.budget == 0 {
                self.unclear(at, "the ruleset is too large to be walked to its end", &here);
                self.ends(&here, Fate::Unknown, at.by());
                return back;
            }
            self.budget -= 1;
            let left = self.rule(at, here);
            packets = left.on;
            back = join(back, left.back);
        }
        let mut all = join(back, packets);
        if let Some(packets) = &mut all
            && (self.diverted, self.accepts) == (diverted, accepts)
        {
            (packets.reach, packets.by) = (before.reach, before.by);
        }
        all
    }

    fn rule(&mut self, at: At<'a>, packets: State) -> Left {
        let (before, diverted, accepts) = (packets.clone(), self.diverted, self.accepts);
        let ended = self.walk.outcomes.len();
        let mut unclear = Vec::new();
        let (mut inside, mut outside, mut back) = (Some(packets), None, None);
        for step in &at.rule.steps {
            let Some(here) = inside.take() else { break };
            match step {
                Step::If(condition) => {
                    let truth = Packet { class: self.class, state: &here, table: at.placed.table }.meets(condition);
                    let (holds, fails) = match truth.typical {
                        Some(true) => (Some(Reach::Typical), truth.may_fail.then_some(Reach::Others)),
                        Some(false) => (truth.may_hold.then_some(Reach::Others), Some(Reach::Typical)),
                        None => (Some(Reach::Doubtful), Some(Reach::Doubtful)),
                    };
                    if truth.typical.is_none() {
                        unclear.extend(truth.unclear);
                    }
                    outside = join(outside, fails.map(|reach| here.with(reach)));
                    inside = holds.map(|reach| here.with(reach));
                }
                Step::Do(action) => {
                    let left = self.action(at, action, here);
                    inside = left.on;
                    back = join(back, left.back);
                }
            }
        }
        let returned = back.as_ref().is_some_and(|packets| packets.reach != Reach::Others);
        let mut on = join(outside, inside);
        // Where nothing has become of the packets that went another way, all are here again.
        let same = (self.diverted, self.accepts) == (diverted, accepts) && !returned;
        if let Some(packets) = &mut on
            && same
        {
            (packets.reach, packets.by) = (before.reach, before.by.clone());
        }
        let changed = !same
            || self.walk.outcomes.len() != ended
            || on.as_ref().is_none_or(|on| (&on.mark, &on.ct) != (&before.mark, &before.ct));
        if changed {
            for what in unclear {
                self.unclear(at, &what, &before);
            }
        }
        Left { on, back }
    }

    fn action(&mut self, at: At<'a>, action: &'a Action, mut packets: State) -> Left {
        let on = |packets| Left { on: Some(packets), back: None };
        match action {
            Action::Accept => self.accept(at, packets),
            Action::Drop => self.ends(&packets, Fate::Dropped, at.by()),
            Action::RejectWithReset => self.ends(&packets, self.unless_reset(Fate::Reset), at.by()),
            Action::RejectWithIcmp => self.ends(&packets, Fate::Icmp, at.by()),
            Action::Return => return Left { on: None, back: Some(packets) },
            Action::Jump(to) => return Left { on: self.enter(at, to, packets), back: None },
            Action::Goto(to) => return Left { on: None, back: self.enter(at, to, packets) },
            Action::VerdictMap { of, map } => return self.map(at, of, map, &packets),
            Action::Queue { .. } => {
                self.unclear(at, "a program in user space decides", &packets);
                self.ends(&packets, Fate::Queued, at.by());
            }
            Action::Untrack => {
                // Only packets without an entry (`nf_ct_set` in `nft_notrack_eval`, `xt_ct_target`); to that of iptables a
                // rule's answer to an untracked packet has been seen before.
                if self.class.attached.is_some() && at.rule.by_iptables {
                    return on(packets);
                }
                if packets.ct.typical == Some(state::INVALID) {
                    packets.ct.typical = Some(state::UNTRACKED);
                    if let Some(rule) = at.named() {
                        self.walk.untracked_by.push((rule, packets.reach));
                    }
                }
                return on(packets);
            }
            Action::Mark { and, xor } => {
                let change = |value: u32| (value & and) ^ xor;
                packets.mark.typical = packets.mark.typical.map(change);
                for value in &mut packets.mark.others {
                    *value = change(*value);
                }
                return on(packets);
            }
            Action::MarkUnknown => {
                packets.mark = Slot { typical: None, others: Vec::new(), any: true };
                return on(packets);
            }
            Action::Nat(nat) => {
                self.nat.push((nat.clone(), packets.reach));
                if packets.reach == Reach::Typical {
                    self.translated = Some(packets.hook);
                }
                match nat {
                    Nat::Source(_) | Nat::Masquerade(_) => {
                        packets.translated = true;
                        self.accept(at, packets);
                    }
                    Nat::Destination(_) | Nat::Redirect(_) if self.forwards => self.accept(at, packets),
                    Nat::Destination(_) | Nat::Redirect(_) => self.ends(&packets, Fate::Translated, at.by()),
                }
            }
            Action::Synproxy => return self.synproxy(at, packets),
            Action::Tproxy => {
                self.unclear(at, "a local socket may take it", &packets);
                self.ends(&packets, Fate::Unknown, at.by());
                return on(packets.with(Reach::Doubtful));
            }
            Action::Offload { .. } => {
                self.walk.offloaded_by.extend(at.named());
                return on(packets);
            }
            Action::Nothing(_) => return on(packets),
            Action::NotUnderstood(what) => {
                self.unclear(at, what, &packets);
                self.ends(&packets, Fate::Unknown, at.by());
                return on(packets.with(Reach::Doubtful));
            }
        }
        Left::default()
    }

    fn accept(&mut self, at: At<'a>, mut packets: State) {
        if packets.reach != Reach::Others {
            self.accepts += 1;
        }
        packets.by = vec![(Some((at.placed.number, at.place)), packets.reach)];
        self.accepted = join(self.accepted.take(), Some(packets));
    }

    fn enter(&mut self, at: At<'a>, to: &str, packets: State) -> Option<State> {
        let chain = self.walker.names.get(&(std::ptr::from_ref(at.placed.table), to)).copied();
        match chain {
            Some(chain) if at.depth < DEPTH => self.chain(chain, packets, at.depth + 1),
            _ => {
                self.unclear(at, &format!("chain {to} is not known"), &packets);
                self.ends(&packets, Fate::Unknown, at.by());
                None
            }
        }
    }

    /// A verdict map: each element that packets may be in, and the way on for those that are in none.
    fn map(&mut self, at: At<'a>, of: &[Field], map: &str, packets: &State) -> Left {
        let Some(set) = at.placed.table.set(map) else {
            self.unclear(at, &format!("vmap @{map}"), packets);
            self.ends(packets, Fate::Unknown, at.by());
            return Left { on: Some(packets.with(Reach::Doubtful)), back: None };
        };
        let found = Packet { class: self.class, state: packets, table: at.placed.table }.find(of, set);
        let unclear = found.typical == Hit::Unclear;
        let mut left = Left::default();
        let mut ways: Vec<(Option<&'a Action>, Reach)> = Vec::new();
        match found.typical {
            Hit::In(element) => ways.push((verdict(element), Reach::Typical)),
            Hit::Miss => ways.push((None, Reach::Typical)),
            Hit::Unclear => {
                for what in &found.unclear {
                    self.unclear(at, what, packets);
                }
            }
        }
        let others = if unclear { Reach::Doubtful } else { Reach::Others };
        for element in found.others {
            let way = (verdict(element), others);
            // Many elements have the same verdict.
            if !ways.contains(&way) {
                ways.push(way);
            }
        }
        if found.may_miss {
            ways.push((None, others));
        }
        for (verdict, reach) in ways {
            let packets = packets.with(reach);
            let one = match verdict {
                Some(action) => self.action(at, action, packets),
                None => Left { on: Some(packets), back: None },
            };
            left = Left { on: join(left.on, one.on), back: join(left.back, one.back) };
        }
        left
    }

    /// `synproxy_tg4` and `nft_synproxy_eval_v4` (5.10 to 7.2), and the same for IPv6.
    fn synproxy(&mut self, at: At<'a>, packets: State) -> Left {
        let flags = self.flags();
        let Some(flags) = flags else {
            self.unclear(at, "TCP flags", &packets);
            self.ends(&packets, Fate::Unknown, at.by());
            return Left { on: Some(packets.with(Reach::Doubtful)), back: None };
        };
        let fate = if flags & SYN != 0 && flags & (ACK | FIN | RST) == 0 {
            Fate::Synproxy
        } else if flags & ACK != 0 && flags & (FIN | RST | SYN) == 0 {
            // The cookie of an ACK that SYNPROXY did not ask for is wrong.
            Fate::Dropped
        } else {
            return Left { on: Some(packets), back: None };
        };
        self.ends(&packets, fate, at.by());
        Left::default()
    }

    fn flags(&self) -> Option<u8> {
        match self.class.value(Key::TransportHeader { offset: 13 }, 1) {
            Value::Exactly(bytes) => bytes.first().copied(),
            Value::Usually { typical, .. } => typical.first().copied(),
            Value::Absent | Value::Unknown => None,
        }
    }

    /// A RST is never answered by a RST (`nf_reject_ip_tcphdr_get`).
    fn unless_reset(&self, fate: Fate) -> Fate {
        if self.flags().is_some_and(|flags| flags & RST != 0) { Fate::Dropped } else { fate }
    }

    fn ends(&mut self, packets: &State, fate: Fate, by: By) {
        if packets.reach != Reach::Others {
            self.diverted += 1;
        }
        let known = self.walk.outcomes.iter_mut().find(|known| known.fate == fate && known.by == by);
        if let Some(known) = known {
            known.reach = known.reach.min(packets.reach);
        } else {
            self.walk.outcomes.push(Outcome { fate, by, reach: packets.reach, state: packets.ct.typical });
        }
    }

    /// They have passed the last hook.
    fn passed(&mut self, packets: &State) {
        for (by, reach) in &packets.by {
            let by = by.and_then(|(chain, place)| {
                let Placed { table, chain, .. } = self.walker.all.get(chain)?;
                table.named(chain, place)
            });
            let one = packets.with(*reach);
            self.ends(&one, Fate::Accepted, by.map_or(By::Nothing, |rule| By::Rule(Box::new(rule))));
        }
    }

    fn unclear(&mut self, at: At<'_>, what: &str, packets: &State) {
        if packets.reach == Reach::Others {
            return;
        }
        let Some(rule) = at.named() else { return };
        let one = Unclear { rule, what: what.to_owned() };
        if !self.walk.unclear.contains(&one) {
            self.walk.unclear.push(one);
        }
    }
}

/// A rule, and where it is.
#[derive(Clone, Copy)]
struct At<'a> {
    placed: Placed<'a>,
    place: usize,
    rule: &'a ChainRule,
    depth: usize,
}

impl At<'_> {
    fn named(&self) -> Option<Rule> {
        self.placed.table.named(self.placed.chain, self.place)
    }

    fn by(&self) -> By {
        self.named().map_or(By::Nothing, |rule| By::Rule(Box::new(rule)))
    }
}

fn policy(placed: Placed<'_>, base: Base) -> BaseChain {
    let Placed { table, chain, .. } = placed;
    BaseChain {
        backend: table.backend,
        family: table.family,
        table: table.name.clone(),
        name: chain.name.clone(),
        hooks: Hooks::only(base.hook.into()),
    }
}
