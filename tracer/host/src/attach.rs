//! Which hooks this kernel offers, by which method, and why others are missing: the plan, made before anything is loaded.
//! Nothing here loads or attaches a program.

use std::io;
use std::path::Path;
use std::thread::{self, JoinHandle};

use tracer_common::hook::Method;
use tracer_common::layout::ABSENT;
use tracer_common::wire::{CALLER_RANGES, caller};
use tracer_common::{Hook, Layout};
use tracer_model::capture::HookState;
use tracer_model::conntrack::log_format::LogFormat;

use crate::btf::{BtfError, KernelBtf};
use crate::symbols::Symbols;
use crate::{layout, timed};

/// The module that holds conntrack, where it is not built in.
pub const CONNTRACK: &str = "nf_conntrack";

/// Kernel variables that turn a page into an address (x86-64).
const PAGE_BASES: [&str; 2] = ["vmemmap_base", "page_offset_base"];

/// Functions that end entries or reset the connections of sockets, and what that means. Which of them a compiler inlines
/// differs from kernel to kernel.
const CALLERS: [(&str, u32); 14] = [
    ("early_drop", caller::EARLY_DROP),
    ("early_drop_list", caller::EARLY_DROP),
    ("gc_worker", caller::GC_WORKER),
    ("nf_ct_gc_expired", caller::GC_WORKER),
    ("nf_ct_iterate_cleanup", caller::CLEANUP),
    ("nf_ct_iterate_cleanup_net", caller::CLEANUP),
    ("nf_ct_iterate_cleanup_net_attr", caller::CLEANUP),
    ("nf_ct_kill_acct", caller::TRACKER),
    ("nf_conntrack_tcp_packet", caller::TRACKER),
    ("nf_conntrack_in", caller::TRACKER),
    ("tcp_close", caller::PROCESS),
    ("__tcp_close", caller::PROCESS),
    ("tcp_disconnect", caller::PROCESS),
    ("tcp_abort", caller::PROCESS),
];

/// What is wanted besides the hooks that every capture has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// Network namespaces whose interfaces are tapped for RSTs: inode numbers; empty for none.
    pub tap: Vec<u32>,
    /// Whether the first packets of connections are watched for being refused.
    pub new_refused: bool,
    /// Whether a tracepoint has to do in place of kprobes.
    pub without_kprobes: bool,
}

impl Choice {
    /// The hooks of a capture, in the order of their numbers.
    pub fn hooks(&self, kernel: &Kernel) -> impl Iterator<Item = Hook> {
        let without = self.without_kprobes;
        Hook::ALL.into_iter().filter(move |hook| match hook {
            Hook::TcxTap => !self.tap.is_empty() && kernel.has_tcx,
            Hook::PacketTap => !self.tap.is_empty() && !kernel.has_tcx,
            Hook::NewRefused => self.new_refused && !without,
            Hook::ResetTracepoint => without,
            _ => !without,
        })
    }
}

/// What is known of the running kernel before anything is loaded into it.
pub struct Kernel {
    /// The conntrack log format.
    pub log_format: LogFormat,
    /// Offsets of everything the programs read.
    pub layout: Layout,
    /// Addresses of [`PAGE_BASES`], 0 where they are not known.
    pub page_bases: [u64; 2],
    /// Whether interfaces take links at their ingress (6.6 and later).
    pub has_tcx: bool,
    /// `enum sk_rst_reason`: value and name.
    pub reset_reasons: Vec<(u32, String)>,
}

/// Why the kernel could not be inspected.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// Its types are not known.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// Its symbols are not known.
    #[error("reading /proc/kallsyms")]
    Symbols(#[source] io::Error),
}

/// The symbols that matter to whyrst, as the running kernel has them now; modules come and go.
pub fn symbols() -> io::Result<Symbols> {
    timed("symbols", || Symbols::of_running_kernel(&symbol_names()))
}

/// The kernel's types, being read by a thread of their own: nothing else that happens at the start needs them so soon.
pub struct Types(JoinHandle<Result<KernelBtf, BtfError>>);

impl Types {
    /// Begins to read the types of the running kernel.
    pub fn read() -> Self {
        Self(thread::spawn(|| timed("btf", KernelBtf::of_running_kernel)))
    }

    /// Waits until they are read.
    pub fn wait(self) -> Result<KernelBtf, BtfError> {
        self.0.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// The names of the symbols that matter to whyrst.
pub fn symbol_names() -> Vec<&'static str> {
    let hooks = Hook::ALL.iter().map(|hook| hook.spec());
    let names = hooks.flat_map(|spec| spec.parts.iter().copied().chain([spec.symbol]));
    names.chain(PAGE_BASES).chain(CALLERS.map(|(name, _)| name)).collect()
}

/// The function that a hook's program goes on: the part of it that all callers use, where this kernel has one.
pub fn target(hook: Hook, symbols: &Symbols) -> Option<&'static str> {
    let spec = hook.spec();
    spec.parts.iter().copied().chain([spec.symbol]).find(|name| symbols.has(name))
}

/// Whether conntrack is there: loaded or built in.
pub fn conntrack_is_loaded(symbols: &Symbols) -> bool {
    symbols.has(Hook::CtInvalid.spec().symbol)
}

