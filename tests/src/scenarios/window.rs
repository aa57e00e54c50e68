//! Segments out of the window, on a quiet connection: everything about them can be computed beforehand.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::Context;
use super::connection::Connection;
use super::reject_rule;
use crate::command;
use crate::expect::Expect;
use crate::topology::{Lab, Nat, SERVER6, server};
use crate::whyrst::{Capture, Captured};
use crate::wire::flag;

/// How far beyond everything the over-the-window segments are: more than any window.
pub(super) const FAR: u32 = 20_000_000;

pub(super) fn seq_over(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    seq_over_to(context, &lab, server(443), false)
}

pub(super) fn ipv6_seq_over(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    seq_over_to(context, &lab, SocketAddr::new(SERVER6, 8443), false)
}

/// Whyrst runs outside of the gateway's namespace here; probes see all namespaces, ctnetlink has to be asked inside.
pub(super) fn kernel_log_agrees(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::IptablesSnat)?;
    log_invalid(&lab)?;
    let mut log = KernelLog::open()?;
    seq_over_to(context, &lab, server(80), true)?;
    if context.refuses_everything() {
        // The message of 5.10 has no number in it.
        return log.line("SEQ is over the upper bound").map(drop);
    }
    let line = log.line("SEQ is over upper bound ")?;
    let logged: u32 = number_after(&line, "upper bound ").with_context(|| format!("no number in: {line}"))?;
    let report: Value = serde_json::from_reader(File::open(context.artifacts.join("report.json"))?)?;
    let mut expect = Expect::new();
    // The kernel's bound is exclusive.
    expect.is(&report, "/flows/0/window/bound", logged.wrapping_sub(1));
    expect.is(&report, "/flows/0/window/source", "entry-and-kernel");
    expect.verdict()
}

/// conntrack's messages, also from namespaces other than the host's.
fn log_invalid(lab: &Lab) -> Result<()> {
    lab.gateway.sysctl("net.netfilter.nf_conntrack_log_invalid", "6")?;
    std::fs::write("/proc/sys/net/netfilter/nf_log_all_netns", "1").context("nf_log_all_netns")?;
    // From 5.14 on one module logs for all families.
    command::run("/sbin/modprobe", &["nf_log_syslog"])
        .or_else(|_| command::run("/sbin/modprobe", &["nf_log_ipv4"]))
        .map(drop)
}

pub(super) fn seq_over_to(context: &Context<'_>, lab: &Lab, address: SocketAddr, from_outside: bool) -> Result<()> {
    let namespace = (!from_outside).then_some(&lab.gateway);
    let capture = Capture::start(namespace, &context.artifacts, &[])?;
    seq_over_during(context, lab, address, capture)
}

