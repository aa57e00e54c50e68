//! The window check at its edges: SACK, scaled windows, the wrap-around, entries picked up in mid-stream, and what becomes of a
//! connection after a segment that was let pass without being believed.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context as _, Result, bail, ensure};
use etherparse::TcpOptionElement;
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use serde_json::{Value, json};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::Context;
use super::connection::{Connection, Traffic};
use super::no_entry::wait_without_entries;
use super::rules::filter_rule;
use super::window::{FAR, both_died, one_flow, one_reset, out_of_window};
use crate::expect::Expect;
use crate::topology::{Lab, Nat, server};
use crate::whyrst::Capture;
use crate::wire::{Segment, Tap, flag};

/// `MAXACKWINCONST` (`nf_conntrack_proto_tcp.c`): an acknowledgement may always be this old.
const MAX_ACK_WINDOW: u32 = 66_000;

/// The highest SACK edge counts as the acknowledgement. It saves a segment whose own is hopelessly old, and condemns one
/// whose own is right: the RST then has exactly the number that the server expects.
pub(super) fn sack_present(context: &Context<'_>) -> Result<()> {
    const BEYOND: u32 = 6_000;
    let lab = Lab::build(Nat::NftMasquerade)?;
    lab.server.sysctl("net.ipv4.tcp_rmem", "4096 16384 32768")?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut connection = Connection::open(&lab, server(443))?;
    let inside = Tap::open(&lab.client, "c0")?;
    let before = connection.traffic()?.client_end;
    connection.client_sends(200_000)?;
    let traffic = connection.traffic_up_to(before.wrapping_add(200_000))?;

    let old = traffic.client_end.wrapping_sub(150_000);
    let recent = block(traffic.client_end.wrapping_sub(1_000), traffic.client_end);
    let saved = traffic.from_server.forge_with(traffic.server_end, old, flag::ACK, &recent, &[])?;
    connection.tap.send(&saved)?;
    let arrives = |segments: &[Segment]| {
        segments.iter().any(|seen| seen.dst == connection.client_address && seen.ack == old).then_some(())
    };
    inside.wait("the old acknowledgement with a recent SACK block", arrives)?;
    context.step(format!("ack {old} is 150000 bytes old, its SACK block is not: it reaches the client"));

    let edge = traffic.client_end.wrapping_add(BEYOND);
    let options = block(edge.wrapping_sub(1_000), edge);
    let acked = traffic.client_end;
    let condemned = traffic.from_server.forge_with(traffic.server_end, acked, flag::ACK, &options, &[b'!'; 500])?;
    connection.tap.send(&condemned)?;
    let (reset, server_error, client_error) = connection.both_learn()?;
    context.step(format!("a SACK block ends {BEYOND} bytes beyond all that was sent: RST with seq {}", reset.seq));
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    both_died(&mut expect, server_error, client_error);
    expect.that(reset.seq == acked, || format!("the RST has seq {}, not {acked}", reset.seq));
    one_reset(&mut expect, &captured, &connection);
    let report = &captured.report;
    out_of_window(&mut expect, report, "ack-over", "III");
    expect.is(report, "/flows/0/window/bound", traffic.client_end);
    expect.is(report, "/flows/0/window/value", edge);
    expect.is(report, "/flows/0/window/distance_bytes", BEYOND);
    expect.is(report, "/flows/0/window/agrees", true);
    let source = if context.refuses_everything() { "entry" } else { "entry-and-kernel" };
    expect.is(report, "/flows/0/window/source", source);
    expect.is(report, "/flows/0/chain/0/packet/ack", acked);
    expect.is(report, "/flows/0/chain/0/packet/sack", json!([[edge.wrapping_sub(1_000), edge]]));
    expect.is(report, "/flows/0/reset_effect", "kills");
    captured.replay()?;
    expect.verdict()
}

/// The options of a segment with one SACK block.
fn block(left: u32, right: u32) -> [TcpOptionElement; 3] {
    let sack = TcpOptionElement::SelectiveAcknowledgement((left, right), [None; 3]);
    [TcpOptionElement::Noop, TcpOptionElement::Noop, sack]
}

