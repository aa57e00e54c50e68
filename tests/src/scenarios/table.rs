//! The conntrack table is full.

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::Context;
use super::connection::Connection;
use crate::expect::Expect;
use crate::topology::{CLIENT, Lab, NAT, Nat, server};
use crate::whyrst::Capture;
use crate::wire::{Segment, Tap, flag};

/// A sysctl of the initial network namespace that all others share; set back when this is dropped.
pub(super) struct Shared {
    path: PathBuf,
    before: String,
}

impl Shared {
    pub(super) fn set(name: &str, value: u32) -> Result<Self> {
        let kept = Self::keep(name)?;
        fs::write(&kept.path, value.to_string()).with_context(|| format!("writing {name}"))?;
        Ok(kept)
    }

    /// Leaves it as it is, for others to change.
    pub(super) fn keep(name: &str) -> Result<Self> {
        let path = PathBuf::from("/proc/sys/net/netfilter").join(name);
        let before = fs::read_to_string(&path).with_context(|| format!("reading {name}"))?;
        Ok(Self { path, before })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.path, self.before.trim()) {
            eprintln!("{}: {error}", self.path.display());
        }
    }
}

/// All entries are of live connections: a new one finds no room and its SYN is dropped. Nobody sends a RST.
pub(super) fn drops(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut connection = Connection::open(&lab, server(443))?;
    let room = Shared::set("nf_conntrack_max", 1)?;
    let refused = lab.client.enter(|| TcpStream::connect_timeout(&server(443), Duration::from_millis(1_500)))?;
    let Err(error) = refused else { bail!("the table took another connection") };
    context.step(format!("a second connection: {error}"));
    connection.is_alive()?;
    let captured = capture.stop()?;
    drop(room);

    let mut expect = Expect::new();
    expect.that(error.kind() == ErrorKind::TimedOut, || format!("the second connection: {error}"));
    let report = &captured.report;
    expect.is(report, "/flows", Value::Array(Vec::new()));
    expect.is(report, "/summary/resets_sent", 0);
    let dropped = report["summary"]["table_full_drops"].as_u64().unwrap_or_default();
    expect.that((1..=3).contains(&dropped), || format!("{dropped} packets were dropped"));
    full(&mut expect, report, &lab)?;
    expect.is(report, "/findings/0/evidence/dropped", dropped.to_string());
    expect.is(report, "/findings/0/evidence/counted", "1");
    expect.is(report, "/findings/0/evidence/top_sources", format!("{CLIENT} (1)"));
    expect.is(report, "/findings/0/evidence/top_services", format!("tcp {} (1)", server(443)));
    captured.replay()?;
    expect.verdict()
}

