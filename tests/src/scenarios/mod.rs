//! The incidents, by name.
//!
//! A scenario builds its network, starts whyrst, makes something happen on the wire, and compares three things with what
//! they should be: the report, the errors that both ends of the connection saw, and the packets on the wire.

mod arithmetic;
mod bad_input;
mod connection;
mod doctor;
mod download;
mod kernel_types;
mod late_retransmission;
mod local;
mod malformed;
mod no_entry;
mod peers;
mod reject;
mod reject_rule;
mod remedies;
mod remedies_applied;
mod rotated;
mod rules;
mod scale;
mod state;
mod table;
mod tap;
mod told;
mod topologies;
mod window;

use std::fmt::Write as _;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, anyhow};

use self::Named::{AtLeast, ByEra, Each, IfAny, NotE1, Nothing, Refusing, Several};
use crate::protocol::Message;

/// What a scenario is run with.
pub struct Context<'a> {
    /// The era that the kernel is expected to be of.
    pub era: &'a str,
    /// Where it may leave files.
    pub artifacts: PathBuf,
    report: &'a dyn Fn(Message),
}

impl Context<'_> {
    /// Tells the host that something worth seeing happened.
    pub fn step(&self, text: impl Into<String>) {
        (self.report)(Message::Step { text: text.into() });
    }

    /// Whether this kernel says why its TCP stack resets (`enum sk_rst_reason`, 6.10 and later).
    pub fn names_reset_reasons(&self) -> bool {
        !matches!(self.era, "e1" | "e2" | "e3") && !rustix::system::uname().release().to_bytes().starts_with(b"6.1.")
    }

    /// Whether this kernel refuses every segment out of the window, as 5.10 and 5.15 do.
    pub fn refuses_everything(&self) -> bool {
        matches!(self.era, "e1" | "e2")
    }
}

/// An incident.
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// It in one line.
    pub about: &'static str,
    /// What its report must name.
    pub named: Named,
    run: fn(&Context<'_>) -> Result<()>,
}