/// A client with the largest scale that there is. Each limit is tried with the last segment that it admits, and the first that
/// it does not; none of them has payload, so that they change nothing for those behind them.
pub(super) fn window_scaling(context: &Context<'_>) -> Result<()> {
    const SCALE: u32 = 14;
    let lab = Lab::build(Nat::NftMasquerade)?;
    lab.client.sysctl("net.ipv4.tcp_rmem", "4096 98304 1073741824")?;
    // What the client has to say to all of these it says once.
    lab.client.sysctl("net.ipv4.tcp_invalid_ratelimit", "60000")?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut connection = Connection::open(&lab, server(443))?;
    let traffic = connection.traffic()?;
    let scale = connection.tap.segments().iter().find(|seen| seen.flags == flag::SYN).map(Segment::window_scale);
    let at = |seq: u32| traffic.from_server.forge(seq, traffic.client_end, flag::ACK, &[]);
    let (maxend, maxwin) = (traffic.server_maxend, traffic.client_maxwin);
    let mut sent =
        vec![("the last byte of the window", at(maxend)?), ("one byte beyond it", at(maxend.wrapping_add(1))?)];
    if !context.refuses_everything() {
        // `end - td_maxend + 1 <= td_maxwin` is overshot and let pass.
        sent.push(("the last byte that is let pass", at(maxend.wrapping_add(maxwin).wrapping_sub(1))?));
        sent.push(("one byte beyond that", at(maxend.wrapping_add(maxwin))?));
    }
    for (what, segment) in &sent {
        connection.tap.send(segment)?;
        context.step(format!("seq {}: {what}", segment.seq));
        if segment.seq == maxend.wrapping_add(1) && !context.refuses_everything() {
            connection.client_repeats(&traffic)?;
        }
    }
    let reset = connection.reset_to_server()?;
    let server_error = Connection::error_of(&mut connection.server)?;
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    expect.that(scale == Some(SCALE), || format!("the client offers scale {scale:?}"));
    expect.that(server_error == ErrorKind::ConnectionReset, || format!("the server saw {server_error}"));
    expect.that(reset.seq == traffic.client_end, || format!("the RST has seq {}", reset.seq));
    let report = &captured.report;
    one_flow(&mut expect, report, &connection);
    out_of_window(&mut expect, report, "seq-over", "I");
    let refused = sent.last().map(|(_, segment)| segment.seq).context("nothing was sent")?;
    expect.is(report, "/flows/0/window/bound", maxend);
    expect.is(report, "/flows/0/window/value", refused);
    expect.is(report, "/flows/0/window/distance_bytes", if context.refuses_everything() { 1 } else { maxwin });
    expect.is(report, "/flows/0/window/agrees", true);
    expect.is(report, "/flows/0/window/receiver/td_scale", SCALE);
    expect.is(report, "/flows/0/window/receiver/td_maxwin", maxwin);
    expect.is(report, "/flows/0/invalid_packets", 1);
    expect.is(report, "/flows/0/resets", 1);
    expect.is(report, "/flows/0/reset_by", "gateway-stack");
    expect.is(report, "/flows/0/reset_effect", "kills");
    expect.is(report, "/flows/0/ignored_packets", if context.refuses_everything() { 0 } else { 2 });
    if !context.refuses_everything() {
        expect.is(report, "/flows/0/causes/0/reason", "overshot");
        expect.is(report, "/flows/0/causes/0/ignored_packets", 2);
    }
    captured.replay()?;
    expect.verdict()
}

