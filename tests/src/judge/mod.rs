//! The kernel as the judge of the walk: rulesets are loaded into a gateway, packets are sent through it, and what the kernel
//! did is compared with what [`tracer_walk`] concludes from the rules.
//!
//! ```text
//! client  c0 10.0.0.2 ── 10.0.0.1 lan  gateway  wan 192.0.2.1 ── 192.0.2.2 s0  server
//!            fd00:1::2 ── fd00:1::1               2001:db8::1 ── 2001:db8::2
//! ```
//!
//! Client and server are packet sockets in one namespace without addresses: nothing answers there. The gateway's answers
//! leave in the softirq that delivers the packet, so that an ARP reply behind them proves silence.

pub mod expected;
pub mod frame;
pub mod gateway;
pub mod observe;
pub mod probe;
pub mod random;
pub mod rulesets;

use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tracer_model::event::NfHook;
use tracer_model::ruleset::tables::{ChainKind, Ruleset};
use tracer_walk::{Walker, state};

use self::expected::{Expected, expected};
use self::gateway::{Gateway, Interfaces};
use self::observe::Observed;
use self::probe::{Ip, Probe};
use self::rulesets::{Backend, Case};
use crate::command;

/// The table that keeps conntrack busy where no rule of a ruleset needs it.
const TABLE: &str = "whyrst-judge";
/// The states that its chains count.
const STATES: [(&str, u32); 4] = [
    ("invalid", state::INVALID),
    ("new", state::NEW),
    ("established", state::ESTABLISHED),
    ("untracked", state::UNTRACKED),
];
/// How long reading a ruleset may take.
const READING: Duration = Duration::from_secs(10);
/// Walks through the rulesets of the table that may end at something not understood, in percent.
const MOST_NOT_UNDERSTOOD: usize = 5;
/// Random rulesets that the tools may refuse to load, in percent.
const MOST_REFUSED: usize = 2;
/// Random rulesets that a gateway has one after the other.
const BATCH: usize = 250;
/// Where the numbers of their gateways begin.
const NUMBERS_OF_RANDOM: usize = 1_000_000;

/// What is judged.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The directory of rulesets.
    pub rulesets: PathBuf,
    /// A part of the names of those that are loaded.
    pub only: Option<String>,
    /// Of the table, one of so many. Other kernels than this machine's refuse some: these are counted and left out.
    pub one_of: usize,
    /// How many random rulesets there are.
    pub random: usize,
    /// What they begin with.
    pub seed: u64,
    /// Whether every observation is printed, and each random ruleset.
    pub observe: bool,
}

/// How much was compared, and how often walk and kernel disagree.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Totals {
    rulesets: usize,
    loads: usize,
    refused: usize,
    packets: usize,
    counted: usize,
    not_understood: usize,
    not_followed: usize,
    disagreements: usize,
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rulesets, loads, refused, packets, counted, not_understood, not_followed, disagreements } = self;
        write!(
            f,
            "{rulesets} rulesets, loaded {loads} times, {refused} times without success: {packets} packets walked and sent, {counted} counted by the rule that decides, {not_understood} not understood, \
             {not_followed} not followed, {disagreements} disagreements"
        )
    }
}

/// Judges everything.
pub fn run(plan: &Plan) -> Result<String> {
    one_processor()?;
    classes()?;
    let table = table(plan)?;
    println!("table: {table}");
    let random = random(plan)?;
    println!("random, seed {}: {random}", plan.seed);
    ensure!(table.rulesets + random.rulesets > 0, "no ruleset has such a name");
    if table.disagreements + random.disagreements > 0 {
        bail!("the walk and the kernel disagree");
    }
    let share = table.not_understood * 100;
    ensure!(
        plan.only.is_some() || share <= table.packets * MOST_NOT_UNDERSTOOD,
        "too much of the table is not understood"
    );
    ensure!(random.refused * 100 <= random.rulesets * MOST_REFUSED, "too many random rulesets are not loaded");
    ensure!(table.refused * 5 <= table.loads, "too many rulesets of the table are not loaded");
    Ok(format!("table: {table}; random: {random}"))
}

