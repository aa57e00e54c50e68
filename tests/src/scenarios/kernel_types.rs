//! What whyrst believes of a kernel's types, compared with the kernel that is running.

use anyhow::{Context as _, Result};

use tracer_common::Hook;
use tracer_common::hook::Method;
use tracer_host::attach::{Kernel, symbols};
use tracer_host::btf::KernelBtf;

use super::Context;
use crate::command;
use crate::expect::Expect;

/// Offsets of kernels of the matrix, read off their BTF with `bpftool btf dump`. They check the resolver; whyrst itself
/// uses none of them. What a series' point releases have moved (`net.ns.inum` within 5.10, `net_device.nd_net` within 6.1)
/// is not here: the scenarios see by the network namespaces they find in the reports that those are right.
const OFFSETS: [(&str, &[(&str, u32)]); 4] = [
    (
        "5.10.",
        &[
            ("ct_net", 144),
            ("ct_tcp", 192),
            ("skb_mark", 164),
            ("skb_iif", 144),
            ("skb_network_header", 180),
            ("skb_head", 192),
            ("skb_data", 200),
            ("dev_ifindex", 256),
            ("dev_name", 0),
        ],
    ),
    (
        "6.1.",
        &[
            ("ct_net", 136),
            ("ct_tcp", 184),
            ("skb_mark", 168),
            ("skb_iif", 144),
            ("skb_network_header", 184),
            ("skb_head", 200),
            ("skb_data", 208),
            ("dev_ifindex", 216),
            ("dev_name", 0),
        ],
    ),
    (
        "6.12.",
        &[
            ("ct_net", 136),
            ("ct_tcp", 184),
            ("skb_mark", 168),
            ("skb_iif", 148),
            ("skb_network_header", 184),
            ("skb_head", 200),
            ("skb_data", 208),
            ("dev_ifindex", 224),
            ("dev_name", 304),
        ],
    ),
    (
        "7.2.",
        &[
            ("ct_net", 136),
            ("ct_tcp", 184),
            ("skb_mark", 168),
            ("skb_iif", 148),
            ("skb_network_header", 184),
            ("skb_head", 200),
            ("skb_data", 208),
            ("dev_ifindex", 224),
            ("dev_name", 288),
        ],
    ),
];

/// Offsets that have been the same in every kernel so far.
const CONSTANT: [(&str, u32); 18] = [
    ("skb_dev", 16),
    ("skb_nfct", 104),
    ("skb_len", 112),
    ("state_hook", 0),
    ("state_in", 8),
    ("state_out", 16),
    ("state_net", 32),
    ("ct_timeout", 8),
    ("ct_zone", 12),
    ("ct_tuplehash", 16),
    ("tuplehash_size", 56),
    ("tuplehash_tuple", 16),
    ("ct_status", 128),
    ("seen_size", 20),
    ("seen_td_maxwin", 8),
    ("seen_flags", 17),
    ("tcp_state", 40),
    ("tcp_last_end", 52),
];

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    for module in Hook::ALL.iter().filter_map(|hook| hook.spec().module) {
        command::run("/sbin/modprobe", &[module])?;
    }
    let btf = KernelBtf::of_running_kernel()?;
    let symbols = symbols().context("/proc/kallsyms")?;
    let kernel = Kernel::inspect_with(&btf, &symbols)?;
    let mut expect = Expect::new();
    expect.that(kernel.log_format.name() == context.log_format, || {
        format!("the conntrack log format is {}, not {}", kernel.log_format, context.log_format)
    });

    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let of_series = OFFSETS.iter().filter(|(series, _)| release.starts_with(series)).flat_map(|(_, offsets)| *offsets);
    let mut compared = 0;
    for (name, expected) in of_series.chain(&CONSTANT) {
        let found = kernel.layout.fields().find(|(field, _)| field == name).map(|(_, value)| value);
        expect.that(found == Some(*expected), || format!("{name} is {found:?}, not {expected}"));
        compared += 1;
    }
    context.step(format!("{compared} offsets are where they should be"));

    let mut described = 0;
    let functions = |hook: &Hook| matches!(hook.spec().method, Method::Kprobe | Method::Kretprobe);
    for hook in Hook::ALL.into_iter().filter(functions) {
        let spec = hook.spec();
        let module = match spec.module {
            Some(module) => btf.module(module)?,
            None => None,
        };
        let types = module.as_ref().map_or_else(|| btf.image(), tracer_host::btf::Module::types);
        let Some(prototype) = types.prototype(spec.symbol) else {
            // 5.10 does not describe its modules, and on arm64 not every static function of its image.
            let left_out = spec.module.is_some() || cfg!(target_arch = "aarch64");
            expect.that(left_out && context.log_format == "e1", || format!("{} is not described", spec.symbol));
            continue;
        };
        described += 1;
        expect.that(spec.prototypes.contains(&prototype.text.as_str()), || {
            format!("{} is {}, which the hook table does not know", spec.symbol, prototype.text)
        });
    }
    context.step(format!("{described} prototypes are those of the hook table"));
    expect.verdict()
}
