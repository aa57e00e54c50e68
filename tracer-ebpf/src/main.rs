//! The BPF programs: one thin entry per hook, which calls a `try_*` function with one error enum.
//!
//! Only rare paths are hooked: a packet that conntrack accepts runs no program, unless it opens a connection while the table
//! is full. [`packet_tap`], [`tcx_tap`] and [`new_refused`] run more often, and only if the user asks for them. Every read of
//! kernel memory goes through [`kernel`].
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![expect(clippy::needless_pass_by_value, reason = "the kprobe macro passes the context by value")]
#![expect(
    clippy::inline_always,
    reason = "a function that is not inlined becomes a subprogram, which the verifier walks again at every call"
)]

mod caller;
mod conntrack;
mod counters;
mod destroyed;
mod early_drop;
mod kernel;
mod log_call;
mod packet;
mod ratelimit;
mod ring;
mod socket;
mod tcp_new;

use aya_ebpf::EbpfContext;
use aya_ebpf::macros::{classifier, kprobe, kretprobe, raw_tracepoint, socket_filter};
use aya_ebpf::programs::{ProbeContext, RawTracePointContext, RetProbeContext, SkBuffContext, TcContext};
use aya_log_ebpf::debug;
use tracer_common::hook::Hook;
use tracer_common::layout::format_argument;
use tracer_common::ratelimit::Key;
use tracer_common::wire::present;

use crate::counters::Skipped;
use crate::kernel::{Address, Arguments, offset};
use crate::log_call::LogCall;
use crate::packet::Skb;
use crate::ratelimit::{Admission, Decision};

/// IP protocol number of TCP.
const IPPROTO_TCP: u8 = 6;

/// Runs a hook's program and counts its outcome.
#[inline(always)]
fn run<C: EbpfContext>(hook: Hook, ctx: &C, program: fn(Hook, &C) -> Result<(), Skipped>) -> u32 {
    counters::count_hit(hook);
    match program(hook, ctx) {
        Ok(()) => counters::count_emitted(hook),
        Err(Skipped::Passed) => counters::count_passed(hook),
        Err(Skipped::Suppressed) => counters::count_suppressed(hook),
        Err(Skipped::Full) => {
            counters::count_lost(hook);
            debug!(ctx, "hook {}: no room for an event", hook as u16);
        }
    }
    0
}

/// `void nf_ct_l4proto_log_invalid(const struct sk_buff *skb, const struct nf_conn *ct, const char *fmt, ...)` in 5.10,
/// `(skb, ct, const struct nf_hook_state *state, const char *fmt, ...)` from 5.15 on.
///
/// The tracker calls it for every TCP packet that it classifies as INVALID or accepts with a log message, whatever
/// `nf_conntrack_log_invalid` is: the function itself tests the sysctl. Up to 5.15 the caller holds the entry's lock.
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
    let admission = decide_logged(&skb, &key, conntrack::is_confirmed(ct), after_state && is_outgoing(third))?;
    let mut reservation = admission.reserve(hook)?;
    reservation.packet(&skb);
    reservation.interface_in(skb.device());
    if after_state {
        reservation.record().present |= present::FORMAT_AFTER_STATE;
        reservation.hook_state(third);
    } else {
        reservation.netns(conntrack::net(ct));
    }
    reservation.conntrack(ct);
    reservation.log_call(&call);
    reservation.destroyed_entry();
    reservation.submit();
    Ok(())
}

/// Whether a `nf_hook_state` is of `LOCAL_OUT`, where this host sends the packet.
#[inline(always)]
fn is_outgoing(state: Address) -> bool {
    const NF_INET_LOCAL_OUT: u8 = 3;
    state.read::<u8>(offset!(state_hook)) == NF_INET_LOCAL_OUT
}

