//! The live source: loads the programs, attaches them, reads the ring buffer and the counters.
//!
//! The only module, with `attach`, that knows aya.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use aya::maps::{MapData, PerCpuArray, PerCpuHashMap, RingBuf};
use aya::programs::KProbe;
use aya::{Ebpf, EbpfLoader};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracer_common::counter;
use tracer_common::hook::{self, Hook};
use tracer_common::table::{self, TableFull};
use tracer_common::{layout, wire};
use zerocopy::{IntoBytes, transmute};

use super::ring::Ring;
use crate::attach::{self, Kernel};
use crate::capture::{self, Counters, HookCounters, HookState, HookStatus, Item};
use crate::causality::engine::Request;
use crate::kernel::netns::{Asker, now};
use crate::kernel::preflight::chain;
use crate::kernel::symbols::Symbols;
use crate::time::Instant;

/// The BPF object, aligned as ELF needs it.
#[repr(C, align(32))]
struct Object<B: ?Sized>(B);

const OBJECT: &Object<[u8]> = &Object(*include_bytes!(env!("WHYRST_BPF_OBJECT")));

/// Why no BPF object was built into this program; empty where one was.
pub const ABSENT_BECAUSE: &str = env!("WHYRST_BPF_ABSENT_BECAUSE");

/// How often modules are looked for that hooks wait for.
const LOOK_FOR_MODULES: Duration = Duration::from_millis(200);
/// How often the counters are read.
const READ_COUNTERS: Duration = Duration::from_secs(1);
/// How often the programs' own debug lines are passed on, where they are wanted.
const FLUSH_LOG: Duration = Duration::from_millis(100);

/// Why tracing could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
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
    counters: PerCpuArray<MapData, [u64; counter::COUNT]>,
    table_full: PerCpuHashMap<MapData, u32, [u64; 4]>,
    kernel: Kernel,
    states: Vec<HookState>,
    asker: Asker,
    answers: mpsc::UnboundedReceiver<Item>,
    queue: VecDeque<Item>,
    module_timer: Interval,
    counter_timer: Interval,
    log_timer: Interval,
    log: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
}

