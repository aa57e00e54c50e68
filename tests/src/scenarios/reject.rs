//! Rules that reject, made by each tool, at each hook.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::Context;
use super::connection::Connection;
use super::reported::{REJECTED, Who, flows};
use super::rules::{filter_rule, refused_and_rejected};
use crate::expect::Expect;
use crate::netns::Namespace;
use crate::topology::{Lab, Nat, SERVER, SERVER6, server};
use crate::whyrst::Capture;
use crate::wire::{Tap, flag};

/// Who makes the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    Nft,
    /// By the name of the program.
    Xtables(&'static str),
}

impl Tool {
    /// Rejects what goes to a port.
    fn reject(self, gateway: &Namespace, hook: &str, port: u16) -> Result<()> {
        match self {
            Self::Nft => filter_rule(gateway, hook, &format!("tcp dport {port} reject with tcp reset")),
            Self::Xtables(program) => xtables(gateway, program, hook, &format!("--dport {port}"), "tcp-reset"),
        }
    }
}

/// Rejects TCP segments that match.
fn xtables(gateway: &Namespace, program: &str, hook: &str, matching: &str, with: &str) -> Result<()> {
    let chain = hook.to_uppercase();
    let rule = ["-A", &chain, "-p", "tcp"].into_iter().chain(matching.split_whitespace());
    let words: Vec<&str> = [program].into_iter().chain(rule).chain(["-j", "REJECT", "--reject-with", with]).collect();
    gateway.run(&words).map(drop)
}

/// The server's port.
const SERVICE: u16 = 443;
/// A service of the gateway itself.
const OWN_SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 4_433);

pub(super) fn forward_nft(context: &Context<'_>) -> Result<()> {
    forward(context, Tool::Nft, SERVER)
}

pub(super) fn forward_iptables(context: &Context<'_>) -> Result<()> {
    forward(context, Tool::Xtables("iptables-nft"), SERVER)
}

pub(super) fn forward_legacy(context: &Context<'_>) -> Result<()> {
    forward(context, Tool::Xtables("iptables-legacy"), SERVER)
}

pub(super) fn forward_ip6tables(context: &Context<'_>) -> Result<()> {
    forward(context, Tool::Xtables("ip6tables"), SERVER6)
}

pub(super) fn input_nft(context: &Context<'_>) -> Result<()> {
    input(context, Tool::Nft)
}

pub(super) fn input_iptables(context: &Context<'_>) -> Result<()> {
    input(context, Tool::Xtables("iptables-nft"))
}

/// The gateway does not forward to a port any more.
fn forward(context: &Context<'_>, tool: Tool, address: IpAddr) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    tried_by(context, &lab, tool, "forward", (&lab.server, "s0"), SocketAddr::new(address, SERVICE))
}

/// The gateway does not let anybody at a service of its own any more. There is a listener: it is not a closed port.
fn input(context: &Context<'_>, tool: Tool) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    tried_by(context, &lab, tool, "input", (&lab.gateway, "lan0"), OWN_SERVICE)
}

/// A connection that is established dies with the client's next segment, and the server hears nothing of it; a new one is
/// refused although somebody listens.
fn tried_by(
    context: &Context<'_>,
    lab: &Lab,
    tool: Tool,
    hook: &str,
    (home, interface): (&Namespace, &str),
    target: SocketAddr,
) -> Result<()> {
    let at_client = Tap::open(&lab.client, "c0")?;
    let mut connection = Connection::open_to(&lab.client, target, (home, interface), target)?;
    let listener = home.enter(|| TcpListener::bind(target))?.context("listening again")?;
    tool.reject(&lab.gateway, hook, target.port())?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let cut = connection.client_learns()?;
    let refused = logged(&lab.client, target)?;
    context.step(format!("the established connection: {cut}; a new one: {refused}"));
    let reset = at_client.wait("two RSTs", |segments| {
        let resets: Vec<SocketAddr> =
            segments.iter().filter(|segment| segment.has(flag::RST)).map(|segment| segment.dst).collect();
        (resets.len() == 2).then_some(resets)
    })?;
    let server = hears_nothing(&mut connection.server)?;
    listener.set_nonblocking(true)?;
    let accepted = listener.accept();
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    expect.that(cut == ErrorKind::ConnectionReset, || format!("the client saw {cut}"));
    expect.that(refused == ErrorKind::ConnectionRefused, || format!("the new connection: {refused}"));
    expect.that(server, || "the server heard of it".to_owned());
    expect.that(accepted.is_err(), || format!("the new connection reached the listener: {accepted:?}"));
    let other = reset.into_iter().find(|client| *client != connection.client_address);
    let other = other.context("both RSTs went to the established connection")?;
    let report = &captured.report;
    flows(&mut expect, report, 2);
    Who::of(&connection, &lab.gateway)?.is_reported(&mut expect, report, &REJECTED);
    // It was refused on the way, before its address was translated.
    Who::direct(other, target, lab.gateway.inode()?).is_reported(&mut expect, report, &REJECTED);
    captured.replay()?;
    expect.verdict()
}