/// Decides whether to emit a record of a packet that conntrack logged.
///
/// conntrack also logs the RST that this host sends, because it has no entry for it: the decision about the event that caused
/// the RST holds for it.
#[inline(always)]
fn decide_logged(skb: &Skb, key: &Key, tracked: bool, outgoing: bool) -> Result<Admission, Skipped> {
    let decision = if outgoing && skb.is_reset() { ratelimit::take_reset_decision(key) } else { Decision::Open };
    if decision == Decision::Count {
        return Err(Skipped::Passed);
    }
    Admission::decide_logged(skb.number(), key, tracked, outgoing, decision)
}

/// `void nf_l4proto_log_invalid(const struct sk_buff *skb, struct net *net, u16 pf, u8 protonum, const char *fmt, ...)`
/// in 5.10, `(skb, const struct nf_hook_state *state, u8 protonum, const char *fmt, ...)` from 5.15 on.
///
/// Called by `tcp_error` and, from 6.9 on, `tcp_new`. If `nf_conntrack_log_invalid` is set, `nf_ct_l4proto_log_invalid` calls it
/// too, with `"%pV"`: [`ct_invalid`] has emitted that message already.
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
    let admission = decide_logged(&skb, &key, skb.is_tracked(), after_state && is_outgoing(second))?;
    let mut reservation = admission.reserve(hook)?;
    reservation.packet(&skb);
    reservation.interface_in(skb.device());
    if after_state {
        reservation.record().present |= present::FORMAT_AFTER_STATE;
        reservation.hook_state(second);
    } else {
        reservation.netns(second);
    }
    reservation.conntrack(skb.conntrack());
    reservation.log_call(&call);
    reservation.destroyed_entry();
    reservation.submit();
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
    // without a socket the stack answers only a segment that was routed to this host.
    if skb.is_reset() || (sk.is_null() && !skb.is_for_this_host(hook)) {
        return Err(Skipped::Passed);
    }

    let reason = if offset!(reset_has_reason) == 1 { reason } else { Address::NULL };
    let admission = decide_answer(hook, &skb, sk, reason)?;
    let mut reservation = admission.reserve(hook)?;
    reservation.answered(&skb, sk);
    if offset!(reset_has_reason) == 1 {
        reservation.reset_reason(reason);
    }
    reservation.destroyed_entry();
    reservation.submit();
    Ok(())
}

/// Decides whether to emit a record of a RST that answers a segment.
#[inline(always)]
fn decide_answer(hook: Hook, skb: &Skb, sk: Address, reason: Address) -> Result<Admission, Skipped> {
    let class = skb.class_of_answer(sk, reason);
    let net = if sk.is_null() { skb.route_net() } else { sk.follow(offset!(sk_net)) };
    let key = skb.key(hook, net.read(offset!(net_inum)), class);
    Admission::decide_answer(skb.number(), &key, skb.is_tracked())
}

/// `void tcp_send_active_reset(struct sock *sk, gfp_t priority)` up to 6.9, `(sk, priority, enum sk_rst_reason reason)` from
/// 6.10 on, `(sk, reason)` in 6.12.104 and 7.2.
///
/// A socket resets its connection without a segment to answer: a process closes it with unread data or with a linger time of
/// 0 (`tcp_close`, `tcp_disconnect`), or the kernel aborts it (keepalive, out of memory).
#[kprobe]
pub(crate) fn active_reset(ctx: ProbeContext) -> u32 {
    run(Hook::ActiveReset, &ctx, try_active_reset)
}

#[inline(always)]
fn try_active_reset(hook: Hook, ctx: &ProbeContext) -> Result<(), Skipped> {
    let arguments = Arguments::new(ctx);
    let [sk, second, third, ..] = arguments.registers;
    let mut key = socket::key(hook, sk);
    let admission = Admission::decide(&mut key, true, Decision::Open)?;
    let mut reservation = admission.reserve(hook)?;
    reservation.socket(sk);
    reservation.own_socket(sk, arguments.return_address());
    match offset!(active_reset_reason) {
        1 => reservation.reset_reason(second),
        2 => reservation.reset_reason(third),
        _ => {}
    }
    reservation.submit();
    Ok(())
}

