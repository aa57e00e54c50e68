//! The BPF programs: one thin entry per hook, each handing over to a `try_*` function with one error enum.
//!
//! Only rare paths are hooked: a packet that conntrack finds valid runs none of this, unless it opens a connection while
//! the table is full. [`packet_tap`], [`tcx_tap`] and [`new_refused`] run more often, and only where the user asks for them. Every read of kernel memory goes through [`kernel`].
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![expect(clippy::needless_pass_by_value, reason = "the kprobe macro passes the context by value")]
#![expect(
    clippy::inline_always,
    reason = "a function that is not inlined becomes a subprogram, which the verifier walks again at every call"
)]

mod conntrack;
mod first;
mod flood;
mod gone;
mod kernel;
mod log_call;
mod packet;
mod slot;
mod socket;
mod table;

use aya_ebpf::EbpfContext;
use aya_ebpf::macros::{classifier, kprobe, kretprobe, raw_tracepoint, socket_filter};
use aya_ebpf::programs::{ProbeContext, RawTracePointContext, RetProbeContext, SkBuffContext, TcContext};
use aya_log_ebpf::debug;
use tracer_common::flood::Key;
use tracer_common::hook::Hook;
use tracer_common::layout::format_argument;
use tracer_common::wire::present;

use crate::flood::{Case, Fate};
use crate::kernel::{Address, Arguments, offset};
use crate::log_call::LogCall;
use crate::packet::Skb;
use crate::slot::Slot;

/// IP protocol number of TCP.
const IPPROTO_TCP: u8 = 6;

/// Why a call of a hooked function led to no record.
enum Skipped {
    /// It is not an event: another protocol, the nested call of the log functions, or the kernel returns early too.
    Passed,
    /// There were many like it: it was counted with its flow.
    Counted,
    /// There was room neither for a record nor for counting it with its flow; the call is counted as lost.
    Full,
}

/// Runs a hook's program and counts what came of it.
#[inline(always)]
fn run<C: EbpfContext>(hook: Hook, ctx: &C, program: fn(Hook, &C) -> Result<(), Skipped>) -> u32 {
    slot::count_hit(hook);
    match program(hook, ctx) {
        Ok(()) => slot::count_emitted(hook),
        Err(Skipped::Passed) => slot::count_passed(hook),
        Err(Skipped::Counted) => slot::count_suppressed(hook),
        Err(Skipped::Full) => {
            slot::count_lost(hook);
            debug!(ctx, "hook {}: no room for an event", hook as u16);
        }
    }
    0
}

/// `void nf_ct_l4proto_log_invalid(const struct sk_buff *skb, const struct nf_conn *ct, const char *fmt, ...)` in 5.10,
/// `(skb, ct, const struct nf_hook_state *state, const char *fmt, ...)` from 5.15 on.
///
/// Entered for every TCP packet that the tracker refuses or lets pass with a remark, whatever `nf_conntrack_log_invalid`
/// is: the sysctl is tested inside. In 5.10 and 5.15 the entry's lock is held, later it is not.
#[kprobe]
pub(crate) fn ct_invalid(ctx: ProbeContext) -> u32 {
    run(Hook::CtInvalid, &ctx, try_ct_invalid)
}

#[inline(always)]
fn try_ct_invalid(hook: Hook, ctx: &ProbeContext) -> Result<(), Skipped> {
    let arguments = Arguments::new(ctx);
    let [skb, ct, third, fourth, fifth, sixth] = arguments.registers;
    if conntrack::protocol(ct) != IPPROTO_TCP {
        return Err(Skipped::Passed);
    }
    let after_state = match offset!(ct_invalid_format) {
        format_argument::THIRD => false,
        format_argument::FOURTH => true,
        // A format string starts with printable text; a `nf_hook_state` starts with a hook number below 5.
        _ => !kernel::starts_with_text(third),
    };
    let call = if after_state {
        LogCall::new(fourth, [fifth, sixth, arguments.further(0)])
    } else {
        LogCall::new(third, [fourth, fifth, sixth])
    };
    let call = call.resolved();

    let skb = Skb::new(skb);
    let netns = if after_state { third.follow(offset!(state_net)) } else { conntrack::net(ct) };
    let key = skb.key(hook, netns.read(offset!(net_inum)), call.class());
    let case = refused(&skb, &key, conntrack::is_confirmed(ct), after_state && is_leaving(third))?;
    let mut slot = Slot::reserve(hook, &case)?;
    slot.packet(&skb);
    slot.interface_in(skb.device());
    if after_state {
        slot.record().present |= present::FORMAT_AFTER_STATE;
        slot.hook_state(third);
    } else {
        slot.netns(conntrack::net(ct));
    }
    slot.conntrack(ct);
    slot.log_call(&call);
    slot.entry_gone();
    slot.submit();
    Ok(())
}