/// Half-open connections evict each other. The gateway answers the SYN-ACKs of evicted ones with RST.
pub(super) fn evicts(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut crowd = Crowd::gather(&lab)?;
    crowd.half_open(20_000)?;
    context.step(format!("{SYNS} half-open connections, room for {ROOM}"));
    let resets = crowd.wait_for_resets()?;
    context.step(format!("{resets} SYN-ACKs are answered with RST"));
    lab.server.run(&["tc", "qdisc", "del", "dev", "s0", "root"])?;
    crowd.connection.is_alive()?;
    let captured = capture.stop()?;
    let target = crowd.target;
    drop(crowd);

    let mut expect = Expect::new();
    let report = &captured.report;
    full(&mut expect, report, &lab)?;
    let evidence = |name: &str| report["findings"][0]["evidence"][name].as_str().unwrap_or_default();
    let (sources, services) = (evidence("top_sources"), evidence("top_services"));
    let only_client = sources.starts_with(&format!("{CLIENT} (")) && !sources.contains(',');
    expect.that(only_client, || format!("the sources are {sources}"));
    expect.that(services.starts_with(&format!("tcp {target} (")), || format!("the services are {services}"));
    expect.is(report, "/findings/0/evidence/count_is_partial", Value::Null);
    let made_room = report["findings"][0]["evidence"]["made_room"].as_str().and_then(|text| text.parse::<u64>().ok());
    expect.that(made_room.is_some_and(|count| count >= 50), || format!("{made_room:?} entries were evicted"));
    let flows = report["flows"].as_array().map(Vec::as_slice).unwrap_or_default();
    // A SYN-ACK that was repeated for an entry in CLOSE was remarked on and let pass: nothing came of it.
    let remarked = |flow: &&Value| flow["ignored_packets"] != 0 && flow["invalid_packets"] == 0 && flow["resets"] == 0;
    let reset: Vec<&Value> = flows.iter().filter(|flow| !remarked(flow)).collect();
    expect.that(reset.len() >= 50, || format!("{} flows are named", reset.len()));
    let known = [("cause", "no-entry"), ("reason", "evicted"), ("reset_by", "gateway-stack"), ("confidence", "proven")];
    for flow in reset {
        let client = flow["client"].as_str().unwrap_or_default();
        for (field, value) in known {
            expect.that(flow[field] == value, || format!("{client}: {field} is {}", flow[field]));
        }
        expect.that(client.starts_with(&format!("{CLIENT}:2")), || format!("{client} is named"));
        let nat = flow["nat"].as_str().unwrap_or_default();
        expect.that(nat.starts_with(&format!("{NAT}:")), || format!("{client} is translated to {nat}"));
    }
    captured.replay()?;
    expect.verdict()
}

/// Half-open connections at a time, and the entries that the table has room for.
pub(super) const SYNS: u16 = 600;
pub(super) const ROOM: u32 = 300;

/// A server behind a long delay, and a small table: half-open connections evict each other before their SYN-ACKs come.
pub(super) struct Crowd {
    /// An established connection.
    pub(super) connection: Connection,
    /// The service of the half-open ones.
    pub(super) target: SocketAddr,
    at_client: Tap,
    syn: Segment,
    _shared: [Shared; 2],
    _listener: TcpListener,
}

impl Crowd {
    pub(super) fn gather(lab: &Lab) -> Result<Self> {
        let at_client = Tap::open(&lab.client, "c0")?;
        let connection = Connection::open(lab, server(443))?;
        let syn = at_client.wait("the client's SYN", |segments| {
            segments.iter().find(|segment| segment.has(flag::SYN) && segment.dst == server(443)).cloned()
        })?;
        let target = server(8443);
        let listener = lab.server.enter(|| TcpListener::bind(target))?.context("listening")?;
        lab.server.run(&["tc", "qdisc", "add", "dev", "s0", "root", "netem", "delay", "2s", "limit", "10000"])?;
        let shared = [Shared::set("nf_conntrack_buckets", 512)?, Shared::set("nf_conntrack_max", ROOM)?];
        Ok(Self { connection, target, at_client, syn, _shared: shared, _listener: listener })
    }

    /// Sends [`SYNS`] SYNs of the client, one of each port from this one on.
    pub(super) fn half_open(&self, first: u16) -> Result<()> {
        for port in first..first + SYNS {
            let mut other = self.syn.clone();
            (other.src, other.dst) = (SocketAddr::new(CLIENT, port), self.target);
            self.at_client.send(&other.forge(7_000, 0, flag::SYN, &[])?)?;
        }
        Ok(())
    }

    /// Waits until the gateway has answered 50 SYN-ACKs of evicted entries with RST.
    pub(super) fn wait_for_resets(&self) -> Result<usize> {
        self.connection.tap.wait("the gateway's RSTs", |segments| {
            let resets = segments.iter().filter(|segment| segment.dst == self.target && segment.has(flag::RST)).count();
            (resets >= 50).then_some(resets)
        })
    }
}

/// The finding that the gateway's table was full comes first.
fn full(expect: &mut Expect, report: &Value, lab: &Lab) -> Result<()> {
    expect.is(report, "/findings/0/id", "conntrack-table-full");
    expect.is(report, "/findings/0/severity", "critical");
    expect.is(report, "/findings/0/evidence/netns", lab.gateway.inode()?.to_string());
    Ok(())
}
