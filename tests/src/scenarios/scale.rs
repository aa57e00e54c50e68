//! Many connections at once: the victims are named, and nobody else.

use std::collections::{HashMap, HashSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};
use std::{fs, panic, thread};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Context;
use super::connection::{Connection, talk};
use super::reported::{DELETED, NOT_TRACKED, REJECTED, SEQ_OVER, What, Who, flows};
use super::rules::filter_rule;
use crate::expect::Expect;
use crate::netns::Namespace;
use crate::topology::{Lab, Nat, server};
use crate::whyrst::{Capture, Captured, Runs};
use crate::wire::{PATIENCE, Segment, Tap, flag};

/// One of many connections. All share a tap.
struct Member {
    client: TcpStream,
    server: TcpStream,
    client_address: SocketAddr,
    nat_address: SocketAddr,
}

impl Member {
    fn is_alive(&mut self) -> Result<()> {
        talk(&mut self.client, &mut self.server, 300).context("client to server")?;
        talk(&mut self.server, &mut self.client, 300).context("server to client")
    }

    /// A segment of the server's so far ahead that it is refused on every kernel, once everything is acknowledged that
    /// the tap has seen.
    fn far_ahead(&self, tap: &Tap) -> Result<Segment> {
        let last = tap.wait("the server's data to be acknowledged", |segments| {
            let from_server = segments.iter().rfind(|seen| seen.dst == self.nat_address && seen.len > 0)?;
            let acknowledges = |seen: &&Segment| seen.src == self.nat_address && seen.ack == from_server.end();
            let from_client = segments.iter().rfind(acknowledges)?;
            (from_client.end() == from_server.ack).then(|| from_server.clone())
        })?;
        last.forge(last.end().wrapping_add(20_000_000), last.ack, flag::ACK | flag::PSH, &[b'!'; 400])
    }
}

/// A server with many connections.
fn crowd(lab: &Lab, size: usize) -> Result<Vec<Member>> {
    let listener = lab.server.enter(|| TcpListener::bind(server(443)))?.context("listening")?;
    let open = || {
        let client = lab.client.enter(|| TcpStream::connect(server(443)))?.context("connecting")?;
        let (accepted, _) = listener.accept().context("accepting")?;
        for stream in [&client, &accepted] {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
        }
        let (client_address, nat_address) = (client.local_addr()?, accepted.peer_addr()?);
        let mut member = Member { client, server: accepted, client_address, nat_address };
        member.is_alive()?;
        Ok(member)
    };
    (0..size).map(|_| open()).collect()
}

/// Rules for the ports in two sets: segments of the clients in `victims` are rejected, segments to those in `untracked` are not
/// tracked.
fn traps(gateway: &Namespace) -> Result<()> {
    gateway.run(&["nft", "add table inet filter"])?;
    gateway.run(&["nft", "add set inet filter victims { type inet_service; }"])?;
    gateway.run(&["nft", "add set inet filter untracked { type inet_service; }"])?;
    filter_rule(gateway, "forward", "iifname lan0 tcp sport @victims reject with tcp reset")?;
    gateway.run(&["nft", "add chain inet filter raw { type filter hook prerouting priority raw; }"])?;
    gateway.run(&["nft", "add rule inet filter raw iifname wan0 tcp dport @untracked notrack"]).map(drop)
}

/// Two hundred connections, of which seven die of four causes; all others go on.
pub(super) fn many_flows(context: &Context<'_>) -> Result<()> {
    const CROWD: usize = 200;
    const VICTIMS: [(usize, What); 7] = [
        (3, SEQ_OVER),
        (42, DELETED),
        (77, REJECTED),
        (101, NOT_TRACKED),
        (130, SEQ_OVER),
        (131, DELETED),
        (199, REJECTED),
    ];
    let lab = Lab::build(Nat::NftMasquerade)?;
    traps(&lab.gateway)?;
    let capture = Capture::start(None, &context.artifacts, &[])?;
    let mut members = crowd(&lab, CROWD)?;
    context.step(format!("{CROWD} connections are established"));
    let tap = Tap::open(&lab.server, "s0")?;
    let mut expect = Expect::new();
    for (index, what) in &VICTIMS {
        let member = &mut members[*index];
        let error = disturb(&lab, &tap, member, what)?;
        let client = member.client_address;
        context.step(format!("{client}, {}: {error}", what.cause));
        expect.that(error == ErrorKind::ConnectionReset, || format!("{client} saw {error}"));
    }
    let of: HashMap<usize, What> = VICTIMS.into_iter().collect();
    for (index, member) in members.iter_mut().enumerate().filter(|(index, _)| !of.contains_key(index)) {
        member.is_alive().with_context(|| format!("connection {index}, that nothing happened to"))?;
    }
    context.step(format!("{} go on", CROWD - VICTIMS.len()));
    let captured = capture.stop()?;

    let report = &captured.report;
    flows(&mut expect, report, VICTIMS.len());
    for (index, what) in &VICTIMS {
        let member = &members[*index];
        let who = Who {
            client: member.client_address,
            nat: member.nat_address,
            server: server(443),
            service: server(443),
            netns: lab.gateway.inode()?,
        };
        who.is_reported(&mut expect, report, what);
    }
    captured.replay()?;
    expect.verdict()
}

