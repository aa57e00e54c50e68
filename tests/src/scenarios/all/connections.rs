//! Segments, connections and their entries: what the kernel decides, tried on every kernel.

use super::super::Named::{ByLogFormat, Each, Nothing, Refusing, Several};
use super::super::{
    Scenario, arithmetic, bad_input, faults, late_retransmission, malformed, no_entry, state, topologies, window,
};
use super::{SEQ_OVER, scenario};

/// In the order in which they are run.
pub(super) const LIST: &[Scenario] = &[
    scenario(
        "no-conntrack",
        "before nf_conntrack is loaded: exit status 3, and --wait waits",
        bad_input::no_conntrack,
        Nothing,
    ),
    // It takes the module out again, which later scenarios make ever harder.
    scenario(
        "module-after-start",
        "whyrst waits for nf_conntrack, the gateway begins to translate, and then there is an incident",
        topologies::module_after_start,
        Each(SEQ_OVER),
    ),
    scenario(
        "fault-conntrack-reloaded",
        "nf_conntrack is taken out and loaded again: incidents before and after",
        faults::modules::conntrack,
        Several(&[(2, SEQ_OVER), (1, "no-entry/expired by gateway-stack")]),
    ),
    scenario(
        "late-retransmission",
        "an HTTP download through SNAT, and a late copy of one of its segments",
        late_retransmission::run,
        ByLogFormat {
            refusing: "out-of-window/seq-under by gateway-stack",
            lenient: "out-of-window/seq-under accepted",
        },
    ),
    scenario(
        "seq-over",
        "a segment from the server far beyond the client's window",
        window::seq_over,
        Each("out-of-window/seq-over by gateway-stack"),
    ),
    scenario(
        "ack-over",
        "a segment from the server that acknowledges what the client never sent",
        window::ack_over,
        Each("out-of-window/ack-over by gateway-stack"),
    ),
    scenario(
        "ipv6-seq-over",
        "the same as seq-over through IPv6 masquerade",
        window::ipv6_seq_over,
        Each("out-of-window/seq-over by gateway-stack"),
    ),
    scenario(
        "kernel-log-agrees",
        "with log_invalid on: counted once, and the bound is the one that the kernel logs",
        window::kernel_log_agrees,
        Each("out-of-window/seq-over by gateway-stack"),
    ),
    scenario(
        "fragmented-buffer",
        "a segment whose TCP header is not in the linear part of its buffer",
        window::fragmented_buffer,
        Each("out-of-window/seq-over by gateway-stack"),
    ),
    scenario(
        "ack-under",
        "a segment from the server that was on its way for very long",
        window::ack_under,
        ByLogFormat {
            refusing: "out-of-window/ack-under by gateway-stack",
            lenient: "out-of-window/ack-under accepted",
        },
    ),
    scenario(
        "overshot",
        "a segment from the server slightly beyond the window",
        window::overshot,
        ByLogFormat { refusing: "out-of-window/seq-over by gateway-stack", lenient: "out-of-window/overshot accepted" },
    ),
    scenario(
        "overshot-then-data",
        "an overshot segment was let pass; then the client speaks",
        arithmetic::overshot_then_data,
        ByLogFormat {
            refusing: "out-of-window/seq-over by gateway-stack",
            lenient: "out-of-window/ack-over by gateway-stack",
        },
    ),
    scenario(
        "overshot-then-dropped",
        "the same where a rule drops what conntrack refuses: the connection hangs",
        arithmetic::overshot_then_dropped,
        ByLogFormat { refusing: "out-of-window/seq-over by nobody", lenient: "out-of-window/ack-over by nobody" },
    ),
    scenario(
        "overshot-harmless",
        "the same, one byte less far ahead",
        arithmetic::overshot_harmless,
        ByLogFormat { refusing: "out-of-window/seq-over by gateway-stack", lenient: "out-of-window/overshot accepted" },
    ),
    scenario(
        "sack-present",
        "SACK blocks: one saves a segment with an old acknowledgement, one condemns a segment",
        arithmetic::sack_present,
        Each("out-of-window/ack-over by gateway-stack"),
    ),
    scenario(
        "window-scaling",
        "segments at the limits of a window with the largest scale",
        arithmetic::window_scaling,
        Each("out-of-window/seq-over by gateway-stack"),
    ),
    scenario(
        "wrap-around-over",
        "a segment beyond a window that reaches over the wrap-around",
        arithmetic::wrap_around_over,
        Each("out-of-window/seq-over by gateway-stack"),
    ),
    scenario(
        "wrap-around-under",
        "a late segment from before the wrap-around",
        arithmetic::wrap_around_under,
        ByLogFormat {
            refusing: "out-of-window/seq-under by gateway-stack",
            lenient: "out-of-window/seq-under accepted",
        },
    ),
    scenario(
        "mid-stream",
        "an entry that was picked up in mid-stream takes whatever comes",
        arithmetic::mid_stream,
        Nothing,
    ),
    scenario(
        "invalid-rst",
        "a dead server's RST is refused for being old: the client waits for ever",
        state::invalid_rst,
        Each("invalid-state/invalid-rst by nobody"),
    ),
    scenario(
        "invalid-rst-let-pass",
        "the same with tcp_ignore_invalid_rst=1: the client itself takes no notice",
        state::invalid_rst_let_pass,
        Refusing("invalid-state/invalid-rst by nobody"),
    ),
    scenario(
        "syn-in-established",
        "a SYN from the client inside an established connection is let pass",
        state::syn_in_established,
        Each("invalid-state/invalid-state accepted"),
    ),
    scenario(
        "syn-from-server",
        "a SYN from the server inside an established connection is refused",
        state::syn_from_server,
        Each("invalid-state/invalid-state by gateway-stack"),
    ),
    scenario(
        "syn-ack-no-entry",
        "a SYN-ACK whose SYN took another way",
        state::syn_ack_no_entry,
        Each("invalid-state/invalid-new by gateway-stack"),
    ),
    scenario(
        "challenge-ack",
        "a challenge ACK is not taken for the last ACK of a connection",
        state::challenge_ack,
        Each("invalid-state/invalid-state accepted"),
    ),
    scenario(
        "bad-checksum",
        "a segment with a bad checksum is refused: no RST",
        malformed::bad_checksum,
        Each("malformed/bad-checksum by nobody"),
    ),
    scenario(
        "bad-checksum-unchecked",
        "the same with nf_conntrack_checksum=0: the client throws it away",
        malformed::bad_checksum_unchecked,
        Nothing,
    ),
    scenario(
        "bad-flags",
        "SYN, FIN and ACK in one segment",
        malformed::bad_flags,
        Each("malformed/bad-flags by gateway-stack"),
    ),
    scenario(
        "ipv6-bad-flags",
        "the same through IPv6 masquerade",
        malformed::ipv6_bad_flags,
        Each("malformed/bad-flags by gateway-stack"),
    ),
    scenario(
        "bad-flags-reset",
        "FIN, RST and ACK in one segment: nothing answers a RST",
        malformed::bad_flags_reset,
        Each("malformed/bad-flags by nobody"),
    ),
    scenario("truncated", "data offsets that cannot be", malformed::truncated, Each("malformed/truncated by nobody")),
    scenario(
        "port-forward",
        "a segment far beyond the window, from a server behind DNAT and masquerade",
        window::port_forward,
        Each("out-of-window/seq-over by gateway-stack"),
    ),
    scenario(
        "fin-no-entry",
        "the server closes a connection that the gateway has forgotten",
        no_entry::fin,
        Each("invalid-state/invalid-new by gateway-stack"),
    ),
    scenario(
        "entry-expired",
        "an idle entry expires; the server speaks again",
        no_entry::expired,
        Each("no-entry/expired by gateway-stack"),
    ),
    scenario(
        "entry-expired-strict",
        "the same with tcp_loose=0",
        no_entry::expired_strict,
        Each("no-entry/expired by gateway-stack"),
    ),
    scenario(
        "entry-closed",
        "a late copy of a segment of a connection that was closed",
        no_entry::closed,
        Each("no-entry/closed by gateway-stack"),
    ),
    scenario(
        "entry-closed-strict",
        "the same with tcp_loose=0",
        no_entry::closed_strict,
        Each("no-entry/closed by gateway-stack"),
    ),
    scenario(
        "entry-deleted",
        "conntrack -D takes the entry of a live connection",
        no_entry::deleted,
        Each("no-entry/deleted by gateway-stack"),
    ),
    scenario(
        "entry-deleted-strict",
        "the same with tcp_loose=0",
        no_entry::deleted_strict,
        Each("no-entry/deleted by gateway-stack"),
    ),
    scenario(
        "entry-flushed",
        "conntrack -F takes all entries",
        no_entry::flushed,
        Each("no-entry/deleted by gateway-stack"),
    ),
    scenario(
        "entry-flushed-strict",
        "the same with tcp_loose=0",
        no_entry::flushed_strict,
        Each("no-entry/deleted by gateway-stack"),
    ),
    scenario(
        "address-removed",
        "the masquerading address goes and comes back",
        no_entry::address_removed,
        Each("no-entry/deleted by gateway-stack"),
    ),
    scenario(
        "address-removed-strict",
        "the same with tcp_loose=0",
        no_entry::address_removed_strict,
        Each("no-entry/deleted by gateway-stack"),
    ),
    scenario(
        "entry-older",
        "an entry that expired before whyrst was started",
        no_entry::older,
        Each("no-entry/never-seen by gateway-stack"),
    ),
    scenario(
        "entry-older-strict",
        "the same with tcp_loose=0",
        no_entry::older_strict,
        Each("no-entry/never-seen by gateway-stack"),
    ),
];