/// The same during a capture that is going on.
pub(super) fn seq_over_during(context: &Context<'_>, lab: &Lab, address: SocketAddr, capture: Capture) -> Result<()> {
    let mut connection = Connection::open(lab, address)?;
    let traffic = connection.traffic()?;
    let segment = traffic.from_server.forge(
        traffic.server_end.wrapping_add(FAR),
        traffic.client_end,
        flag::ACK | flag::PSH,
        &[b'!'; 700],
    )?;
    connection.tap.send(&segment)?;
    context.step(format!("the server's side sends seq {}, {FAR} bytes ahead", segment.seq));
    let reset = connection.reset_to_server()?;
    context.step(format!("the gateway sends RST to {}", reset.dst));
    let server_error = Connection::error_of(&mut connection.server)?;
    let client_error = connection.client_learns()?;
    context.step(format!("server: {server_error}; client: {client_error}"));
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    both_died(&mut expect, server_error, client_error);
    expect
        .that(reset.seq == traffic.client_end, || format!("the RST has seq {}, not {}", reset.seq, traffic.client_end));
    one_reset(&mut expect, &captured, &connection);
    out_of_window(&mut expect, &captured.report, "seq-over", "I");
    let report = &captured.report;
    expect.is(report, "/flows/0/window/bound", traffic.server_maxend);
    expect.is(report, "/flows/0/window/value", segment.seq);
    expect.is(report, "/flows/0/window/distance_bytes", segment.seq.wrapping_sub(traffic.server_maxend));
    expect.is(report, "/flows/0/window/agrees", true);
    expect.is(report, "/flows/0/window/sender/end", "server");
    expect.is(report, "/flows/0/window/sender/td_end", traffic.server_end);
    expect.is(report, "/flows/0/window/receiver/td_end", traffic.client_end);
    expect.is(report, "/flows/0/reset_effect", "kills");
    // The conntrack log format of a kernel outside the matrix is not known beforehand.
    if !context.log_format.is_empty() {
        expect.is(report, "/host/log_format", context.log_format);
    }
    expect.is(report, "/flows/0/chain/0/packet/seq", segment.seq);
    expect.is(report, "/flows/0/chain/0/packet/payload_len", 700);
    expect.is(report, "/flows/0/chain/0/packet/ttl", 64);
    expect.is(report, "/flows/0/chain/0/in", "wan0");
    expect.is(report, "/flows/0/chain/0/direction", "reply");
    expect.is(report, "/flows/0/netns", lab.gateway.inode()?);
    expect.is(report, "/flows/0/netns_name", "gateway");
    captured.replay()?;
    expect.verdict()
}

pub(super) fn ack_over(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut connection = Connection::open(&lab, server(5001))?;
    let traffic = connection.traffic()?;
    let ack = traffic.client_end.wrapping_add(100_000);
    let segment =
        traffic.from_server.forge(traffic.server_end, ack, flag::ACK | flag::PSH, b"acknowledged too much")?;
    connection.tap.send(&segment)?;
    context.step(format!("the server's side acknowledges {ack}, 100000 bytes that were never sent"));
    let reset = connection.reset_to_server()?;
    context.step(format!("the gateway sends RST with seq {}", reset.seq));
    connection.is_alive()?;
    context.step("both ends still talk to each other");
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    expect.that(reset.seq == ack, || format!("the RST has seq {}, not {ack}", reset.seq));
    let report = &captured.report;
    one_flow(&mut expect, report, &connection);
    out_of_window(&mut expect, report, "ack-over", "III");
    expect.is(report, "/flows/0/confidence", "proven");
    expect.is(report, "/flows/0/reset_by", "gateway-stack");
    expect.is(report, "/flows/0/reset_effect", "challenge-ack");
    expect.is(report, "/flows/0/resets", 1);
    expect.is(report, "/flows/0/invalid_packets", 1);
    expect.is(report, "/flows/0/window/bound", traffic.client_end);
    expect.is(report, "/flows/0/window/value", ack);
    expect.is(report, "/flows/0/window/distance_bytes", 100_000);
    expect.is(report, "/summary/resets_sent", 1);
    expect.is(report, "/summary/flows_reset", 0);
    let states: Vec<&Value> = report["flows"][0]["chain"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|step| step["step"] == "entry-state")
        .map(|step| &step["state"])
        .collect();
    expect.that(states == [&json!("ESTABLISHED")], || format!("the entry was seen as {states:?}"));
    captured.replay()?;
    expect.verdict()
}