/// An entry that was made from the middle of a connection: the scales are not known, so that conntrack takes whatever comes
/// (`IP_CT_TCP_FLAG_BE_LIBERAL`, `tcp_new`). The report has no flow, which is right.
pub(super) fn mid_stream(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    lab.gateway.sysctl("net.netfilter.nf_conntrack_tcp_loose", "1")?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut connection = Connection::open(&lab, server(443))?;
    let inside = Tap::open(&lab.client, "c0")?;
    lab.gateway.run(&["conntrack", "-F"])?;
    wait_without_entries(&lab)?;
    connection.is_alive().context("behind the pick-up")?;
    let traffic = connection.traffic()?;
    let far = traffic.server_end.wrapping_add(FAR);
    let segment = traffic.from_server.forge(far, traffic.client_end, flag::ACK | flag::PSH, &[b'!'; 300])?;
    connection.tap.send(&segment)?;
    let arrives = |segments: &[Segment]| {
        segments.iter().any(|seen| seen.dst == connection.client_address && seen.seq == far).then_some(())
    };
    inside.wait("the segment far ahead", arrives)?;
    context.step(format!("seq {far}, {FAR} bytes ahead, is translated and reaches the client"));
    connection.is_alive()?;
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    expect.is(&captured.report, "/flows", Value::Array(Vec::new()));
    expect.is(&captured.report, "/capture/events", 0);
    captured.replay()?;
    expect.verdict()
}

/// The window reaches over the wrap-around of the sequence numbers: the segment is beyond it, and its number is small.
pub(super) fn wrap_around_over(context: &Context<'_>) -> Result<()> {
    const MARGIN: u32 = 2_000;
    let lab = Lab::build(Nat::NftMasquerade)?;
    let mut connection = open_near_wrap(&lab)?;
    let traffic = server_up_to(&mut connection, 0_u32.wrapping_sub(MARGIN))?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let seq = traffic.server_end.wrapping_add(FAR);
    let segment = traffic.from_server.forge(seq, traffic.client_end, flag::ACK, &[b'!'; 100])?;
    connection.tap.send(&segment)?;
    context.step(format!("the server is at {}, the segment at {seq}", traffic.server_end));
    let (_, server_error, client_error) = connection.both_learn()?;
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    both_died(&mut expect, server_error, client_error);
    one_reset(&mut expect, &captured, &connection);
    let report = &captured.report;
    out_of_window(&mut expect, report, "seq-over", "I");
    expect.that(traffic.server_maxend < traffic.server_end, || "the window does not reach over the wrap".to_owned());
    expect.is(report, "/flows/0/window/sender/td_end", traffic.server_end);
    expect.is(report, "/flows/0/window/bound", traffic.server_maxend);
    expect.is(report, "/flows/0/window/value", seq);
    expect.is(report, "/flows/0/window/distance_bytes", seq - traffic.server_maxend);
    expect.is(report, "/flows/0/window/agrees", true);
    captured.replay()?;
    expect.verdict()
}

/// The sequence numbers have wrapped, and a late segment has one from before.
pub(super) fn wrap_around_under(context: &Context<'_>) -> Result<()> {
    const BEHIND: u32 = 3_000;
    const SHORT: u32 = 500;
    let lab = Lab::build(Nat::NftMasquerade)?;
    lab.small_client_window()?;
    let mut connection = open_near_wrap(&lab)?;
    let traffic = server_up_to(&mut connection, BEHIND)?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let bound = traffic.server_end.wrapping_sub(traffic.client_maxwin);
    let end = bound.wrapping_sub(SHORT);
    let segment = traffic.from_server.forge(end.wrapping_sub(100), traffic.client_end, flag::ACK, &[b'!'; 100])?;
    connection.tap.send(&segment)?;
    context.step(format!("the server is at {}, the segment ends at {end}", traffic.server_end));
    let mut expect = Expect::new();
    if context.refuses_everything() {
        let (_, server_error, client_error) = connection.both_learn()?;
        both_died(&mut expect, server_error, client_error);
    } else {
        connection.is_alive()?;
    }
    let captured = capture.stop()?;

    expect.that(bound > traffic.server_end, || "the bound is not on the other side of the wrap".to_owned());
    let report = &captured.report;
    one_flow(&mut expect, report, &connection);
    out_of_window(&mut expect, report, "seq-under", "II");
    expect.is(report, "/flows/0/window/bound", bound);
    expect.is(report, "/flows/0/window/value", end);
    expect.is(report, "/flows/0/window/distance_bytes", SHORT);
    expect.is(report, "/flows/0/window/agrees", true);
    let refused = u64::from(context.refuses_everything());
    expect.is(report, "/summary/flows_reset", refused);
    expect.is(report, "/flows/0/invalid_packets", refused);
    expect.is(report, "/flows/0/ignored_packets", 1 - refused);
    captured.replay()?;
    expect.verdict()
}