/// The flows that a report must name, and no others: `cause/reason by WHO`, where nobody sent a RST `by nobody`, where the
/// kernel let the packets pass `accepted`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// None.
    Nothing,
    /// One, the same on every kernel.
    Each(&'static str),
    /// One, if there is a report at all: some kernels cannot be traced in this way, which the scenario checks.
    IfAny(&'static str),
    /// One, on kernels that refuse whatever is out of the window (E1, E2), and on later ones.
    ByEra {
        /// E1, E2.
        refusing: &'static str,
        /// E3, E4.
        lenient: &'static str,
    },
    /// None on 5.10 (E1), one on later kernels.
    NotE1(&'static str),
    /// One on kernels that refuse it, none on later ones, which can be told to let it pass.
    Refusing(&'static str),
    /// So many of each, the same on every kernel.
    Several(&'static [(usize, &'static str)]),
    /// So many or more, all the same; what was accepted besides does not count.
    AtLeast(usize, &'static str),
}

/// Of more than one scenario.
const SEQ_OVER: &str = "out-of-window/seq-over by gateway-stack";
const DELETED: &str = "no-entry/deleted by gateway-stack";
const REJECTED: &str = "reject-rule by gateway-reject-rule";
const NO_LISTENER: &str = "no-listener by gateway-stack";

const fn scenario(
    name: &'static str,
    about: &'static str,
    run: fn(&Context<'_>) -> Result<()>,
    named: Named,
) -> Scenario {
    Scenario { name, about, named, run }
}

/// All of them, in the order in which they are run.
pub const ALL: &[Scenario] = &[
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
        "late-retransmission",
        "an HTTP download through SNAT, and a late copy of one of its segments",
        late_retransmission::run,
        ByEra { refusing: "out-of-window/seq-under by gateway-stack", lenient: "out-of-window/seq-under accepted" },
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
        ByEra { refusing: "out-of-window/ack-under by gateway-stack", lenient: "out-of-window/ack-under accepted" },
    ),
    scenario(
        "overshot",
        "a segment from the server slightly beyond the window",
        window::overshot,
        ByEra { refusing: "out-of-window/seq-over by gateway-stack", lenient: "out-of-window/overshot accepted" },
    ),
    scenario(
        "overshot-then-data",
        "an overshot segment was let pass; then the client speaks",
        arithmetic::overshot_then_data,
        ByEra {
            refusing: "out-of-window/seq-over by gateway-stack",
            lenient: "out-of-window/ack-over by gateway-stack",
        },
    ),
    scenario(
        "overshot-then-dropped",
        "the same where a rule drops what conntrack refuses: the connection hangs",
        arithmetic::overshot_then_dropped,
        ByEra { refusing: "out-of-window/seq-over by nobody", lenient: "out-of-window/ack-over by nobody" },
    ),
    scenario(
        "overshot-harmless",
        "the same, one byte less far ahead",
        arithmetic::overshot_harmless,
        ByEra { refusing: "out-of-window/seq-over by gateway-stack", lenient: "out-of-window/overshot accepted" },
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
        ByEra { refusing: "out-of-window/seq-under by gateway-stack", lenient: "out-of-window/seq-under accepted" },
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
    scenario("clean-download", "a download that nothing happens to", download::clean, Nothing),
    scenario(
        "two-flows",
        "two downloads at once, one disturbed: only the victim is named",
        download::two_flows,
        Each("out-of-window/seq-over by gateway-stack"),
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
    scenario(
        "invalid-dropped",
        "a rule drops what conntrack refuses: no RST",
        rules::invalid_dropped,
        Each("out-of-window/seq-over by nobody"),
    ),
    scenario(
        "not-tracked",
        "a NOTRACK rule takes half of a connection",
        rules::not_tracked,
        Each("not-tracked by gateway-stack"),
    ),
    scenario(
        "no-listener",
        "a SYN to a closed port of the gateway",
        rules::no_listener,
        Each("no-listener by gateway-stack"),
    ),
    scenario(
        "cure-nft",
        "the printed commands of drop-invalid-input (nft) and be-liberal cure seq-over, and are undone",
        remedies::by_nft,
        Each(SEQ_OVER),
    ),
    scenario("cure-iptables", "the same where iptables translates", remedies::by_iptables, Each(SEQ_OVER)),
    scenario("cure-legacy", "the same where legacy iptables translates", remedies::by_legacy, Each(SEQ_OVER)),
    scenario(
        "cure-ignore-invalid-rst",
        "the printed commands of ignore-invalid-rst let a dead server's RST through",
        remedies::ignore_invalid_rst,
        Each("invalid-state/invalid-rst by nobody"),
    ),
    scenario(
        "cure-timeout",
        "the printed commands of raise-timeout keep an idle connection",
        remedies::raise_timeout,
        Each("no-entry/expired by gateway-stack"),
    ),
    scenario(
        "cure-table-size",
        "the printed commands of raise-table-size keep half-open connections from being evicted",
        remedies::raise_table_size,
        AtLeast(50, "no-entry/evicted by gateway-stack"),
    ),
    scenario(
        "cure-untrack",
        "the printed commands of untrack-service (nft) keep a service from being rejected",
        remedies::untrack_by_nft,
        Each(REJECTED),
    ),
    scenario("cure-untrack-iptables", "the same where iptables filters", remedies::untrack_by_iptables, Each(REJECTED)),
    scenario(
        "cure-untrack-legacy",
        "the same where legacy iptables filters",
        remedies::untrack_by_legacy,
        Each(REJECTED),
    ),
    scenario(
        "mitigate-apply",
        "whyrst mitigate --apply and --undo, refusals, and a command that fails half-way",
        remedies_applied::run,
        Each(SEQ_OVER),
    ),
    scenario("be-liberal", "with tcp_be_liberal nothing is out of the window", rules::be_liberal, Nothing),
    scenario("table-drops", "a full table drops a new connection: no RST", table::drops, Nothing),
    scenario(
        "table-evicts",
        "half-open connections take each other's place in a full table",
        table::evicts,
        AtLeast(50, "no-entry/evicted by gateway-stack"),
    ),
    scenario(
        "reject-module-later",
        "a REJECT rule that is added while whyrst runs, and its module with it",
        window::reject_module_later,
        Each("reject-rule by gateway-reject-rule"),
    ),
    scenario(
        "invalid-rejected",
        "a rule rejects what conntrack refuses: the rule sent the RST",
        rules::invalid_rejected,
        Each("reject-rule by gateway-reject-rule"),
    ),
    scenario(
        "service-lingers",
        "a service of the gateway closes with a linger time of 0",
        local::lingers,
        Each("local-socket by gateway-socket"),
    ),
    scenario(
        "service-leaves-data",
        "a service of the gateway closes with data unread",
        local::leaves_data,
        Each("local-socket by gateway-socket"),
    ),
    scenario(
        "time-wait",
        "a stray segment for a socket of the gateway in TIME_WAIT",
        local::time_wait,
        Each("local-socket by gateway-socket"),
    ),
    scenario(
        "tap-server-refuses",
        "the server's port is closed, with --tap",
        tap::server_refuses,
        Each("peer-reset by peer"),
    ),
    scenario("tap-server-aborts", "the server aborts, with --tap", tap::server_aborts, Each("peer-reset by peer")),
    scenario("tap-client-aborts", "the client aborts, with --tap", tap::client_aborts, Each("peer-reset by peer")),
    scenario(
        "tap-gateway-first",
        "the gateway resets the server, whose own RST then arrives, with --tap",
        tap::gateway_first,
        Each("out-of-window/seq-over by gateway-stack"),
    ),
    scenario(
        "new-refused",
        "a segment from the middle of a forgotten connection, with tcp_loose=0 and --new-refused",
        no_entry::new_refused,
        Each("no-entry/never-seen by gateway-stack"),
    ),
    scenario(
        "reject-on-bridge",
        "a REJECT rule on a bridge of the gateway's; 5.10: not seen",
        rules::reject_on_bridge,
        NotE1("reject-rule by gateway-reject-rule"),
    ),
    scenario(
        "reject-two-rules",
        "rules that reject, and which of them it was",
        reject_rule::two_rules,
        AtLeast(2, "reject-rule by gateway-reject-rule"),
    ),
    scenario(
        "reject-iptables-rule",
        "a REJECT rule of iptables, and its number",
        reject_rule::iptables,
        Each("reject-rule by gateway-reject-rule"),
    ),
    scenario(
        "reject-legacy-rule",
        "the same in the tables of legacy iptables",
        reject_rule::legacy,
        Each("reject-rule by gateway-reject-rule"),
    ),
    // Behind the scenario that waits for the REJECT modules: these load them.
    scenario(
        "invalid-rejected-iptables",
        "the same with a rule of iptables'",
        reject::invalid_iptables,
        Each(REJECTED),
    ),
    scenario(
        "reject-forward",
        "nft rejects a port on the way through: one connection is cut, a new one refused",
        reject::forward_nft,
        Several(&[(2, REJECTED)]),
    ),
    scenario("reject-forward-iptables", "the same with iptables", reject::forward_iptables, Several(&[(2, REJECTED)])),
    scenario(
        "reject-forward-legacy",
        "the same with iptables that knows no nftables",
        reject::forward_legacy,
        Several(&[(2, REJECTED)]),
    ),
    scenario(
        "reject-forward-ip6tables",
        "the same with ip6tables",
        reject::forward_ip6tables,
        Several(&[(2, REJECTED)]),
    ),
    scenario(
        "reject-forward-reply",
        "nft rejects what comes back: the server is cut off",
        reject::forward_reply,
        Each(REJECTED),
    ),
    scenario(
        "reject-input",
        "nft rejects a port of the gateway itself, where a service listens",
        reject::input_nft,
        Several(&[(2, REJECTED)]),
    ),
    scenario("reject-input-iptables", "the same with iptables", reject::input_iptables, Several(&[(2, REJECTED)])),
    scenario("reject-icmp", "rules that reject by ICMP: no RST", reject::by_icmp, Nothing),
    scenario(
        "server-refuses",
        "a closed port of the server: the RST is the server's, not the gateway's",
        peers::server_refuses,
        Nothing,
    ),
    scenario("server-aborts", "the server's program gives up: its RST is forwarded", peers::server_aborts, Nothing),
    scenario("client-aborts", "the client's program gives up: its RST is forwarded", peers::client_aborts, Nothing),
    scenario(
        "server-aborts-upload",
        "the server's program gives up in the middle of an upload: its stack answers what was on its way",
        peers::server_aborts_upload,
        Nothing,
    ),
    scenario(
        "hairpin",
        "a client reaches its neighbour by the gateway's public address; a segment far beyond the window",
        topologies::hairpin,
        Each(SEQ_OVER),
    ),
    scenario(
        "host-beside",
        "the gateway is in a namespace; the host has RSTs of its own between the same addresses and ports",
        topologies::host_beside,
        Several(&[(1, NO_LISTENER), (1, SEQ_OVER)]),
    ),
    scenario(
        "host-beside-untracked",
        "the same, and the host tracks nothing",
        topologies::host_beside_untracked,
        Each(SEQ_OVER),
    ),
    scenario(
        "twin-gateways",
        "two gateways with the same addresses and ports, one disturbed",
        topologies::twin_gateways,
        Each(SEQ_OVER),
    ),
    scenario(
        "twin-gateways-both",
        "the same, each disturbed in its own way",
        topologies::twin_gateways_both,
        Several(&[(1, SEQ_OVER), (1, DELETED)]),
    ),
    scenario(
        "ipv6-no-entry",
        "conntrack -D takes the entry of an IPv6 connection",
        topologies::ipv6_no_entry,
        Each(DELETED),
    ),
    scenario("vlan-ingress", "seq-over on a VLAN", topologies::vlan_ingress, Each(SEQ_OVER)),
    scenario("bridge-ingress", "seq-over on a bridge", topologies::bridge_ingress, Each(SEQ_OVER)),
    scenario("bridge-netfilter", "the same with br_netfilter", topologies::bridge_netfilter, Each(SEQ_OVER)),
    scenario(
        "tracked-ends",
        "seq-over between ends that have firewalls of their own",
        topologies::tracked_ends,
        Each(SEQ_OVER),
    ),
    scenario(
        "two-nat-rules",
        "one rule translates the destination, another the source and its port",
        topologies::two_nat_rules,
        Each(SEQ_OVER),
    ),
    scenario(
        "many-flows",
        "200 connections at once, 7 victims of 4 causes",
        scale::many_flows,
        Several(&[(2, SEQ_OVER), (2, DELETED), (2, REJECTED), (1, "not-tracked by gateway-stack")]),
    ),
    scenario(
        "rotated",
        "a recording in many files, beside one in a single file and one on a disk that is too small",
        rotated::run,
        Several(&[(rotated::VICTIMS, SEQ_OVER)]),
    ),
    scenario(
        "new-refused-cost",
        "the same as many-clean with --new-refused: two programs run per connection",
        scale::new_refused_cost,
        Nothing,
    ),
    scenario("many-clean", "2,000 short connections: nothing happened", scale::many_clean, Nothing),
    scenario(
        "kernel-types",
        "offsets and prototypes that whyrst resolves are those of this kernel",
        kernel_types::run,
        Nothing,
    ),
    scenario("doctor-healthy", "a gateway that is well: neither warning nor worse", doctor::healthy, Nothing),
    scenario(
        "doctor-full-table",
        "the table is full: the doctor names who fills it, and its commands help",
        doctor::full_table,
        Nothing,
    ),
    scenario(
        "doctor-rules",
        "rules of nft and of both iptables that drop INVALID packets or exempt from tracking",
        doctor::rules,
        Nothing,
    ),
    scenario("doctor-ports", "all NAT ports towards a server are in use", doctor::ports, Nothing),
    scenario("doctor-unprivileged", "the doctor without privileges", doctor::unprivileged, Nothing),
    scenario("doctor-untraceable", "the doctor without /sys/kernel/btf", doctor::untraceable, Nothing),
    scenario("not-root", "without privileges: exit status 3 and which are missing", bad_input::not_root, Nothing),
    scenario("no-btf", "without /sys/kernel/btf: exit status 3", bad_input::no_btf, Nothing),
    scenario(
        "without-kprobes",
        "a segment far beyond the window, seen by the tracepoint alone; before 6.10: exit status 3",
        bad_input::without_kprobes,
        IfAny("unknown by gateway-stack"),
    ),
    scenario("no-kprobes", "without kprobes: exit status 3", bad_input::no_kprobes, Nothing),
    scenario("full-disk", "-o and --record on a full disk: exit status 2", bad_input::full_disk, Nothing),
    scenario(
        "signals",
        "SIGTERM ends a capture like Ctrl-C; a closed pipe ends it quietly",
        bad_input::signals,
        Nothing,
    ),
    // Lockdown cannot be lifted again: it comes last.
    scenario("lockdown", "under kernel lockdown in confidentiality mode: exit status 3", bad_input::lockdown, Nothing),
];

/// Runs a scenario and tells how it ended; true if it passed.
pub fn run(scenario: &Scenario, era: &str, artifacts: &Path, report: &dyn Fn(Message)) -> bool {
    report(Message::Start { scenario: scenario.name.to_owned() });
    let started = Instant::now();
    let context = Context { era, artifacts: artifacts.join(scenario.name), report };
    let result = fs::create_dir_all(&context.artifacts).map_err(anyhow::Error::from).and_then(|()| {
        catch_unwind(AssertUnwindSafe(|| (scenario.run)(&context))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(anyhow!("panicked: {}", text.unwrap_or("without a message")))
        })
    });
    let failure = result.err().map(|error| {
        let mut text = error.to_string();
        for cause in error.chain().skip(1) {
            // A String takes any write.
            let _infallible = write!(text, ": {cause}");
        }
        text
    });
    let passed = failure.is_none();
    report(Message::End { scenario: scenario.name.to_owned(), failure, seconds: started.elapsed().as_secs_f64() });
    passed
}