/// A segment of the server's that was on its way for so long that the client has sent more than 66,000 bytes since. The RST
/// that answers it on 5.10 is as old: the server takes no notice.
pub(super) fn ack_under(context: &Context<'_>) -> Result<()> {
    const AGE: u32 = 150_000;
    let lab = Lab::build(Nat::NftMasquerade)?;
    lab.server.sysctl("net.ipv4.tcp_rmem", "4096 16384 32768")?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut connection = Connection::open(&lab, server(443))?;
    let before = connection.traffic()?.client_end;
    connection.client_sends(200_000)?;
    let traffic = connection.traffic_up_to(before.wrapping_add(200_000))?;
    let ack = traffic.client_end.wrapping_sub(AGE);
    let segment = traffic.from_server.forge(traffic.server_end, ack, flag::ACK | flag::PSH, b"from long ago")?;
    connection.tap.send(&segment)?;
    context.step(format!("the server's side acknowledges {ack}, {AGE} bytes ago"));
    if context.refuses_everything() {
        connection.reset_to_server()?;
    }
    connection.client_sends(1_000)?;
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    let report = &captured.report;
    one_flow(&mut expect, report, &connection);
    out_of_window(&mut expect, report, "ack-under", "IV");
    let bound = traffic.client_end.wrapping_sub(66_000);
    expect.is(report, "/flows/0/window/bound", bound);
    expect.is(report, "/flows/0/window/distance_bytes", bound.wrapping_sub(ack));
    expect.is(report, "/summary/flows_reset", 0);
    if context.refuses_everything() {
        expect.is(report, "/flows/0/reset_by", "gateway-stack");
        expect.is(report, "/flows/0/reset_effect", "dropped");
        expect.is(report, "/flows/0/confidence", "proven");
    } else {
        expect.is(report, "/flows/0/reset_by", Value::Null);
        expect.is(report, "/summary/ignored_packets", 1);
        expect.is(report, "/summary/invalid_packets", 0);
    }
    captured.replay()?;
    expect.verdict()
}

/// A segment slightly beyond the window: over it for 5.10, overshot and let pass from 6.1 on. The client answers it with a
/// repeated ACK.
pub(super) fn overshot(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut connection = Connection::open(&lab, server(443))?;
    let traffic = connection.traffic()?;
    let seq = traffic.server_maxend.wrapping_add(100);
    let segment = traffic.from_server.forge(seq, traffic.client_end, flag::ACK | flag::PSH, &[b'!'; 100])?;
    connection.tap.send(&segment)?;
    context.step(format!("the server's side sends seq {seq}, 100 bytes beyond the window"));
    let mut expect = Expect::new();
    if context.refuses_everything() {
        connection.reset_to_server()?;
        let error = Connection::error_of(&mut connection.server)?;
        expect.that(error == ErrorKind::ConnectionReset, || format!("the server saw {error}"));
    } else {
        connection.client_repeats(&traffic)?;
    }
    let captured = capture.stop()?;

    let report = &captured.report;
    one_flow(&mut expect, report, &connection);
    let reason = if context.refuses_everything() { "seq-over" } else { "overshot" };
    out_of_window(&mut expect, report, reason, "I");
    expect.is(report, "/flows/0/window/distance_bytes", 100);
    expect.is(report, "/flows/0/window/bound", traffic.server_maxend);
    expect.is(report, "/summary/flows_reset", u64::from(context.refuses_everything()));
    captured.replay()?;
    expect.verdict()
}

/// A port forward: the client knows neither the server's address nor its port.
pub(super) fn port_forward(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let service = SocketAddr::from(([10, 0, 0, 1], 8080));
    lab.gateway.run(&["nft", "add chain inet nat prerouting { type nat hook prerouting priority dstnat; }"])?;
    let rule = "add rule inet nat prerouting iifname lan0 tcp dport 8080 dnat ip to 192.0.2.2:443";
    lab.gateway.run(&["nft", rule])?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut connection = Connection::open_through(&lab, service, server(443))?;
    let traffic = connection.traffic()?;
    let far = traffic.server_end.wrapping_add(FAR);
    let segment = traffic.from_server.forge(far, traffic.client_end, flag::ACK, &[b'!'; 300])?;
    connection.tap.send(&segment)?;
    context.step(format!("the server behind {service} sends seq {far}, {FAR} bytes ahead"));
    connection.reset_to_server()?;
    let error = Connection::error_of(&mut connection.server)?;
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    expect.that(error == ErrorKind::ConnectionReset, || format!("the server saw {error}"));
    let report = &captured.report;
    expect.is(report, "/flows/0/client", connection.client_address.to_string());
    expect.is(report, "/flows/0/nat", connection.nat_address.to_string());
    expect.is(report, "/flows/0/server", connection.server_address.to_string());
    expect.is(report, "/flows/0/service", service.to_string());
    out_of_window(&mut expect, report, "seq-over", "I");
    expect.is(report, "/flows/0/window/distance_bytes", far.wrapping_sub(traffic.server_maxend));
    captured.replay()?;
    expect.verdict()
}