/// A connection whose server begins with a sequence number shortly before the wrap-around.
///
/// The kernel's initial sequence number is a hash of the addresses and ports, plus the time of day in units of 64 ns
/// (`seq_scale`, `net/core/secure_seq.c`). A first connection shows the hash; then the clock is set to the time at which the
/// same ports give the wanted number. It is the guest's own clock, and it only goes forward.
fn open_near_wrap(lab: &Lab) -> Result<Connection> {
    const PORT: u16 = 45_678;
    const NANOS_PER_NUMBER: u64 = 64;
    const NANOS: u64 = 1_000_000_000;
    /// An emulated machine takes some ten milliseconds to the SYN-ACK, a hundredth of a second is 156,250 numbers.
    const BEFORE_WRAP: u32 = 3 << 20;
    const TRIES: usize = 20;
    let from_port = || -> std::io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SockAddr::from(SocketAddr::from(([10, 0, 0, 2], PORT))))?;
        socket.connect(&SockAddr::from(server(443)))?;
        Ok(socket.into())
    };
    for _ in 0..TRIES {
        let before = clock_gettime(ClockId::Realtime);
        let connection = Connection::open_by(lab, server(443), from_port)?;
        let opening =
            |segments: &[Segment]| segments.iter().find(|seen| seen.has(flag::SYN | flag::ACK)).map(|seen| seen.seq);
        let first = connection.tap.wait("the SYN-ACK", opening)?;
        let left = 0_u32.wrapping_sub(first);
        if left > BEFORE_WRAP / 8 && left <= BEFORE_WRAP {
            return Ok(connection);
        }
        for stream in [&connection.client, &connection.server] {
            SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO))?;
        }
        drop(connection);
        lab.gateway.run(&["conntrack", "-F"])?;
        let ahead = u64::from(left.wrapping_sub(BEFORE_WRAP)) * NANOS_PER_NUMBER;
        let at = u64::try_from(before.tv_sec)? * NANOS + u64::try_from(before.tv_nsec)? + ahead;
        let time = Timespec { tv_sec: (at / NANOS).try_into()?, tv_nsec: (at % NANOS).try_into()? };
        clock_settime(ClockId::Realtime, time).context("setting the guest's clock")?;
    }
    bail!("no connection began near the wrap-around in {TRIES} tries")
}

/// Lets the server send until its next sequence number is `end`; never more at once than the tap can take.
fn server_up_to(connection: &mut Connection, end: u32) -> Result<Traffic> {
    const CHUNK: u32 = 50_000;
    let before = connection.traffic()?;
    let mut at = before.server_end;
    while at != end {
        let bytes = end.wrapping_sub(at).min(CHUNK);
        ensure!(bytes.cast_signed() > 0, "the server is at {at} already, beyond {end}");
        connection.server_sends(bytes as usize)?;
        at = at.wrapping_add(bytes);
        let seen =
            |segments: &[Segment]| segments.iter().rev().any(|seen| seen.len > 0 && seen.end() == at).then_some(());
        connection.tap.wait("what the server has sent", seen)?;
    }
    connection.client_sends(100)?;
    connection.traffic_up_to(before.client_end.wrapping_add(100))
}

/// An overshot segment that ends so far ahead that the client's acknowledgements have become too old.
pub(super) fn overshot_then_data(context: &Context<'_>) -> Result<()> {
    after_overshot(context, 1)
}

/// The same, but for one byte: the connection goes on.
pub(super) fn overshot_harmless(context: &Context<'_>) -> Result<()> {
    after_overshot(context, 0)
}