/// Whether a `nf_hook_state` is of a packet that this host sends.
#[inline(always)]
fn is_leaving(state: Address) -> bool {
    const NF_INET_LOCAL_OUT: u8 = 3;
    state.read::<u8>(offset!(state_hook)) == NF_INET_LOCAL_OUT
}

/// Whether a packet that conntrack has something to say about is told.
///
/// One of them is the RST that this host is sending, which conntrack knows no connection for: it is the effect of an event
/// that is told or counted.
#[inline(always)]
fn refused(skb: &Skb, key: &Key, tracked: bool, leaving: bool) -> Result<Case, Skipped> {
    let fate = if leaving && skb.is_reset() { flood::leaving(key) } else { Fate::OPEN };
    if fate == Fate::COUNTED {
        return Err(Skipped::Passed);
    }
    flood::refuse(skb.number(), key, tracked, leaving, fate)
}

/// `void nf_l4proto_log_invalid(const struct sk_buff *skb, struct net *net, u16 pf, u8 protonum, const char *fmt, ...)`
/// in 5.10, `(skb, const struct nf_hook_state *state, u8 protonum, const char *fmt, ...)` from 5.15 on.
///
/// Called by `tcp_error` and, from 6.9 on, `tcp_new`; and, only where `nf_conntrack_log_invalid` is set, by
/// `nf_ct_l4proto_log_invalid` itself with `"%pV"`, which [`ct_invalid`] has already reported.
#[kprobe]
pub(crate) fn ct_malformed(ctx: ProbeContext) -> u32 {
    run(Hook::CtMalformed, &ctx, try_ct_malformed)
}

#[inline(always)]
fn try_ct_malformed(hook: Hook, ctx: &ProbeContext) -> Result<(), Skipped> {
    let arguments = Arguments::new(ctx);
    let [skb, second, third, fourth, fifth, sixth] = arguments.registers;
    let after_state = match offset!(ct_malformed_format) {
        format_argument::FIFTH => false,
        format_argument::FOURTH => true,
        // The fourth argument is either the format string or a protocol number.
        _ => kernel::starts_with_text(fourth),
    };
    let (protocol, call) = if after_state {
        (third, LogCall::new(fourth, [fifth, sixth, arguments.further(0)]))
    } else {
        (fourth, LogCall::new(fifth, [sixth, arguments.further(0), arguments.further(1)]))
    };
    if protocol.low_byte() != IPPROTO_TCP || call.is_nested() {
        return Err(Skipped::Passed);
    }

    let skb = Skb::new(skb);
    let netns = if after_state { second.follow(offset!(state_net)) } else { second };
    let key = skb.key(hook, netns.read(offset!(net_inum)), call.class());
    let case = refused(&skb, &key, skb.is_tracked(), after_state && is_leaving(second))?;
    let mut slot = Slot::reserve(hook, &case)?;
    slot.packet(&skb);
    slot.interface_in(skb.device());
    if after_state {
        slot.record().present |= present::FORMAT_AFTER_STATE;
        slot.hook_state(second);
    } else {
        slot.netns(second);
    }
    slot.conntrack(skb.conntrack());
    slot.log_call(&call);
    slot.entry_gone();
    slot.submit();
    Ok(())
}

/// `static void tcp_v4_send_reset(const struct sock *sk, struct sk_buff *skb)` up to 6.9,
/// `(sk, skb, enum sk_rst_reason reason)` from 6.10 on.
#[kprobe]
pub(crate) fn reset_v4(ctx: ProbeContext) -> u32 {
    run(Hook::ResetV4, &ctx, try_reset)
}

/// `static void tcp_v6_send_reset(const struct sock *sk, struct sk_buff *skb)` up to 6.9,
/// `(sk, skb, enum sk_rst_reason reason)` from 6.10 on.
#[kprobe]
pub(crate) fn reset_v6(ctx: ProbeContext) -> u32 {
    run(Hook::ResetV6, &ctx, try_reset)
}