impl Live {
    /// Loads and attaches. `log` lets the programs' own debug lines through.
    pub fn start(kernel: Kernel, symbols: &Symbols, log: bool) -> Result<Self, StartError> {
        raise_memlock_limit();
        let log_level = u8::from(log) * aya_log_level();
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .override_global(layout::GLOBAL, kernel.layout.as_bytes(), true)
            .override_global("PAGE_BASES", kernel.page_bases.as_bytes(), true)
            .override_global(wire::CALLERS, kernel.callers.as_bytes(), true)
            .override_global(aya_log::LEVEL, &log_level, false)
            .load(&OBJECT.0)
            .map_err(StartError::Load)?;
        let log = if log { start_log(&mut ebpf) } else { None };
        let ring = take_map(&mut ebpf, wire::MAP, RingBuf::try_from)?;
        let counters = take_map(&mut ebpf, counter::MAP, PerCpuArray::try_from)?;
        let table_full = take_map(&mut ebpf, table::MAP, PerCpuHashMap::try_from)?;
        let (answer, answers) = mpsc::unbounded_channel();
        let asker = Asker::start(move |item| {
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
            table_full,
            kernel,
            states: vec![HookState::Unavailable { because: "not tried yet".to_owned() }; hook::COUNT],
            asker,
            answers,
            queue: VecDeque::new(),
            module_timer: timer(LOOK_FOR_MODULES),
            counter_timer: timer(READ_COUNTERS),
            log_timer: timer(FLUSH_LOG),
            log,
        };
        live.attach_all(symbols)?;
        Ok(live)
    }

    /// How the hooks are.
    pub fn states(&self) -> impl Iterator<Item = (Hook, &HookState)> {
        Hook::ALL.into_iter().zip(&self.states)
    }

    /// What there is to know before anything happens: how the hooks are.
    pub fn begin(&mut self) -> Vec<Item> {
        self.queue.drain(..).collect()
    }

    /// Asks the kernel; the answers come out of [`Live::next`].
    pub fn ask(&self, requests: Vec<Request>) {
        self.asker.ask(requests);
    }

    /// The next thing that happens.
    pub async fn next(&mut self) -> Item {
        loop {
            if let Some(item) = self.queue.pop_front() {
                return item;
            }
            tokio::select! {
                Some(record) = self.ring.next() => return Item::Record(record),
                Some(answer) = self.answers.recv() => return answer,
                _ = self.module_timer.tick() => self.look_for_modules(),
                _ = self.counter_timer.tick() => return Item::Counters(self.read_counters()),
                _ = self.log_timer.tick(), if self.log.is_some() => {
                    if let Some(log) = &mut self.log {
                        log.flush();
                    }
                }
            }
        }
    }

    /// Takes the hooks off and delivers what is left: the records in the ring buffer and the final counters.
    pub async fn stop(&mut self) -> Vec<Item> {
        for name in Hook::ALL.iter().flat_map(|hook| [Some(hook.spec().program), hook.spec().at_entry]).flatten() {
            if let Some(program) = self.program(name)
                && let Err(error) = program.unload()
            {
                tracing::debug!("unloading {name}: {error}");
            }
        }
        let mut items: Vec<Item> = self.queue.drain(..).collect();
        items.extend(self.ring.finish().await.into_iter().map(Item::Record));
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
                    Some(item) => items.push(item),
                    None => break,
                },
            }
        }
        items
    }

    fn attach_all(&mut self, symbols: &Symbols) -> Result<(), StartError> {
        for hook in Hook::ALL {
            let planned = self.kernel.plan(hook, symbols);
            let state = self.attach(hook, planned, symbols);
            self.set_state(hook, state);
        }
        if self.states.contains(&HookState::Attached) {
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
        let symbol = attach::target(hook, symbols).unwrap_or(spec.symbol);
        for name in [spec.at_entry, Some(spec.program)].into_iter().flatten() {
            if let Err(because) = self.load_and_attach(name, symbol) {
                return HookState::Unavailable { because };
            }
        }
        HookState::Attached
    }

    fn program(&mut self, name: &str) -> Option<&mut KProbe> {
        self.ebpf.program_mut(name).and_then(|program| program.try_into().ok())
    }

    fn load_and_attach(&mut self, name: &str, symbol: &str) -> Result<(), String> {
        let program = self.program(name).ok_or_else(|| format!("the BPF object has no program {name}"))?;
        let start = now();
        let loaded = if program.fd().is_ok() { Ok(()) } else { program.load() };
        let between = now();
        match loaded.and_then(|()| program.attach(symbol, 0)) {
            Ok(_link) => {
                let (load, attach) = (between - start, now() - between);
                let verified = program.info().ok().and_then(|info| info.verified_instruction_count());
                tracing::debug!(
                    "{name} on {symbol}: {verified:?} instructions verified, loaded in {load:?}, attached in {attach:?}"
                );
                Ok(())
            }
            Err(error) => {
                let whole = chain(&error);
                tracing::debug!("attach kprobe {symbol}: {whole}");
                // A refusal by the verifier has its whole log behind it.
                Err(format!("attach kprobe {symbol}: {}", whole.lines().next().unwrap_or_default()))
            }
        }
    }

    fn set_state(&mut self, hook: Hook, state: HookState) {
        self.queue.push_back(Item::Hook(HookStatus { hook, since: now(), state: state.clone() }));
        self.states[hook.index()] = state;
    }

    /// Attaches hooks whose module has come.
    fn look_for_modules(&mut self) {
        let came = self.states().any(|(_, state)| match state {
            HookState::Waiting { module } => std::path::Path::new("/sys/module").join(module).exists(),
            _ => false,
        });
        if !came {
            return;
        }
        let Ok(symbols) = attach::symbols() else { return };
        for hook in Hook::ALL {
            let waits = matches!(self.states[hook.index()], HookState::Waiting { .. });
            if waits && attach::target(hook, &symbols).is_some() {
                let planned = self.kernel.plan(hook, &symbols);
                let state = self.attach(hook, planned, &symbols);
                self.set_state(hook, state);
            }
        }
    }

    fn read_counters(&self) -> Counters {
        let mut hooks = vec![HookCounters::default(); hook::COUNT];
        let mut lost_on = Vec::new();
        for hook in Hook::ALL {
            let values = match self.counters.get(&(hook.index() as u32), 0) {
                Ok(values) => values,
                Err(error) => {
                    tracing::warn!("reading the counters of {}: {error}", hook.name());
                    continue;
                }
            };
            for (cpu, counts) in values.iter().enumerate() {
                for (sum, count) in hooks[hook.index()].0.iter_mut().zip(counts) {
                    *sum += count;
                }
                if counts[counter::LOST] != 0 {
                    lost_on.push((cpu as u32, hook, counts[counter::LOST]));
                }
            }
        }
        Counters { at: now(), hooks, lost_on, table_full: self.read_table_full() }
    }

    fn read_table_full(&self) -> Vec<capture::TableFull> {
        let mut namespaces: Vec<capture::TableFull> = Vec::new();
        for found in &self.table_full {
            let (netns, values) = match found {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!("reading how often the table was full: {error}");
                    break;
                }
            };
            // aya asks for a type that it knows to be plain; four numbers are what the program's type is made of.
            let seen = values.iter().map(|numbers| -> TableFull { transmute!(*numbers) });
            let seen: Vec<TableFull> = seen.filter(|counts| counts.last_ns != 0).collect();
            namespaces.push(capture::TableFull {
                netns,
                dropped: seen.iter().map(|counts| counts.dropped).sum(),
                made_room: seen.iter().map(|counts| counts.made_room).sum(),
                first: Instant(seen.iter().map(|counts| counts.first_ns).min().unwrap_or_default()),
                last: Instant(seen.iter().map(|counts| counts.last_ns).max().unwrap_or_default()),
            });
        }
        namespaces.sort_unstable_by_key(|full| full.netns);
        namespaces
    }
}

fn take_map<T, E: std::fmt::Display>(
    ebpf: &mut Ebpf,
    name: &'static str,
    convert: impl FnOnce(aya::maps::Map) -> Result<T, E>,
) -> Result<T, StartError> {
    let map = ebpf.take_map(name).ok_or_else(|| StartError::Map { name, because: "not in the object".to_owned() })?;
    convert(map).map_err(|error| StartError::Map { name, because: error.to_string() })
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