/// `TP_PROTO(const struct sock *sk, const struct sk_buff *skb, const enum sk_rst_reason reason)` of `tcp:tcp_send_reset`,
/// 6.10 and later: behind all tests, so that the stack sends a RST whenever it is reached. `skb` is null where the RST answers
/// no segment.
///
/// Replaces [`reset_v4`], [`reset_v6`] and [`active_reset`] where the kernel has no kprobes.
#[raw_tracepoint(tracepoint = "tcp_send_reset")]
pub(crate) fn reset_tracepoint(ctx: RawTracePointContext) -> u32 {
    run(Hook::ResetTracepoint, &ctx, try_reset_tracepoint)
}

#[inline(always)]
fn try_reset_tracepoint(hook: Hook, ctx: &RawTracePointContext) -> Result<(), Skipped> {
    let [sk, skb, reason] = [0, 1, 2].map(|n| Address::of_tracepoint(ctx, n));
    if skb.is_null() {
        let mut key = socket::key(hook, sk);
        let admission = Admission::decide(&mut key, true, Decision::Open)?;
        let mut reservation = admission.reserve(hook)?;
        reservation.socket(sk);
        reservation.own_socket(sk, Address::NULL);
        reservation.reset_reason(reason);
        reservation.submit();
        return Ok(());
    }
    let skb = Skb::new(skb);
    let admission = decide_answer(hook, &skb, sk, reason)?;
    let mut reservation = admission.reserve(hook)?;
    reservation.answered(&skb, sk);
    reservation.reset_reason(reason);
    reservation.submit();
    Ok(())
}

/// The filter of packet sockets: it sees every packet that the IP stack receives, and passes none to the socket.
///
/// At this point (`__netif_receive_skb_core`, 5.10 to 6.14) the packet has left bridges and VLANs and is on the interface that
/// the IP stack uses, and netfilter has not seen it. From 6.15 on the kernel runs such a socket after the IP stack.
#[socket_filter]
pub(crate) fn packet_tap(ctx: SkBuffContext) -> i64 {
    if is_reset(&ctx) {
        run(Hook::PacketTap, &ctx, try_tap);
    }
    0
}

/// A tcx program at the ingress of an interface (`sch_handle_ingress`, 6.6 to 7.2): it passes every packet.
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
    // The class is the interface: the tap sees a packet again on a bridge or VLAN.
    let mut key = skb.key(hook, skb.device_net().read(offset!(net_inum)), skb.device().read(offset!(dev_ifindex)));
    let admission = Admission::decide(&mut key, false, Decision::Open)?;
    let mut reservation = admission.reserve(hook)?;
    reservation.packet(&skb);
    reservation.before_conntrack();
    reservation.interface_in(skb.device());
    reservation.netns(skb.device_net());
    reservation.submit();
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
    // nf_reject_ip_tcphdr_get, nf_send_reset (5.10 to 7.2): the kernel does not answer a later fragment, a RST, or a packet to
    // a broadcast or multicast address.
    if skb.is_reset() || skb.is_later_fragment() || skb.is_to_many() {
        return Err(Skipped::Passed);
    }

    let mut key = skb.key(hook, net.read(offset!(net_inum)), u32::from(nf_hook.low_byte()));
    let decision = ratelimit::decision_about(skb.number(), &key);
    let admission = Admission::decide(&mut key, skb.is_tracked(), decision)?;
    let mut reservation = admission.reserve(hook)?;
    reservation.packet(&skb);
    reservation.interface_in(skb.device());
    reservation.netns(net);
    reservation.nf_hook(nf_hook.low_byte());
    reservation.conntrack(skb.conntrack());
    reservation.destroyed_entry();
    reservation.submit();
    Ok(())
}