/// A TCP header in a page fragment, as drivers deliver it that copy no headers. A packet socket builds such a buffer for
/// every frame that is larger than a page (`packet_alloc_skb`, `net/packet/af_packet.c`).
pub(super) fn fragmented_buffer(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    lab.server.ip("link set s0 mtu 9000")?;
    lab.gateway.ip("link set wan0 mtu 9000")?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut connection = Connection::open(&lab, server(443))?;
    let traffic = connection.traffic()?;
    let far = traffic.server_end.wrapping_add(FAR);
    let segment = traffic.from_server.forge(far, traffic.client_end, flag::ACK, &[b'!'; 6_000])?;
    connection.tap.send(&segment)?;
    context.step("the server's side sends a jumbo frame, far ahead");
    connection.reset_to_server()?;
    let server_error = Connection::error_of(&mut connection.server)?;
    let captured = capture.stop()?;
    let mut expect = Expect::new();
    expect.that(server_error == ErrorKind::ConnectionReset, || format!("the server saw {server_error}"));
    one_reset(&mut expect, &captured, &connection);
    let report = &captured.report;
    if cfg!(target_arch = "aarch64") {
        // Where that kernel maps pages is not known: the headers stay unread, and the cause stays what it is.
        expect.is(report, "/flows/0/cause", "out-of-window");
        expect.is(report, "/flows/0/reason", "seq-over");
        expect.is(report, "/flows/0/chain/0/packet", Value::Null);
    } else {
        out_of_window(&mut expect, report, "seq-over", "I");
        expect.is(report, "/flows/0/window/distance_bytes", far.wrapping_sub(traffic.server_maxend));
        expect.is(report, "/flows/0/chain/0/packet/payload_len", 6_000);
        expect.is(report, "/flows/0/chain/0/packet/headers_from", "fragment");
    }
    captured.replay()?;
    expect.verdict()
}

/// The rule that rejects is added while whyrst runs; its hook is attached when the module comes.
pub(super) fn reject_module_later(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    // A scenario before this one may have left it loaded; one that is in use stays, and is then attached at once.
    let _in_use = command::output("/sbin/modprobe", &["-r", "nft_reject_inet", "nft_reject", "nf_reject_ipv4"])?;
    let was_loaded = std::path::Path::new("/sys/module/nf_reject_ipv4").exists();
    let mut capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut connection = Connection::open(&lab, server(443))?;
    reject_rule::chain(&lab.gateway, "forward")?;
    reject_rule::rule(&lab.gateway, "forward", "tcp dport 443 reject with tcp reset")?;
    let handle = reject_rule::handle(&lab.gateway, "forward", "reject with tcp reset")?;
    if !was_loaded {
        capture.wait_for("nf_send_reset is attached")?;
    }
    let client_error = connection.client_learns()?;
    context.step(format!("the client's next segment is rejected: {client_error}"));
    let captured = capture.stop()?;
    let mut expect = Expect::new();
    expect.that(client_error == ErrorKind::ConnectionReset, || format!("the client saw {client_error}"));
    let report = &captured.report;
    expect.is(report, "/flows/0/cause", "reject-rule");
    expect.is(report, "/flows/0/reason", Value::Null);
    expect.is(report, "/flows/0/reset_by", "gateway-reject-rule");
    expect.is(report, "/flows/0/confidence", "proven");
    expect.is(report, "/flows/0/client", connection.client_address.to_string());
    expect.is(report, "/flows/0/server", server(443).to_string());
    reject_rule::names(&mut expect, report, "/flows/0", "forward", handle);
    captured.replay()?;
    expect.verdict()
}