#[inline(always)]
fn try_reset(hook: Hook, ctx: &ProbeContext) -> Result<(), Skipped> {
    let [sk, skb, reason, ..] = Arguments::new(ctx).registers;
    let skb = Skb::new(skb);
    // The function's own first two tests (tcp_v4_send_reset, tcp_v6_send_reset; 5.10 to 7.2): no RST answers a RST, and
    // without a socket only a segment that was meant for this host is answered.
    if skb.is_reset() || (sk.is_null() && !skb.is_for_this_host(hook)) {
        return Err(Skipped::Passed);
    }

    let reason = if offset!(reset_has_reason) == 1 { reason } else { Address::NULL };
    let case = answering(hook, &skb, sk, reason)?;
    let mut slot = Slot::reserve(hook, &case)?;
    slot.answered(&skb, sk);
    if offset!(reset_has_reason) == 1 {
        slot.reset_reason(reason);
    }
    slot.entry_gone();
    slot.submit();
    Ok(())
}

/// Whether a RST that answers a segment is told.
#[inline(always)]
fn answering(hook: Hook, skb: &Skb, sk: Address, reason: Address) -> Result<Case, Skipped> {
    let class = skb.class_of_answer(sk, reason);
    let net = if sk.is_null() { skb.route_net() } else { sk.follow(offset!(sk_net)) };
    let key = skb.key(hook, net.read(offset!(net_inum)), class);
    Case::answer(skb.number(), &key, skb.is_tracked())
}

/// `void tcp_send_active_reset(struct sock *sk, gfp_t priority)` up to 6.9, `(sk, priority, enum sk_rst_reason reason)` from
/// 6.10 on, `(sk, reason)` in 6.12.104 and 7.2.
///
/// A socket resets its connection without having been sent anything: a process closes it with data unread or with a linger
/// time of 0 (`tcp_close`, `tcp_disconnect`), or the kernel gives up on it (keepalive, out of memory).
#[kprobe]
pub(crate) fn active_reset(ctx: ProbeContext) -> u32 {
    run(Hook::ActiveReset, &ctx, try_active_reset)
}

#[inline(always)]
fn try_active_reset(hook: Hook, ctx: &ProbeContext) -> Result<(), Skipped> {
    let arguments = Arguments::new(ctx);
    let [sk, second, third, ..] = arguments.registers;
    let mut key = socket::key(hook, sk);
    let case = Case::open(&mut key, true, Fate::OPEN)?;
    let mut slot = Slot::reserve(hook, &case)?;
    slot.socket(sk);
    slot.own_socket(sk, arguments.return_address());
    match offset!(active_reset_reason) {
        1 => slot.reset_reason(second),
        2 => slot.reset_reason(third),
        _ => {}
    }
    slot.submit();
    Ok(())
}

/// `TP_PROTO(const struct sock *sk, const struct sk_buff *skb, const enum sk_rst_reason reason)` of `tcp:tcp_send_reset`,
/// 6.10 and later: behind all tests, so that a RST is sent whenever it is reached. `skb` is null where nothing is answered.
///
/// Stands in for [`reset_v4`], [`reset_v6`] and [`active_reset`] where there are no kprobes.
#[raw_tracepoint(tracepoint = "tcp_send_reset")]
pub(crate) fn reset_tracepoint(ctx: RawTracePointContext) -> u32 {
    run(Hook::ResetTracepoint, &ctx, try_reset_tracepoint)
}

#[inline(always)]
fn try_reset_tracepoint(hook: Hook, ctx: &RawTracePointContext) -> Result<(), Skipped> {
    let [sk, skb, reason] = [0, 1, 2].map(|n| Address::of_tracepoint(ctx, n));
    if skb.is_null() {
        let mut key = socket::key(hook, sk);
        let case = Case::open(&mut key, true, Fate::OPEN)?;
        let mut slot = Slot::reserve(hook, &case)?;
        slot.socket(sk);
        slot.own_socket(sk, Address::NULL);
        slot.reset_reason(reason);
        slot.submit();
        return Ok(());
    }
    let skb = Skb::new(skb);
    let case = answering(hook, &skb, sk, reason)?;
    let mut slot = Slot::reserve(hook, &case)?;
    slot.answered(&skb, sk);
    slot.reset_reason(reason);
    slot.submit();
    Ok(())
}

/// The filter of packet sockets: it sees every packet that arrives for the IP stack, and lets none into the socket.
///
/// At this point (`__netif_receive_skb_core`, 5.10 to 6.14) bridges and VLANs have handed the packet to the interface that the
/// IP stack knows it by, and netfilter has not seen it. From 6.15 on such a socket comes behind the IP stack.
#[socket_filter]
pub(crate) fn packet_tap(ctx: SkBuffContext) -> i64 {
    if is_reset(&ctx) {
        run(Hook::PacketTap, &ctx, try_tap);
    }
    0
}