/// `bool nf_ct_delete(struct nf_conn *ct, u32 portid, int report)`, 5.10 to 7.2.
///
/// Runs once per connection, when conntrack destroys its entry, and never for a packet. It emits no record: it keeps the entry
/// for a later packet that would have belonged to it.
#[kprobe]
pub(crate) fn entry_destroyed(ctx: ProbeContext) -> u32 {
    run(Hook::EntryDestroyed, &ctx, try_entry_destroyed)
}

#[inline(always)]
fn try_entry_destroyed(_: Hook, ctx: &ProbeContext) -> Result<(), Skipped> {
    let arguments = Arguments::new(ctx);
    let [ct, portid, ..] = arguments.registers;
    if conntrack::protocol(ct) != IPPROTO_TCP || !conntrack::is_translated(ct) {
        return Err(Skipped::Passed);
    }
    destroyed::keep(ct, portid.number() as u32, arguments.return_address()).ok_or(Skipped::Passed)
}

/// `static noinline int early_drop(struct net *net, unsigned int hash)`, 5.10 to 7.2, at its entry.
///
/// Called for a new connection while the table holds more than `nf_conntrack_max` entries.
#[kprobe]
pub(crate) fn table_search(ctx: ProbeContext) -> u32 {
    let arguments = Arguments::new(&ctx);
    let [net, ..] = arguments.registers;
    early_drop::entered(arguments.stack_pointer(), net.read(offset!(net_inum)));
    0
}

/// `early_drop` at its return: it returns 0 where it found no entry to evict, and the kernel drops the new connection's packet.
#[kretprobe]
pub(crate) fn table_full(ctx: RetProbeContext) -> u32 {
    let hook = Hook::TableFull;
    counters::count_hit(hook);
    let evicted = ctx.ret::<i32>() != 0;
    match early_drop::returned(kernel::stack_of_caller(&ctx), evicted) {
        Skipped::Full => counters::count_lost(hook),
        _ => counters::count_emitted(hook),
    }
    0
}

/// `static noinline bool tcp_new(struct nf_conn *ct, const struct sk_buff *skb, unsigned int dataoff, const struct tcphdr
/// *th)`, with a `nf_hook_state` behind it from 6.9 on; at its entry.
#[kprobe]
pub(crate) fn new_started(ctx: ProbeContext) -> u32 {
    let arguments = Arguments::new(&ctx);
    let [ct, skb, ..] = arguments.registers;
    tcp_new::entered(arguments.stack_pointer(), ct, skb);
    0
}

/// `tcp_new` at its return: it returns false where the packet cannot open a connection. Up to 6.6 the kernel does not log that,
/// and with `nf_conntrack_tcp_loose=0` no kernel does.
#[kretprobe]
pub(crate) fn new_refused(ctx: RetProbeContext) -> u32 {
    let hook = Hook::NewRefused;
    let started = tcp_new::returned(kernel::stack_of_caller(&ctx));
    // A `bool` is returned in the lowest byte.
    if ctx.ret::<u64>() as u8 != 0 {
        return 0;
    }
    counters::count_hit(hook);
    let refused = started.ok_or(Skipped::Full).and_then(|(ct, skb)| try_new_refused(hook, ct, skb));
    match refused {
        Ok(()) => counters::count_emitted(hook),
        Err(Skipped::Suppressed) => counters::count_suppressed(hook),
        Err(_) => counters::count_lost(hook),
    }
    0
}

#[inline(always)]
fn try_new_refused(hook: Hook, ct: Address, skb: Address) -> Result<(), Skipped> {
    let skb = Skb::new(skb);
    let mut key = skb.key(hook, conntrack::netns(ct), 0);
    let admission = Admission::decide(&mut key, false, Decision::Open)?;
    let mut reservation = admission.reserve(hook)?;
    reservation.packet(&skb);
    reservation.interface_in(skb.device());
    reservation.netns(conntrack::net(ct));
    reservation.destroyed_entry();
    reservation.submit();
    Ok(())
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    kernel::unreachable()
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
