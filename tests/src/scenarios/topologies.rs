//! The same incidents in other networks: who is named must be right whatever the gateway is made of.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::Context;
use super::connection::Connection;
use super::reported::{DELETED, NO_LISTENER, SEQ_OVER, Who, flows};
use super::rules::filter_rule;
use super::window::{seq_over_during, seq_over_to};
use crate::command;
use crate::expect::Expect;
use crate::netns::{IP, Namespace};
use crate::topology::{INNER, Ingress, Lab, NAT, Nat, SERVER6, Wiring, server};
use crate::whyrst::{self, Capture};
use crate::wire::PATIENCE;

/// Both ends have seen the connection reset.
fn both_died(expect: &mut Expect, errors: [ErrorKind; 2]) {
    expect.that(errors == [ErrorKind::ConnectionReset; 2], || format!("server and client saw {errors:?}"));
}

/// The client and the server are on the same network, and know each other by the gateway's public address only: the gateway
/// translates both addresses, and its answer goes back to where the segment came from.
pub(super) fn hairpin(context: &Context<'_>) -> Result<()> {
    let lab = Lab::wire(Wiring { lan: Ingress::Bridge, ..Wiring::default() })?;
    let neighbour = lab.neighbour()?;
    let service = SocketAddr::new(NAT, 8_080);
    for rule in [
        "add table ip nat",
        "add chain ip nat prerouting { type nat hook prerouting priority dstnat; }",
        "add chain ip nat postrouting { type nat hook postrouting priority srcnat; }",
        &format!("add rule ip nat prerouting ip daddr {NAT} tcp dport 8080 dnat to {INNER}:443"),
        "add rule ip nat postrouting ip saddr 10.0.0.0/24 oifname { lan0, wan0 } masquerade",
    ] {
        lab.gateway.run(&["nft", rule])?;
    }
    // Otherwise the gateway sends the client an ICMP redirect to a path that does not exist.
    for interface in ["all", "lan0"] {
        lab.gateway.sysctl(&format!("net.ipv4.conf.{interface}.send_redirects"), "0")?;
    }
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let inner = SocketAddr::new(INNER, 443);
    let mut connection = Connection::open_to(&lab.client, service, (&neighbour, "n0"), inner)?;
    let errors = connection.is_reset()?;
    context.step(format!("{} by {service} to {inner}: {errors:?}", connection.client_address));
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    both_died(&mut expect, errors);
    let lan = connection.nat_address.ip().to_string();
    expect.that(lan == "10.0.0.1", || format!("the neighbour saw {lan}"));
    flows(&mut expect, &captured.report, 1);
    Who::of(&connection, &lab.gateway)?.is_reported(&mut expect, &captured.report, &SEQ_OVER);
    expect.is(&captured.report, "/flows/0/chain/0/in", "lan0");
    captured.replay()?;
    expect.verdict()
}

pub(super) fn vlan_ingress(context: &Context<'_>) -> Result<()> {
    wan(context, Ingress::Vlan)
}

pub(super) fn bridge_ingress(context: &Context<'_>) -> Result<()> {
    wan(context, Ingress::Bridge)
}

/// conntrack looks at the segment while it is still in the bridge, as on hosts of containers.
pub(super) fn bridge_netfilter(context: &Context<'_>) -> Result<()> {
    command::run("/sbin/modprobe", &["br_netfilter"])?;
    let done = wan(context, Ingress::Bridge);
    command::run("/sbin/modprobe", &["-r", "br_netfilter"])?;
    done
}

fn wan(context: &Context<'_>, wan: Ingress) -> Result<()> {
    let lab = Lab::wire(Wiring { wan, ..Wiring::default() })?;
    lab.translate(Nat::NftMasquerade)?;
    seq_over_to(context, &lab, server(443), false)
}

/// Client and server have firewalls of their own, on the same kernel: what they send once the gateway has reset the server is
/// an effect, although their namespaces track connections as the gateway's does.
pub(super) fn tracked_ends(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    for end in [&lab.client, &lab.server] {
        filter_rule(end, "input", "ct state established accept")?;
    }
    seq_over_to(context, &lab, server(443), true)
}