impl Kernel {
    /// Inspects the running kernel. Conntrack must be loaded: its functions' prototypes decide the log format.
    pub fn inspect(symbols: &Symbols) -> Result<Self, InspectError> {
        Self::inspect_with(&KernelBtf::of_running_kernel()?, symbols)
    }

    /// Inspects a kernel by its BTF and symbols.
    pub fn inspect_with(btf: &KernelBtf, symbols: &Symbols) -> Result<Self, InspectError> {
        let in_module = symbols.get(Hook::CtInvalid.spec().symbol).is_some_and(|symbol| symbol.module.is_some());
        let module = if in_module { btf.module(CONNTRACK)? } else { None };
        let tracker = match &module {
            Some(module) => Some(module.types()),
            // Built in: the image describes it.
            None if !in_module => Some(btf.image()),
            None => None,
        };
        let address = |name: &str| symbols.get(name).map_or(0, |symbol| symbol.address);
        Ok(Self {
            log_format: layout::log_format(tracker),
            layout: layout::resolve(btf, tracker.unwrap_or_else(|| btf.image())),
            page_bases: PAGE_BASES.map(address),
            has_tcx: btf.image().has_type("tcx_entry"),
            reset_reasons: btf
                .image()
                .enumeration("sk_rst_reason")
                .unwrap_or_default()
                .into_iter()
                .map(|(name, value)| (value, name))
                .collect(),
        })
    }

    /// The fields that this kernel does not have, though some kernel does.
    pub fn missing_fields(&self) -> Vec<&'static str> {
        // These say how, not where; ABSENT has a meaning of its own there.
        let choices = ["ct_invalid_format", "ct_malformed_format"];
        self.layout
            .fields()
            .filter(|(name, value)| *value == ABSENT && !choices.contains(name))
            .map(|(name, _)| name)
            .collect()
    }

    /// Whether a hook can be attached now.
    pub fn plan(&self, hook: Hook, symbols: &Symbols) -> HookState {
        let lacking: Vec<&str> = self
            .layout
            .fields()
            .filter(|(name, value)| *value == ABSENT && needs(hook, name))
            .map(|(name, _)| name)
            .collect();
        if !lacking.is_empty() {
            return HookState::Unavailable { because: format!("this kernel's BTF has no {}", lacking.join(", ")) };
        }
        let spec = hook.spec();
        match spec.method {
            Method::SocketFilter | Method::Tcx => return HookState::Attached,
            // Before 6.10 the tracepoint is passed for RSTs of sockets alone.
            Method::RawTracepoint if self.layout.reset_has_reason == 1 => return HookState::Attached,
            Method::RawTracepoint => {
                return HookState::Unavailable { because: "it reports all RSTs from Linux 6.10 on".to_owned() };
            }
            Method::Kprobe | Method::Kretprobe => {}
        }
        match (target(hook, symbols).is_some(), spec.module) {
            (true, _) => HookState::Attached,
            (false, Some(module)) if !Path::new("/sys/module").join(module).exists() => {
                HookState::Waiting { module: module.to_owned() }
            }
            (false, _) => HookState::Unavailable { because: format!("this kernel has no function {}", spec.symbol) },
        }
    }
}

/// Where the functions are now that end entries: start, end and `wire::caller` of each; zeros where there are fewer.
pub fn callers(symbols: &Symbols) -> [[u64; 3]; CALLER_RANGES] {
    let mut ranges = [[0; 3]; CALLER_RANGES];
    let known = CALLERS.iter().filter_map(|(name, value)| {
        let start = symbols.get(name)?.address;
        Some([start, symbols.end(start)?, u64::from(*value)])
    });
    for (range, known) in ranges.iter_mut().zip(known) {
        *range = known;
    }
    ranges
}

/// Whether a hook is of no use without a field of the layout.
fn needs(hook: Hook, field: &str) -> bool {
    const PACKET: [&str; 6] = ["skb_len", "skb_data_len", "skb_head", "skb_data", "skb_network_header", "net_inum"];
    const ENTRY: [&str; 11] = [
        "ct_tuplehash",
        "tuplehash_size",
        "tuplehash_tuple",
        "tuple_src_addr",
        "tuple_src_port",
        "tuple_dst_addr",
        "tuple_dst_port",
        "tuple_protonum",
        "ct_tcp",
        "tcp_seen",
        "seen_size",
    ];
    const SOCKET: [&str; 6] = ["sk_family", "sk_rcv_saddr", "sk_daddr", "inet_sport", "sk_dport", "net_inum"];
    let own: &[&str] = match hook {
        Hook::CtInvalid => &ENTRY,
        Hook::EntryDestroyed => return ENTRY.contains(&field) || ["net_inum", "ct_net", "ct_status"].contains(&field),
        Hook::TableFull => return field == "net_inum",
        Hook::ResetV4 => &["skb_refdst", "rt_type", "skb_nfct"],
        Hook::ResetV6 => &["skb_refdst", "rt6_flags", "skb_nfct"],
        Hook::ActiveReset => return SOCKET.contains(&field),
        Hook::PacketTap | Hook::TcxTap => &["skb_dev", "dev_net"],
        Hook::NewRefused => &["ct_net"],
        Hook::ResetTracepoint => &["skb_refdst", "skb_nfct"],
        Hook::CtMalformed | Hook::RejectV4 | Hook::RejectV6 | Hook::LinkRejectV4 | Hook::LinkRejectV6 => &[],
    };
    PACKET.contains(&field) || own.contains(&field)
}