/// A tcx program at the ingress of an interface (`sch_handle_ingress`, 6.6 to 7.2): it lets every packet go on.
#[classifier]
pub(crate) fn tcx_tap(ctx: TcContext) -> i32 {
    const TCX_NEXT: i32 = -1;
    let ctx = SkBuffContext::new(ctx.as_ptr().cast());
    if is_reset(&ctx) {
        run(Hook::TcxTap, &ctx, try_tap);
    }
    TCX_NEXT
}

/// Whether the packet is a TCP segment with the RST flag.
#[inline(always)]
fn is_reset(ctx: &SkBuffContext) -> bool {
    const RST: u8 = 0x04;
    const FLAGS: u32 = 13;
    const IPV6_HEADER: u32 = 40;
    let byte = |at: u32| kernel::packet_byte(ctx, at);
    let first = byte(0);
    match first >> 4 {
        4 => {
            // A fragment other than the first has no TCP header.
            let later = byte(6) & 0x1f != 0 || byte(7) != 0;
            byte(9) == IPPROTO_TCP && !later && byte(u32::from(first & 0xf) * 4 + FLAGS) & RST != 0
        }
        6 => byte(6) == IPPROTO_TCP && byte(IPV6_HEADER + FLAGS) & RST != 0,
        _ => false,
    }
}

#[inline(always)]
fn try_tap(hook: Hook, ctx: &SkBuffContext) -> Result<(), Skipped> {
    let skb = Skb::new(Address::of_buffer(ctx));
    // A bridge or VLAN shows a packet a second time.
    let mut key = skb.key(hook, skb.device_net().read(offset!(net_inum)), skb.device().read(offset!(dev_ifindex)));
    let case = Case::open(&mut key, false, Fate::OPEN)?;
    let mut slot = Slot::reserve(hook, &case)?;
    slot.packet(&skb);
    slot.before_conntrack();
    slot.interface_in(skb.device());
    slot.netns(skb.device_net());
    slot.submit();
    Ok(())
}

/// `void nf_send_reset(struct net *net, struct sock *sk, struct sk_buff *oldskb, int hook)`, 5.10 to 7.2.
#[kprobe]
pub(crate) fn reject_v4(ctx: ProbeContext) -> u32 {
    run(Hook::RejectV4, &ctx, try_reject)
}

/// `void nf_send_reset6(struct net *net, struct sock *sk, struct sk_buff *oldskb, int hook)`, 5.10 to 7.2.
#[kprobe]
pub(crate) fn reject_v6(ctx: ProbeContext) -> u32 {
    run(Hook::RejectV6, &ctx, try_reject)
}

#[inline(always)]
fn try_reject(hook: Hook, ctx: &ProbeContext) -> Result<(), Skipped> {
    let [net, _, skb, nf_hook, ..] = Arguments::new(ctx).registers;
    reject_with(hook, net, skb, nf_hook)
}

/// `struct sk_buff *nf_reject_skb_v4_tcp_reset(struct net *net, struct sk_buff *oldskb, const struct net_device *dev, int
/// hook)`, 5.11 to 7.2: makes the RST of a rule on a bridge or at an interface's ingress.
#[kprobe]
pub(crate) fn link_reject_v4(ctx: ProbeContext) -> u32 {
    run(Hook::LinkRejectV4, &ctx, try_link_reject)
}

/// `nf_reject_skb_v6_tcp_reset`, with the same arguments.
#[kprobe]
pub(crate) fn link_reject_v6(ctx: ProbeContext) -> u32 {
    run(Hook::LinkRejectV6, &ctx, try_link_reject)
}

#[inline(always)]
fn try_link_reject(hook: Hook, ctx: &ProbeContext) -> Result<(), Skipped> {
    let [net, skb, _, nf_hook, ..] = Arguments::new(ctx).registers;
    reject_with(hook, net, skb, nf_hook)
}