/// From 6.1 on an overshot segment is let pass, and its end becomes the server's `td_end`, although the client throws the
/// segment away. What the client sends from then on acknowledges data from before it. If that is more than
/// `max(td_maxwin, 66000)` bytes behind `td_end`, inequality IV fails: the client's data is let pass too, but not recorded. When
/// the server acknowledges it, inequality III fails, and that is refused.
fn after_overshot(context: &Context<'_>, beyond: u32) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let (mut connection, overshot) = send_overshot(context, &lab, beyond)?;
    let Overshot { traffic, end, over } = &overshot;
    let (end, over) = (*end, *over);

    let mut expect = Expect::new();
    if context.refuses_everything() {
        let (_, server_error, client_error) = connection.both_learn()?;
        both_died(&mut expect, server_error, client_error);
    } else {
        connection.client_repeats(traffic)?;
        if beyond == 0 {
            connection.is_alive()?;
            context.step("both ends still talk to each other");
        } else {
            let (reset, errors) = client_speaks(&mut connection)?;
            context.step(format!("the client speaks, the server acknowledges: RST with seq {}", reset.seq));
            both_died(&mut expect, errors.0, errors.1);
            let acknowledged = traffic.client_end.wrapping_add(SPOKEN);
            expect.that(reset.seq == acknowledged, || format!("the RST has seq {}, not {acknowledged}", reset.seq));
        }
    }
    let captured = capture.stop()?;

    let report = &captured.report;
    one_flow(&mut expect, report, &connection);
    expect.is(report, "/summary/flows_reset", u64::from(context.refuses_everything() || beyond > 0));
    if context.refuses_everything() {
        one_reset(&mut expect, &captured, &connection);
        out_of_window(&mut expect, report, "seq-over", "I");
        expect.is(report, "/flows/0/window/distance_bytes", over);
    } else if beyond == 0 {
        out_of_window(&mut expect, report, "overshot", "I");
        expect.is(report, "/flows/0/window/distance_bytes", over);
        expect.is(report, "/flows/0/reset_by", Value::Null);
        expect.is(report, "/flows/0/invalid_packets", 0);
    } else {
        out_of_window(&mut expect, report, "ack-over", "III");
        expect.is(report, "/flows/0/window/bound", traffic.client_end);
        expect.is(report, "/flows/0/window/distance_bytes", SPOKEN);
        expect.is(report, "/flows/0/window/sender/td_end", end);
        expect.is(report, "/flows/0/reset_by", "gateway-stack");
        expect.is(report, "/flows/0/confidence", "proven");
        // The data was let pass without being recorded: the entry does not show that the server expects exactly this.
        expect.is(report, "/flows/0/reset_effect", "may-kill");
        expect.is(report, "/flows/0/invalid_packets", 1);
        expect.is(report, "/flows/0/resets", 1);
        expect.is(report, "/flows/0/mitigations", json!(["be-liberal"]));
        // What it follows from: the overshot, and the data that went unrecorded.
        expect.is(report, "/flows/0/chain/0/step", "conntrack-ignored");
        expect.is(report, "/flows/0/chain/0/packet/seq_end", end);
        expect.is(report, "/flows/0/chain/1/step", "conntrack-ignored");
        expect.is(report, "/flows/0/chain/1/direction", "original");
        expect.is(report, "/flows/0/chain/1/packet/seq_end", traffic.client_end.wrapping_add(SPOKEN));
        expect.is(report, "/flows/0/chain/2/step", "conntrack-invalid");
        expect.is(report, "/flows/0/causes/0/reason", "overshot");
        expect.is(report, "/flows/0/causes/1/reason", "ack-under");
    }
    captured.replay()?;
    expect.verdict()
}

/// An overshot on its way.
struct Overshot {
    /// What was before it.
    traffic: Traffic,
    /// Its end.
    end: u32,
    /// How far beyond the window it begins.
    over: u32,
}

