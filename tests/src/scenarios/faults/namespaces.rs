//! Network namespaces that come and go while whyrst captures.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::{panic, thread};

use anyhow::{Result, bail};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::super::Context;
use super::super::connection::Connection;
use super::super::reported::{SEQ_OVER, Who};
use crate::expect::Expect;
use crate::netns::Namespace;
use crate::topology::{Lab, Nat, server};
use crate::whyrst::Capture;

/// Namespaces that are made and deleted.
pub(in super::super) const SHORT_LIVED: usize = 30;
/// The client's port in the first of them. Each has its own: the next namespace is given the number of one that is gone, and two
/// connections with the same number and the same ends are reported as one (docs/limits.md).
const FIRST_PORT: u16 = 40_000;
/// Where nothing listens.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9);

/// Namespaces with conntrack in which something is refused, each deleted at once: by the time whyrst looks they are gone, and
/// their numbers are given to others. The gateway's own incident is reported all the same.
pub(in super::super) fn churn(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let capture = Capture::start(None, &context.artifacts, &[])?;
    let mut connection = Connection::open(&lab, server(443))?;
    let ports = thread::scope(|scope| -> Result<Vec<u16>> {
        let churning = scope.spawn(|| (0..SHORT_LIVED).map(short_lived).collect::<Result<Vec<u16>>>());
        connection.is_reset()?;
        churning.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked))
    })?;
    context.step(format!("{SHORT_LIVED} namespaces are deleted"));
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    let report = &captured.report;
    Who::of(&connection, &lab.gateway)?.is_reported(&mut expect, report, &SEQ_OVER);
    expect.is(report, "/summary/by_cause/no-listener", SHORT_LIVED);
    expect.is(report, "/capture/events_lost", 0);
    for port in ports {
        let client = SocketAddr::new(NOBODY.ip(), port).to_string();
        let flows = report["flows"].as_array().into_iter().flatten();
        let of_port: Vec<&Value> = flows.filter(|flow| flow["client"] == client).collect();
        expect.that(!of_port.is_empty(), || format!("{client} is not in the report"));
        // A number may have been given to another namespace by now, but none of these to the gateway's.
        let named = of_port.iter().any(|flow| flow["netns_name"] == "gateway");
        expect.that(!named, || format!("{client} is attributed to the gateway"));
    }
    captured.replay()?;
    expect.verdict()
}

/// A namespace that tracks connections, and a connection that is refused in it; gives the client's port.
fn short_lived(number: usize) -> Result<u16> {
    let namespace = Namespace::create(&format!("short-{number}"))?;
    let rules = "add table inet t; add chain inet t c { type filter hook input priority 0; }; \
                 add rule inet t c ct state new counter";
    namespace.run(&["nft", rules])?;
    namespace.enter(|| -> Result<u16> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        let port = FIRST_PORT + u16::try_from(number)?;
        socket.bind(&SocketAddr::new(NOBODY.ip(), port).into())?;
        let refused = socket.connect(&NOBODY.into());
        match refused {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(port),
            other => bail!("connecting where nobody listens: {other:?}"),
        }
    })?
}