#[inline(always)]
fn reject_with(hook: Hook, net: Address, skb: Address, nf_hook: Address) -> Result<(), Skipped> {
    let skb = Skb::new(skb);
    // nf_reject_ip_tcphdr_get, nf_send_reset (5.10 to 7.2): a later fragment, a RST, and a packet to a broadcast or
    // multicast address are not answered.
    if skb.is_reset() || skb.is_later_fragment() || skb.is_to_many() {
        return Err(Skipped::Passed);
    }

    let mut key = skb.key(hook, net.read(offset!(net_inum)), u32::from(nf_hook.low_byte()));
    let fate = flood::fate_of(skb.number(), &key);
    let case = Case::open(&mut key, skb.is_tracked(), fate)?;
    let mut slot = Slot::reserve(hook, &case)?;
    slot.packet(&skb);
    slot.interface_in(skb.device());
    slot.netns(net);
    slot.nf_hook(nf_hook.low_byte());
    slot.conntrack(skb.conntrack());
    slot.entry_gone();
    slot.submit();
    Ok(())
}

/// `bool nf_ct_delete(struct nf_conn *ct, u32 portid, int report)`, 5.10 to 7.2.
///
/// Runs once per connection, when its entry ends, and never for a packet. Nothing is told to user space: the entry is
/// remembered for the packet that may come too late for it.
#[kprobe]
pub(crate) fn entry_gone(ctx: ProbeContext) -> u32 {
    run(Hook::EntryGone, &ctx, try_entry_gone)
}

#[inline(always)]
fn try_entry_gone(_: Hook, ctx: &ProbeContext) -> Result<(), Skipped> {
    let arguments = Arguments::new(ctx);
    let [ct, portid, ..] = arguments.registers;
    if conntrack::protocol(ct) != IPPROTO_TCP || !conntrack::is_translated(ct) {
        return Err(Skipped::Passed);
    }
    gone::remember(ct, portid.number() as u32, arguments.return_address()).ok_or(Skipped::Passed)
}

/// `static noinline int early_drop(struct net *net, unsigned int hash)`, 5.10 to 7.2, at its entry.
///
/// Called for a new connection while the table holds more than `nf_conntrack_max` entries.
#[kprobe]
pub(crate) fn table_search(ctx: ProbeContext) -> u32 {
    let arguments = Arguments::new(&ctx);
    let [net, ..] = arguments.registers;
    table::search(arguments.stack_pointer(), net.read(offset!(net_inum)));
    0
}

/// `early_drop` returning: 0 where it found nothing to evict, and the new connection's packet is dropped.
#[kretprobe]
pub(crate) fn table_full(ctx: RetProbeContext) -> u32 {
    let hook = Hook::TableFull;
    slot::count_hit(hook);
    let found = ctx.ret::<i32>() != 0;
    match table::searched(kernel::stack_of_caller(&ctx), found) {
        Skipped::Full => slot::count_lost(hook),
        _ => slot::count_emitted(hook),
    }
    0
}

/// `static noinline bool tcp_new(struct nf_conn *ct, const struct sk_buff *skb, unsigned int dataoff, const struct tcphdr
/// *th)`, with a `nf_hook_state` behind it from 6.9 on; at its entry.
#[kprobe]
pub(crate) fn new_started(ctx: ProbeContext) -> u32 {
    let arguments = Arguments::new(&ctx);
    let [ct, skb, ..] = arguments.registers;
    first::started(arguments.stack_pointer(), ct, skb);
    0
}

/// `tcp_new` returning: false where the packet cannot open a connection. Up to 6.6 it says so nowhere else, and with
/// `nf_conntrack_tcp_loose=0` no kernel does.
#[kretprobe]
pub(crate) fn new_refused(ctx: RetProbeContext) -> u32 {
    let hook = Hook::NewRefused;
    let started = first::ended(kernel::stack_of_caller(&ctx));
    // A `bool` is returned in the lowest byte.
    if ctx.ret::<u64>() as u8 != 0 {
        return 0;
    }
    slot::count_hit(hook);
    let refused = started.ok_or(Skipped::Full).and_then(|(ct, skb)| try_new_refused(hook, ct, skb));
    match refused {
        Ok(()) => slot::count_emitted(hook),
        Err(Skipped::Counted) => slot::count_suppressed(hook),
        Err(_) => slot::count_lost(hook),
    }
    0
}

#[inline(always)]
fn try_new_refused(hook: Hook, ct: Address, skb: Address) -> Result<(), Skipped> {
    let skb = Skb::new(skb);
    let mut key = skb.key(hook, conntrack::netns(ct), 0);
    let case = Case::open(&mut key, false, Fate::OPEN)?;
    let mut slot = Slot::reserve(hook, &case)?;
    slot.packet(&skb);
    slot.interface_in(skb.device());
    slot.netns(conntrack::net(ct));
    slot.entry_gone();
    slot.submit();
    Ok(())
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    kernel::unreachable()
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