/// What conntrack refuses meets a rule of iptables'.
pub(super) fn invalid_iptables(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    xtables(&lab.gateway, "iptables-nft", "input", "-m conntrack --ctstate INVALID", "tcp-reset")?;
    refused_and_rejected(context, &lab, |expect, report| {
        expect.is(report, "/flows/0/rule/backend", "iptables-nft");
        expect.is(report, "/flows/0/rule/chain", "INPUT");
        expect.is(report, "/flows/0/rule/number", 1);
    })
}

/// The gateway forwards nothing more from a port: the server's next segment is rejected. The RST is translated like the
/// client's own segments would be, and the client hears nothing of it.
pub(super) fn forward_reply(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let mut connection = Connection::open(&lab, server(443))?;
    filter_rule(&lab.gateway, "forward", "tcp sport 443 reject with tcp reset")?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    connection.server.write_all(b"may I?")?;
    let reset = connection.reset_to_server()?;
    let cut = Connection::error_of(&mut connection.server)?;
    context.step(format!("the server's next segment is answered by {}: {cut}", reset.src));
    let client = hears_nothing(&mut connection.client)?;
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    expect.that(cut == ErrorKind::ConnectionReset, || format!("the server saw {cut}"));
    expect.that(client, || "the client heard of it".to_owned());
    expect.that(reset.src == connection.nat_address, || format!("the RST comes from {}", reset.src));
    flows(&mut expect, &captured.report, 1);
    Who::of(&connection, &lab.gateway)?.is_reported(&mut expect, &captured.report, &REJECTED);
    captured.replay()?;
    expect.verdict()
}

/// Whether nothing came for a socket so far, neither data nor an end.
fn hears_nothing(stream: &mut TcpStream) -> Result<bool> {
    stream.set_nonblocking(true)?;
    Ok(stream.read(&mut [0; 1]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock))
}

/// Rules that reject by ICMP send no RST: the connections fail just as well, and whyrst has nothing to say.
pub(super) fn by_icmp(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let at_client = Tap::open(&lab.client, "c0")?;
    filter_rule(&lab.gateway, "forward", "tcp dport 443 reject with icmpx type port-unreachable")?;
    xtables(&lab.gateway, "iptables-nft", "forward", "--dport 8443", "icmp-port-unreachable")?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let refused = [logged(&lab.client, server(443))?, logged(&lab.client, server(8_443))?];
    context.step(format!("nft: {}; iptables: {}", refused[0], refused[1]));
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    expect.that(refused == [ErrorKind::ConnectionRefused; 2], || format!("the client saw {refused:?}"));
    let resets = at_client.segments().iter().filter(|segment| segment.has(flag::RST)).count();
    expect.that(resets == 0, || format!("{resets} RSTs were sent"));
    expect.is(&captured.report, "/flows", Value::Array(Vec::new()));
    expect.is(&captured.report, "/capture/events", 0);
    captured.replay()?;
    expect.verdict()
}

/// Connects to where it must fail, and gives the error.
pub(super) fn logged(client: &Namespace, target: SocketAddr) -> Result<ErrorKind> {
    match client.enter(|| TcpStream::connect(target))? {
        Err(error) => Ok(error.kind()),
        Ok(_) => bail!("{target} accepts connections"),
    }
}
