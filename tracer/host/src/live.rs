//! The live source: loads the programs, attaches them, reads the ring buffer and the counters.
//!
//! It and its submodules are the only ones that load programs and maps with aya; `preflight` asks the kernel about BPF.

mod counters;
mod destroyed_maps;
mod mapped;
mod missed;
mod modules;
mod rights;
mod ring;
mod suppressed;
mod tap;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::AsFd as _;
use std::time::Duration;

use aya::maps::{Array, Map, MapData, RingBuf};
use aya::programs::kprobe::KProbeLinkId;
use aya::programs::{KProbe, Program, ProgramError, ProgramInfo, RawTracePoint, SchedClassifier, SocketFilter};
use aya::{Ebpf, EbpfLoader};
use rustix::thread::CapabilitySet;
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};
use zerocopy::IntoBytes;

use tracer_common::hook::{self, Hook, Method, Spec};
use tracer_common::{counter, layout, wire};
use tracer_model::capture::{Counters, HookState, HookStatus, Item, Request};

use self::counters::CounterMap;
use self::destroyed_maps::DestroyedMaps;
use self::mapped::Mapped;
use self::modules::{Modules, is_loaded};
use self::rights::Rights;
use self::ring::Ring;
use self::suppressed::SuppressedMaps;
use self::tap::Tap;
use crate::attach::{Choice, Kernel};
use crate::preflight::chain;
use crate::privileges::Needed;
use crate::symbols::Symbols;
use crate::worker::NetnsWorker;
use crate::{attach, now, privileges, timed};

/// Where functions are, as `attach::callers` has it.
type Callers = [[u64; 3]; wire::CALLER_RANGES];

/// The BPF object, aligned as ELF needs it.
#[repr(C, align(32))]
struct Object<B: ?Sized>(B);

const OBJECT: &Object<[u8]> = &Object(*include_bytes!(env!("WHYRST_BPF_OBJECT")));

/// Why no BPF object was built into this program; empty where one was.
pub const ABSENT_BECAUSE: &str = env!("WHYRST_BPF_ABSENT_BECAUSE");

/// Attached before all others: the refusal, and the RST that answers it.
const FIRST: [Hook; 2] = [Hook::CtInvalid, Hook::ResetV4];
/// How often it is looked whether modules that hooks live in have come or gone.
const LOOK_FOR_MODULES: Duration = Duration::from_millis(50);
/// How often the counters are read.
const READ_COUNTERS: Duration = Duration::from_secs(1);
/// How often the suppressed events are read: every flow of a flood is in them.
const READ_SUPPRESSED: Duration = Duration::from_secs(10);
/// How often the programs' own debug lines are passed on, where they are wanted.
const FLUSH_LOG: Duration = Duration::from_millis(100);