/// One flow is named, and it is this connection.
pub(super) fn one_flow(expect: &mut Expect, report: &Value, connection: &Connection) {
    let flows = report["flows"].as_array().map_or(0, Vec::len);
    expect.that(flows == 1, || format!("{flows} flows are named"));
    expect.is(report, "/flows/0/client", connection.client_address.to_string());
    expect.is(report, "/flows/0/nat", connection.nat_address.to_string());
    expect.is(report, "/flows/0/server", connection.server_address.to_string());
    expect.is(report, "/flows/0/service", Value::Null);
    expect.is(report, "/flows/0/zone", 0);
    expect.is(report, "/flows/0/tcp_state", "ESTABLISHED");
    expect.is(report, "/flows/0/assured", true);
    expect.is(report, "/capture/events_lost", 0);
}

/// One packet refused, one RST sent by the gateway's own stack, and the connection is dead.
pub(super) fn one_reset(expect: &mut Expect, captured: &Captured, connection: &Connection) {
    let report = &captured.report;
    one_flow(expect, report, connection);
    expect.is(report, "/flows/0/confidence", "proven");
    expect.is(report, "/flows/0/reset_by", "gateway-stack");
    expect.is(report, "/flows/0/invalid_packets", 1);
    expect.is(report, "/flows/0/ignored_packets", 0);
    expect.is(report, "/flows/0/resets", 1);
    expect.is(report, "/summary/invalid_packets", 1);
    expect.is(report, "/summary/resets_sent", 1);
    expect.is(report, "/summary/flows_reset", 1);
    expect.is(report, "/summary/by_cause", json!({ "out-of-window": 1 }));
    expect.is(report, "/flows/0/chain/0/step", "conntrack-invalid");
    expect.is(report, "/flows/0/chain/1/step", "nat-skipped");
    expect.is(report, "/flows/0/chain/2/step", "reset-sent");
}

pub(super) fn out_of_window(expect: &mut Expect, report: &Value, reason: &str, failed: &str) {
    expect.is(report, "/flows/0/cause", "out-of-window");
    expect.is(report, "/flows/0/reason", reason);
    expect.is(report, "/flows/0/window/failed", failed);
}

pub(super) fn both_died(expect: &mut Expect, server: ErrorKind, client: ErrorKind) {
    expect.that(server == ErrorKind::ConnectionReset, || format!("the server saw {server}"));
    expect.that(client == ErrorKind::ConnectionReset, || format!("the client saw {client}"));
}

/// The kernel's log from now on.
struct KernelLog {
    lines: BufReader<File>,
}

impl KernelLog {
    fn open() -> Result<Self> {
        use std::io::{Seek, SeekFrom};
        use std::os::unix::fs::OpenOptionsExt;
        let mut file = File::options()
            .read(true)
            .custom_flags(i32::try_from(rustix::fs::OFlags::NONBLOCK.bits())?)
            .open("/dev/kmsg")
            .context("/dev/kmsg")?;
        file.seek(SeekFrom::End(0)).context("/dev/kmsg")?;
        Ok(Self { lines: BufReader::new(file) })
    }

    /// The first line with `text` in it; what the scenario waited for was later, so it must be there.
    fn line(&mut self, text: &str) -> Result<String> {
        let mut line = String::new();
        while self.lines.read_line(&mut line).is_ok_and(|read| read > 0) {
            if line.contains(text) {
                return Ok(line);
            }
            line.clear();
        }
        anyhow::bail!("the kernel has logged no `{text}`")
    }
}

fn number_after(line: &str, text: &str) -> Option<u32> {
    let (_, rest) = line.split_once(text)?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