/// Judges the table of rulesets, each on a gateway of its own.
fn table(plan: &Plan) -> Result<Totals> {
    let mut totals = Totals::default();
    for case in Case::all(&plan.rulesets)?.into_iter().filter(|case| plan.takes(case)).step_by(plan.one_of) {
        totals.rulesets += 1;
        let mut all = Vec::new();
        for backend in case.backends() {
            totals.loads += 1;
            let mut bench = Bench::build(&case.interfaces, totals.loads, 1)?;
            match case.load(&bench.gateway, *backend) {
                Err(error) if plan.one_of > 1 => {
                    totals.refused += 1;
                    println!("{error:#}");
                }
                loaded => {
                    loaded?;
                    all.push((*backend, bench.judge(&case)?));
                }
            }
        }
        totals.add(&case, &all, plan);
    }
    Ok(totals)
}

/// Judges random rulesets, one after the other on a gateway of each backend.
fn random(plan: &Plan) -> Result<Totals> {
    let mut totals = Totals::default();
    let backends = [Backend::Nft, Backend::IptablesLegacy, Backend::IptablesNft];
    let interfaces = Interfaces::default();
    let mut benches = Vec::new();
    if plan.only.as_ref().is_some_and(|only| !only.starts_with("random")) {
        return Ok(totals);
    }
    for first in (0..plan.random).step_by(BATCH) {
        benches.clear();
        for backend in backends {
            let number = NUMBERS_OF_RANDOM + first * backends.len() + benches.len();
            benches.push((backend, Bench::build(&interfaces, number, BATCH)?));
        }
        for number in first..plan.random.min(first + BATCH) {
            let case = random::case(plan.seed, number);
            if !plan.takes(&case) {
                continue;
            }
            totals.rulesets += 1;
            let mut all = Vec::new();
            for (backend, bench) in benches.iter_mut().filter(|(backend, _)| case.backends().contains(backend)) {
                totals.loads += 1;
                if *backend == Backend::Nft {
                    bench.flush()?;
                }
                if let Err(error) = case.load(&bench.gateway, *backend) {
                    totals.refused += 1;
                    println!("{error:#}");
                    continue;
                }
                all.push((*backend, bench.judge(&case)?));
            }
            if totals.add(&case, &all, plan) || plan.observe {
                println!("{}", case.parts.iter().map(|part| part.text.as_str()).collect::<String>());
            }
        }
    }
    Ok(totals)
}

impl Plan {
    fn takes(&self, case: &Case) -> bool {
        let random = case.name.starts_with("random-");
        self.only.as_ref().is_none_or(|only| match only.as_str() {
            "random" => random,
            // One is named whole.
            only if random => case.name == only,
            only => case.name.contains(only),
        })
    }
}

impl Totals {
    /// Adds what was judged of a ruleset by each backend, and prints what disagrees; whether anything does.
    fn add(&mut self, case: &Case, all: &[(Backend, Vec<Judged>)], plan: &Plan) -> bool {
        let before = self.disagreements;
        for (backend, judged) in all {
            if plan.observe {
                println!("{} · {}: {}", case.name, backend.name(), case.about);
            }
            let label = format!("{} {}", case.name, backend.name());
            for one in judged {
                self.packets += 1;
                self.counted += usize::from(one.counted == Some(true));
                self.not_understood += usize::from(one.expected.not_understood);
                self.not_followed += usize::from(one.expected.not_followed);
                self.disagreements += usize::from(one.disagrees());
                if plan.observe || one.disagrees() {
                    println!("{}", one.line(&label));
                }
            }
        }
        if let [(first, one), (second, other)] = all {
            for (one, other) in one.iter().zip(other).filter(|(one, other)| one.differs(other)) {
                self.disagreements += 1;
                println!("{} differs by its backends:", case.name);
                println!("{}", one.line(first.name()));
                println!("{}", other.line(second.name()));
            }
        }
        self.disagreements > before
    }
}

