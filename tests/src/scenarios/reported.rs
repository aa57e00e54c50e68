//! Checks what a report has about one flow among others.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::Value;

use super::connection::Connection;
use crate::expect::Expect;
use crate::netns::Namespace;

/// A connection as the gateway knows it.
#[derive(Debug, Clone)]
pub(super) struct Who {
    pub(super) client: SocketAddr,
    /// The client as the server sees it; the same where it is not translated.
    pub(super) nat: SocketAddr,
    pub(super) server: SocketAddr,
    /// The server as the client knows it; the same where it is not translated.
    pub(super) service: SocketAddr,
    /// Inode number of the gateway's namespace.
    pub(super) netns: u64,
}

/// What happened to it, proven.
#[derive(Debug, Clone, Copy)]
pub(super) struct What {
    pub(super) cause: &'static str,
    pub(super) reason: Option<&'static str>,
    pub(super) by: &'static str,
    pub(super) invalid: u64,
    /// What the RST does to the end that it was sent to.
    pub(super) effect: &'static str,
}

/// One segment was too far ahead, and the gateway's stack answered it.
pub(super) const SEQ_OVER: What =
    What { cause: "out-of-window", reason: Some("seq-over"), by: "gateway-stack", invalid: 1, effect: "kills" };
/// A process deleted the entry; the gateway's stack answered the next segment.
pub(super) const DELETED: What =
    What { cause: "no-entry", reason: Some("deleted"), by: "gateway-stack", invalid: 0, effect: "kills" };
/// A rule rejected one segment.
pub(super) const REJECTED: What =
    What { cause: "reject-rule", reason: None, by: "gateway-reject-rule", invalid: 0, effect: "kills" };
/// A segment was exempted from tracking; the gateway's stack answered it. Without an entry nothing is known of what the
/// server expects.
pub(super) const NOT_TRACKED: What =
    What { cause: "not-tracked", reason: None, by: "gateway-stack", invalid: 0, effect: "unknown" };
/// A SYN to a closed port.
pub(super) const NO_LISTENER: What =
    What { cause: "no-listener", reason: None, by: "gateway-stack", invalid: 0, effect: "kills" };

impl Who {
    /// A connection through this gateway.
    pub(super) fn of(connection: &Connection, gateway: &Namespace) -> Result<Self> {
        Ok(Self {
            client: connection.client_address,
            nat: connection.nat_address,
            server: connection.server_address,
            service: connection.service_address,
            netns: gateway.inode()?,
        })
    }

    /// One that is not translated.
    pub(super) const fn direct(client: SocketAddr, server: SocketAddr, netns: u64) -> Self {
        Self { client, nat: client, server, service: server, netns }
    }

    /// Checks that the report names it exactly once, with what happened to it.
    pub(super) fn is_reported(&self, expect: &mut Expect, report: &Value, what: &What) {
        let (client, server) = (self.client.to_string(), self.server.to_string());
        let same = |flow: &&Value| flow["client"] == client && flow["server"] == server && flow["netns"] == self.netns;
        let flows: Vec<&Value> = report["flows"].as_array().into_iter().flatten().filter(same).collect();
        let [flow] = flows[..] else {
            expect.that(false, || format!("{client} → {server} in {} is named {} times", self.netns, flows.len()));
            return;
        };
        let translated =
            |to: SocketAddr, from: SocketAddr| if to == from { Value::Null } else { to.to_string().into() };
        let known: [(&str, Value); 10] = [
            ("nat", translated(self.nat, self.client)),
            ("service", translated(self.service, self.server)),
            ("cause", what.cause.into()),
            ("reason", what.reason.into()),
            ("reset_by", what.by.into()),
            ("reset_effect", what.effect.into()),
            ("confidence", "proven".into()),
            ("invalid_packets", what.invalid.into()),
            ("ignored_packets", 0.into()),
            ("resets", 1.into()),
        ];
        for (field, value) in known {
            expect.that(flow[field] == value, || format!("{client}: {field} is {}, expected {value}", flow[field]));
        }
    }
}

/// Checks that the report has this many flows, each reset by the gateway.
pub(super) fn flows(expect: &mut Expect, report: &Value, named: usize) {
    let found = report["flows"].as_array().map_or(0, Vec::len);
    expect.that(found == named, || format!("{found} flows are named, expected {named}"));
    expect.is(report, "/summary/flows_reset", named);
    expect.is(report, "/summary/resets_sent", named);
    expect.is(report, "/capture/events_lost", 0);
}