/// Opens a connection and sends an overshot from the server's side: the acknowledgements of a client that has no use for it are
/// `beyond` bytes too old from then on.
fn send_overshot(context: &Context<'_>, lab: &Lab, beyond: u32) -> Result<(Connection, Overshot)> {
    // A window of between 33,000 and 66,000 bytes, so that the segment is overshot: beyond it by less than its size.
    lab.client.sysctl("net.ipv4.tcp_rmem", "4096 90000 90000")?;
    let connection = Connection::open(lab, server(443))?;
    let traffic = connection.traffic()?;
    let oldest = traffic.client_maxwin.max(MAX_ACK_WINDOW);
    let end = traffic.server_end.wrapping_add(oldest).wrapping_add(beyond);
    let seq = end.wrapping_sub(100);
    let over = seq.wrapping_sub(traffic.server_maxend);
    ensure!(over < traffic.client_maxwin - 101, "{over} bytes beyond a window of {}", traffic.client_maxwin);
    let segment = traffic.from_server.forge(seq, traffic.client_end, flag::ACK | flag::PSH, &[b'!'; 100])?;
    connection.tap.send(&segment)?;
    context.step(format!("the server's side sends seq {seq}, {over} bytes beyond the window"));
    Ok((connection, Overshot { traffic, end, over }))
}

/// drop-invalid-input does not help here: no segment of the server reaches the client any more, because each acknowledges data that
/// conntrack has not recorded. With `tcp_be_liberal` the connection goes on.
pub(super) fn overshot_then_dropped(context: &Context<'_>) -> Result<()> {
    const REPLY: usize = 333;
    let lab = Lab::build(Nat::NftMasquerade)?;
    filter_rule(&lab.gateway, "input", "ct state invalid drop")?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let inside = Tap::open(&lab.client, "c0")?;
    let (mut connection, Overshot { traffic, .. }) = send_overshot(context, &lab, 1)?;
    let mut expect = Expect::new();
    if context.refuses_everything() {
        connection.is_alive()?;
    } else {
        connection.client_repeats(&traffic)?;
        connection.client_sends(SPOKEN as usize)?;
        connection.server.write_all(&[b'r'; REPLY]).context("the server's write")?;
        let of_server = |segments: &[Segment]| {
            segments.iter().filter(|seen| seen.src == connection.server_address && seen.len as usize == REPLY).count()
        };
        let repeats = |segments: &[Segment]| (of_server(segments) >= 2).then_some(());
        connection.tap.wait("the server's retransmission", repeats)?;
        let arrived = of_server(&inside.segments());
        expect.that(arrived == 0, || format!("{arrived} of the server's segments have reached the client"));
        context.step("what the server says is dropped, and so is its retransmission");
        lab.gateway.sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", "1")?;
        connection.client.read_exact(&mut [0; REPLY]).context("the client's read")?;
    }
    connection.is_alive()?;
    context.step("both ends talk to each other");
    let captured = capture.stop()?;

    let report = &captured.report;
    one_flow(&mut expect, report, &connection);
    if context.refuses_everything() {
        out_of_window(&mut expect, report, "seq-over", "I");
    } else {
        out_of_window(&mut expect, report, "ack-over", "III");
        expect.is(report, "/flows/0/window/distance_bytes", SPOKEN);
    }
    expect.is(report, "/flows/0/reset_by", Value::Null);
    expect.is(report, "/summary/resets_sent", 0);
    captured.replay()?;
    expect.verdict()
}

/// How much the client says behind the overshot.
const SPOKEN: u32 = 400;

/// The client writes; the gateway answers the server's acknowledgement. What the server and the client see of it.
fn client_speaks(connection: &mut Connection) -> Result<(Segment, (ErrorKind, ErrorKind))> {
    connection.client.write_all(&[b'z'; SPOKEN as usize]).context("the client's write")?;
    connection.server.read_exact(&mut [0; SPOKEN as usize]).context("the server's read")?;
    let reset = connection.reset_to_server()?;
    let server_error = Connection::error_of(&mut connection.server)?;
    // Nobody has acknowledged what the client has sent: it sends it again, and the server answers with a RST.
    let client_error = Connection::error_of(&mut connection.client)?;
    Ok((reset, (server_error, client_error)))
}