/// A packet, what the kernel did with it, and what the walk concludes.
#[derive(Debug)]
struct Judged {
    name: String,
    observed: Observed,
    expected: Expected,
    /// Whether the rule that decides has counted it, where that is known.
    counted: Option<bool>,
}

impl Judged {
    fn disagrees(&self) -> bool {
        self.counted == Some(false) || !self.expected.allowed.contains(&self.observed)
    }

    /// Whether the other backend came to something else.
    fn differs(&self, other: &Self) -> bool {
        self.observed != other.observed || self.expected.allowed != other.expected.allowed
    }

    fn line(&self, label: &str) -> String {
        let Self { name, observed, expected, counted } = self;
        let Expected { concluded, decided_by, .. } = expected;
        let mark = if self.disagrees() { "✗" } else { " " };
        let uncounted = if *counted == Some(false) { " | not counted there" } else { "" };
        format!("{mark} {label:40} {name:28} kernel: {observed:18} walk: {concluded} | {decided_by}{uncounted}")
    }
}

/// A gateway that rulesets are loaded into, one after the other.
#[derive(Debug)]
struct Bench {
    gateway: Gateway,
    /// Rulesets that it has had.
    turn: u16,
}

impl Bench {
    /// Builds one for so many rulesets, with the connections that each of them will need.
    fn build(interfaces: &Interfaces, number: usize, rulesets: usize) -> Result<Self> {
        let gateway = Gateway::build(interfaces, number)?;
        // The gateway's own connections have no sockets: its stack would end them.
        track(
            &gateway,
            "add table inet quiet; add chain inet quiet input { type filter hook input priority 0; policy drop; };",
        )?;
        let turns = u16::try_from(rulesets)?;
        ensure!(turns <= probe::TURNS, "a gateway has ports for {} rulesets", probe::TURNS);
        for turn in 0..turns {
            for ip in [Ip::V4, Ip::V6] {
                Probe::establish(&gateway, ip, turn)?;
            }
        }
        gateway.entries(4 * rulesets)?;
        track(&gateway, "flush ruleset;")?;
        Ok(Self { gateway, turn: 0 })
    }

    /// Removes every rule of nftables.
    fn flush(&self) -> Result<()> {
        track(&self.gateway, "flush ruleset;")
    }

    /// Sends every packet through the ruleset that is loaded.
    fn judge(&mut self, case: &Case) -> Result<Vec<Judged>> {
        let turn = self.turn;
        self.turn += 1;
        let ruleset = read(&self.gateway).with_context(|| format!("reading {}", case.name))?;
        for problem in &ruleset.problems {
            println!("{}: {problem}", case.name);
        }
        let walker = Walker::new(&ruleset);
        let probes = case.families().into_iter().flat_map(|ip| Probe::all(ip, turn));
        let judged = probes
            .map(|probe| probe.judge(&self.gateway, &walker, filtered(&ruleset)))
            .collect::<Result<Vec<Judged>>>()?;
        self.recount(&ruleset, judged).with_context(|| format!("reading {} again", case.name))
    }

    /// Marks the packets that the counter of the rule behind their fate misses: it has counted fewer than the walks lead to it.
    fn recount(&self, before: &Ruleset, mut judged: Vec<Judged>) -> Result<Vec<Judged>> {
        let after = read(&self.gateway)?;
        for at in 0..judged.len() {
            let Some(place) = judged[at].expected.decider.clone() else { continue };
            let decided = judged.iter().filter(|one| one.expected.decider.as_ref() == Some(&place)).count();
            if let (Some(before), Some(after)) = (place.packets(before), place.packets(&after)) {
                judged[at].counted = Some(after.saturating_sub(before) >= decided as u64);
            }
        }
        Ok(judged)
    }
}