/// Why tracing could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The number of CPUs is unknown.
    #[error("looking how many CPUs there are")]
    Cpus(#[source] io::Error),
    /// The programs could not be loaded into the kernel.
    #[error("loading the BPF object")]
    Load(#[source] aya::EbpfError),
    /// A map that the object must have is missing or of another kind.
    #[error("map {name}: {because}")]
    Map {
        /// Its name.
        name: &'static str,
        /// What is wrong.
        because: String,
    },
    /// The ring buffer cannot be waited for.
    #[error("waiting for events")]
    Wait(#[source] io::Error),
    /// No hook at all could be attached.
    #[error("no hook could be attached: {}", because.join("; "))]
    NoHook {
        /// Why, hook by hook.
        because: Vec<String>,
    },
}

/// A running capture.
pub struct Live {
    ebpf: Ebpf,
    ring: Ring,
    counters: CounterMap,
    /// Calls that the programs had missed when they were unloaded, per hook.
    missed: [u64; hook::COUNT],
    kernel: Kernel,
    choice: Choice,
    callers: Array<MapData, Callers>,
    states: Vec<(Hook, HookState)>,
    links: BTreeMap<Hook, Vec<(&'static str, KProbeLinkId)>>,
    modules: Modules,
    tap: Tap,
    worker: NetnsWorker,
    answers: mpsc::UnboundedReceiver<Item>,
    destroyed: DestroyedMaps,
    suppressed: SuppressedMaps,
    rights: Rights,
    queue: VecDeque<Item>,
    module_timer: Interval,
    counter_timer: Interval,
    suppressed_timer: Interval,
    log_timer: Interval,
    log: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
}

impl Live {
    /// Loads and attaches. `log` lets the programs' own debug lines through.
    pub fn start(kernel: Kernel, symbols: &Symbols, choice: Choice, log: bool) -> Result<Self, StartError> {
        raise_memlock_limit();
        let log_level = u8::from(log) * aya_log_level();
        let cpus = counters::cpus().map_err(StartError::Cpus)?;
        let mut loader = EbpfLoader::new();
        loader
            .btf(None)
            .map_max_entries(counter::MAP, counters::entries(cpus))
            .override_global(layout::GLOBAL, kernel.layout.as_bytes(), true)
            .override_global("PAGE_BASES", kernel.page_bases.as_bytes(), true)
            .override_global(aya_log::LEVEL, &log_level, false);
        let mut ebpf = timed("object", || loader.load(&OBJECT.0)).map_err(StartError::Load)?;
        let log = if log { start_log(&mut ebpf) } else { None };
        let ring = take_map(&mut ebpf, wire::MAP, RingBuf::try_from)?;
        let counters = CounterMap { array: map_array(&mut ebpf, counter::MAP, CounterMap::words(cpus))?, cpus };
        let destroyed = DestroyedMaps::take(&mut ebpf)?;
        let callers = take_map(&mut ebpf, wire::CALLERS, Array::try_from)?;
        // Looked at before the hooks are attached: what changes in between is seen the next time.
        let modules = Modules::of(&choice.hooks(&kernel).collect::<Vec<Hook>>());
        let suppressed = timed("slots", || SuppressedMaps::take(&mut ebpf))?;
        let (answer, answers) = mpsc::unbounded_channel();
        let worker = NetnsWorker::start(move |item| {
            // Nobody listens any more once the capture has ended.
            if answer.send(item).is_err() {
                tracing::trace!("an answer came too late");
            }
        })
        .map_err(StartError::Wait)?;
        let timer = |period| {
            let mut timer = interval(period);
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
            timer
        };
        let mut live = Self {
            ebpf,
            ring: Ring::start(ring).map_err(StartError::Wait)?,
            counters,
            missed: [0; hook::COUNT],
            kernel,
            callers,
            states: Vec::new(),
            links: BTreeMap::new(),
            modules,
            tap: Tap::new(choice.tap.clone()),
            choice,
            worker,
            answers,
            destroyed,
            suppressed,
            rights: Rights::default(),
            queue: VecDeque::new(),
            module_timer: timer(LOOK_FOR_MODULES),
            counter_timer: timer(READ_COUNTERS),
            suppressed_timer: timer(READ_SUPPRESSED),
            log_timer: timer(FLUSH_LOG),
            log,
        };
        live.set_callers(symbols);
        live.attach_all(symbols)?;
        Ok(live)
    }

    /// How the hooks are.
    pub fn states(&self) -> impl Iterator<Item = (Hook, &HookState)> {
        self.states.iter().map(|(hook, state)| (*hook, state))
    }

    /// What there is to know before anything happens: how the hooks are.
    pub fn begin(&mut self) -> Vec<Item> {
        self.queue.drain(..).collect()
    }

    /// Gives up, in the calling thread, every capability that is not needed for what is still to come; `files` are those
    /// that are still to be opened.
    pub fn give_up(&mut self, files: &[Needed<'_>]) -> io::Result<()> {
        let later = self.later();
        // Before 5.19 reading a map takes CAP_BPF where unprivileged BPF is switched off (`__sys_bpf`).
        self.rights.give_up(files, later, || self.destroyed.are_readable())
    }

    /// What hooks that are attached later will take.
    fn later(&self) -> CapabilitySet {
        let any = |wanted: fn(&HookState) -> bool, of: fn(Hook) -> bool| {
            self.states.iter().any(|(hook, state)| of(*hook) && wanted(state))
        };
        let mut later = CapabilitySet::empty();
        // A module may come, or go and come back.
        if any(|state| !matches!(state, HookState::Unavailable { .. }), |hook| hook.spec().module.is_some()) {
            later |= privileges::LATER;
            if privileges::is_paranoid() {
                later |= privileges::PARANOID;
            }
        }
        if any(|state| *state == HookState::Attached, |hook| hook == Hook::TcxTap) {
            later |= privileges::ATTACHING | privileges::FOLLOWING;
        }
        later
    }

    /// Asks the kernel; the answers come out of [`Live::next`].
    pub fn ask(&self, requests: Vec<Request>) {
        self.worker.ask(requests);
    }

    /// The next thing that has happened, as far as it is at hand: no more than a thousand or so, one after the other.
    pub fn ready(&mut self) -> Option<Item> {
        self.queue.pop_front().or_else(|| self.ring.ready().map(Item::Record))
    }

    /// The next thing that happens.
    pub async fn next(&mut self) -> Item {
        loop {
            if let Some(item) = self.ready() {
                return item;
            }
            tokio::select! {
                Some(record) = self.ring.next() => return Item::Record(record),
                Some(answer) = self.answers.recv() => return self.completed(answer),
                _ = self.module_timer.tick() => self.follow_modules(),
                _ = self.counter_timer.tick() => {
                    self.follow_interfaces();
                    return Item::Counters(self.read_counters());
                }
                _ = self.suppressed_timer.tick() => self.queue.extend(self.suppressed.read(now())),
                _ = self.log_timer.tick(), if self.log.is_some() => {
                    if let Some(log) = &mut self.log {
                        log.flush();
                    }
                }
            }
        }
    }

    /// The counters as they are now.
    pub fn counters(&self) -> Counters {
        self.read_counters()
    }

    /// Takes the hooks off and delivers what is left: the records in the ring buffer and the final counters.
    pub async fn stop(&mut self) -> Vec<Item> {
        self.tap.close();
        self.missed = self.missed();
        let names = |hook: &Hook| [Some(hook.spec().program), hook.spec().at_entry];
        for name in Hook::ALL.iter().flat_map(names).flatten() {
            let unloaded = match self.ebpf.program_mut(name) {
                Some(Program::KProbe(program)) => program.unload(),
                Some(Program::RawTracePoint(program)) => program.unload(),
                Some(Program::SocketFilter(program)) => program.unload(),
                Some(Program::SchedClassifier(program)) => program.unload(),
                _ => Ok(()),
            };
            if let Err(error) = unloaded {
                tracing::debug!("unloading {name}: {error}");
            }
        }
        let mut items: Vec<Item> = self.queue.drain(..).collect();
        items.extend(self.ring.finish().await.into_iter().map(Item::Record));
        items.extend(self.suppressed.read(now()));
        items.push(Item::Counters(self.read_counters()));
        items
    }

    /// Waits for the answers to what was asked last.
    pub async fn last_answers(&mut self, count: usize, patience: Duration) -> Vec<Item> {
        let mut items = Vec::new();
        let deadline = tokio::time::sleep(patience);
        tokio::pin!(deadline);
        while items.len() < count {
            tokio::select! {
                () = &mut deadline => break,
                answer = self.answers.recv() => match answer {
                    Some(item) => items.push(self.completed(item)),
                    None => break,
                },
            }
        }
        items
    }

    /// Adds to an answer what the kernel side remembers. Nothing is looked up where it cannot remember anything: that would
    /// keep programs from running on this CPU.
    fn completed(&self, answer: Item) -> Item {
        let remembered = self.counters.sum(Hook::EntryDestroyed, counter::EMITTED);
        if remembered == 0 { answer } else { self.destroyed.complete(answer) }
    }

    fn attach_all(&mut self, symbols: &Symbols) -> Result<(), StartError> {
        let mut hooks: Vec<Hook> = self.choice.hooks(&self.kernel).collect();
        // The most informative hooks come first: as little as possible is missed until all are attached.
        hooks.sort_by_key(|hook| !FIRST.contains(hook));
        for hook in hooks {
            let planned = self.kernel.plan(hook, symbols);
            let state = self.attach(hook, planned, symbols);
            self.set_state(hook, state);
        }
        // Reports list them in the order of the table.
        self.states.sort_by_key(|(hook, _)| hook.index());
        self.queue.make_contiguous().sort_by_key(|item| match item {
            Item::Hook(status) => status.hook.index(),
            _ => hook::COUNT,
        });
        if self.states.iter().any(|(_, state)| *state == HookState::Attached) {
            return Ok(());
        }
        let because = self.states().map(|(hook, state)| match state {
            HookState::Unavailable { because } => format!("{}: {because}", hook.spec().symbol),
            HookState::Waiting { module } => format!("{}: module {module} is not loaded", hook.spec().symbol),
            HookState::Attached => String::new(),
        });
        Err(StartError::NoHook { because: because.collect() })
    }

    /// Carries out a plan.
    fn attach(&mut self, hook: Hook, planned: HookState, symbols: &Symbols) -> HookState {
        if planned != HookState::Attached {
            return planned;
        }
        let spec = hook.spec();
        let attached = match spec.method {
            Method::SocketFilter | Method::Tcx => self.open_tap(spec),
            Method::RawTracepoint => self.attach_tracepoint(spec.program, spec.symbol),
            Method::Kprobe | Method::Kretprobe => Ok(()),
        };
        if let Err(because) = attached {
            return HookState::Unavailable { because };
        }
        if !matches!(spec.method, Method::Kprobe | Method::Kretprobe) {
            return HookState::Attached;
        }
        let symbol = attach::target(hook, symbols).unwrap_or(spec.symbol);
        for name in [spec.at_entry, Some(spec.program)].into_iter().flatten() {
            match self.load_and_attach(name, symbol) {
                Ok(link) => self.links.entry(hook).or_default().push((name, link)),
                Err(because) => {
                    self.detach(hook);
                    return HookState::Unavailable { because };
                }
            }
        }
        HookState::Attached
    }

    /// Takes a hook's kprobes off; its programs stay loaded.
    fn detach(&mut self, hook: Hook) {
        for (name, link) in self.links.remove(&hook).unwrap_or_default() {
            let program = program_of::<KProbe>(&mut self.ebpf, name);
            let detached = program.and_then(|program| program.detach(link).map_err(|error| chain(&error)));
            if let Err(because) = detached {
                tracing::debug!("detaching {name}: {because}");
            }
        }
    }

    /// Gives the programs the addresses of the functions that destroy entries.
    fn set_callers(&mut self, symbols: &Symbols) {
        if let Err(error) = self.callers.set(0, attach::callers(symbols), 0) {
            tracing::warn!("who ends entries will not be known: {}", chain(&error));
        }
    }

    fn open_tap(&mut self, spec: &Spec) -> Result<(), String> {
        let name = spec.program;
        if spec.method == Method::SocketFilter {
            let program = program_of::<SocketFilter>(&mut self.ebpf, name)?;
            program.load().map_err(|error| refused(&format!("loading {name}"), &error))?;
            log_program(name, program.info());
            return self.tap.open_sockets(program);
        }
        let program = program_of::<SchedClassifier>(&mut self.ebpf, name)?;
        program.load().map_err(|error| refused(&format!("loading {name}"), &error))?;
        log_program(name, program.info());
        self.tap.attach_links(program)
    }

    /// Interfaces come and go while they are tapped.
    fn follow_interfaces(&mut self) {
        let spec = Hook::TcxTap.spec();
        if !self.states.iter().any(|(hook, state)| *hook == Hook::TcxTap && *state == HookState::Attached) {
            return;
        }
        let _raised = self.rights.raise();
        if let Ok(program) = program_of::<SchedClassifier>(&mut self.ebpf, spec.program) {
            for problem in self.tap.follow_links(program) {
                tracing::warn!("--tap: {problem}");
            }
        }
    }

    fn attach_tracepoint(&mut self, name: &str, target: &str) -> Result<(), String> {
        let program = program_of::<RawTracePoint>(&mut self.ebpf, name)?;
        let event = target.rsplit(':').next().unwrap_or(target);
        let attached = program.load().and_then(|()| program.attach(event).map(drop));
        log_program(name, program.info());
        attached.map_err(|error| refused(&format!("attach {target}"), &error))
    }

    fn load_and_attach(&mut self, name: &str, symbol: &str) -> Result<KProbeLinkId, String> {
        let program = program_of::<KProbe>(&mut self.ebpf, name)?;
        let loaded = if program.fd().is_ok() { Ok(()) } else { timed(&format!("load {name}"), || program.load()) };
        let attached = loaded.and_then(|()| timed(&format!("attach {name}"), || program.attach(symbol, 0)));
        let link = attached.map_err(|error| refused(&format!("attach kprobe {symbol}"), &error))?;
        log_program(name, program.info());
        Ok(link)
    }

    fn set_state(&mut self, hook: Hook, state: HookState) {
        self.queue.push_back(Item::Hook(HookStatus { hook, since: now(), state: state.clone() }));
        match self.states.iter_mut().find(|(known, _)| *known == hook) {
            Some((_, known)) => *known = state,
            None => self.states.push((hook, state)),
        }
    }

    /// Follows modules that come and go: the hooks in one that went wait for it, and are attached anew when it is back.
    fn follow_modules(&mut self) {
        let changed = self.modules.changed();
        if changed.is_empty() {
            return;
        }
        let of_changed = |hook: Hook| hook.spec().module.filter(|module| changed.contains(module));
        let hooks = self.states.iter().filter_map(|(hook, _)| Some((*hook, of_changed(*hook)?)));
        let hooks: Vec<(Hook, &str)> = hooks.collect();
        for (hook, module) in &hooks {
            // One that was loaded again in between has nothing of the old kprobes either.
            if self.links.contains_key(hook) {
                self.detach(*hook);
                self.set_state(*hook, HookState::Waiting { module: (*module).to_owned() });
            }
        }
        if !hooks.iter().any(|(_, module)| is_loaded(module)) {
            return;
        }
        let raised = self.rights.raise();
        let Ok(symbols) = attach::symbols() else { return };
        self.set_callers(&symbols);
        for (hook, module) in hooks {
            let planned = self.kernel.plan(hook, &symbols);
            let mut state = self.attach(hook, planned, &symbols);
            if matches!(state, HookState::Unavailable { .. }) && !is_loaded(module) {
                state = HookState::Waiting { module: module.to_owned() };
            }
            if self.states.iter().all(|known| *known != (hook, state.clone())) {
                self.set_state(hook, state);
            }
        }
        drop(raised);
        self.rights.settle(self.later());
    }

    /// Calls that the programs have missed, per hook.
    fn missed(&self) -> [u64; hook::COUNT] {
        Hook::ALL.map(|hook| {
            let loaded = self.ebpf.program(hook.spec().program).and_then(|program| program.fd().ok());
            loaded.map_or(0, |program| missed::by(program.as_fd()))
        })
    }

    fn read_counters(&self) -> Counters {
        let (mut hooks, lost_on) = self.counters.read();
        // An unloaded program counts no more.
        for ((counts, now), before) in hooks.iter_mut().zip(self.missed()).zip(self.missed) {
            let missed = now.max(before);
            counts.0[counter::HITS] += missed;
            counts.0[counter::LOST] += missed;
        }
        Counters { at: now(), hooks, lost_on, table_full: self.suppressed.table_full() }
    }
}

fn program_of<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P, String>
where
    &'a mut P: TryFrom<&'a mut Program>,
{
    let program = ebpf.program_mut(name).and_then(|program| program.try_into().ok());
    program.ok_or_else(|| format!("the BPF object has no program {name}"))
}

/// Logs what the kernel reports of a loaded program: the number of verified instructions, from 5.16 on.
fn log_program(name: &str, info: Result<ProgramInfo, ProgramError>) {
    let Ok(info) = info else { return };
    let verified = info.verified_instruction_count().map_or_else(|| "?".to_owned(), |count| count.to_string());
    let translated = info.size_translated().unwrap_or_default();
    let jited = info.size_jitted();
    tracing::debug!(
        "program {name}: {verified} instructions verified, {translated} bytes translated, {jited} bytes jited"
    );
}

/// What was not to be done, and why, in one line: a refusal by the verifier has its whole log behind it.
fn refused(what: &str, error: &ProgramError) -> String {
    let whole = chain(error);
    tracing::debug!("{what}: {whole}");
    format!("{what}: {}", whole.lines().next().unwrap_or_default())
}

fn take_map<T, E: std::fmt::Display>(
    ebpf: &mut Ebpf,
    name: &'static str,
    convert: impl FnOnce(Map) -> Result<T, E>,
) -> Result<T, StartError> {
    let map = ebpf.take_map(name).ok_or_else(|| StartError::Map { name, because: "not in the object".to_owned() })?;
    convert(map).map_err(|error| StartError::Map { name, because: error.to_string() })
}

/// Maps an array of at least so many words of eight bytes.
fn map_array(ebpf: &mut Ebpf, name: &'static str, words: usize) -> Result<Mapped, StartError> {
    take_map(ebpf, name, |map| match map {
        Map::Array(array) => Mapped::of(array, words).map_err(|error| error.to_string()),
        _ => Err("not an array".to_owned()),
    })
}

/// Before 5.11 maps are charged to the limit of locked memory; later it does not matter.
fn raise_memlock_limit() {
    let all = rustix::process::Rlimit { current: None, maximum: None };
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Memlock, all) {
        tracing::debug!("raising the limit of locked memory: {error}");
    }
}

/// The level that lets all of aya-log's lines through.
fn aya_log_level() -> u8 {
    u8::MAX
}

/// Passes the programs' own debug lines on to `tracing`.
fn start_log(ebpf: &mut Ebpf) -> Option<aya_log::EbpfLogger<&'static dyn log::Log>> {
    aya_log::EbpfLogger::init(ebpf)
        .inspect_err(|error| tracing::warn!("the programs' debug lines: {}", chain(error)))
        .ok()
}