/// A port forward by one rule; another translates the source to a range of ports that the client's is not in.
pub(super) fn two_nat_rules(context: &Context<'_>) -> Result<()> {
    let lab = Lab::wire(Wiring::default())?;
    let service = SocketAddr::from(([10, 0, 0, 1], 8_080));
    for rule in [
        "-A PREROUTING -i lan0 -p tcp --dport 8080 -j DNAT --to-destination 192.0.2.2:443",
        "-A POSTROUTING -o wan0 -p tcp -j SNAT --to-source 192.0.2.1:20000-20100",
    ] {
        lab.gateway.run(&["iptables", "-t", "nat"].into_iter().chain(rule.split(' ')).collect::<Vec<_>>())?;
    }
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut connection = Connection::open_through(&lab, service, server(443))?;
    let errors = connection.is_reset()?;
    context.step(format!("{} became {}", connection.client_address, connection.nat_address));
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    both_died(&mut expect, errors);
    let port = connection.nat_address.port();
    expect.that((20_000..=20_100).contains(&port), || format!("the server saw port {port}"));
    flows(&mut expect, &captured.report, 1);
    Who::of(&connection, &lab.gateway)?.is_reported(&mut expect, &captured.report, &SEQ_OVER);
    captured.replay()?;
    expect.verdict()
}

/// The entry of an IPv6 connection is taken away; the server speaks.
pub(super) fn ipv6_no_entry(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut connection = Connection::open(&lab, SocketAddr::new(SERVER6, 443))?;
    lab.gateway.run(&["conntrack", "-D", "-f", "ipv6", "-p", "tcp", "--dport", "443"])?;
    // What the server says next is answered by the gateway; then the client speaks to a server that is dead.
    connection.server.write_all(b"are you still there?")?;
    connection.reset_to_server()?;
    let errors = [Connection::error_of(&mut connection.server)?, connection.client_learns()?];
    context.step(format!("without its entry: {errors:?}"));
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    both_died(&mut expect, errors);
    flows(&mut expect, &captured.report, 1);
    Who::of(&connection, &lab.gateway)?.is_reported(&mut expect, &captured.report, &DELETED);
    captured.replay()?;
    expect.verdict()
}

/// What the host, outside of all gateways' namespaces, is connected to: a machine that has the address that the server has
/// in the lab; the host has the gateway's.
struct Beside {
    machine: Namespace,
}

impl Beside {
    /// `tracking`: whether the host tracks its connections.
    fn build(tracking: bool) -> Result<Self> {
        let beside = Self { machine: Namespace::create("beside")? };
        let host = |line: &str| command::run(IP, &line.split(' ').collect::<Vec<_>>());
        host("link add beside0 type veth peer name b0 netns beside")?;
        host(&format!("address add {NAT}/24 dev beside0"))?;
        host("link set beside0 up")?;
        beside.machine.ip(&format!("address add {}/24 dev b0", server(0).ip()))?;
        beside.machine.ip("link set b0 up")?;
        command::run("nft", &["add table inet beside"])?;
        if tracking {
            command::run("nft", &["add chain inet beside input { type filter hook input priority 0; }"])?;
            command::run("nft", &["add rule inet beside input ct state established accept"])?;
        }
        Ok(beside)
    }

    /// Connects from the server's address and port to the host's.
    fn connect(&self, to: SocketAddr, from: SocketAddr) -> Result<ErrorKind> {
        let socket = self.machine.enter(|| Socket::new(Domain::IPV4, Type::STREAM, None))??;
        socket.set_reuse_address(true)?;
        socket.bind(&from.into()).with_context(|| format!("binding to {from}"))?;
        match socket.connect(&to.into()) {
            Err(error) => Ok(error.kind()),
            Ok(()) => bail!("the host listens on {to}"),
        }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let undone = command::run("nft", &["delete table inet beside"])
            .and_then(|_| command::run(IP, &["link", "delete", "beside0"]));
        if let Err(error) = undone {
            eprintln!("{error:#}");
        }
    }
}

/// The gateway is a namespace, and whyrst runs on the host. There a SYN arrives from and to the same addresses and ports
/// that the gateway's connection has towards its server.
pub(super) fn host_beside(context: &Context<'_>) -> Result<()> {
    beside(context, true)
}