/// Does to a connection what it is to die of, and gives the error of the end that is reset first.
fn disturb(lab: &Lab, tap: &Tap, member: &mut Member, what: &What) -> Result<ErrorKind> {
    let element = |set: &str, port: u16| {
        lab.gateway.run(&["nft", &format!("add element inet filter {set} {{ {port} }}")]).map(drop)
    };
    match what.cause {
        "out-of-window" => {
            member.is_alive()?;
            tap.send(&member.far_ahead(tap)?)?;
        }
        "no-entry" => {
            let port = member.client_address.port().to_string();
            lab.gateway.run(&["conntrack", "-D", "-p", "tcp", "--orig-port-src", &port])?;
            member.server.write_all(b"are you still there?")?;
        }
        "not-tracked" => {
            element("untracked", member.nat_address.port())?;
            member.server.write_all(b"who will hear this?")?;
        }
        _ => {
            element("victims", member.client_address.port())?;
            member.client.write_all(b"is anybody there?")?;
            return Connection::error_of(&mut member.client);
        }
    }
    Connection::error_of(&mut member.server)
}

/// Connections of `many-clean` and `new-refused-cost`.
const SHORT: usize = 2_000;

/// Two thousand connections that are opened, used and closed, one after the other. No program runs for any of their
/// packets; the table keeps them all.
pub(super) fn many_clean(context: &Context<'_>) -> Result<()> {
    let short = short_connections(context, &[])?;
    let mut expect = Expect::new();
    // Newer kernels choose a port again while the table remembers its last connection: that entry ends for the new one.
    let reused = SHORT - short.ports.len();
    expect.that(short.runs.count == reused as u64, || {
        format!("BPF programs ran {} times, and {reused} entries ended", short.runs.count)
    });
    nothing_happened(&mut expect, &short.captured.report);
    short.captured.replay()?;
    expect.verdict()
}

/// The same with `--new-refused`: two programs run for each new connection, and none for any other packet. The step
/// has their share of the time of a connection, with both ends and the gateway on one processor.
pub(super) fn new_refused_cost(context: &Context<'_>) -> Result<()> {
    let short = short_connections(context, &["--new-refused"])?;
    let mut expect = Expect::new();
    let expected = (2 * SHORT + SHORT - short.ports.len()) as u64;
    expect
        .that(short.runs.count == expected, || format!("BPF programs ran {} times, not {expected}", short.runs.count));
    let share = short.runs.time.as_secs_f64() / short.took.as_secs_f64() * 100.0;
    let each = short.runs.time / u32::try_from(SHORT)?;
    context.step(format!("{each:?} of BPF programs per connection, {share:.2} % of all its time"));
    nothing_happened(&mut expect, &short.captured.report);
    short.captured.replay()?;
    expect.verdict()
}

/// Connections that were opened, used and closed.
struct Short {
    ports: HashSet<u16>,
    runs: Runs,
    took: Duration,
    captured: Captured,
}

fn short_connections(context: &Context<'_>, arguments: &[&str]) -> Result<Short> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let listener = lab.server.enter(|| TcpListener::bind(server(80)))?.context("listening")?;
    fs::write("/proc/sys/kernel/bpf_stats_enabled", "1").context("bpf_stats_enabled")?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, arguments)?;
    let started = Instant::now();
    let ports = thread::scope(|scope| -> Result<HashSet<u16>> {
        let serving = scope.spawn(|| -> Result<()> {
            for stream in listener.incoming().take(SHORT) {
                let mut stream = stream?;
                stream.read_exact(&mut [0; 100]).context("the server's read")?;
                stream.write_all(&[b'.'; 1_000]).context("the server's write")?;
            }
            Ok(())
        });
        let ports = lab.client.enter(|| (0..SHORT).map(use_once).collect::<Result<_>>())??;
        serving.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked))?;
        Ok(ports)
    })?;
    let took = started.elapsed();
    let runs = capture.bpf_runs()?;
    let count = lab.gateway.run(&["conntrack", "-C"])?;
    context.step(format!("{SHORT} connections of {} ports; the table holds {}", ports.len(), count.trim()));
    let captured = capture.stop()?;
    fs::write("/proc/sys/kernel/bpf_stats_enabled", "0").context("bpf_stats_enabled")?;
    let kept: usize = count.trim().parse().with_context(|| format!("conntrack -C: {count}"))?;
    ensure!(kept >= ports.len(), "the table holds {kept} of {}", ports.len());
    ensure!(ports.len() > SHORT / 2, "only {} ports were used", ports.len());
    Ok(Short { ports, runs, took, captured })
}

fn nothing_happened(expect: &mut Expect, report: &Value) {
    expect.is(report, "/flows", Value::Array(Vec::new()));
    expect.is(report, "/findings", Value::Array(Vec::new()));
    expect.is(report, "/capture/events", 0);
    expect.is(report, "/capture/events_lost", 0);
    expect.is(report, "/summary/table_full_drops", 0);
}

/// One short connection, inside the client's namespace: a request, an answer, and both ends close. Gives its port.
fn use_once(number: usize) -> Result<u16> {
    let mut stream = TcpStream::connect(server(80)).with_context(|| format!("connecting, number {number}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[b'?'; 100])?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(answer.len() == 1_000, "{} bytes came, number {number}", answer.len());
    Ok(stream.local_addr()?.port())
}