impl Probe {
    /// Sends it, and compares what the kernel did with what the walk concludes.
    fn judge(&self, gateway: &Gateway, walker: &Walker<'_>, filtered: bool) -> Result<Judged> {
        let (src, dst) = (self.segment.src, self.segment.dst);
        let ends = ((src.ip(), src.port()), (dst.ip(), dst.port()));
        let expected = expected(walker, &self.class(gateway)?, ends, filtered);
        let observed = self.send(gateway)?;
        Ok(Judged { name: self.name.clone(), observed, expected, counted: None })
    }
}

/// Whether the gateway's own packets meet a rule that is not for NAT alone.
fn filtered(ruleset: &Ruleset) -> bool {
    let chains = ruleset.tables.iter().flat_map(|table| &table.chains);
    chains.filter_map(|chain| Some((chain.base?, !chain.rules.is_empty()))).any(|(base, rules)| {
        let own = matches!(base.nf_hook(), NfHook::LocalOut | NfHook::PostRouting);
        own && base.kind != ChainKind::Nat && (rules || base.drops)
    })
}

/// Reads the ruleset of a gateway, without the table of [`track`].
fn read(gateway: &Gateway) -> Result<Ruleset> {
    let mut ruleset = gateway.namespace.enter(|| tracer_host::whole_ruleset(Instant::now() + READING))?;
    ruleset.tables.retain(|table| table.name != TABLE);
    Ok(ruleset)
}

/// Makes conntrack look at all packets, after another command of nft.
fn track(gateway: &Gateway, before: &str) -> Result<()> {
    let count = STATES.map(|(name, _)| format!("meta l4proto tcp ct state {name} counter")).join("; ");
    let chain = |hook: &str| format!("chain {hook} {{ type filter hook {hook} priority 300; {count}; }}; ");
    let chains = ["prerouting", "output"].map(chain).concat();
    let rules = format!("{before} table inet {TABLE} {{ {chains}}}");
    let mut nft = Command::new("nft");
    nft.args(["-f", "-"]);
    gateway.namespace.enter(|| command::feed(&mut nft, &rules))?
}

/// Makes sure that conntrack makes of every packet what its class says, by the counters of [`track`].
fn classes() -> Result<()> {
    let bench = Bench::build(&Interfaces::default(), 0, 1)?;
    let counted = |chain: &str| -> Result<Vec<u64>> {
        let ruleset = bench.gateway.namespace.enter(|| tracer_host::whole_ruleset(Instant::now() + READING))?;
        let chain = ruleset.tables.iter().find(|table| table.name == TABLE).and_then(|table| table.chain(chain));
        let rules = &chain.with_context(|| format!("no table {TABLE}"))?.rules;
        rules.iter().map(|rule| rule.packets.context("a rule without a counter")).collect()
    };
    for probe in [Ip::V4, Ip::V6].into_iter().flat_map(|ip| Probe::all(ip, 0)) {
        let chain = if probe.way == probe::Way::Output { "output" } else { "prerouting" };
        let before = counted(chain)?;
        probe.send(&bench.gateway)?;
        let after = counted(chain)?;
        let moved = STATES.iter().zip(before.iter().zip(&after)).filter(|(_, (before, after))| before != after);
        let found: Vec<u32> = moved.map(|((_, state), _)| *state).collect();
        ensure!(found == [probe.state], "conntrack makes {found:?} of {}, not {}", probe.name, probe.state);
    }
    Ok(())
}

/// Stays on one processor: the packets that it sends are then worked off in order.
fn one_processor() -> Result<()> {
    let may = sched_getaffinity(None).context("asking for the processors")?;
    let first = (0..CpuSet::MAX_CPU).rev().find(|cpu| may.is_set(*cpu)).context("no processor")?;
    let mut only = CpuSet::new();
    only.set(first);
    sched_setaffinity(None, &only).context("choosing a processor")
}