/// The same on a host that tracks nothing: for whyrst it is an endpoint like any other.
pub(super) fn host_beside_untracked(context: &Context<'_>) -> Result<()> {
    beside(context, false)
}

fn beside(context: &Context<'_>, tracking: bool) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let beside = Beside::build(tracking)?;
    let capture = Capture::start(None, &context.artifacts, &[])?;
    let mut connection = Connection::open(&lab, server(443))?;
    let (to, from) = (connection.nat_address, connection.server_address);
    let refused = beside.connect(to, from)?;
    let errors = connection.is_reset()?;
    context.step(format!("on the host: {refused}; through the gateway: {errors:?}"));
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    both_died(&mut expect, errors);
    expect.that(refused == ErrorKind::ConnectionRefused, || format!("the host answered {refused}"));
    let report = &captured.report;
    Who::of(&connection, &lab.gateway)?.is_reported(&mut expect, report, &SEQ_OVER);
    let host = fs::metadata("/proc/self/ns/net").context("the host's namespace")?.ino();
    if tracking {
        flows(&mut expect, report, 2);
        Who::direct(from, to, host).is_reported(&mut expect, report, &NO_LISTENER);
    } else {
        flows(&mut expect, report, 1);
        expect.is(report, "/findings/0/id", "endpoint-resets");
        expect.is(report, &format!("/findings/0/evidence/{host}"), "1");
    }
    // The server's own RST, after it was reset, is its own; the host's is not.
    let of_gateway = report["flows"].as_array().into_iter().flatten().find(|flow| flow["netns"] != host);
    let of_server = of_gateway.map(servers).unwrap_or_default();
    expect.that(of_server == [lab.server.inode()?], || format!("RSTs of the server are of {of_server:?}"));
    captured.replay()?;
    expect.verdict()
}

/// The namespaces of the RSTs that the report attributes to a flow's ends.
fn servers(flow: &Value) -> Vec<u64> {
    let steps = flow["chain"].as_array().into_iter().flatten();
    steps.filter(|step| step["step"] == "peer-reset-sent").filter_map(|step| step["netns"].as_u64()).collect()
}

/// Two labs with the same addresses, and one connection in each with the same ports.
struct Twins {
    labs: [Lab; 2],
    capture: Capture,
    connections: [Connection; 2],
}

impl Twins {
    fn build(context: &Context<'_>) -> Result<Self> {
        let lab = |suffix| {
            let lab = Lab::wire(Wiring { suffix, ..Wiring::default() })?;
            lab.translate(Nat::NftMasquerade)?;
            lab.client.sysctl("net.ipv4.ip_local_port_range", "34567 34567")?;
            anyhow::Ok(lab)
        };
        let labs = [lab("-a")?, lab("-b")?];
        let capture = Capture::start(None, &context.artifacts, &[])?;
        let connections = [Connection::open(&labs[0], server(443))?, Connection::open(&labs[1], server(443))?];
        if connections[0].client_address != connections[1].client_address
            || connections[0].nat_address != connections[1].nat_address
        {
            bail!("the connections differ");
        }
        Ok(Self { labs, capture, connections })
    }
}

/// One of the two is disturbed: it is named, in its namespace. The other goes on.
pub(super) fn twin_gateways(context: &Context<'_>) -> Result<()> {
    let Twins { labs, capture, connections: [mut quiet, mut disturbed] } = Twins::build(context)?;
    let errors = disturbed.is_reset()?;
    quiet.is_alive()?;
    context.step(format!("one of the two: {errors:?}; the other goes on"));
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    both_died(&mut expect, errors);
    flows(&mut expect, &captured.report, 1);
    Who::of(&disturbed, &labs[1].gateway)?.is_reported(&mut expect, &captured.report, &SEQ_OVER);
    expect.is(&captured.report, "/flows/0/netns_name", "gateway-b");
    captured.replay()?;
    expect.verdict()
}

/// Both are, each in its own way. What each server and each client does afterwards belongs to its own gateway.
pub(super) fn twin_gateways_both(context: &Context<'_>) -> Result<()> {
    let Twins { labs, capture, connections: [mut forgotten, mut disturbed] } = Twins::build(context)?;
    labs[0].gateway.run(&["conntrack", "-D", "-p", "tcp", "--dport", "443"])?;
    // Both servers are dead before either client speaks.
    disturbed.tap.send(&disturbed.far_ahead()?)?;
    disturbed.reset_to_server()?;
    forgotten.server.write_all(b"are you still there?")?;
    forgotten.reset_to_server()?;
    let [without_entry, far_ahead] = [&mut forgotten, &mut disturbed]
        .map(|connection| anyhow::Ok([Connection::error_of(&mut connection.server)?, connection.client_learns()?]));
    let (without_entry, far_ahead) = (without_entry?, far_ahead?);
    context.step(format!("far ahead: {far_ahead:?}; without its entry: {without_entry:?}"));
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    both_died(&mut expect, far_ahead);
    both_died(&mut expect, without_entry);
    let report = &captured.report;
    flows(&mut expect, report, 2);
    Who::of(&disturbed, &labs[1].gateway)?.is_reported(&mut expect, report, &SEQ_OVER);
    Who::of(&forgotten, &labs[0].gateway)?.is_reported(&mut expect, report, &DELETED);
    let server_of = [("gateway-a", labs[0].server.inode()?), ("gateway-b", labs[1].server.inode()?)];
    for (gateway, own) in server_of {
        let flow = report["flows"].as_array().into_iter().flatten().find(|flow| flow["netns_name"] == gateway);
        let of_server = flow.map(servers).unwrap_or_default();
        expect.that(of_server == [own], || format!("{gateway}: the server's RST is of {of_server:?}, expected {own}"));
    }
    // Of two flows that look the same the text says which is whose.
    let (_, text, _) = whyrst::run(&["report", "--from", &captured.recording.display().to_string()])?;
    // Where a heading takes two lines, how sure it is and where are on the second.
    let heads = text.lines().filter(|line| line.contains("proven"));
    let places: BTreeSet<&str> = heads.filter_map(|line| line.rsplit(' ').next()).collect();
    expect.that(places == BTreeSet::from(["gateway-a", "gateway-b"]), || format!("the text names {places:?}"));
    captured.replay()?;
    expect.verdict()
}

/// whyrst is there before conntrack is: it waits for the module, that a rule brings.
pub(super) fn module_after_start(context: &Context<'_>) -> Result<()> {
    unload_conntrack()?;
    let lab = Lab::wire(Wiring::default())?;
    let mut capture = Capture::spawn(Some(&lab.gateway), &context.artifacts, &["--wait"])?;
    capture.wait_for("waiting until nf_conntrack is loaded")?;
    lab.translate(Nat::NftMasquerade)?;
    capture.wait_for("listening to")?;
    context.step("nf_conntrack came with the gateway's first rule");
    seq_over_during(context, &lab, server(443), capture)
}

/// Takes conntrack out of the kernel, with everything that needs it.
pub(super) fn unload_conntrack() -> Result<()> {
    unload("nf_conntrack")
}

/// Takes a module of netfilter out of the kernel, with everything that needs it.
pub(super) fn unload(module: &str) -> Result<()> {
    let loaded = Path::new("/sys/module").join(module);
    let start = Instant::now();
    let mut logged = String::new();
    // The namespaces of earlier labs are taken down in the background.
    while start.elapsed() < PATIENCE {
        if !loaded.exists() {
            return Ok(());
        }
        let modules = fs::read_to_string("/proc/modules").context("/proc/modules")?;
        let unused = modules.lines().filter_map(|line| {
            let mut words = line.split(' ');
            let (name, users) = (words.next()?, words.nth(1)?);
            let of_netfilter = ["nf_", "nft_", "xt_", "ipt_", "ip6t_", "ip_set", "nfnetlink"]
                .iter()
                .any(|prefix| name.starts_with(prefix));
            (users == "0" && of_netfilter).then_some(name)
        });
        for module in unused {
            if let Err(error) = command::run("/sbin/modprobe", &["-r", module]) {
                logged = error.to_string();
            }
        }
    }
    bail!("{module} stays: {logged}")
}
